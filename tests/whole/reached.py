"""How the end-to-end tests reach hosts: the verify command, host files of a user, and an ARM Python
as a board has it.
"""

import json
import pathlib

import yaml
from click.testing import CliRunner

from edgekit.cli.main import main
from edgekit.hosts import lookup, qemu
from edgekit.hosts.venv import SITE
from edgekit.report import EvidenceReport
from tests.hosts import sshd


def verified(
    folder: pathlib.Path, *words: str, code: int = 0
) -> dict[str, dict[str, EvidenceReport]]:
    """What ``edgekit verify`` finds, by bundle, then by host and environment."""
    done = CliRunner().invoke(main, ["verify", str(folder), "--json", *words])
    assert done.exit_code == code, done.output
    return {
        name: {row["host"]: EvidenceReport.model_validate(row) for row in rows}
        for name, rows in json.loads(done.stdout).items()
    }


def set_up(*names: str) -> None:
    """Make hosts ready, with the command that a user runs."""
    done = CliRunner().invoke(main, ["hosts", "setup", *names])
    assert done.exit_code == 0, done.output


def described(
    path: pathlib.Path, server: sshd.Server, *python: str, untimed: str = ""
) -> str:
    """A host file of a user for one of the machine's Pythons; returns its path."""
    settings = server.host_file(
        *python, untimed=untimed, timeout_s=1800
    ).model_dump(exclude_defaults=True, mode="json")
    path.write_text(yaml.safe_dump({**settings, "name": path.stem}))
    return str(path)


def arm_python(folder: pathlib.Path) -> tuple[str, ...]:
    """The words that start the ARM Python of the ready host ``qemu-arm64`` with its
    packages: a virtual environment of it in a folder.
    """
    kind = lookup.load_kind(lookup.find_host("qemu-arm64"))
    assert isinstance(kind, qemu.Qemu)
    start = kind.host("main").start
    *words, python = start.command[: -len(("-S",))]
    (site,) = start.paths
    arm_folder, version = folder / "arm", pathlib.Path(python).name
    (arm_folder / "bin").mkdir(parents=True)
    (arm_folder / "lib" / version).mkdir(parents=True)
    (arm_folder / "bin" / "python").symlink_to(python)
    (arm_folder / "lib" / version / "site-packages").symlink_to(site)
    (arm_folder / "pyvenv.cfg").write_text(
        f"home = {pathlib.Path(python).parent}\ninclude-system-site-packages = false\n"
    )
    assert pathlib.Path(site).name == SITE
    return (*words, str(arm_folder / "bin" / "python"))
