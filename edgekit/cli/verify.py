"""``edgekit verify``: a bundle's evidence again, here or on another host."""

import pathlib
from collections.abc import Sequence

import click
from rich.console import RenderableType
from rich.text import Text

from edgekit import report as reports
from edgekit.bundles import bundle as bundles
from edgekit.cache import write_text
from edgekit.cli import output
from edgekit.device_worker.rules import EXIT_CODES
from edgekit.errors import BundleError
from edgekit.hosts.responses import to_printable
from edgekit.measurement import QUANTITIES, Verdict, worst
from edgekit.rendering import formatting
from edgekit.rendering.files import write_files
from edgekit.rendering.progress import show_progress
from edgekit.rendering.table import styled
from edgekit.report import FILE_NAME, EvidenceReport, TargetReport


@click.command()
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--on",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Where: a host's name or file, ssh:ADDRESS, adb:SERIAL; may be repeated.  [default: local]",
)
@click.option(
    "--results",
    "carried",
    metavar="[NAME=]PATH",
    help="Read back what a device gave: the file of 'verify.py --json', or the folder with "
    "trtexec's files. NAME is what reports call the device.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Look at the first N samples only.",
)
@click.option("--no-times", is_flag=True, help="Do not time.")
@output.as_json_option
def verify(
    folder: pathlib.Path,
    hosts: Sequence[str],
    carried: str | None,
    samples: int | None,
    *,
    no_times: bool,
    as_json: bool,
) -> None:
    """Run the evidence of BUNDLE again: a folder that 'run' has shipped, or its whole
    results folder.

    Ends with 0 where all holds, 1 where something fails, 3 where something could not be
    measured.
    """
    from edgekit.hosts.lookup import find_host

    for host in hosts:
        find_host(host)  # a slip in a name is told before any work
    results: dict[pathlib.Path, list[EvidenceReport]] = {
        path: [] for path in _bundles(folder)
    }
    if carried is not None:
        _read_back(carried, results)
    _run_again(
        hosts or (() if carried is not None else ("local",)),
        samples,
        results,
        timed=not no_times,
    )
    for path in results:
        _into_report(path)
    if as_json:
        output.show_json(
            {
                path.name: [found.model_dump(mode="json") for found in rows]
                for path, rows in results.items()
            }
        )
    else:
        for path, rows in results.items():
            output.show(*_drawn(path, rows))
    click.get_current_context().exit(
        EXIT_CODES[worst(_counted([found for rows in results.values() for found in rows]))]
    )


def _read_back(carried: str, results: dict[pathlib.Path, list[EvidenceReport]]) -> None:
    """Keep what a device brought back with the one bundle that it is of."""
    from edgekit.bundles import device_evidence

    name, equals, rest = carried.partition("=")
    path = pathlib.Path(rest if equals and not pathlib.Path(carried).exists() else carried)
    if len(results) != 1:
        raise BundleError(
            f"{path} is of one bundle, and there are {len(results)}.",
            fix=f"name the one, such as {next(iter(results))}",
        )
    ((folder, rows),) = results.items()
    rows.append(
        device_evidence.import_results(
            folder,
            path,
            name if str(path) == rest and name else device_evidence.default_name(path),
        )
    )


def _run_again(
    hosts: Sequence[str],
    samples: int | None,
    results: dict[pathlib.Path, list[EvidenceReport]],
    *,
    timed: bool,
) -> None:
    """Every bundle on every host.

    One of several bundles that is not whole is told, and the others are verified.
    """
    from edgekit.bundles import evidence

    with show_progress() as told:
        for path, rows in results.items():
            for host in hosts:
                told.start(f"verify {path.name} on {host}")
                try:
                    for found in evidence.verify(
                        path, host, samples, timed=timed, progress=told
                    ):
                        told.say(f"{found.host}: {found.error or found.verdict}")
                        rows.append(found)
                except BundleError as error:
                    if len(results) == 1:
                        raise
                    rows.append(
                        EvidenceReport(
                            host=host,
                            key="",
                            when=evidence.now(),
                            verdict="unmeasured",
                            error=str(error),
                        )
                    )
                told.finish()


def _counted(rows: Sequence[EvidenceReport]) -> list[Verdict]:
    """The verdicts that count.

    A host without a runtime for one of several bundles has said what it can with the
    others.
    """
    from edgekit.hosts.lookup import split_name

    ran = {split_name(found.host)[0] for found in rows if not found.skipped}
    return [
        found.verdict
        for found in rows
        if not found.skipped or split_name(found.host)[0] not in ran
    ]


def _bundles(folder: pathlib.Path) -> list[pathlib.Path]:
    """The bundle itself, or all of a results folder."""
    if (folder / bundles.MANIFEST).is_file() or not folder.is_dir():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{bundles.MANIFEST}"))
    if not found:
        raise BundleError(
            f"{folder} holds no {bundles.MANIFEST}, and no folder in it does.",
            fix="name a folder that 'edgekit run' has shipped",
        )
    return found


def _into_report(folder: pathlib.Path) -> None:
    """Tell the run's report beside the bundle what was found, and draw it again; a bundle
    that was taken away has none.
    """
    from edgekit.bundles import evidence

    folder = folder.resolve()
    path = folder.parent / FILE_NAME
    if not path.is_file():
        return
    try:
        report, manifest = reports.load(path), bundles.load(folder)
    except BundleError:
        return  # told before, in its own line
    targets = tuple(
        evidence.with_evidence(row, folder) if _is_of(manifest, row, folder) else row
        for row in report.targets
    )
    report = report.model_copy(
        update={"targets": targets, "verdict": worst(row.verdict for row in targets)}
    )
    write_text(path, report.to_json())
    write_files(report, folder.parent)


def _is_of(manifest: bundles.Manifest, row: TargetReport, folder: pathlib.Path) -> bool:
    winner = row.candidate(row.winner)
    shipped = None if winner is None or winner.artifact is None else winner.artifact.key
    return row.name == manifest.target == folder.name and shipped == manifest.key


def _drawn(folder: pathlib.Path, rows: Sequence[EvidenceReport]) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    try:
        manifest = bundles.load(folder)
    except BundleError:
        return [
            line
            for found in rows
            for line in (
                Text(f"{to_printable(folder.name)} on {found.host}", "bold"),
                Text(found.error, "dim"),
                Text(),
            )
        ]
    fmt = formatting.NumberFormat(share=formatting.is_share(manifest.facts.metric))
    shipped = {row.name: row for row in manifest.facts.shipped}
    for found in rows:
        head = Text.assemble(
            (to_printable(f"{manifest.target} ({manifest.scheme}) on {found.host}"), "bold"),
            "  ",
            styled(found.verdict),
        )
        drawn += [head, Text(found.error or found.place, "dim")]
        if not found.error:
            table = output.grid("check", "shipped", "here", "verdict", "how")
            for row in found.measurements:
                old = shipped.get(row.name)
                cells = (
                    QUANTITIES[row.name].heading.lower(),
                    fmt.bracketed(old),
                    fmt.bracketed(row),
                    row.verdict or "",
                    to_printable(row.how, 1000),
                )
                table.add_row(*cells[:-1], Text(cells[-1], "dim"))
            drawn.append(table)
        drawn.append(Text())
    return drawn
