""".ort files: optimized beforehand for ONNX Runtime on phones."""

from edgekit.formats.onnx.format import FORMAT as ONNX
from edgekit.formats.record import Format, FormatStep, Implementation

_ORT = ("onnx", "onnxruntime")

FORMAT = Format(
    name="ort",
    suffix=".ort",
    runtime="onnxruntime",
    loaded_by="onnxruntime",
    route=(*ONNX.route, "onnx_to_ort"),
    steps={
        "onnx_to_ort": FormatStep(
            "export:OnnxToOrt",
            _ORT,
            "onnx",
            "optimize for ONNX Runtime on phones (.ort)",
        ),
    },
    schemes=ONNX.schemes,
    audit=Implementation("audit:audit", _ORT, "onnx"),
    inspect=Implementation("audit:read", _ORT, "onnx"),
    run=ONNX.run,
    kernels=ONNX.kernels,
    distributions=ONNX.distributions,
)
