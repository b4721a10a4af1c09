"""The samples of a split: a user's input arrays and labels, checked when they are read."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import TaskError

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: The name of the input if a task contains a bare array.
INPUT = "input"
#: Kinds of numpy dtypes that are numbers: booleans, integers, real numbers.
NUMBERS = "biuf"


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples: input arrays by name whose first axis is the sample, and labels if any."""

    inputs: Mapping[str, "Array"]
    labels: "Array | None"

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def draw(self, count: int, seed: int) -> "Split":
        """``count`` samples in random order, or all if there are fewer.

        Data are often sorted by class.
        """
        import numpy

        order = numpy.random.default_rng(seed).permutation(len(self))
        return self.rows(order[:count])

    def rows(self, index: Any) -> "Split":
        """The samples of an index, a mask or a slice."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        return Split(
            inputs, None if self.labels is None else self.labels[index]
        )

    def take(self, count: int) -> "Split":
        """The first ``count`` samples."""
        return self.rows(slice(count))


def fingerprint(split: Split) -> str:
    """The SHA-256 of the samples: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    arrays = dict(split.inputs)
    if split.labels is not None:
        arrays["<labels>"] = split.labels
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_labelled(data: Any, where: str) -> Split | None:
    """A split with labels from ``(inputs, labels)`` or an iterable of such batches.

    Returns a Split unchanged, and None for None. Raises TaskError if the data are not finite
    numbers or do not fit together; ``where`` begins its message.
    """
    if data is None or isinstance(data, Split):
        return data
    if not _is_pair(data):
        data = _concatenate(data, where)
    inputs = _read_inputs(data[0], where)
    labels = _as_numpy(data[1])
    samples = len(next(iter(inputs.values())))
    if labels.ndim == 0 or len(labels) != samples:
        raise TaskError(
            f"{where}: {samples} samples but {labels.shape or 'no'} labels.",
            fix="give one label per sample",
        )
    _check_numbers(
        labels, f"{where}: the labels contain", "number the classes from 0"
    )
    return Split(inputs, labels)


def _is_pair(data: Any) -> bool:
    """Whether data are (inputs, labels), not batches of them."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    return not isinstance(data[0], tuple)


def read_inputs_only(data: Any, where: str) -> Split | None:
    """A split without labels, like ``read_labelled``."""
    if data is None or isinstance(data, Split):
        return data
    return Split(_read_inputs(data, where), None)


def _read_inputs(inputs: Any, where: str) -> dict[str, "Array"]:
    """Input arrays by name; float64 becomes float32."""
    import numpy

    by_name = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
    arrays = {str(name): _as_numpy(array) for name, array in by_name.items()}
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
        _check_numbers(
            array,
            f"{where}: {name} contains",
            "give float32, or an integer type",
        )
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(
            f"{name}: {len(array)}" for name, array in arrays.items()
        )
        raise TaskError(
            f"{where}: the inputs have different numbers of samples ({lengths}).",
            fix="give each input one row per sample",
        )
    return {
        name: array.astype("float32") if array.dtype == numpy.float64 else array
        for name, array in arrays.items()
    }


def _check_numbers(array: "Array", what: str, fix: str) -> None:
    """Raise TaskError unless an array consists of finite numbers.

    ``what`` begins the message, ``fix`` is what to do about another dtype.
    """
    import numpy

    if array.dtype == object:
        raise TaskError(
            f"{what} Python objects, not numbers.",
            fix="create one array with one shape for all samples",
        )
    if array.dtype.kind not in NUMBERS:
        raise TaskError(f"{what} {array.dtype}, not numbers.", fix=fix)
    if array.dtype.kind == "f" and not numpy.isfinite(array).all():
        raise TaskError(
            f"{what} NaN or infinite values.", fix="clean the data first"
        )


def _concatenate(batches: Any, where: str) -> tuple[Any, Any]:
    """One pair of arrays from an iterable of ``(inputs, labels)`` batches."""
    import numpy

    try:
        pairs = [
            (_read_inputs(inputs, where), _as_numpy(labels))
            for inputs, labels in batches
        ]
    except (TypeError, ValueError) as problem:
        raise TaskError(
            f"{where}: expected (inputs, labels) or batches of them, "
            f"got {type(batches).__name__}.",
            fix="see edgekit.Task",
        ) from problem
    if not pairs:
        raise TaskError(f"{where}: no batches.", fix="give at least one batch")
    names = pairs[0][0].keys()
    try:
        inputs = {
            name: numpy.concatenate([batch[name] for batch, _ in pairs])
            for name in names
        }
        labels = numpy.concatenate([batch_labels for _, batch_labels in pairs])
    except (KeyError, ValueError) as problem:
        raise TaskError(
            f"{where}: the batches do not fit together: {problem}.",
            fix="give every batch the same inputs and shapes",
        ) from problem
    return inputs, labels


def _as_numpy(data: Any) -> "Array":
    """An array, or a torch tensor as an array, in this machine's byte order.

    torch is not imported.
    """
    import numpy

    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    array = numpy.asarray(data)
    if array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))
