"""Where recipes, targets and hosts lie: the folders of the checkout, or the copies inside
the wheel. A name or a path finds one.

A user's own hosts lie in the user's configuration folder, ``edgekit/hosts/NAME.yaml``, and
are found by their names too.
"""

import pathlib
from typing import Literal

import platformdirs

from edgekit.errors import EdgekitError, HostError, RecipeError, TargetError
from edgekit.value import nearest

Kind = Literal["recipes", "targets", "hosts"]
_ERRORS: dict[Kind, type[EdgekitError]] = {
    "recipes": RecipeError,
    "targets": TargetError,
    "hosts": HostError,
}


def folder(kind: Kind) -> pathlib.Path:
    """The folder of the shipped recipes or targets."""
    package = pathlib.Path(__file__).parent
    inside = package / "shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


def own_hosts() -> pathlib.Path:
    """The folder of the user's own hosts; it need not exist."""
    return platformdirs.user_config_path("edgekit", appauthor=False) / "hosts"


def names(kind: Kind) -> list[str]:
    """The names of all that is shipped, and of the user's own hosts."""
    own = own_hosts().glob("*.yaml") if kind == "hosts" else ()
    return sorted({path.stem for path in (*folder(kind).glob("*.yaml"), *own)})


def find(kind: Kind, name: str) -> pathlib.Path:
    """The file for a shipped name, or for a path; else an error with the nearest name."""
    error = _ERRORS[kind]
    if name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name:
        path = pathlib.Path(name)
        if path.is_file():
            return path
        shipped = folder(kind) / f"{path.stem}.yaml"
        if path.parent.name == kind and shipped.is_file():
            return shipped
        raise error(
            f"There is no file {name}.", fix=f"'edgekit {kind}' lists what is shipped"
        )
    if name in names(kind):
        own = own_hosts() / f"{name}.yaml"
        return own if kind == "hosts" and own.is_file() else folder(kind) / f"{name}.yaml"
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    raise error(
        f"No {kind[:-1]} is called {name!r}; {nearest(name, names(kind))}.",
        fix=f"'edgekit {kind}' lists them; a path to a YAML file works too",
    )
