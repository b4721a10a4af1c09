"""A device's files, written after trtexec's formats, read back as measurements."""

import json
import pathlib
from typing import Any

import numpy
import pytest

from edgekit.errors import RunnerError
from edgekit.formats.tensorrt.device_results import measure, read
from edgekit.measurement import Measurement

INT8_10 = "Thirty-two wide channel vectorized row major Int8 format"
HALF_10 = "Row major linear FP16 format"


def conv_10(name: str, words: str, weights: str) -> dict[str, Any]:
    """A layer as the engine inspector of TensorRT 10 writes it."""
    tensor = {
        "Name": "x",
        "Location": "Device",
        "Dimensions": [1, 64, 8, 8],
        "Format/Datatype": words,
    }
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [tensor],
        "ParameterType": "Convolution",
        "Weights": {"Type": weights, "Count": 36864},
        "Bias": {"Type": "Float", "Count": 64},
        "Metadata": f"[ONNX Layer: {name}]",
    }


def gemm_11(name: str, data: str, weights: str) -> dict[str, Any]:
    """A layer of TensorRT 11: format and datatype are two keys."""

    def tensor(dtype: str, dims: list[int]) -> dict[str, Any]:
        return {
            "Name": "x",
            "Dimensions": dims,
            "Format": "Row major linear format (kLINEAR)",
            "DataType": dtype,
        }

    return {
        "Name": name,
        "LayerType": "gemm",
        "Inputs": [tensor(data, [1, 64])],
        "Constants": [tensor("Float", [1]), tensor(weights, [64, 10])],
        "Outputs": [tensor("Float", [1, 10])],
        "Metadata": f"[ONNX Layer: {name}]",
    }


POOL = {
    "Name": "pool",
    "LayerType": "TiledPooling",
    "Inputs": [{"Format/Datatype": HALF_10}],
    "Outputs": [],
}
TEN = {
    "Layers": [
        conv_10("a", INT8_10, "Int8"),
        POOL,
        conv_10("b", INT8_10, "Int8"),
        conv_10("c", HALF_10, "Half"),
    ],
    "Bindings": ["input", "output"],
}
ELEVEN = {
    "Layers": [gemm_11("a", "Int8", "Int8"), gemm_11("b", "Half", "Int4")],
    "I/O Tensors": [
        {
            "Name": "input",
            "IOMode": "Input",
            "DataType": "Float",
            "Dimensions": [1, 64],
        }
    ],
}


def query(compute: float) -> dict[str, float]:
    """One row of --exportTimes, with all keys that release 10 and 11 write."""
    ends = {
        "startEnqMs": 0.0,
        "endEnqMs": 0.1,
        "startH2dMs": 0.0,
        "endH2dMs": 0.0,
        "startComputeMs": 0.1,
        "endComputeMs": 0.1 + compute,
        "startD2hMs": 0.0,
        "endD2hMs": 0.0,
    }
    return {
        **ends,
        "h2dMs": 0.0,
        "computeMs": compute,
        "d2hMs": 0.0,
        "latencyMs": compute,
    }


def device(
    folder: pathlib.Path,
    layers: Any = TEN,
    times: Any = None,
    outputs: Any = None,
) -> pathlib.Path:
    (folder / "main.layers.json").write_text(json.dumps(layers))
    (folder / "main.times.json").write_text(
        json.dumps(
            [query(2.0 + k / 100) for k in range(101)]
            if times is None
            else times
        )
    )
    rows = (
        [{"name": "output", "dimensions": "1x3", "values": [0.0, 1.0, 2.56]}]
        if outputs is None
        else outputs
    )
    (folder / "main.out.json").write_text(json.dumps(rows))
    return folder


def measure_folder(folder: pathlib.Path) -> list[Measurement]:
    return measure(read(folder, {"main": False}), "here")


def named(by_name: list[Measurement]) -> dict[str, Measurement]:
    return {row.name: row for row in by_name}


def test_the_latency_is_the_median_of_the_gpu_compute_times(
    tmp_path: pathlib.Path,
) -> None:
    """101 queries from 2 to 3 ms: 2.5, between the 41st and the 61st (Thompson 1936), and
    the file contains where it was taken.
    """
    by_name = named(measure_folder(device(tmp_path)))["latency_ms"]
    assert (by_name.value, by_name.n) == (pytest.approx(2.5), 101)
    assert (by_name.low, by_name.high) == (
        pytest.approx(2.40),
        pytest.approx(2.60),
    )
    assert by_name.where == "here"


