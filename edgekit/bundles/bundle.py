"""A bundle: a shipped folder that can be verified anywhere.

It holds the files, real samples with the outputs that they gave, the gates, and the code
that executes them again.
"""

import dataclasses
import pathlib
import shutil
from typing import TYPE_CHECKING

import pydantic

from edgekit import device_worker
from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.cache import digest, file_digest, write_text
from edgekit.errors import BundleError
from edgekit.formats.tensorrt import trtexec
from edgekit.measurement import Measurement
from edgekit.report import ArtifactReport
from edgekit.signature import TensorSpec
from edgekit.target import RUNTIMES
from edgekit.value import Value, parse, strict_json

if TYPE_CHECKING:
    from edgekit.arrays import Array

SCHEMA = 2
_LARGEST_DIM = 1 << 31
MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
#: The folder of the float file, and that of other hosts' measurements.
REFERENCE = "reference"
EVIDENCE = "evidence"
#: What a user starts on the device.
SCRIPT = "verify.py"
#: The folder with the code that it imports.
CODE = "device_worker"
_PROGRAM = '''"""Verify this bundle on this machine: python verify.py.

Needs only numpy and the runtime.
"""

import pathlib
import sys

from device_worker.evidence import main

sys.exit(main(str(pathlib.Path(__file__).resolve().parent)))
'''


class ReferenceReport(ArtifactReport):
    """The float file that speed is compared with, in the folder ``reference``."""

    format: FormatName


class Facts(Value):
    """What the samples are, how they are judged, and what was measured at first.

    Attributes:
        id: the hash of everything that evidence depends on, which is these facts without
            the measurements. Evidence with another id does not count.
        sha256: ``folder/name`` to hash, of every file except the manifest and evidence.
        steps: the quantization step of each output, in real numbers.
        parity_steps: how many of these steps two machines may differ by.
        where: where the expected outputs were computed.
        one_by_one: samples are executed one at a time, because the file finds its scales at
            run time.
        stands_in: what a processor stands in for, so that its times say nothing; empty if
            the file is for a processor.
        device_only: the target's own device must be timed; a speed that is measured
            elsewhere is reported, and passes or fails nothing.
        shipped: the same checks where the bundle was built, and the race's own numbers.
        preprocessing: for each input, what the task provides and what the file accepts.
    """

    schema_version: int = pydantic.Field(SCHEMA, alias="schema")
    edgekit: str
    id: str = ""
    sha256: dict[str, str] = pydantic.Field(default_factory=dict)
    samples: int
    metric: str
    steps: dict[str, float]
    parity_steps: float
    gates: dict[str, float]
    where: str
    one_by_one: bool = False
    stands_in: str = ""
    device_only: bool = False
    reference: ReferenceReport | None = None
    shipped: tuple[Measurement, ...] = ()
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
        """What makes the folder a bundle; ``read`` returns no manifest without it."""
        assert self.bundle is not None
        return self.bundle


@dataclasses.dataclass(frozen=True)
class BundleContents:
    """What is added to shipped files to make a bundle.

    Attributes:
        samples: an .npz file with the arrays ``input:NAME``, ``expected:NAME``,
            ``reference:NAME`` and ``labels``.
        reference: the float file, if it is shipped too.
    """

    facts: Facts
    samples: pathlib.Path
    reference: Artifact | None = None


def add_contents(
    contents: BundleContents, artifact: Artifact, folder: pathlib.Path
) -> Facts:
    """Add samples, float file and code to the shipped files of ``folder``.

    Returns the facts with the hash of every file.
    """
    shutil.copyfile(contents.samples, folder / SAMPLES)
    write_text(folder / SCRIPT, _PROGRAM)
    (folder / CODE).mkdir()
    for path in sorted(
        pathlib.Path(device_worker.__file__).parent.glob("*.py")
    ):
        shutil.copyfile(path, folder / CODE / path.name)
    if contents.reference is not None:
        _copy_reference(contents.reference, folder / REFERENCE)
    if any("recipe" in part.files for part in artifact.parts):
        _write_trtexec_inputs(contents.samples, artifact, folder)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    hashes = {name: file_digest(folder / name) for name in names}
    facts = contents.facts.model_copy(update={"sha256": hashes})
    identity = facts.model_dump(
        mode="json", by_alias=True, exclude={"id", "shipped"}
    )
    return facts.model_copy(update={"id": digest(identity)})


def _copy_reference(reference: Artifact, folder: pathlib.Path) -> None:
    folder.mkdir()
    for part in reference.parts:
        for role, file in part.loaded_files.items():
            shutil.copyfile(reference.path(part, role), folder / file.path)


def _write_trtexec_inputs(
    samples: pathlib.Path, artifact: Artifact, folder: pathlib.Path
) -> None:
    """Write the first sample as the raw files that the lines for trtexec name.

    Only for parts whose inputs all come from the task.
    """
    import numpy

    from edgekit.device_worker import bundled

    with numpy.load(samples, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    inputs = bundled.select(arrays, "input")
    for part in artifact.parts:
        names = [spec.name for spec in part.signature.inputs]
        if "recipe" in part.files and set(names) <= set(inputs):
            fed = {name: inputs[name] for name in names}
            trtexec.write_inputs(part.name, part.signature, fed, folder)


def read(folder: pathlib.Path) -> Manifest:
    """A bundle's manifest. Its files are not checked.

    Raises:
        BundleError: there is no valid manifest, or it has no samples.
    """
    path = folder / MANIFEST
    try:
        data = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder} has no {MANIFEST}.",
            fix="name a folder that 'edgekit run' has shipped, such as runs/digits/cpu-onnx",
        ) from None
    except (OSError, ValueError) as problem:
        raise BundleError(
            f"{path} cannot be read: {problem}.",
            fix="ship it again with 'edgekit run'",
        ) from problem
    manifest = parse(Manifest, data, str(path), BundleError)
    if manifest.bundle is None:
        raise BundleError(
            f"{folder} has no samples to verify with.",
            fix="ship it again with this edgekit; what is cached is not computed twice",
        )
    return manifest


