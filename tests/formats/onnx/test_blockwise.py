"""Weights in blocks: levels, scales and zero points."""

import numpy
import pytest

from edgekit.formats.onnx.blockwise import in_blocks


@pytest.mark.parametrize(("bits", "levels"), [(8, 254), (4, 15)])
def test_no_weight_is_further_off_than_half_a_step_and_zero_is_exact(
    bits: int, levels: int
) -> None:
    """For blocks of both signs, of one sign, of zeros, and a last block that is padded."""
    random = numpy.random.default_rng(0)
    weight = random.standard_normal((100, 7)).astype("float32")
    weight[:32, 1] = numpy.abs(weight[:32, 1]) + 1
    weight[32:64, 2] = 0
    weight[5, :] = 0
    stored, scales, zeros = in_blocks(weight, bits)
    assert stored.shape == (7, 4, 32)
    assert stored.max() < 2**bits
    back = (
        ((stored.astype("float32") - zeros[:, :, None]) * scales[:, :, None])
        .reshape(7, 128)
        .T
    )
    assert (back[100:] == 0).all()
    assert (back[5] == 0).all()
    assert (back[32:64, 2] == 0).all()
    span = numpy.stack(
        [
            numpy.ptp(
                numpy.vstack([weight[k : k + 32], numpy.zeros(7)]), axis=0
            )
            for k in range(0, 100, 32)
        ]
    )
    allowed = numpy.repeat(
        span / levels if bits == 4 else scales.T, 32, axis=0
    )[:100]
    # The zero point is rounded as well: half a step for it, half a step for the level.
    assert (
        numpy.abs(back[:100] - weight)
        <= (1.01 if bits == 4 else 0.51) * allowed + 1e-7
    ).all()
