"""fp8 and 4-bit weights for TensorRT: the numbers are those of the grid, the engines
compute with them, and what cannot be is refused before the build.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.tensorrt.audit import audit
from edgekit.formats.tensorrt.export import OnnxToTensorrt
from edgekit.formats.tensorrt.qdq import quantize_blocks
from edgekit.formats.tensorrt.quantize import QuantizeTensorrt
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits
from edgekit.task import Task

IMAGE = TensorSpec(name="input", dtype="float32", dims=("batch", 3, 8, 8))
SIGNATURE = Signature(
    inputs=(IMAGE,),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 24)),),
)
Round = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Plain and depthwise convolutions, linear layers on tokens and on a vector, attention,
    and a layer of 24 inputs without a complete block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.wide = (
            nn.Conv2d(3, 32, 3, padding=1),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.Conv2d(32, 64, 1),
        )
        self.norm, self.query, self.key = (
            nn.LayerNorm(64),
            nn.Linear(64, 64),
            nn.Linear(64, 64, bias=False),
        )
        self.narrow, self.head = nn.Linear(64, 24), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(
            self.wide(
                functional.relu(self.depthwise(functional.relu(self.stem(x))))
            )
        )
        tokens = x.flatten(2).transpose(1, 2)
        query, key = self.query(self.norm(tokens)), self.key(tokens)
        mixed = torch.softmax(query @ key.transpose(1, 2) / 8, -1) @ tokens
        return self.head(functional.gelu(self.narrow(mixed.mean(1))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def source(network: Net, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The float ONNX file."""
    folder = tmp_path_factory.mktemp("float")
    onnx_graph.write(export(network, SIGNATURE), folder / "main.onnx")
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=SIGNATURE,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


def images(count: int = 40, seed: int = 0) -> Any:
    return (
        numpy.random.default_rng(seed)
        .standard_normal((count, 3, 8, 8))
        .astype("float32")
    )


def context(folder: pathlib.Path, calibration: Any = None) -> Context:
    folder.mkdir()
    task = Task(
        name="none",
        test=(images(8, 1), numpy.zeros(8, "int64")),
        calibration=images() if calibration is None else calibration,
    )
    return Context(folder=folder, networks=dict, task=task)


def run_step(
    source: Artifact, folder: pathlib.Path, step: QuantizeTensorrt
) -> Artifact:
    step.requires(source)
    after = step.run(source, context(folder))
    step.ensures(source, after)
    return after


def run_onnx(artifact: Artifact, data: Any) -> Any:
    """As accuracy is measured: ONNX Runtime without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    return onnxruntime.InferenceSession(
        str(artifact.path(artifact.parts[0])),
        options,
        providers=["CPUExecutionProvider"],
    ).run(None, {"input": data})[0]


def simulated(
    network: Net, weights: Mapping[str, Round], data: Mapping[str, Round]
) -> nn.Module:
    """The network in torch with the weights and inputs of some modules on a grid."""
    copy = Net().eval()
    copy.load_state_dict(network.state_dict())
    for name, module in copy.named_modules():
        if name in weights:
            module.weight = nn.Parameter(weights[name](module.weight.detach()))
        if name in data:
            module.register_forward_pre_hook(
                lambda _, values, round_to=data[name]: (round_to(values[0]),)
            )
    return copy


def fp8(largest: float) -> Round:
    scale = largest / 448

    def rounded(values: Tensor) -> Tensor:
        return (values / scale).clamp(-448, 448).to(
            torch.float8_e4m3fn
        ).float() * scale

    return rounded


def steps(ours: Any, theirs: Tensor) -> float:
    """The largest difference in steps of 1/255 of the range."""
    other = theirs.detach().numpy()
    return float(numpy.abs(ours - other).max() / numpy.ptp(other) * 255)


def ranges(network: Net) -> dict[str, float]:
    """The largest input of each layer on the calibration data, found by torch."""
    largest_inputs: dict[str, float] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, values, name=name: largest_inputs.__setitem__(
                name, float(values[0].abs().max())
            )
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(torch.from_numpy(images()))
    for hook in hooks:
        hook.remove()
    return largest_inputs


def test_fp8_is_the_grid_that_torch_simulates(
    network: Net, source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Scales are amax / 448 of torch's own calibration.

    A value on the edge of two float8 numbers (6 % apart) may go either way, hence 6 steps.
    """
    after = run_step(
        source, tmp_path / "fp8", QuantizeTensorrt("fp8", ("SM89",), half=False)
    )
    largest_inputs = ranges(network)
    part_notes = {
        name.partition("/")[0]: value
        for name, value in after.notes["parts"]["main"]["largest"].items()
    }
    assert (
        part_notes == pytest.approx(largest_inputs, rel=1e-4)
        and len(part_notes) == 7
    )
    weights = {
        name: fp8(
            float(network.get_submodule(name).weight.detach().abs().max())
        )
        for name in largest_inputs
    }
    simulation = simulated(
        network,
        weights,
        {name: fp8(largest) for name, largest in largest_inputs.items()},
    )
    data = images(16, 2)
    assert steps(run_onnx(after, data), simulation(torch.from_numpy(data))) < 6
    half = run_step(
        source, tmp_path / "half", QuantizeTensorrt("fp8", ("SM89",))
    )
    assert steps(run_onnx(half, data), simulation(torch.from_numpy(data))) < 10


