"""A target: what a device can run, as data. Adding a device is adding a file."""

import pathlib
import re
from collections.abc import Sequence
from typing import Literal

import pydantic

from edgekit.artifact import Form
from edgekit.errors import TargetError
from edgekit.recipe import Gates
from edgekit.scheme import SCHEMES, Scheme
from edgekit.value import Written, folder_name, nearest, parse, read_yaml

Runtime = Literal["onnxruntime", "litert", "tensorrt", "edgetpu"]
#: Which runtime loads which form.
RUNTIMES: dict[Form, Runtime] = {"onnx": "onnxruntime", "tflite": "litert", "tensorrt": "tensorrt", "edgetpu": "edgetpu"}


class Limits(Written):
    """What the device asks of a file. These are inputs of pruning and quantizing."""

    #: Pruning keeps channels in multiples of this.
    channel_multiple: int = pydantic.Field(1, ge=1)
    #: symmetric: activations must have zero point 0.
    activations: Literal["any", "symmetric"] = "any"
    #: integer: the device runs integer arithmetic only, so a float or half-float scheme cannot be shipped to it.
    arithmetic: Literal["any", "integer"] = "any"
    #: The dtype of the file's inputs and outputs where the device wants a certain one.
    io: Literal["any", "uint8", "int8"] = "any"
    #: free: the batch size is chosen when the file runs.
    shapes: Literal["free", "static"] = "free"
    compute_capabilities: tuple[str, ...] = ()
    #: Largest batch that a TensorRT profile allows.
    max_batch: int = pydantic.Field(16, ge=1)
    memory_bytes: int | None = pydantic.Field(None, gt=0)


class Target(Written):
    """One device: the form of its files, the runtime, where it is reached, its schemes in order of preference, its limits."""

    name: str
    title: str
    form: Form
    runtime: Runtime
    #: The name of the host where its files are checked and timed: hosts/NAME.yaml, ``ssh:address``; an environment of it behind a slash.
    host: str = "local"
    schemes: tuple[str, ...] = pydantic.Field(min_length=1)
    limits: Limits = Limits()
    gates: Gates = Gates()
    #: True where the host runs the device's own runtime, so that its latency counts.
    latency: Literal["measured", "unmeasured"] = "measured"
    #: A latency table of this device (``edgekit hosts record``): where latency is unmeasured, the report shows estimates from it.
    estimate: str = ""
    #: Why the latency cannot be taken, and what stands in for the device where accuracy is taken; told in the report.
    latency_note: str = ""
    accuracy_note: str = ""
    #: Where the limits come from.
    source: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        """The shipped files go to a folder of this name, and an older one of this name is removed."""
        return folder_name(name)

    @pydantic.field_validator("schemes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in SCHEMES:
                raise ValueError(f"no scheme is called {name!r}; {nearest(name, SCHEMES)}")
        return names

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> "Target":
        if RUNTIMES.get(self.form) != self.runtime:
            raise ValueError(f"runtime: {self.runtime!r} cannot load the form {self.form!r}; it needs {RUNTIMES.get(self.form)!r}")
        wrong = [name for name in self.schemes if self.form not in SCHEMES[name].forms]
        if wrong:
            raise ValueError(f"schemes: {', '.join(wrong)} cannot be made in the form {self.form!r}")
        if self.latency == "unmeasured" and not self.latency_note:
            raise ValueError("latency_note: say why the latency is unmeasured")
        return self

    def refuses(self, scheme: str) -> str | None:
        """Why the device cannot run this scheme, or None."""
        known = SCHEMES[scheme]
        if self.form not in known.forms:
            return f"the form {self.form} has no {scheme}"
        if self.limits.arithmetic == "integer" and (known.method in ("float", "cast", "dynamic")):
            return "the device runs integer arithmetic only"
        refusal = too_old(known, self.limits.compute_capabilities)
        return None if refusal is None else f"{refusal[0]}; {refusal[1]}"


def capability(name: str) -> int | None:
    """86 for SM86, sm_86, 86 and 8.6; None for what is no compute capability."""
    number = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", name.strip(), re.IGNORECASE)
    return int(number.group(1) + number.group(2)) if number else None


def too_old(scheme: Scheme, capabilities: Sequence[str]) -> tuple[str, str] | None:
    """Which of the compute capabilities have no arithmetic for the scheme, and the way out; None where all have it."""
    old = [name for name in capabilities if (capability(name) or scheme.least_capability) < scheme.least_capability]
    if not old:
        return None
    new = [name for name in capabilities if name not in old]
    told = f"{' and '.join(old)} cannot run {scheme.name}, which needs SM{scheme.least_capability} or newer"
    if not new:
        return told, "use w8a8-static or fp16 there"
    return f"{told} (of this target's compute capabilities {' and '.join(new)} can)", f"make a target with compute_capabilities: [{', '.join(new)}] for it"


def load(path: pathlib.Path) -> Target:
    """Read a target file, or raise one TargetError that lists everything wrong with it."""
    return parse(Target, {"name": path.stem, **read_yaml(path, TargetError)}, str(path), TargetError)
