"""NVIDIA's GPUs by compute capability, and which arithmetic TensorRT has on each.

Literal tables; imports nothing.

What was built is measured again in tests/test_nvidia.py; for the GPUs that no engine can be
built for here the generation stands in.
"""

import re
from collections.abc import Mapping, Sequence

#: What has each compute capability.
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
#: (precision, operator) -> for each of MEASURED the datatypes that the product runs in by
#: the build log; empty: the build is refused. TensorRT-RTX 1.7.1.116, one small network a
#: build, each in a process of its own. Products of 4-bit weights have no convolution.
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
    ("int4", "MatMul"): ("", "HalfxInt4", "HalfxInt4", "HalfxInt4", "HalfxInt4"),
    ("fp8", "Conv"): ("", "", "", "FP8", "FP8"),
    ("fp8", "MatMul"): ("", "", "", "FP8", "FP8"),
    ("fp4", "MatMul"): (
        "",
        "",
        "",
        "",
        "Half",
    ),  # the weights are made half floats first, which saves no time
}
#: The oldest compute capability on which every product of a precision runs as the precision
#: says; from the table above. fp8 is also Hopper's (90), by NVIDIA's support matrix; SM100
#: and SM110 should have fp4 by their generation. Neither could be built here.
LEAST: Mapping[str, int] = {
    "float": 80,
    "fp16": 75,
    "bf16": 80,
    "int8": 80,
    "int4": 80,
    "fp8": 89,
    "fp4": 120,
}


def capability(name: str) -> int | None:
    """86 for SM86, sm_86, 86 and 8.6; None for what is no compute capability."""
    number = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", name.strip(), re.IGNORECASE)
    return int(number.group(1) + number.group(2)) if number else None


def too_old(what: str, least: int, capabilities: Sequence[str]) -> tuple[str, str] | None:
    """Which of the compute capabilities are older than ``least``, which ``what`` needs, and
    the way out; None where none is.
    """
    old = [name for name in capabilities if (capability(name) or least) < least]
    if not old:
        return None
    new = [name for name in capabilities if name not in old]
    told = f"{' and '.join(old)} cannot run {what}, which needs SM{least} or newer"
    if not new:
        return told, "use fp16 there" if any(
            (capability(name) or 0) < LEAST["int8"] for name in old
        ) else "use w8a8-static or fp16 there"
    return (
        f"{told} (of this target's compute capabilities {' and '.join(new)} can)",
        f"make a target with compute_capabilities: [{', '.join(new)}] for it",
    )
