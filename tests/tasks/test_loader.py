"""From a task's name to its data."""

import pathlib
import pickle
import zipfile
from typing import Any

import numpy
import pytest

from edgekit.errors import TaskError
from edgekit.tasks import loader

RANDOM = numpy.random.default_rng(0)


def arrays() -> dict[str, Any]:
    """A small classification task."""
    return {
        "x_train": RANDOM.normal(size=(8, 3)),
        "y_train": numpy.arange(8) % 2,
        "x_test": RANDOM.normal(size=(4, 3)),
        "y_test": numpy.arange(4) % 2,
    }


def saved(folder: pathlib.Path, **data: Any) -> str:
    """An .npz file."""
    path = folder / "data.npz"
    numpy.savez(path, **data)
    return str(path)


def test_a_known_name_is_loaded() -> None:
    """digits needs no file."""
    assert loader.load("digits").name == "digits"


def test_an_npz_file_is_a_classification_task(tmp_path: pathlib.Path) -> None:
    """Integer labels mean classes; the task is named after the file."""
    task = loader.load(saved(tmp_path, **arrays()))
    assert (task.name, task.loss, task.metric, task.classes) == (
        "data",
        "cross_entropy",
        "top1",
        2,
    )


def test_real_labels_mean_regression(tmp_path: pathlib.Path) -> None:
    """Labels that are not integers are predicted with the mean squared error."""
    task = loader.load(
        saved(
            tmp_path,
            **(
                arrays()
                | {
                    "y_train": RANDOM.normal(size=8),
                    "y_test": RANDOM.normal(size=4),
                }
            ),
        )
    )
    assert (task.loss, task.metric) == ("mse", "negative_mse")


def test_several_inputs_are_named_after_a_point(tmp_path: pathlib.Path) -> None:
    """x_train.left and x_train.right become the inputs left and right."""
    data = arrays()
    for split in ("x_train", "x_test"):
        data[f"{split}.left"] = data[f"{split}.right"] = data.pop(split)
    assert list(
        loader.load(saved(tmp_path, **data)).need("test", "a test").inputs
    ) == [
        "left",
        "right",
    ]


def test_all_missing_and_unknown_arrays_are_reported_at_once(
    tmp_path: pathlib.Path,
) -> None:
    """One error lists every mistake, with the nearest right name."""
    data = arrays()
    del data["y_train"], data["y_test"]
    with pytest.raises(TaskError) as caught:
        loader.load(saved(tmp_path, **data, xtest=data["x_test"]))
    for line in (
        "y_train: this array is missing",
        "y_test: this array is missing",
        "xtest: unknown array. Did you mean 'x_test'?",
    ):
        assert line in str(caught.value)


def test_calibration_and_test_are_enough_for_a_trained_model(
    tmp_path: pathlib.Path,
) -> None:
    """Without training data the file may hold calibration samples instead."""
    data = arrays()
    task = loader.load(
        saved(
            tmp_path,
            x_calibration=data["x_train"],
            x_test=data["x_test"],
            y_test=data["y_test"],
        )
    )
    assert task.split("train") is None
    assert len(task.need("calibration", "a test")) == 8


def test_pickled_objects_are_not_loaded(tmp_path: pathlib.Path) -> None:
    """An .npz file with Python objects inside is refused, since reading it could run code."""
    with pytest.raises(TaskError, match="plain arrays"):
        loader.load(
            saved(tmp_path, **(arrays() | {"y_test": numpy.array([{}] * 4)}))
        )


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half"])
def test_a_broken_file_is_refused(
    tmp_path: pathlib.Path, content: bytes
) -> None:
    """What numpy cannot read is raised as an error of the task."""
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(TaskError, match="cannot be read"):
        loader.load(str(tmp_path / "data.npz"))


def test_a_single_array_is_refused(tmp_path: pathlib.Path) -> None:
    """A .npy file under the name .npz holds no named arrays."""
    with (tmp_path / "data.npz").open("wb") as file:
        numpy.save(file, numpy.zeros(3))
    with pytest.raises(TaskError, match="one array"):
        loader.load(str(tmp_path / "data.npz"))


def test_a_users_function_gives_a_task(tmp_path: pathlib.Path) -> None:
    """file.py:function is called, and its task is used unchanged."""
    (tmp_path / "own.py").write_text(
        "import numpy\nfrom edgekit.task import Task\n"
        "def task(): return Task(name='own', test=(numpy.zeros((2, 3)), numpy.zeros(2, int)))\n"
        "def wrong(): return 3\n"
        "def bad(): return Task(name='own', test=(numpy.zeros((2, 3)), numpy.zeros(5, int)))\n"
    )
    assert loader.load(f"{tmp_path}/own.py:task").name == "own"
    with pytest.raises(TaskError, match="returned int"):
        loader.load(f"{tmp_path}/own.py:wrong")
    with pytest.raises(TaskError, match="2 samples but"):
        loader.load(f"{tmp_path}/own.py:bad")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("own.py", "no function in it"),
        ("none.npz", "No such file: none.npz"),
    ],
)
def test_a_wrong_name_gets_a_hint(spec: str, message: str) -> None:
    """The nearest task is offered."""
    with pytest.raises(TaskError, match=message):
        loader.load(spec)


def test_an_array_that_does_not_fit_in_memory_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """A header that promises more numbers than there is memory is an error, not a crash."""
    path = tmp_path / "data.npz"
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("x_train.npy", "w") as file,
    ):
        numpy.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (10**14,)}
        )
    with pytest.raises(
        TaskError, match="cannot be read as plain arrays: Unable to allocate"
    ):
        loader.load(str(path))


def test_nobody_is_advised_to_load_a_pickle(tmp_path: pathlib.Path) -> None:
    """numpy's advice to set allow_pickle is not passed on."""
    (tmp_path / "data.npz").write_bytes(pickle.dumps({"x_train": 1}))
    with pytest.raises(
        TaskError, match="neither an .npz archive nor an array"
    ) as caught:
        loader.load(str(tmp_path / "data.npz"))
    assert "allow_pickle" not in str(caught.value)
