"""``edgekit verify``: shipped and new numbers, exit codes, and the run's report."""

import json
import pathlib
import shutil
import sys

import pytest
from click.testing import CliRunner

from edgekit import report
from edgekit.cli.main import main


@pytest.fixture
def results(shipped: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of a results folder."""
    return pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))


def test_a_results_folder_is_verified_and_its_report_updated(
    results: pathlib.Path,
) -> None:
    """Both bundles pass; report.json, Markdown and HTML then have a line for this host."""
    done = CliRunner().invoke(main, ["verify", str(results), "--no-times"])
    assert done.exit_code == 0, done.output
    assert (
        "cpu-onnx (w8a8-static) on local" in done.output
        and "mobile-tflite (w8a8-static) on local" in done.output
    )
    updated = report.load(results)
    assert [
        [row.host for row in target.evidence] for target in updated.targets
    ] == [
        ["local"],
        ["local"],
    ]
    assert all(
        "on other hosts" in (results / name).read_text()
        for name in ("report.md", "report.html")
    )


def test_json_has_a_list_for_each_bundle(results: pathlib.Path) -> None:
    """The evidence as JSON values."""
    done = CliRunner().invoke(
        main,
        [
            "verify",
            str(results / "cpu-onnx"),
            "--samples",
            "8",
            "--no-times",
            "--json",
        ],
    )
    rows = json.loads(done.stdout)["cpu-onnx"]
    assert (
        rows[0]["host"],
        rows[0]["verdict"],
        rows[0]["measurements"][0]["n"],
    ) == (
        "local",
        "pass",
        8,
    )


def test_errors_have_exit_code_1_and_a_message(results: pathlib.Path) -> None:
    """A folder without a bundle, a modified file, and an unknown host."""
    (results / "cpu-onnx" / "verify.py").write_text("")
    for words, message in (
        (["verify", str(results / "nothing")], "has no manifest.json"),
        (["verify", str(results / "cpu-onnx")], "verify.py has the hash"),
        (
            ["verify", str(results / "mobile-tflite"), "--on", "locall"],
            "Did you mean 'local'",
        ),
    ):
        done = CliRunner().invoke(main, words)
        assert (done.exit_code, message in done.output) == (1, True), (
            done.output
        )


def test_a_host_that_fails_does_not_hide_the_others(
    results: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Exit code 3; the evidence of the other host is in the report."""
    (tmp_path / "dead.yaml").write_text(
        "title: a host\nkind: local\nenvironments: {main: {python: [/bin/false]}}\n"
    )
    done = CliRunner().invoke(
        main,
        [
            "verify",
            str(results / "cpu-onnx"),
            "--no-times",
            "--on",
            str(tmp_path / "dead.yaml"),
            "--on",
            "local",
        ],
    )
    assert done.exit_code == 3, done.output
    assert [row.host for row in report.load(results).targets[0].evidence] == [
        "local"
    ]


def test_an_invalid_bundle_does_not_hide_the_others(
    results: pathlib.Path,
) -> None:
    """It has its own line; the others are verified, and their report is updated."""
    (results / "cpu-onnx" / "verify.py").write_text("")
    done = CliRunner().invoke(main, ["verify", str(results), "--no-times"])
    assert (
        done.exit_code == 3
        and "verify.py has the hash" in done.output
        and "mobile-tflite (w8a8-static) on local  pass" in done.output
    ), done.output
    assert [
        [row.host for row in target.evidence]
        for target in report.load(results).targets
    ] == [[], ["local"]]


def test_a_file_that_fails_here_fails_the_report(
    results: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failing evidence is the verdict of the target and of the run.

    Also if the command runs in the bundle's folder.
    """
    evidence_of(results / "cpu-onnx", "fail")
    monkeypatch.chdir(results / "cpu-onnx")
    done = CliRunner().invoke(main, ["verify", ".", "--no-times"])
    assert done.exit_code == 0, done.output
    updated = report.load(results)
    verdicts = [target.verdict for target in updated.targets]
    assert (updated.verdict, *verdicts) == (
        "fail",
        "fail",
        "pass",
    )
    assert "**fail**" in (results / "report.md").read_text()


def evidence_of(folder: pathlib.Path, verdict: str) -> None:
    """Write the evidence of another host with this verdict."""
    done = CliRunner().invoke(main, ["verify", str(folder), "--no-times"])
    assert done.exit_code == 0
    path = next((folder / "evidence").iterdir())
    (folder / "evidence" / "other.json").write_text(
        json.dumps(
            {
                **json.loads(path.read_text()),
                "host": "other",
                "verdict": verdict,
            }
        )
    )


def test_hosts_of_two_paths_are_two_hosts(
    results: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without a runtime for the bundle leaves it unmeasured, although another host
    in the same folder verifies it.
    """
    monkeypatch.chdir(results)
    runtimes = ("onnxruntime", "ai_edge_litert", "tflite_runtime")
    hide = f"sys.modules.update(dict.fromkeys({runtimes}))"
    blind = f"import sys; {hide}; exec(sys.argv.pop())"
    (results / "blind").write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -c "{blind}" "$3"\n'
    )
    (results / "blind").chmod(0o755)
    for name, python in (
        ("good", sys.executable),
        ("blind", str(results / "blind")),
    ):
        (results / f"{name}.yaml").write_text(
            f"title: a host\nkind: local\nenvironments: {{main: {{python: [{python}]}}}}\n"
        )
    words = [
        "verify",
        "cpu-onnx",
        "--no-times",
        "--samples",
        "8",
        "--on",
        "./good.yaml",
        "--on",
        "./blind.yaml",
    ]
    assert CliRunner().invoke(main, words).exit_code == 3
