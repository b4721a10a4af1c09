"""Literal tables: name -> where the code is, what it needs.

Nothing is imported before it is asked for.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgekit.errors import EdgekitError, MissingBackend
from edgekit.value import nearest


@dataclasses.dataclass(frozen=True)
class Entry:
    """One implementation: ``module:attribute``, the modules it imports, and the pip extra
    that brings them.
    """

    where: str
    needs: tuple[str, ...] = ()
    extra: str = ""
    title: str = ""


class Registry:
    """A read-only table of one kind of thing."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """What is known of ``name`` without importing it."""
        if name not in self._entries:
            raise EdgekitError(
                f"No {self.kind} is called {name!r}; {nearest(name, self)}",
                fix=f"use a known {self.kind}",
            )
        return self._entries[name]

    def module(self, name: str) -> str:
        """The full name of the module with the implementation."""
        return self.entry(name).where.partition(":")[0]

    def load(self, name: str) -> Any:
        """Import the implementation, or raise MissingBackend with the command that installs
        what it needs.
        """
        entry = self.entry(name)
        module, attribute = entry.where.split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] == "edgekit":
                raise
            raise MissingBackend(
                f"The {self.kind} {name!r} needs the package {error.name!r}.",
                fix=install(entry.extra),
            ) from error

    def missing(self, name: str, installed: Callable[[str], bool]) -> tuple[str, ...]:
        """The modules that ``name`` needs and that are not installed. ``a|b`` means either."""
        return tuple(
            need
            for need in self.entry(name).needs
            if not any(installed(module) for module in need.split("|"))
        )


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'edgekit[{extra}]'" if extra else "pip install edgekit"


def installed(module: str) -> bool:
    """Whether a module could be imported; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False  # a half-removed package


_TORCH = ("torch", "safetensors")
_PT2E = (*_TORCH, "torchao")
_ONNX = (*_TORCH, "onnx", "onnxscript", "onnxruntime")
_TFLITE = (*_TORCH, "litert_torch", "ai_edge_litert")

STEPS = Registry(
    "step",
    {
        "load_model": Entry(
            "edgekit.steps.load_model:LoadModel",
            _TORCH,
            "torch",
            "read the network and its weights",
        ),
        "train": Entry(
            "edgekit.steps.train:Train", _TORCH, "torch", "train on the task's data"
        ),
        "distill": Entry(
            "edgekit.steps.distill:Distill",
            _TORCH,
            "torch",
            "train with a teacher's answers",
        ),
        "prune": Entry(
            "edgekit.steps.prune:Prune",
            (*_TORCH, "torch_pruning"),
            "prune",
            "remove whole channels",
        ),
        "quantize_torch": Entry(
            "edgekit.steps.quantize_torch:QuantizeTorch",
            _PT2E,
            "torch",
            "calibrate int8 on the PyTorch graph",
        ),
        "train_quantized": Entry(
            "edgekit.steps.train_quantized:TrainQuantized",
            _PT2E,
            "torch",
            "train the quantized network",
        ),
        "torch_to_onnx": Entry(
            "edgekit.formats.onnx.export:TorchToOnnx",
            (*_ONNX, "torchao"),
            "onnx",
            "export to ONNX",
        ),
        "neural_compressor_to_onnx": Entry(
            "edgekit.formats.neural_compressor.export:NeuralCompressorToOnnx",
            (*_ONNX, "torchao", "neural_compressor"),
            "intel",
            "quantize with neural-compressor and export to ONNX",
        ),
        "lower_onnx": Entry(
            "edgekit.formats.onnx.lower:LowerOnnx",
            _ONNX,
            "onnx",
            "make Q/DQ fast on x86 (int8 to uint8)",
        ),
        "quantize_tensorrt": Entry(
            "edgekit.formats.tensorrt.quantize:QuantizeTensorrt",
            _ONNX,
            "onnx",
            "fp8 and 4-bit weights on the ONNX file, for TensorRT",
        ),
        "quantize_onnx": Entry(
            "edgekit.formats.onnx.quantize:QuantizeOnnx",
            _ONNX,
            "onnx",
            "dynamic int8, weight-only and half precision on the ONNX file",
        ),
        "onnx_to_tensorrt": Entry(
            "edgekit.formats.tensorrt.export:OnnxToTensorrt",
            ("onnx", "tensorrt_rtx|tensorrt"),
            "tensorrt-rtx",
            "build a TensorRT engine",
        ),
        "onnx_to_ort": Entry(
            "edgekit.formats.ort.export:OnnxToOrt",
            ("onnx", "onnxruntime"),
            "onnx",
            "optimize for ONNX Runtime on phones (.ort)",
        ),
        "onnx_to_engine_recipe": Entry(
            "edgekit.formats.tensorrt.engine_recipe:OnnxToEngineRecipe",
            ("onnx",),
            "onnx",
            "what a device builds an engine from",
        ),
        "torch_to_tflite": Entry(
            "edgekit.formats.tflite.export:TorchToTflite",
            (*_TFLITE, "torchao"),
            "tflite",
            "export to TFLite",
        ),
        "tune_tflite": Entry(
            "edgekit.formats.tflite.tune:TuneTflite",
            ("ai_edge_litert",),
            "tflite",
            "smooth and round weights for dynamic int8",
        ),
        "calibrate_tflite": Entry(
            "edgekit.formats.tflite.calibrate:CalibrateTflite",
            ("ai_edge_litert", "ai_edge_quantizer"),
            "tflite",
            "16-bit activations in the TFLite file",
        ),
        "quantize_tflite": Entry(
            "edgekit.formats.tflite.quantize:QuantizeTflite",
            ("ai_edge_litert", "ai_edge_quantizer"),
            "tflite",
            "quantize the TFLite file",
        ),
        "tflite_to_edgetpu": Entry(
            "edgekit.formats.edgetpu.export:TfliteToEdgetpu",
            ("ai_edge_litert",),
            "tflite",
            "prepare a TFLite file for the Edge TPU",
        ),
        "tflite_to_ethosu": Entry(
            "edgekit.formats.ethosu.export:TfliteToEthosu",
            ("ai_edge_litert", "ethosu.vela"),
            "ethosu",
            "compile for the Ethos-U",
        ),
    },
)

