"""Intel's neural-compressor: reads the float network and writes the quantized ONNX file."""

from edgekit.formats.record import FormatStep, Provider

PROVIDER = Provider(
    name="neural-compressor",
    folder="neural_compressor",
    step_name="neural_compressor_to_onnx",
    step=FormatStep(
        "export:NeuralCompressorToOnnx",
        (
            "torch", "safetensors", "onnx", "onnxscript", "onnxruntime", "torchao",
            "neural_compressor",
        ),
        "intel",
        "quantize with neural-compressor and export to ONNX",
        parameters=("scheme", "samples"),
    ),
    replaces=("quantize_torch", "torch_to_onnx", "quantize_onnx"),
)  # fmt: skip
