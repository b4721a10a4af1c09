"""The command itself: fast help, known commands, errors as messages, exit codes."""

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
    """Return the heavy modules that a command imports."""
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
def test_help_imports_nothing_heavy(
    environment: dict[str, str], words: list[str]
) -> None:
    """Help, version and an unknown command need no framework, numpy, pydantic or rich."""
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
    """plan, the lists, the help of run and an impossible run need no framework or numpy."""
    assert imported(environment, *words) <= {
        "pydantic",
        "yaml",
        "rich",
        "jinja2",
    }


@pytest.mark.parametrize(
    "words",
    [["hosts"], ["doctor"], ["plan", "digits", "--target", "on-arm.yaml"]],
)
def test_commands_that_use_hosts_import_numpy_and_no_framework(
    environment: dict[str, str], words: list[str], tmp_path: pathlib.Path
) -> None:
    """The connection to hosts uses arrays; no framework is imported for it."""
    (tmp_path / "on-arm.yaml").write_text(
        "title: x\nformat: tflite\nruntime: litert\nhost: qemu-arm64\nschemes: [float]\n"
    )
    assert imported(
        environment,
        *(
            str(tmp_path / word) if word.endswith(".yaml") else word
            for word in words
        ),
    ) <= {
        "numpy",
        "pydantic",
        "yaml",
        "rich",
        "jinja2",
    }


def test_the_import_test_can_fail(environment: dict[str, str]) -> None:
    """The check above detects a heavy import."""
    assert "pydantic" in imported(environment, "schemes")


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_every_command_in_the_table_exists_and_has_a_help(name: str) -> None:
    """Each name of the table is a command with a help text."""
    done = CliRunner().invoke(commands.main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) > 4
    assert max(map(len, done.output.splitlines())) <= 100


def test_help_lists_every_command(
    edgekit: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    """``python -m edgekit --help`` lists all commands, and its name is edgekit."""
    done = edgekit("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: edgekit [OPTIONS] COMMAND")
    for name, (_, line) in commands.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert line in done.stdout


def test_the_version_is_printed() -> None:
    """``edgekit --version`` prints the package's version."""
    assert (
        CliRunner().invoke(commands.main, ["--version"]).output
        == f"edgekit {package.__version__}\n"
    )


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    """A misspelt command is a usage error with a suggestion."""
    done = CliRunner().invoke(commands.main, ["paln"])
    assert done.exit_code == 2
    assert "Did you mean 'plan'?" in done.stderr
    assert done.stdout == ""


@pytest.fixture
def raising(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[], None]], None]:
    """Replace the body of ``run``."""

    def put(body: Callable[[], None]) -> None:
        monkeypatch.setattr(
            "edgekit.cli.run.run", click.Command("run", callback=body)
        )

    return put


def test_an_error_of_the_user_is_a_message_and_exit_code_1(
    raising: Callable[[Callable[[], None]], None],
) -> None:
    """An EdgekitError is printed to stderr with its fix, without a traceback."""

    def body() -> None:
        raise RecipeError("The recipe is wrong.", fix="correct it")

    raising(body)
    done = CliRunner().invoke(commands.main, ["run"])
    assert done.exit_code == 1
    assert done.stderr == "Error: The recipe is wrong.\n  Fix: correct it\n"


def test_a_bug_of_edgekit_keeps_its_traceback(
    raising: Callable[[Callable[[], None]], None],
) -> None:
    """Any other exception is let through."""

    def body() -> None:
        raise ZeroDivisionError

    raising(body)
    assert isinstance(
        CliRunner().invoke(commands.main, ["run"]).exception, ZeroDivisionError
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_explains_how_to_resume(
    raising: Callable[[Callable[[], None]], None],
    number: signal.Signals,
    code: int,
) -> None:
    """SIGINT and SIGTERM end a run with the shell's code; the signal handler is restored."""
    before = signal.getsignal(signal.SIGTERM)
    raising(lambda: os.kill(os.getpid(), number))
    done = CliRunner().invoke(commands.main, ["run"])
    assert done.exit_code == code
    assert done.stderr.startswith("Stopped. ")
    assert (
        "Finished steps are kept; the same command resumes after them."
        in done.stderr
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_command_only_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a run can be resumed."""

    def body() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "edgekit.cli.plan.plan", click.Command("plan", callback=body)
    )
    done = CliRunner().invoke(commands.main, ["plan"])
    assert (done.exit_code, done.stderr) == (130, "Stopped.\n")


def test_the_entry_point_is_declared(root: pathlib.Path) -> None:
    """The project's script is this command."""
    assert 'edgekit = "edgekit.cli.main:main"' in (
        root / "pyproject.toml"
    ).read_text(encoding="utf-8")


def test_a_path_that_is_too_long_is_reported() -> None:
    """A path of 300 characters is one sentence for every option."""
    for words in (
        ["plan", "a" * 300],
        ["plan", "digits", "--target", "a" * 300],
        ["report", "a" * 300],
        ["plan", "digits", "--weights", "a" * 300],
    ):
        done = CliRunner().invoke(commands.main, words)
        assert done.exit_code == 1
        assert "File name too long.\n  Fix: use a shorter path" in done.stderr
