"""``edgekit inspect``: what a runtime executes in one file."""

import json
import pathlib
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.main import main
from edgekit.formats.ethosu import vela
from edgekit.formats.onnx import audit as audit_onnx
from edgekit.formats.record import Implementation
from edgekit.registry import Registry

onnx = pytest.importorskip("onnx")


def inspect(*words: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, words)])


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    """A matrix product and a ReLU in ONNX."""
    helper = onnx.helper
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3], [0.5] * 12)
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatMul", ["input", "w"], ["product"], name="product"
            ),
            helper.make_node("Relu", ["product"], ["output"], name="relu"),
        ],
        "small",
        [
            helper.make_tensor_value_info(
                "input", onnx.TensorProto.FLOAT, ["batch", 4]
            )
        ],
        [
            helper.make_tensor_value_info(
                "output", onnx.TensorProto.FLOAT, ["batch", 3]
            )
        ],
        [weight],
    )
    path = tmp_path / "small.onnx"
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        ),
        path,
    )
    return path


def test_an_onnx_file_is_audited(model: pathlib.Path) -> None:
    """The table has size, int8 share and operators; --json has the audit's values."""
    done = inspect(model)
    assert done.exit_code == 0, done.output
    assert "int8 share" in done.stdout
    assert "MatMul" in done.stdout
    data = json.loads(inspect(model, "--json", "--target", "cpu-onnx").stdout)
    audit = audit_onnx.read(model)
    assert data["format"] == "onnx"
    assert data["bytes"] == model.stat().st_size
    assert {row["name"]: row["value"] for row in data["measurements"]} == {
        row.name: row.value for row in audit.measurements
    }
    assert data["rows"] == [dict(row) for row in audit.rows]


def test_rows_lists_every_operator(model: pathlib.Path) -> None:
    """--rows adds one line for each operator."""
    data = json.loads(inspect(model, "--json").stdout)
    short = inspect(model).stdout.splitlines()
    long = inspect(model, "--rows").stdout.splitlines()
    assert len(long) == len(short) + 2 + len(data["rows"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "weights.pt",
            [
                "unknown suffix: expected one of .onnx, .ort, .xml, .tflite, .engine"
            ],
        ),
        ("broken.onnx", ["broken.onnx"]),
        ("broken.tflite", ["broken.tflite"]),
        ("main.engine", ["main.log.json", "Fix:"]),
    ],
)
def test_a_file_that_cannot_be_read_is_reported(
    tmp_path: pathlib.Path, name: str, words: list[str]
) -> None:
    """Another kind of file, random bytes, an engine without its log: exit code 1."""
    (tmp_path / name).write_bytes(b"\x00\x01not a model" * 7)
    done = inspect(tmp_path / name)
    assert done.exit_code == 1, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    for word in words:
        assert word in done.stderr


def test_a_file_of_another_format_than_the_targets_is_refused(
    model: pathlib.Path,
) -> None:
    """An ONNX file is not checked against a TFLite device."""
    done = inspect(model, "--target", "mobile-tflite")
    assert done.exit_code == 1
    assert "mobile-tflite executes files of the format tflite" in done.stderr


def test_a_missing_file_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    """click's message, exit code 2."""
    assert inspect(tmp_path / "none.onnx").exit_code == 2


def test_an_engine_is_read_from_its_log(tmp_path: pathlib.Path) -> None:
    """An engine's audit comes from the build log in its folder, without a GPU."""
    layer = {
        "kind": "conv",
        "type": "conv",
        "name": "c",
        "dtype": "Int8",
        "macs": 100,
        "nodes": ["stem"],
        "origins": [],
        "transposes": False,
    }
    log = {
        "layers": [layer],
        "module": "tensorrt_rtx",
        "version": "1.7.1",
        "compute_capabilities": ["SM89"],
        "memory": {},
        "quantized": True,
        "uncounted": [],
    }
    (tmp_path / "main.engine").write_bytes(b"engine")
    (tmp_path / "main.log.json").write_text(json.dumps(log))
    data = json.loads(inspect(tmp_path / "main.engine", "--json").stdout)
    assert {row["name"]: row["value"] for row in data["measurements"]}[
        "int8_mac_share"
    ] == 1
    done = inspect(tmp_path / "main.engine", "--target", "rtx-tensorrt")
    assert "warning:" in done.stdout
    assert "SM120" in done.stdout


