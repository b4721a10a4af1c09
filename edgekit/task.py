"""A task: data and what they mean. The splits are fixed when the task is made, and calibration never sees test data."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import TaskError
from edgekit.value import nearest

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: The input's name where a task gives a bare array.
INPUT = "input"
SplitName = Literal["train", "calibration", "test"]
LOSSES = ("cross_entropy", "mse", "l1", "bce_with_logits")
METRICS = ("top1", "top5", "negative_mse", "negative_l1", "binary_accuracy")
#: At most this share of the calibration samples may also be test samples (real data do hold a few doubles).
MAX_SHARED = 0.1


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples: named input arrays whose first axis is the sample, and the labels where there are any."""

    inputs: Mapping[str, "Array"]
    labels: "Array | None"

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, count: int) -> "Split":
        """The first ``count`` samples."""
        return Split({name: array[:count] for name, array in self.inputs.items()}, None if self.labels is None else self.labels[:count])


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Data, loss and metric.

    ``train`` and ``test`` are ``(inputs, labels)`` or an iterable of such batches; ``calibration`` is inputs only, and
    where it is None the first training samples are used. ``inputs`` is an array whose first axis is the sample, or a
    dict of such arrays. ``loss`` is a name or ``f(outputs, labels) -> scalar tensor``; ``metric`` is a name or
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
        for what, given, known in (("loss", self.loss, LOSSES), ("metric", self.metric, METRICS)):
            if isinstance(given, str) and given not in known:
                raise TaskError(
                    f"Task {self.name!r}: no {what} is called {given!r}; {nearest(given, known)}.", fix=f"give a known name or a function as {what}"
                )
        splits: dict[SplitName, Split | None] = {
            "train": _labelled(self.train, f"Task {self.name!r}, train"),
            "test": _labelled(self.test, f"Task {self.name!r}, test"),
            "calibration": _unlabelled(self.calibration, f"Task {self.name!r}, calibration"),
        }
        if splits["test"] is None:
            raise TaskError(f"Task {self.name!r} has no test data.", fix="give test=(inputs, labels)")
        if splits["calibration"] is None and splits["train"] is not None:
            splits["calibration"] = Split(splits["train"].inputs, None)
        object.__setattr__(self, "_splits", splits)
        self._same_inputs()
        object.__setattr__(self, "_shared", self._refuse_test_in_calibration())

    def split(self, name: SplitName) -> Split | None:
        """The samples of one split, or None where the task has none."""
        return self._splits[name]  # type: ignore[attr-defined, no-any-return]

    def need(self, name: SplitName, why: str) -> Split:
        """The samples of one split, or a TaskError that says why they are needed."""
        found = self.split(name)
        if found is None:
            raise TaskError(
                f"Task {self.name!r} has no {name} data, and {why} needs them.", fix=f"give the task {name}=..., or take that entry out of the recipe"
            )
        return found

    def describe(self) -> dict[str, Any]:
        """What the report records: sizes, hashes and origin of the splits."""
        splits = {
            name: None if split is None else {"samples": len(split), "sha256": fingerprint(split)}
            for name, split in self._splits.items()  # type: ignore[attr-defined]
        }
        return {"name": self.name, "loss": _named(self.loss), "metric": _named(self.metric), "splits": splits,
                "calibration_also_in_test": self._shared, "origin": dict(self.origin)}  # type: ignore[attr-defined]  # fmt: skip

    @property
    def classes(self) -> int | None:
        """The number of classes where the labels are class numbers, else None."""
        import numpy

        test = self.split("test")
        labels = [s.labels for s in (test, self.split("train")) if s is not None and s.labels is not None]
        if not labels or not all(numpy.issubdtype(part.dtype, numpy.integer) and part.ndim == 1 for part in labels):
            return None
        return int(max(part.max() for part in labels)) + 1

    def _same_inputs(self) -> None:
        test = self.need("test", "verification")
        for name, split in self._splits.items():  # type: ignore[attr-defined]
            if split is None:
                continue
            shapes = {key: (array.shape[1:], array.dtype) for key, array in split.inputs.items()}
            wanted = {key: (array.shape[1:], array.dtype) for key, array in test.inputs.items()}
            if shapes != wanted:
                raise TaskError(
                    f"Task {self.name!r}: the {name} inputs are {_told(shapes)}, the test inputs {_told(wanted)}.",
                    fix="give all splits the same shape and dtype",
                )

    def _refuse_test_in_calibration(self) -> int:
        calibration, test = self.split("calibration"), self.need("test", "verification")
        if calibration is None:
            return 0
        seen = set(_rows(test))
        shared = sum(row in seen for row in _rows(calibration))
        if shared > MAX_SHARED * len(calibration):
            raise TaskError(
                f"Task {self.name!r}: {shared} of {len(calibration)} calibration samples are also test samples.",
                fix="calibrate on training data; a file tuned on the test data proves nothing",
            )
        return shared


