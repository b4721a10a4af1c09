"""The table of operators: it agrees with the document, and is consistent."""

import pathlib

from edgekit.quantization.operators import (
    BOUNDS,
    FUSED,
    OPERATORS,
    operator_name,
)

MARK = "<!-- operators -->"
SHORT = {
    "onnxruntime": "ONNX Runtime",
    "litert": "LiteRT",
    "tensorrt": "TensorRT",
    "edgetpu": "Edge TPU",
    "ethosu": "Ethos-U",
}


def table() -> str:
    """The table as the document shows it: one line for all operators that are treated
    alike.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for target, row in OPERATORS.items():
        where = ", ".join(SHORT[runtime] for runtime in row.runtimes) or "-"
        rows.setdefault((row.kind, where, row.reason), []).append(
            f"`{operator_name(target)}`"
        )
    lines = [
        f"| {', '.join(names)} | {kind} | {where} | {reason} |"
        for (kind, where, reason), names in rows.items()
    ]
    return "\n".join(
        (
            "| operators | kind | int8 in | why it is float elsewhere |",
            "|---|---|---|---|",
            *lines,
        )
    )


def test_the_document_shows_this_table(root: pathlib.Path) -> None:
    """docs/explanation/quantizer.md names every operator with its kind and runtimes, and no
    other.
    """
    text = (root / "docs" / "explanation" / "quantizer.md").read_text(
        encoding="utf-8"
    )
    assert text.partition(MARK)[2].partition("##")[0].strip() == table(), (
        f"put this after {MARK} in docs/explanation/quantizer.md:\n{table()}"
    )


def test_every_row_is_complete() -> None:
    """A float row has a reason and no runtime; a bounded one has bounds; an activation that
    is fused is in the table.
    """
    for target, row in OPERATORS.items():
        assert bool(row.runtimes) is (row.kind != "float") and (
            row.reason or row.kind != "float"
        ), operator_name(target)
        assert (target in BOUNDS) is (row.kind == "fixed-range"), operator_name(
            target
        )
    assert all(OPERATORS[target].kind == "unary" for target in FUSED)
