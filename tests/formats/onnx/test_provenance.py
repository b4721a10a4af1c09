"""Files of other tools are audited without error; the audit reports what is integer, what
is not, and why.
"""

import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from edgekit.contracts import Audit
from edgekit.errors import RunnerError
from edgekit.formats.onnx.audit import read

#: Work of one sample: stem 8x8 * 20*3*9, mixed 8x8 * 32*20, query 64 tokens * 32*32, two
#: products of 64 tokens, LSTM 64 * 64*(32+16), head 16*10.
STEM, MIXED, QUERY, SCORES, LSTM, HEAD = (
    64 * 20 * 27,
    64 * 32 * 20,
    64 * 32 * 32,
    2 * 64 * 64 * 32,
    64 * 64 * 48,
    160,
)
#: Places of the 8x8 image; each is a token of the linear layer.
TOKENS = 64
ALL = STEM + MIXED + QUERY + SCORES + LSTM + HEAD


class Net(nn.Module):
    """Convolutions whose channels fill no block, a linear layer on tokens, attention, an
    LSTM and a head.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed, self.query = (
            nn.Conv2d(3, 20, 3, padding=1),
            nn.Conv2d(20, 32, 1),
            nn.Linear(32, 32),
        )
        self.lstm, self.head = (
            nn.LSTM(32, 16, batch_first=True),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = (
            torch.relu(self.mixed(torch.relu(self.stem(x))))
            .flatten(2)
            .transpose(1, 2)
        )
        tokens = (
            torch.softmax(self.query(tokens) @ tokens.transpose(1, 2), -1)
            @ tokens
        )
        return self.head(self.lstm(tokens)[0][:, -1])  # type: ignore[no-any-return]


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Three random images."""

    def __init__(self) -> None:
        random = numpy.random.default_rng(0)
        self._left: Iterator[Any] = iter(
            [
                {"x": random.standard_normal((1, 3, 8, 8)).astype("float32")}
                for _ in range(3)
            ]
        )

    def get_next(self) -> Any:
        return next(self._left, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One network: as torch.onnx.export leaves it, and quantized in the ways of ONNX
    Runtime's own tools.
    """
    folder = tmp_path_factory.mktemp("foreign")
    plain, ready = str(folder / "float.onnx"), str(folder / "ready.onnx")
    torch.manual_seed(0)
    unsigned = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net().eval(),
            (torch.randn(2, 3, 8, 8),),
            plain,
            dynamo=True,
            opset_version=20,
            input_names=["x"],
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
            verbose=False,
        )
        quant_pre_process(plain, ready)
        quantize_static(ready, str(folder / "static.onnx"), Images())
        quantize_static(ready, str(folder / "u8s8.onnx"), Images(), **unsigned)
        quantize_static(
            ready,
            str(folder / "s16.onnx"),
            Images(),
            activation_type=QuantType.QInt16,
            weight_type=QuantType.QInt8,
        )
        quantize_static(
            ready,
            str(folder / "operators.onnx"),
            Images(),
            quant_format=QuantFormat.QOperator,
        )
        quantize_dynamic(ready, str(folder / "dynamic.onnx"))
        quantize_dynamic(
            ready, str(folder / "dynamic-per-channel.onnx"), per_channel=True
        )
        onnx.save(
            convert_float_to_float16(onnx.load(plain), keep_io_types=True),
            str(folder / "fp16.onnx"),
        )
        for bits, level in ((4, None), (4, 4), (8, 4)):
            config = DefaultWeightOnlyQuantConfig(
                block_size=32,
                is_symmetric=True,
                accuracy_level=level,
                bits=bits,
            )
            quantizer = MatMulNBitsQuantizer(
                onnx.load(ready), algo_config=config
            )
            quantizer.process()
            quantizer.model.save_model_to_file(
                str(folder / f"nbits{bits}-{level}.onnx"), False
            )
    return folder


def numbers(report: Audit) -> dict[str, Any]:
    return {measured.name: measured.value for measured in report.measurements}


def integer_and_all(report: Audit) -> tuple[int, int]:
    share = next(
        measured
        for measured in report.measurements
        if measured.name == "int8_mac_share"
    )
    return share.detail["int8"], share.detail["all"]


@pytest.mark.parametrize(
    ("name", "integer"),
    [
        ("float", 0),
        ("fp16", 0),
        ("u8s8", ALL - LSTM),
        ("operators", ALL - LSTM),
        ("dynamic", ALL - SCORES),
        ("dynamic-per-channel", ALL - SCORES),
        ("nbits4-None", 0),
        ("nbits4-4", QUERY),
        ("nbits8-4", QUERY),
    ],
)
def test_the_work_is_counted_to_the_last_product(
    files: pathlib.Path, name: str, integer: int
) -> None:
    """Whatever the runtime's layout or fused operators, all MACs are those of the formula,
    and the integer ones those of the layers that were quantized.
    """
    assert integer_and_all(read(files / f"{name}.onnx")) == (integer, ALL)


def packed_integer_products(path: pathlib.Path, optimized: pathlib.Path) -> int:
    """Multiply-accumulates of the products that the installed ONNX Runtime packs and
    computes in integers.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    products = 0
    for node in onnx.load(str(optimized)).graph.node:
        if node.op_type == "MatMulNBits":
            sizes = {
                attribute.name: attribute.i for attribute in node.attribute
            }
            products += (
                TOKENS * sizes["K"] * sizes["N"]
                if sizes["accuracy_level"] == 4
                else 0
            )
    return products


def test_the_work_of_wide_activations_is_counted(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """With 16-bit activations only a product that the runtime packs counts as integer: none
    up to ONNX Runtime 1.31, one in 1.32.
    """
    path = files / "s16.onnx"
    integer = packed_integer_products(path, tmp_path / "optimized.onnx")
    assert integer in (0, QUERY)
    assert integer_and_all(read(path)) == (integer, ALL)


def test_exporters_metadata_name_the_modules(files: pathlib.Path) -> None:
    """torch.onnx.export writes the module into metadata, not into the node's name; fused
    and float operators are named after it.
    """
    for name in ("float", "fp16"):
        report = read(files / f"{name}.onnx")
        modules = {
            row["module"]: row["macs"] for row in report.rows if row["macs"]
        }
        assert {
            "stem",
            "mixed",
            "query",
            "lstm",
            "head",
        } <= modules.keys() and modules["stem"] == STEM
    floats = next(
        measured
        for measured in report.measurements
        if measured.name == "float_ops"
    )
    assert any(name.startswith("lstm/") for name in floats.detail["operators"])


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        (
            "u8s8",
            [
                "1 of 7 convolutions, matrix products and recurrent layers",
                "float: node_lstm__2. An LSTM computes in int8 only if it was quantized",
            ],
        ),
        (
            "s16",
            [
                "16 bits, and this runtime has no integer kernels for these operators",
                "Q/DQ pairs did not fuse",
            ],
        ),
        ("operators", ["operators have signed activations (int8)"]),
        (
            "dynamic",
            [
                "2 ConvInteger, which is slower than float on x86",
                "Calibrate the file",
            ],
        ),
        ("nbits4-None", ["1 products with packed weights dequantize them"]),
        ("fp16", ["casts between float types", "its nodes are out of order"]),
    ],
)
def test_each_known_sign_of_slowness_is_reported(
    files: pathlib.Path, name: str, phrases: list[str]
) -> None:
    """What is slow, which operators, and what helps; the float file and accuracy_level 4
    have nothing of it.
    """
    warnings_text = "\n".join(read(files / f"{name}.onnx").warnings)
    for text in phrases:
        assert text in warnings_text
    for clean in ("float", "nbits8-4"):
        assert not any(
            "packed" in text or "ConvInteger" in text or "casts" in text
            for text in read(files / f"{clean}.onnx").warnings
        )


