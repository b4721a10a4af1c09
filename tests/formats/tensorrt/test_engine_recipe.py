"""What is shipped to a device that builds its own engine: the graph, the recipe and a
script; the script is run with TensorRT-RTX.
"""

import ast
import hashlib
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tensorrt import build as tensorrt_build
from edgekit.formats.tensorrt.audit import audit
from edgekit.formats.tensorrt.engine_recipe import BUILDER, OnnxToEngineRecipe
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits
from edgekit.task import Task

SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 64)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 64)),),
)


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Artifact:
    """A linear layer in symmetric int8."""
    tensors = [
        numpy_helper.from_array(numpy.asarray(0.05, "float32"), "scale"),
        numpy_helper.from_array(numpy.asarray(0, "int8"), "zero"),
        numpy_helper.from_array(numpy.eye(64, dtype="int8"), "stored"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node(
            "DequantizeLinear", ["stored", "scale", "zero"], ["w"]
        ),
        helper.make_node("MatMul", ["x", "w"], ["output"], name="head/MatMul"),
    ]
    graph_input, settings = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64])
        for name in ("input", "output")
    )
    folder = tmp_path / "onnx"
    folder.mkdir()
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [graph_input], [settings], tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, str(folder / "main.onnx"))
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


def write_recipe(
    source: Artifact, folder: pathlib.Path, **settings: Any
) -> Artifact:
    folder.mkdir()
    step = OnnxToEngineRecipe(("SM87",), **settings)
    step.requires(source)
    images = numpy.zeros((2, 64), "float32")
    after = step.run(
        source,
        Context(
            folder=folder,
            networks=dict,
            task=Task(name="none", test=(images, numpy.zeros(2, "int64"))),
        ),
    )
    step.ensures(source, after)
    return after


def on_device(
    folder: pathlib.Path, *names: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", str(folder / BUILDER), *names],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_recipe_contains_what_to_build_and_what_to_expect(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Hash, profiles, promised layers, tolerance, and the lines of trtexec 10 and 11; no
    engine.
    """
    after = write_recipe(
        source, tmp_path / "out", max_batch=8, parity_steps=3.0
    )
    part = after.parts[0]
    recipe = json.loads(after.path(part, "recipe").read_text())
    assert after.format == "tensorrt" and set(part.files) == {
        "model",
        "recipe",
        "builder",
    }
    assert (
        recipe["onnx_sha256"]
        == hashlib.sha256(after.path(part).read_bytes()).hexdigest()
    )
    assert (
        recipe["promised"] == {"head/MatMul": "Int8"}
        and recipe["precision"] == "Int8"
        and recipe["compute_capabilities"] == ["SM87"]
    )
    assert (
        recipe["profiles"] == [{"input": [[1, 64], [1, 64], [8, 64]]}]
        and recipe["tolerance"]["parity_steps"] == 3.0
    )
    assert (
        set(recipe["trtexec"]) == {"10", "11"}
        and "--stronglyTyped" in recipe["trtexec"]["10"]["build"]
    )
    assert "--stronglyTyped" not in recipe["trtexec"]["11"]["build"]
    assert after.notes["tensorrt"]["main"]["built"] == "on the device"


def test_a_late_opset_is_warned_of(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """JetPack 6.1's parser supports opsets up to 20."""
    path = source.path(source.parts[0])
    model = onnx.load(str(path))
    model.opset_import[0].version = 21
    onnx.save(model, str(path))
    (warning,) = write_recipe(source, tmp_path / "out").notes["tensorrt"][
        "main"
    ]["warnings"]
    assert (
        warning
        == "the file has opset 21; TensorRT 10.3's parser supports opsets up to 20"
    )


def test_the_script_builds_the_engine_and_proves_it_by_the_log(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Run as on a device, with only the recipe, the graph and the script.

    CURRENT requires a GPU, so RTX chooses its GPUs here.
    """
    pytest.importorskip("tensorrt_rtx")
    folder = write_recipe(source, tmp_path / "out").folder
    done = on_device(folder)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith("main.engine: ")
        and "0 of 1 quantized layers run in another datatype" in done.stdout
    )
    log = json.loads((folder / "main.log.json").read_text())
    assert (folder / "main.engine").stat().st_size == log["engine_bytes"] > 0
    assert [row["dtype"] for row in log["layers"] if row["kind"]] == ["Int8"]


def test_the_script_reports_a_changed_graph_a_broken_recipe_and_another_datatype(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """Each is reported with the file's name, the others are still built, and the exit status
    is 1.
    """
    pytest.importorskip("tensorrt_rtx")
    folder = write_recipe(source, tmp_path / "out").folder
    recipe = json.loads((folder / "main.recipe.json").read_text())
    (folder / "main.recipe.json").unlink()
    (folder / "a.recipe.json").write_text(
        json.dumps({**recipe, "onnx_sha256": "0" * 64})
    )
    (folder / "b.recipe.json").write_text("{")
    (folder / "c.recipe.json").write_text(
        json.dumps({**recipe, "promised": {"head/MatMul": "FP8"}})
    )
    (folder / "d.recipe.json").write_text(
        json.dumps({**recipe, "onnx": "none.onnx"})
    )
    done = on_device(folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert (
        "a.recipe.json: main.onnx is not the file that the recipe was written for; copy it again"
        in lines
    )
    assert any(
        line.endswith(
            "b.recipe.json: cannot be read as a recipe: JSONDecodeError: Expecting property "
            "name enclosed in double quotes: "
            "line 1 column 2 (char 1)"
        )
        for line in lines
    )
    assert "c.recipe.json: head/MatMul runs in Int8, not in FP8" in lines
    assert any(
        line.startswith("d.recipe.json: there is no file") for line in lines
    )


def test_without_a_recipe_the_script_fails(tmp_path: pathlib.Path) -> None:
    """It does not wait for input."""
    (tmp_path / BUILDER).write_text(
        pathlib.Path(tensorrt_build.__file__).read_text()
    )
    done = on_device(tmp_path)
    assert done.returncode == 1 and "There is no *.recipe.json" in done.stderr


def test_the_script_is_for_the_python_of_a_jetpack() -> None:
    """JetPack 6 has Python 3.10 and JetPack 5 had 3.8; the script's syntax is that of 3.9
    and it imports the standard library alone.
    """
    tree = ast.parse(
        pathlib.Path(tensorrt_build.__file__).read_text(),
        feature_version=(3, 9),
    )
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {
        str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names | {"__future__"}
    strict = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "strict"
    ]
    assert strict == []


def test_a_recipe_for_another_file_breaks_the_promise(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """The step's own check detects a graph that was changed later."""
    after = write_recipe(source, tmp_path / "out")
    after.path(after.parts[0]).write_bytes(b"changed")
    with pytest.raises(StepError, match="is not for the file main.onnx"):
        OnnxToEngineRecipe(("SM87",)).ensures(source, after)


def test_the_audit_of_what_was_not_built_is_unmeasured(
    source: Artifact, tmp_path: pathlib.Path
) -> None:
    """No number is invented: the share, the float layers and the transposes are known on the
    device only.
    """
    report = audit(
        write_recipe(source, tmp_path / "out"),
        Limits(compute_capabilities=("SM87",)),
    )
    assert [row.name for row in report.measurements] == [
        "int8_mac_share",
        "float_ops",
        "transposes",
    ]
    assert {row.verdict for row in report.measurements} == {"unmeasured"} and {
        row.value for row in report.measurements
    } == {None}
    assert all("built on the device" in row.how for row in report.measurements)
    assert (
        report.measurements[0].where == "recipe for SM87, built on the device"
    )
