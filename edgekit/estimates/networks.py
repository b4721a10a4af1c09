"""The networks behind a latency table: some are cut into files that are timed, others are
held out and tell what estimates are worth.

All have random weights. They become files by edgekit's own steps, so the operators are
those of the files that edgekit ships.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import numpy.typing
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact, FormatName
from edgekit.cache import Cache
from edgekit.pipeline.build import Build, try_follow
from edgekit.planning.routes import PlannedStep, candidate
from edgekit.progress import Silent
from edgekit.sources.cnn import plain_cnn
from edgekit.sources.resnet import Block, resnet8, resnet14, resnet20
from edgekit.target import RUNTIMES, Target
from edgekit.task import Task

Array = numpy.typing.NDArray[Any]
SAMPLES = 32


class Separable(nn.Module):
    """Depthwise and pointwise convolutions by turns (Howard et al. 2017), hard-tailed with
    ReLU6 as on phones.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1), nn.ReLU6()]
        for wide, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
            before = next(
                layer.out_channels
                for layer in reversed(layers)
                if isinstance(layer, nn.Conv2d)
            )
            layers += [
                nn.Conv2d(before, before, 3, stride, 1, groups=before),
                nn.ReLU6(),
                nn.Conv2d(before, wide * width, 1),
                nn.ReLU6(),
            ]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] to logits [n, 10]."""
        logits: Tensor = self.head(
            functional.adaptive_avg_pool2d(self.layers(x), 1).flatten(1)
        )
        return logits


class Encoder(nn.Module):
    """A transformer's blocks (Vaswani et al. 2017, norm first), then the mean over the
    sequence and a linear layer.
    """

    def __init__(self, width: int, blocks: int, heads: int = 4) -> None:
        super().__init__()
        self.start, self.heads = nn.Linear(16, width), heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.mixes = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(blocks))
        self.ends = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.wide = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences [n, t, 16] to logits [n, 10]."""
        x = self.start(x)
        for k, (mix, end, wide) in enumerate(
            zip(self.mixes, self.ends, self.wide, strict=True)
        ):
            q, key, v = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                for part in mix(self.norms[2 * k](x)).chunk(3, 2)
            )
            mixed = (q @ key.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1) @ v
            x = x + end(mixed.transpose(1, 2).flatten(2))
            x = x + wide(self.norms[2 * k + 1](x))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Recurrent(nn.Module):
    """An LSTM, and a linear layer on its last step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences [n, t, 16] to logits [n, 10]."""
        logits: Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


def _convolutions(layers: Sequence[tuple[int, int, int, int]], channels: int) -> nn.Module:
    """(channels out, kernel, stride, 1 or 0 for depthwise) layer by layer, each with a
    ReLU.
    """
    made: list[nn.Module] = []
    for wide, kernel, stride, depthwise in layers:
        made += [
            nn.Conv2d(
                channels,
                wide,
                kernel,
                stride,
                kernel // 2,
                groups=channels if depthwise else 1,
            ),
            nn.ReLU(),
        ]
        channels = wide
    return nn.Sequential(*made)


def dense_small() -> nn.Module:
    """3x3 convolutions of 12 to 160 channels, images of 40 to 5."""
    return _convolutions(
        [
            (12, 3, 1, 0),
            (24, 3, 1, 0),
            (24, 3, 2, 0),
            (24, 3, 1, 0),
            (48, 3, 1, 0),
            (96, 3, 2, 0),
            (96, 3, 1, 0),
            (160, 3, 2, 0),
        ],
        3,
    )


def dense_wide() -> nn.Module:
    """3x3 convolutions of 48 to 256 channels, images of 12 to 2."""
    return _convolutions(
        [
            (48, 3, 1, 0),
            (80, 3, 1, 0),
            (128, 3, 2, 0),
            (128, 3, 1, 0),
            (192, 3, 2, 0),
            (192, 3, 1, 0),
            (256, 3, 2, 0),
        ],
        1,
    )


def dense_tiny() -> nn.Module:
    """3x3 convolutions of 8 to 64 channels, images of 10 to 2; then the mean and a linear
    layer.
    """
    layers = [
        (8, 3, 1, 0),
        (16, 3, 1, 0),
        (16, 3, 2, 0),
        (32, 3, 1, 0),
        (32, 3, 1, 0),
        (48, 3, 2, 0),
        (64, 3, 1, 0),
        (64, 3, 2, 0),
    ]
    return nn.Sequential(
        _convolutions(layers, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 20)
    )


