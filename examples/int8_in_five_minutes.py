"""int8 in five minutes: train a small network, quantize it, see what ships.

    python examples/int8_in_five_minutes.py [FOLDER]

The network and the data are part of edgekit. The run needs about a minute.
"""

import sys

import edgekit

# What to do, never how a backend does it. The same keys as in a recipe's YAML file.
RECIPE = {
    "compress": [
        {"train": {"epochs": 2}},
        # One scheme, against float. "auto" races every scheme that the target can execute.
        {"quantize": {"scheme": "w8a8-static"}},
    ],
    # Pass only if at most 2 points of accuracy are lost, with 95 % confidence.
    "gates": {"accuracy_drop": 0.02},
}


def main(folder: str) -> None:
    """Plan, run, and print what ships."""
    # A plan imports no framework and lists everything that is missing, before any work.
    plan = edgekit.plan(
        RECIPE, model="zoo:resnet8", task="digits", targets=["cpu-onnx"]
    )
    plan.require_possible()

    report = edgekit.run(
        "zoo:resnet8",
        "digits",
        recipe=RECIPE,
        targets=["cpu-onnx"],
        effort="quick",
        out=folder,
    )

    target = report.target("cpu-onnx")
    print(f"verdict: {report.verdict}, ships {target.winner}")
    for candidate in target.candidates:
        speedup = candidate.measurement("speedup")
        if speedup is None or speedup.value is None:
            print(
                f"{candidate.scheme:20} {candidate.status}: {candidate.reason}"
            )
        else:
            interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
            print(f"{candidate.scheme:20} {speedup.value:.2f}x ({interval})")
    if target.shipped is not None:
        print(f"the file: {folder}/{target.shipped.artifact.files[0].path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/int8-in-five-minutes")
