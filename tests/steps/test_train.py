"""Training on the task's data."""

import pathlib

import numpy
import pytest
import torch

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError, TaskError
from edgekit.sources.cnn import plain_cnn
from edgekit.steps import torch_storage
from edgekit.steps.load_model import LoadModel
from edgekit.steps.train import Train
from edgekit.task import Task
from edgekit.tasks.digits import digits

TASK = digits()


def context(folder: pathlib.Path, task: Task = TASK) -> Context:
    """What a step is handed, with an empty folder."""
    folder.mkdir()
    return Context(
        folder=folder, networks=lambda: {"main": plain_cnn(1, 10)}, task=task
    )


def accuracy(artifact: Artifact) -> float:
    """The share of right predictions on the test data."""
    test = TASK.need("test", "a test")
    network = torch_storage.load(artifact, {"main": plain_cnn(1, 10)})["main"]
    with torch.no_grad():
        predicted = (
            network(torch.from_numpy(test.inputs["input"])).argmax(1).numpy()
        )
    assert test.labels is not None
    return float(numpy.mean(predicted == test.labels))


def test_training_learns_the_digits(tmp_path: pathlib.Path) -> None:
    """Six epochs on the real data: from guessing to at least 90 %; the old artifact stays
    as it was.
    """
    start = LoadModel("zoo:cnn").run(None, context(tmp_path / "load"))
    before = start.path(start.parts[0], "weights").read_bytes()
    step = Train(epochs=6, learning_rate=0.01, shift=1)
    step.requires(start)
    result = step.run(start, context(tmp_path / "train"))
    step.ensures(start, result)
    assert accuracy(start) < 0.4
    assert accuracy(result) > 0.9
    assert start.path(start.parts[0], "weights").read_bytes() == before
    assert result.notes["samples"] == 1078
    assert len(result.notes["loss"]) == 6


def test_training_twice_gives_the_same_file(tmp_path: pathlib.Path) -> None:
    """The step is deterministic for a seed, byte by byte."""
    start = LoadModel("zoo:cnn").run(None, context(tmp_path / "load"))
    result = [
        Train(epochs=1).run(start, context(tmp_path / name))
        for name in ("a", "b")
    ]
    files = [
        artifact.path(artifact.parts[0], "weights").read_bytes()
        for artifact in result
    ]
    assert files[0] == files[1]


def test_a_task_without_training_data_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """The error names the split that is missing."""
    test = TASK.need("test", "a test")
    task = Task("digits", test=(dict(test.inputs), test.labels))
    start = LoadModel("zoo:cnn").run(None, context(tmp_path / "load", task))
    with pytest.raises(TaskError, match="no train data"):
        Train().run(start, context(tmp_path / "train", task))


def test_a_changed_signature_is_noticed(tmp_path: pathlib.Path) -> None:
    """ensures refuses an artifact whose parts are not those of before."""
    start = LoadModel("zoo:cnn").run(None, context(tmp_path / "load"))
    other = start.model_copy(
        update={"parts": (start.parts[0].model_copy(update={"name": "other"}),)}
    )
    with pytest.raises(StepError, match="changed the model's inputs"):
        Train().ensures(start, other)
