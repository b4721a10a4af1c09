"""An .ort file computes what its ONNX file computes, is the same every time, and lists what
a reduced runtime needs.
"""

import hashlib
import json
import pathlib

import numpy
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import half as onnx_half
from edgekit.formats.onnx.export import export
from edgekit.formats.onnx.lowering.lower import lower
from edgekit.formats.ort.export import (
    OnnxToOrt,
    parse_operators,
    run_conversion,
)
from edgekit.hosts.local import LocalHost
from edgekit.quantization.graph import calibrate, simulate
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Task

IMAGE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)


class Network(nn.Module):
    """Two convolutions, a sum, a linear layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(1, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Linear(width, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head((self.second(x) + x).relu().mean((2, 3)))


def model(kind: str, width: int = 16) -> onnx.ModelProto:
    network = Network(width).eval()
    if kind == "int8":
        exported_model = export(
            simulate(
                network,
                IMAGE,
                calibrate(network, [(torch.rand(64, 1, 8, 8),)], IMAGE),
                fold=True,
            ),
            IMAGE,
        )
        lower(exported_model)
        return exported_model
    exported_model = export(network, IMAGE)
    return (
        onnx_half.to_half(exported_model, ())
        if kind == "half"
        else exported_model
    )


def artifact(exported_model: onnx.ModelProto, folder: pathlib.Path) -> Artifact:
    folder.mkdir()
    onnx_graph.write(exported_model, folder / "main.onnx")
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=IMAGE,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


def context(folder: pathlib.Path) -> Context:
    folder.mkdir()
    return Context(
        folder=folder,
        networks=dict,
        task=Task(
            name="none",
            test=(numpy.zeros((1, 1, 8, 8), "float32"), numpy.zeros(1)),
        ),
    )


def converted(before: Artifact, folder: pathlib.Path) -> Artifact:
    step = OnnxToOrt()
    step.requires(before)
    after = step.run(before, context(folder))
    step.ensures(before, after)
    return after


@pytest.mark.parametrize("kind", ["float", "int8", "half"])
def test_the_file_runs_as_its_source_does(
    kind: str, tmp_path: pathlib.Path
) -> None:
    """The host loads it without further settings, and outputs the ONNX file's numbers for
    1 and for 7 samples.
    """
    before = artifact(model(kind), tmp_path / "onnx")
    after = converted(before, tmp_path / "ort")
    assert sorted(path.name for path in after.folder.iterdir()) == [
        "main.onnx",
        "main.ort",
        "main.required_operators.config",
    ]
    data = {"input": torch.rand(7, 1, 8, 8).numpy()}
    with LocalHost().open(before) as first, LocalHost().open(after) as second:
        for count in (1, 7):
            feeds = {"input": data["input"][:count]}
            expected = first.infer(feeds)["output"]
            numpy.testing.assert_allclose(
                second.infer(feeds)["output"],
                expected,
                atol=2e-2 * numpy.ptp(expected) if kind == "int8" else 1e-5,
            )
        assert "onnxruntime" in second.where


def test_int8_fuses_and_nothing_of_this_processor_is_stored(
    tmp_path: pathlib.Path,
) -> None:
    """All convolutions are integer operators of any processor; blocked layouts are not
    among what the file needs.
    """
    after = converted(
        artifact(model("int8"), tmp_path / "onnx"), tmp_path / "ort"
    )
    needs = after.notes["parts"]["main"]["needs"]
    assert {
        "QLinearConv",
        "com.microsoft:QGemm",
        "com.microsoft:QLinearAdd",
    } <= set(needs)
    assert not {"Conv", "Gemm", "Relu", "com.microsoft:FusedConv"} & set(needs)
    assert not any("nchwc" in name for name in needs)


def test_half_precision_weights_stay_small(tmp_path: pathlib.Path) -> None:
    """The highest optimization level would store them as floats."""
    before = artifact(model("half", width=64), tmp_path / "onnx")
    after = converted(before, tmp_path / "ort")
    assert (
        after.path(after.parts[0]).stat().st_size
        < 1.2 * before.path(before.parts[0]).stat().st_size
    )


def test_the_same_network_gives_the_same_bytes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another folder and in another environment."""
    before = artifact(model("int8"), tmp_path / "onnx")
    first = converted(before, tmp_path / "a")
    monkeypatch.setenv("SOMETHING", "else" * 5000)
    second = converted(before, tmp_path / "a_longer_name_than_the_first")
    for role in ("model", "operators"):
        digests = {
            hashlib.sha256(
                after.path(after.parts[0], role).read_bytes()
            ).hexdigest()
            for after in (first, second)
        }
        assert len(digests) == 1


