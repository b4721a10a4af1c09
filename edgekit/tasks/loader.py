"""Loading a task by its name: a built-in name, ``data.npz`` or ``file.py:function``."""

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy

from edgekit import user_code
from edgekit.errors import TaskError, suggest, unknown
from edgekit.registry import TASKS
from edgekit.task import Task

if TYPE_CHECKING:
    from edgekit.arrays import Array

Arrays = dict[str, "Array"]
_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
#: A trained model needs no training samples if there are calibration samples.
_REQUIRED_WITHOUT_TRAINING = ("x_test", "y_test")
_INPUTS = ("x_train", "x_test", "x_calibration")
_KEYS = (*_REQUIRED, "x_calibration")


def load(spec: str) -> Task:
    """Load the task that ``spec`` names.

    Raises TaskError if there is no such task, or its data cannot be used.
    """
    if spec in TASKS:
        task: Task = TASKS.load(spec)()
        return task
    if spec.endswith(".npz"):
        return _load_npz(pathlib.Path(spec))
    if user_code.is_function_spec(spec):
        return _call_function(spec)
    if spec.endswith(".py"):
        raise TaskError(
            f"{spec!r} names a file, but no function in it.",
            fix=f"write {spec}:function",
        )
    raise TaskError(
        unknown("task", spec, TASKS),
        fix="write a known name, data.npz or file.py:function",
    )


def _call_function(spec: str) -> Task:
    task = user_code.load_function(spec, TaskError)()
    if not isinstance(task, Task):
        raise TaskError(
            f"{spec} returned {type(task).__name__}, not an edgekit.Task.",
            fix="return edgekit.Task(name=..., train=..., test=...)",
        )
    # What the loss and the metric call may change although their own source does not.
    code = user_code.fingerprint(user_code.module_files(spec, TaskError))
    return dataclasses.replace(
        task,
        train=task.split("train"),
        calibration=task.split("calibration"),
        test=task.split("test"),
        origin={**task.origin, "code": code},
    )


def _load_npz(path: pathlib.Path) -> Task:
    """A task from the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    ``x_calibration`` is optional; several inputs are named ``x_train.NAME``. Integer labels
    mean classes (cross entropy, top-1), others mean regression (mean squared error).
    """
    arrays = _read_arrays(path)
    inputs = {key: _find_inputs(arrays, key) for key in _INPUTS}
    _check_keys(path, arrays, inputs)
    train = None
    if inputs["x_train"] is not None and "y_train" in arrays:
        train = (inputs["x_train"], arrays["y_train"])
    labels = arrays["y_test"]
    has_classes = numpy.issubdtype(labels.dtype, numpy.integer)
    return Task(
        name=path.stem,
        train=train,
        test=(inputs["x_test"], labels),
        calibration=inputs["x_calibration"],
        loss="cross_entropy" if has_classes else "mse",
        metric="top1" if has_classes else "negative_mse",
        origin={"source": path.name},
    )


def _check_keys(
    path: pathlib.Path,
    arrays: Arrays,
    inputs: Mapping[str, "Array | Arrays | None"],
) -> None:
    """Raise one TaskError that lists all missing and unknown arrays of a file."""
    present = {
        key for key in _KEYS if key in arrays or inputs.get(key) is not None
    }
    required: tuple[str, ...] = _REQUIRED
    if "x_calibration" in present and not {"x_train", "y_train"} & present:
        required = _REQUIRED_WITHOUT_TRAINING
    mistakes = [
        f"{key}: this array is missing"
        for key in required
        if key not in present
    ]
    for key in arrays:
        is_named_input = key.partition(".")[0] in _INPUTS
        if not is_named_input and key not in _KEYS:
            mistakes.append(f"{key}: unknown array. {suggest(key, _KEYS)}")
    if mistakes:
        listing = "\n  ".join(mistakes)
        raise TaskError(
            f"{path} does not contain a task:\n  {listing}",
            fix="numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)",
        )


def _read_arrays(path: pathlib.Path) -> Arrays:
    if not path.is_file():
        raise TaskError(
            f"No such file: {path}.", fix="give the path of an .npz file"
        )
    try:
        # Opened here: numpy leaves the file open if the content is not a zip archive.
        with path.open("rb") as file:
            data = numpy.load(file, allow_pickle=False)
            if not isinstance(data, numpy.lib.npyio.NpzFile):
                raise TaskError(
                    f"{path} contains one array, not several.",
                    fix="write it with numpy.savez",
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
        reason = str(problem)
        # numpy assumes that unknown content is a pickle, and suggests an option that would
        # run it.
        if "allow_pickle=" in reason:
            reason = "it is neither an .npz archive nor an array"
        raise TaskError(
            f"{path} cannot be read as plain arrays: {reason}.",
            fix="write it with numpy.savez, without arrays of Python objects",
        ) from problem


def _find_inputs(arrays: Arrays, key: str) -> "Array | Arrays | None":
    """The input array ``key``, or the arrays ``key.NAME`` by name; None if there are none."""
    prefix = f"{key}."
    named = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    if named and key in arrays:
        names = ", ".join(f"{key}.{name}" for name in named)
        raise TaskError(
            f"The data contain both {key} and {names}.",
            fix=f"name every input as {key}.NAME, or give one array",
        )
    return named or arrays.get(key)
