"""Tests a host with four tiny real files: a network for handwritten digits, float and int8,
in ONNX and TFLite, with the outputs that they had where they were built.

The files are in ``tiny``; ``tests/hosts/make_tiny.py`` creates them.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from edgekit.arrays import Array
from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Host
from edgekit.errors import EdgekitError, HostError
from edgekit.hosts.execution import runtime_packages
from edgekit.signature import Signature

FOLDER = pathlib.Path(__file__).parent / "tiny"


@dataclasses.dataclass(frozen=True)
class SelfTestResult:
    """The result of one file on a host."""

    file: str
    #: Where it ran; the host's name if it did not run.
    where: str
    #: Why it did not run; empty if it did.
    error: str = ""
    #: How many of the digits are classified correctly.
    right: int = 0
    samples: int = 0
    #: The largest difference from the recorded outputs, and the largest allowed one.
    difference: float = 0.0
    allowed: float = 0.0
    #: Loading and all samples, in seconds; the time to wait, not a latency.
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """It ran, and computed the recorded outputs."""
        return not self.error and self.difference <= self.allowed


def list_files(versions: Mapping[str, str]) -> list[str]:
    """The files that a host with these packages can run."""
    return [
        name
        for name, facts in _read_facts()["files"].items()
        if runtime_packages(facts["format"], versions)
    ]


def load_artifact(name: str) -> Artifact:
    """One of the files as an artifact."""
    facts = _read_facts()["files"][name]
    part = Part(
        name="main",
        signature=Signature.model_validate(facts["signature"]),
        files={"model": File(path=name)},
    )
    return Artifact(format=facts["format"], parts=(part,), folder=FOLDER)


def load_images() -> Array:
    """The 8 digits, float32."""
    facts = _read_facts()
    return numpy.asarray(facts["images"], dtype="float32").reshape(
        facts["shape"]
    )


def expected_outputs(name: str) -> Array:
    """The recorded outputs of a file, float32."""
    return numpy.asarray(
        _read_facts()["files"][name]["outputs"], dtype="float32"
    )


def run_file(host: Host, name: str) -> SelfTestResult:
    """Run one file on a host; errors are part of the result."""
    begin = time.monotonic()
    try:
        with host.open(load_artifact(name)) as runner:
            (outputs,) = runner.infer({"input": load_images()}).values()
            where = runner.where
    except EdgekitError as error:
        seconds = time.monotonic() - begin
        return SelfTestResult(
            name, host.name, error=error.message, seconds=seconds
        )
    labels = numpy.asarray(_read_facts()["labels"])
    return SelfTestResult(
        name,
        where,
        right=int((outputs.argmax(axis=1) == labels).sum()),
        samples=len(labels),
        difference=float(numpy.abs(outputs - expected_outputs(name)).max()),
        allowed=float(_read_facts()["files"][name]["allowed"]),
        seconds=time.monotonic() - begin,
    )


def verify_environment(host: Host, packages: Sequence[str]) -> dict[str, Any]:
    """Run every file that a new environment should run, and return its description.

    Raises HostError, which names the installed ``packages``.
    """
    names = ", ".join(packages)
    fix = "try other versions in the host's file"
    try:
        hello = host.hello()
    except EdgekitError as error:
        raise HostError(
            f"Installed {names}, but Python does not start with them: {error.message}",
            fix=fix,
        ) from error
    for file in list_files(hello["versions"]):
        result = run_file(host, file)
        if result.error:
            raise HostError(
                f"Installed {names}, but a tiny file does not run with them:"
                f" {result.error}",
                fix=fix,
            )
    keys = ("python", "machine", "system", "versions")
    return {"hello": {key: hello[key] for key in keys}}


@functools.cache
def _read_facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(
        (FOLDER / "tiny.json").read_text(encoding="utf-8")
    )
    return facts
