"""Prune half of the channels, with a teacher, then quantize.

    python examples/prune_and_distill.py [FOLDER]

The epochs are few, so that the example is quick; with more of them the accuracy rises. The
recipe `digits` (`edgekit recipes show digits`) is the same at full length.
"""

import sys

import edgekit

RECIPE = {
    "name": "prune-and-distill",
    "compress": [
        {"train": {"epochs": 2, "shift": 1}},
        # The teacher is trained first, since no weights are named for it.
        {
            "distill": {
                "teacher": "zoo:resnet14",
                "teacher_epochs": 3,
                "epochs": 2,
            }
        },
        # Entire channels, in multiples of what all targets require.
        {"prune": {"ratio": 0.5}},
        {"finetune": {"epochs": 4, "learning_rate": 0.002}},
        {"quantize": {"scheme": "w8a8-static"}},  # one scheme instead of a race
    ],
    "gates": {"accuracy_drop": 0.05, "speedup": 1.0},
}


def main(folder: str) -> None:
    """Run, and print each stage's accuracy."""
    report = edgekit.run(
        "zoo:resnet8",
        "digits",
        recipe=RECIPE,
        targets=["cpu-onnx"],
        effort="quick",
        out=folder,
    )
    for stage in report.stages:
        numbers = {row.name: row.value for row in stage.measurements}
        print(f"{stage.name:10} {numbers}")

    target = report.target("cpu-onnx")
    print(f"verdict: {report.verdict}, ships {target.winner}")
    if target.shipped is not None and target.reference is not None:
        before = target.reference.measurement("size_bytes")
        after = target.shipped.measurement("size_bytes")
        print(f"{before.value / 1e6:.2f} MB -> {after.value / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/prune-and-distill")
