"""Runs one part of an artifact in a worker, and checks its file against its signature."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.artifact import Artifact, Part, chain
from edgekit.device_worker.batches import LARGEST_SLICE
from edgekit.device_worker.frames import LARGEST_PAYLOAD
from edgekit.errors import RunnerError
from edgekit.hosts import responses
from edgekit.hosts.process import WorkerProcess
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    from edgekit.arrays import Array, Feeds

#: The largest relative difference of two scales that are equal, one stored as float32.
SCALE_TOLERANCE = 1e-5


def check_signature(
    path: str,
    tensors: Sequence[Mapping[str, Any]],
    specs: Sequence[TensorSpec],
    by_name: bool,
) -> None:
    """Raise RunnerError unless the file's own inputs (or outputs) are those of the
    signature.

    ``tensors`` describe the file's own, as ``runtimes.LoadedModel`` does; ``by_name``: the
    names must be equal, too.
    """
    names = [tensor["name"] for tensor in tensors]
    expected = [spec.name for spec in specs]
    if len(names) != len(expected) or (by_name and set(names) != set(expected)):
        raise RunnerError(
            f"{path} has the inputs or outputs {names}, but its signature has {expected}.",
            fix="build the artifact again",
        )
    for spec, tensor in zip(specs, _reorder(tensors, expected), strict=True):
        _check_tensor(path, spec, tensor)


def _check_tensor(
    path: str, spec: TensorSpec, tensor: Mapping[str, Any]
) -> None:
    if tensor["dtype"] != spec.dtype:
        raise RunnerError(
            f"{path}: {spec.name} has dtype {tensor['dtype']}, but its signature has"
            f" {spec.dtype}.",
            fix="build the artifact again",
        )
    quantization = tensor["quantization"]
    if quantization is not None and not _same_quantization(quantization, spec):
        raise RunnerError(
            f"{path}: {spec.name} has scale and zero point {quantization}, but its"
            f" signature has {spec.quantization}.",
            fix="build the artifact again",
        )
    if spec.axes is not None and spec.axes[0] != 0:
        raise RunnerError(
            f"{path}: the first axis of {spec.name} is not the sample.",
            fix="export the part with the sample axis first",
        )


def _same_quantization(quantization: Sequence[Any], spec: TensorSpec) -> bool:
    expected = spec.quantization
    if expected is None:
        return False
    scale, zero_point = quantization
    tolerance = SCALE_TOLERANCE * expected.scale
    return bool(
        zero_point == expected.zero_point
        and abs(scale - expected.scale) <= tolerance
    )


def _reorder(
    tensors: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The tensors in the order of the names; in their own order if the names differ."""
    by_name = {tensor["name"]: tensor for tensor in tensors}
    if set(by_name) != set(names):
        return list(tensors)
    return [by_name[name] for name in names]


def infer_part(
    process: WorkerProcess,
    part: Part,
    name: str,
    feeds: "Feeds",
    samples: int | None = None,
) -> "dict[str, Array]":
    """Run a part, loaded under ``name``, on any number of samples.

    ``feeds`` and the outputs are real arrays. The samples are sent in pieces of ``samples``,
    rounded up to the file's batch size. Raises RunnerError.
    """
    part.signature.check_feeds(feeds, f"Part {part.name!r}")
    total = _count_samples(part, feeds)
    size = _piece_size(part, samples)
    pieces = []
    for start in range(0, total, size):
        encoded = {
            spec.name: spec.encode(feeds[spec.name][start : start + size])
            for spec in part.signature.inputs
        }
        pieces.append(_infer_piece(process, part, name, encoded))
    return {
        key: numpy.concatenate([piece[key] for piece in pieces])
        for key in pieces[0]
    }


def _infer_piece(
    process: WorkerProcess, part: Part, name: str, encoded: "dict[str, Array]"
) -> "dict[str, Array]":
    specs = part.signature.outputs
    count = len(next(iter(encoded.values())))
    _, arrays = process.request(
        f"running part {part.name!r}",
        {"command": "infer", "name": name},
        encoded,
        largest=responses.largest_payload(specs, count, LARGEST_PAYLOAD),
    )
    source = f"The runtime for part {part.name!r}"
    outputs = responses.match_outputs(source, arrays, specs, count)
    return {
        spec.name: spec.decode(array)
        for spec, array in zip(specs, outputs, strict=True)
    }


def _count_samples(part: Part, feeds: "Feeds") -> int:
    counts = {
        spec.name: len(feeds[spec.name]) for spec in part.signature.inputs
    }
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise RunnerError(
            f"All inputs of part {part.name!r} must have the same number of samples, at"
            f" least one; got {counts}.",
            fix="pass the same number of samples for every input",
        )
    return next(iter(counts.values()))


def _piece_size(part: Part, samples: int | None) -> int:
    """How many samples are sent at once: a multiple of the file's batch size."""
    batch = part.signature.inputs[0].static_batch or 1
    if samples is None:
        return max(LARGEST_SLICE // batch, 1) * batch
    return -(-samples // batch) * batch


def record_inputs(
    process: WorkerProcess, artifact: Artifact, prefix: str, feeds: "Feeds"
) -> "dict[str, Array]":
    """The encoded inputs of every part, named ``<index of the part>:<input>``.

    The parts are loaded as ``<prefix><part>`` and run on ``feeds`` to obtain them.
    """
    arrays: dict[str, Array] = {}

    def call(part: Part, values: "Feeds") -> "dict[str, Array]":
        index = artifact.parts.index(part)
        for spec in part.signature.inputs:
            arrays[f"{index}:{spec.name}"] = spec.encode(values[spec.name])
        return infer_part(process, part, prefix + part.name, values)

    chain(artifact.parts, call, feeds)
    return arrays
