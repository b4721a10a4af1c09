"""The lines for trtexec and its raw input files."""

import pathlib

import numpy
import pytest

from edgekit.errors import EdgekitError
from edgekit.formats.tensorrt import trtexec
from edgekit.signature import Quantization, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="image",
            dtype="float32",
            dims=("batch", 8, 8, 3),
            axes=(0, 2, 3, 1),
        ),
        TensorSpec(
            name="in:1",
            dtype="int8",
            dims=("batch", 4),
            quantization=Quantization(scale=0.5, zero_point=1),
        ),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)
PROFILE = {
    "image": [[1, 8, 8, 3], [2, 8, 8, 3], [4, 8, 8, 3]],
    "in:1": [[1, 4], [2, 4], [4, 4]],
}


def test_the_lines_of_release_10() -> None:
    """Types are the graph's, the shapes are given, and what 11 does by default is requested."""
    lines = trtexec.command_lines("main", SIGNATURE, [PROFILE], 10)
    assert lines["build"] == (
        "trtexec --onnx=main.onnx --saveEngine=main.engine --stronglyTyped "
        """'--minShapes=image:1x8x8x3,'"'"'in:1'"'"':1x4' """
        """'--optShapes=image:2x8x8x3,'"'"'in:1'"'"':2x4' """
        """'--maxShapes=image:4x8x8x3,'"'"'in:1'"'"':4x4' """
        "--profilingVerbosity=detailed "
        "--exportLayerInfo=main.layers.json --skipInference"
    )
    for flag in (
        "--useCudaGraph",
        "--useSpinWait",
        "--noDataTransfers",
        "--warmUp=200",
        "--duration=3",
        "--exportTimes=main.times.json",
    ):
        assert flag in lines["time"].split()
    assert (
        "--noDataTransfers" not in lines["answer"]
        and "main.image.bin" in lines["answer"]
        and "main.in_1.bin" in lines["answer"]
    )


def test_the_lines_of_release_11_ask_for_nothing_that_is_gone() -> None:
    """Strong typing and the measuring flags are its defaults; a fixed batch needs no
    shapes.
    """
    lines = trtexec.command_lines("main", SIGNATURE, [], 11)
    assert not any(
        flag in " ".join(lines.values())
        for flag in (
            "--stronglyTyped",
            "--useCudaGraph",
            "--useSpinWait",
            "--noDataTransfers",
            "Shapes",
        )
    )


def test_two_profiles_are_numbered() -> None:
    """trtexec takes each --profile with the shapes that follow it."""
    words = trtexec.command_lines(
        "main",
        SIGNATURE,
        [{"image": [[1], [1], [2]]}, {"image": [[4], [4], [8]]}],
        11,
    )["build"].split()
    assert [word for word in words if "profile=" in word or "min" in word] == [
        "--profile=0",
        "--minShapes=image:1",
        "--profile=1",
        "--minShapes=image:4",
    ]


def test_the_inputs_are_written_as_the_file_takes_them(
    tmp_path: pathlib.Path,
) -> None:
    """Channel-last and quantized, one sample, no header: what is read back is what the
    runner would feed.
    """
    arrays = {
        "image": numpy.arange(2 * 3 * 64, dtype="float32").reshape(2, 3, 8, 8),
        "in:1": numpy.float32([[0.5, -1, 2, 100], [0, 0, 0, 0]]),
    }
    names = trtexec.write_inputs("main", SIGNATURE, arrays, tmp_path)
    assert names == {"image": "main.image.bin", "in:1": "main.in_1.bin"}
    image = numpy.fromfile(tmp_path / names["image"], "float32").reshape(
        1, 8, 8, 3
    )
    assert (image == arrays["image"][:1].transpose(0, 2, 3, 1)).all()
    assert numpy.fromfile(tmp_path / names["in:1"], "int8").tolist() == [
        2,
        -1,
        5,
        127,
    ]


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"image": numpy.zeros((1, 3, 8, 8)), "in:1": numpy.zeros((1, 5))},
        {"image": numpy.zeros((1, 3, 8, 8))},
    ],
)
def test_wrong_inputs_leave_no_file(
    arrays: dict[str, numpy.ndarray], tmp_path: pathlib.Path
) -> None:
    """A missing input and a wrong shape are errors before anything is written."""
    with pytest.raises(EdgekitError):
        trtexec.write_inputs("main", SIGNATURE, arrays, tmp_path)
    assert list(tmp_path.iterdir()) == []
