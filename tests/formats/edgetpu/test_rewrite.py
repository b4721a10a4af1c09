"""Files rewritten for the Edge TPU: the same numbers as before, and every operator is
predicted to map.
"""

import pathlib
from collections.abc import Callable

import numpy
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor, nn

from bench.edgetpu_networks import NETWORKS
from edgekit.formats.edgetpu import mapper as edgetpu_mapper
from edgekit.formats.edgetpu import rewrite as edgetpu_rewrite
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import export as torch_to_tflite
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite.channel_last import prefer_channel_last
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec

DATA = torch.Generator().manual_seed(3)


def int8(network: nn.Module, data: Tensor, path: pathlib.Path) -> nn.Module:
    """Write the network as the Edge TPU's route does up to its last step; return the
    simulated network.
    """
    with torch.no_grad():
        outputs = network.eval()(data)
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
        calibrate(
            network,
            [(data,)],
            signature,
            Settings(runtime="edgetpu", observer="min-max"),
        ),
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
    return simulated


def run(path: pathlib.Path, image: numpy.ndarray) -> list[numpy.ndarray]:
    """The outputs of one channel-last image, in steps of the file's own scales, by the
    reference kernels.
    """
    running = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    running.allocate_tensors()
    (detail,) = running.get_input_details()
    scale, zero = detail["quantization"]
    running.set_tensor(
        detail["index"],
        numpy.clip(numpy.round(image / scale) + zero, -128, 127).astype("int8"),
    )
    running.invoke()
    ordered = sorted(
        running.get_output_details(),
        key=lambda detail: litert.natural_key(detail["name"]),
    )
    return [
        running.get_tensor(detail["index"]).astype(int) for detail in ordered
    ]


def write_rewritten(path: pathlib.Path) -> tuple[pathlib.Path, dict[str, int]]:
    model = tflite_file.read(path)
    done = dict(edgetpu_rewrite.rewrite(model))
    rewritten = path.with_name("changed.tflite")
    tflite_file.write(model, rewritten)
    return rewritten, done


def names(path: pathlib.Path) -> list[str]:
    return [operator.op for operator in tflite_graph.read(path).operators]


