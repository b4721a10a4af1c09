"""The command itself: quick help, known words, errors as messages, exit codes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

import edgekit as package
from edgekit.cli import main as commands
from edgekit.errors import RecipeError

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "litert_torch",
    "ai_edge_litert",
    "tensorrt_rtx",
    "sklearn",
    "scipy",
    "numpy",
    "pydantic",
    "yaml",
    "rich",
    "jinja2",
)


def imported(environment: dict[str, str], *words: str) -> set[str]:
    """The heavy modules that a command imports."""
    code = (
        "import sys, json, contextlib\n"
        "from edgekit.cli.main import main\n"
        "with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):\n"
        f"    main({list(words)!r})\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["rnu"], []])
def test_help_imports_nothing_heavy(environment: dict[str, str], words: list[str]) -> None:
    """Help, version and a wrong command answer without a framework, numpy, pydantic or
    rich.
    """
    assert imported(environment, *words) == set()


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "digits"],
        ["targets"],
        ["recipes"],
        ["models"],
        ["schemes"],
        ["run", "--help"],
        ["run", "int8"],
    ],
)
def test_quick_commands_import_no_framework(
    environment: dict[str, str], words: list[str]
) -> None:
    """plan, the lists, the help of run and a run that cannot be import no framework and no
    numpy.
    """
    assert imported(environment, *words) <= {"pydantic", "yaml", "rich", "jinja2"}


@pytest.mark.parametrize(
    "words", [["hosts"], ["doctor"], ["plan", "digits", "--target", "on-arm.yaml"]]
)
def test_commands_that_look_at_hosts_import_numpy_and_no_framework(
    environment: dict[str, str], words: list[str], tmp_path: pathlib.Path
) -> None:
    """What reaches other machines speaks in arrays; no framework is imported for it."""
    (tmp_path / "on-arm.yaml").write_text(
        "title: x\nform: tflite\nruntime: litert\nhost: qemu-arm64\nschemes: [float]\n"
    )
    assert imported(
        environment,
        *(str(tmp_path / word) if word.endswith(".yaml") else word for word in words),
    ) <= {
        "numpy",
        "pydantic",
        "yaml",
        "rich",
        "jinja2",
    }


def test_the_import_test_can_fail(environment: dict[str, str]) -> None:
    """The check above does see a heavy import."""
    assert "pydantic" in imported(environment, "schemes")


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_every_command_in_the_table_exists_and_has_a_help(name: str) -> None:
    """Each line of the table leads to a command of that name whose help says something."""
    done = CliRunner().invoke(commands.main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) > 4
    assert max(map(len, done.output.splitlines())) <= 100


def test_help_lists_every_command(
    edgekit: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    """``python -m edgekit --help`` lists all commands with their lines and calls itself
    edgekit.
    """
    done = edgekit("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: edgekit [OPTIONS] COMMAND")
    for name, (_, line) in commands.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert line in done.stdout


def test_the_version_is_told() -> None:
    """``edgekit --version`` tells the package's version."""
    assert (
        CliRunner().invoke(commands.main, ["--version"]).output
        == f"edgekit {package.__version__}\n"
    )


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    """A misspelt command is a usage error that names the right one."""
    done = CliRunner().invoke(commands.main, ["paln"])
    assert done.exit_code == 2
    assert "Did you mean 'plan'?" in done.stderr
    assert done.stdout == ""


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Puts a command's body in the place of ``run``."""

    def put(body: Callable[[], None]) -> None:
        monkeypatch.setattr("edgekit.cli.run.run", click.Command("run", callback=body))

    return put


def test_a_users_mistake_is_a_message_and_exit_1(
    raising: Callable[[Callable[[], None]], None],
) -> None:
    """An EdgekitError is told on stderr with its way out, without a traceback."""

    def body() -> None:
        raise RecipeError("The recipe is wrong.", fix="mend it")

    raising(body)
    done = CliRunner().invoke(commands.main, ["run"])
    assert done.exit_code == 1
    assert done.stderr == "Error: The recipe is wrong.\n  Fix: mend it\n"


def test_our_own_bug_keeps_its_traceback(
    raising: Callable[[Callable[[], None]], None],
) -> None:
    """Any other exception is let through."""

    def body() -> None:
        raise ZeroDivisionError

    raising(body)
    assert isinstance(
        CliRunner().invoke(commands.main, ["run"]).exception, ZeroDivisionError
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on(
    raising: Callable[[Callable[[], None]], None], number: signal.Signals, code: int
) -> None:
    """Ctrl-C and a polite kill end a run with the shell's code and a sentence; the signal's
    handler is put back.
    """
    before = signal.getsignal(signal.SIGTERM)
    raising(lambda: os.kill(os.getpid(), number))
    done = CliRunner().invoke(commands.main, ["run"])
    assert done.exit_code == code
    assert done.stderr.startswith("Stopped. ")
    assert "the same command goes on after the last finished step" in done.stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_command_is_stopped_with_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a run can go on, so nothing else says so."""

    def body() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.cli.plan.plan", click.Command("plan", callback=body))
    done = CliRunner().invoke(commands.main, ["plan"])
    assert (done.exit_code, done.stderr) == (130, "Stopped.\n")


def test_the_entry_point_is_declared(root: pathlib.Path) -> None:
    """The project's script leads to this command."""
    assert 'edgekit = "edgekit.cli.main:main"' in (root / "pyproject.toml").read_text(
        encoding="utf-8"
    )


def test_a_path_that_is_too_long_is_told() -> None:
    """Wherever a path of 300 letters is first looked at, the answer is one sentence."""
    for words in (
        ["plan", "a" * 300],
        ["plan", "digits", "--target", "a" * 300],
        ["report", "a" * 300],
        ["plan", "digits", "--weights", "a" * 300],
    ):
        done = CliRunner().invoke(commands.main, words)
        assert done.exit_code == 1
        assert "File name too long.\n  Fix: give a shorter path" in done.stderr
