"""Verify the shipped file again on another host: a Raspberry Pi, or an emulated one.

    python examples/verify_on_raspberry_pi.py [FOLDER] [HOST]

HOST is one of

    local                  this machine (the default)
    qemu-arm64             an emulated 64-bit ARM machine: first `edgekit hosts setup qemu-arm64`
    ssh:pi@board.local     a board: it needs Python 3.9, NumPy and ai-edge-litert, not edgekit

The same samples, outputs and rules are used everywhere. Emulation verifies numbers, never times.
"""

import pathlib
import sys

import edgekit

TARGET = "raspberry-pi-5-tflite"
RECIPE = {
    "compress": [
        {"train": {"epochs": 4}},
        {"quantize": {"scheme": "w8a8-static"}},
    ],
    "gates": {"accuracy_drop": 0.02},
}


def main(folder: str, host: str) -> None:
    """Build the file here, verify it there."""
    edgekit.run(
        "zoo:cnn",
        "digits",
        recipe=RECIPE,
        targets=[TARGET],
        effort="quick",
        out=folder,
    )

    # A shipped folder is a bundle: the file, samples, expected outputs, gates and hashes.
    bundle = pathlib.Path(folder) / TARGET
    for evidence in edgekit.verify(bundle, host=host):
        print(f"{evidence.host}: {evidence.verdict} {evidence.error}")
        print(f"taken at {evidence.place}")
        for row in evidence.measurements:
            value = (
                "unmeasured"
                if row.value is None
                else f"{row.value:.4g} {row.unit}"
            )
            print(f"  {row.name}: {value} {row.verdict or ''}")


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "runs/raspberry-pi",
        sys.argv[2] if len(sys.argv) > 2 else "local",
    )