def pointwise() -> nn.Module:
    """1x1 convolutions, one of stride 2."""
    return _convolutions(
        [
            (24, 3, 2, 0),
            (48, 1, 1, 0),
            (24, 1, 1, 0),
            (96, 1, 1, 0),
            (96, 1, 2, 0),
            (192, 1, 1, 0),
            (64, 1, 1, 0),
            (320, 1, 1, 0),
        ],
        3,
    )


def depthwise() -> nn.Module:
    """Depthwise convolutions of 24 to 192 channels, of stride 1 and 2, kernels of 3 and 5."""
    layers = [
        (24, 3, 2, 0),
        (24, 3, 1, 1),
        (48, 1, 1, 0),
        (48, 3, 2, 1),
        (48, 3, 1, 1),
        (96, 1, 1, 0),
        (96, 3, 1, 1),
        (96, 5, 1, 1),
        (192, 1, 1, 0),
        (192, 3, 2, 1),
        (192, 3, 1, 1),
    ]
    return _convolutions(layers, 3)


class Blocks(nn.Module):
    """Residual blocks of three widths; then the mean and a linear layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem, before, blocks = nn.Conv2d(3, widths[0], 3, 1, 1), widths[0], []
        for number, width in enumerate(widths):
            blocks += [Block(before, width, 1 if number == 0 else 2)]
            before = width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(before, 100)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] to [n, 100]."""
        made: Tensor = self.head(
            functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1)
        )
        return made


def blocks() -> nn.Module:
    """Residual blocks of 24, 40 and 112 channels."""
    return Blocks((24, 40, 112))


def pools() -> nn.Module:
    """Maxima and means of 2x2 and 3x3 between convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 1),
        nn.AvgPool2d(2),
        nn.Conv2d(48, 64, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4, 40),
    )


def layers() -> nn.Module:
    """Linear layers of 16 to 1024 on one row."""
    widths, made = (32, 512, 512, 96, 160, 1024, 48, 16), list[nn.Module]()
    for before, wide in itertools.pairwise(widths):
        made += [nn.Linear(before, wide), nn.ReLU()]
    return nn.Sequential(*made)


def small_layers() -> nn.Module:
    """Linear layers of 8 to 320 on one row."""
    widths, made = (48, 128, 128, 320, 320, 64, 64, 8), list[nn.Module]()
    for before, wide in itertools.pairwise(widths):
        made += [nn.Linear(before, wide), nn.ReLU()]
    return nn.Sequential(*made)


class Elements(nn.Module):
    """Sums, products, curves and shares of elements."""

    def forward(self, x: Tensor) -> Tensor:
        """Images of any shape to the same."""
        y = torch.sigmoid(x) * x + torch.tanh(x)
        y = functional.relu(y + x) * y
        made: Tensor = functional.gelu(y) + torch.softmax(x, -1) - y
        return made


def elements() -> nn.Module:
    """Operators on single elements, 24 x 48 x 32 of them, and a quarter; a convolution in
    front, for what has no weights is not quantized.
    """
    return nn.Sequential(nn.Conv2d(8, 24, 1), Elements(), nn.MaxPool2d(2), Elements())


def narrow_tokens() -> nn.Module:
    """A transformer's block, 48 wide."""
    return Encoder(48, 1, heads=2)


def wide_tokens() -> nn.Module:
    """Two of a transformer's blocks, 160 wide."""
    return Encoder(160, 2, heads=5)


def short_tokens() -> nn.Module:
    """Two of a transformer's blocks, 80 wide."""
    return Encoder(80, 2, heads=4)


def few_units() -> nn.Module:
    """An LSTM of 24 units."""
    return Recurrent(24)


def many_units() -> nn.Module:
    """An LSTM of 128 units."""
    return Recurrent(128)


def cnn() -> nn.Module:
    """The zoo's plain network."""
    return plain_cnn(1, 10)


def residual() -> nn.Module:
    """The zoo's smallest residual network, 64 channels wide."""
    return resnet8(1, 10)


