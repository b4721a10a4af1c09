"""A trained network and data of your own, as Python objects.

    python examples/own_network_and_data.py [FOLDER]

On the command line the same is a file with two functions:

    edgekit run int8 --model net.py:model --task net.py:task --target cpu-onnx
"""

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import edgekit


def network() -> nn.Module:
    """Return a small convolutional network for images of 8x8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return images, float32 [n, 1, 8, 8] from 0 to 1, and labels, int64 [n], shuffled."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    return images, digits.target[order].astype(np.int64)


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> None:
    """Train as you always do. edgekit does not need to know how."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    model.train()
    for _ in range(4):
        for rows in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(
                model(torch.from_numpy(images)[rows]),
                torch.from_numpy(labels)[rows],
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def correct(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Score each sample: 1 if the largest logit is the label's. Higher is better."""
    return (outputs.argmax(-1) == labels).astype(np.float64)


def main(folder: str) -> None:
    """Train, then quantize and verify."""
    images, labels = data()
    model = network()
    train(model, images[:1000], labels[:1000])

    task = edgekit.Task(
        name="my-digits",
        calibration=images[:256],  # inputs only, and never test data
        test=(images[1000:], labels[1000:]),
        metric=correct,  # or a name: "top1"
    )
    report = edgekit.run(
        model,
        task,
        recipe="int8",
        targets=["cpu-onnx"],
        effort="quick",
        out=folder,
    )

    target = report.target("cpu-onnx")
    print(f"verdict: {report.verdict}, ships {target.winner}")
    for gate in target.gates:
        interval = f"{gate.low:.4g} to {gate.high:.4g}"
        print(f"{gate.name}: {gate.value:.4g} ({interval}), limit {gate.limit}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/own-network")
