"""ONNX files, executed by ONNX Runtime."""

from edgekit.formats.record import Format, FormatStep, Implementation

_TORCH_TO_ONNX = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")
_ORT = ("onnx", "onnxruntime")

FORMAT = Format(
    name="onnx",
    suffix=".onnx",
    runtime="onnxruntime",
    loaded_by="onnxruntime",
    route=("quantize_torch", "train_quantized", "torch_to_onnx", "lower_onnx", "quantize_onnx"),
    steps={
        "torch_to_onnx": FormatStep(
            "export:TorchToOnnx", (*_TORCH_TO_ONNX, "torchao"), "onnx", "export to ONNX"
        ),
        "lower_onnx": FormatStep(
            "lowering.lower:LowerOnnx",
            _TORCH_TO_ONNX,
            "onnx",
            "make Q/DQ fast on x86 (int8 to uint8)",
            methods=("static",),
        ),
        "quantize_onnx": FormatStep(
            "quantize:QuantizeOnnx",
            _TORCH_TO_ONNX,
            "onnx",
            "dynamic int8, weight-only and half precision on the ONNX file",
            methods=("cast", "dynamic", "weight"),
            parameters=("scheme", "keep"),
        ),
    },
    schemes=(
        "float", "fp16", "w8a8-static", "w8a8-static-linear", "w8a8-qat", "w8-dynamic",
        "w8-dynamic-tensor", "w8-weight", "w4-weight", "w8a8-static-inc", "w4-weight-rtn",
        "w4-weight-awq", "w4-weight-hqq",
    ),
    audit=Implementation("audit:audit", _ORT, "onnx"),
    inspect=Implementation("audit:read", _ORT, "onnx"),
    run=Implementation("", ("onnxruntime", "scipy"), "onnx", "ONNX Runtime"),
    kernels=("onnxruntime",),
    distributions=("onnxruntime",),
    build_distributions=("onnx", "onnxscript"),
)  # fmt: skip