@pytest.mark.parametrize(
    ("layers", "value", "by_dtype"),
    [
        (TEN, 2 / 3, {"Int8": 2, "Half": 1}),
        (ELEVEN, 1 / 2, {"Int8": 1, "HalfxInt4": 1}),
    ],
    ids=["10", "11"],
)
def test_int8_by_layer_in_both_formats(
    layers: Any, value: float, by_dtype: dict[str, int], tmp_path: pathlib.Path
) -> None:
    """Layers that multiply are counted; pooling is not, and 4-bit weights are not int8."""
    by_name = named(measure_folder(device(tmp_path, layers)))["int8_mac_share"]
    assert (
        by_name.value == pytest.approx(value)
        and by_name.detail["by_dtype"] == by_dtype
    )
    assert by_name.how.startswith("layers (not multiply-accumulates)")


def test_the_outputs_come_back_with_their_shapes(
    tmp_path: pathlib.Path,
) -> None:
    """Only for a part of which they are requested; numbers that are not finite stay
    unchanged.
    """
    rows = [
        {"name": "output", "dimensions": "1x3", "values": [0, 1, float("nan")]}
    ]
    by_name = read(device(tmp_path, outputs=rows), {"main": True})[
        "main"
    ].outputs
    assert (
        by_name is not None
        and by_name["output"].shape == (1, 3)
        and numpy.isnan(by_name["output"][0, 2])
    )
    assert read(tmp_path, {"main": False})["main"].outputs is None


def test_missing_data_is_unmeasured(tmp_path: pathlib.Path) -> None:
    """Too few queries, a layer without a datatype."""
    unknown = {
        "Layers": [
            {
                "Name": "a",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x"}],
                "Outputs": [],
            }
        ]
    }
    by_name = named(measure_folder(device(tmp_path, unknown, [query(1.0)] * 5)))
    assert {row.verdict for row in by_name.values()} == {"unmeasured"}
    assert (
        "the datatypes of a are not reported" in by_name["int8_mac_share"].how
    )


def test_all_problems_are_reported_at_once(tmp_path: pathlib.Path) -> None:
    """A file that is missing, one cut off, one of another kind: one error."""
    (tmp_path / "main.layers.json").write_text(
        '{"Layers": ["a", "b"], "Bindings": []}'
    )
    (tmp_path / "main.times.json").write_text('[{"computeMs": 1.0}, {"compu')
    with pytest.raises(RunnerError) as refusal:
        read(tmp_path, {"main": True})
    assert len(refusal.value.message.splitlines()) == 4
    assert (
        "main.layers.json: it contains only the layers' names; build with "
        "--profilingVerbosity=detailed" in refusal.value.message
    )
    assert (
        "main.times.json: invalid JSON" in refusal.value.message
        and "main.out.json: there is no such file" in refusal.value.message
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("layers", [], "it is not what trtexec writes: TypeError"),
        ("times", [], "it has no queries"),
        (
            "times",
            [{"latencyMs": 1}],
            "it is not what trtexec writes: KeyError: 'computeMs'",
        ),
        ("times", [query(-1.0)], "times that are not above 0"),
        ("times", {"a": 1}, "it is not what trtexec writes: TypeError"),
        (
            "out",
            [{"name": "output", "dimensions": "1x4", "values": [1]}],
            "output has 1 values for dimensions 1x4",
        ),
    ],
)
def test_a_garbled_file_is_reported_by_name(
    name: str, content: Any, reason: str, tmp_path: pathlib.Path
) -> None:
    """JSON of another shape is an error with the file's name and what is wrong."""
    device(tmp_path)
    (tmp_path / f"main.{name}.json").write_text(json.dumps(content))
    with pytest.raises(RunnerError) as refusal:
        read(tmp_path, {"main": True})
    assert (
        f"main.{name}.json: " in refusal.value.message
        and reason in refusal.value.message
    )


@pytest.mark.parametrize("word", ["nan", "-nan", "inf", "-inf"])
def test_a_network_that_overflows_on_the_device_is_read(
    word: str, tmp_path: pathlib.Path
) -> None:
    """C++ writes nan and inf without quotes; that is a wrong output
    (tests/test_device_evidence.py) and not a broken file.
    """
    device(tmp_path)
    (tmp_path / "main.out.json").write_text(
        '[\n  { "name" : "output"\n  , "dimensions" : "1x3"\n  , "values" : [ 0.5, '
        + word
        + ", 2 ]\n  }\n]"
    )
    outputs = read(tmp_path, {"main": True})["main"].outputs
    assert outputs is not None and not numpy.isfinite(outputs["output"]).all()


def test_parts_that_were_timed_one_by_one_make_no_latency(
    tmp_path: pathlib.Path,
) -> None:
    """Each part's own median is reported; their layers count together."""
    device(tmp_path)
    for name in ("layers", "times"):
        (tmp_path / f"head.{name}.json").write_text(
            (tmp_path / f"main.{name}.json").read_text()
        )
    by_name = named(
        measure(read(tmp_path, {"main": False, "head": False}), "here")
    )
    assert (
        by_name["latency_ms"].verdict == "unmeasured"
        and "main 2.5 ms, head 2.5 ms" in by_name["latency_ms"].how
    )
    assert by_name["int8_mac_share"].n == 6
