"""Carrying out planned steps: each once, in order, under one contract, with keys that
change when anything they stand for does.
"""

import pathlib

import pytest

from edgekit import registry
from edgekit.cache import Cache
from edgekit.errors import MissingBackend, StepError
from edgekit.formats.record import Implementation
from edgekit.pipeline.build import Build, follow_candidate, versions
from edgekit.pipeline.code_identity import code_digest
from edgekit.planning.routes import PlannedStep
from edgekit.progress import Silent
from edgekit.registry import Registry
from edgekit.task import Task
from edgekit.testing import FakeStep, tiny_task

MODEL = "net.py:model"
NET = "import torch\n\n\ndef model():\n    torch.manual_seed(0)\n    return torch.nn.Linear(8, 3)\n"
LOAD = PlannedStep("load", "load_model", {"model": MODEL, "weights": None})


class Told(Silent):
    """Remembers what was started and how it ended."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, name: str) -> None:
        self.lines.append(name)

    def finish(self, note: str = "") -> None:
        self.lines[-1] += f" {note}".rstrip()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """The registry's steps, replaced by fakes beside the real load_model; the user's file
    in the working folder.
    """
    fakes = {
        "load_model": registry.STEPS.entry("load_model"),
        "mark": Implementation("edgekit.testing:FakeStep"),
        "gone": Implementation("edgekit_nowhere:Step", extra="prune"),
    }
    monkeypatch.setattr(registry, "STEPS", Registry("step", fakes))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)


def build(
    tmp_path: pathlib.Path, task: Task | None = None, seed: int = 0
) -> tuple[Build, Told]:
    told = Told()
    return Build(
        task or tiny_task(), Cache(tmp_path / "cache"), told, seed
    ), told


def mark(text: str, **settings: str) -> PlannedStep:
    return PlannedStep(text, "mark", {"mark": text, **settings})


def test_steps_are_done_in_order_and_only_once(
    steps: None, tmp_path: pathlib.Path
) -> None:
    """A second run of the same steps takes all of them from the cache."""
    way = [LOAD, mark("one"), mark("two")]
    first, _ = build(tmp_path)
    made = first.follow(MODEL, None, way)
    assert [artifact.notes.get("mark") for artifact in made] == [
        None,
        "one",
        "two",
    ]
    assert made[2].parent == made[1].key
    again, told = build(tmp_path)
    assert again.follow(MODEL, None, way) == made
    assert told.lines == ["load cached", "one cached", "two cached"]


def test_what_a_step_stands_for_changes_its_key(
    steps: None, tmp_path: pathlib.Path
) -> None:
    """Another parameter, another parent, another seed, another user's file: another entry."""
    keys = set()
    for way, seed in (
        ([LOAD, mark("a")], 0),
        ([LOAD, mark("b")], 0),
        ([LOAD, mark("b"), mark("a")], 0),
        ([LOAD, mark("a")], 1),
    ):
        keys.add(build(tmp_path, seed=seed)[0].follow(MODEL, None, way)[-1].key)
    (tmp_path / "net.py").write_text(
        NET.replace("manual_seed(0)", "manual_seed(7)")
    )
    keys.add(build(tmp_path)[0].follow(MODEL, None, [LOAD, mark("a")])[-1].key)
    assert len(keys) == 5


