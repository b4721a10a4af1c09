"""A model's named inputs and outputs, and how the task's float arrays become what a file
really takes.

A file may want its images channel-last, or its numbers as int8. The signature carries both
facts, so that every runner feeds the same data: ``TensorSpec.encode`` turns the task's
array into the file's, ``decode`` turns an output back.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from edgekit.errors import ModelError
from edgekit.value import Value

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

DType = Literal["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]
Dim = int | str
#: The name of the sample axis in every signature.
BATCH = "batch"


class Quantization(Value):
    """Affine quantization of one tensor: real = scale * (stored - zero_point)  (Jacob et
    al. 2018, eq. 1).
    """

    scale: float = pydantic.Field(gt=0)
    zero_point: int


class TensorSpec(Value):
    """One named tensor: dtype, dims (a number or a name), and how the task's array maps to
    it.
    """

    name: str
    dtype: DType
    dims: tuple[Dim, ...]
    #: The file's axis k is the task's axis axes[k]; None where both have the same order.
    axes: tuple[int, ...] | None = None
    quantization: Quantization | None = None
    #: Integers are drawn from [low, high), floats uniformly where both are set, else from a
    #: standard normal.
    low: float | None = None
    high: float | None = None

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape in numbers. ``batch`` stands for every named dim."""
        return tuple(batch if isinstance(dim, str) else dim for dim in self.dims)

    @property
    def static_batch(self) -> int | None:
        """The number of samples that the file takes at once, None where that is free."""
        first = self.dims[0] if self.dims else 1
        return first if isinstance(first, int) else None

    def sample(self, batch: int, seed: int = 0) -> "Array":
        """Draw an input of this kind, in the file's own layout and dtype before
        quantization.
        """
        import numpy

        random = numpy.random.default_rng(seed)
        shape = self.shape(batch)
        if self.dtype == "bool":
            return random.integers(0, 2, shape).astype(bool)
        if self.quantization is None and not self.dtype.startswith("float"):
            low, high = int(self.low or 0), int(2 if self.high is None else self.high)
            return random.integers(low, high, shape).astype(self.dtype)
        if self.low is not None and self.high is not None:
            return random.uniform(self.low, self.high, shape).astype("float32")
        return random.standard_normal(shape).astype("float32")

    def encode(self, array: "Array") -> "Array":
        """The task's array as the file takes it: axes in the file's order, quantized where
        the file is, in its dtype.
        """
        from edgekit.device_worker import tensors

        return tensors.encode(array, self.dtype, self.axes, self._affine())

    def decode(self, array: "Array") -> "Array":
        """A file's output as real numbers, axes in the task's order."""
        from edgekit.device_worker import tensors

        return tensors.decode(array, self.axes, self._affine())

    def words(self) -> str:
        """What the file takes, made from the task's array, in words."""
        steps = [] if self.axes is None else [f"axes in the order {list(self.axes)}"]
        if self.quantization is not None:
            steps.append(
                f"divided by {self.quantization.scale:.9g}, rounded to even, plus {self.quantization.zero_point}, cut to the range of {self.dtype}"
            )
        return f"{self.dtype} {list(self.dims)}: the task's array" + (
            f" with {'; '.join(steps)}" if steps else " as it is"
        )

    def _affine(self) -> tuple[float, int] | None:
        return (
            None
            if self.quantization is None
            else (self.quantization.scale, self.quantization.zero_point)
        )


class Signature(Value):
    """The named inputs and outputs of one part of a model."""

    inputs: tuple[TensorSpec, ...] = pydantic.Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = pydantic.Field(min_length=1)

    def check_feeds(self, feeds: "Feeds", where: str) -> None:
        """Raise ModelError unless ``feeds`` has every input, each with a shape that fits."""
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            have = ", ".join(feeds) or "nothing"
            raise ModelError(
                f"{where} needs the inputs {', '.join(missing)}; the data has {have}.",
                fix="name the arrays of the task after the model's inputs",
            )
        for spec in self.inputs:
            wanted = (
                spec.dims
                if spec.axes is None
                else tuple(spec.dims[spec.axes.index(k)] for k in range(len(spec.axes)))
            )
            given = feeds[spec.name].shape
            if len(given) != len(wanted) or any(
                isinstance(w, int) and k > 0 and w != g
                for k, (w, g) in enumerate(zip(wanted, given, strict=True))
            ):
                raise ModelError(
                    f"{where} takes {spec.name} of shape {list(wanted)}; the data has {list(given)}.",
                    fix="resize the data, or take another model",
                )

    def draw(self, batch: int, seed: int = 0) -> dict[str, "Array"]:
        """Random inputs in the *task's* layout, as floats where the file is quantized."""
        import numpy

        drawn = {}
        for spec in self.inputs:
            array = spec.sample(batch, seed)
            drawn[spec.name] = (
                array
                if spec.axes is None
                else numpy.transpose(array, numpy.argsort(spec.axes))
            )
        return drawn
