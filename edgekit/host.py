"""A host: a place where files run, described by a YAML file."""

import pathlib
import re
from typing import Literal

import pydantic

from edgekit.errors import HostError
from edgekit.value import UserConfig, check_folder_name, parse, read_yaml

Kind = Literal["local", "venv", "qemu", "ssh", "adb"]
#: The kinds whose packages edgekit installs.
_INSTALLED_KINDS = ("venv", "qemu")
#: The name of the environment if a host has only one.
MAIN = "main"
#: ``name==version``: packages are pinned, so that measurements can be repeated.
_PINNED = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,-]+\])?==[A-Za-z0-9.+!]+"
)
#: A destination for ssh or adb that they cannot read as an option.
_ADDRESS = re.compile(r"[A-Za-z0-9_.:@%\[\]-]+")


class Environment(UserConfig):
    """One Python on a host, and the packages that it must have."""

    #: The command that starts it on the host; empty: the host's own ``python3``, or the one
    #: that edgekit installs.
    python: tuple[str, ...] = ()
    #: What edgekit installs for it (venv, qemu), pinned: ``tflite-runtime==2.14.0``.
    packages: tuple[str, ...] = ()
    #: The Python version that the packages require, such as ``3.11``; empty: the version
    #: that edgekit runs in.
    version: str = pydantic.Field("", pattern=r"^(3\.\d+)?$")

    @pydantic.field_validator("packages")
    @classmethod
    def _pinned(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        for package in packages:
            if not _PINNED.fullmatch(package):
                raise ValueError(
                    f"{package!r} has no version; expected name==1.2.3"
                )
        return packages


class HostFile(UserConfig):
    """One host: how it is reached, its Pythons, and how long a reply may take."""

    name: str
    title: str
    kind: Kind
    #: ssh: the destination as in ``ssh DESTINATION``, a name of your OpenSSH configuration
    #: or user@machine; adb: the serial number.
    address: str = ""
    environments: dict[str, Environment] = pydantic.Field(
        default_factory=lambda: {MAIN: Environment()}, min_length=1
    )
    #: ssh: an OpenSSH configuration to read instead of your own (an absolute path; ~ is your
    #: home).
    config: str = ""
    #: Where files are stored on the host; empty: ~/.cache/edgekit-worker.
    folder: str = ""
    #: qemu: the emulated processor.
    cpu: str = ""
    threads: int = pydantic.Field(1, ge=1)
    timeout_s: float = pydantic.Field(300.0, gt=0)
    #: Why its times are meaningless, such as "emulated" or "shared with others"; empty: it
    #: is timed. An emulated kind is never timed.
    untimed: str = pydantic.Field("", max_length=100)
    #: The source of the settings.
    source: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        return check_folder_name(name)

    @pydantic.field_validator("address")
    @classmethod
    def _valid_address(cls, address: str) -> str:
        is_option = address.startswith("-") or "@-" in address
        if address and (is_option or not _ADDRESS.fullmatch(address)):
            raise ValueError(
                f"{address!r} is not a valid address; expected a name of your SSH"
                " configuration, user@machine, or the serial number of a phone"
            )
        return address

    @pydantic.field_validator("environments")
    @classmethod
    def _valid_environments(
        cls, environments: dict[str, Environment]
    ) -> dict[str, Environment]:
        for name in environments:
            check_folder_name(name)
        return environments

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "HostFile":
        if self.kind == "ssh" and not self.address:
            raise ValueError("address: required, as in 'ssh ADDRESS'")
        if self.kind in _INSTALLED_KINDS:
            empty = [
                name
                for name, row in self.environments.items()
                if not row.packages
            ]
            if empty:
                raise ValueError(
                    f"environments: {', '.join(empty)} lists no packages, but edgekit"
                    " installs this host from them"
                )
        return self


def load(path: pathlib.Path) -> HostFile:
    """Read a host file. Raises one HostError with all errors of the file."""
    data = {"name": path.stem, **read_yaml(path, HostError)}
    return parse(HostFile, data, str(path), HostError)