def fingerprint(split: Split) -> str:
    """A hash of the samples: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    arrays = {**split.inputs, **({} if split.labels is None else {"<labels>": split.labels})}
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def identity(what: str | Callable[..., Any]) -> str:
    """A text that changes when a loss or a metric does: its name, or the source of a user's function."""
    if isinstance(what, str):
        return what
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):
        return repr(what)


def _named(what: str | Callable[..., Any]) -> str:
    return what if isinstance(what, str) else getattr(what, "__name__", type(what).__name__)


def _rows(split: Split) -> Iterable[bytes]:
    arrays = [array for _, array in sorted(split.inputs.items())]
    for index in range(len(split)):
        yield b"".join(array[index].tobytes() for array in arrays)


def _told(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in shapes.items())


def _named_arrays(inputs: Any, where: str) -> dict[str, "Array"]:
    import numpy

    given = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
    arrays = {str(name): numpy.asarray(_as_numpy(array)) for name, array in given.items()}
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) == 0:
            raise TaskError(f"{where}: {name} has no samples.", fix="give arrays whose first axis is the sample")
        if array.dtype == object:
            raise TaskError(f"{where}: {name} holds Python objects, not numbers.", fix="make one array with one shape for all samples")
        if array.dtype.kind == "f" and not numpy.isfinite(array).all():
            raise TaskError(f"{where}: {name} holds NaN or infinite values.", fix="clean the data first")
    if len({len(array) for array in arrays.values()}) > 1:
        raise TaskError(f"{where}: the inputs have different numbers of samples ({_lengths(arrays)}).", fix="give each input one row a sample")
    return {name: array.astype("float32") if array.dtype == numpy.float64 else array for name, array in arrays.items()}


def _labelled(data: Any, where: str) -> Split | None:
    import numpy

    if data is None or isinstance(data, Split):
        return data
    if not (isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], tuple)):
        data = _joined(data, where)
    inputs, labels = _named_arrays(data[0], where), numpy.asarray(_as_numpy(data[1]))
    samples = len(next(iter(inputs.values())))
    if labels.ndim == 0 or len(labels) != samples:
        raise TaskError(f"{where}: {samples} samples but {labels.shape or 'no'} labels.", fix="give one label a sample")
    return Split(inputs, labels)


def _unlabelled(data: Any, where: str) -> Split | None:
    if data is None or isinstance(data, Split):
        return data
    return Split(_named_arrays(data, where), None)


def _joined(batches: Any, where: str) -> tuple[Any, Any]:
    """One pair of arrays from an iterable of ``(inputs, labels)`` batches."""
    import numpy

    try:
        pairs = [(_named_arrays(inputs, where), numpy.asarray(_as_numpy(labels))) for inputs, labels in batches]
    except (TypeError, ValueError) as problem:
        raise TaskError(f"{where}: expected (inputs, labels) or batches of them, got {type(batches).__name__}.", fix="see edgekit.Task") from problem
    if not pairs:
        raise TaskError(f"{where}: no batches.", fix="give at least one batch")
    names = pairs[0][0].keys()
    return {name: numpy.concatenate([inputs[name] for inputs, _ in pairs]) for name in names}, numpy.concatenate([labels for _, labels in pairs])


def _as_numpy(array: Any) -> Any:
    """A torch tensor as an array, without importing torch."""
    return array.detach().cpu().numpy() if hasattr(array, "detach") else array


def _lengths(arrays: Mapping[str, "Array"]) -> str:
    return ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
