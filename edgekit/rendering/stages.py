"""What the PyTorch steps changed: sizes before and after pruning, the loss over the epochs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.measurement import MeasurementName
from edgekit.rendering.formatting import NumberFormat, flatten

_SIZES: tuple[MeasurementName, ...] = ("parameters", "macs")


@dataclasses.dataclass(frozen=True)
class Change:
    """A number before and after a step, and its text."""

    name: str
    before: float
    after: float
    text: str


def facts(notes: Mapping[str, Any], fmt: NumberFormat) -> list[tuple[str, str]]:
    """Return the notes of a step as pairs of key and text."""
    lines = [(change.name, change.text) for change in changes(notes, fmt)]
    layers = channels(notes)
    if layers:
        before = sum(row.before for row in layers)
        after = sum(row.after for row in layers)
        text = f"{before:,.0f} to {after:,.0f} in {len(layers)} layers"
        lines.append(("channels", text))
    shown = {"parts"} if lines else set()
    epochs = losses(notes)
    if epochs:
        text = f"{epochs[0]:.3g} to {epochs[-1]:.3g} in {len(epochs)} epochs"
        lines.append(("loss", text))
        shown |= {"loss", "parts"}
    rest = {key: value for key, value in notes.items() if key not in shown}
    return lines + flatten(rest)


def changes(notes: Mapping[str, Any], fmt: NumberFormat) -> list[Change]:
    """Return parameters and MACs before and after, for each part of the model."""
    parts = _parts(notes)
    rows = []
    for part, values in parts.items():
        for name in _SIZES:
            pair: Any = values.get(name)
            if not _is_pair(pair):
                continue
            before, after = pair
            title = "MACs" if name == "macs" else name
            text = f"{fmt.number(name, before)} to {fmt.number(name, after)}"
            if before:
                text += f" ({_percent_less(before, after)})"
            label = title if len(parts) == 1 else f"{part}: {title}"
            rows.append(Change(label, before, after, text))
    return rows


def channels(notes: Mapping[str, Any]) -> list[Change]:
    """Return the channels of each layer before and after."""
    parts = _parts(notes)
    rows = []
    for part, values in parts.items():
        widths = values.get("channels")
        if not isinstance(widths, Mapping):
            continue
        for path, pair in widths.items():
            if _is_pair(pair):
                label = path if len(parts) == 1 else f"{part}.{path}"
                rows.append(
                    Change(label, pair[0], pair[1], f"{pair[0]} to {pair[1]}")
                )
    return rows


def losses(notes: Mapping[str, Any]) -> list[float]:
    """Return the loss after each epoch; empty if the step did not record several."""
    values = notes.get("loss")
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or len(values) < 2
    ):
        return []
    if not all(_is_number(value) for value in values):
        return []
    return [float(value) for value in values]


def _parts(notes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    parts = notes.get("parts")
    if not isinstance(parts, Mapping):
        return {}
    return {
        str(name): values
        for name, values in parts.items()
        if isinstance(values, Mapping)
    }


def _is_pair(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(_is_number(part) for part in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent_less(before: float, after: float) -> str:
    less = 100 * (1 - after / before)
    return f"{less:.0f} % less" if less >= 0 else f"{-less:.0f} % more"
