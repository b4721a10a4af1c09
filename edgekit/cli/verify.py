"""``edgekit verify``: repeat the evidence of a bundle, here or on another host."""

import pathlib
from collections.abc import Sequence

import click
from rich.console import RenderableType
from rich.table import Table
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
@click.argument(
    "folder", metavar="BUNDLE", type=click.Path(path_type=pathlib.Path)
)
@click.option(
    "--on",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="A host's name or file, ssh:ADDRESS, adb:SERIAL; may be repeated.  [default: local]",
)
@click.option(
    "--results",
    "carried",
    metavar="[NAME=]PATH",
    help="Import the results of a device: the file of 'verify.py --json', or the folder with "
    "trtexec's files. NAME is the device's name in reports.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the first N samples only.",
)
@click.option("--no-times", is_flag=True, help="Do not measure times.")
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
    """Repeat the evidence of BUNDLE: a folder that 'run' has shipped, or the results folder
    with all of them.

    Exit code 0 if everything passes, 1 if something fails, 3 if something is inconclusive or
    unmeasured.
    """
    from edgekit.hosts.lookup import find_host

    for host in hosts:
        find_host(host)  # typos in names are reported before any work
    results: dict[pathlib.Path, list[EvidenceReport]] = {
        path: [] for path in _find_bundles(folder)
    }
    if carried is not None:
        _import_results(carried, results)
    elif not hosts:
        hosts = ("local",)
    _verify_all(hosts, samples, results, measure_times=not no_times)
    for path in results:
        _update_report(path)
    if as_json:
        data = {}
        for path, rows in results.items():
            data[path.name] = [
                evidence.model_dump(mode="json") for evidence in rows
            ]
        output.show_json(data)
    else:
        for path, rows in results.items():
            output.show(*_drawn(path, rows))
    verdicts = _verdicts(
        [evidence for rows in results.values() for evidence in rows]
    )
    click.get_current_context().exit(EXIT_CODES[worst(verdicts)])


def _import_results(
    carried: str, results: dict[pathlib.Path, list[EvidenceReport]]
) -> None:
    """Add the results of a device to the only bundle. ``carried`` is ``[NAME=]PATH``."""
    from edgekit.bundles import device_evidence

    name, equals, rest = carried.partition("=")
    path = pathlib.Path(carried)
    if equals and not path.exists():
        path = pathlib.Path(rest)
    else:
        name = ""
    if len(results) != 1:
        raise BundleError(
            f"{path} has the results of one bundle, but there are {len(results)} bundles.",
            fix=f"name the bundle, such as {next(iter(results))}",
        )
    ((folder, rows),) = results.items()
    name = name or device_evidence.default_name(path)
    rows.append(device_evidence.import_results(folder, path, name))


def _verify_all(
    hosts: Sequence[str],
    samples: int | None,
    results: dict[pathlib.Path, list[EvidenceReport]],
    *,
    measure_times: bool,
) -> None:
    """Verify every bundle on every host.

    An invalid bundle among several is reported, and the others are verified.
    """
    from edgekit.bundles import evidence

    with show_progress() as progress:
        for path, rows in results.items():
            for host in hosts:
                progress.start(f"verify {path.name} on {host}")
                try:
                    for row in evidence.verify(
                        path,
                        host,
                        samples,
                        timed=measure_times,
                        progress=progress,
                    ):
                        progress.say(f"{row.host}: {row.error or row.verdict}")
                        rows.append(row)
                except BundleError as error:
                    if len(results) == 1:
                        raise
                    rows.append(_unmeasured(host, error))
                progress.finish()


def _unmeasured(host: str, error: BundleError) -> EvidenceReport:
    from edgekit.bundles import evidence

    return EvidenceReport(
        host=host,
        key="",
        when=evidence.now(),
        verdict="unmeasured",
        error=str(error),
    )


def _verdicts(rows: Sequence[EvidenceReport]) -> list[Verdict]:
    """The verdicts that count.

    A bundle that a host has no runtime for does not count if the host has verified another.
    """
    from edgekit.hosts.lookup import split_name

    verified = {split_name(row.host)[0] for row in rows if not row.skipped}
    return [
        row.verdict
        for row in rows
        if not row.skipped or split_name(row.host)[0] not in verified
    ]


def _find_bundles(folder: pathlib.Path) -> list[pathlib.Path]:
    """The bundle itself, or all bundles in a results folder."""
    if (folder / bundles.MANIFEST).is_file() or not folder.is_dir():
        return [folder]
    paths = sorted(path.parent for path in folder.glob(f"*/{bundles.MANIFEST}"))
    if not paths:
        raise BundleError(
            f"Neither {folder} nor a folder in it contains a {bundles.MANIFEST}.",
            fix="give the path of a folder that 'edgekit run' has shipped",
        )
    return paths


def _update_report(folder: pathlib.Path) -> None:
    """Add the evidence to the run's report, if the bundle is still in its results folder."""
    from edgekit.bundles import evidence

    folder = folder.resolve()
    path = folder.parent / FILE_NAME
    if not path.is_file():
        return
    try:
        report, manifest = reports.load(path), bundles.load(folder)
    except BundleError:
        return  # has been reported in its own line
    targets = [
        evidence.with_evidence(target, folder)
        if _is_of(manifest, target, folder)
        else target
        for target in report.targets
    ]
    verdict = worst(target.verdict for target in targets)
    report = report.model_copy(
        update={"targets": tuple(targets), "verdict": verdict}
    )
    write_text(path, report.to_json())
    write_files(report, folder.parent)


def _is_of(
    manifest: bundles.Manifest, row: TargetReport, folder: pathlib.Path
) -> bool:
    winner = row.candidate(row.winner)
    shipped = (
        None
        if winner is None or winner.artifact is None
        else winner.artifact.key
    )
    return (
        row.name == manifest.target == folder.name and shipped == manifest.key
    )


def _drawn(
    folder: pathlib.Path, rows: Sequence[EvidenceReport]
) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    try:
        manifest = bundles.load(folder)
    except BundleError:
        for row in rows:
            title = f"{to_printable(folder.name)} on {row.host}"
            drawn += [Text(title, "bold"), Text(row.error, "dim"), Text()]
        return drawn
    for row in rows:
        title = to_printable(
            f"{manifest.target} ({manifest.scheme}) on {row.host}"
        )
        drawn.append(Text.assemble((title, "bold"), "  ", styled(row.verdict)))
        drawn.append(Text(row.error or row.place, "dim"))
        if not row.error:
            drawn.append(_measurements(row, manifest))
        drawn.append(Text())
    return drawn


def _measurements(
    evidence: EvidenceReport, manifest: bundles.Manifest
) -> Table:
    """The measurements of a host next to those that were shipped."""
    share = formatting.is_share(manifest.facts.metric)
    fmt = formatting.NumberFormat(share=share)
    shipped = {row.name: row for row in manifest.facts.shipped}
    table = output.grid("check", "shipped", "here", "verdict", "how")
    for row in evidence.measurements:
        table.add_row(
            QUANTITIES[row.name].heading.lower(),
            fmt.bracketed(shipped.get(row.name)),
            fmt.bracketed(row),
            row.verdict or "",
            Text(to_printable(row.how, 1000), "dim"),
        )
    return table
