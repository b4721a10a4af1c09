"""Calibration data that would give useless ranges are refused, with the tensor and the
sample, and none are kept.
"""

import math

import pytest
import torch

from edgekit.errors import StepError
from edgekit.quantization.data import check_batches
from edgekit.signature import Signature, TensorSpec

INPUTS = (
    TensorSpec(name="image", dtype="float32", dims=("batch", 3)),
    TensorSpec(name="mask", dtype="bool", dims=("batch", 2)),
)
SIGNATURE = Signature(
    inputs=INPUTS,
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 1)),),
)


def batch(count: int = 4) -> tuple[torch.Tensor, ...]:
    return torch.randn(count, 3), torch.ones(count, 2, dtype=torch.bool)


def spoiled(value: float) -> tuple[torch.Tensor, ...]:
    image, mask = batch()
    image[2, 1] = value
    return image, mask


def test_good_data_pass_unchanged_one_batch_at_a_time() -> None:
    """Nothing is read ahead, and nothing is copied."""
    drawn: list[tuple[torch.Tensor, ...]] = []

    def source() -> object:
        for _ in range(3):
            drawn.append(batch())
            yield drawn[-1]

    for count, received in enumerate(check_batches(source(), SIGNATURE), 1):
        assert len(drawn) == count and received is drawn[-1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no calibration data"),
        ([batch(), spoiled(math.nan)], "NaN: image, sample 6"),
        ([spoiled(-math.inf)], "infinite value: image, sample 2"),
        ([batch(), batch(0)], "after sample 4 is empty"),
        ([batch()[:1]], "has 1 tensors; the network expects image, mask"),
        (
            [(batch(3)[0], batch(4)[1])],
            "different numbers of samples: 3 of image, 4 of mask",
        ),
        (
            [(torch.randn(4, 5), batch()[1])],
            r"shape \[4, 5\] in calibration; the network expects \['batch', 3\]",
        ),
        (
            [(torch.zeros(4, 3), batch()[1])] * 2,
            "constant: image is always 0, mask is always 1 in all 8 samples",
        ),
    ],
)
def test_bad_data_are_refused(
    data: list[tuple[torch.Tensor, ...]], message: str
) -> None:
    """What is wrong and where, with a fix."""
    with pytest.raises(StepError, match=message) as raised:
        list(check_batches(data, SIGNATURE))
    assert raised.value.fix


def test_one_input_may_be_constant() -> None:
    """A mask of ones in addition to images is no mistake, and neither is a batch that is constant
    among others that are not.
    """
    assert (
        len(
            list(
                check_batches(
                    [(torch.zeros(4, 3), batch()[1]), batch()], SIGNATURE
                )
            )
        )
        == 2
    )
