"""How much of a network the Edge TPU would take, without edgekit's rewrites and with them:
the table of docs/devices/edge-tpu.md.

    python -m bench.edgetpu_mapping

Weights are random and calibration is random numbers: what maps does not depend on them, and
the error shows only that the rewrites lose nothing that int8 does not. The share is the
static prediction (edgekit.formats.edgetpu.mapper), not the compiler's.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import click
import numpy
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from bench.edgetpu_networks import NETWORKS
from edgekit.formats.edgetpu import mapper as edgetpu_mapper
from edgekit.formats.edgetpu import rewrite as edgetpu_rewrite
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import export as torch_to_tflite
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite.channel_last import prefer_channel_last
from edgekit.quantization import decompose
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.sources.cnn import plain_cnn
from edgekit.sources.resnet import resnet8

ZOO: Mapping[str, Callable[[], nn.Module]] = {
    "zoo:cnn": lambda: plain_cnn(3, 10),
    "zoo:resnet8": lambda: resnet8(3, 10, 16),
}
SAMPLES, SIZE = 32, 32


@contextlib.contextmanager
def without_rewrites() -> Iterator[None]:
    """Leave operators that the Edge TPU lacks unchanged."""
    with (
        mock.patch.object(decompose, "EDGETPU_REWRITES", {}),
        mock.patch.object(edgetpu_rewrite, "rewrite", lambda model: {}),
    ):
        yield


def make(network: nn.Module, data: torch.Tensor, path: pathlib.Path) -> None:
    """Write the int8 file as the Edge TPU's route does."""
    with torch.no_grad():
        outputs = network(data)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    specs = tuple(
        TensorSpec(
            name=f"o{k}", dtype="float32", dims=("batch", *value.shape[1:])
        )
        for k, value in enumerate(outputs)
    )
    signature = Signature(
        inputs=(
            TensorSpec(
                name="input", dtype="float32", dims=("batch", *data.shape[1:])
            ),
        ),
        outputs=specs,
    )
    simulated = simulate(
        network,
        signature,
        calibrate(network, [(data,)], signature, Settings(runtime="edgetpu")),
        fold=False,
    )
    graph, samples = torch_to_tflite.with_static_shapes(
        simulated, torch_to_tflite.with_batch(signature, 1)
    )
    prefer_channel_last(graph)
    last = [k for k, value in enumerate(outputs) if value.dim() == 4]
    litert_conversion.convert(
        graph,
        samples,
        path,
        quantized=True,
        channel_last_inputs=(0,),
        channel_last_outputs=last,
    )
    model = tflite_file.read(path)
    edgetpu_rewrite.rewrite(model)
    tflite_file.write(model, path)


def error(network: nn.Module, data: torch.Tensor, path: pathlib.Path) -> float:
    """Return the root mean square error of the outputs, relative to the float network's."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    details = interpreter.get_output_details()
    details = sorted(
        details, key=lambda detail: litert.natural_key(detail["name"])
    )
    scale, zero_point = source["quantization"]
    total = lost = 0.0
    for sample in data:
        image = sample[None].movedim(1, -1).numpy()
        stored = numpy.clip(numpy.round(image / scale) + zero_point, -128, 127)
        interpreter.set_tensor(source["index"], stored.astype("int8"))
        interpreter.invoke()
        with torch.no_grad():
            outputs = network(sample[None])
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        for detail, output in zip(details, outputs, strict=True):
            actual = _dequantize(
                interpreter.get_tensor(detail["index"]), detail
            )
            channel_last = (
                output.movedim(1, -1) if output.dim() == 4 else output
            )
            expected = channel_last.numpy()
            total += float((expected**2).sum())
            lost += float(((actual - expected) ** 2).sum())
    return float((lost / total) ** 0.5)


def _dequantize(array: Any, detail: Any) -> Any:
    """Convert an output of the interpreter to real numbers."""
    scale, zero_point = detail["quantization"]
    return (array.astype("float32") - zero_point) * scale if scale else array


def row(network: nn.Module, data: torch.Tensor, folder: pathlib.Path) -> str:
    """Operators that map of all, share of multiply-accumulates, error."""
    path = folder / "main.tflite"
    make(network, data, path)
    graph = tflite_graph.read(path)
    results = edgetpu_mapper.predict(graph)
    mapped = [
        operator
        for operator, result in zip(graph.operators, results, strict=True)
        if result.status == edgetpu_mapper.MAPPED
    ]
    share = sum(operator.macs for operator in mapped) / graph.macs
    percent = 100 * error(network, data[:8], path)
    count = f"{len(mapped)} of {len(graph.operators)}"
    return f"{count} | {100 * share:.0f} % | {percent:.1f} %"


def main() -> None:
    """Print the table."""
    click.echo(
        "| network | operators | share | error | rewritten: operators | share | error |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, build in {**ZOO, **NETWORKS}.items():
        torch.manual_seed(0)
        network, data = build().eval(), torch.randn(SAMPLES, 3, SIZE, SIZE)
        with tempfile.TemporaryDirectory() as folder:
            with without_rewrites():
                before = row(network, data, pathlib.Path(folder))
            click.echo(
                f"| {name} | {before} | {row(network, data, pathlib.Path(folder))} |"
            )


if __name__ == "__main__":
    main()
