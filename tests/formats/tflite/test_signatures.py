"""One file for several batch sizes: every signature computes the network on real data, and
the weights are stored once.
"""

import pathlib

import numpy
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.artifact import Artifact, File
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import edit as tflite_edit
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import signatures as tflite_signatures
from edgekit.formats.tflite.calibrate import CalibrateTflite
from edgekit.formats.tflite.export import TorchToTflite
from edgekit.formats.tflite.quantize import QuantizeTflite
from edgekit.formats.tflite.tune import TuneTflite
from edgekit.hosts.local import LocalHost
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.target import Limits
from edgekit.task import Task
from edgekit.tasks.digits import digits

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)
TASK = Task(
    name="none", test=(numpy.zeros((1, 1, 8, 8), "float32"), numpy.zeros(1))
)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(1, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2, 1),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10)).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """40 of scikit-learn's digits."""
    return torch.from_numpy(
        next(iter(digits().need("test", "this test").inputs.values()))[:40]
    )


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, images: torch.Tensor
) -> dict[str, Artifact]:
    """float and int8 files, each with one signature and with three."""
    result = {}
    for kind in ("float", "int8"):
        source = tmp_path_factory.mktemp(kind)
        artifact = torch_storage.save(
            {"main": network()}, {"main": SIGNATURE}, source, {}
        )
        if kind == "int8":
            (source / "main.quantization.json").write_text(
                calibrate(
                    network(),
                    [(images,)],
                    SIGNATURE,
                    Settings(runtime="litert"),
                ).model_dump_json()
            )
            part = artifact.parts[0]
            quantized = {
                **part.files,
                "quantization": File(path="main.quantization.json"),
            }
            artifact = artifact.model_copy(
                update={
                    "parts": (part.model_copy(update={"files": quantized}),)
                }
            )
        for name, batches in ((kind, (1,)), (f"{kind} x3", [1, 8, 3])):
            step, folder = (
                TorchToTflite(batches),
                tmp_path_factory.mktemp("exported"),
            )
            step.requires(artifact)
            result[name] = step.run(
                artifact,
                Context(
                    folder=folder,
                    networks=lambda: {"main": network()},
                    task=TASK,
                ),
            )
            step.ensures(artifact, result[name])
    return result


