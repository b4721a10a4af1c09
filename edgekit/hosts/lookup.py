"""From a host's name to the host: a shipped file, a file of the user's, ``ssh:address`` or
``adb:serial``.
"""

from edgekit import catalog
from edgekit import registry
from edgekit.contracts import HostKind
from edgekit.errors import HostError, suggest
from edgekit.host import MAIN, HostFile, load
from edgekit.hosts.runner import WorkerHost
from edgekit.value import parse

_FILES = (".yaml", ".yml")
#: What stands before the colon where no file is needed.
SHORT = ("ssh", "adb")


def split(name: str) -> tuple[str, str | None]:
    """``qemu-arm64/litert`` and ``./my-board.yaml/litert`` as host and environment; a path
    to a YAML file alone is no environment.
    """
    host, slash, environment = name.rpartition("/")
    is_path = host.startswith((".", "/")) and not host.endswith(_FILES)
    if slash and not name.endswith(_FILES) and not is_path:
        return host, environment
    return name, None


def find(name: str) -> HostFile:
    """The host of a name, a path, ``ssh:address`` or ``adb:serial``; an environment behind
    a slash is not looked at.
    """
    name, _ = split(name)
    kind, colon, address = name.partition(":")
    if colon and kind in SHORT:
        data = {
            "name": f"{kind}-{address}".replace(":", "-"),
            "title": f"{address} over {kind}",
            "kind": kind,
            "address": address,
        }
        return parse(HostFile, data, name, HostError)
    return load(catalog.find("hosts", name))


def kind_of(file: HostFile) -> HostKind:
    """What knows how to set this host up and reach it."""
    made: HostKind = registry.HOSTS.load(file.kind)(file)
    return made


def environments(name: str) -> list[str]:
    """The names of a host's environments, each as ``reach`` takes it; the one that is
    named, where one is.
    """
    if split(name)[1] is not None:
        return [name]
    file = find(name)
    return (
        [name]
        if len(file.environments) == 1
        else [f"{name}/{environment}" for environment in file.environments]
    )


def problem(name: str) -> tuple[str, str] | None:
    """Why a host cannot be used now, and the way out; None where nothing is known against
    it. Makes no connection.
    """
    file = find(name)
    return known(file, _environment(file, split(name)[1]), name)


def known(file: HostFile, environment: str, asked: str) -> tuple[str, str] | None:
    """What is known against an environment of a host; the way out names the host as it was
    asked for, which may be a path.
    """
    found = kind_of(file).problem(environment)
    return (
        None
        if found is None
        else (
            found[0],
            found[1].replace(
                f"edgekit hosts setup {file.name}", f"edgekit hosts setup {split(asked)[0]}"
            ),
        )
    )


def reach(name: str) -> WorkerHost:
    """The host, ready to load files; HostError with the way out where it is not set up."""
    file = find(name)
    environment, kind = _environment(file, split(name)[1]), kind_of(file)
    found = known(file, environment, name)
    if found is not None:
        raise HostError(f"{found[0][0].upper()}{found[0][1:]}.", fix=found[1])
    made: WorkerHost = kind.host(environment)
    return made


def _environment(file: HostFile, name: str | None) -> str:
    if name is None:
        return MAIN if MAIN in file.environments else next(iter(file.environments))
    if name not in file.environments:
        raise HostError(
            f"The host {file.name} has no environment {name!r}. {suggest(name, file.environments)}",
            fix=f"edgekit hosts show {file.name}",
        )
    return name
