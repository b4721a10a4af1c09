"""A whole run from Python: the shared steps once, every target raced, the report written
last.
"""

import pathlib
import sys

import pytest

from edgekit import catalog, recipe, report, target
from edgekit.errors import PlanError, TaskError
from edgekit.pipeline.run import Options, run
from edgekit.planning import plan
from edgekit.progress import Silent

SETTINGS = {
    "name": "small",
    "model": "zoo:cnn",
    "task": "digits",
    "compress": [
        {"train": {"epochs": 2}},
        {"prune": {"ratio": 0.3}},
        {"finetune": {"epochs": 1}},
        {"quantize": {"samples": 64}},
    ],
    "gates": {"accuracy_drop": 0.9, "speedup": 0.01},
}


class Told(Silent):
    """Remembers what was started."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, name: str) -> None:
        self.started.append(name)


def planned(*targets: str) -> plan.Plan:
    wanted = recipe.Recipe.model_validate({**SETTINGS, "targets": targets})
    return plan.plan(
        wanted,
        plan.targets_of(
            wanted, lambda name: target.load(catalog.find("targets", name))
        ),
    )


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[report.Report, pathlib.Path, Told]:
    """One run of a small recipe on two targets that share their torch side."""
    folder, told = tmp_path_factory.mktemp("run"), Told()
    return (
        run(
            planned("cpu-onnx", "rtx-tensorrt"),
            Options(folder / "out", folder / "cache", told),
        ),
        folder,
        told,
    )


def test_the_report_that_is_given_is_the_one_that_is_written(
    ran: tuple[report.Report, pathlib.Path, Told],
) -> None:
    """report.json holds exactly what run() gives."""
    given, folder, _ = ran
    assert report.load(folder / "out") == given
    assert given.recipe["model"] == "zoo:cnn"
    assert given.environment["packages"]["torch"] != "none"


def test_each_stage_tells_its_accuracy_and_pruning_what_it_removed(
    ran: tuple[report.Report, pathlib.Path, Told],
) -> None:
    """Every shared step has a row with the accuracy of its network; prune's notes hold
    sizes before and after.
    """
    stages = {row.name: row for row in ran[0].stages}
    assert list(stages) == ["load", "train", "prune", "finetune"]
    assert all(
        row.measurements[0].name == "accuracy" for row in stages.values()
    )
    before, after = stages["prune"].notes["parts"]["main"]["parameters"]
    assert after < before


def test_the_shared_steps_are_done_once_for_all_targets(
    ran: tuple[report.Report, pathlib.Path, Told],
) -> None:
    """Two targets, one training."""
    assert [
        ran[2].started.count(name)
        for name in ("load", "train", "prune", "finetune")
    ] == [1, 1, 1, 1]


def test_the_reference_is_the_network_before_pruning(
    ran: tuple[report.Report, pathlib.Path, Told],
) -> None:
    """Speed, size and accuracy are compared with the float file of the unpruned network,
    which is larger than the pruned float file.
    """
    for row in ran[0].targets:
        pruned = row.candidate("float")
        assert row.reference is not None and row.reference.artifact is not None
        assert pruned is not None and pruned.artifact is not None
        assert row.reference.artifact.bytes > pruned.artifact.bytes


def hosted(
    folder: pathlib.Path, python: str, **changes: object
) -> target.Target:
    """cpu-onnx on a host of the user, whose Python is ``python``."""
    (folder / "board.yaml").write_text(
        f"title: a board\nkind: local\ntimeout_s: 30\nenvironments: "
        f"{{main: {{python: [{python}]}}}}\n"
    )
    changed = {
        "name": "board",
        "host": str(folder / "board.yaml"),
        "schemes": ("w8a8-static", "float"),
        **changes,
    }
    return target.load(catalog.find("targets", "cpu-onnx")).model_copy(
        update=changed
    )


def test_a_host_that_fails_costs_its_own_target_and_the_same_command_goes_on(
    ran: tuple[report.Report, pathlib.Path, Told], tmp_path: pathlib.Path
) -> None:
    """Dead, then noisy: unmeasured with the reason, the other target raced as ever.

    When the host is mended the same plan measures it.
    """
    cache = ran[1] / "cache"
    wanted = recipe.Recipe.model_validate({**SETTINGS, "targets": ["cpu-onnx"]})
    here = target.load(catalog.find("targets", "cpu-onnx"))
    for python, verdict in (
        ("/bin/false", "unmeasured"),
        ("/bin/echo", "unmeasured"),
        (sys.executable, "pass"),
    ):
        found = run(
            plan.plan(wanted, [hosted(tmp_path, python), here]),
            Options(tmp_path / "out", cache),
        )
        assert [row.verdict for row in found.targets] == [verdict, "pass"], (
            found.targets[0].chosen
        )
        assert found.verdict == verdict
        assert verdict == "pass" or "board" in found.targets[0].chosen
        assert (tmp_path / "out" / "board").is_dir() == (verdict == "pass")


def test_another_host_that_fails_leaves_the_verdict_open_and_one_that_disagrees_fails_it(
    ran: tuple[report.Report, pathlib.Path, Told], tmp_path: pathlib.Path
) -> None:
    """``also_on`` a dead host is a line; what is asked again is only what is not known."""
    hosted(tmp_path, "/bin/false")
    asked = (
        planned("cpu-onnx")
        .targets[0]
        .target.model_copy(update={"also_on": (str(tmp_path / "board.yaml"),)})
    )
    wanted = recipe.Recipe.model_validate({**SETTINGS, "targets": ["cpu-onnx"]})
    for python, verdict in (
        ("/bin/false", "unmeasured"),
        (sys.executable, "pass"),
    ):
        hosted(tmp_path, python)
        (row,) = run(
            plan.plan(wanted, [asked]),
            Options(tmp_path / "out", ran[1] / "cache"),
        ).targets
        assert [evidence.verdict for evidence in row.evidence] == [
            verdict
        ] and row.verdict == "pass"
    kept = next((tmp_path / "out" / "cpu-onnx" / "evidence").iterdir())
    kept.write_text(
        kept.read_text().replace('"verdict": "pass"', '"verdict": "fail"')
    )
    hosted(tmp_path, "/bin/false")
    (row,) = run(
        plan.plan(wanted, [asked]), Options(tmp_path / "out", ran[1] / "cache")
    ).targets
    assert row.verdict == "fail"


def test_the_files_of_every_winner_are_shipped(
    ran: tuple[report.Report, pathlib.Path, Told],
) -> None:
    """Each winner's entry has paths, and the files are there."""
    given, folder, _ = ran
    for row in given.targets:
        winner = row.candidate(row.winner)
        assert winner is not None and winner.artifact is not None
        for file in winner.artifact.files:
            assert file.path is not None
            assert (folder / "out" / file.path).stat().st_size == file.bytes