SOURCES = Registry(
    "model source",
    {
        "zoo:cnn": Entry(
            "edgekit.sources.cnn:plain_cnn",
            ("torch",),
            "torch",
            "three plain convolutions and a linear layer",
        ),
        "zoo:resnet8": Entry(
            "edgekit.sources.resnet:resnet8",
            ("torch",),
            "torch",
            "a residual network with 1 block in each of 3 stages",
        ),
        "zoo:resnet14": Entry(
            "edgekit.sources.resnet:resnet14",
            ("torch",),
            "torch",
            "a residual network with 2 blocks in each of 3 stages",
        ),
        "zoo:resnet20": Entry(
            "edgekit.sources.resnet:resnet20",
            ("torch",),
            "torch",
            "a residual network with 3 blocks in each of 3 stages",
        ),
    },
)

TASKS = Registry(
    "task",
    {
        "digits": Entry(
            "edgekit.tasks.digits:digits",
            ("sklearn",),
            "torch",
            "scikit-learn's 1,797 handwritten digits, 8x8",
        ),
    },
)

#: What runs a file of each runtime here: the host's worker must be able to import it.
RUNTIMES = Registry(
    "runtime",
    {
        "onnxruntime": Entry(
            "edgekit.hosts.local:LocalHost",
            ("onnxruntime", "scipy"),
            "onnx",
            "ONNX Runtime",
        ),
        "litert": Entry(
            "edgekit.hosts.local:LocalHost", ("ai_edge_litert", "scipy"), "tflite", "LiteRT"
        ),
        "tensorrt": Entry(
            "edgekit.hosts.local:LocalHost",
            ("onnxruntime", "scipy"),
            "onnx",
            "the engine's Q/DQ graph in ONNX Runtime",
        ),
        "edgetpu": Entry(
            "edgekit.hosts.local:LocalHost",
            ("ai_edge_litert", "scipy"),
            "tflite",
            "the Edge TPU's file in LiteRT",
        ),
        "ethosu": Entry(
            "edgekit.hosts.local:LocalHost",
            ("ai_edge_litert", "scipy"),
            "tflite",
            "the Ethos-U's int8 file in LiteRT",
        ),
    },
)

#: How each kind of host is set up and reached.
HOSTS = Registry(
    "kind of host",
    {
        "local": Entry("edgekit.hosts.local:Local", title="this machine"),
        "venv": Entry(
            "edgekit.hosts.venv:Venv",
            title="another Python environment on this machine, which edgekit makes and pins",
        ),
        "qemu": Entry(
            "edgekit.hosts.qemu:Qemu",
            title="a Python for 64-bit ARM under emulation; correctness only",
        ),
        "ssh": Entry("edgekit.hosts.ssh:Ssh", title="a machine over your own OpenSSH"),
        "adb": Entry("edgekit.hosts.adb:Adb", title="a phone over adb"),
    },
)

#: The torch networks that a file must agree with: as they are, or quantized as the file is.
REFERENCES = Registry(
    "torch reference",
    {
        "float": Entry("edgekit.steps.torch_storage:load", _TORCH, "torch"),
        "quantized": Entry("edgekit.steps.torch_reference:simulated", _PT2E, "torch"),
    },
)

DIAGNOSES = Registry(
    "diagnosis", {"torch": Entry("edgekit.steps.diagnose:diagnose", _PT2E, "torch")}
)
#: What a table of a device says of an artifact.
ESTIMATES = Registry(
    "estimate", {"table": Entry("edgekit.estimates.estimate:of_artifact", ("scipy",))}
)
#: How a task's metric is read, for steps that tune by it.
METRICS = Registry("metric reader", {"scores": Entry("edgekit.checks.metrics:scores")})

AUDITS = Registry(
    "audit",
    {
        "onnx": Entry("edgekit.formats.onnx.audit:audit", ("onnx", "onnxruntime"), "onnx"),
        "ort": Entry("edgekit.formats.ort.audit:audit", ("onnx", "onnxruntime"), "onnx"),
        "tflite": Entry(
            "edgekit.formats.tflite.audit:audit", ("ai_edge_litert",), "tflite"
        ),
        "edgetpu": Entry(
            "edgekit.formats.edgetpu.audit:audit", ("ai_edge_litert",), "tflite"
        ),
        "ethosu": Entry(
            "edgekit.formats.ethosu.audit:audit", ("ai_edge_litert",), "tflite"
        ),
        "tensorrt": Entry("edgekit.formats.tensorrt.audit:audit", (), "tensorrt-rtx"),
    },
)
