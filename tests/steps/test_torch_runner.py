"""The torch reference has the same interface as a file."""

import pathlib
from typing import Any

import numpy
import pytest
import torch

from edgekit.artifact import Part
from edgekit.errors import ModelError, RunnerError
from edgekit.signature import BATCH, Signature, TensorSpec
from edgekit.steps.torch_runner import TorchRunner
from edgekit.testing import tiny_convolution, tiny_network


def floats(name: str, *dims: int | str) -> TensorSpec:
    """A float32 tensor."""
    return TensorSpec(name=name, dtype="float32", dims=dims)


def part(
    name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Part:
    """A part without files."""
    return Part(
        name=name, signature=Signature(inputs=inputs, outputs=outputs), files={}
    )


MAIN = part("main", (floats("input", BATCH, 8),), (floats("output", BATCH, 3),))


class Pair(torch.nn.Module):
    """Two inputs, two outputs, given as a tuple or by name."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.named = named

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        less, more = left - right, (left + right).T.contiguous().T
        return (
            {"more": more, "less": less, "extra": left}
            if self.named
            else (less, more)
        )


def test_it_gives_what_the_network_gives() -> None:
    """600 samples through the runner equal one call of the network in evaluation mode;
    where contains torch's version.
    """
    network, values = (
        tiny_network(),
        numpy.random.default_rng(0).standard_normal((600, 8)).astype("float32"),
    )
    with TorchRunner({"main": network}, (MAIN,)) as runner, torch.no_grad():
        assert numpy.allclose(
            runner.infer({"input": values})["output"],
            network(torch.from_numpy(values)).numpy(),
            atol=1e-6,
        )
        assert runner.where == f"local: torch {torch.__version__}, 1 thread"


def test_it_evaluates_and_puts_things_back() -> None:
    """Dropout does nothing while it runs; the network's mode and the number of threads are
    as before.
    """
    network = torch.nn.Sequential(torch.nn.Dropout(0.9), tiny_network())
    network.train()
    network[1].eval()
    values = numpy.ones((4, 8), "float32")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        outputs = TorchRunner({"main": network}, (MAIN,)).infer(
            {"input": values}
        )["output"]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (
        numpy.allclose(outputs, outputs[0])
        and network.training
        and not network[1].training
    )


@pytest.mark.parametrize("named", [False, True])
def test_several_outputs_go_by_order_or_by_name(named: bool) -> None:
    """A tuple is matched in the signature's order, a mapping by name; what the signature
    lacks is dropped.
    """
    pair = part(
        "main",
        (floats("left", BATCH, 3), floats("right", BATCH, 3)),
        (floats("less", BATCH, 3), floats("more", BATCH, 3)),
    )
    left, right = (
        numpy.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    )
    outputs = TorchRunner({"main": Pair(named)}, (pair,)).infer(
        {"right": right, "left": left}
    )
    assert list(outputs) == ["less", "more"]
    assert numpy.array_equal(
        outputs["less"], left - right
    ) and numpy.array_equal(outputs["more"], left + right)


def test_parts_are_chained() -> None:
    """Two networks run one after the other, fed by name."""
    encoder, decoder = tiny_network(), torch.nn.ReLU()
    hidden = floats("hidden", BATCH, 3)
    parts = (
        part("encoder", (floats("input", BATCH, 8),), (hidden,)),
        part("decoder", (hidden,), (floats("output", BATCH, 3),)),
    )
    values = (
        numpy.random.default_rng(0).standard_normal((5, 8)).astype("float32")
    )
    outputs = TorchRunner(
        {"decoder": decoder, "encoder": encoder}, parts
    ).infer({"input": values})["output"]
    with torch.no_grad():
        assert numpy.allclose(
            outputs, torch.relu(encoder(torch.from_numpy(values))).numpy()
        )


def test_an_exported_graph_runs_with_its_own_batch(
    tmp_path: pathlib.Path,
) -> None:
    """A graph of torch.export, which refuses ``eval()``, runs; a batch that it has fixed at
    4 takes 9 samples.
    """
    network = tiny_convolution().eval()
    graph = torch.export.export(network, (torch.zeros(4, 1, 8, 8),)).module()
    values = (
        numpy.random.default_rng(0)
        .standard_normal((9, 1, 8, 8))
        .astype("float32")
    )
    fixed = part(
        "main", (floats("input", 4, 1, 8, 8),), (floats("output", 4, 3),)
    )
    outputs = TorchRunner({"main": graph}, (fixed,)).infer({"input": values})[
        "output"
    ]
    with torch.no_grad():
        assert numpy.allclose(
            outputs, network(torch.from_numpy(values)).numpy(), atol=1e-6
        )


def test_wrong_data_and_wrong_networks_are_reported() -> None:
    """A missing network, a missing input, a shape that does not fit and a network that
    fails have clear errors.
    """
    with pytest.raises(
        ModelError, match="No network for the part main\\. Available: other"
    ):
        TorchRunner({"other": tiny_network()}, (MAIN,))
    with pytest.raises(ModelError, match="No network"):
        TorchRunner({}, ())
    with pytest.raises(ModelError, match="requires the inputs input"):
        TorchRunner({"main": tiny_network()}, (MAIN,)).infer(
            {"x": numpy.ones((1, 8), "float32")}
        )
    with pytest.raises(RunnerError, match="same number of samples"):
        TorchRunner({"main": tiny_network()}, (MAIN,)).infer(
            {"input": numpy.ones((0, 8), "float32")}
        )
    with pytest.raises(RunnerError, match="The network of part 'main' failed"):
        TorchRunner({"main": tiny_convolution()}, (MAIN,)).infer(
            {"input": numpy.ones((2, 8), "float32")}
        )
    two = part(
        "main",
        (floats("input", BATCH, 8),),
        (floats("output", BATCH, 3), floats("more", BATCH, 3)),
    )
    with pytest.raises(RunnerError, match="expected 2 outputs, got 1"):
        TorchRunner({"main": tiny_network()}, (two,)).infer(
            {"input": numpy.ones((2, 8), "float32")}
        )
