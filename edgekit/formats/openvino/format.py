"""OpenVINO files, for Intel and other x86 processors."""

from edgekit.formats.record import Format, FormatStep, Implementation

_OPENVINO = ("onnx", "openvino")

FORMAT = Format(
    name="openvino",
    suffix=".xml",
    runtime="openvino",
    loaded_by="openvino",
    route=("quantize_torch", "train_quantized", "torch_to_onnx", "onnx_to_openvino"),
    steps={
        "onnx_to_openvino": FormatStep(
            "export:OnnxToOpenvino",
            _OPENVINO,
            "openvino",
            "convert to OpenVINO, with 16, 8 or 4-bit weights",
            parameters=("scheme", "keep"),
        ),
    },
    schemes=("float", "fp16", "bf16", "w8a8-static", "w8a8-qat", "w8-weight", "w4-weight"),
    audit=Implementation("audit:audit", _OPENVINO, "openvino"),
    inspect=Implementation("audit:read", _OPENVINO, "openvino"),
    run=Implementation("", ("openvino", "scipy"), "openvino", "OpenVINO"),
    # As in ONNX Runtime, but for 1-D and 3-D convolutions and products of two activations,
    # which OpenVINO executed in float on AVX2. The race drops what is slower for it.
    kernels=("onnxruntime",),
    distributions=("openvino",),
    weights_suffix=".bin",
)  # fmt: skip
