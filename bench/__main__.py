"""``python -m bench``: edgekit's winners compared with their peers.

Exit code 1 if a winner does not meet a criterion.
"""

import os

import click

from bench import results, table
from bench.networks import CACHE, NETWORKS, ROOT, RUNTIMES, Runtime
from bench.running import bench


@click.command()
@click.option(
    "--model",
    "-m",
    "names",
    type=click.Choice(list(NETWORKS)),
    multiple=True,
    help="Only this network; may be repeated.",
)
@click.option(
    "--runtime",
    "-r",
    "runtimes",
    type=click.Choice(RUNTIMES),
    multiple=True,
    help="Only this runtime.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Fewer rounds; bench/results.json and the documentation are not changed.",
)
def main(
    names: tuple[str, ...], runtimes: tuple[Runtime, ...], *, quick: bool
) -> None:
    """Build and run all files, time them interleaved, judge edgekit's winners, and write
    docs/explanation/benchmarks.md.
    """
    os.chdir(ROOT)
    order = [(name, runtime) for name in NETWORKS for runtime in RUNTIMES]
    place = CACHE / "quick.json" if quick else results.FILE
    failed = []
    for name, runtime in order:
        if name not in (names or NETWORKS) or runtime not in (
            runtimes or RUNTIMES
        ):
            continue
        click.echo(f"{NETWORKS[name].title}, {table.TITLES[runtime]}", err=True)
        result = bench(
            NETWORKS[name],
            runtime,
            lambda line: click.echo(line, err=True),
            quick=quick,
        )
        taken = results.read(place).with_one(result, order)
        results.write(taken, place)
        if not quick:
            table.FILE.write_text(table.document(taken), encoding="utf-8")
        click.echo("\n".join(table.section(result)) + "\n")
        failed += [
            f"{name} in {runtime} ({judged.what})"
            for judged in result.judgements
            if not judged.holds
        ]
    click.echo(
        f"{len(failed)} do not hold: {', '.join(failed)}"
        if failed
        else "Everything holds."
    )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
