"""One training loop for everything that trains: AdamW with a one-cycle learning rate (Smith
and Topin 2017).
"""

import math
from collections.abc import Callable, Mapping
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
#: As in the runs on the digits that the recipe was chosen with; other values were not
#: compared.
WEIGHT_DECAY = 1e-3
#: Share of the steps in which the learning rate rises.
RISING = 0.25
#: Dimensions of an image batch: [n, channels, h, w].
IMAGE_RANK = 4


class Settings(Protocol):
    """What the loop reads from a step."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def shift(self) -> int: ...


def refuse_quantized(artifact: Artifact, what: str) -> None:
    """Raise StepError unless ``artifact`` is a float PyTorch network."""
    quantized = [part.name for part in artifact.parts if "quantization" in part.files]
    if artifact.format != "torch" or quantized:
        what_is = (
            f"quantized ({', '.join(quantized)})"
            if quantized
            else f"of the format {artifact.format}"
        )
        raise StepError(
            f"{what} needs a float PyTorch network; this one is {what_is}.",
            fix="put quantize last in the recipe",
        )


def refuse_other_signature(before: Artifact, after: Artifact, what: str) -> None:
    """Raise StepError where a step changed the parts, or their inputs or outputs."""
    if [(part.name, part.signature) for part in before.parts] != [
        (part.name, part.signature) for part in after.parts
    ]:
        raise StepError(
            f"{what} changed the model's inputs or outputs.",
            fix="report this as a bug of edgekit",
        )


def fit(
    network: Chain, split: Split, objective: Objective, settings: Settings, context: Context
) -> list[float]:
    """Train in place and give the mean loss of each epoch.

    The same seed gives the same weights on the same machine.

    A last batch that is not full is left out; other samples are left out in the next epoch.
    """
    if split.labels is None:
        raise TaskError(
            "The training data have no labels.", fix="give the task train=(inputs, labels)"
        )
    inputs, labels = input_tensors(split), torch.as_tensor(split.labels)
    _refuse_shift(inputs, labels, settings.shift)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        fix = "take train, distill and finetune out of the recipe"
        raise StepError(
            "No parameter of the network can be trained (requires_grad is False for all).",
            fix=fix,
        )
    size = min(settings.batch_size, len(split))
    batches = len(split) // size
    optimizer = torch.optim.AdamW(
        trained, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
    )
    steps = settings.epochs * batches
    rising = (
        2 * RISING if RISING * steps == 1 else RISING
    )  # OneCycleLR divides by the number of rising steps minus one
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=rising
    )
    order = torch.Generator().manual_seed(context.seed)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)  # for dropout
        for epoch in range(settings.epochs):
            network.train()
            total = 0.0
            for rows in torch.randperm(len(split), generator=order)[: batches * size].view(
                batches, size
            ):
                feeds = _shifted(
                    {name: tensor[rows] for name, tensor in inputs.items()},
                    settings.shift,
                    order,
                )
                loss = _forward(network, objective, feeds, labels[rows])
                value = float(loss.detach())
                if not math.isfinite(value):
                    fix = f"lower learning_rate (it is {settings.learning_rate:g}), check the data's scale"
                    raise StepError(
                        f"The loss became {value} in epoch {epoch + 1} of {settings.epochs}.",
                        fix=fix,
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += value
            losses.append(total / batches)
            context.progress.advance(note=f"loss {losses[-1]:.4g}")
    network.eval()
    return losses


def _forward(
    network: nn.Module, objective: Objective, feeds: Feeds, labels: Tensor
) -> Tensor:
    try:
        outputs = network(feeds)
    except (RuntimeError, ValueError) as problem:
        fix = "change batch_size, or check the network's training mode"
        raise StepError(
            f"The network cannot be trained on {len(labels)} samples at once: {problem}",
            fix=fix,
        ) from problem
    return objective(feeds, outputs, labels)


def _refuse_shift(inputs: Feeds, labels: Tensor, shift: int) -> None:
    if shift and not any(_is_image(tensor) for tensor in inputs.values()):
        shapes = ", ".join(
            f"{name} {list(tensor.shape)}" for name, tensor in inputs.items()
        )
        raise StepError(
            f"shift moves images [n, channels, h, w]; the data are {shapes}.",
            fix="leave shift out of the recipe",
        )
    smallest = min(
        (min(tensor.shape[2:]) for tensor in inputs.values() if _is_image(tensor)),
        default=0,
    )
    if shift and shift >= smallest:
        raise StepError(
            f"shift {shift} moves images of {smallest} pixels out of sight.",
            fix="a tenth of the image's size is a good start",
        )
    if shift and labels.ndim >= IMAGE_RANK - 1:
        raise StepError(
            f"shift moves the images, but not labels of shape {list(labels.shape)}.",
            fix="leave shift out of the recipe",
        )


def _is_image(tensor: Tensor) -> bool:
    return tensor.ndim == IMAGE_RANK and tensor.is_floating_point()


def _shifted(feeds: Feeds, shift: int, random: torch.Generator) -> Feeds:
    """Each sample moved by its own random number of pixels, at most ``shift`` each way;
    zeros come in at the border.
    """
    if not shift:
        return feeds
    count = len(next(iter(feeds.values())))
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=random)
    return {
        name: _moved(tensor, down, right, shift) if _is_image(tensor) else tensor
        for name, tensor in feeds.items()
    }


def _moved(images: Tensor, down: Tensor, right: Tensor, shift: int) -> Tensor:
    count, channels, height, width = images.shape
    padded = functional.pad(images, (shift, shift, shift, shift))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    sample, channel = (
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
    )
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