def test_an_impossible_plan_is_refused_before_any_work(
    tmp_path: pathlib.Path,
) -> None:
    """A plan with problems raises, and neither cache nor results are touched."""
    wanted = recipe.Recipe.model_validate(
        {**SETTINGS, "model": None, "targets": ["cpu-onnx"]}
    )
    with pytest.raises(PlanError, match="names no network"):
        run(
            plan.plan(
                wanted, [target.load(catalog.find("targets", "cpu-onnx"))]
            ),
            Options(tmp_path / "out", tmp_path / "cache"),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_does_not_fit_is_told_before_any_training(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that the metric cannot score stop the run after the network was loaded, and
    nothing was trained.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.py").write_text(
        "import edgekit\nfrom edgekit.testing import tiny_images\n\n\ndef task():\n    "
        "t = tiny_images()\n    test = t.split('test')\n"
        "    return edgekit.Task('odd', train=t.split('train'), test=(test.inputs, "
        "test.labels + 7))\n"
    )
    (tmp_path / "net.py").write_text(
        "from edgekit.testing import tiny_convolution\n\n\ndef model():\n    return "
        "tiny_convolution()\n"
    )
    changed = {
        **SETTINGS,
        "model": "net.py:model",
        "task": "data.py:task",
        "targets": ["cpu-onnx"],
    }
    told = Told()
    wanted = recipe.Recipe.model_validate(changed)
    with pytest.raises(TaskError, match="label"):
        run(
            plan.plan(
                wanted, [target.load(catalog.find("targets", "cpu-onnx"))]
            ),
            Options(tmp_path / "out", tmp_path / "cache", told),
        )
    assert told.started == ["load"]
    assert not (tmp_path / "out" / "report.json").exists()
