"""A host: a place where files run, as data. Adding a device of your own is adding a file."""

import pathlib
import re
from typing import Literal

import pydantic

from edgekit.errors import HostError
from edgekit.value import UserConfig, check_folder_name, parse, read_yaml

Kind = Literal["local", "venv", "qemu", "ssh", "adb"]
#: The environment of a host that has one.
MAIN = "main"
#: ``name==version``: what a host's environment is made of is pinned, so that a number can
#: be taken again.
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,-]+\])?==[A-Za-z0-9.+!]+")
#: What ssh and adb are given as their destination: never something that they would read as
#: an option.
_ADDRESS = re.compile(r"[A-Za-z0-9_.:@%\[\]-]+")


class Environment(UserConfig):
    """One Python on a host, and the packages that it must have."""

    #: The words that start it over there; empty: the host's own ``python3``, or the one
    #: that edgekit makes.
    python: tuple[str, ...] = ()
    #: What edgekit installs for it (venv, qemu), pinned: ``tflite-runtime==2.14.0``.
    packages: tuple[str, ...] = ()
    #: The Python that the packages were made for, such as ``3.11``; empty: the one that
    #: edgekit runs in.
    version: str = pydantic.Field("", pattern=r"^(3\.\d+)?$")

    @pydantic.field_validator("packages")
    @classmethod
    def _pinned(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _PINNED.fullmatch(name):
                raise ValueError(f"{name!r} names no version; write it as name==1.2.3")
        return names


class HostFile(UserConfig):
    """One host: how it is reached, the Pythons on it, and how long an answer may take."""

    name: str
    title: str
    kind: Kind
    #: ssh: what you would write behind ``ssh``, a name of your OpenSSH configuration or
    #: user@machine; adb: the serial number.
    address: str = ""
    environments: dict[str, Environment] = pydantic.Field(
        default_factory=lambda: {MAIN: Environment()}, min_length=1
    )
    #: ssh: an OpenSSH configuration that is read in place of your own (its whole path; ~ is
    #: your home).
    config: str = ""
    #: Where files are kept over there; empty: ~/.cache/edgekit-worker.
    folder: str = ""
    #: qemu: the processor that is emulated.
    cpu: str = ""
    threads: int = pydantic.Field(1, ge=1)
    timeout_s: float = pydantic.Field(300.0, gt=0)
    #: Why times taken there say nothing, such as "emulated" or "shared with others"; empty:
    #: they are taken. An emulated kind is never timed.
    untimed: str = pydantic.Field("", max_length=100)
    #: Where the settings come from.
    source: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        return check_folder_name(name)

    @pydantic.field_validator("address")
    @classmethod
    def _destination(cls, address: str) -> str:
        if address and (
            not _ADDRESS.fullmatch(address) or address.startswith("-") or "@-" in address
        ):
            raise ValueError(
                f"{address!r} is no address; write a name of your SSH configuration, user@machine, or a phone's serial number"
            )
        return address

    @pydantic.field_validator("environments")
    @classmethod
    def _environment_names(cls, given: dict[str, Environment]) -> dict[str, Environment]:
        for name in given:
            check_folder_name(name)
        return given

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> "HostFile":
        if self.kind == "ssh" and not self.address:
            raise ValueError("address: say which machine, as you would behind ssh")
        if self.kind in ("venv", "qemu"):
            bare = [
                name
                for name, environment in self.environments.items()
                if not environment.packages
            ]
            if bare:
                raise ValueError(
                    f"environments: {', '.join(bare)} lists no packages, and edgekit makes this host from them"
                )
        return self


def load(path: pathlib.Path) -> HostFile:
    """Read a host file, or raise one HostError that lists everything wrong with it."""
    return parse(
        HostFile, {"name": path.stem, **read_yaml(path, HostError)}, str(path), HostError
    )
