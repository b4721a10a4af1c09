"""adb: its failures from the real program without a phone, and the way through with a
stand-in that starts a shell. No phone was available.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy
import psutil
import pytest

from edgekit.contracts import BenchProtocol
from edgekit.errors import HostError
from edgekit.host import Environment, HostFile
from edgekit.hosts import lookup
from edgekit.hosts.adb import Adb
from tests.hosts import sshd
from tests.hosts.test_local import artifact, linear

#: Debian's adb and the libraries that it alone uses.
PACKAGES = (
    "adb",
    "android-libbase",
    "android-libboringssl",
    "android-libcutils",
    "android-liblog",
    "libusb-1.0-0",
)
VALUES = numpy.ones((3, 4), "float32")


@pytest.fixture
def real(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The real adb, with its own server on a free port."""
    folder = sshd.KEPT.with_name(f"{sshd.KEPT.name}-adb")
    if shutil.which("adb") is None:
        if not folder.is_dir():
            sshd.fetch(PACKAGES, folder)
        libraries = [
            str(path)
            for path in (
                *folder.glob("usr/lib/*-linux-gnu*"),
                *folder.glob("usr/lib/*-linux-gnu*/android"),
            )
        ]
        monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(libraries))
        monkeypatch.setenv(
            "PATH",
            f"{folder / 'usr/lib/android-sdk/platform-tools'}{os.pathsep}{os.environ['PATH']}",
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv(
            "ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1])
        )
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    subprocess.run(
        ["adb", "kill-server"], capture_output=True, timeout=30, check=False
    )


def test_no_phone_is_reported_by_the_real_adb(real: None) -> None:
    """Without a serial number, and with one that is not there."""
    with pytest.raises(
        HostError, match=r"No phone is connected for phone(.|\n)*USB debugging"
    ):
        Adb(HostFile(name="phone", title="x", kind="adb")).host("main").hello()
    with pytest.raises(
        HostError,
        match=r"No phone with the serial number ABC123 is connected"
        r"(.|\n)*those that are connected: none",
    ):
        lookup.open_host("adb:ABC123").hello()


STAND_IN = """#!/bin/sh
# Accepts adb's options as edgekit writes them and passes the rest to a shell, joined by
# spaces as adb does.
printf '%s\\n' "$*" > "{folder}/words"
if [ "$1" = devices ]; then
  printf 'List of devices attached\\nABC\\tdevice\\nDEF\\tunauthorized\\n'
  exit 0
fi
if [ "$1" = -s ]; then shift 2; fi
[ "$1 $2 $3 $4" = "shell -e none -T" ] || exit 64
shift 4
{does}
"""


def phone(
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    does: str = 'exec /bin/sh -c "$*"',
    *python: str,
) -> HostFile:
    """A phone reached by a stand-in for adb."""
    program = folder / "bin" / "adb"
    program.parent.mkdir(exist_ok=True)
    program.write_text(STAND_IN.format(folder=folder, does=does))
    program.chmod(0o755)
    monkeypatch.setenv(
        "PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    )
    return HostFile(
        name="phone",
        title="x",
        kind="adb",
        address="ABC",
        folder=str(folder / "store"),
        timeout_s=60,
        environments={"main": Environment(python=python or (sys.executable,))},
    )


def test_a_file_runs_and_is_raced_through_the_stand_in(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words that adb is given, an odd path among them, start a Python; the file is
    copied, run and timed.
    """
    odd = tmp_path / "a b;c'd\"e$(f)"
    odd.mkdir()
    (odd / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (odd / "python").chmod(0o755)
    host = Adb(
        phone(
            tmp_path,
            monkeypatch,
            'exec /bin/sh -c "$*"',
            "/usr/bin/env",
            str(odd / "python"),
        )
    ).host("main")
    example = artifact(tmp_path, linear(tmp_path))
    with host.open(example) as runner:
        assert runner.infer({"input": VALUES})["output"].shape == (
            3,
            3,
        ) and runner.where.startswith("phone: onnxruntime")
    assert (
        len(
            host.race(
                {"a": example},
                {"input": VALUES},
                BenchProtocol(rounds=5, warmup=2, round_ms=0.1),
            )["a"].nanoseconds
        )
        == 5
    )
    assert (
        (tmp_path / "words")
        .read_text()
        .startswith("-s ABC shell -e none -T exec /usr/bin/env ")
    )
    assert len(list((tmp_path / "store").iterdir())) == 1


@pytest.mark.parametrize(
    ("stderr", "code", "message"),
    [
        (
            "error: more than one device/emulator",
            1,
            "Connected: ABC device, DEF unauthorized",
        ),
        (
            "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set",
            1,
            "does not trust this computer",
        ),
        ("error: device offline", 1, "phone is offline"),
        (
            "error: device 'ABC' not found",
            1,
            "No phone with the serial number ABC",
        ),
        (
            "error: insufficient permissions for device: user in plugdev group;"
            " are your udev rules wrong?",
            1,
            "no permission to access the phone",
        ),
        ("error: target doesn't support PTY args -Tt", 1, "too old"),
        (
            "* failed to start daemon\nerror: cannot connect to daemon",
            1,
            "own server is not running",
        ),
        (
            "/system/bin/sh: exec: python3: not found",
            127,
            "Python of phone cannot be started",
        ),
        ("something new", 1, "Python did not start on phone"),
    ],
)
def test_each_failure_of_adb_is_explained(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    stderr: str,
    code: int,
    message: str,
) -> None:
    """adb's own messages, as its source has them, and the shell's."""
    (tmp_path / "stderr").write_text(stderr + "\n")
    with pytest.raises(HostError, match=message) as error:
        Adb(
            phone(
                tmp_path,
                monkeypatch,
                f'cat "{tmp_path}/stderr" >&2; exit {code}',
            )
        ).host("main").hello()
    assert stderr.splitlines()[0] in error.value.message


def test_a_phone_that_is_unplugged_is_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends with no status of the program over there."""
    host = Adb(phone(tmp_path, monkeypatch, '/bin/sh -c "$*"; exit 0')).host(
        "main"
    )
    example = artifact(tmp_path, linear(tmp_path))
    with host.open(example) as runner:
        for child in psutil.Process(runner._process.pid).children(
            recursive=True
        ):
            child.kill()
        with pytest.raises(
            HostError,
            match=r"connection to phone ended while running part 'main'(.|\n)*reconnect it",
        ):
            runner.infer({"input": VALUES})


def test_a_machine_without_adb_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fix is the package."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert lookup.find_problem("adb:ABC") == (
        "the program adb is not installed",
        "apt-get install adb",
    )
    assert lookup.find_problem("ssh:board") == (
        "the program ssh is not installed",
        "apt-get install openssh-client",
    )
    with pytest.raises(HostError, match="The program adb is not installed\\."):
        lookup.open_host("adb:ABC")
