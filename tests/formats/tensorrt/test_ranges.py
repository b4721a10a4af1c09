"""The largest size of tensors over calibration data, found inside the graph."""

import pathlib
import subprocess
import sys

import numpy
import onnx
import onnx.parser
import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt.ranges import BATCH_SIZE, measure_largest
from edgekit.progress import Silent
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Split


def artifact(
    folder: pathlib.Path,
    batch: str = "batch",
    text: str = "r = Relu(x)   y = Neg(r)",
) -> Artifact:
    graph = onnx.parser.parse_graph(
        f"g (float[{batch},3] x) => (float[{batch},3] y) {{ {text} }}"
    )
    onnx_graph.write(
        onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", 20)],
            ir_version=10,
        ),
        folder / "main.onnx",
    )
    dims = (int(batch) if batch.isdigit() else batch, 3)
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", dims=dims),),
        outputs=(TensorSpec(name="y", dtype="float32", dims=dims),),
    )
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=signature,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


@pytest.mark.parametrize("batch", ["batch", "4"])
@pytest.mark.parametrize("count", [1, BATCH_SIZE, BATCH_SIZE + 3])
def test_maxima_are_those_of_all_samples(
    batch: str, count: int, tmp_path: pathlib.Path
) -> None:
    """Of the sizes, negative ones too, whatever the number of samples; a file with a fixed
    batch is fed as it requires.
    """
    data = (
        numpy.random.default_rng(count)
        .standard_normal((count, 3))
        .astype("float32")
    )
    data[-1, 0] = -9
    maxima = measure_largest(
        artifact(tmp_path, batch),
        {"main": {"x", "r"}},
        Split({"x": data}, None),
        Silent(),
    )
    assert maxima == {
        "main": {
            "x": pytest.approx(9),
            "r": pytest.approx(max(0.0, float(data.max()))),
        }
    }


def test_a_graph_that_the_runtime_rejects_is_reported(
    tmp_path: pathlib.Path,
) -> None:
    """An operator that ONNX knows and ONNX Runtime has no kernel for: an error with the
    part's name, not a traceback.
    """
    with pytest.raises(
        StepError, match="ONNX Runtime cannot (load|run) 'main' for calibration"
    ) as refusal:
        measure_largest(
            artifact(
                tmp_path,
                text="b = Cast <to=16> (x)   n = Neg(b)   y = Cast <to=1> (n)",
            ),
            {"main": {"x"}},
            Split({"x": numpy.ones((2, 3), "float32")}, None),
            Silent(),
        )
    assert "no calibration" in (refusal.value.fix or "")


_CHILD = """
import pathlib, resource, sys, numpy
from edgekit.artifact import Artifact, File, Part
from edgekit.progress import Silent
from edgekit.signature import Signature, TensorSpec
from edgekit.formats.tensorrt.ranges import measure_largest
from edgekit.task import Split
folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
signature = Signature.model_validate_json((folder / "signature.json").read_text())
part = Part(name="main", signature=signature, files={"model": File(path="main.onnx")})
artifact = Artifact(format="onnx", parts=(part,), folder=folder)
split = Split({"x": numpy.ones((count, 3), "float32")}, None)
measure_largest(artifact, {"main": {"wide"}}, split, Silent())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_samples(tmp_path: pathlib.Path) -> None:
    """1,024 samples of a tensor of 256 KiB each peak at no more than 1.1 times the memory
    of 32; kept, they would take 256 MiB.
    """
    graph = onnx.parser.parse_graph(
        "g (float[batch,3] x) => (float[batch,1] y) { "
        "wide = MatMul(x, w)   y = ReduceMax <keepdims=1> (wide, axes) }"
    )
    stored = {"w": numpy.ones((3, 65536), "float32"), "axes": numpy.array([1])}
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in stored.items()
    )
    onnx_graph.write(
        onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", 20)],
            ir_version=10,
        ),
        tmp_path / "main.onnx",
    )
    specs = [
        (TensorSpec(name=name, dtype="float32", dims=("batch", width)),)
        for name, width in (("x", 3), ("y", 1))
    ]
    (tmp_path / "signature.json").write_text(
        Signature(inputs=specs[0], outputs=specs[1]).model_dump_json()
    )

    def peak(count: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(tmp_path), str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert peak(1024) <= 1.1 * peak(32)
