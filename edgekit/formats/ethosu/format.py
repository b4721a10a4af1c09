"""TFLite files for Arm's Ethos-U, compiled with Vela."""

from edgekit.formats.record import Format, FormatStep, Implementation

_LITERT = ("ai_edge_litert",)

FORMAT = Format(
    name="ethosu",
    suffix=".tflite",
    runtime="ethosu",
    loaded_by="litert",
    route=("quantize_torch", "train_quantized", "torch_to_tflite", "tflite_to_ethosu"),
    steps={
        "tflite_to_ethosu": FormatStep(
            "export:TfliteToEthosu",
            ("ai_edge_litert", "ethosu.vela"),
            "ethosu",
            "compile for the Ethos-U",
            methods=("static",),
            parameters=(
                "limits.accelerator", "limits.system_config", "limits.memory_mode",
                "limits.sram_bytes",
            ),
        ),
    },
    schemes=("float", "w8a8-static", "w8a8-qat"),
    audit=Implementation("audit:audit", _LITERT, "tflite"),
    inspect=Implementation("audit:audit_file", _LITERT, "tflite"),
    run=Implementation("", ("ai_edge_litert", "scipy"), "tflite", "the Ethos-U's file in LiteRT"),
    kernels=("ethosu", "litert"),
    distributions=("ai-edge-litert", "tflite-runtime"),
    build_distributions=("ethos-u-vela",),
    stand_in="CPU; Ethos-U not executed",
    required_limits=("accelerator", "system_config", "memory_mode"),
    limits_help="Vela's own names; see docs/devices/ethos-u.md",
    calibrated_only="nothing of it would run on the NPU, which computes in integers",
)  # fmt: skip
