"""What the steps on the PyTorch side noted, told shortly: sizes before and after pruning,
the loss over the epochs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.measurement import MeasurementName
from edgekit.rendering.words import Wording, flat

_SIZES: tuple[MeasurementName, ...] = ("parameters", "macs")


@dataclasses.dataclass(frozen=True)
class Change:
    """A number before and after a step, with the text that tells it."""

    name: str
    before: float
    after: float
    text: str


def facts(notes: Mapping[str, Any], says: Wording) -> list[tuple[str, str]]:
    """The notes as short lines: key and text."""
    told = [(change.name, change.text) for change in changes(notes, says)]
    layers = channels(notes)
    if layers:
        told.append(
            (
                "channels",
                f"{sum(row.before for row in layers):,.0f} to {sum(row.after for row in layers):,.0f} in {len(layers)} layers",
            )
        )
    epochs = losses(notes)
    if epochs:
        told.append(
            ("loss", f"{epochs[0]:.3g} to {epochs[-1]:.3g} in {len(epochs)} epochs")
        )
    rest = {
        key: value
        for key, value in notes.items()
        if not (key == "parts" and told) and not (key == "loss" and epochs)
    }
    return told + flat(rest)


def changes(notes: Mapping[str, Any], says: Wording) -> list[Change]:
    """Parameters and MACs before and after, for each part of the model."""
    parts, found = _parts(notes), []
    for part, values in parts.items():
        for name in _SIZES:
            pair = values.get(name)
            if isinstance(pair, list | tuple) and _is_pair(pair):
                before, after = pair
                title = "MACs" if name == "macs" else name
                text = f"{says.number(name, before)} to {says.number(name, after)}" + (
                    f" ({_percent_less(before, after)})" if before else ""
                )
                found.append(
                    Change(
                        title if len(parts) == 1 else f"{part}: {title}",
                        before,
                        after,
                        text,
                    )
                )
    return found


def channels(notes: Mapping[str, Any]) -> list[Change]:
    """The channels of each layer before and after."""
    found = []
    for part, values in _parts(notes).items():
        widths = values.get("channels")
        for path, pair in widths.items() if isinstance(widths, Mapping) else ():
            if _is_pair(pair):
                found.append(
                    Change(
                        path if len(_parts(notes)) == 1 else f"{part}.{path}",
                        pair[0],
                        pair[1],
                        f"{pair[0]} to {pair[1]}",
                    )
                )
    return found


def losses(notes: Mapping[str, Any]) -> list[float]:
    """The loss after each epoch, where a step noted it."""
    found = notes.get("loss")
    if (
        isinstance(found, Sequence)
        and not isinstance(found, str)
        and len(found) > 1
        and all(_is_number(value) for value in found)
    ):
        return [float(value) for value in found]
    return []


def _parts(notes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = notes.get("parts")
    return (
        {str(name): values for name, values in found.items() if isinstance(values, Mapping)}
        if isinstance(found, Mapping)
        else {}
    )


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(_is_number(part) for part in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent_less(before: float, after: float) -> str:
    less = 100 * (1 - after / before)
    return f"{less:.0f} % less" if less >= 0 else f"{-less:.0f} % more"
