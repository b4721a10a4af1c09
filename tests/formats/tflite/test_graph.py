"""Reading .tflite files: operators, multiply-accumulates, and clear errors for other files."""

import pathlib

import pytest
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite.graph import Graph, read


class Products(nn.Module):
    """One of each: convolution, depthwise, transposed, matrix product of two activations,
    linear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.up(torch.relu(self.depthwise(self.plain(x))))
        rows = torch.matmul(x, y)  # [1, 4, 12, 16]
        result: torch.Tensor = self.linear(rows.amax((1, 2)))
        return result


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("graph") / "products.tflite"
    litert_conversion.convert(
        Products().eval(),
        (torch.randn(1, 3, 6, 6), torch.randn(1, 4, 12, 16)),
        file,
        channel_last_inputs=(0,),
    )
    return file


@pytest.fixture(scope="module")
def graph(path: pathlib.Path) -> Graph:
    return read(path)


def test_macs_are_those_of_the_formulas(graph: Graph) -> None:
    """Each product's multiply-accumulates equal a count by hand."""
    counted = {
        operator.op: operator.macs
        for operator in graph.operators
        if operator.multiplies
    }
    assert counted == {
        "CONV_2D": 6 * 6 * 8 * 3 * 3 * 3,
        "DEPTHWISE_CONV_2D": 6 * 6 * 8 * 3 * 3,
        "TRANSPOSE_CONV": 6 * 6 * 8 * 2 * 2 * 4,
        "BATCH_MATMUL": 4 * 12 * 16 * 12,
        "FULLY_CONNECTED": 16 * 5,
    }
    assert graph.macs == sum(counted.values())


def test_weights_are_distinguished_from_activations(graph: Graph) -> None:
    """Weights are stored in the file with their bytes; the second factor of a matrix
    product is not.
    """
    by_name = {operator.op: operator for operator in graph.operators}
    weights = by_name["CONV_2D"].weights
    assert weights is not None
    assert (weights.stored, weights.shape, weights.bytes, weights.dtype) == (
        True,
        (8, 3, 3, 3),
        8 * 27 * 4,
        "float32",
    )
    factor = by_name["BATCH_MATMUL"].weights
    assert factor is not None
    assert not factor.stored
    assert graph.stored_bytes > weights.bytes


def test_ends_and_versions(graph: Graph) -> None:
    """Inputs and outputs with their shapes; every operator has a version."""
    assert [tensor.shape for tensor in graph.inputs] == [
        (1, 6, 6, 3),
        (1, 4, 12, 16),
    ]
    assert [tensor.shape for tensor in graph.outputs] == [(1, 5)]
    assert all(operator.version >= 1 for operator in graph.operators)
    assert graph.extra_graphs == 0


def test_small_constants_are_numbers(graph: Graph) -> None:
    """Axes and shapes can be read as integers."""
    reduce = next(
        operator for operator in graph.operators if operator.op == "REDUCE_MAX"
    )
    assert reduce.input(1).values is not None
    with pytest.raises(IndexError):
        reduce.input(7)


def test_other_files_are_reported(
    path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A missing file, garbage, and a file truncated anywhere each raise one clear error,
    never a crash.
    """
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read(tmp_path / "nothing.tflite")
    wrong = tmp_path / "wrong.tflite"
    for content in (
        b"",
        b"PK\x03\x04 some archive",
        b"garbage garbage garbage",
    ):
        wrong.write_bytes(content)
        with pytest.raises(ModelError, match="is not a TFLite file"):
            read(wrong)
    content = path.read_bytes()
    for length in (
        16,
        64,
        len(content) // 4,
        len(content) // 2,
        len(content) - 200,
    ):
        wrong.write_bytes(content[:length])
        with pytest.raises(ModelError, match="is damaged"):
            read(wrong)
