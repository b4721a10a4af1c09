"""``edgekit run``: what it writes, what it prints, how it ends."""

import importlib
import json
import os
import pathlib
import stat
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from edgekit import cache
from edgekit.bundles.shipping import write_report
from edgekit.cli.main import main
from edgekit.pipeline.run import Options
from edgekit.planning.plan import Plan
from edgekit.report import Report

Seen = list[tuple[Plan, Options]]


@pytest.fixture
def answers(
    monkeypatch: pytest.MonkeyPatch, sample: Callable[..., Report], tmp_path: pathlib.Path
) -> Callable[..., Seen]:
    """Lets the work end with a given report, so that every verdict can be tried; what it
    was asked is kept.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgekit.planning.plan.plan.__defaults__", (lambda module: True,))

    def put(**changes: str) -> Seen:
        seen: Seen = []

        def work(plan: Plan, options: Options) -> Report:
            seen.append((plan, options))
            report = sample(**changes)
            options.progress.start("train")
            options.progress.finish("cached")
            write_report(report, options.out)
            return report

        monkeypatch.setattr("edgekit.pipeline.run.run", work)
        return seen

    return put


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["run", "digits", *words])


@pytest.mark.parametrize(
    ("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 3), ("unmeasured", 3)]
)
def test_the_verdict_is_the_exit_code(
    answers: Callable[..., Seen], verdict: str, code: int
) -> None:
    """0 pass, 1 a gate failed, 3 undecided or unmeasured."""
    answers(verdict=verdict)
    done = run()
    assert done.exit_code == code
    assert f"Verdict: {verdict}" in done.stdout


def test_the_report_is_written_beside_its_json_and_told(
    answers: Callable[..., Seen], sample: Callable[..., Report]
) -> None:
    """report.json, .md and .html lie in runs/<recipe>, readable as any file, and no
    temporary file is left.
    """
    answers()
    done = run()
    folder = pathlib.Path("runs/digits")
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("report.*")}
    assert len(modes) == 1
    assert (
        (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    )
    assert sample().targets[0].title in (folder / "report.md").read_text(encoding="utf-8")
    assert "cpu-onnx" in done.stdout
    assert done.stderr.splitlines()[0] == "start: train"
    assert done.stderr.splitlines()[1].startswith("done: train (")
    assert done.stderr.splitlines()[1].endswith(" cached")
    assert (
        f"Written to {folder}: report.json, report.md, report.html; files to ship in cpu-onnx{os.sep}, "
        in done.stderr
    )


def test_options_reach_the_work(
    answers: Callable[..., Seen], tmp_path: pathlib.Path
) -> None:
    """--out, --cache, --fresh, --target and --set arrive where they belong."""
    seen = answers()
    run(
        "--out",
        "there",
        "--cache",
        str(tmp_path / "cache"),
        "--fresh",
        "--target",
        "cpu-onnx",
        "--set",
        "train.epochs=2",
    )
    plan, options = seen[0]
    assert (options.out, options.cache, options.fresh) == (
        pathlib.Path("there"),
        tmp_path / "cache",
        True,
    )
    assert [row.target.name for row in plan.targets] == ["cpu-onnx"]
    assert plan.shared[1].parameters["epochs"] == 2
    assert pathlib.Path("there/report.md").is_file()


def test_the_cache_is_the_users_own_unless_named(answers: Callable[..., Seen]) -> None:
    """Without --cache the default is taken, and nothing is fresh."""
    seen = answers()
    run()
    assert seen[0][1].cache == cache.default_root()
    assert not seen[0][1].fresh


def test_json_is_the_report_itself(
    answers: Callable[..., Seen], sample: Callable[..., Report]
) -> None:
    """--json prints what report.json holds, and nothing else on stdout."""
    answers()
    assert run("--json").stdout == sample().to_json()


def test_a_plan_with_problems_is_refused_before_any_work(
    answers: Callable[..., Seen],
) -> None:
    """Nothing is written and nothing is run where something is missing."""
    seen = answers()
    done = CliRunner().invoke(main, ["run", "int8", "--out", "out"])
    assert done.exit_code == 1
    assert "the recipe names no network" in done.stderr
    assert seen == []
    assert not pathlib.Path("out").exists()


def test_a_folder_that_is_a_file_is_a_usage_error(answers: Callable[..., Seen]) -> None:
    """--out names a folder."""
    answers()
    pathlib.Path("file").write_text("")
    assert run("--out", "file").exit_code == 2


def test_a_report_that_cannot_be_written_is_a_message(answers: Callable[..., Seen]) -> None:
    """A folder in the report's place is told with the way out, and leaves no temporary
    file.
    """
    answers()
    pathlib.Path("out/report.md").mkdir(parents=True)
    done = run("--out", "out")
    assert done.exit_code == 1
    assert "Cannot write " in done.stderr and "report.md" in done.stderr
    assert "--out" in done.stderr
    assert sorted(path.name for path in pathlib.Path("out").iterdir()) == [
        "report.json",
        "report.md",
    ]


def test_a_real_run_ends_with_a_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A small network is trained, exported, verified and timed for real: one target passes,
    and `report` draws it again.
    """
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(
        "model: zoo:cnn\ntask: digits\ncompress: [{train: {epochs: 1}}]\ntargets: [cpu-onnx]\ngates: {accuracy_drop: 0.02, speedup: 0.01}\n"
    )
    done = CliRunner().invoke(main, ["run", "small.yaml"])
    assert done.exit_code == 0, done.output
    assert "start: train" in done.stderr.splitlines()
    report = json.loads((tmp_path / "runs/small/report.json").read_text(encoding="utf-8"))
    assert report["targets"][0]["winner"] == "float"
    assert (tmp_path / "runs/small/cpu-onnx").is_dir()
    again = CliRunner().invoke(main, ["report", "runs/small"])
    assert again.stdout == done.stdout


def test_what_a_users_file_prints_is_not_in_the_report(
    answers: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that prints in forward() leaves --json JSON; its words are on stderr."""
    answers()
    work = importlib.import_module("edgekit.pipeline.run").run

    def chatty(plan: Plan, options: Options) -> Report:
        print("forward was called")
        report: Report = work(plan, options)
        return report

    monkeypatch.setattr("edgekit.pipeline.run.run", chatty)
    done = run("--json")
    assert json.loads(done.stdout)["schema"] == 2
    assert "forward was called" in done.stderr
