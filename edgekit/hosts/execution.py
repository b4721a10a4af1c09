"""Which file of a part a host loads, and in which runtime.

A host with the device executes the device's own file; on any other host a processor
executes the file that stands in for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekit.artifact import FormatName, Part
from edgekit.formats import FORMATS
from edgekit.formats.record import Accelerator

#: The packages that execute model files, under the names that hosts report.
PACKAGES = tuple(
    dict.fromkeys(
        name for record in FORMATS.values() for name in record.distributions
    )
)


@dataclasses.dataclass(frozen=True)
class ExecutionChoice:
    """How one part is loaded.

    Attributes:
        role: the file of the part.
        runtime: the worker's runtime that loads it.
        stands_in: why its times say nothing about the device; empty on the device itself.
        note: what the report states about the device, next to the runtime.
    """

    role: str
    runtime: str
    stands_in: str = ""
    note: str = ""


def runtime_packages(
    format: FormatName, versions: Mapping[str, str]
) -> list[str]:
    """The packages of a host that execute files of a format; empty if it has none.

    ``versions`` maps distributions to versions, as the host reports them.
    """
    return [
        name for name in FORMATS[format].distributions if versions.get(name)
    ]


def choose_execution(
    format: FormatName, part: Part, capabilities: Mapping[str, Any]
) -> ExecutionChoice:
    """How a part is loaded on a host with these capabilities (``WorkerHost.hello``)."""
    record = FORMATS[format]
    accelerator = record.accelerator
    if accelerator is not None and accelerator.role in part.files:
        device = _device(accelerator, capabilities)
        if device is not None:
            note = accelerator.note.replace("{}", device)
            return ExecutionChoice(
                accelerator.role, accelerator.runtime, note=note
            )
    return ExecutionChoice("model", record.loaded_by, record.stand_in)


def _device(
    accelerator: Accelerator, capabilities: Mapping[str, Any]
) -> str | None:
    """The name of the host's device, or None if it has none that can be used."""
    present = (capabilities.get("devices") or {}).get(accelerator.feature)
    if not present:
        return None
    installed = set(capabilities.get("versions", ()))
    if accelerator.distributions and not installed.intersection(
        accelerator.distributions
    ):
        return None
    return str(present[0]) if isinstance(present, list) else ""
