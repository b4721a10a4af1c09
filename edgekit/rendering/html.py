"""The report as one self-contained HTML page: no scripts, fonts or images from elsewhere.

All text from reports is escaped.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from edgekit.measurement import QUANTITIES, MeasurementName
from edgekit.rendering import cards, elsewhere, formatting, summary
from edgekit.rendering.cards import cell
from edgekit.rendering.formatting import NumberFormat
from edgekit.rendering.plots import sparkline
from edgekit.rendering.stages import Change, changes, channels, facts, losses
from edgekit.report import Report, StageReport


def html(report: Report) -> str:
    """Draw a report as an HTML page."""
    fmt = summary.number_format(report)
    name, title = summary.heading(report)
    measured = [
        row.name for stage in report.stages for row in stage.measurements
    ]
    stage_columns = list(dict.fromkeys(measured))
    task = {key: value for key, value in report.task.items() if key != "splits"}
    return _template().render(
        style=_style(),
        report=report,
        name=name,
        title=title,
        summary=summary.summarize(report),
        duration=formatting.duration(report.seconds),
        started=formatting.moment(report.started),
        cards=[
            cards.card(target, fmt, f"target-{number}")
            for number, target in enumerate(report.targets, 1)
        ],
        elsewhere=[elsewhere.rows(target, fmt) for target in report.targets],
        elsewhere_columns=elsewhere.COLUMNS,
        columns=_headings(summary.COLUMNS),
        glance_columns=_headings(cards.GLANCE),
        stages=[_stage(stage, stage_columns, fmt) for stage in report.stages],
        stage_columns=_headings(stage_columns),
        splits=report.task.get("splits") or {},
        task=formatting.flatten(task),
        environment=formatting.flatten(report.environment),
        size=formatting.size,
    )


def _headings(names: Sequence[MeasurementName]) -> list[str]:
    return [QUANTITIES[name].heading for name in names]


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return page.get_template("report.html.j2")


@functools.cache
def _style() -> Markup:
    path = pathlib.Path(__file__).parent / "report.css"
    return Markup(
        path.read_text(encoding="utf-8")
    )  # part of edgekit, so it is trusted


def _stage(
    stage: StageReport, columns: Sequence[MeasurementName], fmt: NumberFormat
) -> Mapping[str, object]:
    """One PyTorch step: its numbers, what it changed, its loss, and its other notes."""
    measured = {row.name: row for row in stage.measurements}
    epochs = losses(stage.notes)
    sizes = changes(stage.notes, fmt)
    lines = facts(stage.notes, fmt)
    drawn = {"channels", *(change.name for change in sizes)}
    if epochs:
        drawn.add("loss")
    return {
        "name": stage.name,
        "step": stage.step,
        "cells": [cell(measured.get(name), fmt, {}) for name in columns],
        "changes": [_with_share(change) for change in sizes],
        "channels": [_with_share(change) for change in channels(stage.notes)],
        "spark": sparkline(epochs) if epochs else None,
        "loss": dict(lines).get("loss", ""),
        "facts": [(key, text) for key, text in lines if key not in drawn],
    }


def _with_share(change: Change) -> Mapping[str, object]:
    """A change with the remaining share in percent; None if there was nothing before."""
    share = None
    if change.before:
        share = round(min(100.0, 100 * change.after / change.before), 1)
    return {"name": change.name, "text": change.text, "share": share}
