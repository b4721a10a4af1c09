"""The peers' own documented recipes for ONNX Runtime, each as one function that writes a
file.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.peer_inputs import NotApplicableError, PeerInputs, Recipe

#: Histograms keep all activations of all samples in memory.
HISTOGRAM_SAMPLES = 64


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: "Iterator[dict[str, Any]]") -> None:
        self._rows = rows

    def get_next(self) -> "dict[str, Any] | None":
        return next(self._rows, None)


def _prepared(inputs: PeerInputs) -> pathlib.Path:
    """Shapes inferred and the graph optimized, as the documentation asks for before
    quantizing.
    """
    path = inputs.folder / "prepared.onnx"
    quant_pre_process(
        str(inputs.float_file), str(path), skip_symbolic_shape=False
    )
    return path


def _static(
    inputs: PeerInputs,
    path: pathlib.Path,
    method: CalibrationMethod,
    samples: int | None = None,
) -> None:
    rows = (
        row
        for number, row in enumerate(inputs.rows())
        if samples is None or number < samples
    )
    quantize_static(
        str(_prepared(inputs)),
        str(path),
        _Rows(rows),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
    )


def static_min_max(inputs: PeerInputs, path: pathlib.Path) -> None:
    """onnxruntime.quantization, static: Q/DQ, u8 activations, s8 weights per channel, all
    that was seen.
    """
    _static(inputs, path, CalibrationMethod.MinMax)


def static_percentile(inputs: PeerInputs, path: pathlib.Path) -> None:
    """The same, ranges of the middle 99.999 %."""
    _static(inputs, path, CalibrationMethod.Percentile, HISTOGRAM_SAMPLES)


def static_entropy(inputs: PeerInputs, path: pathlib.Path) -> None:
    """The same, ranges of least relative entropy."""
    _static(inputs, path, CalibrationMethod.Entropy, HISTOGRAM_SAMPLES)


def dynamic(inputs: PeerInputs, path: pathlib.Path) -> None:
    """onnxruntime.quantization, dynamic: s8 weights per channel."""
    quantize_dynamic(
        str(_prepared(inputs)),
        str(path),
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def dynamic_unsigned(inputs: PeerInputs, path: pathlib.Path) -> None:
    """The same with u8 weights per channel."""
    quantize_dynamic(
        str(_prepared(inputs)),
        str(path),
        per_channel=True,
        weight_type=QuantType.QUInt8,
    )


def dynamic_fused(inputs: PeerInputs, path: pathlib.Path) -> None:
    """As the documentation advises for transformers: the transformers optimizer first, then
    dynamic per channel.
    """
    from onnxruntime.transformers.optimizer import optimize_model

    if inputs.attention is None:
        raise NotApplicableError("no transformer")
    fused = inputs.folder / "fused.onnx"
    heads, width = inputs.attention
    optimized = optimize_model(
        str(inputs.float_file),
        model_type="bert",
        num_heads=heads,
        hidden_size=width,
    )
    # The exporter's shapes are those of before the fusion, and quantize_dynamic stumbles
    # over them.
    del optimized.model.graph.value_info[:]
    optimized.save_model_to_file(str(fused))
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(
        str(fused),
        str(path),
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options=options,
    )


def _matmul_bits(
    inputs: PeerInputs, path: pathlib.Path, bits: int, block: int
) -> None:
    model = onnx.load(str(inputs.float_file))
    if not any(node.op_type == "MatMul" for node in model.graph.node):
        raise NotApplicableError("no MatMul")
    quantized = MatMulNBitsQuantizer(
        model, bits=bits, block_size=block, is_symmetric=True, accuracy_level=4
    )
    quantized.process()
    if not any(
        node.op_type == "MatMulNBits"
        for node in quantized.model.model.graph.node
    ):
        raise NotApplicableError("no MatMul with weights")
    quantized.model.save_model_to_file(str(path))


def bits8_block32(inputs: PeerInputs, path: pathlib.Path) -> None:
    """MatMulNBits, 8 bits in blocks of 32, integer accumulation."""
    _matmul_bits(inputs, path, 8, 32)


def bits8_block128(inputs: PeerInputs, path: pathlib.Path) -> None:
    """MatMulNBits, 8 bits in blocks of 128, integer accumulation."""
    _matmul_bits(inputs, path, 8, 128)


def bits4_block32(inputs: PeerInputs, path: pathlib.Path) -> None:
    """MatMulNBits, 4 bits in blocks of 32, integer accumulation."""
    _matmul_bits(inputs, path, 4, 32)


def nncf_quantize(inputs: PeerInputs, path: pathlib.Path) -> None:
    """NNCF on the ONNX file; in its transformer mode for transformers."""
    _nncf(inputs, path)


def nncf_per_tensor(inputs: PeerInputs, path: pathlib.Path) -> None:
    """The same with one scale for all channels of an activation: ONNX Runtime refuses
    others in front of depthwise convolutions.
    """
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters

    _nncf(
        inputs,
        path,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_quantization_params=QuantizationParameters(
                per_channel=False
            )
        ),
    )


def _nncf(inputs: PeerInputs, path: pathlib.Path, **options: Any) -> None:
    import nncf

    model_type = (
        nncf.ModelType.TRANSFORMER if inputs.attention is not None else None
    )
    model, data = (
        onnx.load(str(inputs.float_file)),
        nncf.Dataset(list(inputs.rows())),
    )
    quantized = nncf.quantize(
        model,
        data,
        model_type=model_type,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(inputs.calibration),
        **options,
    )
    onnx.save(quantized, str(path))


def neural_compressor(inputs: PeerInputs, path: pathlib.Path) -> None:
    """neural-compressor's static PT2E, its converted graph exported to ONNX; weights stay
    float in the file.
    """
    from neural_compressor.torch.quantization import convert

    _pt2e(inputs, path, convert)


def neural_compressor_folded(inputs: PeerInputs, path: pathlib.Path) -> None:
    """The same, its prepared graph converted by torchao itself, which stores the weights as
    int8.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    _pt2e(
        inputs,
        path,
        lambda prepared: convert_pt2e(prepared, fold_quantize=True),
    )


