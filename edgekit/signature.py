"""The named inputs and outputs of a model, and how the task's float arrays map to a file's.

A file may expect its images channel-last, or its numbers as int8. The signature carries both
facts, so that every runner feeds the same data: ``TensorSpec.encode`` converts an array of the
task to the file's layout and dtype, ``TensorSpec.decode`` converts an output back.
"""

from typing import TYPE_CHECKING, Literal

import pydantic

from edgekit.errors import ModelError
from edgekit.value import Value

if TYPE_CHECKING:
    from edgekit.arrays import Array, Feeds

DType = Literal[
    "float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"
]
Dim = int | str
#: The name of the sample axis in every signature.
BATCH = "batch"


class Quantization(Value):
    """Affine quantization of one tensor.

    real = scale * (stored - zero_point)  (Jacob et al. 2018, eq. 1)
    """

    scale: float = pydantic.Field(gt=0)
    zero_point: int


class TensorSpec(Value):
    """One named tensor of a file: dtype, dims, and how the task's array maps to it."""

    name: str
    dtype: DType
    #: Numbers, or names of free dimensions.
    dims: tuple[Dim, ...]
    #: Axis k of the file is axis axes[k] of the task; None if the order is the same.
    axes: tuple[int, ...] | None = None
    quantization: Quantization | None = None
    #: Random integers are drawn from [low, high); random floats uniformly from it if both are
    #: set, else from a standard normal distribution.
    low: float | None = None
    high: float | None = None

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape, with ``batch`` for every named dim."""
        return tuple(
            batch if isinstance(dim, str) else dim for dim in self.dims
        )

    @property
    def static_batch(self) -> int | None:
        """The number of samples that the file requires; None if any number is accepted."""
        first = self.dims[0] if self.dims else 1
        return first if isinstance(first, int) else None

    def sample(self, batch: int, seed: int = 0) -> "Array":
        """Draw random values in the file's layout, as floats if the file is quantized."""
        import numpy

        random = numpy.random.default_rng(seed)
        shape = self.shape(batch)
        if self.dtype == "bool":
            return random.integers(0, 2, shape).astype(bool)
        if self.quantization is None and not self.dtype.startswith("float"):
            low = int(self.low or 0)
            high = 2 if self.high is None else int(self.high)
            return random.integers(low, high, shape).astype(self.dtype)
        if self.low is not None and self.high is not None:
            return random.uniform(self.low, self.high, shape).astype("float32")
        return random.standard_normal(shape).astype("float32")

    def encode(self, array: "Array") -> "Array":
        """Convert an array of the task to the file's layout, quantization and dtype."""
        from edgekit.device_worker import tensors

        return tensors.encode(array, self.dtype, self.axes, self._affine())

    def decode(self, array: "Array") -> "Array":
        """Convert an array of the file to real numbers in the task's layout."""
        from edgekit.device_worker import tensors

        return tensors.decode(array, self.axes, self._affine())

    def describe(self) -> str:
        """Describe how the task's array is converted to the file's, as text."""
        steps = []
        if self.axes is not None:
            steps.append(f"axes in the order {list(self.axes)}")
        if self.quantization is not None:
            scale, zero_point = (
                self.quantization.scale,
                self.quantization.zero_point,
            )
            steps.append(
                f"divided by {scale:.9g}, rounded half to even, plus {zero_point}, "
                f"clipped to the range of {self.dtype}"
            )
        conversion = f"with {'; '.join(steps)}" if steps else "unchanged"
        return f"{self.dtype} {list(self.dims)}: the task's array {conversion}"

    def _affine(self) -> tuple[float, int] | None:
        if self.quantization is None:
            return None
        return self.quantization.scale, self.quantization.zero_point

    def _task_dims(self) -> tuple[Dim, ...]:
        """The dims in the order of the task's axes."""
        if self.axes is None:
            return self.dims
        return tuple(
            self.dims[self.axes.index(axis)] for axis in range(len(self.axes))
        )


class Signature(Value):
    """The named inputs and outputs of one part of a model."""

    inputs: tuple[TensorSpec, ...] = pydantic.Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = pydantic.Field(min_length=1)

    def check_feeds(self, feeds: "Feeds", where: str) -> None:
        """Check that every input is present with a matching shape, in the task's layout.

        The first axis counts samples, and may have any length.

        Raises:
            ModelError: An input is missing, or has another shape; ``where`` names the model.
        """
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            available = ", ".join(feeds) or "nothing"
            raise ModelError(
                f"{where} requires the inputs {', '.join(missing)}; the data has {available}.",
                fix="name the arrays of the task after the model's inputs",
            )
        for spec in self.inputs:
            expected = spec._task_dims()
            shape = feeds[spec.name].shape
            if not _shape_matches(shape, expected):
                raise ModelError(
                    f"{where} expects {spec.name} of shape {list(expected)}, "
                    f"got {list(shape)}.",
                    fix="resize the data, or use another model",
                )

    def draw(self, batch: int, seed: int = 0) -> dict[str, "Array"]:
        """Draw random inputs in the *task's* layout, as floats if the file is quantized."""
        import numpy

        feeds = {}
        for spec in self.inputs:
            array = spec.sample(batch, seed)
            if spec.axes is not None:
                array = numpy.transpose(array, numpy.argsort(spec.axes))
            feeds[spec.name] = array
        return feeds


def _shape_matches(shape: tuple[int, ...], dims: tuple[Dim, ...]) -> bool:
    """True if every fixed dim after the sample axis is that of the shape."""
    if len(shape) != len(dims):
        return False
    pairs = list(zip(shape, dims, strict=True))[1:]
    return all(size == dim for size, dim in pairs if isinstance(dim, int))
