"""PyTorch, ONNX files, TensorRT's graphs and TFLite files count the same multiply-accumulates.

Every counter is also compared with the number worked out by hand, in ``NETWORKS``.
"""

import pathlib

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.onnx.optimized import optimize
from edgekit.formats.tensorrt.graph import count_macs as count_tensorrt
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite.conversion import convert
from edgekit.signature import Signature, TensorSpec
from edgekit.steps.torch_counting import count_macs as count_torch


class Attention(nn.Module):
    """Two heads of 8 channels on 6 tokens; weights of 16x48 and 16x16."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            self.project(x).reshape(-1, 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
        )
        scores = torch.softmax(query @ key.transpose(2, 3) / 8**0.5, -1)
        return self.out((scores @ value).transpose(1, 2).reshape(-1, 6, 16))


class Recurrent(nn.Module):
    """An LSTM of 7 steps, 12 inputs and 8 hidden values."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


IMAGE = (8, 10, 10)
#: The network, the shape of one sample, and its multiply-accumulates by hand.
NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "convolution": (
        nn.Conv2d(8, 12, 3, padding=1, stride=2),
        IMAGE,
        5 * 5 * 12 * 8 * 9,
    ),
    "pointwise": (nn.Conv2d(8, 12, 1), IMAGE, 100 * 12 * 8),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), IMAGE, 8 * 8 * 8 * 9),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), IMAGE, 8 * 8 * 12 * 2 * 9),
    "transposed": (
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        IMAGE,
        100 * 8 * 6 * 4,
    ),
    "linear": (nn.Linear(20, 30), (20,), 20 * 30),
    "linear on tokens": (nn.Linear(20, 30), (5, 20), 5 * 20 * 30),
    "attention": (
        Attention(),
        (6, 16),
        6 * 16 * 48 + 2 * (2 * 6 * 6 * 8) + 6 * 16 * 16,
    ),
}


def signature(network: nn.Module, shape: tuple[int, ...]) -> Signature:
    result = network(torch.zeros(1, *shape))
    specs = [
        TensorSpec(name=name, dtype="float32", dims=("batch", *dims))
        for name, dims in (
            ("input", shape),
            ("output", tuple(result.shape[1:])),
        )
    ]
    return Signature(inputs=(specs[0],), outputs=(specs[1],))


def write_onnx(
    network: nn.Module, shape: tuple[int, ...], path: pathlib.Path
) -> None:
    onnx_graph.write(export(network, signature(network, shape)), path)


def count_onnx(path: pathlib.Path) -> int:
    """As ONNX Runtime runs the file."""
    macs = [operator.macs for operator in optimize(path).operators]
    assert None not in macs
    return sum(count or 0 for count in macs)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_formats_count_the_same(name: str, tmp_path: pathlib.Path) -> None:
    """For one sample: the PyTorch network, the ONNX file as ONNX Runtime optimizes it, the
    graph that TensorRT parses, and the TFLite file.
    """
    network, shape, expected = NETWORKS[name]
    network = network.eval()
    onnx_path = tmp_path / "main.onnx"
    tflite_path = tmp_path / "main.tflite"
    write_onnx(network, shape, onnx_path)
    sample = torch.zeros(1, *shape)
    convert(network, (sample,), tflite_path)
    counts = {
        "torch": count_torch(network, (sample,)),
        "onnx": count_onnx(onnx_path),
        "tensorrt": sum(count_tensorrt(onnx.load(str(onnx_path))).values()),
        "tflite": tflite_graph.read(tflite_path).macs,
    }
    assert counts == dict.fromkeys(counts, expected)


def test_an_lstm_is_counted_where_its_operator_is_known(
    tmp_path: pathlib.Path,
) -> None:
    """ONNX has one operator for an LSTM: 7 steps of 4 gates with 8 rows of 12 + 8 weights.

    PyTorch's FLOP counter has no rule for an LSTM on the CPU, and TensorRT's graph lists it
    under ``uncounted``, so both count 0.
    """
    network = Recurrent().eval()
    path = tmp_path / "main.onnx"
    write_onnx(network, (7, 12), path)
    assert count_onnx(path) == 7 * 4 * 8 * (12 + 8)
    assert count_tensorrt(onnx.load(str(path))) == {}
    assert count_torch(network, (torch.zeros(1, 7, 12),)) == 0
