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
    names = runtimes()
    if name not in names:
        raise ValueError(unknown("runtime", name, names))
    return name


#: The name of a runtime, as in the formats' records.
Runtime = Annotated[str, pydantic.AfterValidator(_known_runtime)]
#: Which runtime loads which format.
RUNTIMES: Mapping[FormatName, Runtime] = {
    name: record.runtime for name, record in FORMATS.items()
}


#: Methods whose files compute in float, at least in part.
_FLOAT_METHODS = ("float", "cast", "dynamic")


class Limits(UserConfig):
    """What the device asks of a file. These are inputs of pruning and quantizing."""

    #: Pruning keeps channels in multiples of this.
    channel_multiple: int = pydantic.Field(1, ge=1)
    #: symmetric: activations must have zero point 0.
    activations: Literal["any", "symmetric"] = "any"
    #: integer: the device runs integer arithmetic only, so a float or half-float scheme
    #: cannot be shipped to it.
    arithmetic: Literal["any", "integer"] = "any"
    #: The dtype of the file's inputs and outputs if the device requires a certain one.
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
    #: what is in which memory.
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
        wrong = [
            list(row) for row in rows if not 1 <= row[0] <= row[1] <= row[2]
        ]
        if wrong:
            raise ValueError(
                f"max_batch, opt_batch, profiles: 1 <= min <= opt <= max does not hold "
                f"in {', '.join(map(str, wrong))}"
            )
        return self


class Target(UserConfig):
    """One device.

    Attributes:
        format, runtime: of its files, and what executes them.
        host: the name of the host where its files are checked and timed: hosts/NAME.yaml or
            ``ssh:address``; ``/NAME`` selects one of its environments.
        also_on: further hosts on which the shipped file is verified, if they are set up. A
            file that fails there fails.
        schemes: in order of preference.
        latency: measured if the host executes the device's own runtime, so that its latency
            counts.
        latency_note: why the latency cannot be measured; in the report.
        accuracy_note: what stands in for the device when accuracy is measured; in the
            report.
        estimate: a latency table of this device (``edgekit hosts record``). If latency is
            unmeasured, the report shows estimates from it.
        source: where the limits come from.
    """

    name: str
    title: str
    format: FormatName
    runtime: Runtime
    host: str = "local"
    also_on: tuple[str, ...] = ()
    schemes: tuple[str, ...] = pydantic.Field(min_length=1)
    limits: Limits = Limits()
    gates: Gates = Gates()
    latency: Literal["measured", "unmeasured"] = "measured"
    estimate: str = ""
    latency_note: str = ""
    accuracy_note: str = ""
    source: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        """The shipped files go to a folder of this name, which they replace."""
        return check_folder_name(name)

    @pydantic.field_validator("schemes")
    @classmethod
    def _require_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in SCHEMES:
                raise ValueError(unknown("scheme", name, SCHEMES))
        return names

    @pydantic.model_validator(mode="after")
    def _check_format(self) -> "Target":
        record = FORMATS.get(self.format)
        if record is None or record.runtime != self.runtime:
            expected = None if record is None else record.runtime
            raise ValueError(
                f"runtime: {self.runtime!r} cannot load the format {self.format!r}; it must be "
                f"{expected!r}"
            )
        wrong = [name for name in self.schemes if name not in record.schemes]
        if wrong:
            raise ValueError(
                f"schemes: {', '.join(wrong)} cannot be built in the format {self.format!r}"
            )
        missing = [
            name
            for name in record.required_limits
            if not getattr(self.limits, name)
        ]
        if missing:
            raise ValueError(
                f"limits: the format {self.format!r} requires {', '.join(missing)} "
                f"({record.limits_help})"
            )
        if len(self.limits.batches) > 1 and not record.several_signatures:
            able = ", ".join(
                name for name in FORMATS if FORMATS[name].several_signatures
            )
            raise ValueError(
                f"limits.batches: a file of the format {self.format!r} has one signature; "
                f"several are for {able}"
            )
        if self.latency == "unmeasured" and not self.latency_note:
            raise ValueError("latency_note: say why the latency is unmeasured")
        return self

    def refuses(self, scheme: str) -> str | None:
        """Why the device cannot execute this scheme, or None."""
        asked, record = SCHEMES[scheme], FORMATS[self.format]
        if scheme not in record.schemes:
            return f"the format {self.format} has no {scheme}"
        if (
            self.limits.arithmetic == "integer"
            and asked.method in _FLOAT_METHODS
        ):
            return "the device runs integer arithmetic only"
        if record.calibrated_only and not asked.calibrated:
            return record.calibrated_only
        if len(self.limits.batches) > 1 and asked.wide_activations:
            return "16-bit activations are calibrated for files of one signature; use batches: [1]"
        refusal = too_old(asked, self.limits.compute_capabilities)
        return None if refusal is None else f"{refusal[0]}; {refusal[1]}"


def too_old(
    scheme: Scheme, capabilities: Sequence[str]
) -> tuple[str, str] | None:
    """Which compute capabilities lack the scheme's arithmetic, and the fix.

    None if all have it.
    """
    return nvidia.explain_too_old(
        scheme.name, scheme.least_capability, capabilities
    )


def load(path: pathlib.Path) -> Target:
    """Read a target file, or raise one TargetError that lists everything wrong with it."""
    data = {"name": path.stem, **read_yaml(path, TargetError)}
    return parse(Target, data, str(path), TargetError)
