"""Finding the inputs and outputs of a model."""

import re
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.steps.torch_signatures import find_signatures
from edgekit.task import Split

RANDOM = numpy.random.default_rng(0)


def split(**inputs: Any) -> Split:
    """Samples without labels."""
    return Split(
        inputs or {"input": RANDOM.normal(size=(5, 4)).astype("float32")}, None
    )


def module(function: Callable[..., Any]) -> nn.Module:
    """An nn.Module whose forward has the parameters of this function."""

    network = nn.Identity()
    network.forward = function  # type: ignore[method-assign]
    return network


def names(
    networks: dict[str, nn.Module], data: Split
) -> dict[str, tuple[list[str], list[str]]]:
    """Input and output names by part."""
    return {
        name: (
            [spec.name for spec in result.inputs],
            [spec.name for spec in result.outputs],
        )
        for name, result in find_signatures(networks, data).items()
    }


def test_a_bare_array_goes_to_the_first_parameter() -> None:
    """It is called input whatever the network calls it; the output is called output; the
    batch axis is free.
    """
    result = find_signatures(
        {"main": module(lambda pixels: pixels * 2)}, split()
    )["main"]
    assert (result.inputs[0].name, result.inputs[0].dims) == (
        "input",
        ("batch", 4),
    )
    assert (result.outputs[0].name, result.outputs[0].dims) == (
        "output",
        ("batch", 4),
    )


def test_samples_are_drawn_from_the_range_of_the_data() -> None:
    """Floats between the smallest and the largest value, integers up to and with the
    largest.
    """
    data = split(
        image=numpy.array([[0.0], [255.0], [3.0]], dtype="float32"),
        token=numpy.array([[4], [9], [5]]),
    )
    inputs = find_signatures(
        {"main": module(lambda image, token: image + token)}, data
    )["main"].inputs
    assert [(spec.low, spec.high) for spec in inputs] == [(0, 255), (4, 10)]
    assert inputs[1].sample(100).max() == 9


def test_named_arrays_go_to_the_parameters_of_the_same_names() -> None:
    """The signature has the order of forward, not of the data."""
    data = split(
        mask=numpy.ones((5, 4), dtype="float32"),
        ids=numpy.ones((5, 4), dtype="int64"),
    )
    assert names(
        {"main": module(lambda ids, mask, unused=None: ids * mask)}, data
    )["main"][0] == ["ids", "mask"]


def test_parts_are_linked_by_name_and_by_order() -> None:
    """Outputs of an inner part carry its name, and are given to the next part's parameters
    in order.
    """
    two = module(lambda x: (x, x + 1))
    result = names(
        {"towers": two, "head": module(lambda a, b: {"logits": a + b})}, split()
    )
    assert result == {
        "towers": (["input"], ["towers_0", "towers_1"]),
        "head": (["towers_0", "towers_1"], ["logits"]),
    }


def test_a_later_part_takes_the_part_before_even_if_its_parameter_is_called_input() -> (
    None
):
    """nn.Sequential and nn.Linear call their parameter input: a head is fed by the
    features, not by the images.
    """
    result = names(
        {"features": nn.Sequential(nn.Linear(4, 6)), "head": nn.Linear(6, 3)},
        split(),
    )
    assert result == {
        "features": (["input"], ["features"]),
        "head": (["features"], ["output"]),
    }


