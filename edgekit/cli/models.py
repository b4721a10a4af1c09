"""``edgekit models``: the networks that come with edgekit."""

from typing import Any

from edgekit import registry
from edgekit.cli.listing import Listing, build_group


def _find(name: str) -> dict[str, Any]:
    entry = registry.SOURCES.entry(name)
    missing = registry.SOURCES.missing(name, registry.installed)
    return {
        "name": name,
        "title": entry.title,
        "code": entry.where,
        "missing": list(missing),
        "install": registry.install(entry.extra) if missing else None,
    }


def _needs(row: dict[str, Any]) -> str:
    if not row["missing"]:
        return ""
    return f"needs {', '.join(row['missing'])}: {row['install']}"


models = build_group(
    Listing(
        word="models",
        about="List the networks that come with edgekit. A network of your own is "
        "file.py:function or package.module:function.",
        names=lambda: list(registry.SOURCES),
        find=_find,
        columns={
            "name": lambda row: str(row["name"]),
            "title": lambda row: str(row["title"]),
            "": _needs,
        },
        below="A network of your own: --model file.py:function "
        "or --model package.module:function.",
    )
)
