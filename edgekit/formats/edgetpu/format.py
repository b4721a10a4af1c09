"""TFLite files for Coral's Edge TPU."""

from edgekit.formats.record import (
    Accelerator,
    Format,
    FormatStep,
    Implementation,
)

_LITERT = ("ai_edge_litert",)

FORMAT = Format(
    name="edgetpu",
    suffix=".tflite",
    runtime="edgetpu",
    loaded_by="litert",
    route=(
        "quantize_torch", "train_quantized", "torch_to_tflite", "quantize_tflite",
        "tflite_to_edgetpu",
    ),
    steps={
        "tflite_to_edgetpu": FormatStep(
            "export:TfliteToEdgetpu",
            _LITERT,
            "tflite",
            "prepare a TFLite file for the Edge TPU",
            methods=("static",),
            parameters=("io",),
        ),
    },
    schemes=("float", "w8a8-static", "w8a8-qat"),
    audit=Implementation("audit:audit", _LITERT, "tflite"),
    inspect=Implementation("audit:audit_file", _LITERT, "tflite"),
    run=Implementation("", ("ai_edge_litert", "scipy"), "tflite", "the Edge TPU's file in LiteRT"),
    kernels=("edgetpu", "litert"),
    distributions=("ai-edge-litert", "tflite-runtime"),
    stand_in="CPU; Edge TPU not executed",
    accelerator=Accelerator(
        role="compiled", runtime="edgetpu", feature="edgetpu", note="Edge TPU: {}"
    ),
)  # fmt: skip
