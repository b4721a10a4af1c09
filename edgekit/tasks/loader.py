"""From a task's name to its data: a built-in name, ``data.npz`` or ``file.py:function``."""

import dataclasses
import pathlib
import zipfile
import zlib

import numpy
import numpy.typing

from edgekit import user_code
from edgekit.errors import TaskError, suggest, unknown
from edgekit.registry import TASKS
from edgekit.task import Task

Arrays = dict[str, "numpy.typing.NDArray[numpy.generic]"]
_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_INPUTS = ("x_train", "x_test", "x_calibration")
_KEYS = (*_REQUIRED, "x_calibration")


def load(spec: str) -> Task:
    """Make the task that ``spec`` names, or raise TaskError with the way out."""
    if spec in TASKS:
        task: Task = TASKS.load(spec)()
        return task
    if spec.endswith(".npz"):
        return _from_npz(pathlib.Path(spec))
    if user_code.is_function_spec(spec):
        return _from_function(spec)
    if spec.endswith(".py"):
        raise TaskError(
            f"{spec!r} names a file, but no function in it.", fix=f"write {spec}:function"
        )
    raise TaskError(
        unknown("task", spec, TASKS),
        fix="write a known name, data.npz or file.py:function",
    )


def _from_function(spec: str) -> Task:
    task = user_code.load_function(spec, TaskError)()
    code = user_code.fingerprint(user_code.module_files(spec, TaskError))
    if not isinstance(task, Task):
        raise TaskError(
            f"{spec} gave {type(task).__name__}, not an edgekit.Task.",
            fix="return edgekit.Task(name=..., train=..., test=...)",
        )
    # What the loss and the metric call may have changed although their own text did not.
    train, calibration, test = (
        task.split("train"),
        task.split("calibration"),
        task.split("test"),
    )
    return dataclasses.replace(
        task,
        train=train,
        calibration=calibration,
        test=test,
        origin={**task.origin, "code": code},
    )


def _from_npz(path: pathlib.Path) -> Task:
    """A task from arrays ``x_train y_train x_test y_test`` and, if wanted,
    ``x_calibration``; several inputs as ``x_train.NAME``.

    Whole-number labels mean classes (cross entropy, top-1), others mean regression (mean
    squared error).
    """
    arrays = _read(path)
    inputs = {key: _inputs(arrays, key) for key in _INPUTS}
    unknown = [
        key for key in arrays if key.partition(".")[0] not in _INPUTS and key not in _KEYS
    ]
    have = {key for key in _KEYS if key in arrays or inputs.get(key)}
    # Data without training samples are enough for a trained model, where there is something
    # to calibrate on.
    required = (
        ("x_test", "y_test")
        if "x_calibration" in have and not {"x_train", "y_train"} & have
        else _REQUIRED
    )
    missing = [key for key in required if key not in have]
    if missing or unknown:
        lines = [f"{key}: this array is missing" for key in missing] + [
            f"{key}: unknown array. {suggest(key, _KEYS)}" for key in unknown
        ]
        listing = "\n  ".join(lines)
        raise TaskError(
            f"{path} does not hold a task:\n  {listing}",
            fix="numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)",
        )
    labels = arrays["y_test"]
    classes = numpy.issubdtype(labels.dtype, numpy.integer)
    return Task(
        name=path.stem,
        train=(inputs["x_train"], arrays["y_train"]) if "x_train" in have else None,
        test=(inputs["x_test"], labels),
        calibration=inputs["x_calibration"],
        loss="cross_entropy" if classes else "mse",
        metric="top1" if classes else "negative_mse",
        origin={"source": path.name},
    )


def _read(path: pathlib.Path) -> Arrays:
    if not path.is_file():
        raise TaskError(f"There is no file {path}.", fix="give the path of an .npz file")
    try:
        # Opened here: numpy leaves the file open where the content is no zip archive.
        with path.open("rb") as file:
            data = numpy.load(file, allow_pickle=False)
            if not isinstance(data, numpy.lib.npyio.NpzFile):
                raise TaskError(
                    f"{path} holds one array, not several.", fix="write it with numpy.savez"
                )
            return {name: data[name] for name in data.files}
    except (
        ValueError,
        OSError,
        EOFError,
        MemoryError,
        NotImplementedError,
        zlib.error,
        zipfile.BadZipFile,
    ) as problem:
        # numpy takes whatever it does not know for a pickle, and tells how to load one all
        # the same; nobody should.
        said = (
            "it is neither an .npz archive nor an array"
            if "allow_pickle=" in str(problem)
            else problem
        )
        raise TaskError(
            f"{path} cannot be read as plain arrays: {said}.",
            fix="write it with numpy.savez, without arrays of Python objects",
        ) from problem


def _inputs(
    arrays: Arrays, key: str
) -> "numpy.typing.NDArray[numpy.generic] | Arrays | None":
    named = {
        name.removeprefix(f"{key}."): array
        for name, array in arrays.items()
        if name.startswith(f"{key}.")
    }
    if named and key in arrays:
        both = ", ".join(f"{key}.{name}" for name in named)
        raise TaskError(
            f"The data hold both {key} and {both}.",
            fix=f"name every input as {key}.NAME, or give one array",
        )
    return named or arrays.get(key)
