"""TensorRT's command-line program trtexec, as a device with a GPU has it: the lines that
build, time and answer, and its raw input files.

The flags are those of trtexec's open source: release 10.3 and 11.1
(samples/common/sampleOptions.cpp). The lines were not run here. Defaults differ: up to
10.16 it copies inputs and outputs, waits blocked and uses no CUDA graph; 11 does none of
that. So 10 is told.
"""

import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import RunnerError
from edgekit.signature import Signature

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: input -> [min, opt, max] shapes.
Profile = Mapping[str, Sequence[Sequence[int]]]

#: trtexec's major version -> what the two lines need there. The types are the graph's own:
#: 10 must be told, 11 knows nothing else.
_FLAGS: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    10: {
        "build": ("--stronglyTyped",),
        "time": ("--useCudaGraph", "--useSpinWait", "--noDataTransfers"),
    },
    11: {"build": (), "time": ()},
}
MAJORS = tuple(_FLAGS)
#: What trtexec does by default, written out: warm-up 200 ms, then 10 queries and 3 seconds
#: or more.
_METHOD = ("--warmUp=200", "--iterations=10", "--duration=3", "--percentile=90,95,99")
#: The files that a device brings back, behind the part's name.
LAYERS, TIMES, OUTPUTS = "layers.json", "times.json", "out.json"


def lines(
    part: str, signature: Signature, profiles: Sequence[Profile], major: int
) -> dict[str, str]:
    """The command lines for one part: ``build`` (engine and layers.json), ``time``
    (times.json), ``answer`` (out.json, from the raw inputs).
    """
    flags, engine = _FLAGS[major], f"{part}.engine"
    once = {
        spec.name: spec.shape(1)
        for spec in signature.inputs
        if profiles and spec.name in profiles[0]
    }
    shapes = (
        [
            f"--shapes={','.join(f'{_quoted(name)}:{_dims(shape)}' for name, shape in once.items())}"
        ]
        if once
        else []
    )
    made = ",".join(
        f"{_quoted(spec.name)}:{raw_name(part, spec.name)}" for spec in signature.inputs
    )
    words = {
        "build": [
            f"--onnx={part}.onnx",
            f"--saveEngine={engine}",
            *flags["build"],
            *_profile_words(profiles),
            "--profilingVerbosity=detailed",
            f"--exportLayerInfo={part}.{LAYERS}",
            "--skipInference",
        ],
        "time": [
            f"--loadEngine={engine}",
            *shapes,
            *_METHOD,
            *flags["time"],
            f"--exportTimes={part}.{TIMES}",
        ],
        "answer": [
            f"--loadEngine={engine}",
            *shapes,
            "--warmUp=0",
            "--iterations=1",
            "--duration=0",
            f"--loadInputs={made}",
            f"--exportOutput={part}.{OUTPUTS}",
        ],
    }
    return {what: shlex.join(["trtexec", *row]) for what, row in words.items()}


def write_inputs(
    part: str, signature: Signature, arrays: "Mapping[str, Array]", folder: pathlib.Path
) -> dict[str, str]:
    """Write the first sample of every input as the raw file that ``--loadInputs`` reads:
    the file's own layout and dtype, C order. Input -> file name.

    ``arrays`` are the task's own. Nothing is written where an input is missing or has
    another shape.
    """
    signature.check_feeds(arrays, f"Part {part!r}")
    blocks = {}
    for spec in signature.inputs:
        if len(arrays[spec.name]) == 0 or spec.static_batch not in (None, 1):
            raise RunnerError(
                f"Part {part!r} takes {spec.static_batch} samples of {spec.name} at once; one is given.",
                fix="export with a free batch",
            )
        block = spec.encode(arrays[spec.name][:1])
        if block.shape != spec.shape(1):
            raise RunnerError(
                f"{spec.name} has shape {list(block.shape)}, the file takes {list(spec.shape(1))}.",
                fix="resize the data",
            )
        blocks[spec.name] = block
    for name, block in blocks.items():
        (folder / raw_name(part, name)).write_bytes(block.tobytes())
    return {name: raw_name(part, name) for name in blocks}


def raw_name(part: str, name: str) -> str:
    """The file of an input: letters that a shell or trtexec would read otherwise become
    ``_``.
    """
    return f"{part}.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.bin"


def _profile_words(profiles: Sequence[Profile]) -> list[str]:
    found = []
    for number, profile in enumerate(profiles):
        found += [f"--profile={number}"] if len(profiles) > 1 else []
        for k, word in enumerate(("min", "opt", "max")):
            found.append(
                f"--{word}Shapes="
                + ",".join(
                    f"{_quoted(name)}:{_dims(shapes[k])}"
                    for name, shapes in profile.items()
                )
            )
    return found


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _quoted(name: str) -> str:
    """A name with a colon or a comma is put into single quotes, as trtexec's help asks."""
    return f"'{name}'" if ":" in name or "," in name else name
