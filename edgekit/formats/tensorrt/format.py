"""TensorRT engines, and the files from which a device builds one."""

from edgekit.formats.record import (
    Accelerator,
    Format,
    FormatStep,
    Implementation,
)

_PROFILES = (
    "limits.compute_capabilities", "limits.max_batch", "limits.opt_batch", "limits.profiles",
)  # fmt: skip
_BY_SCHEME = ("torch_to_onnx", "quantize_tensorrt", "onnx_to_tensorrt")

FORMAT = Format(
    name="tensorrt",
    suffix=".engine",
    runtime="tensorrt",
    loaded_by="onnxruntime",
    route=(
        "quantize_torch", "train_quantized", "torch_to_onnx", "quantize_onnx",
        "onnx_to_tensorrt",
    ),
    other_routes={"fp8": _BY_SCHEME, "w4-weight": _BY_SCHEME},
    steps={
        "quantize_tensorrt": FormatStep(
            "quantize:QuantizeTensorrt",
            ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime"),
            "onnx",
            "fp8 and 4-bit weights on the ONNX file, for TensorRT",
            parameters=("scheme", "limits.compute_capabilities", "samples", "keep"),
        ),
        "onnx_to_tensorrt": FormatStep(
            "export:OnnxToTensorrt",
            ("onnx", "tensorrt_rtx|tensorrt"),
            "tensorrt-rtx",
            "build a TensorRT engine",
            parameters=_PROFILES,
        ),
        "onnx_to_engine_recipe": FormatStep(
            "engine_recipe:OnnxToEngineRecipe",
            ("onnx",),
            "onnx",
            "what a device builds an engine from",
            parameters=(*_PROFILES, "parity_steps"),
        ),
    },
    compile_step="onnx_to_tensorrt",
    compile_on_device_step="onnx_to_engine_recipe",
    schemes=("float", "fp16", "w8a8-static", "w8a8-qat", "w4-weight", "fp8"),
    audit=Implementation("audit:audit", (), "tensorrt-rtx"),
    inspect=Implementation("audit:audit_file", (), "tensorrt-rtx"),
    run=Implementation(
        "", ("onnxruntime", "scipy"), "onnx", "the engine's Q/DQ graph in ONNX Runtime"
    ),
    kernels=("tensorrt",),
    distributions=("onnxruntime",),
    build_distributions=("tensorrt-rtx", "tensorrt"),
    stand_in="same Q/DQ graph; TensorRT engine not executed",
    stand_in_optimized=False,
    accelerator=Accelerator(
        role="engine",
        runtime="tensorrt",
        feature="gpu",
        distributions=("tensorrt", "tensorrt-rtx"),
        note="engine on the GPU",
    ),
    size_note="bytes of the Q/DQ or float graph that the engine is built from",
)  # fmt: skip
