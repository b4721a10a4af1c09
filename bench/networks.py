"""The networks of the bench: where each one is, how it is trained, and what
edgekit aims at with it.
"""

import dataclasses
import hashlib
import importlib
import pathlib
from collections.abc import Mapping
from typing import Literal

import safetensors.torch
import torch

import edgekit
from edgekit.task import Split

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
Runtime = Literal["onnx", "tflite"]
RUNTIMES: tuple[Runtime, ...] = ("onnx", "tflite")


@dataclasses.dataclass(frozen=True)
class Goals:
    """What the winner should reach: the score or what is lost of it, the latency as a share
    of float, the size.
    """

    latency: float
    score: float | None = None
    drop: float | None = None
    megabytes: float | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """Adam with one cycle of the learning rate, cross entropy."""

    epochs: int
    learning_rate: float
    batch: int = 64


@dataclasses.dataclass(frozen=True)
class Network:
    """One network: its module in ``bench/`` has ``model()`` and ``task()``."""

    name: str
    title: str
    #: None if the module has published weights.
    training: Training | None = None
    #: Heads and width, for the peers that treat transformers on their own.
    attention: tuple[int, int] | None = None
    images: bool = False
    #: edgekit's gate on accuracy lost. The entire interval must be below it, so about half of
    #: it may be lost.
    gate: float = 0.01
    goals: Mapping[Runtime, Goals] = dataclasses.field(default_factory=dict)

    @property
    def file(self) -> pathlib.Path:
        """The module's file, relative to the checkout."""
        return pathlib.Path("bench") / f"{self.name}.py"

    def make(self) -> torch.nn.Module:
        """The network with its trained weights, in eval mode."""
        network = self._fresh()
        path = self.weights()
        if path is not None:
            network.load_state_dict(safetensors.torch.load_file(path))
        return network.eval()

    def task(self) -> edgekit.Task:
        """Its data and metric."""
        task: edgekit.Task = importlib.import_module(
            f"bench.{self.name}"
        ).task()
        return task

    def weights(self) -> pathlib.Path | None:
        """Return the file of the trained weights, training them if it does not exist.

        None if the network has published weights.
        """
        if self.training is None:
            return None
        source = (ROOT / self.file).read_bytes() + repr(self.training).encode()
        path = (
            CACHE
            / "weights"
            / f"{self.name}-{hashlib.sha256(source).hexdigest()[:12]}.safetensors"
        )
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            network = train(
                self._fresh(),
                self.task().need("train", "training"),
                self.training,
            )
            partial = path.with_suffix(".partial")
            safetensors.torch.save_file(network.state_dict(), partial)
            partial.rename(path)
        return path

    def _fresh(self) -> torch.nn.Module:
        torch.manual_seed(0)
        network: torch.nn.Module = importlib.import_module(
            f"bench.{self.name}"
        ).model()
        return network


def train(
    network: torch.nn.Module, split: Split, training: Training
) -> torch.nn.Module:
    """Train on the split, the same way every time."""
    (inputs,), labels = (
        (torch.from_numpy(array) for array in split.inputs.values()),
        torch.from_numpy(split.labels),
    )
    chance = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
    steps = -(-len(labels) // training.batch) * training.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=steps
    )
    network.train()
    for _ in range(training.epochs):
        for rows in torch.randperm(len(labels), generator=chance).split(
            training.batch
        ):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(
                network(inputs[rows]), labels[rows]
            ).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


_CNN: Mapping[Runtime, Goals] = {
    "onnx": Goals(latency=0.43, drop=0.005),
    "tflite": Goals(latency=0.30, drop=0.005),
}
NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network(
            "resnet",
            "digits residual network",
            Training(12, 3e-3),
            images=True,
            goals=_CNN,
        ),
        Network(
            "depthwise",
            "MNIST depthwise CNN",
            Training(6, 4e-3),
            images=True,
            goals=_CNN,
        ),
        Network("lstm", "LSTM on MNIST rows", Training(18, 5e-3)),
        Network(
            "transformer",
            "transformer on MNIST patches",
            Training(12, 1.5e-3),
            attention=(4, 128),
        ),
        Network(
            "minilm",
            "sentence encoder all-MiniLM-L6-v2",
            attention=(12, 384),
            gate=0.06,
            goals={
                "onnx": Goals(latency=0.55, score=0.96, megabytes=30),
                "tflite": Goals(latency=0.22, score=0.97),
            },
        ),
    )
}