def load(folder: pathlib.Path) -> Manifest:
    """Read a bundle's manifest and check every file against it.

    Raises:
        BundleError: it lists everything that is missing, modified or invalid.
    """
    manifest = read(folder)
    facts = manifest.facts
    problems = _find_wrong_parts(manifest, "the manifest")
    if facts.reference is not None:
        problems += _find_wrong_parts(facts.reference, "the float file")
    for name, expected in facts.sha256.items():
        problem = _file_problem(folder, name, expected)
        if problem:
            problems.append(problem)
    for file in manifest.files:
        if (
            file.path
            and pathlib.PurePosixPath(file.path).name not in facts.sha256
        ):
            problems.append(f"{file.path}: no hash is listed")
    if problems:
        listing = "\n  ".join(problems)
        raise BundleError(
            f"{folder} was modified after it was shipped, or is incomplete:\n  {listing}",
            fix="copy the entire folder again, or ship it again with 'edgekit run'",
        )
    return manifest


def _find_wrong_parts(
    entry: "Manifest | ReferenceReport", where: str
) -> list[str]:
    """Why an entry cannot be opened as an artifact: one line for each problem.

    Every part needs a model file, and a signature that fits one.
    """
    problems = []
    if entry.format not in RUNTIMES:
        problems.append(
            f"{where}: no device executes the format {entry.format!r}"
        )
    models = {
        file.part for file in entry.files if file.role == "model" and file.path
    }
    if not entry.signatures:
        problems.append(f"{where} names no part")
    for part, signature in entry.signatures.items():
        if part not in models:
            problems.append(f"{where}: the part {part!r} has no model file")
        for spec in (*signature.inputs, *signature.outputs):
            problems += _find_wrong_dims(spec, where)
    return problems


def _find_wrong_dims(spec: TensorSpec, where: str) -> list[str]:
    problems = []
    if spec.axes is not None and sorted(spec.axes) != list(
        range(len(spec.dims))
    ):
        axes, count = list(spec.axes), len(spec.dims)
        problems.append(
            f"{where}: {spec.name} has the axes {axes} for {count} dims"
        )
    sizes = [dim for dim in spec.dims if isinstance(dim, int)]
    if not spec.dims or any(not 0 < size < _LARGEST_DIM for size in sizes):
        problems.append(f"{where}: {spec.name} has the dims {list(spec.dims)}")
    return problems


def _file_problem(folder: pathlib.Path, name: str, expected: str) -> str | None:
    """What is wrong with one file, or None.

    A name that leads out of the folder is never opened.
    """
    inside = pathlib.PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name:
        return f"{name!r} is not a valid name in a bundle"
    path = folder / inside
    if path.is_symlink() or not path.is_file():
        return f"{name} is missing"
    actual = file_digest(path)
    if actual == expected:
        return None
    return f"{name} has the hash {actual[:12]}..., expected {expected[:12]}..."


def artifact(manifest: Manifest, folder: pathlib.Path) -> Artifact:
    """The shipped files as an artifact that a host can open."""
    return _as_artifact(manifest, manifest.format, folder)


def reference(manifest: Manifest, folder: pathlib.Path) -> Artifact | None:
    """The float file as an artifact; None if the bundle does not ship it."""
    entry = manifest.facts.reference
    return (
        None
        if entry is None
        else _as_artifact(entry, entry.format, folder / REFERENCE)
    )


def _as_artifact(
    entry: ArtifactReport, format: FormatName, folder: pathlib.Path
) -> Artifact:
    files: dict[str, dict[str, File]] = {}
    for file in entry.files:
        if file.path is not None:
            name = pathlib.PurePosixPath(file.path).name
            shipped = File(path=name, sha256=file.sha256, bytes=file.bytes)
            files.setdefault(file.part, {})[file.role] = shipped
    parts = tuple(
        Part(name=name, signature=signature, files=files.get(name, {}))
        for name, signature in entry.signatures.items()
    )
    return Artifact(
        format=format,
        parts=parts,
        key=entry.key,
        notes=entry.notes,
        folder=folder,
    )


def samples(folder: pathlib.Path, manifest: Manifest) -> "dict[str, Array]":
    """The arrays of ``samples.npz``. Nothing in the file is ever executed.

    Raises:
        BundleError: it lists everything that does not fit the manifest.
    """
    from edgekit.device_worker import bundled

    facts = manifest.facts.model_dump(mode="json", by_alias=True)
    try:
        return bundled.load_samples(str(folder / SAMPLES), facts)
    except ValueError as problem:
        lines = str(problem).replace("\n", "\n  ")
        raise BundleError(
            f"The samples of {folder} cannot be used:\n  {lines}",
            fix="ship it again with 'edgekit run'",
        ) from problem
