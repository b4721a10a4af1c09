"""A task: data and what they mean.

The splits are fixed when the task is made, and calibration never sees test data.
"""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import TaskError, unknown

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: The input's name where a task gives a bare array.
INPUT = "input"
SplitName = Literal["train", "calibration", "test"]
LOSSES = ("cross_entropy", "mse", "l1", "bce_with_logits")
METRICS = ("top1", "top5", "negative_mse", "negative_l1", "binary_accuracy")
#: Kinds of arrays that hold numbers: truth values, integers, real numbers.
NUMBERS = "biuf"
#: Real data hold doubles. Calibration samples that are also test samples are left out;
#: where more than this share of a split is also in the test data, the split is taken for a
#: mistake and refused.
MAX_SHARED = 0.5


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples: named input arrays whose first axis is the sample, and the labels where
    there are any.
    """

    inputs: Mapping[str, "Array"]
    labels: "Array | None"

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def draw(self, count: int, seed: int) -> "Split":
        """``count`` samples in random order (all of them where there are fewer): data are
        often sorted by class.
        """
        import numpy

        return self.rows(numpy.random.default_rng(seed).permutation(len(self))[:count])

    def rows(self, index: Any) -> "Split":
        """The samples of an index or a mask."""
        return Split(
            {name: array[index] for name, array in self.inputs.items()},
            None if self.labels is None else self.labels[index],
        )

    def take(self, count: int) -> "Split":
        """The first ``count`` samples."""
        return Split(
            {name: array[:count] for name, array in self.inputs.items()},
            None if self.labels is None else self.labels[:count],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Data, loss and metric.

    ``train`` and ``test`` are ``(inputs, labels)`` or an iterable of such batches;
    ``calibration`` is inputs only, and where it is None the first training samples are
    used. ``inputs`` is an array whose first axis is the sample, or a dict of such arrays.
    ``loss`` is a name or ``f(outputs, labels) -> scalar tensor``; ``metric`` is a name or
    ``f(outputs, labels) -> one score a sample``, higher is better.
    """

    name: str
    test: Any
    train: Any = None
    calibration: Any = None
    loss: str | Callable[..., Any] = "cross_entropy"
    metric: str | Callable[..., Any] = "top1"
    #: How the data were split (seed, shares, source); recorded in the report.
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._refuse_words()
        splits: dict[SplitName, Split | None] = {
            "train": _labelled(self.train, f"Task {self.name!r}, train"),
            "test": _labelled(self.test, f"Task {self.name!r}, test"),
            "calibration": _unlabelled(
                self.calibration, f"Task {self.name!r}, calibration"
            ),
        }
        if splits["test"] is None:
            raise TaskError(
                f"Task {self.name!r} has no test data.", fix="give test=(inputs, labels)"
            )
        if splits["calibration"] is None and splits["train"] is not None:
            splits["calibration"] = Split(splits["train"].inputs, None)
        object.__setattr__(self, "_splits", splits)
        self._same_inputs()
        self._same_labels()
        object.__setattr__(self, "_shared", self._kept_apart())

    def split(self, name: SplitName) -> Split | None:
        """The samples of one split, or None where the task has none."""
        return self._splits[name]  # type: ignore[attr-defined, no-any-return]

    def need(self, name: SplitName, why: str) -> Split:
        """The samples of one split, or a TaskError that says why they are needed."""
        found = self.split(name)
        if found is None:
            raise TaskError(
                f"Task {self.name!r} has no {name} data, and {why} needs them.",
                fix=f"give the task {name}=..., or take that entry out of the recipe",
            )
        return found

    def describe(self) -> dict[str, Any]:
        """What the report records: sizes, hashes and origin of the splits."""
        splits = {
            name: None
            if split is None
            else {"samples": len(split), "sha256": fingerprint(split)}
            for name, split in self._splits.items()  # type: ignore[attr-defined]
        }
        return {
            "name": self.name,
            "loss": _named(self.loss),
            "metric": _named(self.metric),
            "splits": splits,
            "also_in_test": self._shared,  # type: ignore[attr-defined]
            "origin": dict(self.origin),
        }

    @property
    def classes(self) -> int | None:
        """The number of classes where the labels are class numbers, else None."""
        import numpy

        test = self.split("test")
        labels = [
            s.labels
            for s in (test, self.split("train"))
            if s is not None and s.labels is not None
        ]
        if not labels or not all(
            numpy.issubdtype(part.dtype, numpy.integer) and part.ndim == 1
            for part in labels
        ):
            return None
        return int(max(part.max() for part in labels)) + 1

    def _refuse_words(self) -> None:
        """Names and notes that could not be used or reported, told before the data are
        looked at.
        """
        for what, given, known in (
            ("loss", self.loss, LOSSES),
            ("metric", self.metric, METRICS),
        ):
            if isinstance(given, str) and given not in known:
                raise TaskError(
                    f"Task {self.name!r}: {unknown(what, given, known)}",
                    fix=f"give a known name or a function as {what}",
                )
            if not isinstance(given, str) and not callable(given):
                raise TaskError(
                    f"Task {self.name!r}: the {what} is of type {type(given).__name__}.",
                    fix=f"give a known name or a function as {what}",
                )
        try:
            noted = json.loads(json.dumps(dict(self.origin), default=str, allow_nan=False))
        except (TypeError, ValueError) as problem:
            raise TaskError(
                f"Task {self.name!r}: origin cannot be reported: {problem}.",
                fix="give a dict of texts and finite numbers",
            ) from problem
        object.__setattr__(self, "origin", noted)

    def _same_labels(self) -> None:
        """Training and test labels mean the same: classes in both, or values of one shape
        in both.
        """
        train, test = self.split("train"), self.need("test", "verification")
        if train is None or train.labels is None or test.labels is None:
            return
        told = [
            f"{labels.dtype}[n{''.join(f', {size}' for size in labels.shape[1:])}]"
            for labels in (train.labels, test.labels)
        ]
        if (train.labels.dtype.kind == "f") != (
            test.labels.dtype.kind == "f"
        ) or train.labels.ndim != test.labels.ndim:
            raise TaskError(
                f"Task {self.name!r}: the training labels are {told[0]}, the test labels {told[1]}.",
                fix="give both the same kind: whole numbers for classes, real numbers for values",
            )

    def _same_inputs(self) -> None:
        test = self.need("test", "verification")
        for name, split in self._splits.items():  # type: ignore[attr-defined]
            if split is None:
                continue
            shapes = {
                key: (array.shape[1:], array.dtype) for key, array in split.inputs.items()
            }
            wanted = {
                key: (array.shape[1:], array.dtype) for key, array in test.inputs.items()
            }
            if shapes != wanted:
                raise TaskError(
                    f"Task {self.name!r}: the {name} inputs are {_told(shapes)}, the test inputs {_told(wanted)}.",
                    fix="give all splits the same shape and dtype",
                )

    def _kept_apart(self) -> dict[str, int]:
        """Leave test samples out of the calibration data; how many samples of each split
        are also test samples.
        """
        seen, found = set(_rows(self.need("test", "verification"))), {}
        for name in ("train", "calibration"):
            split: Split | None = self._splits[name]  # type: ignore[attr-defined]
            if split is None:
                continue
            own = [row not in seen for row in _rows(split)]
            found[name] = len(own) - sum(own)
            if found[name] > MAX_SHARED * len(own):
                what = "training" if name == "train" else name
                raise TaskError(
                    f"Task {self.name!r}: {found[name]} of {len(own)} {what} samples are also test samples.",
                    fix="keep the test data apart; a file that was tuned on the test data proves nothing",
                )
            if name == "calibration" and found[name]:
                self._splits[name] = split.rows(own)  # type: ignore[attr-defined]
        return found


