"""The command that a shell on the other side reads: the same for every shell, or refused."""

import contextlib
import os
import pathlib
import shutil
import sys

import numpy
import pytest

from edgekit.errors import HostError, MissingBackend
from edgekit.host import Environment, HostFile
from edgekit.hosts import shell as far
from edgekit.hosts.process import Start, WorkerProcess
from tests.hosts import sshd

#: Debian's packages of shells that a machine may lack.
SHELLS = {
    "sh": (),
    "dash": (),
    "bash": (),
    "zsh": ("zsh",),
    "fish": ("fish", "libpcre2-32-0"),
    "tcsh": ("tcsh",),
    "busybox": ("busybox",),
}


class AsItStands(Start):
    """A command to which nothing is added."""

    def arguments(self) -> list[str]:
        """The words as they were given."""
        return list(self.command)


def file(*python: str) -> HostFile:
    """A host whose Python is started with these words."""
    return HostFile(
        name="x",
        title="x",
        kind="ssh",
        address="x",
        environments={"main": Environment(python=python)},
    )


def shell_of(name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """A login shell and what it needs: the machine's, or a fetched one."""
    shell_path = shutil.which(name)
    if shell_path:
        return (shell_path, *(("sh",) if name == "busybox" else ())), {}
    folder = sshd.KEPT.with_name(f"{sshd.KEPT.name}-{name}")
    if not folder.is_dir():
        sshd.fetch(SHELLS[name], folder)
    path = next(
        path
        for path in (folder / "bin" / name, folder / "usr/bin" / name)
        if path.is_file()
    )
    return (str(path), *(("sh",) if name == "busybox" else ())), {
        "LD_LIBRARY_PATH": os.pathsep.join(
            map(str, folder.glob("**/lib/*-linux-gnu*"))
        )
    }


@pytest.mark.parametrize("name", SHELLS)
def test_any_login_shell_will_do(tmp_path: pathlib.Path, name: str) -> None:
    """Each reads the words as they are meant, an odd path among them; csh and fish quote
    unlike the others.
    """
    command, environ = shell_of(name)
    odd = tmp_path / "a b;c'd\"e$(f)`g`&*"
    odd.mkdir()
    (odd / "python").symlink_to(sys.executable)
    words = Start(
        far.python_command(
            file("/usr/bin/env", str(odd / "python")), "main", ()
        ),
        shell=True,
    ).arguments()
    # As sshd does: the login shell, -c, and the words with spaces between them.
    process = WorkerProcess(
        AsItStands(
            (*command, "-c", " ".join(words)),
            {"HOME": str(tmp_path), **environ},
        ),
        60,
    )
    assert (
        process.request("saying hello", {"command": "hello"})[0]["pid"]
        == process.pid
    )
    process.close()


@pytest.mark.parametrize("word", ["a\\b", "a!b", "a\nb", "a\x1bb", "", "-c"])
def test_a_word_that_shells_read_in_different_ways_is_refused(
    word: str,
) -> None:
    """Backslashes, exclamation marks, line breaks, and an option where the program belongs."""
    with pytest.raises(HostError, match="starts Python with"):
        far.python_command(file(word), "main", ())


@pytest.mark.parametrize("user", [True, False])
def test_packages_of_the_user_are_found_over_there(
    tmp_path: pathlib.Path, user: bool
) -> None:
    """``pip install --user``, the usual way on a board, is visible through a shell although
    Python is isolated; on this machine it is not.
    """
    base = (
        pathlib.Path(sys.base_prefix)
        / "bin"
        / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    folder = tmp_path / "lib" / base.name / "site-packages"
    folder.mkdir(parents=True)
    for package in ("numpy", "numpy.libs"):
        (folder / package).symlink_to(
            pathlib.Path(numpy.__file__).parents[1] / package
        )
    # An isolated Python does not read PYTHONUSERBASE: the home folder counts.
    (tmp_path / ".local").symlink_to(tmp_path)
    (folder / "tflite_runtime-2.14.0.dist-info").mkdir()
    (folder / "tflite_runtime-2.14.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tflite-runtime\nVersion: 2.14.0\n"
    )
    words = " ".join(Start((str(base),), shell=True).arguments())
    process = WorkerProcess(
        AsItStands(
            ("/bin/sh", "-c", words), {"HOME": str(tmp_path)}, shell=user
        ),
        60,
    )
    if user:
        assert (
            process.request("saying hello", {"command": "hello"})[0][
                "versions"
            ]["tflite-runtime"]
            == "2.14.0"
        )
    else:
        with contextlib.suppress(
            MissingBackend
        ):  # where this machine's own Python has no numpy
            assert (
                "tflite-runtime"
                not in process.request("saying hello", {"command": "hello"})[0][
                    "versions"
                ]
            )
    process.close()
