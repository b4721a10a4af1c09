"""``edgekit recipes``: the recipes that come with edgekit."""

from typing import Any

from edgekit import catalog
from edgekit import recipe as recipe_files
from edgekit.cli.listing import Listing, build_group

#: Keys of a recipe that may be missing, and the options that set them.
_OPTIONS = {"model": "--model", "task": "--task", "targets": "--target"}


def _find(name: str) -> dict[str, Any]:
    path = catalog.find("recipes", name)
    data = recipe_files.load(path).model_dump(mode="json", exclude_unset=True)
    return {**data, "file": str(path)}


def _intents(row: dict[str, Any]) -> str:
    return ", ".join(next(iter(intent)) for intent in row.get("compress", ()))


def _missing_options(row: dict[str, Any]) -> str:
    missing = [option for key, option in _OPTIONS.items() if not row.get(key)]
    return " ".join(missing) or "nothing"


recipes = build_group(
    Listing(
        word="recipes",
        about="List the recipes that come with edgekit. A recipe of your own is a YAML file: "
        "give its path to 'edgekit run'.",
        names=lambda: catalog.names("recipes"),
        find=_find,
        columns={
            "name": lambda row: str(row["name"]),
            "does": _intents,
            "needs": _missing_options,
            "title": lambda row: str(row.get("title", "")),
        },
        below="edgekit plan NAME shows what a recipe would do.",
    )
)
