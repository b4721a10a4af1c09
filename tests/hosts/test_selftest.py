"""The tiny files that a host is tried with: real ones, and the numbers beside them are
theirs.
"""

import dataclasses

import numpy
import pytest

from edgekit.errors import HostError
from edgekit.hosts import selftest as trial
from edgekit.hosts.local import LocalHost
from edgekit.hosts.process import Start

HOST = LocalHost(timeout_s=60)
FILES = ["float.onnx", "float.tflite", "int8.onnx", "int8.tflite"]


def test_the_files_are_chosen_by_the_runtimes() -> None:
    """A host is tried with what it can run."""
    assert sorted(trial.names({"onnxruntime": "1", "ai-edge-litert": "2"})) == FILES
    assert sorted(trial.names({"tflite-runtime": "2"})) == ["float.tflite", "int8.tflite"]
    assert trial.names({"numpy": "2"}) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_its_numbers_here(name: str) -> None:
    """7 of the 8 digits are told right, and the outputs are those that were noted: bit for
    bit in LiteRT, else within what is allowed.
    """
    done = trial.run(HOST, name)
    assert (done.good, done.right, done.samples) == (True, 7, 8), done
    assert done.difference <= done.allowed < 0.1
    assert done.where.startswith("local: ")


def test_int8_and_float_tell_the_digits_alike_and_differ_in_numbers() -> None:
    """The four files are of one network: the int8 ones are near, and are not the float
    ones.
    """
    for format in ("onnx", "tflite"):
        far = numpy.abs(
            trial.expected(f"int8.{format}") - trial.expected(f"float.{format}")
        ).max()
        assert 0 < far < 0.5, format
    assert (
        numpy.abs(trial.expected("float.onnx") - trial.expected("float.tflite")).max()
        < 1e-4
    )


def test_other_numbers_and_a_dead_host_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers beyond what is allowed are not good; a host that does not answer is an error
    in words.
    """
    monkeypatch.setattr(trial, "expected", lambda name: numpy.zeros((8, 10), "float32"))
    done = trial.run(HOST, "float.onnx")
    assert not done.good and not done.error and done.difference > 1
    dead = trial.run(dataclasses.replace(HOST, start=Start(("/bin/false",))), "float.onnx")
    assert not dead.good and "crashed" in dead.error


def test_an_environment_is_proven_by_running_files() -> None:
    """What it tells of itself is kept; one that does not start, or does not run a file, is
    refused.
    """
    assert trial.proven(HOST, ["onnxruntime==1"])["hello"]["machine"]
    with pytest.raises(
        HostError, match=r"a==1 were installed, and Python does not start with them"
    ):
        trial.proven(dataclasses.replace(HOST, start=Start(("/bin/false",))), ["a==1"])


def test_a_runtime_that_cannot_load_files_is_no_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metadata alone do not prove a runtime."""
    monkeypatch.setattr(
        trial, "run", lambda host, name: trial.Trial(name, host.name, error="it crashed")
    )
    with pytest.raises(HostError, match="a tiny file does not run with them: it crashed"):
        trial.proven(HOST, ["onnxruntime==1"])
