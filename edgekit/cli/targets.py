"""``edgekit targets``: the devices that edgekit supports."""

from typing import Any

from edgekit import catalog
from edgekit.cli.listing import Listing, build_group
from edgekit.pipeline.request import find_target
from edgekit.target import Target


def _find(name: str) -> dict[str, Any]:
    target = find_target(name)
    return {
        **target.model_dump(mode="json"),
        "verified": verified(target),
        "file": str(catalog.find("targets", name)),
    }


def verified(target: Target) -> str:
    """Describe what can be verified for a target: accuracy and latency, how, on which host."""
    accuracy = (
        target.accuracy_note
        or "measured with the device's own runtime and file"
    )
    latency = "unmeasured"
    if target.latency == "measured":
        latency = f"measured on the host {target.host}"
    if target.latency_note:
        latency += f" ({target.latency_note})"
    lines = [
        f"accuracy: on the host {target.host} ({accuracy})",
        f"latency: {latency}",
    ]
    for host in target.also_on:
        lines.append(
            f"the shipped file also on {host}, if it is set up (see 'edgekit hosts')"
        )
    return "; ".join(lines)


targets = build_group(
    Listing(
        word="targets",
        about="List the devices that edgekit supports. A device of your own is a YAML file: "
        "give its path instead of a name.",
        names=lambda: catalog.names("targets"),
        find=_find,
        columns={
            "name": lambda row: str(row["name"]),
            "runs": lambda row: f"{row['format']} in {row['runtime']}",
            "schemes": lambda row: ", ".join(row["schemes"]),
            "latency": lambda row: str(row["latency"]),
            "title": lambda row: str(row["title"]),
        },
        below="edgekit targets show NAME shows limits and gates, their sources, "
        "and what can be verified from here.",
    )
)