def fingerprint(split: Split) -> str:
    """A hash of the samples: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    arrays = {
        **split.inputs,
        **({} if split.labels is None else {"<labels>": split.labels}),
    }
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def identity(what: str | Callable[..., Any]) -> str:
    """A text that changes when a loss or a metric does: its name, or a user's function with
    its source, defaults and closure.

    What such a function calls is not seen here; a task from a file has the hash of its code
    in ``origin``.
    """
    if isinstance(what, str):
        return what
    cells = [repr(cell.cell_contents) for cell in getattr(what, "__closure__", None) or ()]
    bound = [repr(getattr(what, name, None)) for name in ("__defaults__", "__kwdefaults__")]
    try:
        source = inspect.getsource(what)
    except (OSError, TypeError):
        source = repr(what)
    return "\n".join(
        [getattr(what, "__qualname__", type(what).__name__), source, *bound, *cells]
    )


def _named(what: str | Callable[..., Any]) -> str:
    return what if isinstance(what, str) else getattr(what, "__name__", type(what).__name__)


def _rows(split: Split) -> Iterable[bytes]:
    arrays = [array for _, array in sorted(split.inputs.items())]
    for index in range(len(split)):
        yield b"".join(array[index].tobytes() for array in arrays)


def _told(shapes: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in shapes.items()
    )


def _named_arrays(inputs: Any, where: str) -> dict[str, "Array"]:
    import numpy

    given = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
    arrays = {str(name): _as_numpy(array) for name, array in given.items()}
    if not arrays:
        raise TaskError(
            f"{where}: there are no inputs.",
            fix="give an array, or a dict with at least one",
        )
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) == 0:
            raise TaskError(
                f"{where}: {name} has no samples.",
                fix="give arrays whose first axis is the sample",
            )
        if array.dtype == object:
            raise TaskError(
                f"{where}: {name} holds Python objects, not numbers.",
                fix="make one array with one shape for all samples",
            )
        if array.dtype.kind not in NUMBERS:
            raise TaskError(
                f"{where}: {name} holds {array.dtype}, not numbers.",
                fix="give float32, or an integer type",
            )
        if array.dtype.kind == "f" and not numpy.isfinite(array).all():
            raise TaskError(
                f"{where}: {name} holds NaN or infinite values.", fix="clean the data first"
            )
    if len({len(array) for array in arrays.values()}) > 1:
        raise TaskError(
            f"{where}: the inputs have different numbers of samples ({_lengths(arrays)}).",
            fix="give each input one row a sample",
        )
    return {
        name: array.astype("float32") if array.dtype == numpy.float64 else array
        for name, array in arrays.items()
    }


def _labelled(data: Any, where: str) -> Split | None:
    import numpy

    if data is None or isinstance(data, Split):
        return data
    if not (
        isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], tuple)
    ):
        data = _joined(data, where)
    inputs, labels = _named_arrays(data[0], where), _as_numpy(data[1])
    samples = len(next(iter(inputs.values())))
    if labels.ndim == 0 or len(labels) != samples:
        raise TaskError(
            f"{where}: {samples} samples but {labels.shape or 'no'} labels.",
            fix="give one label a sample",
        )
    if labels.dtype.kind not in NUMBERS:
        raise TaskError(
            f"{where}: the labels hold {labels.dtype}, not numbers.",
            fix="number the classes from 0",
        )
    if labels.dtype.kind == "f" and not numpy.isfinite(labels).all():
        raise TaskError(
            f"{where}: the labels hold NaN or infinite values.", fix="clean the data first"
        )
    return Split(inputs, labels)


def _unlabelled(data: Any, where: str) -> Split | None:
    if data is None or isinstance(data, Split):
        return data
    return Split(_named_arrays(data, where), None)


def _joined(batches: Any, where: str) -> tuple[Any, Any]:
    """One pair of arrays from an iterable of ``(inputs, labels)`` batches."""
    import numpy

    try:
        pairs = [
            (_named_arrays(inputs, where), _as_numpy(labels)) for inputs, labels in batches
        ]
    except (TypeError, ValueError) as problem:
        raise TaskError(
            f"{where}: expected (inputs, labels) or batches of them, got {type(batches).__name__}.",
            fix="see edgekit.Task",
        ) from problem
    if not pairs:
        raise TaskError(f"{where}: no batches.", fix="give at least one batch")
    names = pairs[0][0].keys()
    try:
        return {
            name: numpy.concatenate([inputs[name] for inputs, _ in pairs]) for name in names
        }, numpy.concatenate([labels for _, labels in pairs])
    except (KeyError, ValueError) as problem:
        raise TaskError(
            f"{where}: the batches do not fit together: {problem}.",
            fix="give every batch the same inputs and shapes",
        ) from problem


def _as_numpy(array: Any) -> "Array":
    """An array, or a torch tensor as one (without importing torch), in this machine's byte
    order.
    """
    import numpy

    found = numpy.asarray(
        array.detach().cpu().numpy() if hasattr(array, "detach") else array
    )
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _lengths(arrays: Mapping[str, "Array"]) -> str:
    return ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
