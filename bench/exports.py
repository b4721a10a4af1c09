"""The float files that a careful user would make: the exporters' own documented calls, and
nothing of edgekit's steps.
"""

import contextlib
import logging
import os
import pathlib
import warnings
from collections.abc import Iterator

import torch

from bench.networks import Network
from edgekit.task import Split

#: Channel-last: litert-torch's documentation advises it for images, and it saves a
#: transpose.
CHANNEL_LAST = (0, 2, 3, 1)


def sample(split: Split, count: int) -> tuple[torch.Tensor, ...]:
    """The first rows of every input."""
    return tuple(
        torch.from_numpy(array[:count]) for array in split.inputs.values()
    )


def to_onnx(network: torch.nn.Module, split: Split, path: pathlib.Path) -> None:
    """Write an ONNX file with a free batch, optimized by the exporter; weights inside the
    file.
    """
    names = list(split.inputs)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            sample(split, 2),
            dynamo=True,
            optimize=True,
            input_names=names,
            output_names=["output"],
            dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in names),
            verbose=False,
            external_data=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


def to_tflite(
    network: torch.nn.Module,
    split: Split,
    path: pathlib.Path,
    images: bool = False,
) -> None:
    """Write a TFLite file of batch 1; images are channel-last at its border."""
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    with _quiet():
        import litert_torch

        inputs = sample(split, 1)
        if images:
            network = litert_torch.to_channel_last_io(network, args=[0])
            inputs = tuple(
                tensor.permute(*CHANNEL_LAST).contiguous() for tensor in inputs
            )
        litert_torch.convert(network.eval(), inputs).export(str(path))


def export(network: Network, runtime: str, path: pathlib.Path) -> None:
    """Write the network's float file for this runtime."""
    split = network.task().need("test", "the export")
    if runtime == "onnx":
        to_onnx(network.make(), split, path)
    else:
        to_tflite(network.make(), split, path, images=network.images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn their own developers."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
