"""Parity lets a right file pass and catches each injected fault, in a real runtime against
torch.
"""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.artifact import Artifact, File, Part
from edgekit.checks.parity import check, quantization_error
from edgekit.errors import ModelError, TaskError
from edgekit.hosts.local import LocalHost
from edgekit.scheme import SCHEMES
from edgekit.signature import BATCH, Quantization, Signature, TensorSpec
from edgekit.steps.torch_runner import TorchRunner
from edgekit.testing import FakeRunner, tiny_convolution, tiny_images

SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=(BATCH, 1, 8, 8)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=(BATCH, 3)),),
)
OUTPUTS = SIGNATURE.outputs
TOLERANCE = SCHEMES["float"].parity_steps
Weights = dict[str, Any]


def weights() -> Weights:
    """The convolution's weights by name."""
    return {
        name: tensor.numpy().copy()
        for name, tensor in tiny_convolution().state_dict().items()
    }


def write(
    folder: pathlib.Path, values: Weights, nodes_before: tuple[Any, ...] = ()
) -> Artifact:
    """tiny_convolution as an ONNX file with these weights."""
    nodes = [
        *nodes_before,
        helper.make_node(
            "Conv",
            ["seen" if nodes_before else "input", "0.weight", "0.bias"],
            ["a"],
            pads=[1] * 4,
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(
            "Conv",
            ["b", "2.weight", "2.bias"],
            ["c"],
            pads=[1] * 4,
            strides=[2, 2],
        ),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node(
            "Gemm", ["f", "6.weight", "6.bias"], ["output"], transB=1
        ),
    ]
    graph_input = helper.make_tensor_value_info(
        "input", TensorProto.FLOAT, [BATCH, 1, 8, 8]
    )
    result = helper.make_tensor_value_info(
        "output", TensorProto.FLOAT, [BATCH, 3]
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [graph_input],
        [result],
        [
            numpy_helper.from_array(array, name)
            for name, array in values.items()
        ],
    )
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
        ),
        folder / "main.onnx",
    )
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


def parity(artifact: Artifact) -> Any:
    """Parity of the file with torch on the test images."""
    reference = TorchRunner({"main": tiny_convolution()}, artifact.parts)
    with LocalHost(timeout_s=60).open(artifact) as candidate:
        return check(
            candidate,
            reference,
            tiny_images().need("test", "the test").inputs,
            OUTPUTS,
            TOLERANCE,
        )


def swap_channels(values: Weights) -> None:
    """Two output channels of the first convolution change places."""
    values["0.weight"] = values["0.weight"][[1, 0, *range(2, 8)]]


def swap_classes(values: Weights) -> None:
    """Two classes change places."""
    values["6.weight"], values["6.bias"] = (
        values["6.weight"][[1, 0, 2]],
        values["6.bias"][[1, 0, 2]],
    )


def scale(values: Weights) -> None:
    """One channel of one layer has a scale that is 5 % off."""
    values["2.weight"][3] *= 1.05


def drop_bias(values: Weights) -> None:
    """The first layer has lost its bias."""
    values["0.bias"][:] = 0


def turn(values: Weights) -> None:
    """The kernels are transposed, as after a mistake in the layout."""
    values["2.weight"] = numpy.ascontiguousarray(
        values["2.weight"].transpose(0, 1, 3, 2)
    )


def test_a_right_file_passes(tmp_path: pathlib.Path) -> None:
    """The untouched file is within a twentieth of a step; the detail holds both batches,
    the step and the tolerance.
    """
    measured = parity(write(tmp_path, weights()))
    assert (
        measured.verdict == "pass"
        and measured.value < TOLERANCE
        and measured.n == 6
    )
    assert set(measured.detail) == {"batch 1", "batch 5", "step", "tolerance"}
    assert (
        "onnxruntime" in measured.where
        and "compared with local: torch" in measured.how
    )


@pytest.mark.parametrize(
    "fault", [swap_channels, swap_classes, scale, drop_bias, turn]
)
def test_an_injected_fault_is_caught(
    tmp_path: pathlib.Path, fault: Callable[[Weights], None]
) -> None:
    """Swapped channels or classes, a wrong scale, a dropped bias and a wrong layout each
    fail.
    """
    values = weights()
    fault(values)
    measured = parity(write(tmp_path, values))
    assert measured.verdict == "fail" and measured.value > 10 * TOLERANCE


def test_a_file_that_is_right_for_one_sample_only_is_caught(
    tmp_path: pathlib.Path,
) -> None:
    """A graph that takes the mean over the samples away and adds it again from the first
    one is right at batch 1, wrong at 5.
    """
    values = {
        **weights(),
        "zero": numpy.array([0], "int64"),
        "axis": numpy.array([0], "int64"),
    }
    nodes = (
        helper.make_node("ReduceMean", ["input", "axis"], ["mean"]),
        helper.make_node("Sub", ["input", "mean"], ["rest"]),
        helper.make_node("Gather", ["input", "zero"], ["first"], axis=0),
        helper.make_node("Add", ["rest", "first"], ["seen"]),
    )
    measured = parity(write(tmp_path, values, nodes))
    assert (
        measured.detail["batch 1"] < TOLERANCE < measured.detail["batch 5"]
        and measured.verdict == "fail"
    )


def runner(add: float = 0.0, scaled: float = 1.0, **change: Any) -> FakeRunner:
    """A runner whose output is its input, scaled and moved."""
    return FakeRunner(
        lambda feeds: {"output": feeds["input"] * scaled + add, **change}
    )