def test_a_later_part_may_take_data_by_name() -> None:
    """A decoder reads its own input and the encoder's output."""
    data = split(
        sound=RANDOM.normal(size=(5, 4)).astype("float32"),
        text=RANDOM.normal(size=(5, 4)).astype("float32"),
    )
    result = names(
        {
            "encoder": module(lambda sound: sound),
            "decoder": module(lambda text, states: text + states),
        },
        data,
    )
    assert result["decoder"] == (["text", "encoder"], ["output"])


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x.reshape(2, 4), "failed on the data.*input float32"),
        (lambda x: x.sum(), "one row per sample"),
        (lambda x: x.mean(0, keepdim=True), "one row per sample"),
        (lambda x: torch.ones(len(x), len(x)), "depends on the data"),
        (lambda x: x / 0, "NaN or infinite"),
        (
            lambda x: torch.nn.functional.dropout(x, 0.5),
            "differs from call to call",
        ),
        (lambda x: x.double(), "float64, which edge runtimes do not have"),
        (lambda x, y: x + y, "requires y; the data contain input"),
        (lambda x, *, y: x + y, "requires y"),
        (lambda x: [x, [x]], "returns output_1: list"),
    ],
)
def test_what_does_not_fit_is_refused(
    forward: Callable[..., Any], message: str
) -> None:
    """A fixed batch, outputs without a sample axis, NaN, randomness, unknown inputs: one
    clear error each, with a fix.
    """
    with pytest.raises(ModelError, match=message) as caught:
        find_signatures({"main": module(forward)}, split())
    assert caught.value.fix


def test_a_fixed_batch_gets_its_own_hint() -> None:
    """A network that accepts two samples but not three has its batch size written in it."""
    with pytest.raises(ModelError, match="the batch size must be free"):
        find_signatures({"main": module(lambda x: x.reshape(2, 2, 2))}, split())


def test_the_error_contains_torchs_message_and_the_shapes() -> None:
    """Data of another width than the network's."""
    with pytest.raises(
        ModelError,
        match=r"input float32\[2, 4\].*mat1 and mat2 shapes cannot be multiplied",
    ):
        find_signatures({"main": nn.Linear(5, 2)}, split())


def test_unused_data_are_refused() -> None:
    """A misnamed array is not silently left out."""
    ones = numpy.ones((5, 4), dtype="float32")
    with pytest.raises(ModelError, match="no input named maks"):
        find_signatures(
            {"main": module(lambda ids, mask=None: ids)},
            split(ids=ones, maks=ones),
        )


def test_an_input_after_a_left_out_one_is_refused() -> None:
    """Inputs are given by position, so none may be left out before another."""
    ones = numpy.ones((5, 4), dtype="float32")
    with pytest.raises(ModelError, match="mask would be left out"):
        find_signatures(
            {"main": module(lambda ids, mask=None, types=None: ids + types)},
            split(ids=ones, types=ones),
        )


def test_a_type_that_no_runtime_has_is_refused() -> None:
    """complex64 inputs are refused by name."""
    with pytest.raises(
        ModelError, match="The input input is of type complex64"
    ):
        find_signatures(
            {"main": nn.Identity()},
            split(input=numpy.ones((3, 2), dtype="complex64")),
        )


def test_one_sample_is_enough() -> None:
    """A test set of one sample is repeated."""
    assert find_signatures(
        {"main": nn.Linear(4, 2)},
        split(input=numpy.ones((1, 4), dtype="float32")),
    )["main"].outputs[0].dims == ("batch", 2)


def test_batch_normalization_is_in_eval_mode() -> None:
    """The trial runs change nothing in the network."""
    network = nn.BatchNorm1d(4)
    before = (
        network.running_mean.clone()
        if isinstance(network.running_mean, Tensor)
        else None
    )
    find_signatures({"main": network}, split())
    assert before is not None
    assert torch.equal(network.running_mean, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "data", "fix"),
    [
        (nn.Linear(4, 2).double(), "float32", r"network\.float\(\)"),
        (nn.Linear(4, 2).half(), "float32", r"network\.float\(\)"),
        (nn.Linear(4, 2), "uint8", "give the task's data as float32"),
        (nn.Linear(4, 2), "float16", "give the task's data as float32"),
        (nn.Linear(5, 2), "float32", "must accept the task's data unchanged"),
    ],
)
def test_a_type_that_does_not_fit_gets_its_own_hint(
    network: nn.Module, data: str, fix: str
) -> None:
    """The fix names which of the two to change, the network or the data."""
    with pytest.raises(ModelError, match="failed on the data") as caught:
        find_signatures(
            {"main": network}, split(input=numpy.ones((5, 4), dtype=data))
        )
    assert re.search(fix, caught.value.fix or "")
