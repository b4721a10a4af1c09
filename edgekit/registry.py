"""Literal tables: name -> where the code is, what it needs.

Nothing is imported before it is asked for.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgekit.errors import EdgekitError, MissingBackend, unknown
from edgekit.formats import FORMATS, PROVIDERS
from edgekit.formats.record import FormatStep, Implementation


class Registry:
    """A read-only table of one kind of thing."""

    def __init__(
        self, kind: str, entries: Mapping[str, Implementation]
    ) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Implementation:
        """What is known of ``name`` without importing it."""
        if name not in self._entries:
            raise EdgekitError(
                unknown(self.kind, name, self),
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

    def missing(
        self, name: str, installed: Callable[[str], bool]
    ) -> tuple[str, ...]:
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

#: The steps on the PyTorch network, which all formats share.
TORCH_STEPS: Mapping[str, FormatStep] = {
    "load_model": FormatStep(
        "edgekit.steps.load_model:LoadModel",
        _TORCH,
        "torch",
        "read the network and its weights",
    ),
    "train": FormatStep(
        "edgekit.steps.train:Train", _TORCH, "torch", "train on the task's data"
    ),
    "distill": FormatStep(
        "edgekit.steps.distill:Distill",
        _TORCH,
        "torch",
        "train with a teacher's outputs",
    ),
    "prune": FormatStep(
        "edgekit.steps.prune:Prune",
        (*_TORCH, "torch_pruning"),
        "prune",
        "remove entire channels",
    ),
    "quantize_torch": FormatStep(
        "edgekit.steps.quantize_torch:QuantizeTorch",
        _PT2E,
        "torch",
        "calibrate int8 on the PyTorch graph",
        methods=("static",),
        only_if="not wide_activations",
        parameters=("scheme", "runtime", "symmetric", "samples", "tuning"),
    ),
    "train_quantized": FormatStep(
        "edgekit.steps.train_quantized:TrainQuantized",
        _PT2E,
        "torch",
        "train the quantized network",
        methods=("static",),
        only_if="trained",
    ),
}

#: All steps, with what a plan must know about them.
STEP_RECORDS: Mapping[str, FormatStep] = {
    **TORCH_STEPS,
    **{
        provider.step_name: provider.absolute_step
        for provider in PROVIDERS.values()
    },
    **{
        name: record.absolute(step)
        for record in FORMATS.values()
        for name, step in record.steps.items()
    },
}
STEPS = Registry("step", STEP_RECORDS)

SOURCES = Registry(
    "model source",
    {
        "zoo:cnn": Implementation(
            "edgekit.sources.cnn:plain_cnn",
            ("torch",),
            "torch",
            "three plain convolutions and a linear layer",
        ),
        "zoo:resnet8": Implementation(
            "edgekit.sources.resnet:resnet8",
            ("torch",),
            "torch",
            "a residual network with 1 block in each of 3 stages",
        ),
        "zoo:resnet14": Implementation(
            "edgekit.sources.resnet:resnet14",
            ("torch",),
            "torch",
            "a residual network with 2 blocks in each of 3 stages",
        ),
        "zoo:resnet20": Implementation(
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
        "digits": Implementation(
            "edgekit.tasks.digits:digits",
            ("sklearn",),
            "torch",
            "scikit-learn's 1,797 handwritten digits, 8x8",
        ),
    },
)

#: What executes the files of each runtime here: the host's worker must be able to import it.
RUNTIMES = Registry(
    "runtime",
    {
        record.runtime: dataclasses.replace(
            record.run, where="edgekit.hosts.local:LocalHost"
        )
        for record in reversed(list(FORMATS.values()))
    },
)

#: How each kind of host is set up and reached.
HOSTS = Registry(
    "kind of host",
    {
        "local": Implementation(
            "edgekit.hosts.local:Local", title="this machine"
        ),
        "venv": Implementation(
            "edgekit.hosts.venv:Venv",
            title="another Python environment on this machine, which edgekit makes and pins",
        ),
        "qemu": Implementation(
            "edgekit.hosts.qemu:Qemu",
            title="a Python for 64-bit ARM under emulation; correctness only",
        ),
        "ssh": Implementation(
            "edgekit.hosts.ssh:Ssh", title="a machine over your own OpenSSH"
        ),
        "adb": Implementation(
            "edgekit.hosts.adb:Adb", title="a phone over adb"
        ),
    },
)

#: The torch networks that a file must agree with: in float, or quantized like the file.
REFERENCES = Registry(
    "torch reference",
    {
        "float": Implementation(
            "edgekit.steps.torch_storage:load", _TORCH, "torch"
        ),
        "quantized": Implementation(
            "edgekit.steps.torch_reference:load_simulated", _PT2E, "torch"
        ),
    },
)

DIAGNOSES = Registry(
    "diagnosis",
    {
        "torch": Implementation(
            "edgekit.steps.diagnose:diagnose", _PT2E, "torch"
        )
    },
)
#: What a device's latency table predicts for an artifact.
ESTIMATES = Registry(
    "estimate",
    {
        "table": Implementation(
            "edgekit.estimates.estimate:of_artifact", ("scipy",)
        )
    },
)
#: How a task's metric is read, for steps that tune by it.
METRICS = Registry(
    "metric reader", {"scores": Implementation("edgekit.checks.metrics:scores")}
)

AUDITS = Registry(
    "audit",
    {name: record.absolute(record.audit) for name, record in FORMATS.items()},
)

#: What reads one file of each format, for ``edgekit inspect``.
READERS = Registry(
    "format of a file",
    {
        name: record.absolute(record.inspect)
        for name, record in FORMATS.items()
        if record.inspect is not None
    },
)
