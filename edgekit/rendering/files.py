"""The files that a report is drawn to, next to its JSON."""

import pathlib

from edgekit import cache
from edgekit.rendering.html import html
from edgekit.rendering.markdown import markdown
from edgekit.report import Report


def write_files(report: Report, folder: pathlib.Path) -> None:
    """Write ``report.md`` and ``report.html``, each atomically."""
    cache.write_text(folder / "report.md", markdown(report))
    cache.write_text(folder / "report.html", html(report))
