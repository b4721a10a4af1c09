"""``edgekit verify``: old and new side by side, exit codes, and the run's report told."""

import json
import pathlib
import shutil

import pytest
from click.testing import CliRunner

from edgekit import report
from edgekit.cli.main import main


@pytest.fixture
def results(shipped: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of a whole results folder."""
    return pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))


def test_a_whole_results_folder_is_verified_and_its_report_tells(results: pathlib.Path) -> None:
    """Both bundles pass here; report.json, Markdown and HTML then have a line for this host."""
    done = CliRunner().invoke(main, ["verify", str(results), "--no-times"])
    assert done.exit_code == 0, done.output
    assert "cpu-onnx (w8a8-static) on local" in done.output and "mobile-tflite (w8a8-static) on local" in done.output
    found = report.load(results)
    assert [[row.host for row in target.evidence] for target in found.targets] == [["local"], ["local"]]
    assert all("on other hosts" in (results / name).read_text() for name in ("report.md", "report.html"))


def test_json_has_a_list_for_each_bundle(results: pathlib.Path) -> None:
    """The evidence as JSON values."""
    done = CliRunner().invoke(main, ["verify", str(results / "cpu-onnx"), "--samples", "8", "--no-times", "--json"])
    rows = json.loads(done.stdout)["cpu-onnx"]
    assert (rows[0]["host"], rows[0]["verdict"], rows[0]["measurements"][0]["n"]) == ("local", "pass", 8)


def test_mistakes_end_with_1_and_a_way_out(results: pathlib.Path) -> None:
    """A folder without a bundle, a changed file, and an unknown host are told before anything runs."""
    (results / "cpu-onnx" / "verify.py").write_text("")
    for words, said in (
        (["verify", str(results / "nothing")], "holds no manifest.json"),
        (["verify", str(results / "cpu-onnx")], "verify.py has the hash"),
        (["verify", str(results / "mobile-tflite"), "--on", "locall"], "did you mean 'local'"),
    ):
        done = CliRunner().invoke(main, words)
        assert (done.exit_code, said in done.output) == (1, True), done.output


def test_a_host_that_fails_ends_with_3_and_the_others_are_told(results: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The good host's evidence is in the report although the other one did not answer."""
    (tmp_path / "dead.yaml").write_text("title: a host\nkind: local\nenvironments: {main: {python: [/bin/false]}}\n")
    done = CliRunner().invoke(main, ["verify", str(results / "cpu-onnx"), "--no-times", "--on", str(tmp_path / "dead.yaml"), "--on", "local"])
    assert done.exit_code == 3, done.output
    assert [row.host for row in report.load(results).targets[0].evidence] == ["local"]
