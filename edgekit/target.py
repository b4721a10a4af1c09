"""A target: what a device can run, as data. Adding a device is adding a file."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import pydantic

from edgekit.artifact import FormatName
from edgekit.errors import TargetError, unknown
from edgekit.formats import FORMATS, runtimes
from edgekit.formats.tensorrt import nvidia
from edgekit.recipe import Gates
from edgekit.scheme import SCHEMES, Scheme
from edgekit.value import UserConfig, check_folder_name, parse, read_yaml


def _known_runtime(name: str) -> str:
    known = runtimes()
    if name not in known:
        raise ValueError(unknown("runtime", name, known))
    return name


#: The name of a runtime, as in the formats' records.
Runtime = Annotated[str, pydantic.AfterValidator(_known_runtime)]
#: Which runtime loads which format.
RUNTIMES: Mapping[FormatName, Runtime] = {
    name: record.runtime for name, record in FORMATS.items()
}


class Limits(UserConfig):
    """What the device asks of a file. These are inputs of pruning and quantizing."""

    #: Pruning keeps channels in multiples of this.
    channel_multiple: int = pydantic.Field(1, ge=1)
    #: symmetric: activations must have zero point 0.
    activations: Literal["any", "symmetric"] = "any"
    #: integer: the device runs integer arithmetic only, so a float or half-float scheme
    #: cannot be shipped to it.
    arithmetic: Literal["any", "integer"] = "any"
    #: The dtype of the file's inputs and outputs where the device wants a certain one.
    io: Literal["any", "uint8", "int8"] = "any"
    #: free: the batch size is chosen when the file runs.
    shapes: Literal["free", "static"] = "free"
    #: For TFLite: how many samples each of the file's signatures takes; the first is what
    #: is verified and timed.
    batches: tuple[int, ...] = (1,)
    compute_capabilities: tuple[str, ...] = ()
    #: Largest batch that a TensorRT profile allows.
    max_batch: int = pydantic.Field(16, ge=1)
    #: The batch that it is tuned for, and further profiles: [min, opt, max] batches.
    opt_batch: int = pydantic.Field(1, ge=1)
    profiles: tuple[tuple[int, int, int], ...] = ()
    #: on device: no engine for its GPU can be built here, so the graph, a recipe and a
    #: script are shipped.
    build: Literal["here", "on device"] = "here"
    memory_bytes: int | None = pydantic.Field(None, gt=0)
    #: SRAM that the network's intermediate results may take. Vela plans with it.
    sram_bytes: int | None = pydantic.Field(None, gt=0)
    #: What Vela compiles for, in its own names: an Ethos-U, its clock and memories, and
    #: what lies in which memory.
    accelerator: str = ""
    system_config: str = ""
    memory_mode: str = ""

    @pydantic.field_validator("batches")
    @classmethod
    def _one_first(cls, batches: tuple[int, ...]) -> tuple[int, ...]:
        if (
            not batches
            or batches[0] != 1
            or min(batches) < 1
            or len(set(batches)) < len(batches)
        ):
            raise ValueError(
                f"{list(batches)}: name 1 first, and each further number once: [1, 8]"
            )
        return batches

    @pydantic.model_validator(mode="after")
    def _batches(self) -> "Limits":
        rows = ((1, self.opt_batch, self.max_batch), *self.profiles)
        wrong = [list(row) for row in rows if not 1 <= row[0] <= row[1] <= row[2]]
        if wrong:
            raise ValueError(
                f"max_batch, opt_batch, profiles: 1 <= min <= opt <= max does not hold in {', '.join(map(str, wrong))}"
            )
        return self


class Target(UserConfig):
    """One device: the format of its files, the runtime, where it is reached, its schemes in
    order of preference, its limits.
    """

    name: str
    title: str
    format: FormatName
    runtime: Runtime
    #: The name of the host where its files are checked and timed: hosts/NAME.yaml,
    #: ``ssh:address``; an environment of it behind a slash.
    host: str = "local"
    #: Hosts on which the shipped file is verified too, where they are set up; a file that
    #: fails there fails.
    also_on: tuple[str, ...] = ()
    schemes: tuple[str, ...] = pydantic.Field(min_length=1)
    limits: Limits = Limits()
    gates: Gates = Gates()
    #: True where the host runs the device's own runtime, so that its latency counts.
    latency: Literal["measured", "unmeasured"] = "measured"
    #: A latency table of this device (``edgekit hosts record``): where latency is
    #: unmeasured, the report shows estimates from it.
    estimate: str = ""
    #: Why the latency cannot be taken, and what stands in for the device where accuracy is
    #: taken; told in the report.
    latency_note: str = ""
    accuracy_note: str = ""
    #: Where the limits come from.
    source: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        """The shipped files go to a folder of this name, and an older one of this name is
        removed.
        """
        return check_folder_name(name)

    @pydantic.field_validator("schemes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in SCHEMES:
                raise ValueError(unknown("scheme", name, SCHEMES))
        return names

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> "Target":
        if RUNTIMES.get(self.format) != self.runtime:
            raise ValueError(
                f"runtime: {self.runtime!r} cannot load the format {self.format!r}; it needs {RUNTIMES.get(self.format)!r}"
            )
        wrong = [name for name in self.schemes if self.format not in SCHEMES[name].formats]
        if wrong:
            raise ValueError(
                f"schemes: {', '.join(wrong)} cannot be made in the format {self.format!r}"
            )
        blank = [
            key
            for key in ("accelerator", "system_config", "memory_mode")
            if self.format == "ethosu" and not getattr(self.limits, key)
        ]
        if blank:
            raise ValueError(
                f"limits: an Ethos-U needs {', '.join(blank)} (Vela's own names; see docs/ethos-u.md)"
            )
        if len(self.limits.batches) > 1 and self.format != "tflite":
            raise ValueError(
                f"limits.batches: a file of the format {self.format!r} has one signature; several are for tflite"
            )
        if self.latency == "unmeasured" and not self.latency_note:
            raise ValueError("latency_note: say why the latency is unmeasured")
        return self

    def refuses(self, scheme: str) -> str | None:
        """Why the device cannot run this scheme, or None."""
        known = SCHEMES[scheme]
        if self.format not in known.formats:
            return f"the format {self.format} has no {scheme}"
        if self.limits.arithmetic == "integer" and (
            known.method in ("float", "cast", "dynamic")
        ):
            return "the device runs integer arithmetic only"
        if self.format == "ethosu" and not known.calibrated:
            return "nothing of it would run on the NPU, which computes in integers"
        if (
            len(self.limits.batches) > 1
            and known.calibrated
            and known.activation_bits == 16
        ):
            return "16-bit activations are calibrated for files of one signature; take batches: [1]"
        refusal = too_old(known, self.limits.compute_capabilities)
        return None if refusal is None else f"{refusal[0]}; {refusal[1]}"


def too_old(scheme: Scheme, capabilities: Sequence[str]) -> tuple[str, str] | None:
    """Which of the compute capabilities have no arithmetic for the scheme, and the way out;
    None where all have it.
    """
    return nvidia.explain_too_old(scheme.name, scheme.least_capability, capabilities)


def load(path: pathlib.Path) -> Target:
    """Read a target file, or raise one TargetError that lists everything wrong with it."""
    return parse(
        Target, {"name": path.stem, **read_yaml(path, TargetError)}, str(path), TargetError
    )
