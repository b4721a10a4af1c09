"""Small networks of several families on the 8x8 digits, and the sentence encoder, for tests
that carry files from host to host.
"""

from torch import Tensor, nn
from torch.nn import functional

import edgekit
from edgekit.tasks.digits import digits

WIDTH, HEADS = 32, 2


class Depthwise(nn.Module):
    """Depthwise and 1x1 convolutions with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = (
            nn.Conv2d(1, WIDTH, 3, padding=1),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH),
        )
        self.point, self.head = nn.Conv2d(WIDTH, WIDTH, 1), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 1, 8, 8] to logits."""
        x = functional.relu(self.stem(x))
        x = x + functional.relu(self.point(functional.relu6(self.depth(x))))
        logits: Tensor = self.head(
            functional.adaptive_avg_pool2d(x, 1).flatten(1)
        )
        return logits


class Attention(nn.Module):
    """One transformer layer on the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = (
            nn.Linear(8, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(WIDTH),
        )
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )
        self.up, self.down, self.head = (
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.Linear(2 * WIDTH, WIDTH),
            nn.Linear(WIDTH, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 1, 8, 8] to logits."""
        x = self.embed(x.flatten(1, 2))
        y = self.norm1(x)
        query, key, value = (
            linear(y).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        x = x + self.out(
            functional.scaled_dot_product_attention(query, key, value)
            .transpose(1, 2)
            .flatten(2)
        )
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Recurrent(nn.Module):
    """An LSTM over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = (
            nn.LSTM(8, WIDTH, batch_first=True),
            nn.Linear(WIDTH, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 1, 8, 8] to logits."""
        states, _ = self.lstm(x.flatten(1, 2))
        logits: Tensor = self.head(states[:, -1])
        return logits


def depthwise() -> nn.Module:
    """Untrained."""
    return Depthwise()


def attention() -> nn.Module:
    """Untrained."""
    return Attention()


def recurrent() -> nn.Module:
    """Untrained."""
    return Recurrent()


def task() -> edgekit.Task:
    """The digits."""
    return digits()


def sentences() -> edgekit.Task:
    """72 sentences of the encoder's task (bench/minilm.py); labels are the float network's
    embeddings.
    """
    from bench import minilm

    task = minilm.task()
    test, calibration = (
        task.need("test", "the test").take(72),
        task.need("calibration", "the test").take(64),
    )
    return edgekit.Task(
        name="sentences",
        train=None,
        calibration=calibration.inputs,
        test=(test.inputs, test.labels),
        loss="mse",
        metric=minilm.neighbour,
    )
