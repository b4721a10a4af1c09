"""A real OpenSSH server on the loopback address, run as the tests' own user, and a client
configuration that reaches it.

Use it as ``with serving(folder) as server: server.host_file()``. Where the machine has no
sshd, Debian's package is fetched into a folder that is kept for the next time; nothing is
installed, and no rights are needed.
"""

import contextlib
import dataclasses
import getpass
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import NoReturn

import psutil
import pytest

from edgekit.host import Environment, HostFile

PACKAGES = ("openssh-server", "libwrap0", "libnss-wrapper")
#: Where a fetched server is kept, for each user.
KEPT = pathlib.Path(tempfile.gettempdir()) / f"edgekit-sshd-{os.getuid()}"
ALIAS = "board"


@dataclasses.dataclass(frozen=True)
class Program:
    """An sshd, and the folder of its libraries if it was fetched."""

    path: pathlib.Path
    libraries: str = ""

    def environ(self, folder: pathlib.Path, shell: str) -> dict[str, str]:
        """The environment that it needs.

        A fetched server reads users from a separate list, with our login shell
        choice:

        run as root it asks for a user ``sshd``, whom only an installed server has.
        """
        if not self.libraries:
            return dict(os.environ)
        me, wrapper = (
            pwd.getpwuid(os.getuid()),
            next(KEPT.glob("**/libnss_wrapper.so*")),
        )
        own = f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}::{me.pw_dir}:{shell or me.pw_shell}\n"
        (folder / "passwd").write_text(
            own + "sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        (folder / "group").write_text(
            f"{me.pw_name}:x:{me.pw_gid}:\nnogroup:x:65534:\n"
        )
        wrapped = {
            "NSS_WRAPPER_PASSWD": folder / "passwd",
            "NSS_WRAPPER_GROUP": folder / "group",
            "LD_PRELOAD": wrapper,
        }
        return {
            **os.environ,
            "LD_LIBRARY_PATH": self.libraries,
            **{name: str(path) for name, path in wrapped.items()},
        }


def program() -> Program:
    """The machine's sshd, or a fetched one. Skips if neither is available."""
    for place in (shutil.which("sshd"), "/usr/sbin/sshd"):
        if place and pathlib.Path(place).is_file():
            return Program(pathlib.Path(place))
    fetched = Program(
        KEPT / "usr/sbin/sshd",
        os.pathsep.join(str(path) for path in KEPT.glob("**/lib/*-linux-gnu*")),
    )
    if not fetched.path.is_file():
        fetch(PACKAGES, KEPT)
        return (
            program()
            if fetched.path.is_file()
            else _without("no sshd here, and none could be fetched")
        )
    return fetched


def _apt(
    folder: pathlib.Path, *words: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["apt-get", "-q", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def fetch(packages: tuple[str, ...], folder: pathlib.Path) -> None:
    """Unpack Debian packages into a folder, atomically.

    Skips where there is no apt or no package.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        _without("there is no apt-get here to fetch a program with")
    with tempfile.TemporaryDirectory() as name:
        debs, unpacked = (
            pathlib.Path(name) / "debs",
            pathlib.Path(name) / "root",
        )
        debs.mkdir(mode=0o777)
        done = _apt(debs, "download", *packages)
        # The machine has no lists of packages, or old ones: use separate lists.
        if done.returncode:
            lists = pathlib.Path(name) / "lists"
            (lists / "partial").mkdir(parents=True)
            own = (
                "-o",
                f"Dir::State::lists={lists}",
                "-o",
                f"Dir::Cache={name}/apt",
                "-o",
                "APT::Sandbox::User=",
            )
            done = _apt(debs, *own, "update")
            done = (
                done
                if done.returncode
                else _apt(debs, *own, "download", *packages)
            )
        if done.returncode:
            _without(
                f"{packages[0]} cannot be fetched: {done.stderr.strip()[-200:]}"
            )
        for deb in debs.glob("*.deb"):
            subprocess.run(
                ["dpkg", "-x", str(deb), str(unpacked)], check=True, timeout=60
            )
        with contextlib.suppress(OSError):  # Another run was quicker.
            shutil.move(unpacked, folder)


def _without(why: str) -> NoReturn:
    """Skip the test; where ``.ci/run`` asks for every host, fail."""
    if os.environ.get("EDGEKIT_EVERY_HOST"):
        pytest.fail(why)
    pytest.skip(why)


@dataclasses.dataclass(frozen=True)
class Server:
    """A running sshd: its process, port, and the files of a client that may come in."""

    process: psutil.Process
    port: int
    folder: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """The client's OpenSSH configuration; the machine is called ``board`` there."""
        return self.folder / "config"

    def host_file(
        self, *python: str, store: str = "", **changes: object
    ) -> HostFile:
        """This server as a host; ``python`` are the words of the far side's Python."""
        import sys

        environment = Environment(python=python or (sys.executable,))
        options = {
            "name": ALIAS,
            "title": "sshd on the loopback address",
            "kind": "ssh",
            "address": ALIAS,
            "config": str(self.config),
            "environments": {"main": environment},
            "folder": store or str(self.folder / "store"),
            "timeout_s": 60,
            **changes,
        }
        return HostFile.model_validate(options)

    def configure(self, **options: object) -> None:
        """Write the client's configuration again with some options changed."""
        defaults = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": getpass.getuser(),
            "IdentityFile": self.folder / "client",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentityAgent": "none",
        }
        lines = [
            f"  {key} {value}" for key, value in {**defaults, **options}.items()
        ]
        self.config.write_text("\n".join([f"Host {ALIAS}", *lines]) + "\n")

    def connections(self) -> list[psutil.Process]:
        """The server's processes for the connections that stand now, the deepest last."""
        return [
            child
            for child in self.process.children(recursive=True)
            if child.is_running() and child.name() == "sshd"
        ]

    def cut(self) -> None:
        """End every connection from the server's side, as a machine that is switched off
        does.
        """
        for child in self.connections():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def serving(
    folder: pathlib.Path, *, shell: str = "", command: str = ""
) -> Iterator[Server]:
    """A server with its own keys in a folder.

    ``shell``: the user's login shell (a fetched server only); ``command``: what it runs in
    place of what it is asked.
    """
    installed, port = program(), _free_port()
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("client", "host"):
        subprocess.run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                str(folder / name),
            ],
            check=True,
            timeout=60,
        )
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text(
        f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}"
    )
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "PrintMotd": "no",
    }
    if command:
        options["ForceCommand"] = command
    (folder / "sshd_config").write_text(
        "".join(f"{key} {value}\n" for key, value in options.items())
    )
    if (
        os.getuid() == 0
    ):  # The folder that its part without rights is locked into.
        pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [installed.path, "-D", "-e", "-f", str(folder / "sshd_config")],
        stderr=log,
        env=installed.environ(folder, shell),
        start_new_session=True,
    )
    try:
        _wait_for(port, process)
        server = Server(psutil.Process(process.pid), port, folder)
        server.configure()
        yield server
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait(20)
        log.close()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 1),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError(
        f"sshd did not start: status {process.poll()}; see its log"
    )
