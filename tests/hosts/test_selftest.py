"""The tiny files that test a host: real ones, and the recorded outputs are
theirs.
"""

import dataclasses

import numpy
import pytest

from edgekit.errors import HostError
from edgekit.hosts import selftest
from edgekit.hosts.local import LocalHost
from edgekit.hosts.process import Start

HOST = LocalHost(timeout_s=60)
FILES = ["float.onnx", "float.tflite", "int8.onnx", "int8.tflite"]


def test_the_files_are_chosen_by_the_runtimes() -> None:
    """A host is tried with what it can run."""
    assert (
        sorted(selftest.list_files({"onnxruntime": "1", "ai-edge-litert": "2"}))
        == FILES
    )
    assert sorted(selftest.list_files({"tflite-runtime": "2"})) == [
        "float.tflite",
        "int8.tflite",
    ]
    assert selftest.list_files({"numpy": "2"}) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_its_numbers_here(name: str) -> None:
    """7 of the 8 digits are classified correctly, and the outputs are the recorded ones:
    bit for bit in LiteRT, else within what is allowed.
    """
    done = selftest.run_file(HOST, name)
    assert (done.passed, done.right, done.samples) == (True, 7, 8), done
    assert done.difference <= done.allowed < 0.1
    assert done.where.startswith("local: ")


def test_int8_and_float_classify_the_digits_alike_and_differ_in_numbers() -> (
    None
):
    """The four files are of one network: the int8 ones are near, and are not the float
    ones.
    """
    for format in ("onnx", "tflite"):
        far = numpy.abs(
            selftest.expected_outputs(f"int8.{format}")
            - selftest.expected_outputs(f"float.{format}")
        ).max()
        assert 0 < far < 0.5, format
    assert (
        numpy.abs(
            selftest.expected_outputs("float.onnx")
            - selftest.expected_outputs("float.tflite")
        ).max()
        < 1e-4
    )


def test_other_numbers_and_a_dead_host_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers beyond what is allowed do not pass; a host that does not answer is an
    error.
    """
    monkeypatch.setattr(
        selftest,
        "expected_outputs",
        lambda name: numpy.zeros((8, 10), "float32"),
    )
    done = selftest.run_file(HOST, "float.onnx")
    assert not done.passed and not done.error and done.difference > 1
    dead = selftest.run_file(
        dataclasses.replace(HOST, start=Start(("/bin/false",))), "float.onnx"
    )
    assert not dead.passed and "crashed" in dead.error


def test_an_environment_is_proven_by_running_files() -> None:
    """Its description is kept; one that does not start, or does not run a file, is
    refused.
    """
    assert selftest.verify_environment(HOST, ["onnxruntime==1"])["hello"][
        "machine"
    ]
    with pytest.raises(
        HostError, match=r"Installed a==1, but Python does not start with them"
    ):
        selftest.verify_environment(
            dataclasses.replace(HOST, start=Start(("/bin/false",))), ["a==1"]
        )


def test_a_runtime_that_cannot_load_files_is_no_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metadata alone do not prove a runtime."""
    monkeypatch.setattr(
        selftest,
        "run_file",
        lambda host, name: selftest.SelfTestResult(
            name, host.name, error="it crashed"
        ),
    )
    with pytest.raises(
        HostError, match="a tiny file does not run with them: it crashed"
    ):
        selftest.verify_environment(HOST, ["onnxruntime==1"])
