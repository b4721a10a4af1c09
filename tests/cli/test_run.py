"""``edgekit run``: what it writes, what it prints, its exit codes."""

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
def fake_run(
    monkeypatch: pytest.MonkeyPatch,
    sample: Callable[..., Report],
    tmp_path: pathlib.Path,
) -> Callable[..., Seen]:
    """Replace the pipeline: it returns a report with any verdict, and records its arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "edgekit.planning.plan.plan.__defaults__", (lambda module: True,)
    )

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
    ("verdict", "code"),
    [("pass", 0), ("fail", 1), ("inconclusive", 3), ("unmeasured", 3)],
)
def test_the_verdict_is_the_exit_code(
    fake_run: Callable[..., Seen], verdict: str, code: int
) -> None:
    """0 pass, 1 fail, 3 inconclusive or unmeasured."""
    fake_run(verdict=verdict)
    done = run()
    assert done.exit_code == code
    assert f"Verdict: {verdict}" in done.stdout


def test_the_report_is_written_in_all_formats(
    fake_run: Callable[..., Seen], sample: Callable[..., Report]
) -> None:
    """report.json, .md and .html are in runs/<recipe> with the same permissions.

    No temporary file remains.
    """
    fake_run()
    done = run()
    folder = pathlib.Path("runs/digits")
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in folder.glob("report.*")
    }
    assert len(modes) == 1
    assert (
        (folder / "report.html")
        .read_text(encoding="utf-8")
        .startswith("<!DOCTYPE html>")
    )
    assert sample().targets[0].title in (folder / "report.md").read_text(
        encoding="utf-8"
    )
    assert "cpu-onnx" in done.stdout
    assert done.stderr.splitlines()[0] == "start: train"
    assert done.stderr.splitlines()[1].startswith("done: train (")
    assert done.stderr.splitlines()[1].endswith(" cached")
    assert (
        f"Written to {folder}: report.json, report.md, report.html; "
        f"files to ship in cpu-onnx{os.sep}, " in done.stderr
    )


def test_options_reach_the_work(
    fake_run: Callable[..., Seen], tmp_path: pathlib.Path
) -> None:
    """--out, --cache, --fresh, --target and --set reach the pipeline."""
    seen = fake_run()
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


def test_the_cache_is_the_users_own_unless_named(
    fake_run: Callable[..., Seen],
) -> None:
    """Without --cache the default is used, and measurements are not repeated."""
    seen = fake_run()
    run()
    assert seen[0][1].cache == cache.default_root()
    assert not seen[0][1].fresh


def test_json_is_the_report_itself(
    fake_run: Callable[..., Seen], sample: Callable[..., Report]
) -> None:
    """--json prints the content of report.json, and nothing else on stdout."""
    fake_run()
    assert run("--json").stdout == sample().to_json()


def test_a_plan_with_problems_is_refused_before_any_work(
    fake_run: Callable[..., Seen],
) -> None:
    """Nothing is written and nothing is run if something is missing."""
    seen = fake_run()
    done = CliRunner().invoke(main, ["run", "int8", "--out", "out"])
    assert done.exit_code == 1
    assert "the recipe names no network" in done.stderr
    assert seen == []
    assert not pathlib.Path("out").exists()


def test_a_folder_that_is_a_file_is_a_usage_error(
    fake_run: Callable[..., Seen],
) -> None:
    """--out must be a folder."""
    fake_run()
    pathlib.Path("file").write_text("")
    assert run("--out", "file").exit_code == 2


def test_a_report_that_cannot_be_written_is_a_message(
    fake_run: Callable[..., Seen],
) -> None:
    """If a folder has the report's name; no temporary file remains."""
    fake_run()
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
    """A small network is trained, exported, verified and timed; ``report`` prints the same."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(
        "model: zoo:cnn\ntask: digits\ncompress: [{train: {epochs: 1}}]\n"
        "targets: [cpu-onnx]\ngates: {accuracy_drop: 0.02, speedup: 0.01}\n"
    )
    done = CliRunner().invoke(main, ["run", "small.yaml"])
    assert done.exit_code == 0, done.output
    assert "start: train" in done.stderr.splitlines()
    report = json.loads(
        (tmp_path / "runs/small/report.json").read_text(encoding="utf-8")
    )
    assert report["targets"][0]["winner"] == "float"
    assert (tmp_path / "runs/small/cpu-onnx").is_dir()
    again = CliRunner().invoke(main, ["report", "runs/small"])
    assert again.stdout == done.stdout


def test_output_of_user_code_is_not_in_the_report(
    fake_run: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that prints in forward() does so on stderr, so --json prints only JSON."""
    fake_run()
    work = importlib.import_module("edgekit.pipeline.run").run

    def chatty(plan: Plan, options: Options) -> Report:
        print("forward was called")
        report: Report = work(plan, options)
        return report

    monkeypatch.setattr("edgekit.pipeline.run.run", chatty)
    done = run("--json")
    assert json.loads(done.stdout)["schema"] == 2
    assert "forward was called" in done.stderr
