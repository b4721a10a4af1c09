"""``edgekit hosts``: listing, setup, check and clean, as tables and as JSON."""

import json
import pathlib
import subprocess
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from edgekit import catalog
from edgekit.cli.main import main
from edgekit.hosts import install_dirs

Run = Callable[..., "subprocess.CompletedProcess[str]"]
BOARD = "title: my board\nkind: venv\nenvironments: {main: {packages: [numpy==2.2.6]}}\n"


def hosts(*words: str) -> Result:
    return CliRunner().invoke(main, ["hosts", *words])


@pytest.fixture(autouse=True)
def own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """An empty folder for the user's own hosts."""
    folder = tmp_path / "configuration"
    folder.mkdir()
    monkeypatch.setattr(catalog, "user_hosts", lambda: folder)
    return folder


@pytest.fixture
def nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """No host is set up."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    return tmp_path / "hosts"


def test_the_list_shows_what_is_ready_and_what_to_do(
    nothing: pathlib.Path,
) -> None:
    """This machine is ready; other hosts have the command that sets them up."""
    done = hosts()
    assert done.exit_code == 0, done.output
    assert "no: edgekit hosts setup qemu-arm64" in done.stdout
    rows = {row["name"]: row for row in json.loads(hosts("--json").stdout)}
    assert rows["local"]["ready"] and rows["local"]["problems"] == []
    assert rows["tflite-runtime"]["problems"] == [
        {
            "environment": "main",
            "what": "the host tflite-runtime is not set up",
            "fix": "edgekit hosts setup tflite-runtime",
        }
    ]
    assert [
        problem["environment"] for problem in rows["qemu-arm64"]["problems"]
    ] == [
        "main",
        "tflite-runtime",
    ]
    assert not nothing.exists()


def test_an_invalid_host_file_does_not_hide_the_others(
    nothing: pathlib.Path, own: pathlib.Path
) -> None:
    """Files of the configuration folder are listed; an invalid one has its error."""
    (own / "board.yaml").write_text(BOARD)
    (own / "broken.yaml").write_text("title: x\nkind: shh\n")
    rows = {row["name"]: row for row in json.loads(hosts("--json").stdout)}
    assert (
        rows["board"]["file"] == str(own / "board.yaml")
        and rows["board"]["title"] == "my board"
    )
    assert (
        not rows["broken"]["ready"]
        and "Did you mean 'ssh'?" in rows["broken"]["problems"][0]["what"]
    )
    assert hosts().exit_code == 0 and "qemu-arm64" in hosts().stdout
    shown = hosts("show", "broken")
    assert shown.exit_code == 1 and "Did you mean 'ssh'?" in shown.stderr


def test_this_machine_is_checked_with_real_files() -> None:
    """Python, machine, packages, response time, and four files with the expected outputs."""
    done = hosts("check", "local")
    assert done.exit_code == 0, done.output
    assert "local/main  ok" in done.stdout and "responds in" in done.stdout
    (row,) = json.loads(hosts("check", "local", "--json").stdout)
    assert row["good"] and row["start_ms"] > row["answer_ms"] > 0
    assert sorted(checked["file"] for checked in row["files"]) == [
        "float.onnx",
        "float.tflite",
        "int8.onnx",
        "int8.tflite",
    ]
    assert all(
        checked["good"] and checked["right"] == 7 for checked in row["files"]
    )


def test_a_host_that_cannot_be_used_fails_its_check(
    nothing: pathlib.Path,
) -> None:
    """Exit code 1, and the fix for each environment; the others are still checked."""
    done = hosts("check", "qemu-arm64", "local")
    assert done.exit_code == 1
    assert done.stdout.count("Fix: edgekit hosts setup qemu-arm64") == 2
    assert "local/main  ok" in done.stdout
    rows = json.loads(hosts("check", "qemu-arm64/main", "--json").stdout)
    assert [(row["environment"], row["good"]) for row in rows] == [
        ("main", False)
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("check", "nope"),
        ("setup", "nope"),
        ("clean", "nope"),
        ("show", "nope"),
        ("check", "local/nope"),
    ],
)
def test_an_unknown_host_is_reported(words: tuple[str, ...]) -> None:
    """Exit code 1, a fix, no traceback."""
    done = hosts(*words)
    assert done.exit_code == 1
    assert (
        "nope" in done.stderr
        and "Fix:" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_other_numbers_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 if the outputs of a file differ from the recorded ones."""
    from edgekit.hosts import selftest

    right = selftest.expected_outputs
    monkeypatch.setattr(
        selftest,
        "expected_outputs",
        lambda name: right(name) + (1 if name == "int8.onnx" else 0),
    )
    done = hosts("check", "local")
    assert done.exit_code == 1
    assert (
        "local/main  not ok" in done.stdout
        and done.stdout.count("differs from the recorded outputs") == 1
    )


@pytest.mark.slow
def test_a_host_is_set_up_shown_checked_and_cleaned(
    nothing: pathlib.Path, own: pathlib.Path
) -> None:
    """A user's own host: set up, listed with versions and size, ready, and removed."""
    (own / "board.yaml").write_text(BOARD)
    environments = json.loads(hosts("setup", "board", "--json").stdout)
    assert [
        (row["host"], row["environment"], row["versions"])
        for row in environments
    ] == [("board", "main", {"numpy": "2.2.6"})]
    assert environments[0]["bytes"] > 10**7 and environments[0]["seconds"] > 0
    again = hosts("setup", "board", "local")
    assert again.exit_code == 0 and "board: main is ready" in again.stderr
    assert json.loads(hosts("show", "board", "--json").stdout)["ready"]
    checked = hosts("check", "board")
    assert (
        checked.exit_code == 1
        and "has no runtime that can run a file" in checked.stdout
    )
    cleaned = json.loads(hosts("clean", "board", "--json").stdout)
    assert (cleaned["folders"], cleaned["bytes"] > 10**7) == (1, True)
    assert not (install_dirs.root() / "board").exists()
    assert not json.loads(hosts("show", "board", "--json").stdout)["ready"]
    assert "nothing to remove" in hosts("clean", "board").stdout
    assert "nothing to remove" in hosts("clean", "local").stdout


def test_a_plan_and_a_run_report_a_host_that_is_not_set_up(
    nothing: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The plan has exit code 1 and the command; a run stops before any work."""
    (tmp_path / "on-arm.yaml").write_text(
        "title: x\nformat: tflite\nruntime: litert\nhost: qemu-arm64\n"
        "schemes: [w8a8-static, float]\nlimits: {shapes: static}\n"
    )
    words = ["digits", "--target", str(tmp_path / "on-arm.yaml")]
    done = CliRunner().invoke(main, ["plan", *words])
    assert done.exit_code == 1
    assert (
        "on-arm: the host qemu-arm64 is not set up\n    Fix: edgekit hosts setup qemu-arm64"
        in done.stdout
    )
    run = CliRunner().invoke(
        main, ["run", *words, "--out", str(tmp_path / "out")]
    )
    assert (
        run.exit_code == 1
        and "Fix: edgekit hosts setup qemu-arm64" in run.stderr
    )
    assert not (tmp_path / "out").exists()


def test_a_host_of_a_path_is_named_by_its_path(
    nothing: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The fix is a command that works: it contains the path, not the bare name."""
    path = tmp_path / "board.yaml"
    path.write_text(BOARD)
    assert (
        f"Fix: edgekit hosts setup {path}" in hosts("check", str(path)).stdout
    )
