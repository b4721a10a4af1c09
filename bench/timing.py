"""Run and time all files of one network with edgekit's worker, race and intervals."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy

from bench.exports import CHANNEL_LAST
from bench.networks import Runtime
from bench.results import Interval
from edgekit.artifact import MAIN, Artifact, File, Part
from edgekit.checks import accuracy
from edgekit.checks.statistics import median_interval
from edgekit.contracts import BenchProtocol, Samples
from edgekit.hosts.local import LocalHost
from edgekit.signature import BATCH, Quantization, Signature, TensorSpec
from edgekit.task import Split, Task

if TYPE_CHECKING:
    from edgekit.arrays import Array, Feeds

RUNTIMES: Mapping[Runtime, str] = {"onnx": "onnxruntime", "tflite": "litert"}
PROTOCOL = BenchProtocol(rounds=100, round_ms=3.0)
QUICK = BenchProtocol(rounds=15, round_ms=2.0)
#: The long protocol is used if one inference of the float file takes longer than this.
LONG_FROM_MS = 4.0
LONG = BenchProtocol(rounds=40, warmup=5, round_ms=45.0)


def wrap(
    path: pathlib.Path, runtime: Runtime, split: Split, *, images: bool
) -> Artifact:
    """A plain file as an artifact of edgekit's: its inputs are the task's, in their order
    or by their names.
    """
    inputs, outputs = _read_tensors(path, runtime)
    by_name = {row["name"]: row for row in inputs}
    ordered = (
        [by_name[name] for name in split.inputs]
        if set(by_name) == set(split.inputs)
        else inputs
    )
    axes = CHANNEL_LAST if images and runtime == "tflite" else None
    signature = Signature(
        inputs=tuple(
            _spec(name, row, axes)
            for name, row in zip(split.inputs, ordered, strict=True)
        ),
        outputs=tuple(_spec(row["name"], row, None) for row in outputs),
    )
    part = Part(
        name=MAIN,
        signature=signature,
        files={"model": File(path=path.name, bytes=path.stat().st_size)},
    )
    return Artifact(format=runtime, parts=(part,), folder=path.parent)


def _read_tensors(
    path: pathlib.Path, runtime: Runtime
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The file's inputs and outputs, as reported by a worker that loads it."""
    worker, _ = LocalHost(timeout_s=120).connect()
    try:
        header = {
            "command": "load",
            "name": MAIN,
            "path": str(path.resolve()),
            "runtime": RUNTIMES[runtime],
            "threads": 1,
            "options": {},
        }
        reply, _ = worker.request(f"loading {path}", header)
    finally:
        worker.close()
    return reply["inputs"], reply["outputs"]


def _spec(
    name: str, row: Mapping[str, Any], axes: tuple[int, ...] | None
) -> TensorSpec:
    shape = [dim if isinstance(dim, int) else None for dim in row["shape"]]
    dims = tuple(
        dim if dim is not None else BATCH if k == 0 else f"dim{k}"
        for k, dim in enumerate(shape)
    )
    quantization = (
        None
        if row["quantization"] is None
        else Quantization(
            scale=row["quantization"][0], zero_point=row["quantization"][1]
        )
    )
    return TensorSpec(
        name=name,
        dtype=row["dtype"],
        dims=dims,
        axes=axes,
        quantization=quantization,
    )


def score(artifact: Artifact, task: Task) -> accuracy.ScoredOutputs:
    """Run a file on all test samples, one by one.

    A scale that is computed during inference depends on all samples of a batch.
    """
    split = task.need("test", "the bench")
    with LocalHost().open(artifact) as runner:

        class OneByOne:
            where = runner.where

            def infer(self, feeds: "Feeds") -> "dict[str, Array]":
                count = len(next(iter(feeds.values())))
                rows = [
                    runner.infer(
                        {
                            name: array[k : k + 1]
                            for name, array in feeds.items()
                        }
                    )
                    for k in range(count)
                ]
                return {
                    name: numpy.concatenate([row[name] for row in rows])
                    for name in rows[0]
                }

        return accuracy.score_runner(OneByOne(), split, task.metric)  # type: ignore[arg-type]


def lost(
    ours: accuracy.ScoredOutputs, reference: accuracy.ScoredOutputs, task: Task
) -> Interval | None:
    """Return what a file loses relative to the float file on the same samples."""
    drop = accuracy.accuracy_drop(ours, reference, task.metric)
    if drop.value is None or drop.low is None or drop.high is None:
        return None
    return drop.value, drop.low, drop.high


def race(
    artifacts: Mapping[str, Artifact], split: Split, protocol: BenchProtocol
) -> dict[str, Samples]:
    """Time all files interleaved in one process, on one thread with one sample."""
    return LocalHost(timeout_s=1200).race(
        artifacts, split.take(1).inputs, protocol
    )


def median(values: "Array") -> Interval:
    """Return the median and its 95 % interval, or the range if there are too few rounds."""
    interval = median_interval(values)
    if interval is None:
        interval = (float(numpy.min(values)), float(numpy.max(values)))
    return float(numpy.median(values)), *interval


def ratio(ours: Samples, theirs: Samples) -> Interval:
    """Our time as a share of theirs: the median over rounds, both times of a round taken
    within moments of each other.
    """
    return median(
        numpy.asarray(ours.nanoseconds) / numpy.asarray(theirs.nanoseconds)
    )


def milliseconds(samples: Samples) -> Interval:
    """The median time of one inference."""
    return median(numpy.asarray(samples.nanoseconds) / 1e6)
