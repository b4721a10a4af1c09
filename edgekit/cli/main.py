"""The ``edgekit`` command.

A command's own file is imported when that command is used, so that ``--help`` stays quick.
"""

import contextlib
import errno
import importlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import click

import edgekit
from edgekit.errors import EdgekitError, unknown

#: Name -> where it is, and its line in the help.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": (
        "edgekit.cli.run:run",
        "Compress, convert, race, verify and ship: the whole way.",
    ),
    "plan": (
        "edgekit.cli.plan:plan",
        "Show what 'run' would do, what is missing and what cannot work.",
    ),
    "inspect": (
        "edgekit.cli.inspect:inspect",
        "Show what a runtime executes in an .onnx, .tflite or .engine.",
    ),
    "verify": (
        "edgekit.cli.verify:verify",
        "Run a shipped folder's evidence again, here or on another host.",
    ),
    "estimate": (
        "edgekit.cli.estimate:estimate",
        "Estimate a file's latency on a device that is not here.",
    ),
    "report": (
        "edgekit.cli.report:report",
        "Draw a finished run again: table, Markdown, HTML or JSON.",
    ),
    "targets": ("edgekit.cli.targets:targets", "List the devices that edgekit knows."),
    "hosts": (
        "edgekit.cli.hosts:hosts",
        "List, set up and check the places where files are run.",
    ),
    "recipes": ("edgekit.cli.recipes:recipes", "List the recipes that come with edgekit."),
    "models": ("edgekit.cli.models:models", "List the networks that come with edgekit."),
    "schemes": ("edgekit.cli.schemes:schemes", "List the ways to quantize."),
    "doctor": (
        "edgekit.cli.doctor:doctor",
        "Show what is installed, and what each target still needs.",
    ),
}
#: Exit codes after Ctrl-C and after a polite kill, as shells count them.
INTERRUPTED, TERMINATED = 130, 143
#: What the system says of a path that is too long or turns in circles, wherever it is first
#: looked at; and how much of it is told.
_NAMES, _SHOWN = (errno.ENAMETOOLONG, errno.ELOOP), 60


class _Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


class Commands(click.Group):
    """The table of commands; turns a user's mistake into a message, and lets our own bugs
    show their traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(unknown("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; the one place where an error becomes an exit code."""
        try:
            with _polite_end():
                return super().invoke(ctx)
        except EdgekitError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno not in _NAMES:
                raise
            raise click.ClickException(
                f"{str(error.filename)[:_SHOWN]}...: {error.strerror}.\n  Fix: give a shorter path"
            ) from error
        except KeyboardInterrupt as stop:
            goes_on = (
                " What is finished is kept: the same command goes on after the last finished step."
                if ctx.invoked_subcommand == "run"
                else ""
            )
            click.echo(f"Stopped.{goes_on}", err=True)
            ctx.exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED)


@contextlib.contextmanager
def _polite_end() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that nothing half done is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> NoReturn:
    raise _Terminated


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(edgekit.__version__, "-V", "--version", message="edgekit %(version)s")
def main() -> None:
    """Make a trained PyTorch network small and fast, and prove it on each target."""
