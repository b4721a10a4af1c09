"""The ``edgekit`` command.

The module of a command is imported when the command is used, so that ``--help`` is fast.
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

#: Name -> module and attribute, and its line in the help.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": (
        "edgekit.cli.run:run",
        "Compress, convert, race, verify and ship a network.",
    ),
    "plan": (
        "edgekit.cli.plan:plan",
        "Show what 'run' would do, what is missing and what is impossible.",
    ),
    "inspect": (
        "edgekit.cli.inspect:inspect",
        "Show what a runtime executes in a model file.",
    ),
    "verify": (
        "edgekit.cli.verify:verify",
        "Repeat the evidence of a bundle, here or on another host.",
    ),
    "estimate": (
        "edgekit.cli.estimate:estimate",
        "Estimate a file's latency on a device that is not here.",
    ),
    "report": (
        "edgekit.cli.report:report",
        "Show a finished run as table, Markdown, HTML or JSON.",
    ),
    "targets": (
        "edgekit.cli.targets:targets",
        "List the devices that edgekit supports.",
    ),
    "hosts": (
        "edgekit.cli.hosts:hosts",
        "List, set up and check the hosts that run files.",
    ),
    "recipes": (
        "edgekit.cli.recipes:recipes",
        "List the recipes that come with edgekit.",
    ),
    "models": (
        "edgekit.cli.models:models",
        "List the networks that come with edgekit.",
    ),
    "schemes": (
        "edgekit.cli.schemes:schemes",
        "List the quantization schemes.",
    ),
    "doctor": (
        "edgekit.cli.doctor:doctor",
        "Show what is installed, and what each target requires.",
    ),
}
#: Exit codes after SIGINT and SIGTERM, as in shells: 128 + signal.
INTERRUPTED = 130
TERMINATED = 143
#: Errors of the system for paths that are too long, or have too many symbolic links.
_INVALID_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
#: The number of characters of such a path that are shown.
_SHOWN = 60


class _Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


class Commands(click.Group):
    """The table of commands.

    Errors that the user can fix become a message; bugs of edgekit show their traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user needs them."""
        return list(COMMANDS)

    def get_command(
        self, ctx: click.Context, cmd_name: str
    ) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(
            importlib.import_module(module), attribute
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(unknown("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, line) for name, (_, line) in COMMANDS.items()]
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; the one place where an error becomes an exit code."""
        try:
            with _terminate_as_interrupt():
                return super().invoke(ctx)
        except EdgekitError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno not in _INVALID_PATH:
                raise
            path = str(error.filename)[:_SHOWN]
            raise click.ClickException(
                f"{path}...: {error.strerror}.\n  Fix: use a shorter path"
            ) from error
        except KeyboardInterrupt as stop:
            message = "Stopped."
            if ctx.invoked_subcommand == "run":
                message += " Finished steps are kept; the same command resumes after them."
            click.echo(message, err=True)
            ctx.exit(
                TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
            )


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that temporary files are removed."""
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
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(
    edgekit.__version__, "-V", "--version", message="edgekit %(version)s"
)
def main() -> None:
    """Make a trained PyTorch network small and fast, and prove it on each target."""
