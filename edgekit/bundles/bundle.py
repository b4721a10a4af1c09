"""A bundle: a shipped folder that proves itself.

The files, real samples with the outputs they gave, the gates, and the code that runs them
again.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pydantic

from edgekit import device_worker
from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.cache import digest, file_digest, write_text
from edgekit.errors import BundleError
from edgekit.formats.tensorrt import trtexec
from edgekit.measurement import Measurement
from edgekit.report import ArtifactReport
from edgekit.target import RUNTIMES
from edgekit.value import Value, parse, strict_json

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

SCHEMA = 2
_LARGEST_DIM = 1 << 31
MANIFEST, SAMPLES, REFERENCE, EVIDENCE = (
    "manifest.json",
    "samples.npz",
    "reference",
    "evidence",
)
#: What a user starts on the device.
SCRIPT = "verify.py"
_PROGRAM = '''"""Run this bundle's evidence again on this machine: python verify.py. Needs numpy and the runtime, nothing else."""

import pathlib
import sys

from device_worker.evidence import main

sys.exit(main(str(pathlib.Path(__file__).resolve().parent)))
'''


class ReferenceReport(ArtifactReport):
    """The float file that speed is compared with, in the folder ``reference``."""

    format: FormatName


class Facts(Value):
    """What the samples are, how they are judged, and what was found where the bundle was
    made.
    """

    schema_version: int = pydantic.Field(SCHEMA, alias="schema")
    edgekit: str
    #: The hash of all that evidence depends on: these facts, but for what was measured.
    #: Evidence of another does not count.
    id: str = ""
    #: ``folder/name`` -> hash, of every file but the manifest and later evidence.
    sha256: dict[str, str] = pydantic.Field(default_factory=dict)
    samples: int
    metric: str
    #: One step of each output, in real numbers, and how many of them two machines may
    #: differ by.
    steps: dict[str, float]
    parity_steps: float
    gates: dict[str, float]
    #: Where the expected outputs were taken.
    where: str
    #: Samples are run one at a time: the file finds its scales while it runs.
    one_by_one: bool = False
    #: What a processor stands in for, so that its times say nothing; empty where the file
    #: is for a processor.
    stands_in: str = ""
    #: Where the target's own device must be timed: a speed that is taken elsewhere is told,
    #: and passes or fails nothing.
    device_only: bool = False
    reference: ReferenceReport | None = None
    #: The same checks where the bundle was made, and the race's own numbers.
    shipped: tuple[Measurement, ...] = ()
    #: Each input in words: what the task gives and what the file takes.
    preprocessing: dict[str, str] = pydantic.Field(default_factory=dict)

    model_config = pydantic.ConfigDict(populate_by_name=True)


class Manifest(ArtifactReport):
    """``manifest.json`` of a shipped folder."""

    target: str
    format: FormatName
    runtime: str
    scheme: str | None
    bundle: Facts | None = None

    @property
    def facts(self) -> Facts:
        """What makes the folder a bundle; ``read`` gives no manifest without."""
        assert self.bundle is not None
        return self.bundle


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """What makes a shipped folder a bundle: facts, samples (``input:name``,
    ``expected:name``, ``reference:name``, ``labels``), the float file.
    """

    facts: Facts
    arrays: "Mapping[str, Array]"
    reference: Artifact | None = None


def add(proof: Proof, artifact: Artifact, folder: pathlib.Path) -> Facts:
    """Put samples, float file and code beside the shipped files; the facts with the hash of
    everything.

    Beside an engine recipe lies the first sample as the raw files that its trtexec lines
    name, for every part that the task feeds.
    """
    import numpy

    from edgekit.device_worker import bundled

    numpy.savez_compressed(
        folder / SAMPLES,
        allow_pickle=False,
        **{name: numpy.ascontiguousarray(array) for name, array in proof.arrays.items()},
    )
    write_text(folder / SCRIPT, _PROGRAM)
    (folder / "device_worker").mkdir()
    for path in sorted(pathlib.Path(device_worker.__file__).parent.glob("*.py")):
        shutil.copyfile(path, folder / "device_worker" / path.name)
    if proof.reference is not None:
        (folder / REFERENCE).mkdir()
        for part in proof.reference.parts:
            shutil.copyfile(
                proof.reference.path(part), folder / REFERENCE / part.files["model"].path
            )
    inputs = bundled.select(proof.arrays, "input")
    for part in artifact.parts:
        if "recipe" in part.files and {spec.name for spec in part.signature.inputs} <= set(
            inputs
        ):
            trtexec.write_inputs(
                part.name,
                part.signature,
                {spec.name: inputs[spec.name] for spec in part.signature.inputs},
                folder,
            )
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    facts = proof.facts.model_copy(
        update={"sha256": {name: file_digest(folder / name) for name in names}}
    )
    return facts.model_copy(
        update={
            "id": digest(
                facts.model_dump(mode="json", by_alias=True, exclude={"id", "shipped"})
            )
        }
    )


def read(folder: pathlib.Path) -> Manifest:
    """A bundle's manifest, or a BundleError; its files are not looked at."""
    path = folder / MANIFEST
    try:
        data = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder} holds no {MANIFEST}.",
            fix="name a folder that 'edgekit run' has shipped, such as runs/digits/cpu-onnx",
        ) from None
    except (OSError, ValueError) as problem:
        raise BundleError(
            f"{path} cannot be read: {problem}.", fix="ship it again with 'edgekit run'"
        ) from problem
    manifest = parse(Manifest, data, str(path), BundleError)
    if manifest.bundle is None:
        raise BundleError(
            f"{folder} has no samples to verify with.",
            fix="ship it again with this edgekit; what is cached is not computed twice",
        )
    return manifest


def load(folder: pathlib.Path) -> Manifest:
    """Read a bundle's manifest and check every file against it, or raise one BundleError
    with everything that is wrong.
    """
    manifest = read(folder)
    facts = manifest.facts
    wrong = [
        *_wrong_parts(manifest, "the manifest"),
        *(
            []
            if facts.reference is None
            else _wrong_parts(facts.reference, "the float file")
        ),
    ]
    wrong += [
        text
        for name, wanted in facts.sha256.items()
        if (text := _wrong(folder, name, wanted))
    ]
    listed = set(facts.sha256)
    wrong += [
        f"{file.path}: its hash is not told"
        for file in manifest.files
        if file.path and pathlib.PurePosixPath(file.path).name not in listed
    ]
    if wrong:
        listing = "\n  ".join(wrong)
        raise BundleError(
            f"{folder} is not as it was shipped:\n  {listing}",
            fix="copy the whole folder again, or ship it again with 'edgekit run'",
        )
    return manifest


def _wrong_parts(told: "Manifest | ReferenceReport", where: str) -> list[str]:
    """What could not be opened as an artifact: every part needs a model file, and
    signatures that fit one.
    """
    wrong = (
        []
        if told.format in RUNTIMES
        else [f"{where}: no device runs the format {told.format!r}"]
    )
    models = {file.part for file in told.files if file.role == "model" and file.path}
    if not told.signatures:
        wrong.append(f"{where} names no part")
    for part, signature in told.signatures.items():
        if part not in models:
            wrong.append(f"{where}: the part {part!r} has no model file")
        for spec in (*signature.inputs, *signature.outputs):
            if spec.axes is not None and sorted(spec.axes) != list(range(len(spec.dims))):
                wrong.append(
                    f"{where}: {spec.name} has the axes {list(spec.axes)} for {len(spec.dims)} dims"
                )
            if not spec.dims or any(
                isinstance(dim, int) and not 0 < dim < _LARGEST_DIM for dim in spec.dims
            ):
                wrong.append(f"{where}: {spec.name} has the dims {list(spec.dims)}")
    return wrong


def _wrong(folder: pathlib.Path, name: str, wanted: str) -> str | None:
    """What is wrong with one file, or None.

    A name that leads out of the folder is never opened.
    """
    inside = pathlib.PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name:
        return f"{name!r} is no file of a bundle"
    path = folder / inside
    if path.is_symlink() or not path.is_file():
        return f"{name} is missing"
    found = file_digest(path)
    return (
        None
        if found == wanted
        else f"{name} has the hash {found[:12]}..., not {wanted[:12]}..."
    )


def artifact(manifest: Manifest, folder: pathlib.Path) -> Artifact:
    """The shipped files as an artifact that a host can open."""
    return _artifact(manifest, manifest.format, folder)


def reference(manifest: Manifest, folder: pathlib.Path) -> Artifact | None:
    """The float file as an artifact, or None where the winner is that file, or where its
    speed here would say nothing.
    """
    told = manifest.facts.reference
    return None if told is None else _artifact(told, told.format, folder / REFERENCE)


def _artifact(told: ArtifactReport, format: FormatName, folder: pathlib.Path) -> Artifact:
    files: dict[str, dict[str, File]] = {}
    for file in told.files:
        if file.path is not None:
            name = pathlib.PurePosixPath(file.path).name
            files.setdefault(file.part, {})[file.role] = File(
                path=name, sha256=file.sha256, bytes=file.bytes
            )
    parts = tuple(
        Part(name=name, signature=signature, files=files.get(name, {}))
        for name, signature in told.signatures.items()
    )
    return Artifact(
        format=format, parts=parts, key=told.key, notes=told.notes, folder=folder
    )


def samples(folder: pathlib.Path, manifest: Manifest) -> "dict[str, Array]":
    """The arrays of ``samples.npz``.

    Nothing in it is ever executed; one BundleError tells all that does not fit the
    manifest.
    """
    from edgekit.device_worker import bundled

    try:
        return bundled.load_samples(
            str(folder / SAMPLES), manifest.facts.model_dump(mode="json", by_alias=True)
        )
    except ValueError as problem:
        lines = str(problem).replace("\n", "\n  ")
        raise BundleError(
            f"The samples of {folder} cannot be used:\n  {lines}",
            fix="ship it again with 'edgekit run'",
        ) from problem
