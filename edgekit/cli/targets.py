"""``edgekit targets``: the devices that edgekit knows."""

from typing import Any

from edgekit import shelf
from edgekit.cli.listing import Listing, listing
from edgekit.cli.overrides import find_target


def _find(name: str) -> dict[str, Any]:
    return {**find_target(name).model_dump(mode="json"), "file": str(shelf.find("targets", name))}


targets = listing(Listing(
    word="targets",
    about="List the devices that edgekit knows. A device of your own is a YAML file: give its path wherever a name is asked for.",
    names=lambda: shelf.names("targets"),
    find=_find,
    columns={
        "name": lambda row: str(row["name"]),
        "runs": lambda row: f"{row['form']} in {row['runtime']}",
        "schemes": lambda row: ", ".join(row["schemes"]),
        "latency": lambda row: str(row["latency"]),
        "title": lambda row: str(row["title"]),
    },
    below="edgekit targets show NAME tells limits, gates and where they come from.",
))  # fmt: skip
