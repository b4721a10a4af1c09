"""``edgekit schemes``: the quantization schemes."""

from typing import Any

from edgekit import scheme
from edgekit.cli.listing import Listing, build_group


def _find(name: str) -> dict[str, Any]:
    return scheme.find(name).model_dump(mode="json")


schemes = build_group(
    Listing(
        word="schemes",
        about="List the quantization schemes, and the formats that support them.",
        names=lambda: list(scheme.SCHEMES),
        find=_find,
        columns={
            "name": lambda row: str(row["name"]),
            "bits": lambda row: (
                f"{row['weight_bits']}/{row['activation_bits']}"
            ),
            "formats": lambda row: ", ".join(row["formats"]),
            "title": lambda row: str(row["title"]),
        },
        below="bits: of weights/activations.",
    )
)
