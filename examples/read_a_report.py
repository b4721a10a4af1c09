"""Read a finished run in Python, for example to fail a build on a regression.

    python examples/read_a_report.py [FOLDER]

FOLDER is what `edgekit run --out FOLDER` has written. If it is empty, a small run is done first.
"""

import pathlib
import sys

import edgekit
from edgekit.report import CandidateReport

RECIPE = {
    "compress": [{"train": {"epochs": 3}}, {"quantize": {"scheme": "auto"}}]
}


def line(candidate: CandidateReport) -> str:
    """Return one line: the scheme, and its numbers or why there are none."""
    if candidate.status != "raced":
        return f"{candidate.scheme:20} {candidate.status}: {candidate.reason}"
    cells = [f"{candidate.scheme:20}"]
    for name in ("accuracy", "accuracy_drop", "speedup", "size_bytes"):
        row = candidate.measurement(name)
        if row is None or row.value is None:
            cells.append(f"{name}: unmeasured")
        elif row.low is None:
            cells.append(f"{name}: {row.value:.4g} {row.unit}")
        else:
            cells.append(
                f"{name}: {row.value:.4g} [{row.low:.4g}, {row.high:.4g}]"
            )
    return "  ".join(cells)


def main(folder: str) -> None:
    """Print every candidate of every target, and end with 1 if a target fails."""
    if not (pathlib.Path(folder) / "report.json").exists():
        edgekit.run(
            "zoo:cnn",
            "digits",
            recipe=RECIPE,
            targets=["cpu-onnx"],
            effort="quick",
            out=folder,
        )

    report = edgekit.load_report(folder)
    for target in report.targets:
        print(
            f"{target.name}: {target.verdict}, ships {target.winner}, {target.chosen}"
        )
        for candidate in target.candidates:
            print("  " + line(candidate))
        for gate in target.gates:
            print(
                f"  gate {gate.name}: {gate.value} against {gate.limit}: {gate.verdict}"
            )

    failed = [
        target.name for target in report.targets if target.verdict == "fail"
    ]
    if failed:
        sys.exit(f"a gate failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/read-a-report")
