"""Signatures: the task's arrays are converted to a file's, and back."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.errors import ModelError
from edgekit.signature import Quantization, Signature, TensorSpec

NHWC = TensorSpec(
    name="input",
    dtype="int8",
    dims=(1, 8, 6, 3),
    axes=(0, 2, 3, 1),
    quantization=Quantization(scale=0.05, zero_point=-7),
)
FLOAT = TensorSpec(name="input", dtype="float32", dims=("batch", 3, 8, 6))
OUT = TensorSpec(name="output", dtype="float32", dims=("batch", 10))

axes_of_four = st.permutations(range(4)).map(tuple)
stored = st.sampled_from(("int8", "uint8", "int16"))


@given(
    array=arrays.arrays(
        "float32", (2, 3, 4, 5), elements=st.floats(-100, 100, width=32)
    ),
    axes=axes_of_four,
    dtype=stored,
    scale=st.floats(0.001, 1.0),
    share=st.floats(0, 1),
)
def test_decode_inverts_encode_to_within_half_a_step(
    array: numpy.ndarray,
    axes: tuple[int, ...],
    dtype: str,
    scale: float,
    share: float,
) -> None:
    """decode(encode(x)) is x, clipped to what the dtype can hold, to within half a
    quantization step; in the same layout.
    """
    info = numpy.iinfo(dtype)
    zero = int(info.min + share * (info.max - info.min))
    spec = TensorSpec(
        name="x",
        dtype=dtype,
        dims=("batch", 3, 4, 5),
        axes=axes,
        quantization=Quantization(scale=scale, zero_point=zero),
    )
    encoded = spec.encode(array)
    assert encoded.dtype == dtype
    assert encoded.shape == tuple(array.shape[k] for k in axes)
    low, high = (info.min - zero) * scale, (info.max - zero) * scale
    expected = numpy.clip(array, low, high)
    error = numpy.abs(spec.decode(encoded) - expected).max()
    rounding = 1e-4 * max(1.0, float(numpy.abs(expected).max()))
    assert error <= scale / 2 + rounding


@given(
    array=arrays.arrays("int8", (2, 3, 4, 5)),
    axes=axes_of_four,
    scale=st.floats(0.001, 1.0),
    zero=st.integers(-128, 127),
)
def test_stored_numbers_survive_a_round_trip_exactly(
    array: numpy.ndarray, axes: tuple[int, ...], scale: float, zero: int
) -> None:
    """encode(decode(q)) is q: no step is lost on the way through real numbers."""
    spec = TensorSpec(
        name="x",
        dtype="int8",
        dims=("batch", 3, 4, 5),
        axes=axes,
        quantization=Quantization(scale=scale, zero_point=zero),
    )
    assert numpy.array_equal(spec.encode(spec.decode(array)), array)


@given(
    array=arrays.arrays(
        "float32", (2, 3, 4, 5), elements=st.floats(-1e6, 1e6, width=32)
    ),
    axes=st.none() | axes_of_four,
)
def test_a_float_file_gets_unchanged_numbers(
    array: numpy.ndarray, axes: tuple[int, ...] | None
) -> None:
    """If nothing is quantized only the layout changes, and back."""
    spec = TensorSpec(
        name="x", dtype="float32", dims=("batch", 3, 4, 5), axes=axes
    )
    encoded = spec.encode(array)
    assert encoded.flags["C_CONTIGUOUS"]
    assert numpy.array_equal(spec.decode(encoded), array)


def test_an_image_becomes_channel_last_int8() -> None:
    """One pixel of one channel is where TFLite expects it, quantized, rounded half to even."""
    image = numpy.zeros((1, 3, 8, 6), "float32")
    image[0, 2, 4, 5] = 0.525
    encoded = NHWC.encode(image)
    assert encoded.shape == (1, 8, 6, 3)
    assert encoded[0, 4, 5, 2] == round(0.525 / 0.05) - 7
    assert encoded[0, 0, 0, 0] == -7


def test_values_outside_the_range_are_clipped() -> None:
    """A number too large for int8 saturates, and never wraps around."""
    encoded = NHWC.encode(numpy.full((1, 3, 8, 6), 1e6, "float32"))
    assert encoded.min() == 127


def test_half_precision_outputs_become_float32() -> None:
    """Outputs of a float16 file are compared in float32."""
    spec = TensorSpec(name="y", dtype="float16", dims=("batch", 2))
    assert spec.decode(numpy.ones((1, 2), "float16")).dtype == numpy.float32


def test_a_batch_may_be_free_or_fixed() -> None:
    """A named first dim accepts any number of samples, an integer only that many."""
    assert (FLOAT.static_batch, NHWC.static_batch) == (None, 1)
    assert FLOAT.shape(5) == (5, 3, 8, 6)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        (
            {"image": numpy.zeros((2, 3, 8, 6), "float32")},
            "requires the inputs input; the data has image",
        ),
        ({}, "the data has nothing"),
        (
            {"input": numpy.zeros((2, 1, 8, 6), "float32")},
            "expects input of shape ['batch', 3, 8, 6], got [2, 1, 8, 6]",
        ),
        ({"input": numpy.zeros((2, 3, 8), "float32")}, "got [2, 3, 8]"),
    ],
)
def test_data_of_another_shape_are_refused(
    feeds: dict[str, numpy.ndarray], message: str
) -> None:
    """A wrong name, size or number of axes is an error with both shapes."""
    with pytest.raises(ModelError) as caught:
        Signature(inputs=(FLOAT,), outputs=(OUT,)).check_feeds(
            feeds, "net.py:model"
        )
    assert message in caught.value.message
    assert caught.value.fix


def test_any_number_of_samples_fits_in_the_tasks_layout() -> None:
    """A channel-last file of batch 1 is fed any number of the task's channel-first arrays."""
    Signature(inputs=(NHWC,), outputs=(OUT,)).check_feeds(
        {"input": numpy.zeros((7, 3, 8, 6), "float32")}, "file"
    )


def test_drawn_inputs_fit_and_repeat() -> None:
    """Random inputs are in the task's layout, in range, and the same for the same seed."""
    tokens = TensorSpec(
        name="ids", dtype="int64", dims=("batch", 12), low=0, high=30
    )
    mask = TensorSpec(name="mask", dtype="bool", dims=("batch", 12))
    unit = TensorSpec(
        name="u", dtype="float32", dims=("batch", 4), low=0, high=1
    )
    signature = Signature(inputs=(NHWC, tokens, mask, unit), outputs=(OUT,))
    first, again, other = (
        signature.draw(3, seed=1),
        signature.draw(3, seed=1),
        signature.draw(3, seed=2),
    )
    assert all(numpy.array_equal(first[name], again[name]) for name in first)
    assert not numpy.array_equal(first["ids"], other["ids"])
    assert first["ids"].min() >= 0
    assert first["ids"].max() < 30
    assert (first["mask"].dtype, first["input"].dtype) == (
        numpy.bool_,
        numpy.float32,
    )
    assert first["input"].shape == (1, 3, 8, 6)
    assert 0 <= first["u"].min() <= first["u"].max() <= 1
