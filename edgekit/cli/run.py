"""``edgekit run``: from a recipe to verified files."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence

import click

from edgekit import cache as caches
from edgekit.api import execute
from edgekit.cli import output
from edgekit.cli.overrides import recipe_options
from edgekit.device_worker.rules import EXIT_CODES
from edgekit.pipeline.request import RunRequest
from edgekit.rendering.progress import show_progress
from edgekit.rendering.table import table
from edgekit.report import FILE_NAME, Report


@click.command()
@recipe_options
@click.option(
    "--out",
    "-o",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    metavar="DIR",
    help="Where to write the results.  [default: runs/<recipe>]",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    metavar="DIR",
    help="Where to keep finished steps.  [default: $EDGEKIT_CACHE]",
)
@click.option(
    "--on",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Verify every shipped file on this host too; may be repeated.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Repeat all measurements, also those in the cache.",
)
@output.as_json_option
def run(
    request: RunRequest,
    out: pathlib.Path | None,
    cache: pathlib.Path | None,
    *,
    hosts: Sequence[str],
    fresh: bool,
    as_json: bool,
) -> None:
    """Compress, convert, race, verify and ship a network as RECIPE (a name or a file)
    describes.

    Exit code 0 if all gates pass, 1 if one fails, 3 if a required gate is inconclusive or
    unmeasured.
    """
    plan = request.plan()
    plan.require_possible()
    if hosts:
        from edgekit.hosts.lookup import find_host

        for host in hosts:
            find_host(host)  # typos in names are reported before any work
    # Waiting threads sleep instead of spinning: training on a busy machine is 10 to 20 times
    # faster. The variable is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Imports numpy and more: only now is the plan known to be possible.
    from edgekit.pipeline.run import Options

    folder = out or pathlib.Path("runs") / plan.recipe.name
    # A user's own code may print; that goes to stderr, so that --json prints only JSON.
    with show_progress() as progress, contextlib.redirect_stdout(sys.stderr):
        options = Options(
            out=folder,
            cache=cache or caches.default_root(),
            progress=progress,
            fresh=fresh,
            on=tuple(hosts),
        )
        report = execute(plan, options)
    if as_json:
        output.write(report.to_json().rstrip("\n"))
    else:
        output.show(table(report))
    click.echo(
        f"Written to {folder}: {FILE_NAME}, report.md, report.html{_shipped(report)}",
        err=True,
    )
    click.get_current_context().exit(EXIT_CODES[report.verdict])


def _shipped(report: Report) -> str:
    folders = [
        f"{row.name}{os.sep}"
        for row in report.targets
        if row.winner is not None
    ]
    return f"; files to ship in {', '.join(folders)}" if folders else ""
