"""The command that a shell on the other side reads: the same for every shell, or refused."""

import os
import pathlib
import shutil
import sys

import pytest

from edgekit.errors import HostError
from edgekit.host import Environment, HostFile
from edgekit.hosts import shell as far
from edgekit.hosts.process import Start, WorkerProcess
from tests.hosts import sshd

#: Debian's packages of shells that a machine may lack.
SHELLS = {"sh": (), "dash": (), "bash": (), "zsh": ("zsh",), "fish": ("fish", "libpcre2-32-0"), "tcsh": ("tcsh",), "busybox": ("busybox",)}


class AsItStands(Start):
    """A command to which nothing is added."""

    def words(self) -> list[str]:
        """The words as they were given."""
        return list(self.command)


def file(*python: str) -> HostFile:
    """A host whose Python is started with these words."""
    return HostFile(name="x", title="x", kind="ssh", address="x", environments={"main": Environment(python=python)})


def shell_of(name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """A login shell and what it needs: the machine's, or a fetched one."""
    found = shutil.which(name)
    if found:
        return (found, *(("sh",) if name == "busybox" else ())), {}
    folder = sshd.KEPT.with_name(f"{sshd.KEPT.name}-{name}")
    if not folder.is_dir():
        sshd.fetch(SHELLS[name], folder)
    path = next(path for path in (folder / "bin" / name, folder / "usr/bin" / name) if path.is_file())
    return (str(path), *(("sh",) if name == "busybox" else ())), {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folder.glob("**/lib/*-linux-gnu*")))}


@pytest.mark.parametrize("name", SHELLS)
def test_any_login_shell_will_do(tmp_path: pathlib.Path, name: str) -> None:
    """Each reads the words as they are meant, an odd path among them; csh and fish quote unlike the others."""
    command, environ = shell_of(name)
    odd = tmp_path / "a b;c'd\"e$(f)`g`&*"
    odd.mkdir()
    (odd / "python").symlink_to(sys.executable)
    words = Start(far.words(file("/usr/bin/env", str(odd / "python")), "main", ()), shell=True).words()
    # As sshd does: the login shell, -c, and the words with spaces between them.
    process = WorkerProcess(AsItStands((*command, "-c", " ".join(words)), {"HOME": str(tmp_path), **environ}), 60)
    assert process.ask("saying hello", {"command": "hello"})[0]["pid"] == process.pid
    process.close()


@pytest.mark.parametrize("word", ["a\\b", "a!b", "a\nb", "a\x1bb", "", "-c"])
def test_a_word_that_shells_read_in_different_ways_is_refused(word: str) -> None:
    """Backslashes, exclamation marks, line breaks, and an option where the program belongs."""
    with pytest.raises(HostError, match="starts Python with"):
        far.words(file(word), "main", ())
