"""Find recipes, targets and hosts by name or path.

The shipped files are in the folders of the checkout, or in ``edgekit/shipped`` of an installed
wheel. A user's own hosts are in the user's configuration folder, ``edgekit/hosts/NAME.yaml``;
they have names too.
"""

import pathlib
from typing import Literal

import platformdirs

from edgekit.errors import (
    EdgekitError,
    HostError,
    RecipeError,
    TargetError,
    unknown,
)

Kind = Literal["recipes", "targets", "hosts"]
_ERRORS: dict[Kind, type[EdgekitError]] = {
    "recipes": RecipeError,
    "targets": TargetError,
    "hosts": HostError,
}


def folder(kind: Kind) -> pathlib.Path:
    """Return the folder of the shipped recipes, targets or hosts."""
    package = pathlib.Path(__file__).parent
    inside = package / "shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


def user_hosts() -> pathlib.Path:
    """Return the folder of the user's own hosts, which may not exist."""
    return platformdirs.user_config_path("edgekit", appauthor=False) / "hosts"


def names(kind: Kind) -> list[str]:
    """Return the sorted names of all shipped files, and of the user's own hosts."""
    files = list(folder(kind).glob("*.yaml"))
    if kind == "hosts":
        files.extend(user_hosts().glob("*.yaml"))
    return sorted({path.stem for path in files})


def find(kind: Kind, name: str) -> pathlib.Path:
    """Return the file of a shipped name, or of a path.

    ``recipes/digits.yaml``, as the documents write it, finds the shipped file if there is no
    such path. A user's own host takes precedence over a shipped one with its name.

    Raises:
        RecipeError, TargetError, HostError: No such file or name; the message has the nearest.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name:
        return _find_path(kind, pathlib.Path(name))
    if name in names(kind):
        own = user_hosts() / f"{name}.yaml"
        if kind == "hosts" and own.is_file():
            return own
        return folder(kind) / f"{name}.yaml"
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    raise _ERRORS[kind](
        unknown(kind.removesuffix("s"), name, names(kind)),
        fix=f"'edgekit {kind}' lists them; a path to a YAML file works too",
    )


def _find_path(kind: Kind, path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        return path
    shipped = folder(kind) / f"{path.stem}.yaml"
    if path.parent.name == kind and shipped.is_file():
        return shipped
    raise _ERRORS[kind](
        f"No such file: {path}",
        fix=f"'edgekit {kind}' lists the shipped {kind}",
    )
