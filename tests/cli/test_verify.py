"""``edgekit verify``: old and new side by side, exit codes, and the run's report told."""

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
    """A copy of a whole results folder."""
    return pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))


def test_a_whole_results_folder_is_verified_and_its_report_tells(
    results: pathlib.Path,
) -> None:
    """Both bundles pass here; report.json, Markdown and HTML then have a line for this
    host.
    """
    done = CliRunner().invoke(main, ["verify", str(results), "--no-times"])
    assert done.exit_code == 0, done.output
    assert (
        "cpu-onnx (w8a8-static) on local" in done.output
        and "mobile-tflite (w8a8-static) on local" in done.output
    )
    found = report.load(results)
    assert [[row.host for row in target.evidence] for target in found.targets] == [
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
        ["verify", str(results / "cpu-onnx"), "--samples", "8", "--no-times", "--json"],
    )
    rows = json.loads(done.stdout)["cpu-onnx"]
    assert (rows[0]["host"], rows[0]["verdict"], rows[0]["measurements"][0]["n"]) == (
        "local",
        "pass",
        8,
    )


def test_mistakes_end_with_1_and_a_way_out(results: pathlib.Path) -> None:
    """A folder without a bundle, a changed file, and an unknown host are told before
    anything runs.
    """
    (results / "cpu-onnx" / "verify.py").write_text("")
    for words, said in (
        (["verify", str(results / "nothing")], "holds no manifest.json"),
        (["verify", str(results / "cpu-onnx")], "verify.py has the hash"),
        (
            ["verify", str(results / "mobile-tflite"), "--on", "locall"],
            "Did you mean 'local'",
        ),
    ):
        done = CliRunner().invoke(main, words)
        assert (done.exit_code, said in done.output) == (1, True), done.output


def test_a_host_that_fails_ends_with_3_and_the_others_are_told(
    results: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The good host's evidence is in the report although the other one did not answer."""
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
    assert [row.host for row in report.load(results).targets[0].evidence] == ["local"]


def test_one_bundle_that_is_not_whole_hides_no_other(results: pathlib.Path) -> None:
    """It is a line of its own; the others are verified, and their report is told."""
    (results / "cpu-onnx" / "verify.py").write_text("")
    done = CliRunner().invoke(main, ["verify", str(results), "--no-times"])
    assert (
        done.exit_code == 3
        and "verify.py has the hash" in done.output
        and "mobile-tflite (w8a8-static) on local  pass" in done.output
    ), done.output
    assert [
        [row.host for row in target.evidence] for target in report.load(results).targets
    ] == [[], ["local"]]


def test_a_file_that_fails_here_fails_the_report(
    results: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence that says fail is the target's and the run's verdict at once, from inside
    the bundle's folder too.
    """
    evidence_of(results / "cpu-onnx", "fail")
    monkeypatch.chdir(results / "cpu-onnx")
    done = CliRunner().invoke(main, ["verify", ".", "--no-times"])
    assert done.exit_code == 0, done.output
    found = report.load(results)
    assert (found.verdict, found.targets[0].verdict, found.targets[1].verdict) == (
        "fail",
        "fail",
        "pass",
    )
    assert "**fail**" in (results / "report.md").read_text()


def evidence_of(folder: pathlib.Path, verdict: str) -> None:
    """Evidence of another host with this verdict."""
    done = CliRunner().invoke(main, ["verify", str(folder), "--no-times"])
    assert done.exit_code == 0
    path = next((folder / "evidence").iterdir())
    (folder / "evidence" / "other.json").write_text(
        json.dumps({**json.loads(path.read_text()), "host": "other", "verdict": verdict})
    )


def test_hosts_of_two_paths_are_two_hosts(
    results: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without a runtime for the bundle leaves it open, although another host file
    beside it answers.
    """
    monkeypatch.chdir(results)
    blind = "import sys; sys.modules.update(dict.fromkeys(('onnxruntime', 'ai_edge_litert', 'tflite_runtime'))); exec(sys.argv.pop())"
    (results / "blind").write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -c "{blind}" "$3"\n'
    )
    (results / "blind").chmod(0o755)
    for name, python in (("good", sys.executable), ("blind", str(results / "blind"))):
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
