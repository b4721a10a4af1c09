"""uint8 inputs and outputs for the Edge TPU, and its compiler if it is installed."""

import json
import pathlib
import sys

import numpy
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.edgetpu.export import TfliteToEdgetpu
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Quantization, Signature, TensorSpec
from edgekit.task import Task

TASK = Task(
    name="none", test=(numpy.zeros((1, 1), "float32"), numpy.zeros(1, "int64"))
)
FREE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 3, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 4)),),
)
FIXED = Signature(
    inputs=(
        TensorSpec(
            name="input", dtype="float32", dims=(1, 8, 8, 3), axes=(0, 2, 3, 1)
        ),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=(1, 4)),),
)
#: A substitute for Google's compiler, which is not available here: it copies the file and
#: prints a log.
COMPILER = """#!{python}
import pathlib, shutil, sys
arguments = sys.argv[1:]
assert arguments[:2] == ["-s", "-o"], arguments
source = pathlib.Path(arguments[3])
if {fails}:
    sys.exit("Internal compiler error. Aborting!")
shutil.copyfile(source, pathlib.Path(arguments[2]) / (source.stem + "_edgetpu.tflite"))
(pathlib.Path(arguments[2]) / (source.stem + "_edgetpu.log")).write_text("log")
print("Edge TPU Compiler version 16.0\\nModel compiled successfully in 4 ms.")
print("Operator  Count  Status\\n\\nCONV_2D  2  Mapped to Edge TPU")
print("MEAN  1  Operation not supported")
"""


def artifact(folder: pathlib.Path, signature: Signature) -> Artifact:
    part = Part(
        name="main",
        signature=litert.read_signature(folder / "main.tflite", signature),
        files={"model": File(path="main.tflite")},
    )
    return Artifact(format="tflite", parts=(part,), folder=folder)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