def test_the_notes_contain_versions_and_what_a_reduced_runtime_needs(
    tmp_path: pathlib.Path,
) -> None:
    """The list is the one that ONNX Runtime's build script reads; the size is that of a
    library that is named.
    """
    after = converted(
        artifact(model("float"), tmp_path / "onnx"), tmp_path / "ort"
    )
    notes = after.notes["parts"]["main"]
    config = after.path(after.parts[0], "operators").read_text(encoding="utf-8")
    assert config.startswith("# Generated from model/s:\n# - main.ort\n")
    assert str(tmp_path) not in config
    assert notes["needs"] == list(parse_operators(config))
    assert len(notes["needs"]) == notes["operators"] < notes["operators_of"]
    assert notes["format"].isdigit()
    assert notes["onnxruntime"].count(".") == 2
    assert notes["runtime_bytes"] > 1e6
    assert "onnxruntime" in notes["runtime_is"]


def test_operators_are_read_from_a_list_with_types() -> None:
    """Types in braces hold commas and names; a list of several domains is one."""
    config = (
        "# a comment\n"
        'ai.onnx;19;Cast{"inputs": {"0": ["float", "MLFloat16"]}},Reshape\n'
        "com.microsoft;1;QGemm\n"
        'ai.onnx;11;Conv{"inputs": {"0": ["float"]}}\n'
    )
    assert parse_operators(config) == (
        "Cast",
        "Conv",
        "Reshape",
        "com.microsoft:QGemm",
    )


def test_only_the_model_counts_as_size(tmp_path: pathlib.Path) -> None:
    """The source and the list are for whoever builds the runtime, not for the device."""
    after = converted(
        artifact(model("float"), tmp_path / "onnx"), tmp_path / "ort"
    )
    sealed = after.parts[0].files["model"].model_copy(update={"bytes": 7})
    part = after.parts[0].model_copy(
        update={"files": {**after.parts[0].files, "model": sealed}}
    )
    assert after.model_copy(update={"parts": (part,)}).size_bytes == 7


def test_a_file_of_another_network_is_noticed(tmp_path: pathlib.Path) -> None:
    """The step's promise is checked on the files, not on what the conversion reports."""
    before = artifact(model("float"), tmp_path / "onnx")
    other = converted(
        artifact(model("float"), tmp_path / "other"), tmp_path / "ort"
    )
    with pytest.raises(StepError, match=r"differs from the ONNX file"):
        OnnxToOrt().ensures(before, other)


def test_what_onnxruntime_refuses_is_reported_and_leaves_nothing(
    tmp_path: pathlib.Path,
) -> None:
    """An operator that does not exist: one sentence, an empty folder."""
    before = artifact(model("float"), tmp_path / "onnx")
    damaged = onnx.load(str(before.path(before.parts[0])))
    damaged.graph.node[0].domain = "nowhere"
    damaged.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(damaged, str(before.path(before.parts[0])))
    step_context = context(tmp_path / "ort")
    with pytest.raises(StepError, match=r"cannot convert to \.ort") as raised:
        OnnxToOrt().run(before, step_context)
    assert raised.value.fix
    assert not list(step_context.folder.iterdir())


def test_weights_outside_of_the_folder_are_refused_before_any_work(
    tmp_path: pathlib.Path,
) -> None:
    """ONNX Runtime would read them through a hard link; the checker does not."""
    before = artifact(model("float"), tmp_path / "onnx")
    path = before.path(before.parts[0])
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (tmp_path / "secret.bin").write_bytes(
        (before.folder / "weights.bin").read_bytes()
    )
    (before.folder / "weights.bin").unlink()
    (before.folder / "weights.bin").hardlink_to(tmp_path / "secret.bin")
    with pytest.raises(StepError, match="main is not a valid ONNX file"):
        OnnxToOrt().requires(before)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import time; time.sleep(60)", "took longer than"),
        ("import os; os.abort()", "signal 6"),
        ("raise SystemExit(3)", "status 3"),
    ],
)
def test_a_conversion_that_hangs_or_dies_is_an_error(
    body: str, message: str, tmp_path: pathlib.Path
) -> None:
    """Its process is ended; the caller's goes on."""
    script = tmp_path / "conversion.py"
    script.write_text(body, encoding="utf-8")
    with pytest.raises(StepError, match=message):
        run_conversion({"onnx": "main.onnx"}, "main", tmp_path, 2.0, script)


def test_the_answer_is_alone_on_stdout(tmp_path: pathlib.Path) -> None:
    """What native code prints does not mix with it."""
    script = tmp_path / "conversion.py"
    script.write_text(
        "import sys\nprint('noise', file=sys.stderr)\n"
        f"print({json.dumps(json.dumps({'ok': True}))})\n",
        encoding="utf-8",
    )
    assert run_conversion({}, "main", tmp_path, 30.0, script) == {"ok": True}
