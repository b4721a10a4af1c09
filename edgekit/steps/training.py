"""The training loop of all steps that train: AdamW with a one-cycle learning rate.

The schedule is that of Smith and Topin 2017, "Super-Convergence".
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError, TaskError
from edgekit.steps.torch_chain import Chain, input_tensors
from edgekit.task import Split

Feeds = Mapping[str, Tensor]
#: (inputs, outputs, labels) to a scalar.
Objective = Callable[[Feeds, Mapping[str, Tensor], Tensor], Tensor]
#: As in the experiments on the digits for which the recipe was chosen; other values were
#: not compared.
WEIGHT_DECAY = 1e-3
#: The share of the steps in which the learning rate rises.
WARM_UP = 0.25
#: The rank of a batch of images, [n, channels, h, w].
IMAGE_RANK = 4


class Settings(Protocol):
    """The fields of a step that the training loop reads."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def shift(self) -> int: ...


def require_float(artifact: Artifact, what: str) -> None:
    """Raise StepError unless ``artifact`` is a float PyTorch network.

    ``what`` names the step in the message.
    """
    quantized = [
        part.name for part in artifact.parts if "quantization" in part.files
    ]
    if artifact.format == "torch" and not quantized:
        return
    kind = f"of the format {artifact.format}"
    if quantized:
        kind = f"quantized ({', '.join(quantized)})"
    raise StepError(
        f"{what} needs a float PyTorch network; this one is {kind}.",
        fix="put quantize last in the recipe",
    )


def require_same_signatures(
    before: Artifact, after: Artifact, what: str
) -> None:
    """Raise StepError if a step changed the parts, or their inputs or outputs."""
    old = [(part.name, part.signature) for part in before.parts]
    new = [(part.name, part.signature) for part in after.parts]
    if old != new:
        raise StepError(
            f"{what} changed the model's inputs or outputs.",
            fix="report this as a bug of edgekit",
        )


def fit(
    network: Chain,
    split: Split,
    objective: Objective,
    settings: Settings,
    context: Context,
) -> list[float]:
    """Train a network in place; returns the mean loss of each epoch.

    The same seed produces the same weights on the same machine. The last batch of an epoch
    is left out if it is not full; other samples are left out in the next epoch.

    Raises TaskError if the data have no labels, StepError if nothing can be trained or the
    loss becomes infinite.
    """
    if split.labels is None:
        raise TaskError(
            "The training data have no labels.",
            fix="give the task train=(inputs, labels)",
        )
    inputs = input_tensors(split)
    labels = torch.as_tensor(split.labels)
    _check_shift(inputs, labels, settings.shift)
    size = min(settings.batch_size, len(split))
    batches = len(split) // size
    optimizer = _Optimizer(network, settings, steps=settings.epochs * batches)
    random = torch.Generator().manual_seed(context.seed)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)  # for dropout
        for epoch in range(settings.epochs):
            network.train()
            total = 0.0
            for samples in _shuffled_batches(len(split), size, random):
                batch = {
                    name: tensor[samples] for name, tensor in inputs.items()
                }
                feeds = _shift(batch, settings.shift, random)
                loss = _compute_loss(network, objective, feeds, labels[samples])
                total += _check_finite(loss, epoch, settings)
                optimizer.step(loss)
            losses.append(total / batches)
            context.progress.advance(note=f"loss {losses[-1]:.4g}")
    network.eval()
    return losses


class _Optimizer:
    """AdamW over the parameters that can be trained, with a one-cycle learning rate."""

    def __init__(
        self, network: nn.Module, settings: Settings, steps: int
    ) -> None:
        trainable = [
            item for item in network.parameters() if item.requires_grad
        ]
        if not trainable:
            raise StepError(
                "No parameter of the network can be trained "
                "(requires_grad is False for all).",
                fix="remove train, distill and finetune from the recipe",
            )
        self._optimizer = torch.optim.AdamW(
            trainable, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        # OneCycleLR divides by the number of rising steps minus one.
        rises_in_one_step = WARM_UP * steps == 1
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            settings.learning_rate,
            total_steps=steps,
            pct_start=2 * WARM_UP if rises_in_one_step else WARM_UP,
        )

    def step(self, loss: Tensor) -> None:
        """Update the parameters by the gradient of ``loss``."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._schedule.step()


def _shuffled_batches(
    count: int, size: int, random: torch.Generator
) -> Iterator[Tensor]:
    """The indices of the samples of each full batch, in random order."""
    batches = count // size
    order = torch.randperm(count, generator=random)[: batches * size]
    yield from order.view(batches, size)


def _check_finite(loss: Tensor, epoch: int, settings: Settings) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        rate = f"{settings.learning_rate:g}"
        raise StepError(
            f"The loss became {value} in epoch {epoch + 1} of {settings.epochs}.",
            fix=f"lower learning_rate (it is {rate}), check the data's scale",
        )
    return value


def _compute_loss(
    network: nn.Module, objective: Objective, feeds: Feeds, labels: Tensor
) -> Tensor:
    try:
        outputs = network(feeds)
    except (RuntimeError, ValueError) as problem:
        raise StepError(
            f"The network cannot be trained on {len(labels)} samples at once: {problem}",
            fix="change batch_size, or check the network's training mode",
        ) from problem
    return objective(feeds, outputs, labels)


def _check_shift(inputs: Feeds, labels: Tensor, shift: int) -> None:
    """Raise StepError if ``shift`` does not fit the data: no images, or too small ones."""
    if not shift:
        return
    images = [tensor for tensor in inputs.values() if _is_image(tensor)]
    if not images:
        shapes = ", ".join(
            f"{name} {list(tensor.shape)}" for name, tensor in inputs.items()
        )
        raise StepError(
            f"shift moves images [n, channels, h, w]; the data are {shapes}.",
            fix="remove shift from the recipe",
        )
    smallest = min(min(tensor.shape[2:]) for tensor in images)
    if shift >= smallest:
        raise StepError(
            f"A shift of {shift} moves images of {smallest} pixels out of sight.",
            fix="a tenth of the image's size is a good start",
        )
    if labels.ndim >= IMAGE_RANK - 1:
        raise StepError(
            f"shift moves the images, but not labels of shape {list(labels.shape)}.",
            fix="remove shift from the recipe",
        )


def _is_image(tensor: Tensor) -> bool:
    return tensor.ndim == IMAGE_RANK and tensor.is_floating_point()


def _shift(feeds: Feeds, shift: int, random: torch.Generator) -> Feeds:
    """Move each sample by its own random number of pixels, at most ``shift`` each way.

    Zeros come in at the border.
    """
    if not shift:
        return feeds
    count = len(next(iter(feeds.values())))
    down, right = torch.randint(
        0, 2 * shift + 1, (2, count, 1), generator=random
    )
    return {
        name: _move(tensor, down, right, shift) if _is_image(tensor) else tensor
        for name, tensor in feeds.items()
    }


def _move(images: Tensor, down: Tensor, right: Tensor, shift: int) -> Tensor:
    count, channels, height, width = images.shape
    padded = functional.pad(images, (shift, shift, shift, shift))
    rows = down + torch.arange(height)
    columns = right + torch.arange(width)
    sample = torch.arange(count)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[
        sample, channel, rows[:, None, :, None], columns[:, None, None, :]
    ]