def test_an_int8_file_is_checked_against_an_ethos_u(
    tmp_path: pathlib.Path,
) -> None:
    """Vela compiles it for the target: estimates, and one row for each operator.

    A file that Vela has compiled is refused.
    """
    pytest.importorskip("ethosu.vela")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    path = tmp_path / "pool.tflite"
    write_pool(schema, path)
    data = json.loads(
        inspect(path, "--target", "ethos-u55-256", "--json").stdout
    )
    numbers = {row["name"]: row for row in data["measurements"]}
    assert data["format"] == "ethosu"
    assert numbers["cpu_ops"]["value"] == 0
    assert "not measured" in numbers["npu_time_ms"]["how"]
    assert [(row["op"], row["runs_on"]) for row in data["rows"]] == [
        ("MAX_POOL_2D", "NPU")
    ]
    done = inspect(path, "--target", "ethos-u85-256")
    assert "npu time (estimate)" in done.stdout
    assert "Vela 5" in done.stdout
    vela.compile_file(
        path,
        vela.Setting(
            accelerator="ethos-u55-32",
            system_config="Ethos_U55_Deep_Embedded",
            memory_mode="Sram_Only",
        ),
        tmp_path / "compiled.tflite",
    )
    done = inspect(tmp_path / "compiled.tflite", "--target", "ethos-u55-256")
    assert (
        done.exit_code,
        "already compiled for an Ethos-U" in done.stderr,
    ) == (1, True)
    assert "CUSTOM:ethos-u" in inspect(tmp_path / "compiled.tflite").stdout


def test_without_vela_the_extra_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fix is the command that installs it."""
    write_pool(
        pytest.importorskip("ai_edge_litert.schema_py_generated"),
        tmp_path / "pool.tflite",
    )
    monkeypatch.setattr(vela, "MODULE", "no_such_package.vela")
    done = inspect(tmp_path / "pool.tflite", "--target", "ethos-u55-256")
    assert done.exit_code == 1
    assert "pip install 'edgekit[ethosu]'" in done.stderr


def write_pool(schema: Any, path: pathlib.Path) -> None:
    """A file of one int8 max pool, 8x8 to 4x4."""
    flatbuffer = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")

    def tensor(name: bytes, side: int) -> Any:
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = [1, side, side, 8]
        tensor.type = schema.TensorType.INT8
        tensor.buffer = 0
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = [0.5]
        tensor.quantization.zeroPoint = [0]
        return tensor

    pool = schema.OperatorT()
    pool.inputs, pool.outputs, pool.opcodeIndex = [0], [1], 0
    pool.builtinOptionsType = schema.BuiltinOptions.Pool2DOptions
    pool.builtinOptions = options = schema.Pool2DOptionsT()
    options.strideW = options.strideH = options.filterWidth = (
        options.filterHeight
    ) = 2
    options.padding = schema.Padding.VALID
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = (
        schema.BuiltinOperator.MAX_POOL_2D
    )
    code.version = 2
    graph = schema.SubGraphT()
    graph.tensors = [tensor(b"image", 8), tensor(b"pooled", 4)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [pool]
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [code]
    model.subgraphs = [graph]
    model.buffers = [schema.BufferT()]
    path.write_bytes(flatbuffer.convert_object_to_bytearray(model))


def test_a_missing_runtime_is_reported_with_its_command(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package that reads the file, the fix is how to install it."""
    monkeypatch.setattr(
        "edgekit.formats.inspection.READERS",
        Registry(
            "kind of file",
            {
                "onnx": Implementation(
                    "no_such_runtime.audit:read", ("no_such_runtime",), "onnx"
                )
            },
        ),
    )
    done = inspect(model)
    assert done.exit_code == 1
    assert "pip install 'edgekit[onnx]'" in done.stderr


def test_the_case_of_a_suffix_does_not_matter(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Files from other systems may be named MODEL.ONNX."""
    (tmp_path / "MODEL.ONNX").write_bytes(model.read_bytes())
    assert inspect(tmp_path / "MODEL.ONNX").exit_code == 0


def test_a_name_that_is_not_utf8_is_refused(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The runtimes do not accept such names, so nothing is opened."""
    odd = tmp_path / "\udcff.onnx"
    odd.write_bytes(model.read_bytes())
    done = inspect(odd)
    assert done.exit_code == 1
    assert "is not UTF-8" in done.stderr
