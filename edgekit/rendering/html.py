"""The report as one HTML page that needs nothing else: no script, no font, no picture from
anywhere. Text from outside is escaped.
"""

import functools
import pathlib
from collections.abc import Mapping

import jinja2
from markupsafe import Markup

from edgekit.measurement import QUANTITIES, MeasurementName
from edgekit.rendering import cards, elsewhere, formatting, summary
from edgekit.rendering.cards import Cell, cell
from edgekit.rendering.plots import sparkline
from edgekit.rendering.stages import Change, changes, channels, facts, losses
from edgekit.rendering.formatting import NumberFormat
from edgekit.report import Report, StageReport


def html(report: Report) -> str:
    """The page's text."""
    fmt = summary.number_format(report)
    name, title = summary.heading(report)
    columns = list(
        dict.fromkeys(row.name for stage in report.stages for row in stage.measurements)
    )
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
        columns=[QUANTITIES[column].heading for column in summary.COLUMNS],
        glance_columns=[QUANTITIES[column].heading for column in cards.GLANCE],
        stages=[_stage(stage, columns, fmt) for stage in report.stages],
        stage_columns=[QUANTITIES[column].heading for column in columns],
        splits=report.task.get("splits") or {},
        task=formatting.flatten(
            {key: value for key, value in report.task.items() if key != "splits"}
        ),
        environment=formatting.flatten(report.environment),
        size=formatting.size,
    )


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
    return Markup(
        (pathlib.Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    )  # our own file


def _stage(
    stage: StageReport, columns: list[MeasurementName], fmt: NumberFormat
) -> Mapping[str, object]:
    """One step on the PyTorch side: its numbers, what changed, its loss, and the rest of
    its notes.
    """
    found = {row.name: row for row in stage.measurements}
    cells: list[Cell] = [cell(found.get(name), fmt, {}) for name in columns]
    epochs, widths, sizes = (
        losses(stage.notes),
        channels(stage.notes),
        changes(stage.notes, fmt),
    )
    told = {"loss", "channels", *(change.name for change in sizes)}
    lines = facts(stage.notes, fmt)
    return {
        "name": stage.name,
        "step": stage.step,
        "cells": cells,
        "changes": [_shared(change) for change in sizes],
        "channels": [_shared(change) for change in widths],
        "spark": sparkline(epochs) if epochs else None,
        "loss": dict(lines).get("loss", ""),
        "facts": [
            (key, text)
            for key, text in lines
            if key not in told or (key == "loss" and not epochs)
        ],
    }


def _shared(change: Change) -> Mapping[str, object]:
    """A change with the share that is left, in percent, for its bar; None where nothing was
    there before.
    """
    share = (
        None
        if not change.before
        else round(min(100.0, 100 * change.after / change.before), 1)
    )
    return {"name": change.name, "text": change.text, "share": share}