def test_changed_code_changes_the_key(
    steps: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose module, or anything it imports, was modified does its work again."""
    before = build(tmp_path)[0].follow(MODEL, None, [LOAD, mark("a")])
    monkeypatch.setattr(
        "edgekit.pipeline.build.code_digest",
        lambda module: (
            f"modified {module}"
            if module == "edgekit.testing"
            else code_digest(module)
        ),
    )
    after = build(tmp_path)[0].follow(MODEL, None, [LOAD, mark("a")])
    assert after[0].key == before[0].key
    assert after[1].key != before[1].key


def test_only_the_data_that_a_step_reads_change_its_key(
    steps: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other calibration data make a calibrating step do its work again, and leave a step
    that reads none alone.
    """
    task = tiny_task()
    train, test = task.split("train"), task.split("test")
    assert train is not None
    other = Task(
        "tiny", train=train, test=test, calibration=train.take(20).inputs
    )
    silent = [
        build(tmp_path, data)[0].follow(MODEL, None, [LOAD, mark("a")])[-1].key
        for data in (task, other)
    ]
    assert silent[0] == silent[1]
    monkeypatch.setattr(FakeStep, "reads", ("calibration",))
    # Another cache: facts of a class are cached until its code changes.
    reading = [
        build(tmp_path / "reading", data)[0]
        .follow(MODEL, None, [LOAD, mark("a")])[-1]
        .key
        for data in (task, other)
    ]
    assert reading[0] != reading[1]


def test_a_step_that_refuses_does_no_work(
    steps: None, tmp_path: pathlib.Path
) -> None:
    """`requires` speaks before anything is written."""
    builder, _ = build(tmp_path)
    with pytest.raises(StepError, match="too odd"):
        builder.follow(MODEL, None, [LOAD, mark("a", refuses="too odd")])
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_a_broken_promise_leaves_no_entry(
    steps: None, tmp_path: pathlib.Path
) -> None:
    """`ensures` is checked before the entry is sealed, so that a wrong artifact is never
    found again.
    """
    builder, told = build(tmp_path)
    for _ in range(2):
        with pytest.raises(StepError, match="pruned nothing"):
            builder.follow(
                MODEL, None, [LOAD, mark("a", breaks="pruned nothing")]
            )
    assert "a cached" not in told.lines


def test_a_wrong_form_is_the_plans_fault(
    steps: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is not given a format that it does not take."""
    monkeypatch.setattr(FakeStep, "takes", ("onnx",))
    with pytest.raises(StepError, match="accepts onnx, not torch"):
        build(tmp_path)[0].follow(MODEL, None, [LOAD, mark("a")])


def test_a_wrong_result_form_is_the_steps_fault(
    steps: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that promises one format and gives another is found out."""
    monkeypatch.setattr(
        FakeStep,
        "run",
        lambda self, artifact, context: artifact.model_copy(
            update={"format": "onnx"}
        ),
    )
    with pytest.raises(
        StepError, match="must produce the format torch, got onnx"
    ):
        build(tmp_path)[0].follow(MODEL, None, [LOAD, mark("a")])


def test_a_candidates_failure_is_reported_to_the_progress(
    steps: None, tmp_path: pathlib.Path
) -> None:
    """`follow_candidate` raises the error of a step after the progress has shown it."""
    builder, told = build(tmp_path)
    start = builder.follow(MODEL, None, [LOAD])[0]
    with pytest.raises(StepError, match="no"):
        follow_candidate(builder, MODEL, start, [mark("a", breaks="no")])
    assert told.lines[-1] == "a failed"
    with pytest.raises(MissingBackend, match=r"edgekit\[prune\]"):
        follow_candidate(builder, MODEL, start, [PlannedStep("gone", "gone")])


def test_a_damaged_entry_is_built_again(
    steps: None, tmp_path: pathlib.Path
) -> None:
    """A file that was changed in the cache is made anew, the same as before."""
    builder, _ = build(tmp_path)
    made = builder.follow(MODEL, None, [LOAD, mark("a")])[-1]
    path = made.path(made.parts[0], "weights")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    again = builder.follow(MODEL, None, [LOAD, mark("a")])[-1]
    assert again == made
    assert path.read_bytes() == whole


def test_versions_are_told_without_importing() -> None:
    """Installed packages have a version; the others are none."""
    found = versions(["numpy", "edgekit-nowhere"])
    assert found["numpy"][0].isdigit()
    assert found["edgekit-nowhere"] == "none"
