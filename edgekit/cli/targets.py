"""``edgekit targets``: the devices that edgekit knows."""

from typing import Any

from edgekit import catalog
from edgekit.cli.listing import Listing, listing
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
    """What can be verified from here, in plain words: accuracy and latency, how, and on
    which host.
    """
    accuracy = target.accuracy_note or "taken with the device's own runtime and file"
    latency = (
        f"measured on the host {target.host}"
        if target.latency == "measured"
        else "unmeasured"
    )
    told = f"{latency} ({target.latency_note})" if target.latency_note else latency
    also = [
        f"the shipped file also on {host}, where that is set up ('edgekit hosts' tells)"
        for host in target.also_on
    ]
    return "; ".join(
        [f"accuracy: on the host {target.host} ({accuracy})", f"latency: {told}", *also]
    )


targets = listing(
    Listing(
        word="targets",
        about="List the devices that edgekit knows. A device of your own is a YAML file: give its path wherever a name is asked for.",
        names=lambda: catalog.names("targets"),
        find=_find,
        columns={
            "name": lambda row: str(row["name"]),
            "runs": lambda row: f"{row['format']} in {row['runtime']}",
            "schemes": lambda row: ", ".join(row["schemes"]),
            "latency": lambda row: str(row["latency"]),
            "title": lambda row: str(row["title"]),
        },
        below="edgekit targets show NAME tells limits, gates, where they come from, and what can be verified from here.",
    )
)
