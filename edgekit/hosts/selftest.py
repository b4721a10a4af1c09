"""Tries a host with four tiny real files: a network of handwritten digits, float and int8,
in ONNX and TFLite, and what they gave here.

The files lie in ``tiny``; ``tests/hosts/make_tiny.py`` made them.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from edgekit.artifact import Artifact, File, Part
from edgekit.errors import EdgekitError, HostError
from edgekit.hosts.execution import runs
from edgekit.hosts.runner import WorkerHost
from edgekit.signature import Signature

FOLDER = pathlib.Path(__file__).parent / "tiny"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One file on a host."""

    file: str
    #: Where it ran, or why it did not.
    where: str
    error: str = ""
    #: Of 8 digits, how many are told right.
    right: int = 0
    samples: int = 0
    #: The largest difference to what the file gave where it was made, and how much of it is
    #: a runtime's own affair.
    difference: float = 0.0
    allowed: float = 0.0
    #: Loading and all samples; a time for the user's patience, not a latency.
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """It ran, and gave the numbers that it should."""
        return not self.error and self.difference <= self.allowed


def names(versions: Mapping[str, str]) -> list[str]:
    """The files that a host with these packages can run."""
    return [
        name
        for name, facts in _written()["files"].items()
        if runs(facts["format"], versions)
    ]


def artifact(name: str) -> Artifact:
    """One of the files."""
    facts = _written()["files"][name]
    part = Part(
        name="main",
        signature=Signature.model_validate(facts["signature"]),
        files={"model": File(path=name)},
    )
    return Artifact(format=facts["format"], parts=(part,), folder=FOLDER)


def images() -> "numpy.typing.NDArray[numpy.float32]":
    """The 8 digits."""
    written = _written()
    return numpy.asarray(written["images"], dtype="float32").reshape(written["shape"])


def expected(name: str) -> "numpy.typing.NDArray[numpy.float32]":
    """What a file gave where it was made."""
    return numpy.asarray(_written()["files"][name]["outputs"], dtype="float32")


def run(host: WorkerHost, name: str) -> Trial:
    """Run one file on a host; what goes wrong is told in the result."""
    began = time.monotonic()
    try:
        with host.open(artifact(name)) as runner:
            (outputs,) = runner.infer({"input": images()}).values()
            where = runner.where
    except EdgekitError as error:
        return Trial(name, host.name, error=error.message, seconds=time.monotonic() - began)
    labels = numpy.asarray(_written()["labels"])
    far = float(numpy.abs(outputs - expected(name)).max())
    right = int((outputs.argmax(axis=1) == labels).sum())
    return Trial(
        name,
        where,
        "",
        right,
        len(labels),
        far,
        float(_written()["files"][name]["allowed"]),
        time.monotonic() - began,
    )


def proven(host: WorkerHost, wanted: Sequence[str]) -> dict[str, Any]:
    """What a new environment says of itself, once it has run every file that it should;
    HostError where it does not.
    """
    fix = "other versions in the host's file may help"
    try:
        hello = host.hello()
    except EdgekitError as error:
        raise HostError(
            f"{', '.join(wanted)} were installed, and Python does not start with them: {error.message}",
            fix=fix,
        ) from error
    for name in names(hello["versions"]):
        done = run(host, name)
        if done.error:
            raise HostError(
                f"{', '.join(wanted)} were installed, and a tiny file does not run with them: {done.error}",
                fix=fix,
            )
    return {
        "hello": {key: hello[key] for key in ("python", "machine", "system", "versions")}
    }


@functools.cache
def _written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "tiny.json").read_text(encoding="utf-8"))
    return found
