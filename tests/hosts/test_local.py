"""The local host: real files in a separate worker, and what happens when that worker
crashes, hangs or is killed.
"""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time
import venv
import warnings
from collections.abc import Sequence
from typing import Any

import numpy
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import BenchProtocol
from edgekit.errors import ModelError, RunnerError
from edgekit.hosts.local import LocalHost
from edgekit.hosts.process import Start, WorkerProcess
from edgekit.signature import BATCH, Quantization, Signature, TensorSpec
from edgekit.testing import tiny_convolution, tiny_images

HOST = LocalHost(timeout_s=60)
WEIGHT = numpy.arange(12, dtype="float32").reshape(4, 3) / 10
ONNX_DTYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8}


def floats(name: str, *dims: int | str) -> TensorSpec:
    """A float32 tensor."""
    return TensorSpec(name=name, dtype="float32", dims=dims)


def save(
    path: pathlib.Path,
    nodes: Sequence[Any],
    signature: Signature,
    constants: dict[str, Any],
) -> None:
    """Write an ONNX file with the inputs and outputs of a signature."""
    sides = signature.inputs, signature.outputs
    spec, results = (
        [
            helper.make_tensor_value_info(
                spec.name, ONNX_DTYPES[spec.dtype], list(spec.dims)
            )
            for spec in side
        ]
        for side in sides
    )
    graph = helper.make_graph(
        nodes,
        "g",
        spec,
        results,
        [
            numpy_helper.from_array(numpy.asarray(v), k)
            for k, v in constants.items()
        ],
    )
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
        ),
        path,
    )


def linear(
    folder: pathlib.Path,
    name: str = "main",
    batch: int | str = BATCH,
    wires: tuple[str, str] = ("input", "output"),
) -> Part:
    """output = input @ WEIGHT, as an ONNX file."""
    signature = Signature(
        inputs=(floats(wires[0], batch, 4),),
        outputs=(floats(wires[1], batch, 3),),
    )
    save(
        folder / f"{name}.onnx",
        [helper.make_node("MatMul", [wires[0], "w"], [wires[1]])],
        signature,
        {"w": WEIGHT},
    )
    return Part(
        name=name,
        signature=signature,
        files={"model": File(path=f"{name}.onnx")},
    )


def artifact(
    folder: pathlib.Path, *parts: Part, format: FormatName = "onnx"
) -> Artifact:
    """The parts as an artifact."""
    return Artifact(format=format, parts=parts, folder=folder)


@pytest.fixture
def one(tmp_path: pathlib.Path) -> Artifact:
    """A linear network with a free batch."""
    return artifact(tmp_path, linear(tmp_path))


