"""Finds a host by its name: a shipped file, the user's own file, ``ssh:address`` or
``adb:serial``.
"""

from edgekit import catalog, registry
from edgekit.contracts import Host, HostKind
from edgekit.errors import HostError, suggest
from edgekit.host import MAIN, HostFile, load
from edgekit.value import parse

_FILES = (".yaml", ".yml")
#: Kinds whose hosts need no file: ``kind:address``.
SHORT_KINDS = ("ssh", "adb")


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``qemu-arm64/litert`` and ``./my-board.yaml/litert`` into host and environment.

    The environment is None if the name has none; a path to a YAML file alone has none.
    """
    host, slash, environment = name.rpartition("/")
    is_path = host.startswith((".", "/")) and not host.endswith(_FILES)
    if slash and not name.endswith(_FILES) and not is_path:
        return host, environment
    return name, None


def find_host(name: str) -> HostFile:
    """The host file of a name, a path, ``ssh:address`` or ``adb:serial``.

    An environment after a slash is ignored. Raises HostError.
    """
    name, _ = split_name(name)
    kind, colon, address = name.partition(":")
    if not colon or kind not in SHORT_KINDS:
        return load(catalog.find("hosts", name))
    data = {
        "name": f"{kind}-{address}".replace(":", "-"),
        "title": f"{address} over {kind}",
        "kind": kind,
        "address": address,
    }
    return parse(HostFile, data, name, HostError)


def load_kind(file: HostFile) -> HostKind:
    """The implementation of the host's kind, which sets it up and connects to it."""
    kind: HostKind = registry.HOSTS.load(file.kind)(file)
    return kind


def list_environments(name: str) -> list[str]:
    """The environments of a host, as names for ``open_host``; one if the name selects it."""
    if split_name(name)[1] is not None:
        return [name]
    environments = find_host(name).environments
    if len(environments) == 1:
        return [name]
    return [f"{name}/{environment}" for environment in environments]


def find_problem(name: str) -> tuple[str, str] | None:
    """Why a host cannot be used and the fix; None if no problem is known.

    Makes no connection.
    """
    file = find_host(name)
    environment = _select_environment(file, split_name(name)[1])
    return find_environment_problem(file, environment, name)


def find_environment_problem(
    file: HostFile, environment: str, requested: str
) -> tuple[str, str] | None:
    """Why an environment cannot be used and the fix; None if no problem is known.

    The fix names the host as it was requested, which may be a path.
    """
    problem = load_kind(file).problem(environment)
    if problem is None:
        return None
    reason, fix = problem
    setup = f"edgekit hosts setup {file.name}"
    requested_setup = f"edgekit hosts setup {split_name(requested)[0]}"
    return reason, fix.replace(setup, requested_setup)


def open_host(name: str) -> Host:
    """The host, ready to load files. Raises HostError, with the fix, if it is not set up."""
    file = find_host(name)
    environment = _select_environment(file, split_name(name)[1])
    problem = find_environment_problem(file, environment, name)
    if problem is not None:
        reason, fix = problem
        raise HostError(f"{reason[0].upper()}{reason[1:]}.", fix=fix)
    return load_kind(file).host(environment)


def _select_environment(file: HostFile, name: str | None) -> str:
    if name is None:
        return (
            MAIN if MAIN in file.environments else next(iter(file.environments))
        )
    if name not in file.environments:
        raise HostError(
            f"Unknown environment {name!r} of the host {file.name}."
            f" {suggest(name, file.environments)}",
            fix=f"edgekit hosts show {file.name}",
        )
    return name
