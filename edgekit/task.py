"""A task: the data of a machine-learning problem, with its loss and metric.

The splits are fixed when the task is created, and calibration never sees test data.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import TaskError, unknown
from edgekit.splits import (
    INPUT,
    Split,
    fingerprint,
    read_inputs_only,
    read_labelled,
)

if TYPE_CHECKING:
    from edgekit.arrays import Array

__all__ = [
    "INPUT",
    "LOSSES",
    "METRICS",
    "Split",
    "SplitName",
    "Task",
    "fingerprint",
    "identity",
]

SplitName = Literal["train", "calibration", "test"]
LOSSES = ("cross_entropy", "mse", "l1", "bce_with_logits")
METRICS = ("top1", "top5", "negative_mse", "negative_l1", "binary_accuracy")
#: Real data contain duplicates. Calibration samples that are also test samples are left
#: out; a split that has more than this share of its samples in common with the test data is
#: considered a mistake and refused.
MAX_SHARED = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Data, loss and metric.

    Args:
        name: the name in reports.
        test: ``(inputs, labels)``, or an iterable of such batches. ``inputs`` is an array
            whose first axis is the sample, or a dict of such arrays.
        train: like ``test``.
        calibration: inputs only. If None, the training samples are used.
        loss: a name of ``LOSSES``, or ``f(outputs, labels)`` that returns a scalar tensor.
        metric: a name of ``METRICS``, or ``f(outputs, labels)`` that returns one score per
            sample; higher is better.
        origin: how the data were split (seed, shares, source), recorded in the report.

    Raises TaskError if the data are missing, not numbers, not finite, or do not fit
    together, and if training or calibration data overlap the test data.
    """

    name: str
    test: Any
    train: Any = None
    calibration: Any = None
    loss: str | Callable[..., Any] = "cross_entropy"
    metric: str | Callable[..., Any] = "top1"
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _splits: dict[SplitName, Split | None] = dataclasses.field(
        init=False, repr=False
    )
    #: Samples of each split that are also test samples.
    _shared: dict[str, int] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Names and notes first: they are checked before any data are read.
        _check_choice(self.name, "loss", self.loss, LOSSES)
        _check_choice(self.name, "metric", self.metric, METRICS)
        object.__setattr__(self, "origin", self._json_origin())
        object.__setattr__(self, "_splits", self._read_splits())
        self._check_same_inputs()
        self._check_same_labels()
        object.__setattr__(self, "_shared", self._remove_test_samples())

    def split(self, name: SplitName) -> Split | None:
        """The samples of one split, or None if the task has none."""
        return self._splits[name]

    def need(self, name: SplitName, why: str) -> Split:
        """The samples of one split.

        Raises TaskError if the task has none; ``why`` names what needs them.
        """
        split = self.split(name)
        if split is None:
            raise TaskError(
                f"Task {self.name!r} has no {name} data, and {why} needs them.",
                fix=f"give the task {name}=..., or remove that entry from the recipe",
            )
        return split

    def describe(self) -> dict[str, Any]:
        """The description for the report: sizes, hashes and origin of the splits."""
        splits: dict[str, Any] = {}
        for name, split in self._splits.items():
            splits[name] = None
            if split is not None:
                splits[name] = {
                    "samples": len(split),
                    "sha256": fingerprint(split),
                }
        return {
            "name": self.name,
            "loss": _name_of(self.loss),
            "metric": _name_of(self.metric),
            "splits": splits,
            "also_in_test": self._shared,
            "origin": dict(self.origin),
        }

    @property
    def classes(self) -> int | None:
        """The number of classes; None if the labels are not class numbers."""
        import numpy

        largest = []
        for split in (self.split("test"), self.split("train")):
            if split is None or split.labels is None:
                continue
            is_integer = numpy.issubdtype(split.labels.dtype, numpy.integer)
            if not is_integer or split.labels.ndim != 1:
                return None
            largest.append(int(split.labels.max()))
        return max(largest) + 1 if largest else None

    def _json_origin(self) -> Any:
        try:
            text = json.dumps(dict(self.origin), default=str, allow_nan=False)
        except (TypeError, ValueError) as problem:
            raise TaskError(
                f"Task {self.name!r}: origin cannot be reported: {problem}.",
                fix="give a dict of texts and finite numbers",
            ) from problem
        return json.loads(text)

    def _read_splits(self) -> dict[SplitName, Split | None]:
        prefix = f"Task {self.name!r}"
        train = read_labelled(self.train, f"{prefix}, train")
        test = read_labelled(self.test, f"{prefix}, test")
        calibration = read_inputs_only(
            self.calibration, f"{prefix}, calibration"
        )
        if test is None:
            raise TaskError(
                f"{prefix} has no test data.", fix="give test=(inputs, labels)"
            )
        if calibration is None and train is not None:
            calibration = Split(train.inputs, None)
        return {"train": train, "test": test, "calibration": calibration}

    def _check_same_inputs(self) -> None:
        """All splits have inputs of the same names, shapes and dtypes."""
        expected = _shapes(self.need("test", "verification"))
        for name, split in self._splits.items():
            if split is None or _shapes(split) == expected:
                continue
            raise TaskError(
                f"Task {self.name!r}: the {name} inputs are {_describe(_shapes(split))}, "
                f"the test inputs {_describe(expected)}.",
                fix="give all splits the same shape and dtype",
            )

    def _check_same_labels(self) -> None:
        """Training and test labels are both classes, or both values of one rank."""
        train = self.split("train")
        test = self.need("test", "verification")
        if train is None or train.labels is None or test.labels is None:
            return
        is_float = [
            labels.dtype.kind == "f" for labels in (train.labels, test.labels)
        ]
        if is_float[0] == is_float[1] and train.labels.ndim == test.labels.ndim:
            return
        raise TaskError(
            f"Task {self.name!r}: the training labels are {_describe_labels(train.labels)}, "
            f"the test labels {_describe_labels(test.labels)}.",
            fix="give both the same kind: integers for classes, real numbers for values",
        )

    def _remove_test_samples(self) -> dict[str, int]:
        """Remove test samples from the calibration data.

        Returns how many samples of each split are also test samples.
        """
        test_rows = set(_rows(self.need("test", "verification")))
        shared: dict[str, int] = {}
        splits: tuple[SplitName, ...] = ("train", "calibration")
        for name in splits:
            split = self._splits[name]
            if split is None:
                continue
            is_own = [row not in test_rows for row in _rows(split)]
            shared[name] = len(is_own) - sum(is_own)
            if shared[name] > MAX_SHARED * len(is_own):
                what = "training" if name == "train" else name
                raise TaskError(
                    f"Task {self.name!r}: {shared[name]} of {len(is_own)} {what} samples "
                    "are also test samples.",
                    fix="keep the test data separate; "
                    "a file that was tuned on the test data proves nothing",
                )
            if name == "calibration" and shared[name]:
                self._splits[name] = split.rows(is_own)
        return shared


