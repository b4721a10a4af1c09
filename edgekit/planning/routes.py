"""Which steps make which scheme for which format, and with which parameters.

Literal tables; imports no framework.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekit.artifact import FormatName
from edgekit.scheme import SCHEMES, Provider, Scheme, Tuning
from edgekit.target import Target

#: What follows the torch-side steps, by the format the target runs. A step that the scheme
#: does not need is left out.
ROUTES: Mapping[FormatName, tuple[str, ...]] = {
    "onnx": (
        "quantize_torch",
        "train_quantized",
        "torch_to_onnx",
        "lower_onnx",
        "quantize_onnx",
    ),
    "ort": (
        "quantize_torch",
        "train_quantized",
        "torch_to_onnx",
        "lower_onnx",
        "quantize_onnx",
        "onnx_to_ort",
    ),
    "tensorrt": (
        "quantize_torch",
        "train_quantized",
        "torch_to_onnx",
        "quantize_onnx",
        "onnx_to_tensorrt",
    ),
    "tflite": (
        "quantize_torch",
        "train_quantized",
        "torch_to_tflite",
        "calibrate_tflite",
        "tune_tflite",
        "quantize_tflite",
    ),
    "edgetpu": (
        "quantize_torch",
        "train_quantized",
        "torch_to_tflite",
        "quantize_tflite",
        "tflite_to_edgetpu",
    ),
    "ethosu": ("quantize_torch", "train_quantized", "torch_to_tflite", "tflite_to_ethosu"),
}
#: Schemes that go another way than their method tells.
_OWN_WAYS: Mapping[tuple[FormatName, str], tuple[str, ...]] = {
    ("tensorrt", "fp8"): ("torch_to_onnx", "quantize_tensorrt", "onnx_to_tensorrt"),
    ("tensorrt", "w4-weight"): ("torch_to_onnx", "quantize_tensorrt", "onnx_to_tensorrt"),
}
#: The schemes' methods for which a step has work to do; a step that is not named always
#: has.
_WORKS_FOR: Mapping[str, tuple[str, ...]] = {
    "quantize_torch": ("static",),
    "train_quantized": ("static",),
    "lower_onnx": ("static",),
    "quantize_onnx": ("cast", "dynamic", "weight"),
    "calibrate_tflite": ("static",),
    "tune_tflite": ("dynamic",),
    "quantize_tflite": ("cast", "dynamic", "weight"),
    "tflite_to_edgetpu": ("static",),
    "tflite_to_ethosu": ("static",),
}
#: The steps that another provider's step stands for: it takes the float network and gives
#: the quantized file.
_INSTEAD: Mapping[Provider, tuple[str, tuple[str, ...]]] = {
    "neural-compressor": (
        "neural_compressor_to_onnx",
        ("quantize_torch", "torch_to_onnx", "quantize_onnx"),
    ),
}
_PLAIN = Tuning()


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step and its parameters.

    ``intent`` is the recipe's word for it, or the step's own name.
    """

    intent: str
    step: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PlannedCandidate:
    """What is done, after the shared steps, to get one scheme's file."""

    scheme: str
    steps: tuple[PlannedStep, ...]


def candidate(
    name: str, target: Target, samples: int, tuning: Tuning = _PLAIN
) -> PlannedCandidate:
    """One scheme's steps for a target; ``tuning`` is what a remedy changes, and is told in
    the candidate's name.
    """
    told = tuning.describe()
    return PlannedCandidate(
        f"{name}+{told}" if told else name, _route(SCHEMES[name], target, samples, tuning)
    )


def _route(
    scheme: Scheme, target: Target, samples: int, tuning: Tuning
) -> tuple[PlannedStep, ...]:
    limits = target.limits
    tuned = (
        {"tuning": tuning.model_dump(mode="json", exclude_defaults=True)}
        if tuning != _PLAIN
        else {}
    )
    kept = {"keep": list(tuning.keep)} if tuning.keep else {}
    symmetric = scheme.symmetric or limits.activations == "symmetric"
    engine = {
        "compute_capabilities": list(limits.compute_capabilities),
        "max_batch": limits.max_batch,
        "opt_batch": limits.opt_batch,
        "profiles": [list(row) for row in limits.profiles],
    }
    parameters: Mapping[str, Mapping[str, Any]] = {
        "quantize_torch": {
            "scheme": scheme.name,
            "runtime": target.runtime,
            "symmetric": symmetric,
            "samples": samples,
            **tuned,
        },
        "quantize_onnx": {"scheme": scheme.name, **kept},
        "torch_to_tflite": {"batches": list(limits.batches)}
        if len(limits.batches) > 1
        else {},
        "calibrate_tflite": {"scheme": scheme.name, "samples": samples, **kept},
        "tune_tflite": {"samples": samples, **kept},
        "quantize_tflite": {"scheme": scheme.name, **kept},
        "neural_compressor_to_onnx": {"scheme": scheme.name, "samples": samples},
        "quantize_tensorrt": {
            "scheme": scheme.name,
            "compute_capabilities": list(limits.compute_capabilities),
            "samples": samples,
            **kept,
        },
        "onnx_to_tensorrt": engine,
        "onnx_to_engine_recipe": {**engine, "parity_steps": scheme.parity_steps},
        "tflite_to_edgetpu": {"io": "uint8" if limits.io == "any" else limits.io},
        "tflite_to_ethosu": {
            "accelerator": limits.accelerator,
            "system_config": limits.system_config,
            "memory_mode": limits.memory_mode,
            "sram_bytes": limits.sram_bytes,
        },
    }
    # Tuning changes one graph and the weights that all signatures share.
    skipped = ("tune_tflite",) if len(limits.batches) > 1 else ()
    names = _on_target(_steps(scheme, target.format), scheme, target)
    return tuple(
        PlannedStep(name, name, parameters.get(name, {}))
        for name in names
        if name not in skipped
    )


def _on_target(names: tuple[str, ...], scheme: Scheme, target: Target) -> tuple[str, ...]:
    """The steps with those of the device.

    What it refuses (the float reference of a GPU without float products) stays an ONNX
    file.
    """
    if target.format != "tensorrt":
        return names
    last = (
        ()
        if target.refuses(scheme.name)
        else (
            "onnx_to_engine_recipe"
            if target.limits.build == "on device"
            else "onnx_to_tensorrt",
        )
    )
    return (*(name for name in names if name != "onnx_to_tensorrt"), *last)


def _steps(scheme: Scheme, format: FormatName) -> tuple[str, ...]:
    """The names of a scheme's steps, in order."""
    if (format, scheme.name) in _OWN_WAYS:
        return _OWN_WAYS[format, scheme.name]
    names = tuple(name for name in ROUTES[format] if _has_work(name, scheme))
    if scheme.provider in _INSTEAD:
        step, replaced = _INSTEAD[scheme.provider]
        names = (step, *(name for name in names if name not in replaced))
    return names


def _has_work(step: str, scheme: Scheme) -> bool:
    """Whether a step has something to do for a scheme: 16-bit activations are calibrated on
    the TFLite file, rows are tuned for.
    """
    if scheme.method not in _WORKS_FOR.get(step, (scheme.method,)):
        return False
    sixteen = scheme.activation_bits == 16 and scheme.calibrated
    return {
        "quantize_torch": not sixteen,
        "train_quantized": scheme.trained,
        "calibrate_tflite": sixteen,
        "tune_tflite": scheme.per_row,
    }.get(step, True)
