"""What runs on every host: its frames, its commands, and that it needs nothing of edgekit."""

import ast
import io
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import hypothesis
import numpy
import onnx
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays_of
from onnx import TensorProto, helper

from edgekit import device_worker
from edgekit.device_worker import (
    batches,
    frames,
    runtime_litert,
    runtimes,
    worker,
)
from edgekit.hosts.process import (
    MAGIC,
    Start,
    WorkerProcess,
    encode_sources,
    worker_files,
)

FOLDER = pathlib.Path(device_worker.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
ALLOWED = {
    "numpy",
    "onnxruntime",
    "ai_edge_litert",
    "tflite_runtime",
    "openvino",
}
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = ("float32", "float16", "int8", "uint8", "int32", "int64", "bool")


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An ONNX file with a free batch that doubles its input."""
    return graph(tmp_path_factory.mktemp("worker") / "double.onnx", "batch")


def graph(path: pathlib.Path, batch: int | str, keep: int = 1) -> str:
    """input [batch, 3] -> output = 2 input; with ``keep`` 0 the sum over all samples, which
    has no sample axis.
    """
    nodes = [helper.make_node("Add", ["input", "input"], ["doubled"])]
    nodes.append(
        helper.make_node(
            "Identity" if keep else "ReduceSum",
            ["doubled"],
            ["output"],
            **({} if keep else {"keepdims": 0}),
        )
    )
    argument = helper.make_tensor_value_info(
        "input", TensorProto.FLOAT, [batch, 3]
    )
    result = helper.make_tensor_value_info(
        "output", TensorProto.FLOAT, [batch, 3] if keep else []
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", [argument], [result]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, path)
    return str(path)


def load_worker(path: str, name: str = "m") -> worker.Worker:
    """A worker in this process with one ONNX file."""
    running = worker.Worker()
    send(
        running,
        command="load",
        name=name,
        path=path,
        runtime="onnxruntime",
        threads=1,
        options={},
    )
    return running


def send(running: worker.Worker, arrays: Any = None, **header: Any) -> Any:
    """The worker's reply."""
    return running.answer(header, arrays or {})


@hypothesis.given(
    strategies.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays_of.arrays(dtype, SHAPES)
    )
)
def test_a_frame_comes_back_as_it_was_sent(array: Any) -> None:
    """Header and arrays of every dtype and shape, empty and 0-d ones too, survive the frame
    bit by bit.
    """
    stream = io.BytesIO()
    frames.write_frame(
        stream, {"command": "x", "n": 3}, {"a": array, "b": array.T}
    )
    stream.seek(0)
    header, arrays = frames.read_frame(stream)
    assert header == {"command": "x", "n": 3}
    assert arrays["a"].dtype == array.dtype and arrays["a"].shape == array.shape
    assert (
        arrays["a"].tobytes() == array.tobytes()
        and arrays["b"].tobytes() == array.T.tobytes()
    )