class Around(nn.Module):
    """Operators between two convolutions."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.function = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 4, 3),
            function,
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.two(self.function(self.one(x))).mean((2, 3))
        return result


@pytest.mark.parametrize(
    ("function", "done"),
    [
        (
            lambda x: nn.functional.pad(x.relu(), (0, 1, 2, 0)),
            {"transposes removed": 2},
        ),
        (
            lambda x: nn.functional.leaky_relu(x, 0.1),
            {"LEAKY_RELU as PRELU": 1},
        ),
        (
            lambda x: nn.functional.leaky_relu(x, -0.3),
            {"LEAKY_RELU as PRELU": 1},
        ),
    ],
)
def test_the_numbers_stay(
    function: Callable[[Tensor], Tensor],
    done: dict[str, int],
    tmp_path: pathlib.Path,
) -> None:
    """The rewritten file computes the same, within one step, and all of it is predicted to
    map.
    """
    torch.manual_seed(0)
    data = torch.randn(16, 3, 8, 8)
    int8(Around(function), data, tmp_path / "main.tflite")
    rewritten, changes = write_rewritten(tmp_path / "main.tflite")
    assert changes == done
    differences = [
        numpy.abs(a - b).max()
        for k in range(8)
        for a, b in zip(
            *(
                run(p, _image(data, k))
                for p in (tmp_path / "main.tflite", rewritten)
            ),
            strict=True,
        )
    ]
    assert max(differences) <= (0 if "transposes removed" in done else 1)
    assert {
        mapping.status
        for mapping in edgetpu_mapper.predict(tflite_graph.read(rewritten))
    } == {edgetpu_mapper.MAPPED}


def test_transposes_that_are_needed_stay(tmp_path: pathlib.Path) -> None:
    """A transpose stays if an operator depends on its order."""
    torch.manual_seed(0)
    data = torch.randn(8, 3, 8, 8)
    int8(
        Around(lambda x: x.transpose(2, 3) + x), data, tmp_path / "main.tflite"
    )
    rewritten, changes = write_rewritten(tmp_path / "main.tflite")
    assert names(rewritten) == names(tmp_path / "main.tflite")
    assert not changes


def test_float_files_are_left(tmp_path: pathlib.Path) -> None:
    """The slope becomes int8 only if the file is."""
    litert_conversion.convert(
        Around(lambda x: nn.functional.leaky_relu(x, 0.1)).eval(),
        (torch.randn(1, 3, 8, 8),),
        tmp_path / "main.tflite",
    )
    rewritten, changes = write_rewritten(tmp_path / "main.tflite")
    assert (
        "LEAKY_RELU" in names(rewritten)
        and "LEAKY_RELU as PRELU" not in changes
    )


def test_a_signature_names_the_remaining_output(tmp_path: pathlib.Path) -> None:
    """A pair of transposes at the end: the file's output and its signature name the tensor
    before it.
    """
    torch.manual_seed(0)
    data = torch.randn(8, 3, 8, 8)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1))
    )
    int8(network, data, tmp_path / "main.tflite")
    rewritten, changes = write_rewritten(tmp_path / "main.tflite")
    assert changes == {"transposes removed": 2}
    model = tflite_file.read(rewritten)
    assert (
        model.signatureDefs[0].outputs[0].tensorIndex
        == model.subgraphs[0].outputs[0]
    )
    numpy.testing.assert_array_equal(
        run(rewritten, _image(data, 0))[0],
        run(tmp_path / "main.tflite", _image(data, 0))[0],
    )


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv3-like (hardswish)",
        "yolo head (LeakyReLU, slices)",
        "shufflenet-like (views, one-sided padding)",
        "prelu, max pool of a sum",
    ],
)
def test_complete_networks(name: str, tmp_path: pathlib.Path) -> None:
    """Networks that used to map only in their first layers map completely, and compute what
    torch simulates: on average within one step.
    """
    torch.manual_seed(0)
    network, data = NETWORKS[name](), torch.randn(16, 3, 32, 32, generator=DATA)
    simulated = int8(network, data, tmp_path / "main.tflite")
    rewritten, _ = write_rewritten(tmp_path / "main.tflite")
    graph = tflite_graph.read(rewritten)
    assert {mapping.status for mapping in edgetpu_mapper.predict(graph)} == {
        edgetpu_mapper.MAPPED
    }
    tensors = tflite_file.read(rewritten).subgraphs[0]
    scales = [
        (float(q.scale[0]), int(q.zeroPoint[0]))
        for q in (
            tensors.tensors[index].quantization for index in tensors.outputs
        )
    ]
    with torch.no_grad():
        simulated_outputs = simulated(data[:4])
    simulated_outputs = (
        simulated_outputs
        if isinstance(simulated_outputs, tuple)
        else (simulated_outputs,)
    )
    for k in range(4):
        for got, value, (scale, zero) in zip(
            run(rewritten, _image(data, k)),
            simulated_outputs,
            scales,
            strict=True,
        ):
            expected = (
                value[k : k + 1].movedim(1, -1)
                if value.dim() == 4
                else value[k : k + 1]
            ).numpy()
            steps = numpy.abs((got - zero) - expected / scale)
            assert steps.mean() <= 1 and steps.max() <= 6


def test_slopes_keep_the_scales(tmp_path: pathlib.Path) -> None:
    """The slope is per-channel int8, in the innermost axis, exact to a float32."""
    torch.manual_seed(0)
    int8(
        Around(lambda x: nn.functional.leaky_relu(x, 0.1)),
        torch.randn(8, 3, 8, 8),
        tmp_path / "main.tflite",
    )
    model = tflite_file.read(write_rewritten(tmp_path / "main.tflite")[0])
    graph = model.subgraphs[0]
    (prelu,) = (
        operator
        for operator in graph.operators
        if tflite_file.operator_name(model, operator) == "PRELU"
    )
    alpha = graph.tensors[prelu.inputs[1]]
    assert (
        list(alpha.shape) == [1, 1, 8] and alpha.type == schema.TensorType.INT8
    )
    assert 127 * float(alpha.quantization.scale[0]) == pytest.approx(
        0.1, rel=1e-6
    )


def _image(data: Tensor, index: int) -> numpy.ndarray:
    return data[index : index + 1].movedim(1, -1).numpy()