@pytest.fixture
def two(tmp_path: pathlib.Path) -> Artifact:
    """An encoder and a decoder that reads the encoder's outputs and the data's mask:
    output = mask * relu(input @ WEIGHT).
    """
    encoder = linear(tmp_path, "encoder", wires=("input", "hidden"))
    signature = Signature(
        inputs=(floats("hidden", BATCH, 3), floats("mask", BATCH, 3)),
        outputs=(floats("output", BATCH, 3),),
    )
    save(
        tmp_path / "decoder.onnx",
        [
            helper.make_node("Relu", ["hidden"], ["r"]),
            helper.make_node("Mul", ["r", "mask"], ["output"]),
        ],
        signature,
        {},
    )
    return artifact(
        tmp_path,
        encoder,
        Part(
            name="decoder",
            signature=signature,
            files={"model": File(path="decoder.onnx")},
        ),
    )


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with one small convolution as float.tflite and int8.tflite, channel-last,
    and two.tflite with two inputs and outputs.
    """
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    class Two(torch.nn.Module):
        def forward(
            self, first: torch.Tensor, second: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return first - second, first + 2 * second

    folder = tmp_path_factory.mktemp("tflite")
    images = (
        tiny_images()
        .need("train", "the test")
        .inputs["input"][:32]
        .transpose(0, 2, 3, 1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The converter's own.
        network = litert_torch.to_channel_last_io(
            tiny_convolution().eval(), args=[0]
        )
        litert_torch.convert(network, (torch.zeros(1, 8, 8, 1),)).export(
            str(folder / "float.tflite")
        )
        litert_torch.convert(
            Two().eval(), (torch.zeros(1, 3), torch.zeros(1, 3))
        ).export(str(folder / "two.tflite"))
        quantize = quantizer.Quantizer(
            str(folder / "float.tflite"), recipe.static_wi8_ai8()
        )
        calibrated = quantize.calibrate(
            {
                "serving_default": [
                    {"args_0": numpy.ascontiguousarray(image[None])}
                    for image in images
                ]
            }
        )
        quantize.quantize(calibrated).export_model(str(folder / "int8.tflite"))
    return folder


def image_artifact(
    folder: pathlib.Path, name: str, format: FormatName = "tflite"
) -> Artifact:
    """float.tflite or int8.tflite with the signature that its step would give it."""
    ends = [{"dtype": "float32"}, {"dtype": "float32"}]
    if name == "int8":
        from ai_edge_litert.interpreter import Interpreter

        read = Interpreter(str(folder / "int8.tflite"))
        details = read.get_input_details()[0], read.get_output_details()[0]
        ends = [
            {
                "dtype": "int8",
                "quantization": dict(
                    zip(("scale", "zero_point"), d["quantization"], strict=True)
                ),
            }
            for d in details
        ]
    spec = TensorSpec.model_validate(
        {"name": "input", "dims": (1, 8, 8, 1), "axes": (0, 2, 3, 1), **ends[0]}
    )
    result = TensorSpec.model_validate(
        {"name": "output", "dims": (1, 3), **ends[1]}
    )
    part = Part(
        name="main",
        signature=Signature(inputs=(spec,), outputs=(result,)),
        files={"model": File(path=f"{name}.tflite")},
    )
    return artifact(folder, part, format=format)


def images(count: int) -> Any:
    """Test images in the task's layout."""
    return tiny_images().need("test", "the test").inputs["input"][:count]


def torch_outputs(values: Any) -> Any:
    """The outputs of the convolution in torch."""
    import torch

    with torch.no_grad():
        return tiny_convolution().eval()(torch.from_numpy(values)).numpy()


def process_of(runner: Any) -> psutil.Process:
    """The worker's process."""
    return psutil.Process(runner._process.pid)


def gone(process: psutil.Process) -> bool:
    """No process and no zombie is left."""
    return not process.is_running()


def test_an_onnx_file_gives_its_numbers_for_any_number_of_samples(
    one: Artifact,
) -> None:
    """600 samples go through in pieces and come back in order; the runner reports where it
    ran.
    """
    values = (
        numpy.random.default_rng(0).standard_normal((600, 4)).astype("float32")
    )
    with HOST.open(one) as runner:
        assert numpy.allclose(
            runner.infer({"input": values})["output"],
            values @ WEIGHT,
            atol=1e-6,
        )
        assert runner.infer({"input": values[:1]})["output"].shape == (1, 3)
        assert runner.where.startswith(
            "local: onnxruntime "
        ) and runner.where.endswith(", 1 thread")


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_a_fixed_batch_takes_any_number_of_samples(
    tmp_path: pathlib.Path, batch: int
) -> None:
    """A file with a fixed batch, larger than a piece too, computes the same numbers for 305
    samples.
    """
    values = (
        numpy.random.default_rng(0).standard_normal((305, 4)).astype("float32")
    )
    with HOST.open(artifact(tmp_path, linear(tmp_path, batch=batch))) as runner:
        assert numpy.allclose(
            runner.infer({"input": values})["output"],
            values @ WEIGHT,
            atol=1e-6,
        )


def test_samples_can_be_run_one_by_one(one: Artifact) -> None:
    """What a runtime computes from an entire batch is then computed per sample; the outputs of
    a fixed network are the same.
    """
    values = numpy.random.default_rng(3).normal(size=(5, 4)).astype("float32")
    requests: list[int] = []
    with (
        LocalHost().open(one, {"samples": 1}) as runner,
        LocalHost().open(one) as together,
    ):
        request = runner._process.request

        def count(*arguments: Any, **options: Any) -> Any:
            requests.append(1)
            return request(*arguments, **options)

        runner._process.request = count  # type: ignore[method-assign]
        numpy.testing.assert_allclose(
            runner.infer({"input": values})["output"],
            together.infer({"input": values})["output"],
            rtol=1e-5,
        )
    assert len(requests) == 5


