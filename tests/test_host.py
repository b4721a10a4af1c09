"""Host files: every mistake at once, and nothing that a program could read as an option."""

import pathlib

import pytest

from edgekit import host
from edgekit.errors import HostError
from edgekit.hosts import lookup


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    """A host file."""
    path = folder / "board.yaml"
    path.write_text(text)
    return path


def test_a_host_has_one_environment_by_default(tmp_path: pathlib.Path) -> None:
    """A few lines are enough for a board."""
    found = host.load(
        write(tmp_path, "title: my board\nkind: ssh\naddress: pi@board.local\n")
    )
    assert (found.name, found.address, list(found.environments)) == (
        "board",
        "pi@board.local",
        ["main"],
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: x\nkind: ssh\n", "address: required"),
        (
            "title: x\nkind: ssh\naddress: -oProxyCommand=touch /tmp/x\n",
            "is not a valid address",
        ),
        (
            "title: x\nkind: ssh\naddress: 'a; reboot'\n",
            "is not a valid address",
        ),
        (
            "title: x\nkind: ssh\naddress: pi@-oProxyCommand=x\n",
            "is not a valid address",
        ),
        ("title: x\nkind: ssh\naddress: pi@-v\n", "is not a valid address"),
        ("title: x\nkind: venv\n", "main lists no packages"),
        (
            "title: x\nkind: venv\nenvironments: {main: {packages: [numpy]}}\n",
            "has no version",
        ),
        (
            "title: x\nkind: venv\nenvironments: {main: {packages: ['-e .']}}\n",
            "has no version",
        ),
        (
            "title: x\nkind: venv\nenvironments: {../up: {packages: [numpy==1.0]}}\n",
            "not a valid folder name",
        ),
        ("title: x\nkind: shh\n", "Did you mean 'ssh'"),
    ],
)
def test_a_mistake_is_told(
    tmp_path: pathlib.Path, text: str, said: str
) -> None:
    """Each mistake is a HostError with its place."""
    with pytest.raises(HostError, match=said):
        host.load(write(tmp_path, text))


def test_short_names_need_no_file() -> None:
    """``ssh:`` and ``adb:`` reach a machine without a file; an environment stands behind a
    slash.
    """
    assert lookup.find_host("ssh:pi@board").address == "pi@board"
    assert lookup.split_name("qemu-arm64/litert") == ("qemu-arm64", "litert")
    assert lookup.split_name("./hosts/board.yaml") == (
        "./hosts/board.yaml",
        None,
    )
    assert lookup.split_name("./hosts/board.yaml/litert") == (
        "./hosts/board.yaml",
        "litert",
    )
    assert lookup.split_name("/home/me/board.yml/older") == (
        "/home/me/board.yml",
        "older",
    )
    with pytest.raises(HostError, match="Did you mean 'local'"):
        lookup.find_host("locall")
    with pytest.raises(HostError, match="Unknown environment 'old'"):
        lookup.open_host("local/old")


def test_this_machine_is_reached_and_tells_of_itself() -> None:
    """The host ``local`` answers hello with its Python and its runtimes."""
    found = lookup.open_host("local").hello()
    assert {"onnxruntime", "ai-edge-litert", "numpy"} <= set(found["versions"])