def test_products_without_a_module_keep_the_name_that_the_file_gives_them(
    files: pathlib.Path,
) -> None:
    """ONNX Runtime renames what it fuses; the report names the file's own nodes."""
    original_names = {
        node.name for node in onnx.load(str(files / "u8s8.onnx")).graph.node
    }
    report = read(files / "u8s8.onnx")
    assert all(
        row["name"] in original_names for row in report.rows if row["macs"]
    )


def test_signed_activations_leave_products_in_float(
    files: pathlib.Path,
) -> None:
    """The library's own defaults, int8 activations: not all that was quantized is fused,
    and the report names them and the likely reason.
    """
    report = read(files / "static.onnx")
    assert (
        0 < integer_and_all(report)[0] < ALL - LSTM
        and integer_and_all(report)[1] == ALL
    )
    assert any(
        "of a quantized graph compute in float" in text
        for text in report.warnings
    )


def test_integer_operators_with_float_results_are_listed_as_int8(
    files: pathlib.Path,
) -> None:
    """A dynamic product reads and writes floats; what it computes in is int8, and it is no
    float operator.
    """
    report = read(files / "dynamic.onnx")
    computes = {row["op"]: row["dtype"] for row in report.rows if row["macs"]}
    assert {"ConvInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"} <= {
        op for op, dtype in computes.items() if dtype == "int8"
    }
    assert (
        numbers(read(files / "nbits4-4.onnx"))["float_ops"]
        < numbers(read(files / "nbits4-None.onnx"))["float_ops"]
    )


def test_nodes_out_of_order_are_no_way_around_the_checker(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A file whose nodes are out of order is sorted and checked; with external data it is
    refused, for the checker stops before it has looked at these.
    """
    model = onnx.load(str(files / "fp16.onnx"))
    (tmp_path / "data.bin").write_bytes(b"\0" * 64)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", "data.bin"),
        ("offset", "0"),
        ("length", "16"),
    ):
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "evil.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        RunnerError,
        match="not a valid ONNX file: its nodes are out of order and its weights are in other",
    ):
        read(tmp_path / "evil.onnx")
    loop = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Add", ["x", "b"], ["a"]),
            onnx.helper.make_node("Relu", ["a"], ["b"]),
        ],
        "cycle",
        [onnx.helper.make_tensor_value_info("x", 1, [1])],
        [onnx.helper.make_tensor_value_info("b", 1, [1])],
    )
    (tmp_path / "cycle.onnx").write_bytes(
        onnx.helper.make_model(
            loop, opset_imports=[onnx.helper.make_opsetid("", 20)]
        ).SerializeToString()
    )
    with pytest.raises(
        RunnerError, match="not a valid ONNX file: it contains a cycle at Add"
    ):
        read(tmp_path / "cycle.onnx")