def test_parts_are_chained_by_name(two: Artifact) -> None:
    """A decoder is fed by name from the encoder and from the data, and returns the last
    outputs only.
    """
    values, mask = (
        numpy.ones((5, 4), "float32"),
        numpy.eye(5, 3, dtype="float32"),
    )
    with HOST.open(two) as runner:
        outputs = runner.infer({"input": values, "mask": mask})
    assert list(outputs) == ["output"]
    assert numpy.allclose(outputs["output"], mask * (values @ WEIGHT))


def test_int8_files_with_axes_are_fed_and_read_in_real_numbers(
    tmp_path: pathlib.Path,
) -> None:
    """Channel-last int8 inputs and int8 outputs: the runner accepts the task's floats and
    returns real numbers.
    """
    spec = TensorSpec(
        name="input",
        dtype="int8",
        dims=(BATCH, 2, 2, 3),
        axes=(0, 2, 3, 1),
        quantization=Quantization(scale=0.5, zero_point=3),
    )
    result = TensorSpec(
        name="output",
        dtype="int8",
        dims=(BATCH, 2, 2, 3),
        axes=(0, 2, 3, 1),
        quantization=Quantization(scale=1.0, zero_point=-1),
    )
    signature = Signature(inputs=(spec,), outputs=(result,))
    nodes = [
        helper.make_node("DequantizeLinear", ["input", "s", "z"], ["r"]),
        helper.make_node("Mul", ["r", "per_channel"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s2", "z2"], ["output"]),
    ]
    constants = {
        "s": numpy.float32(0.5),
        "z": numpy.int8(3),
        "per_channel": numpy.array([1, 2, -4], "float32"),
        "s2": numpy.float32(1),
        "z2": numpy.int8(-1),
    }
    save(tmp_path / "main.onnx", nodes, signature, constants)
    values = (
        numpy.random.default_rng(0)
        .integers(-8, 8, (9, 3, 2, 2))
        .astype("float32")
    )
    with HOST.open(
        artifact(
            tmp_path,
            Part(
                name="main",
                signature=signature,
                files={"model": File(path="main.onnx")},
            ),
        )
    ) as runner:
        outputs = runner.infer({"input": values})["output"]
    assert numpy.array_equal(
        outputs, values * numpy.array([1, 2, -4], "float32").reshape(1, 3, 1, 1)
    )


def test_a_tflite_file_gives_what_torch_gives(tflite: pathlib.Path) -> None:
    """A channel-last float TFLite file fed in the task's layout equals torch; with plain
    kernels too, and reports that.
    """
    values = images(20)
    with (
        HOST.open(image_artifact(tflite, "float")) as runner,
        HOST.open(
            image_artifact(tflite, "float"), {"optimize": False}
        ) as plain,
    ):
        outputs, same = (
            runner.infer({"input": values})["output"],
            plain.infer({"input": values})["output"],
        )
        assert runner.where.startswith(
            "local: ai-edge-litert "
        ) and plain.where.endswith("1 thread, optimizations off")
    assert (
        numpy.abs(outputs - torch_outputs(values)).max() < 1e-5
        and numpy.abs(same - outputs).max() < 1e-5
    )


def test_an_int8_tflite_file_is_fed_as_by_hand(tflite: pathlib.Path) -> None:
    """A fully integer TFLite file computes, through its signature, exactly what the
    interpreter computes when it is fed by hand.
    """
    from ai_edge_litert.interpreter import Interpreter

    example, values = image_artifact(tflite, "int8"), images(20)
    with HOST.open(example) as runner:
        outputs = runner.infer({"input": values})["output"]
    read = Interpreter(str(tflite / "int8.tflite"), num_threads=1)
    read.allocate_tensors()
    spec, result = read.get_input_details()[0], read.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = (
        spec["quantization"],
        result["quantization"],
    )
    for image, output in zip(values, outputs, strict=True):
        read.set_tensor(
            spec["index"],
            numpy.clip(
                numpy.rint(image.transpose(1, 2, 0)[None] / scale) + zero,
                -128,
                127,
            ).astype("int8"),
        )
        read.invoke()
        assert numpy.allclose(
            output,
            (read.get_tensor(result["index"])[0].astype("float32") - out_zero)
            * out_scale,
            rtol=1e-6,
        )
    # Quantized after training, so it may be some steps off the float network; all of it is
    # far less than the outputs.
    assert (
        numpy.abs(outputs - torch_outputs(values)).max()
        < 0.1 * numpy.abs(outputs).max()
    )


def test_tflite_inputs_and_outputs_go_by_order(tflite: pathlib.Path) -> None:
    """Two inputs and two outputs, whose names the file does not know, are matched by the
    signature's order.
    """
    signature = Signature(
        inputs=(floats("left", 1, 3), floats("right", 1, 3)),
        outputs=(floats("less", 1, 3), floats("more", 1, 3)),
    )
    example = artifact(
        tflite,
        Part(
            name="main",
            signature=signature,
            files={"model": File(path="two.tflite")},
        ),
        format="tflite",
    )
    left, right = (
        numpy.random.default_rng(0).standard_normal((2, 6, 3)).astype("float32")
    )
    with HOST.open(example) as runner:
        outputs = runner.infer({"right": right, "left": left})
    assert numpy.allclose(
        outputs["less"], left - right, atol=1e-6
    ) and numpy.allclose(outputs["more"], left + 2 * right, atol=1e-6)


def test_what_stands_in_for_a_device_is_marked(
    one: Artifact, tflite: pathlib.Path
) -> None:
    """TensorRT, Edge TPU and Ethos-U artifacts run their stand-in, say that the device did
    not, and are never timed.
    """
    engine, stick = (
        one.model_copy(update={"format": "tensorrt"}),
        image_artifact(tflite, "int8", format="edgetpu"),
    )
    with HOST.open(engine) as runner:
        assert runner.where.endswith(
            "1 thread, same Q/DQ graph; TensorRT engine not executed"
        )
        assert numpy.allclose(
            runner.infer({"input": numpy.ones((1, 4), "float32")})["output"],
            WEIGHT.sum(0),
        )
    npu = image_artifact(tflite, "int8", format="ethosu")
    for example, device in ((stick, "Edge TPU"), (npu, "Ethos-U")):
        with HOST.open(example) as runner:
            assert runner.where.endswith(
                f"1 thread, CPU; {device} not executed"
            )
    for example, feeds in (
        (npu, {"input": images(1)}),
        (engine, {"input": numpy.ones((1, 4), "float32")}),
        (stick, {"input": images(1)}),
    ):
        with pytest.raises(RunnerError, match="cannot be timed on this host"):
            HOST.race({"a": example}, feeds, BenchProtocol(rounds=6))


def test_the_race_times_every_artifact_in_every_round(
    one: Artifact, tmp_path: pathlib.Path
) -> None:
    """Each name gets one time a round, and a network with 400 times the work is slower in
    the median.
    """
    folder = tmp_path / "slow"
    folder.mkdir()
    signature = Signature(
        inputs=(floats("input", BATCH, 4),),
        outputs=(floats("output", BATCH, 3),),
    )
    wide = {
        "a": numpy.ones((4, 600), "float32"),
        "b": numpy.ones((600, 600), "float32"),
        "c": numpy.ones((600, 3), "float32"),
    }
    nodes = [
        helper.make_node("MatMul", wires, [result])
        for *wires, result in (
            ("input", "a", "h"),
            ("h", "b", "i"),
            ("i", "c", "output"),
        )
    ]
    save(folder / "main.onnx", nodes, signature, wide)
    slow = artifact(
        folder,
        Part(
            name="main",
            signature=signature,
            files={"model": File(path="main.onnx")},
        ),
    )
    samples = HOST.race(
        {"fast": one, "slow": slow},
        {"input": numpy.ones((3, 4), "float32")},
        BenchProtocol(rounds=9, warmup=3, round_ms=0.5),
    )
    assert {name: len(row.nanoseconds) for name, row in samples.items()} == {
        "fast": 9,
        "slow": 9,
    }
    assert numpy.median(samples["slow"].nanoseconds) > numpy.median(
        samples["fast"].nanoseconds
    )


def test_the_race_times_all_parts_of_a_chain(two: Artifact) -> None:
    """An artifact of two parts has one time a round, taken with the decoder on what the
    encoder gave.
    """
    feeds = {
        "input": numpy.ones((2, 4), "float32"),
        "mask": numpy.ones((2, 3), "float32"),
    }
    samples = HOST.race(
        {"both": two}, feeds, BenchProtocol(rounds=6, warmup=2, round_ms=0.1)
    )
    assert len(samples["both"].nanoseconds) == 6


def test_the_race_refuses_a_file_with_a_large_batch(
    tmp_path: pathlib.Path,
) -> None:
    """A file that has batch size 4 is not timed as if it took one."""
    with pytest.raises(RunnerError, match="has batch size 4"):
        HOST.race(
            {"four": artifact(tmp_path, linear(tmp_path, batch=4))},
            {"input": numpy.ones((1, 4), "float32")},
            BenchProtocol(),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": (floats("other", BATCH, 4),)}, "has the inputs or outputs"),
        (
            {
                "outputs": (
                    floats("output", BATCH, 3),
                    floats("second", BATCH, 3),
                )
            },
            "has the inputs or outputs",
        ),
        (
            {
                "inputs": (
                    TensorSpec(name="input", dtype="int8", dims=(BATCH, 4)),
                )
            },
            "has dtype float32, but its signature has int8",
        ),
        (
            {
                "inputs": (
                    TensorSpec(
                        name="input",
                        dtype="float32",
                        dims=(4, BATCH),
                        axes=(1, 0),
                    ),
                )
            },
            "first axis of input is not the sample",
        ),
    ],
)
def test_a_signature_that_is_not_the_files_is_refused(
    one: Artifact, change: dict[str, Any], message: str
) -> None:
    """Other names, another number, dtype or sample axis than the file's own are refused
    when it is opened.
    """
    part = one.parts[0].model_copy(
        update={"signature": one.parts[0].signature.model_copy(update=change)}
    )
    with pytest.raises(RunnerError, match=message):
        HOST.open(one.model_copy(update={"parts": (part,)}))


def test_a_wrong_scale_in_the_signature_is_refused(
    tflite: pathlib.Path,
) -> None:
    """A signature whose output scale is not the file's is an error, not a wrong number."""
    example = image_artifact(tflite, "int8")
    signature = example.parts[0].signature
    wrong = signature.outputs[0].model_copy(
        update={"quantization": Quantization(scale=0.5, zero_point=0)}
    )
    part = example.parts[0].model_copy(
        update={"signature": signature.model_copy(update={"outputs": (wrong,)})}
    )
    with pytest.raises(RunnerError, match="scale and zero point"):
        HOST.open(example.model_copy(update={"parts": (part,)}))


def test_a_torch_artifact_is_refused(one: Artifact) -> None:
    """A torch artifact has nothing that a runtime could load; the error has a fix."""
    with pytest.raises(RunnerError, match="runs the format 'torch'"):
        HOST.open(one.model_copy(update={"format": "torch"}))


def test_data_that_do_not_fit_are_reported(one: Artifact) -> None:
    """A missing input, a wrong shape and no samples are errors that name the part."""
    with HOST.open(one) as runner:
        with pytest.raises(ModelError, match="requires the inputs input"):
            runner.infer({"x": numpy.ones((1, 4), "float32")})
        with pytest.raises(ModelError, match="expects input of shape"):
            runner.infer({"input": numpy.ones((1, 5), "float32")})
        with pytest.raises(RunnerError, match="same number of samples"):
            runner.infer({"input": numpy.ones((0, 4), "float32")})
        assert runner.infer({"input": numpy.ones((1, 4), "float32")})[
            "output"
        ].shape == (
            1,
            3,
        )


@pytest.mark.parametrize(
    ("format", "name"), [("onnx", "main.onnx"), ("tflite", "main.tflite")]
)
def test_a_garbage_file_is_an_error_and_leaves_no_process(
    tmp_path: pathlib.Path, format: FormatName, name: str
) -> None:
    """Noise in place of a model is a RunnerError with the path, and the worker is gone."""
    (tmp_path / name).write_bytes(b"this is no model" * 100)
    part = Part(
        name="main",
        signature=Signature(
            inputs=(floats("input", 1, 4),), outputs=(floats("output", 1, 3),)
        ),
        files={"model": File(path=name)},
    )
    before = psutil.Process().children()
    with pytest.raises(RunnerError, match=f"(loading|crashed).*{name}"):
        HOST.open(artifact(tmp_path, part, format=format))
    assert psutil.Process().children() == before


def test_a_worker_that_is_killed_is_an_error(one: Artifact) -> None:
    """A worker killed between two calls is reported with its signal; later calls report that
    it has ended; no zombie is left.
    """
    feeds = {"input": numpy.ones((1, 4), "float32")}
    with HOST.open(one) as runner:
        process = process_of(runner)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(
            RunnerError, match="crashed \\(SIGKILL\\) while running part 'main'"
        ):
            runner.infer(feeds)
        with pytest.raises(RunnerError, match="has ended"):
            runner.infer(feeds)
    assert gone(process)


def test_a_worker_that_hangs_is_ended_in_time(one: Artifact) -> None:
    """A stopped worker is killed after ``timeout_s``; the wait is bounded and nothing is
    left.
    """
    runner = LocalHost(timeout_s=20).open(one)
    process = process_of(runner)
    runner._process._timeout_s = 0.3
    os.kill(process.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(
        RunnerError,
        match=r"did not reply within 0\.3 s while running part 'main'",
    ):
        runner.infer({"input": numpy.ones((1, 4), "float32")})
    assert time.monotonic() - start < 15
    assert gone(process)


def test_a_stopped_worker_that_is_sent_much_is_ended_too(one: Artifact) -> None:
    """The bound also holds while the pipe is full, that is while data are being sent."""
    runner = HOST.open(one)
    process = process_of(runner)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(RunnerError, match="did not reply within"):
        runner._process.request(
            "sending",
            {"command": "infer", "name": "main"},
            {"input": numpy.ones((10**6, 4), "float32")},
            timeout_s=0.3,
        )
    assert gone(process)


def test_the_last_output_of_a_crash_is_reported() -> None:
    """What a crashing process printed to stderr is in the error; noise instead of a frame
    is an error too.
    """
    crash = WorkerProcess(
        Start(
            (
                "/bin/sh",
                "-c",
                "echo 'free(): invalid pointer' >&2; kill -ABRT $$",
            )
        ),
        20,
    )
    with pytest.raises(
        RunnerError,
        match=r"crashed \(SIGABRT\) while saying hello(.|\n)*invalid pointer",
    ):
        crash.request("saying hello", {"command": "hello"})
    noise = WorkerProcess(
        Start(("/bin/sh", "-c", "echo this is only noise; read line")), 2
    )
    with pytest.raises(RunnerError, match="while saying hello"):
        noise.request("saying hello", {"command": "hello"})


def test_a_command_that_does_not_exist_is_reported() -> None:
    """A worker that cannot even be started is a RunnerError."""
    with pytest.raises(RunnerError, match="cannot be started"):
        WorkerProcess(Start(("/nonexistent/python",)), 5)


def test_every_name_of_a_python_is_the_same_host(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured with ``python`` counts for ``python3`` of the same environment, and
    not for another environment.
    """
    commands: dict[str, set[tuple[str, ...]]] = {}
    for environment in ("one", "two"):
        folder = tmp_path / environment
        venv.create(folder, symlinks=True)
        names = sorted((folder / "bin").glob("python*"))
        assert len(names) >= 2
        for name in names:
            monkeypatch.setattr(sys, "executable", str(name))
            command = LocalHost().start.command
            commands.setdefault(environment, set()).add(command)
        (command,) = commands[environment]
        prefix = subprocess.check_output(
            [*command, "-c", "import sys; print(sys.prefix)"], text=True
        )
        assert prefix.strip() == str(folder)
    assert commands["one"] != commands["two"]


def test_an_interrupt_ends_the_worker(one: Artifact) -> None:
    """Ctrl-C while an answer is awaited goes through, and the worker is gone."""
    runner = HOST.open(one)
    process = process_of(runner)
    os.kill(process.pid, signal.SIGSTOP)
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.infer({"input": numpy.ones((1, 4), "float32")})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert gone(process)


def test_leaving_ends_the_worker_and_leaks_no_descriptor(one: Artifact) -> None:
    """After ten runners, closed twice or only forgotten, there are no more processes and
    open files than before.
    """
    feeds = {"input": numpy.ones((1, 4), "float32")}
    gc.collect()
    me = psutil.Process()
    files, children = me.num_fds(), me.children()
    for _ in range(5):
        with HOST.open(one) as runner:
            runner.infer(feeds)
        runner.__exit__()
        HOST.open(one)
    gc.collect()
    assert me.num_fds() == files and me.children() == children
