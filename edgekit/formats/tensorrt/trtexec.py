"""TensorRT's command-line program trtexec on a device with a GPU: the command lines that
build, time and run, and its raw input files.

The flags are those of trtexec's open source: release 10.3 and 11.1
(samples/common/sampleOptions.cpp). The lines were not run here. Defaults differ: up to
10.16 it copies inputs and outputs, waits blocked and uses no CUDA graph; 11 does none of
that. So for 10 they are set explicitly.
"""

import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import RunnerError
from edgekit.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: input -> [min, opt, max] shapes.
Profile = Mapping[str, Sequence[Sequence[int]]]

#: trtexec's major version -> the flags that it needs. The types are the graph's own, which
#: 10 requires a flag for, and 11 always does.
_FLAGS: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    10: {
        "build": ("--stronglyTyped",),
        "time": ("--useCudaGraph", "--useSpinWait", "--noDataTransfers"),
    },
    11: {"build": (), "time": ()},
}
MAJORS = tuple(_FLAGS)
#: trtexec's defaults, written out: warm-up 200 ms, then 10 queries and 3 seconds or more.
_METHOD = (
    "--warmUp=200",
    "--iterations=10",
    "--duration=3",
    "--percentile=90,95,99",
)
#: Suffixes of the files that a device returns for a part.
LAYERS, TIMES, OUTPUTS = "layers.json", "times.json", "out.json"


def command_lines(
    part: str, signature: Signature, profiles: Sequence[Profile], major: int
) -> dict[str, str]:
    """The command lines for one part: ``build`` (engine and layers.json), ``time``
    (times.json), ``answer`` (out.json, from the raw inputs).
    """
    flags = _FLAGS[major]
    engine = f"{part}.engine"
    shapes = _shape_flags(signature, profiles)
    inputs = ",".join(
        f"{_quote(spec.name)}:{raw_name(part, spec.name)}"
        for spec in signature.inputs
    )
    build = [
        f"--onnx={part}.onnx",
        f"--saveEngine={engine}",
        *flags["build"],
        *_profile_flags(profiles),
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={part}.{LAYERS}",
        "--skipInference",
    ]
    time = [
        f"--loadEngine={engine}",
        *shapes,
        *_METHOD,
        *flags["time"],
        f"--exportTimes={part}.{TIMES}",
    ]
    run = [
        f"--loadEngine={engine}",
        *shapes,
        "--warmUp=0",
        "--iterations=1",
        "--duration=0",
        f"--loadInputs={inputs}",
        f"--exportOutput={part}.{OUTPUTS}",
    ]
    arguments = {"build": build, "time": time, "answer": run}
    return {
        name: shlex.join(["trtexec", *row]) for name, row in arguments.items()
    }


def write_inputs(
    part: str,
    signature: Signature,
    arrays: "Mapping[str, Array]",
    folder: pathlib.Path,
) -> dict[str, str]:
    """Write the first sample of every input as the raw file that ``--loadInputs`` reads.

    ``arrays`` are the task's own; the files have the file's layout and dtype, in C order.
    Returns input -> file name. Raises an error, and writes nothing, if an input is missing
    or has another shape.
    """
    signature.check_feeds(arrays, f"Part {part!r}")
    blocks = {
        spec.name: _encode_first(part, spec, arrays[spec.name])
        for spec in signature.inputs
    }
    for name, block in blocks.items():
        (folder / raw_name(part, name)).write_bytes(block.tobytes())
    return {name: raw_name(part, name) for name in blocks}


def _encode_first(part: str, spec: TensorSpec, array: "Array") -> "Array":
    if len(array) == 0 or spec.static_batch not in (None, 1):
        raise RunnerError(
            f"Part {part!r} requires {spec.static_batch} samples of {spec.name} at once, got 1.",
            fix="export with a free batch",
        )
    block = spec.encode(array[:1])
    if block.shape != spec.shape(1):
        raise RunnerError(
            f"{spec.name} has the shape {list(block.shape)}, expected {list(spec.shape(1))}.",
            fix="resize the data",
        )
    return block


def raw_name(part: str, name: str) -> str:
    """The raw file of an input; ``_`` replaces letters with a meaning in a shell or in
    trtexec.
    """
    return f"{part}.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.bin"


def _shape_flags(
    signature: Signature, profiles: Sequence[Profile]
) -> list[str]:
    """``--shapes`` for one sample; none for an engine without a profile."""
    if not profiles:
        return []
    shapes = [
        f"{_quote(spec.name)}:{_dims(spec.shape(1))}"
        for spec in signature.inputs
        if spec.name in profiles[0]
    ]
    return [f"--shapes={','.join(shapes)}"] if shapes else []


def _profile_flags(profiles: Sequence[Profile]) -> list[str]:
    flags = []
    for number, profile in enumerate(profiles):
        if len(profiles) > 1:
            flags.append(f"--profile={number}")
        for position, kind in enumerate(("min", "opt", "max")):
            shapes = [
                f"{_quote(name)}:{_dims(rows[position])}"
                for name, rows in profile.items()
            ]
            flags.append(f"--{kind}Shapes={','.join(shapes)}")
    return flags


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _quote(name: str) -> str:
    """A name with a colon or a comma in single quotes, as trtexec's help requires."""
    return f"'{name}'" if ":" in name or "," in name else name