def identity(choice: str | Callable[..., Any]) -> str:
    """A text that changes when a loss or a metric does.

    The name, or a user's function with its source, defaults and closure. What the function
    calls is not included; a task from a file has the hash of its code in ``origin``.
    """
    if isinstance(choice, str):
        return choice
    cells = getattr(choice, "__closure__", None) or ()
    closure = [repr(cell.cell_contents) for cell in cells]
    defaults = [
        repr(getattr(choice, name, None))
        for name in ("__defaults__", "__kwdefaults__")
    ]
    try:
        source = inspect.getsource(choice)
    except (OSError, TypeError):
        source = repr(choice)
    name = getattr(choice, "__qualname__", type(choice).__name__)
    return "\n".join([name, source, *defaults, *closure])


def _check_choice(
    task: str, what: str, choice: object, names: tuple[str, ...]
) -> None:
    """Raise TaskError unless ``choice`` is one of ``names`` or a function."""
    fix = f"give a known name or a function as {what}"
    if isinstance(choice, str):
        if choice not in names:
            raise TaskError(
                f"Task {task!r}: {unknown(what, choice, names)}", fix=fix
            )
    elif not callable(choice):
        kind = type(choice).__name__
        raise TaskError(
            f"Task {task!r}: the {what} is of type {kind}.", fix=fix
        )


def _name_of(choice: str | Callable[..., Any]) -> str:
    if isinstance(choice, str):
        return choice
    return getattr(choice, "__name__", type(choice).__name__)


def _rows(split: Split) -> Iterator[bytes]:
    """The bytes of each sample."""
    arrays = [array for _, array in sorted(split.inputs.items())]
    for index in range(len(split)):
        yield b"".join(array[index].tobytes() for array in arrays)


def _shapes(split: Split) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape without the sample axis, and the dtype of each input."""
    return {
        name: (array.shape[1:], array.dtype)
        for name, array in split.inputs.items()
    }


def _describe(shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    inputs = [
        f"{name} {dtype}{list(shape)}"
        for name, (shape, dtype) in shapes.items()
    ]
    return ", ".join(inputs)


def _describe_labels(labels: "Array") -> str:
    sizes = ", ".join(["n", *map(str, labels.shape[1:])])
    return f"{labels.dtype}[{sizes}]"
