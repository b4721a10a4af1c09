"""A device of your own: a YAML file with its format, schemes, limits and gates.

    python examples/custom_device/run.py [FOLDER]

On the command line: edgekit run ... --target examples/custom_device/my_board.yaml
"""

import pathlib
import sys

import edgekit

BOARD = str(pathlib.Path(__file__).with_name("my_board.yaml"))
RECIPE = {
    "compress": [{"train": {"epochs": 4}}, {"quantize": {"scheme": "auto"}}],
    "gates": {"accuracy_drop": 0.02},
}


def main(folder: str) -> None:
    """Plan for the board, run, and print why this file ships."""
    plan = edgekit.plan(RECIPE, model="zoo:cnn", task="digits", targets=[BOARD])
    for problem in plan.problems:  # for example a package that is missing
        print(problem)

    report = edgekit.run(
        "zoo:cnn",
        "digits",
        recipe=RECIPE,
        targets=[BOARD],
        effort="quick",
        out=folder,
    )
    board = report.target("my_board")
    print(f"verdict: {board.verdict}, ships {board.winner}: {board.chosen}")
    for gate in board.gates:
        required = "" if gate.required else f" (not required: {gate.why})"
        print(
            f"{gate.name}: {gate.verdict}, {gate.value} {gate.unit}{required}"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/custom-device")