@pytest.fixture(scope="module")
def int8(
    network: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder, data = tmp_path_factory.mktemp("int8"), torch.randn(32, 3, 8, 8)
    graph = simulate(
        network,
        FREE,
        calibrate(
            network,
            [(data,)],
            FREE,
            Settings(symmetric=False, observer="min-max"),
        ),
        fold=False,
    )
    litert_conversion.convert(
        graph,
        (data[:1],),
        folder / "main.tflite",
        channel_last_inputs=(0,),
        quantized=True,
    )
    return artifact(folder, FIXED)


@pytest.fixture(scope="module")
def plain(
    network: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp("plain")
    litert_conversion.convert(
        network,
        (torch.randn(1, 3, 8, 8),),
        folder / "main.tflite",
        channel_last_inputs=(0,),
    )
    return artifact(folder, FIXED)


def prepared(
    source: Artifact, folder: pathlib.Path, io: str = "uint8"
) -> Artifact:
    step = TfliteToEdgetpu(io)
    folder.mkdir(exist_ok=True)
    step.requires(source)
    result = step.run(source, Context(folder=folder, networks=dict, task=TASK))
    step.ensures(source, result)
    return result


def run(source: Artifact, images: numpy.ndarray) -> numpy.ndarray:
    """The file's own outputs, before decoding."""
    part = source.parts[0]
    running = Interpreter(
        str(source.path(part)),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    running.allocate_tensors()
    rows = []
    for k in range(len(images)):
        running.set_tensor(
            running.get_input_details()[0]["index"],
            part.signature.inputs[0].encode(images[k : k + 1]),
        )
        running.invoke()
        rows.append(
            running.get_tensor(running.get_output_details()[0]["index"])
        )
    return numpy.concatenate(rows)


def install(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    path = folder / "edgetpu_compiler"
    path.write_text(COMPILER.format(python=sys.executable, fails=fails))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_uint8_ends_store_the_same_numbers(
    int8: Artifact, tmp_path: pathlib.Path
) -> None:
    """Every stored output is the int8 file's plus 128, also in the signature."""
    result = prepared(int8, tmp_path / "made")
    images = torch.randn(16, 3, 8, 8).numpy()
    before, after = run(int8, images), run(result, images)
    assert (before.dtype, after.dtype) == (numpy.int8, numpy.uint8)
    numpy.testing.assert_array_equal(
        after.astype(int), before.astype(int) + 128
    )
    old, new = int8.parts[0].signature, result.parts[0].signature
    for was, spec in zip(
        (*old.inputs, *old.outputs), (*new.inputs, *new.outputs), strict=True
    ):
        assert was.quantization is not None
        assert spec.quantization == Quantization(
            scale=was.quantization.scale,
            zero_point=was.quantization.zero_point + 128,
        )
        assert (spec.dtype, spec.axes, spec.dims, spec.name) == (
            "uint8",
            was.axes,
            was.dims,
            was.name,
        )
    numpy.testing.assert_allclose(
        new.outputs[0].decode(after), old.outputs[0].decode(before)
    )


def test_the_ends_keep_their_names(
    int8: Artifact, tmp_path: pathlib.Path
) -> None:
    """Runtimes order inputs by name, and the file's own signature points at the new ends."""
    result = prepared(int8, tmp_path / "made")
    running = Interpreter(
        str(result.path(result.parts[0])),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    assert running.get_input_details()[0]["name"] == "serving_default_args_0"
    details = running.get_signature_runner(
        "serving_default"
    ).get_input_details()
    assert details["args_0"]["dtype"] is numpy.uint8


def test_int8_ends_are_kept_on_request(
    int8: Artifact, tmp_path: pathlib.Path
) -> None:
    """io='int8' adds no operator."""
    result = prepared(int8, tmp_path / "made", "int8")
    assert len(
        tflite_file.read(result.path(result.parts[0])).subgraphs[0].operators
    ) == len(tflite_file.read(int8.path(int8.parts[0])).subgraphs[0].operators)
    assert result.parts[0].signature == int8.parts[0].signature


def test_there_and_back(int8: Artifact, tmp_path: pathlib.Path) -> None:
    """A uint8 file can be converted back to int8 ends, with the original numbers."""
    there = prepared(int8, tmp_path / "there").model_copy(
        update={"format": "tflite"}
    )
    back = prepared(there, tmp_path / "back", "int8")
    images = torch.randn(4, 3, 8, 8).numpy()
    numpy.testing.assert_array_equal(run(back, images), run(int8, images))
    assert back.parts[0].signature == int8.parts[0].signature


def test_a_float_file_is_passed_on(
    plain: Artifact, tmp_path: pathlib.Path
) -> None:
    """The float reference is unchanged; the notes state that it runs on the CPU."""
    result = prepared(plain, tmp_path / "made")
    assert (
        result.path(result.parts[0]).read_bytes()
        == plain.path(plain.parts[0]).read_bytes()
    )
    assert "none of it runs on the Edge TPU" in result.notes["parts"]["main"]


def test_invalid_input_is_rejected(plain: Artifact, int8: Artifact) -> None:
    """An unknown dtype, int8 weights between float ends, and a file that breaks the
    contract.
    """
    with pytest.raises(StepError, match="outputs: 'float32'"):
        TfliteToEdgetpu("float32").requires(plain)
    part = int8.parts[0].model_copy(update={"signature": FIXED})
    with pytest.raises(StepError, match="int8 weights, but float inputs"):
        TfliteToEdgetpu().requires(int8.model_copy(update={"parts": (part,)}))
    with pytest.raises(
        StepError, match="input is int8 .* expected uint8 with zero point"
    ):
        TfliteToEdgetpu().ensures(int8, int8)


def test_without_the_compiler_the_notes_state_it(
    int8: Artifact, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No compiler: no compiled role, and the reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = prepared(int8, tmp_path / "made")
    assert set(result.parts[0].files) == {"model"}
    assert result.notes["parts"]["main"]["compiled"] is False
    assert "not installed" in result.notes["parts"]["main"]["why"]


def test_the_compiler_runs_if_installed(
    int8: Artifact, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a compiler on the PATH its file and its report are added."""
    install(tmp_path, monkeypatch, fails=False)
    result = prepared(int8, tmp_path / "made")
    part = result.parts[0]
    assert result.path(part, "compiled").is_file()
    log = json.loads(result.path(part, "log").read_text())
    assert [
        (row["op"], row["count"], row["status"]) for row in log["rows"]
    ] == [
        ("CONV_2D", 2, "Mapped to Edge TPU"),
        ("MEAN", 1, "Operation not supported"),
    ]
    assert result.notes["parts"]["main"]["mapped_operators"] == 2
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        file.path for file in part.files.values()
    }


def test_a_failing_compiler_is_a_note(
    int8: Artifact, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that fails leaves the file for the CPU, with its message in the notes."""
    install(tmp_path, monkeypatch, fails=True)
    result = prepared(int8, tmp_path / "made")
    assert set(result.parts[0].files) == {"model"}
    assert (
        "activations are too large, or the compiler has a bug. Fix: "
        in result.notes["parts"]["main"]["why"]
    )
