"""TFLite files, executed by LiteRT."""

from edgekit.formats.record import Format, FormatStep, Implementation

_EXPORT = ("torch", "safetensors", "litert_torch", "ai_edge_litert", "torchao")
_LITERT = ("ai_edge_litert",)
_QUANTIZER = ("ai_edge_litert", "ai_edge_quantizer")

FORMAT = Format(
    name="tflite",
    suffix=".tflite",
    runtime="litert",
    loaded_by="litert",
    route=(
        "quantize_torch", "train_quantized", "torch_to_tflite", "calibrate_tflite",
        "tune_tflite", "quantize_tflite",
    ),
    steps={
        "torch_to_tflite": FormatStep(
            "export:TorchToTflite",
            _EXPORT,
            "tflite",
            "export to TFLite",
            parameters=("batches",),
        ),
        "calibrate_tflite": FormatStep(
            "calibrate:CalibrateTflite",
            _QUANTIZER,
            "tflite",
            "16-bit activations in the TFLite file",
            methods=("static",),
            only_if="wide_activations",
            parameters=("scheme", "samples", "keep"),
        ),
        # Tuning changes one graph and the weights that all signatures share.
        "tune_tflite": FormatStep(
            "tune:TuneTflite",
            _LITERT,
            "tflite",
            "smooth and round weights for dynamic int8",
            methods=("dynamic",),
            only_if="per_row",
            parameters=("samples", "keep"),
            one_signature=True,
        ),
        "quantize_tflite": FormatStep(
            "quantize:QuantizeTflite",
            _QUANTIZER,
            "tflite",
            "quantize the TFLite file",
            methods=("cast", "dynamic", "weight"),
            parameters=("scheme", "keep"),
        ),
    },
    schemes=(
        "float", "fp16", "w8a8-static", "w8a8-qat", "w8a16-static", "w8-dynamic",
        "w8-dynamic-tensor", "w8-weight", "w4-weight",
    ),
    audit=Implementation("audit:audit", _LITERT, "tflite"),
    inspect=Implementation("audit:audit_file", _LITERT, "tflite"),
    run=Implementation("", ("ai_edge_litert", "scipy"), "tflite", "LiteRT"),
    kernels=("litert",),
    distributions=("ai-edge-litert", "tflite-runtime"),
    several_signatures=True,
    build_distributions=("litert-torch", "ai-edge-quantizer"),
)  # fmt: skip
