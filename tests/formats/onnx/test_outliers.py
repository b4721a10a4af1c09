"""How many channels are taken out of int8, and that bad calibration data are refused."""

import pathlib

import numpy
import onnx
import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.errors import StepError
from edgekit.formats.onnx import outliers as onnx_outliers
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Split

SPEC = TensorSpec(name="x", dtype="float32", dims=("batch", 4, 16))
OUTER = Signature(
    inputs=(SPEC,), outputs=(SPEC.model_copy(update={"name": "h"}),)
)
INNER = Signature(
    inputs=(SPEC.model_copy(update={"name": "h"}),),
    outputs=(SPEC.model_copy(update={"name": "y"}),),
)


def two_parts(folder: pathlib.Path) -> Artifact:
    """The second part reads the output of the first one: its input doubled."""
    parts = []
    for name, shape, body in (
        ("first", OUTER, "h = Add(x, x)"),
        ("second", INNER, "k = Neg(h) y = Neg(k)"),
    ):
        source, result = shape.inputs[0].name, shape.outputs[0].name
        text = (
            '<ir_version: 10, opset_import: ["" : 20]> '
            f"g (float[batch, 4, 16] {source}) => (float[batch, 4, 16] {result}) {{ {body} }}"
        )
        onnx.save(onnx.parser.parse_model(text), folder / f"{name}.onnx")
        parts.append(
            Part(
                name=name,
                signature=shape,
                files={"model": File(path=f"{name}.onnx")},
            )
        )
    return Artifact(format="onnx", parts=tuple(parts), folder=folder)


def sample(large: dict[int, float]) -> Split:
    x = (
        numpy.random.default_rng(0)
        .uniform(-1, 1, (20, 4, 16))
        .astype("float32")
    )
    for channel, factor in large.items():
        x[..., channel] *= factor
    return Split({"x": x}, None)


@pytest.mark.parametrize(
    ("errors", "count"),
    [
        ([9, 9, 9], 0),
        ([9, 8, 7], 0),
        ([9, 8, 5], 2),
        ([9, 1, 1], 1),
        ([9, 8, 1], 2),
        ([9, 1.05, 1], 1),
        ([9, 1.3, 1], 2),
        ([0, 0, 0], 0),
        ([5, 0, 0], 1),
    ],
)
def test_as_few_channels_as_gain_nearly_all(
    errors: list[float], count: int
) -> None:
    """None if they do not lower the error by a third; else the fewest that come within a
    tenth of what the most would gain.
    """
    assert onnx_outliers.choose(numpy.array(errors, "float64")) == count


def test_large_channels_are_found_in_every_part(tmp_path: pathlib.Path) -> None:
    """In an input, in a tensor inside the second part, and none in a tensor that has none
    or is not asked for.
    """
    floors = {"first": {"x": None}, "second": {"h": None, "k": None}}
    channels = onnx_outliers.find(
        two_parts(tmp_path), floors, sample({5: 30, 11: 50}), most=4
    )
    assert channels == {
        "first": {"x": (5, 11)},
        "second": {"h": (5, 11), "k": (5, 11)},
    }
    assert onnx_outliers.find(
        two_parts(tmp_path), floors, sample({}), most=4
    ) == {
        "first": {},
        "second": {},
    }
    assert onnx_outliers.find(
        two_parts(tmp_path),
        {"first": {}, "second": {}},
        sample({5: 30}),
        most=4,
    ) == {"first": {}, "second": {}}


def test_no_more_channels_than_allowed_are_taken(
    tmp_path: pathlib.Path,
) -> None:
    """Of three large channels the two largest, where two are the most."""
    split = sample({1: 10, 5: 300, 11: 500})
    assert onnx_outliers.find(
        two_parts(tmp_path), {"first": {"x": None}, "second": {}}, split, most=2
    )["first"] == {"x": (5, 11)}


@pytest.mark.parametrize("bad", [numpy.nan, numpy.inf])
def test_data_that_are_no_numbers_are_refused(
    bad: float, tmp_path: pathlib.Path
) -> None:
    """The error names the part and a fix."""
    split = sample({})
    split.inputs["x"][3, 0, 0] = bad
    with pytest.raises(
        StepError,
        match=r"(?s)first computes NaN or infinity.*Fix: remove such samples",
    ):
        onnx_outliers.find(
            two_parts(tmp_path),
            {"first": {"x": None}, "second": {}},
            split,
            most=2,
        )