def test_four_bits_are_the_grid_that_torch_simulates(
    network: Net, source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Within 2 steps, in float and in half precision; layers without complete blocks keep
    their weights, and are reported.
    """

    def rounded(weights: Tensor) -> Tensor:
        integers, scales = quantize_blocks(weights.numpy(), 1)
        return torch.from_numpy(
            (integers * numpy.repeat(scales, 32, axis=1)).astype("float32")
        )

    names = ("query", "key", "narrow")
    simulation, data = (
        simulated(network, dict.fromkeys(names, rounded), {}),
        images(16, 2),
    )
    for half in (False, True):
        after = run_step(
            source,
            tmp_path / f"{half}",
            QuantizeTensorrt("w4-weight", ("SM80",), half=half),
        )
        assert steps(
            run_onnx(after, data), simulation(torch.from_numpy(data))
        ) < (2 if half else 0.1)
        part_notes = after.notes["parts"]["main"]
        assert part_notes["quantized"] == 3 and {
            name.partition("/")[0] for name in part_notes["left"]
        } == {"stem", "depthwise", "wide", "head"}
    sizes = [
        artifact.path(artifact.parts[0]).stat().st_size
        for artifact in (source, after)
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_no_weight_is_further_from_its_grid_than_a_step() -> None:
    """Every block's integers are in -8 to 7, and the searched scale is never worse than the
    plain one; zeros stay zeros.
    """
    weights = (
        numpy.random.default_rng(0).standard_normal((5, 64)).astype("float32")
    )
    weights[0] = 0
    integers, scales = quantize_blocks(weights, 1)
    assert (
        integers.min() >= -8
        and integers.max() <= 7
        and scales.shape == (5, 2)
        and not integers[0].any()
    )
    largest = numpy.abs(weights.reshape(5, 2, 32)).max(-1)
    plain = numpy.repeat(numpy.maximum(largest / 7, 1e-30), 32, axis=1)
    ours, theirs = (
        numpy.square(grid - weights).sum()
        for grid in (
            integers * numpy.repeat(scales, 32, 1),
            numpy.rint(weights / plain) * plain,
        )
    )
    assert ours < 0.95 * theirs
    across, down = quantize_blocks(weights.T.copy(), 0)
    assert (integers == across.T).all() and (scales == down.T).all()


def built(
    quantized: Artifact, folder: pathlib.Path, *capabilities: str
) -> tuple[Artifact, dict[str, Any]]:
    folder.mkdir()
    step = OnnxToTensorrt(capabilities)
    step.requires(quantized)
    task = Task(name="none", test=(images(8, 1), numpy.zeros(8, "int64")))
    engine = step.run(
        quantized, Context(folder=folder, networks=dict, task=task)
    )
    step.ensures(quantized, engine)
    return engine, json.loads(engine.path(engine.parts[0], "log").read_text())


def datatypes(log: dict[str, Any]) -> dict[str, str]:
    return {
        node.partition("/")[0]: row["dtype"]
        for row in log["layers"]
        for node in row["nodes"]
        if not node.startswith("/")
    }


def test_engines_compute_in_fp8_from_sm89_on(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Each capability alone and both together: every product with stored weights is FP8 by
    the build log, and the audit has nothing to warn of.
    """
    pytest.importorskip("tensorrt_rtx")
    quantized = run_step(
        source, tmp_path / "fp8", QuantizeTensorrt("fp8", ("SM89", "SM120"))
    )
    for name, capabilities in (
        ("a", ("SM89",)),
        ("b", ("SM120",)),
        ("c", ("SM89", "SM120")),
    ):
        engine, log = built(quantized, tmp_path / name, *capabilities)
        assert len(datatypes(log)) == 7 and set(datatypes(log).values()) == {
            "FP8"
        }
        largest_inputs = audit(
            engine, Limits(compute_capabilities=capabilities)
        )
        assert (
            not largest_inputs.warnings
            and largest_inputs.measurements[0].detail["by_dtype"]["FP8"]
            > 0.5 * largest_inputs.measurements[0].detail["all"]
        )


def test_engines_take_four_bit_weights_into_the_product_from_sm80_on(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """In half precision every 4-bit layer is fused.

    In 32 bits one is dequantized first: the engine is right, and the audit warns that nothing
    is saved.
    """
    pytest.importorskip("tensorrt_rtx")
    quantized = run_step(
        source, tmp_path / "w4", QuantizeTensorrt("w4-weight", ("SM80",))
    )
    for name, capabilities in (
        ("a", ("SM80",)),
        ("b", ("SM86",)),
        ("d", ("SM89",)),
        ("e", ("SM120",)),
        ("f", ("SM86", "SM89", "SM120")),
    ):
        engine, log = built(quantized, tmp_path / name, *capabilities)
        assert {
            name: dtype
            for name, dtype in datatypes(log).items()
            if dtype != "Half"
        } == dict.fromkeys(("query", "key", "narrow"), "HalfxInt4")
        assert not audit(
            engine, Limits(compute_capabilities=capabilities)
        ).warnings
    wide = run_step(
        source,
        tmp_path / "wide",
        QuantizeTensorrt("w4-weight", ("SM80",), half=False),
    )
    engine, _ = built(wide, tmp_path / "c", "SM86")
    assert any(
        "key/MatMul" in warning and "dequantized first" in warning
        for warning in audit(engine, Limits()).warnings
    )


@pytest.mark.parametrize(
    ("scheme", "old"),
    [("fp8", "SM86"), ("fp8", "SM80"), ("fp8", "SM75"), ("w4-weight", "SM75")],
)
def test_what_a_gpu_lacks_tensorrt_refuses_and_so_does_the_step_before(
    scheme: str, old: str, source: Artifact, tmp_path: pathlib.Path
) -> None:
    """The real builder refuses the datatype for the older GPU; requires refuses it without
    a build, naming which of the GPUs could have it.
    """
    with pytest.raises(
        StepError,
        match=rf"{old} cannot run {scheme}, which requires SM(80|89) or newer "
        r"\(of this target's .* SM89 and SM120 can\)",
    ) as refusal:
        QuantizeTensorrt(scheme, (old, "SM89", "SM120")).requires(source)
    assert (
        refusal.value.fix
        == "write another target with compute_capabilities: [SM89, SM120] for it"
    )
    with pytest.raises(StepError, match="cannot run") as refusal:
        QuantizeTensorrt(scheme, (old,)).requires(source)
    assert refusal.value.fix == (
        "use fp16 there" if old == "SM75" else "use w8a8-static or fp16 there"
    )
    pytest.importorskip("tensorrt_rtx")
    quantized, step = (
        run_step(
            source, tmp_path / "made", QuantizeTensorrt(scheme, ("SM89",))
        ),
        OnnxToTensorrt((old, "SM89")),
    )
    with pytest.raises(StepError, match=rf"{old} cannot run (fp8|int4)"):
        step.requires(quantized)
    with pytest.raises(
        StepError, match="no arithmetic for a datatype of the graph"
    ):  # the real builder, called anyway
        step.run(quantized, context(tmp_path / "engine"))


@pytest.mark.parametrize("scheme", ["fp8", "w4-weight"])
def test_kept_modules_are_not_rounded(
    scheme: str, source: Artifact, tmp_path: pathlib.Path
) -> None:
    """A kept module's weights are those of the float file, in half precision; all kept is
    an error.
    """
    after = run_step(
        source,
        tmp_path / "kept",
        QuantizeTensorrt(scheme, ("SM89",), keep=("key", "narrow", "norm")),
    )
    graph = onnx_graph.read(after.path(after.parts[0])).graph
    stored = onnx_graph.constants(graph)
    reads = {
        node.name.partition("/")[0]: node.input[1] in stored
        for node in graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and node.name[0] != "/"
    }
    assert reads["key"] and reads["narrow"] and not reads["query"]
    every = ("stem", "depthwise", "wide", "query", "key", "narrow", "head")
    with pytest.raises(StepError, match="nothing to quantize"):
        QuantizeTensorrt(scheme, ("SM89",), keep=every).requires(source)


def test_parts_are_calibrated_as_they_feed_each_other(
    tmp_path: pathlib.Path,
) -> None:
    """The second part's ranges are those of the first part's outputs, not of noise: it
    gets numbers near 1000.
    """
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
    nn.init.constant_(first.weight, 250)
    middle = TensorSpec(name="middle", dtype="float32", dims=("batch", 4))
    specs = [
        (
            first,
            TensorSpec(name="x", dtype="float32", dims=("batch", 4)),
            middle,
        ),
        (
            second,
            middle,
            TensorSpec(name="y", dtype="float32", dims=("batch", 2)),
        ),
    ]
    parts = []
    (tmp_path / "in").mkdir()
    for name, (module, input_spec, values) in zip(
        ("one", "two"), specs, strict=True
    ):
        signature = Signature(inputs=(input_spec,), outputs=(values,))
        onnx_graph.write(
            export(nn.Sequential(module).eval(), signature),
            tmp_path / "in" / f"{name}.onnx",
        )
        parts.append(
            Part(
                name=name,
                signature=signature,
                files={"model": File(path=f"{name}.onnx")},
            )
        )
    before = Artifact(format="onnx", parts=tuple(parts), folder=tmp_path / "in")
    (tmp_path / "out").mkdir()
    task = Task(
        name="none",
        test=({"x": numpy.zeros((2, 4), "float32")}, numpy.zeros(2, "int64")),
        calibration={"x": numpy.ones((37, 4), "float32")},
    )
    after = QuantizeTensorrt("fp8").run(
        before, Context(folder=tmp_path / "out", networks=dict, task=task)
    )
    assert [
        list(after.notes["parts"][name]["largest"].values())
        for name in ("one", "two")
    ] == [[1.0], [1000.0]]


def scaled(network: Net, factor: float, folder: pathlib.Path) -> Artifact:
    """The network with its last two layers' weights multiplied."""
    changed = Net().eval()
    changed.load_state_dict(network.state_dict())
    with torch.no_grad():
        changed.narrow.weight.mul_(factor)
        changed.head.weight.mul_(factor)
    folder.mkdir()
    onnx_graph.write(export(changed, SIGNATURE), folder / "main.onnx")
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=SIGNATURE,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


def test_a_network_that_overflows_is_refused(
    network: Net, tmp_path: pathlib.Path
) -> None:
    """An infinite value would make a scale of nothing; the tensor is named, and nothing is
    written.
    """
    before = scaled(network, 1e30, tmp_path / "in")
    with pytest.raises(
        StepError,
        match="computes NaN or infinite values from the calibration data: output",
    ) as refusal:
        QuantizeTensorrt("fp8", ("SM89",)).run(
            before, context(tmp_path / "out")
        )
    assert "division by zero" in (refusal.value.fix or "") and not list(
        (tmp_path / "out").iterdir()
    )


def test_numbers_too_large_for_half_precision_stay_in_32_bits(
    network: Net, tmp_path: pathlib.Path
) -> None:
    """Calibration shows that half precision would overflow, so the file is right and not
    full of infinities.
    """
    after = run_step(
        scaled(network, 1e6, tmp_path / "in"),
        tmp_path / "out",
        QuantizeTensorrt("fp8", ("SM89",)),
    )
    assert (
        after.notes["parts"]["main"]["half"] is False
        and numpy.isfinite(run_onnx(after, images(4, 3))).all()
    )


def test_other_schemes_quantized_files_and_no_samples_are_refused(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Each with a fix."""
    with pytest.raises(StepError, match="does not support the scheme"):
        QuantizeTensorrt("w8a8-static").requires(source)
    with pytest.raises(StepError, match="calibration samples: 0"):
        QuantizeTensorrt("fp8", samples=0).requires(source)
    with pytest.raises(StepError, match="already quantized"):
        QuantizeTensorrt("fp8").requires(
            run_step(source, tmp_path / "once", QuantizeTensorrt("w4-weight"))
        )


def test_a_broken_promise_is_noticed(source: Artifact) -> None:
    """A float file is not what the step promises."""
    with pytest.raises(StepError, match="stored 0 of 7 weights"):
        QuantizeTensorrt("fp8").ensures(source, source)


def test_the_same_data_give_the_same_file(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Byte for byte."""
    files = [
        run_step(source, tmp_path / name, QuantizeTensorrt("fp8")).folder
        / "main.onnx"
        for name in ("a", "b")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