def narrow_residual() -> nn.Module:
    """16 channels wide, 14 deep."""
    return resnet14(3, 10, 16)


def deep_residual() -> nn.Module:
    """32 channels wide, 20 deep."""
    return resnet20(3, 10)


def narrow_separable() -> nn.Module:
    """16 to 128 channels."""
    return Separable(16)


def wide_separable() -> nn.Module:
    """32 to 256 channels."""
    return Separable(32)


def pooled() -> nn.Module:
    """Convolutions of stride 1 and maxima between them, as in VGG."""
    layers: list[nn.Module] = []
    before = 3
    for wide in (16, 32, 64):
        layers += [
            nn.Conv2d(before, wide, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        before = wide
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def plain_layers() -> nn.Module:
    """Linear layers only."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def small_encoder() -> nn.Module:
    """A transformer of two blocks, 64 wide."""
    return Encoder(64, 2)


def encoder() -> nn.Module:
    """A transformer of three blocks, 128 wide."""
    return Encoder(128, 3)


def recurrent() -> nn.Module:
    """An LSTM of 64 units."""
    return Recurrent(64)


#: The function of each network that is cut, and the shape of one sample.
PROBES: Mapping[str, tuple[int, ...]] = {
    "dense_small": (3, 40, 40),
    "dense_tiny": (1, 10, 10),
    "dense_wide": (1, 12, 12),
    "pointwise": (3, 48, 48),
    "depthwise": (3, 56, 56),
    "blocks": (3, 24, 24),
    "pools": (3, 24, 24),
    "layers": (32,),
    "small_layers": (48,),
    "elements": (8, 48, 32),
    "narrow_tokens": (96, 16),
    "wide_tokens": (24, 16),
    "short_tokens": (16, 16),
    "few_units": (8, 16),
    "many_units": (6, 16),
}
#: The same of those that are held out.
HELD_OUT: Mapping[str, tuple[int, ...]] = {
    "cnn": (1, 8, 8),
    "residual": (1, 8, 8),
    "narrow_residual": (3, 32, 32),
    "deep_residual": (3, 16, 16),
    "narrow_separable": (3, 48, 48),
    "wide_separable": (3, 96, 96),
    "pooled": (3, 32, 32),
    "plain_layers": (64,),
    "small_encoder": (32, 16),
    "encoder": (64, 16),
    "recurrent": (12, 16),
}
#: The few that a quick table is made of.
QUICK_PROBES, QUICK_HELD_OUT = (
    ("dense_small", "dense_tiny", "blocks", "small_layers"),
    ("cnn", "narrow_residual", "plain_layers"),
)
SHAPES: Mapping[str, tuple[int, ...]] = {**PROBES, **HELD_OUT}
#: float, and what edgekit ships for these two.
SCHEMES = ("float", "w8a8-static")


def build(name: str, format: FormatName, cache: Cache) -> dict[str, Artifact]:
    """One network's files by scheme, made with edgekit's own steps; read from the cache
    where they were made before.

    A scheme that cannot be made is left out.
    """
    drawn = _drawn(name)
    task = Task(
        name=f"random {name}",
        test=({name: drawn[:SAMPLES]}, numpy.arange(SAMPLES) % 10),
        calibration={name: drawn[SAMPLES:]},
    )
    way, model = Build(task, cache, Silent(), seed=0), f"{__name__}:{name}"
    target = Target(
        name="estimates",
        title="held-out networks",
        format=format,
        runtime=RUNTIMES[format],
        schemes=SCHEMES,
    )
    start = way.follow(
        model, None, [PlannedStep("load", "load_model", {"model": model, "weights": None})]
    )[-1]
    made = {
        scheme: try_follow(way, model, start, candidate(scheme, target, SAMPLES).steps)
        for scheme in SCHEMES
    }
    return {
        scheme: artifact
        for scheme, artifact in made.items()
        if isinstance(artifact, Artifact)
    }


def feeds(name: str) -> dict[str, Array]:
    """One sample for a network, by its input's name."""
    return {name: _drawn(name)[:1]}


def _drawn(name: str) -> Array:
    made: Array = (
        numpy.random.default_rng(0)
        .standard_normal((2 * SAMPLES, *SHAPES[name]))
        .astype("float32")
    )
    return made
