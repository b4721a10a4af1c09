"""Weights become integers with the scales that were asked for, wherever OpenVINO has them."""

import pathlib
from typing import Any

import numpy
import openvino
import pytest
import torch
from openvino import opset13 as ops
from torch import nn

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.openvino import compress
from edgekit.signature import Signature, TensorSpec


def run(model: Any, array: Any) -> Any:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, "CPU", options)([array])[0]


def product(weights: Any, *, transposed: bool) -> Any:
    """A model of one matrix product."""
    data = ops.parameter([1, 64], numpy.float32, name="x")
    return openvino.Model(
        [ops.matmul(data, ops.constant(weights), False, transposed)], [data]
    )


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_each_output_has_its_own_scale(bits: int, transposed: bool) -> None:
    """Outputs a thousand times smaller keep their relative accuracy: the error of each
    weight is at most half a step of its output (of its block, for 4 bits).
    """
    random = numpy.random.default_rng(0)
    scales = numpy.array([1e-3, 1, 1e3] * 8, "float32")
    weights = (
        random.standard_normal((24, 64)).astype("float32") * scales[:, None]
    )
    stored = weights if transposed else numpy.ascontiguousarray(weights.T)
    model = product(stored, transposed=transposed)
    compress.quantize(model, bits, ())
    for place in (0, 17, 63):
        one = numpy.zeros((1, 64), "float32")
        one[0, place] = 1
        error = numpy.abs(run(model, one)[0] - weights[:, place])
        half_step = numpy.abs(weights).max(1) / (127 if bits == 8 else 7) / 2
        assert (error <= 1.05 * half_step + 1e-3 * scales).all()


def test_blocks_need_a_multiple_of_their_size() -> None:
    """A product of 63 inputs has 8 bits where others have 4."""
    weights = numpy.ones((40, 63), "float32")
    data = ops.parameter([1, 63], numpy.float32, name="x")
    model = openvino.Model(
        [ops.matmul(data, ops.constant(weights), False, True)], [data]
    )
    notes = compress.quantize(model, 4, ())
    assert (notes["int4"], notes["int8"]) == (0, 1)


def test_small_weights_stay_float() -> None:
    """Their description would take more bytes than they save."""
    weights = numpy.ones((compress.SMALLEST // 64 - 1, 64), "float32")
    notes = compress.quantize(product(weights, transposed=True), 8, ())
    assert notes["int8"] == 0


class Recurrent(nn.Module):
    """A table, an LSTM and a transposed convolution: every kind of weights but the usual."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.up = nn.ConvTranspose1d(32, 32, 4, stride=2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.table(tokens))
        wide: torch.Tensor = self.up(states.transpose(1, 2))
        return wide


def test_tables_recurrent_layers_and_transposed_convolutions(
    tmp_path: pathlib.Path,
) -> None:
    """All their weights become int8, and the outputs change by less than 2 % of their range."""
    tokens = TensorSpec(
        name="tokens", dtype="int64", dims=("batch", 6), low=0, high=50
    )
    wide = TensorSpec(name="wide", dtype="float32", dims=("batch", 32, 14))
    signature = Signature(inputs=(tokens,), outputs=(wide,))
    torch.manual_seed(0)
    onnx_graph.write(
        export(Recurrent().eval(), signature), tmp_path / "main.onnx"
    )
    model = openvino.convert_model(tmp_path / "main.onnx")
    array = signature.draw(2)["tokens"]
    expected = run(model, array)
    notes = compress.quantize(model, 8, ())
    assert notes["int8"] == 4
    assert numpy.abs(run(model, array) - expected).max() < 0.02 * numpy.ptp(
        expected
    )


def test_constants_survive_their_arrays() -> None:
    """float16 of any layout is stored as such, and 4-bit numbers do not refer to memory that
    Python frees: both went wrong without an error in OpenVINO 2026.4.
    """
    scales = numpy.asfortranarray(numpy.random.default_rng(0).random((3, 4, 1)))
    half = compress._constant(scales.astype(numpy.float16))
    assert half.get_element_type() == openvino.Type.f16
    levels = numpy.arange(64, dtype=numpy.uint8).reshape(4, 16) % 16
    packed = compress._uint4(levels.copy())
    other = [numpy.full(32, 255, numpy.uint8) for _ in range(1000)]
    model = openvino.Model([ops.convert(packed, "f32")], [])
    read = openvino.Core().compile_model(model, "CPU", {})([])[0]
    assert len(other) == 1000
    assert (read == levels).all()
