"""NVIDIA's GPUs by compute capability, and the arithmetic that TensorRT has on each.

Literal tables; imports nothing. tests/formats/tensorrt/test_nvidia.py measures the table of
builds again; for GPUs that no engine can be built for here, their generation counts.
"""

import re
from collections.abc import Mapping, Sequence

#: The GPUs of each compute capability.
GPUS: Mapping[int, str] = {
    75: "RTX 20, T4 (Turing)",
    80: "A100 (Ampere)",
    86: "RTX 30, A10 (Ampere)",
    87: "Jetson Orin (Ampere)",
    89: "RTX 40, L4 (Ada)",
    90: "H100, H200 (Hopper)",
    100: "B200 (Blackwell)",
    103: "B300 (Blackwell)",
    110: "Jetson Thor (Blackwell)",
    120: "RTX 50 (Blackwell)",
    121: "DGX Spark (Blackwell)",
}
#: The compute capabilities of the table below.
MEASURED = (75, 80, 86, 89, 120)
#: (precision, operator) -> for each of MEASURED the datatypes in which the product runs,
#: according to the build log; empty: the build fails. TensorRT-RTX 1.7.1.116, one small
#: network per build, each in a separate process. There is no convolution with 4-bit weights.
BUILT: Mapping[tuple[str, str], tuple[str, str, str, str, str]] = {
    ("float", "Conv"): ("Float", "Float", "Float", "Float", "Float"),
    ("float", "MatMul"): ("", "Float", "Float", "Float", "Float"),
    ("fp16", "Conv"): ("Half", "Half", "Half", "Half", "Half"),
    ("fp16", "MatMul"): ("Half", "Half", "Half", "Half", "Half"),
    ("bf16", "Conv"): ("", "BFloat16", "BFloat16", "BFloat16", "BFloat16"),
    ("bf16", "MatMul"): ("", "BFloat16", "BFloat16", "BFloat16", "BFloat16"),
    ("int8", "Conv"): ("Float", "Int8", "Int8", "Int8", "Int8"),
    ("int8", "MatMul"): ("", "Int8", "Int8", "Int8", "Int8"),
    ("int8 in fp16", "Conv"): ("Half", "Int8", "Int8", "Int8", "Int8"),
    ("int8 in fp16", "MatMul"): ("Int8", "Int8", "Int8", "Int8", "Int8"),
    ("int4", "MatMul"): (
        "",
        "HalfxInt4",
        "HalfxInt4",
        "HalfxInt4",
        "HalfxInt4",
    ),
    ("fp8", "Conv"): ("", "", "", "FP8", "FP8"),
    ("fp8", "MatMul"): ("", "", "", "FP8", "FP8"),
    # The weights are dequantized to half floats first, which saves no time.
    ("fp4", "MatMul"): ("", "", "", "", "Half"),
}
#: TensorRT's datatypes of a quantized graph, for messages: "the graph is ...".
DISPLAY_NAMES: Mapping[str, str] = {
    "Int8": "int8",
    "FP8": "fp8",
    "Int4": "in 4-bit weights",
    "FP4": "in 4-bit float weights",
}
#: The oldest compute capability on which every product of a precision runs in it; from the
#: table above. fp8 is also Hopper's (90), by NVIDIA's support matrix; SM100 and SM110 should
#: have fp4 by their generation. Neither could be built here.
MIN_CAPABILITY: Mapping[str, int] = {
    "float": 80,
    "fp16": 75,
    "bf16": 80,
    "int8": 80,
    "int4": 80,
    "fp8": 89,
    "fp4": 120,
}


def parse_capability(name: str) -> int | None:
    """86 for SM86, sm_86, 86 and 8.6; None for anything that is not a compute capability."""
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", name.strip(), re.IGNORECASE)
    return int(match.group(1) + match.group(2)) if match else None


def explain_too_old(
    subject: str, minimum: int, capabilities: Sequence[str]
) -> tuple[str, str] | None:
    """Which compute capabilities are older than ``minimum``, as a message and a fix.

    ``subject`` is the scheme or precision that needs ``minimum``. None if all are newer.
    """
    numbers = {name: parse_capability(name) or minimum for name in capabilities}
    old = [name for name in capabilities if numbers[name] < minimum]
    if not old:
        return None
    problem = f"{' and '.join(old)} cannot run {subject}, which requires SM{minimum} or newer"
    new = [name for name in capabilities if name not in old]
    if new:
        supported = " and ".join(new)
        return (
            f"{problem} (of this target's compute capabilities {supported} can)",
            f"write another target with compute_capabilities: [{', '.join(new)}] for it",
        )
    without_int8 = any(numbers[name] < MIN_CAPABILITY["int8"] for name in old)
    return (
        problem,
        "use fp16 there" if without_int8 else "use w8a8-static or fp16 there",
    )