def run_signature(
    artifact: Artifact, signature: str, images: numpy.ndarray
) -> numpy.ndarray:
    """The outputs of one signature, as real numbers."""
    part = artifact.parts[0]
    running = Interpreter(
        str(artifact.path(part)), num_threads=1
    ).get_signature_runner(signature)
    batch = int(next(iter(running.get_input_details().values()))["shape"][0])
    encoded = part.signature.inputs[0].encode(
        images[: len(images) // batch * batch]
    )
    rows = [
        next(iter(running(args_0=encoded[k : k + batch]).values()))
        for k in range(0, len(encoded), batch)
    ]
    return part.signature.outputs[0].decode(numpy.concatenate(rows))


def quantize(
    artifact: Artifact,
    scheme: str,
    folder: pathlib.Path,
    keep: tuple[str, ...] = (),
) -> Artifact:
    step = QuantizeTflite(scheme, keep)
    step.requires(artifact)
    result = step.run(
        artifact, Context(folder=folder, networks=dict, task=TASK)
    )
    step.ensures(artifact, result)
    return result


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_every_signature_computes_what_torch_computes(
    kind: str, files: dict[str, Artifact], images: torch.Tensor
) -> None:
    """On digits: the float network to 1e-4, the quantized one to two steps of its output;
    1, 8 and 3 samples at once.
    """
    result = files[f"{kind} x3"]
    with torch.no_grad():
        if kind == "int8":
            graph = simulate(
                network(),
                SIGNATURE,
                calibrate(
                    network(),
                    [(images,)],
                    SIGNATURE,
                    Settings(runtime="litert"),
                ),
                fold=True,
            )
            expected, output = (
                graph(images).numpy(),
                result.parts[0].signature.outputs[0],
            )
            assert output.quantization is not None
            allowed = 2 * output.quantization.scale + 1e-6
        else:
            expected, allowed = network()(images).numpy(), 1e-4
    for signature in ("serving_default", "batch_8", "batch_3"):
        actual = run_signature(result, signature, images.numpy())
        assert numpy.abs(actual - expected[: len(actual)]).max() <= allowed
        assert (
            len(actual)
            == {"serving_default": 40, "batch_8": 40, "batch_3": 39}[signature]
        )


@pytest.mark.parametrize(
    "scheme",
    [
        "float",
        "int8",
        "fp16",
        "w8-dynamic",
        "w8-dynamic-tensor",
        "w8-weight",
        "w4-weight",
    ],
)
def test_the_weights_are_stored_once(
    scheme: str,
    files: dict[str, Artifact],
    images: torch.Tensor,
    tmp_path: pathlib.Path,
) -> None:
    """Two more signatures cost less than the weights, in every scheme, and agree with each
    other on digits.
    """
    if scheme in ("float", "int8"):
        one, three = files[scheme], files[f"{scheme} x3"]
    else:
        (tmp_path / "one").mkdir()
        (tmp_path / "three").mkdir()
        one, three = (
            quantize(files["float"], scheme, tmp_path / "one"),
            quantize(files["float x3"], scheme, tmp_path / "three"),
        )
    weights = sum(parameter.numel() for parameter in network().parameters()) * {
        "float": 4,
        "fp16": 2,
    }.get(scheme, 1)
    extra = (
        three.path(three.parts[0]).stat().st_size
        - one.path(one.parts[0]).stat().st_size
    )
    assert 0 < extra < weights
    first = run_signature(three, "serving_default", images.numpy())
    allowed = 0.1 if "dynamic" in scheme else 1e-4
    assert (
        numpy.abs(run_signature(three, "batch_8", images.numpy()) - first).max()
        <= allowed * numpy.ptp(first)
        or scheme == "int8"
    )
    numpy.testing.assert_allclose(
        run_signature(one, "serving_default", images.numpy()), first, atol=1e-6
    )


def test_host_and_audit_use_the_first_signature(
    files: dict[str, Artifact], images: torch.Tensor
) -> None:
    """The file with three runs as the file with one does, and its operators are counted
    once.
    """
    one, three = files["int8"], files["int8 x3"]
    data = {"input": images.numpy()}
    with LocalHost().open(one) as first, LocalHost().open(three) as second:
        numpy.testing.assert_array_equal(
            first.infer(data)["output"], second.infer(data)["output"]
        )
    audits = [
        audit_tflite.audit(artifact, Limits()) for artifact in (one, three)
    ]
    assert [(row["op"], row["macs"]) for row in audits[0].rows] == [
        (row["op"], row["macs"]) for row in audits[1].rows
    ]
    assert three.parts[0].signature == one.parts[0].signature
    assert three.notes["parts"]["main"]["signatures"] == {
        "serving_default": "1 samples",
        "batch_8": "8 samples",
        "batch_3": "3 samples",
    }


def test_a_module_that_stays_in_float_does_so_in_every_signature(
    files: dict[str, Artifact], tmp_path: pathlib.Path
) -> None:
    """Otherwise the file would store its weights twice."""
    result = quantize(files["float x3"], "w8-weight", tmp_path, keep=("7",))
    model = tflite_file.read(result.path(result.parts[0]))
    linears = [
        (graph, operator)
        for graph in model.subgraphs
        for operator in graph.operators
        if tflite_file.operator_name(model, operator) == "FULLY_CONNECTED"
    ]
    assert len(linears) == 3
    assert (
        len(
            {
                int(graph.tensors[operator.inputs[1]].buffer)
                for graph, operator in linears
            }
        )
        == 1
    )
    assert all(
        tflite_edit.module_path(model, operator, number) == "7"
        for number, (_, operator) in enumerate(linears)
    )


def test_a_signature_of_another_network_is_noticed(
    tmp_path: pathlib.Path,
) -> None:
    """The check compares them; it cannot pass on names alone."""
    path = tmp_path / "main.tflite"
    other = nn.Linear(4, 3)
    litert_conversion.convert_several(
        {
            "serving_default": (nn.Linear(4, 3), (torch.zeros(1, 4),)),
            "batch_2": (other, (torch.zeros(2, 4),)),
        },
        path,
    )
    with pytest.raises(StepError, match=r"batch_2: the output .* differs"):
        tflite_signatures.check(path, "main")


@pytest.mark.parametrize("step", [TuneTflite(), CalibrateTflite()])
def test_steps_for_one_graph_reject_several(
    step: TuneTflite | CalibrateTflite, files: dict[str, Artifact]
) -> None:
    """They would change the weights of all signatures for one."""
    step.requires(files["float"])
    with pytest.raises(StepError, match="several signatures"):
        step.requires(files["float x3"])


@pytest.mark.parametrize("batches", [(), (8,), (8, 1), (1, 1), (1, 0)])
def test_invalid_batches_are_rejected(
    batches: tuple[int, ...], tmp_path: pathlib.Path
) -> None:
    """The first signature is the one that runtimes use."""
    artifact = torch_storage.save(
        {"main": network()}, {"main": SIGNATURE}, tmp_path, {}
    )
    with pytest.raises(StepError, match="Invalid batches"):
        TorchToTflite(batches).requires(artifact)
