"""Makes the files of ``edgekit/hosts/tiny``: run it from the checkout's folder, ``python
tests/hosts/make_tiny.py``.

A narrow convolutional network is trained on scikit-learn's digits, and edgekit makes its
four files: float and int8, ONNX and TFLite. With them are 8 test digits and what the
files give for them on this machine.
"""

import json
import pathlib
import tempfile
from typing import Any

import torch

from edgekit import catalog, recipe, target
from edgekit.artifact import Artifact
from edgekit.cache import Cache
from edgekit.hosts.local import LocalHost
from edgekit.pipeline import run
from edgekit.planning import plan
from edgekit.tasks.digits import digits

FOLDER = pathlib.Path("edgekit/hosts/tiny")
SAMPLES = 8
RECIPE = """
title: the files that a host is tried with
model: tests/hosts/make_tiny.py:network
task: digits
targets: [cpu-onnx, mobile-tflite]
compress:
  - train: {epochs: 15}
  - quantize: {scheme: w8a8-static, effort: quick}
"""


def network() -> torch.nn.Module:
    """Three convolutions of 8, 8 and 16 channels, and a linear layer."""
    layers: list[torch.nn.Module] = []
    for before, width in ((1, 8), (8, 8), (8, 16)):
        layers += [
            torch.nn.Conv2d(before, width, 3, 2, 1, bias=False),
            torch.nn.BatchNorm2d(width),
            torch.nn.ReLU(),
        ]
    return torch.nn.Sequential(
        *layers,
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    )


def main() -> None:
    """Train, export, and note what the files give."""
    torch.manual_seed(0)
    split = digits().need("test", "the sample files")
    images, labels = split.inputs["input"][:SAMPLES], split.labels[:SAMPLES]
    written: dict[str, Any] = {
        "images": images.reshape(SAMPLES, -1).tolist(),
        "shape": list(images.shape),
        "labels": labels.tolist(),
        "files": {},
    }
    for path in FOLDER.glob("*.*"):
        path.unlink()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "tiny.yaml").write_text(RECIPE)
        asked = recipe.load(place / "tiny.yaml")
        targets = [
            target.load(catalog.find("targets", name)) for name in asked.targets
        ]
        run.run(
            plan.plan(asked, targets),
            run.Options(out=place / "out", cache=place / "cache"),
        )
        cache = Cache(place / "cache")
        for entry in sorted((place / "cache").iterdir()):
            example = (
                cache.find(entry.name) if any(entry.glob("main.*")) else None
            )
            if example is not None and example.format in ("onnx", "tflite"):
                add(written, example, images)
    (FOLDER / "tiny.json").write_text(json.dumps(written) + "\n")


def add(written: dict[str, Any], example: Artifact, images: Any) -> None:
    """Copy one file and note its outputs; of ONNX's int8 files the one for x86 is taken,
    which runs everywhere.
    """
    (part,) = example.parts
    path, spec = example.path(part), part.signature.outputs[0]
    int8 = spec.dtype == "int8" or example.step == "lower_onnx"
    if (
        example.format == "onnx"
        and not int8
        and b"QuantizeLinear" in path.read_bytes()
    ):
        return
    with LocalHost().open(example) as runner:
        (outputs,) = runner.infer({"input": images}).values()
        where = runner.where
    name = f"{'int8' if int8 else 'float'}{path.suffix}"
    (FOLDER / name).write_bytes(path.read_bytes())
    largest = float(abs(outputs).max())
    step = spec.quantization.scale if spec.quantization else largest / 127
    signature = part.signature.model_dump(mode="json")
    facts = {
        "outputs": outputs.tolist(),
        "made_with": where,
        "allowed": 2 * step if int8 else 1e-4 * largest,
    }
    written["files"][name] = {
        "format": example.format,
        "signature": signature,
        **facts,
    }


if __name__ == "__main__":
    main()