def _pt2e(
    inputs: PeerInputs,
    path: pathlib.Path,
    convert: Callable[[torch.nn.Module], torch.nn.Module],
) -> None:
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import (
        get_default_static_config,
        prepare,
    )

    example = tuple(
        torch.from_numpy(array[:2])
        for array in inputs.calibration.inputs.values()
    )
    shapes = tuple({0: torch.export.Dim("batch")} for _ in example)
    prepared = prepare(
        model=export(
            inputs.network, example_inputs=example, dynamic_shapes=shapes
        ),
        quant_config=get_default_static_config(),
    )
    with torch.no_grad():
        for row in inputs.rows():
            prepared(*(torch.from_numpy(array) for array in row.values()))
        program = torch.onnx.export(
            convert(prepared),
            example,
            dynamo=True,
            optimize=True,
            input_names=list(inputs.calibration.inputs),
            output_names=["output"],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


PEERS: Mapping[str, Recipe] = {
    "ORT static min-max": static_min_max,
    "ORT static percentile": static_percentile,
    "ORT static entropy": static_entropy,
    "ORT dynamic s8": dynamic,
    "ORT dynamic u8": dynamic_unsigned,
    "ORT dynamic, fused first": dynamic_fused,
    "ORT MatMulNBits 8, block 32": bits8_block32,
    "ORT MatMulNBits 8, block 128": bits8_block128,
    "ORT MatMulNBits 4, block 32": bits4_block32,
    "NNCF": nncf_quantize,
    "NNCF, per tensor": nncf_per_tensor,
    "neural-compressor PT2E": neural_compressor,
    "neural-compressor PT2E, folded": neural_compressor_folded,
}
