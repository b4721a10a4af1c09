"""The worker loads an OpenVINO file with its weights, also where both were copied to a store,
and executes it as the file records.
"""

import dataclasses
import pathlib
import shutil

import numpy
import openvino
import pytest
from openvino import opset13 as ops

from edgekit.artifact import Artifact, File, Part
from edgekit.device_worker import runtime_openvino
from edgekit.device_worker.frames import WorkerError
from edgekit.device_worker.runtimes import load_model, runtime_of
from edgekit.formats.openvino.export import record
from edgekit.hosts.local import LocalHost
from edgekit.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", dims=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", dims=("batch", 3)),),
)
WEIGHTS = numpy.arange(12, dtype="float32").reshape(4, 3)


def write(folder: pathlib.Path, precision: str = "f32") -> Artifact:
    """One matrix product as an OpenVINO artifact."""
    data = ops.parameter([-1, 4], numpy.float32, name="x")
    product = ops.matmul(data, ops.constant(WEIGHTS), False, False)
    model = openvino.Model([product], [data])
    model.inputs[0].get_tensor().set_names({"x"})
    model.outputs[0].get_tensor().set_names({"y"})
    record(model, {"inference_precision": precision})
    openvino.save_model(model, folder / "main.xml", compress_to_fp16=False)
    files = {"model": File(path="main.xml"), "weights": File(path="main.bin")}
    part = Part(name="main", signature=SIGNATURE, files=files)
    return Artifact(format="openvino", parts=(part,), folder=folder)


@pytest.mark.parametrize("samples", [1, 7])
def test_a_copied_file_finds_its_weights(
    tmp_path: pathlib.Path, samples: int
) -> None:
    """In the store of a host both files are named by their hashes."""
    host = dataclasses.replace(
        LocalHost(), shares_files=False, folder=str(tmp_path / "store")
    )
    array = numpy.random.default_rng(0).random((samples, 4), dtype="float32")
    with host.open(write(tmp_path)) as runner:
        outputs = runner.infer({"x": array})
        assert "openvino" in runner.where
        assert ", f32" in runner.where
    numpy.testing.assert_allclose(outputs["y"], array @ WEIGHTS, rtol=1e-5)
    names = sorted(path.suffix for path in (tmp_path / "store").iterdir())
    assert names == [".bin", ".xml"]


def test_missing_weights_are_reported(tmp_path: pathlib.Path) -> None:
    """A path to no file, and no .bin in the folder of the .xml."""
    write(tmp_path)
    with pytest.raises(WorkerError, match="does not exist"):
        load_model(
            "openvino", str(tmp_path / "main.xml"), 1, True, "nowhere.bin"
        )
    (tmp_path / "alone").mkdir()
    shutil.copyfile(tmp_path / "main.xml", tmp_path / "alone/main.xml")
    with pytest.raises(WorkerError) as raised:
        load_model("openvino", str(tmp_path / "alone/main.xml"), 1, True)
    assert raised.value.kind == "load"


def test_the_recorded_precision_is_requested(tmp_path: pathlib.Path) -> None:
    """OpenVINO gets the hint of the file, and none for a file that records none."""
    write(tmp_path, "bf16")
    model = runtime_openvino.Model(str(tmp_path / "main.xml"), 1, True)
    assert model._options["INFERENCE_PRECISION_HINT"] == "bf16"
    write(tmp_path, "f32")
    model = runtime_openvino.Model(str(tmp_path / "main.xml"), 1, False)
    assert model._options["INFERENCE_PRECISION_HINT"] == "f32"
    assert model._options["LP_TRANSFORMS_MODE"] is False


def test_a_wrong_shape_is_an_error_of_the_inference(
    tmp_path: pathlib.Path,
) -> None:
    """OpenVINO's exception becomes the worker's."""
    write(tmp_path)
    model = runtime_openvino.Model(str(tmp_path / "main.xml"), 1, True)
    with pytest.raises(WorkerError) as raised:
        model.bind({"x": numpy.zeros((2, 5), "float32")})
    assert raised.value.kind == "infer"


def test_the_format_is_loaded_by_this_runtime() -> None:
    """A bundle's own program finds the runtime by the format."""
    assert runtime_of("openvino") == "openvino"
    with pytest.raises(KeyError):
        runtime_of("punched cards")