def test_a_cut_frame_and_noise_are_no_frames() -> None:
    """A stream that ends in the middle is an EOFError; text instead of a frame is a
    ValueError, not a huge read.
    """
    stream = io.BytesIO()
    frames.write_frame(stream, {}, {"a": numpy.ones(5)})
    with pytest.raises(EOFError):
        frames.read_frame(io.BytesIO(stream.getvalue()[:-1]))
    with pytest.raises(ValueError, match="invalid frame"):
        frames.read_frame(io.BytesIO(b"WARNING: something was printed"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_python_39_and_imports_nothing_of_edgekit(
    path: pathlib.Path,
) -> None:
    """The package parses as Python 3.9 and imports only itself, the standard library, numpy
    and the runtimes, so a device can run it.
    """
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    imported = {name.partition(".")[0] for name in names} - set(
        sys.stdlib_module_names
    )
    assert imported <= ALLOWED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_uses_nothing_newer_than_python_39(path: pathlib.Path) -> None:
    """No ``zip(strict=)``, no match, no union at run time: what a syntax check does not
    see.
    """
    tree = ast.parse(path.read_text())
    keywords = {
        keyword.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    }
    assert "strict" not in keywords
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
    ]
    assert not any(isinstance(call.args[1], ast.BinOp) for call in calls)


@hypothesis.given(
    strategies.integers(1, 2000),
    strategies.one_of(strategies.none(), strategies.integers(1, 40)),
)
def test_slices_cover_every_sample_once(count: int, batch: int | None) -> None:
    """The slices follow each other, hold every sample once, and are full after the padding
    where the batch is fixed.
    """
    cuts = batches.plan_slices(count, batch)
    assert [
        index for start, stop, _ in cuts for index in range(start, stop)
    ] == list(range(count))
    for start, stop, missing in cuts:
        assert 0 < stop - start <= batches.LARGEST_SLICE or batch is not None
        assert (
            batch is None and missing == 0
        ) or stop - start + missing == batch


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_any_number_of_samples_goes_through_any_batch(
    tmp_path: pathlib.Path, batch: int | str
) -> None:
    """601 samples give 601 right outputs whether the file's batch is free, 1 or 4."""
    running = load_worker(graph(tmp_path / "m.onnx", batch))
    values = numpy.arange(601 * 3, dtype="float32").reshape(601, 3)
    _, outputs = send(running, {"input": values}, command="infer", name="m")
    assert numpy.array_equal(outputs["output"], 2 * values)


def test_an_output_without_a_sample_axis_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """A file that sums over the samples is refused instead of being cut into wrong slices."""
    running = load_worker(graph(tmp_path / "sum.onnx", "batch", keep=0))
    with pytest.raises(
        frames.WorkerError, match="first axis is not the sample"
    ):
        send(
            running,
            {"input": numpy.ones((4, 3), "float32")},
            command="infer",
            name="m",
        )


def test_inputs_of_different_length_are_refused() -> None:
    """Two inputs with 2 and 3 samples, none at all, and a number instead of an array are
    refused before the runtime sees them.
    """
    for arrays in (
        {"a": numpy.ones((2, 1)), "b": numpy.ones((3, 1))},
        {"a": numpy.ones((0, 1))},
        {"a": numpy.float32(1)},
    ):
        with pytest.raises(frames.WorkerError, match="same number of samples"):
            batches.run_in_slices(arrays, None, dict)


@pytest.mark.parametrize(
    ("header", "kind", "message"),
    [
        ({"command": "sing"}, "request", "unknown command 'sing'"),
        ({"command": "__init__"}, "request", "unknown command"),
        ({"command": "infer", "name": "nothing"}, "request", "nothing"),
        ({"command": "infer"}, "request", "TypeError"),
        (
            {
                "command": "load",
                "name": "m",
                "path": "/nothing.onnx",
                "runtime": "onnxruntime",
                "threads": 1,
                "options": {},
            },
            "load",
            "does not exist",
        ),
        (
            {
                "command": "load",
                "name": "m",
                "path": "x",
                "runtime": "abacus",
                "threads": 1,
                "options": {},
            },
            "request",
            "abacus",
        ),
        (
            {
                "command": "load",
                "name": "m",
                "path": "x",
                "runtime": "litert",
                "threads": 1,
                "options": {"turbo": 1},
            },
            "request",
            "turbo",
        ),
    ],
)
def test_a_wrong_request_is_answered(
    header: dict[str, Any], kind: str, message: str
) -> None:
    """The reply to each wrong request has its kind and what was wrong."""
    with pytest.raises(frames.WorkerError, match=message) as raised:
        send(worker.Worker(), **header)
    assert raised.value.kind == kind


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_garbage_is_a_load_error(tmp_path: pathlib.Path, runtime: str) -> None:
    """A file of noise is refused by each runtime as a load error."""
    path = tmp_path / "noise"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(frames.WorkerError) as raised:
        send(
            worker.Worker(),
            command="load",
            name="m",
            path=str(path),
            runtime=runtime,
            threads=1,
            options={},
        )
    assert raised.value.kind == "load"


def test_data_of_the_wrong_dtype_are_an_infer_error(doubling: str) -> None:
    """The runtime's own refusal comes back as an infer error with its text."""
    with pytest.raises(frames.WorkerError, match="InvalidArgument") as raised:
        send(
            load_worker(doubling),
            {"input": numpy.ones((1, 3), "int64")},
            command="infer",
            name="m",
        )
    assert raised.value.kind == "infer"


def test_a_file_reports_its_inputs_and_outputs(doubling: str) -> None:
    """load replies with the runtime's version and each input's and output's name, dtype and
    shape.
    """
    reply, _ = send(
        worker.Worker(),
        command="load",
        name="m",
        path=doubling,
        runtime="onnxruntime",
        threads=1,
        options={"optimize": False},
    )
    assert reply["runtime"].startswith("onnxruntime ")
    assert reply["inputs"] == [
        {
            "name": "input",
            "dtype": "float32",
            "shape": [None, 3],
            "quantization": None,
        }
    ]
    assert [row["name"] for row in reply["outputs"]] == ["output"]


def test_args_10_comes_after_args_2() -> None:
    """TFLite inputs are put in order by their number, not by their letters."""
    names = [f"serving_default_args_{k}" for k in (10, 2, 0, 1)]
    assert [
        name
        for name, _ in sorted(
            ((name, 0) for name in names), key=runtime_litert._natural_key
        )
    ] == [f"serving_default_args_{k}" for k in (0, 1, 2, 10)]


def test_bench_gives_one_time_a_round_and_track(doubling: str) -> None:
    """Every track is timed once a round; the repetitions are enough for the asked length;
    the same seed is the same order.
    """
    running, feeds = (
        load_worker(doubling),
        {"0:input": numpy.ones((1, 3), "float32")},
    )
    for name in ("a", "b"):
        reply, _ = send(
            running,
            feeds,
            command="warm",
            name=name,
            models=["m"],
            warmup=5,
            round_ms=0.2,
        )
        assert reply["inner"] * reply["nanoseconds"] >= 0.2e6
    reply, _ = send(running, command="bench", rounds=7, seed=1)
    assert {
        name: len(times) for name, times in reply["nanoseconds"].items()
    } == {
        "a": 7,
        "b": 7,
    }
    assert all(
        time > 0 for times in reply["nanoseconds"].values() for time in times
    )


def start(before: str = "") -> "subprocess.Popen[bytes]":
    """The worker as a process, as a host starts it; ``before`` is Python that runs first."""
    *words, boot = Start((sys.executable,)).arguments()
    process = subprocess.Popen(
        [*words, f"{before}\n{boot}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(encode_sources())
    process.stdin.flush()
    assert process.stdout is not None
    while process.stdout.readline() != MAGIC:
        pass
    return process


def test_it_replies_to_hello_and_ends_with_its_input(doubling: str) -> None:
    """The process replies to hello with its versions and ends by itself, with status 0, when
    its input ends.
    """
    with start() as process:
        assert process.stdin is not None and process.stdout is not None
        frames.write_frame(process.stdin, {"command": "hello"})  # type: ignore[arg-type]
        reply, _ = frames.read_frame(process.stdout)  # type: ignore[arg-type]
        assert (
            reply["pid"] == process.pid
            and reply["versions"]["numpy"] == numpy.__version__
        )
        process.stdin.close()
        assert process.wait(20) == 0


def test_what_a_runtime_prints_does_not_reach_the_frames(
    tmp_path: pathlib.Path, doubling: str
) -> None:
    """Text printed from Python or from C to stdout while a file is loaded lands on stderr,
    and the frames stay intact.
    """
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nprint('from python', flush=True)\nos.write(1, b'from C')\n"
        "raise ImportError('noise')\n"
    )
    with start(f"import sys; sys.path.insert(0, {str(tmp_path)!r})") as process:
        assert (
            process.stdin is not None
            and process.stdout is not None
            and process.stderr is not None
        )
        header = {
            "command": "load",
            "name": "m",
            "path": doubling,
            "runtime": "onnxruntime",
            "threads": 1,
            "options": {},
        }
        frames.write_frame(process.stdin, header)  # type: ignore[arg-type]
        reply, _ = frames.read_frame(process.stdout)  # type: ignore[arg-type]
        process.stdin.close()
        message = process.stderr.read()
    assert reply["error"] == "missing"
    assert b"from python" in message and b"from C" in message


def test_a_runtime_that_is_missing_is_reported(tmp_path: pathlib.Path) -> None:
    """Without any runtime installed the reply to a load is the kind ``missing``, not with
    a crash.
    """
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with start(
        "import sys\nsys.modules.update(onnxruntime=None, ai_edge_litert=None, tflite_runtime=None)"
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for runtime in ("onnxruntime", "litert"):
            header = {
                "command": "load",
                "name": "m",
                "path": os.fspath(path),
                "runtime": runtime,
                "threads": 1,
                "options": {},
            }
            frames.write_frame(process.stdin, header)  # type: ignore[arg-type]
            assert frames.read_frame(process.stdout)[0]["error"] == "missing"  # type: ignore[arg-type]
        process.stdin.close()


def test_every_module_that_the_worker_imports_is_sent() -> None:
    """The modules that are sent import only each other, in any order; the text that starts
    them contains no single quote.
    """
    from edgekit.hosts import process

    paths = worker_files()
    names = {path.stem for path in paths}
    assert {"worker", "runtime_onnxruntime", "runtime_litert"} <= names
    for path in paths:
        assert imported_modules(path) <= names, path.name
    assert "'" not in process.BOOT


def imported_modules(path: pathlib.Path) -> set[str]:
    """The modules of the package that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            names.update(
                [node.module]
                if node.module
                else [row.name for row in node.names]
            )
    return names


def test_a_new_runtime_is_one_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the folder is sent, listed by hello, and loads files of its suffix."""
    folder = tmp_path / "device_worker"
    shutil.copytree(
        FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "runtime_abacus.py").write_text(ABACUS)
    monkeypatch.setattr(device_worker, "__file__", str(folder / "__init__.py"))
    model = tmp_path / "model.beads"
    model.write_text("3")
    process = WorkerProcess(Start((sys.executable,)), 60)
    encode_sources.cache_clear()
    try:
        hello, _ = process.request("saying hello", {"command": "hello"})
        assert hello["versions"]["pytest"] == pytest.__version__
        loading = {
            "command": "load",
            "name": "m",
            "path": str(model),
            "runtime": "abacus",
            "threads": 1,
            "options": {},
        }
        reply, _ = process.request("loading", loading)
        assert reply["runtime"] == "abacus 3"
        _, outputs = process.request(
            "running",
            {"command": "infer", "name": "m"},
            {"x": numpy.ones((2, 1), "float32")},
            largest=100,
        )
        assert outputs["y"].tolist() == [[3.0], [3.0]]
    finally:
        process.close()
        encode_sources.cache_clear()


#: The runtime of a file that contains a factor.
ABACUS = """
DISTRIBUTIONS = ("pytest",)
SUFFIXES = (".beads",)
FORMATS = ()
ROW = {"dtype": "float32", "shape": [None, 1], "quantization": None}


class Model:
    def __init__(self, path, threads, optimize):
        self.factor = float(open(path).read())
        self.runtime = f"abacus {self.factor:g}"
        self.inputs, self.outputs = [{"name": "x", **ROW}], [{"name": "y", **ROW}]

    def bind(self, arrays):
        return lambda: [arrays["x"] * arrays["x"].dtype.type(self.factor)]
"""


@pytest.mark.parametrize(
    "runtime", ["abacus", "../x", "", "onnxruntime.x", "_names"]
)
def test_an_unknown_runtime_is_not_imported(runtime: str) -> None:
    """Only the names of the runtimes' own files are imported."""
    with pytest.raises(frames.WorkerError, match="unknown runtime") as raised:
        runtimes.load_model(runtime, "x", 1, True)
    assert raised.value.kind == "request"
