"""Calling networks by the names of their signatures."""

import numpy
import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import File, Part
from edgekit.errors import ModelError
from edgekit.signature import Signature, TensorSpec
from edgekit.steps.torch_chain import Chain, call, input_tensors, name_outputs
from edgekit.task import Split


def signature(inputs: dict[str, int], outputs: dict[str, int]) -> Signature:
    """Names and widths to a signature."""
    part_list = [
        tuple(
            TensorSpec(name=name, dtype="float32", dims=("batch", width))
            for name, width in each.items()
        )
        for each in (inputs, outputs)
    ]
    return Signature(inputs=part_list[0], outputs=part_list[1])


def part(name: str, inputs: dict[str, int], outputs: dict[str, int]) -> Part:
    """A part without a file that matters."""
    return Part(
        name=name,
        signature=signature(inputs, outputs),
        files={"weights": File(path="x")},
    )


class Add(nn.Module):
    """Two inputs."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + 10 * right


def test_outputs_are_named() -> None:
    """One tensor gets the stem, several are numbered, a dict keeps its names without Nones."""
    x = torch.zeros(1)
    assert list(name_outputs(x, "output", "N")) == ["output"]
    assert list(name_outputs((x,), "output", "N")) == ["output"]
    assert list(name_outputs((x, x), "head", "N")) == ["head_0", "head_1"]
    assert list(name_outputs({"logits": x, "cache": None}, "output", "N")) == [
        "logits"
    ]


@pytest.mark.parametrize(
    "result",
    [
        None,
        3,
        {},
        (),
        {"a": [torch.zeros(1)]},
        (torch.zeros(1), (torch.zeros(1),)),
    ],
)
def test_other_outputs_are_refused(result: object) -> None:
    """What is not a flat collection of tensors cannot be exported."""
    with pytest.raises(ModelError, match="returns"):
        name_outputs(result, "output", "The network")


def test_inputs_are_given_in_the_signatures_order() -> None:
    """The order of the feeds does not matter."""
    feeds = {"right": torch.tensor([[2.0]]), "left": torch.tensor([[1.0]])}
    assert (
        call(Add(), signature({"left": 1, "right": 1}, {"output": 1}), feeds)[
            "output"
        ].item()
        == 21
    )


def test_a_chain_links_parts_by_name() -> None:
    """A later part gets the data and the outputs of the parts before it; gradients reach
    all of them.
    """
    networks = {"double": nn.Linear(1, 1, bias=False), "sum": Add()}
    nn.init.constant_(networks["double"].weight, 2.0)  # type: ignore[arg-type]
    chain = Chain(
        networks,
        [
            part("double", {"x": 1}, {"double": 1}),
            part("sum", {"double": 1, "x": 1}, {"output": 1}),
        ],
    )
    output = chain({"x": torch.tensor([[3.0]])})["output"]
    assert output.item() == 36
    output.sum().backward()
    assert chain.networks[0].weight.grad is not None


def test_another_number_of_outputs_in_training_is_refused() -> None:
    """A network that returns extra outputs in training mode does not fit its signature."""
    with pytest.raises(
        ModelError, match="returned 1 tensors; its signature has 2"
    ):
        call(
            nn.Identity(),
            signature({"x": 1}, {"a": 1, "b": 1}),
            {"x": torch.zeros(1, 1)},
        )


def test_arrays_that_must_not_be_written_to_become_tensors_without_a_warning() -> (
    None
):
    """A read-only array is copied."""
    array = numpy.zeros((2, 3), dtype="float32")
    array.flags.writeable = False
    assert input_tensors(Split({"input": array}, None))["input"].shape == (2, 3)
