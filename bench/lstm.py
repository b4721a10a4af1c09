"""An LSTM of 128 cells that reads an MNIST digit row by row: 28 steps of 28 pixels."""

import torch
from torch import Tensor, nn

import edgekit
from bench import mnist


class Rows(nn.Module):
    """The last state of an LSTM, then a linear layer."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(mnist.SIDE, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [n, 28, 28] to logits [n, 10]."""
        states, _ = self.lstm(x)
        logits: Tensor = self.head(states[:, -1])
        return logits


def model() -> torch.nn.Module:
    """The network, untrained."""
    return Rows()


def task() -> edgekit.Task:
    """MNIST as rows [n, 28, 28]."""
    return mnist.task("mnist-rows", (mnist.SIDE, mnist.SIDE))