def quantized(step: float) -> TensorSpec:
    """An int8 output."""
    return TensorSpec(
        name="output",
        dtype="int8",
        dims=(BATCH, 3),
        quantization=Quantization(scale=step, zero_point=0),
    )


VALUES = {"input": numpy.linspace(-1, 1.55, 18, dtype="float32").reshape(6, 3)}


@pytest.mark.parametrize(
    ("spec", "step", "steps", "message"),
    [
        (quantized(0.05), None, 0.4, "the scale of the file's output"),
        (quantized(0.05), 7.0, 0.4, "the scale of the file's output"),
        (OUTPUTS[0], 0.1, 0.2, "the scale of the output's last quantization"),
        (OUTPUTS[0], None, 2.0, "1/255 of the range"),
    ],
)
def test_a_step_is_the_files_own_or_the_last_or_a_share_of_the_range(
    spec: TensorSpec, step: float | None, steps: float, message: str
) -> None:
    """A difference of 0.02 in steps of the output's scale, else of the given step, else of
    1/255 of the range 2.55.
    """
    scales = {} if step is None else {"output": step}
    measured = check(runner(add=0.02), runner(), VALUES, (spec,), 2.01, scales)
    assert (
        measured.value == pytest.approx(steps, rel=1e-3)
        and measured.verdict == "pass"
        and message in measured.how
    )
    assert (
        check(
            runner(add=0.02), runner(), VALUES, (spec,), steps / 2, scales
        ).verdict
        == "fail"
    )


def test_each_output_has_its_own_step() -> None:
    """A small output that is wrong is not hidden by the large scale of another."""
    both = tuple(
        TensorSpec(name=name, dtype="float32", dims=(BATCH, 3))
        for name in ("large", "small")
    )

    def two(sign: float) -> FakeRunner:
        return FakeRunner(
            lambda feeds: {
                "large": feeds["input"] * 100,
                "small": feeds["input"] * sign * 1e-3,
            }
        )

    scales = {"large": 3.0, "small": 3e-5}
    assert check(two(1), two(1), VALUES, both, 2, scales).verdict == "pass"
    assert check(two(-1), two(1), VALUES, both, 2, scales).verdict == "fail"


def test_a_wrong_output_scale_is_caught() -> None:
    """An output that is read with a scale 10 % too large fails at two steps."""
    assert (
        check(
            runner(scaled=1.1), runner(), VALUES, (quantized(0.02),), 2
        ).verdict
        == "fail"
    )


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (runner(add=numpy.nan), "output is not finite"),
        (runner(add=numpy.inf), "output is not finite"),
        (
            FakeRunner(lambda feeds: {"output": feeds["input"][:, :2]}),
            r"has shape \[1, 2\], expected \[1, 3\]",
        ),
        (
            FakeRunner(lambda feeds: {"other": feeds["input"]}),
            "output 'output' is missing",
        ),
    ],
)
def test_outputs_that_cannot_be_compared_fail(
    candidate: FakeRunner, message: str
) -> None:
    """NaN, infinity, another shape or name are a fail with the fault named, not a pass by
    default.
    """
    measured = check(candidate, runner(), VALUES, OUTPUTS, 2)
    assert measured.verdict == "fail" and measured.value is None
    assert re.search(message, measured.how)


def test_infinities_of_a_mask_are_equal() -> None:
    """If both output minus infinity, as masks do, there is no difference."""
    masked = FakeRunner(
        lambda feeds: {
            "output": numpy.where(
                feeds["input"] > 0, feeds["input"], -numpy.inf
            )
        }
    )
    assert check(masked, masked, VALUES, OUTPUTS, 0).value == 0


def test_an_output_that_never_changes_has_a_step() -> None:
    """A constant or zero output has no range; an equal one passes, another one fails."""
    for constant in (0.0, 3.0):
        fixed = FakeRunner(
            lambda feeds, constant=constant: {
                "output": 0 * feeds["input"] + constant
            }
        )
        assert check(fixed, fixed, VALUES, OUTPUTS, 0).verdict == "pass"
        assert check(runner(), fixed, VALUES, OUTPUTS, 2).verdict == "fail"


def test_a_reference_that_is_broken_itself_is_an_error() -> None:
    """A network that outputs NaN, or lacks the output, is no reference."""
    with pytest.raises(ModelError, match="itself outputs NaN"):
        check(runner(), runner(add=numpy.nan), VALUES, OUTPUTS, 2)
    with pytest.raises(ModelError, match="no output 'output'"):
        check(
            runner(),
            FakeRunner(lambda feeds: {"x": feeds["input"]}),
            VALUES,
            OUTPUTS,
            2,
        )


def test_too_few_samples_are_refused() -> None:
    """Fewer than 6 samples cannot make both batches."""
    with pytest.raises(TaskError, match="needs 6 samples"):
        check(runner(), runner(), {"input": VALUES["input"][:5]}, OUTPUTS, 2)


def test_the_quantization_error_is_in_the_same_steps() -> None:
    """A quantized network that is 0.5 away from its float one is 25 steps of 0.02 away;
    outputs that cannot be compared count as nothing.
    """
    scales = {"output": 0.02}
    assert quantization_error(
        runner(add=0.5), runner(), VALUES, OUTPUTS, scales
    ) == pytest.approx(25, rel=0.05)
    assert (
        quantization_error(
            FakeRunner(lambda feeds: {}), runner(), VALUES, OUTPUTS, scales
        )
        == 0
    )
