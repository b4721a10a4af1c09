"""``edgekit recipes``: the recipes that come with edgekit."""

from typing import Any

from edgekit import catalog
from edgekit import recipe as values
from edgekit.cli.listing import Listing, listing

#: The recipe's keys that the command line may have to give.
_ASKED = {"model": "--model", "task": "--task", "targets": "--target"}


def _find(name: str) -> dict[str, Any]:
    path = catalog.find("recipes", name)
    return {
        **values.load(path).model_dump(mode="json", exclude_unset=True),
        "file": str(path),
    }


recipes = listing(
    Listing(
        word="recipes",
        about="List the recipes that come with edgekit. One of your own is a YAML file: give its path to 'edgekit run'.",
        names=lambda: catalog.names("recipes"),
        find=_find,
        columns={
            "name": lambda row: str(row["name"]),
            "does": lambda row: ", ".join(
                next(iter(intent)) for intent in row.get("compress", ())
            ),
            "needs": lambda row: (
                " ".join(option for key, option in _ASKED.items() if not row.get(key))
                or "nothing"
            ),
            "title": lambda row: str(row.get("title", "")),
        },
        below="edgekit plan NAME shows what a recipe would do.",
    )
)
