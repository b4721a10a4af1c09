"""The results folder: a folder for each target, and ``report.json`` last.

Also what the results depend on: this machine, and the versions of packages.
"""

import functools
import json
import os
import pathlib
import platform
import shutil
import uuid
from collections.abc import Sequence
from typing import Any

from edgekit.artifact import Artifact
from edgekit.bundles.bundle import (
    EVIDENCE,
    MANIFEST,
    BundleContents,
    add_contents,
)
from edgekit.cache import digest, make_folder, sync_folder, write_text, writing
from edgekit.errors import CacheError
from edgekit.report import (
    FILE_NAME,
    ArtifactReport,
    Report,
    TargetReport,
    describe,
)


def ship(
    artifact: Artifact,
    target: TargetReport,
    out: pathlib.Path,
    contents: BundleContents | None = None,
) -> ArtifactReport:
    """Put a winner's files, the bundle's contents and the manifest into ``out/<target>``.

    The folder is replaced atomically: on failure the old one stays. Evidence that other
    hosts measured for the same artifact is kept.

    Returns the artifact's entry for the report, with the paths of its files.
    """
    final = out / target.name
    partial = out / f".{target.name}.{uuid.uuid4().hex}.partial"
    entry = relocate(describe(artifact), artifact, target.name)
    with writing(out):
        partial.mkdir(parents=True)
        try:
            _copy_files(artifact, partial)
            facts = None
            if contents is not None:
                added = add_contents(contents, artifact, partial)
                facts = added.model_dump(mode="json", by_alias=True)
            if (
                _shipped_key(final) == artifact.key
                and (final / EVIDENCE).is_dir()
            ):
                shutil.copytree(final / EVIDENCE, partial / EVIDENCE)
            manifest = {
                "target": target.name,
                "format": artifact.format,
                "runtime": target.runtime,
                "scheme": target.winner,
                **entry.model_dump(mode="json"),
                "bundle": facts,
            }
            write_text(
                partial / MANIFEST, json.dumps(manifest, indent=1) + "\n"
            )
            _replace(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return entry


def _copy_files(artifact: Artifact, folder: pathlib.Path) -> None:
    for part in artifact.parts:
        for file in part.files.values():
            shutil.copyfile(artifact.folder / file.path, folder / file.path)


def relocate(
    entry: ArtifactReport, artifact: Artifact, folder: str
) -> ArtifactReport:
    """An artifact's entry with the path of each file in a folder of the results."""
    files = []
    for file in entry.files:
        name = artifact.part(file.part).files[file.role].path
        files.append(file.model_copy(update={"path": f"{folder}/{name}"}))
    return entry.model_copy(update={"files": tuple(files)})


def prepare(out: pathlib.Path) -> None:
    """Remove the old report, and the leftovers of a killed run."""
    with writing(out):
        (out / FILE_NAME).unlink(missing_ok=True)
        for leftover in (*out.glob(".*.partial"), *out.glob(".*.old")):
            shutil.rmtree(leftover, ignore_errors=True)


def require_usable(out: pathlib.Path, targets: Sequence[str]) -> None:
    """Check, before any work, that the results can be written.

    Raises:
        CacheError: ``out`` cannot be written, or has a folder that edgekit did not create
            where a target's files would go.
    """
    make_folder(out)
    with writing(out):
        write_text(out / ".edgekit", "")
        (out / ".edgekit").unlink()
    for name in targets:
        if (out / name).exists() and not _shipped_before(out / name, name):
            raise CacheError(
                f"{out / name} was not created by edgekit, and the files for {name} would "
                "replace it.",
                fix="give another folder with --out",
            )


def withdraw(name: str, out: pathlib.Path) -> None:
    """Remove what an earlier run shipped for a target that has no winner now."""
    if _shipped_before(out / name, name):
        shutil.rmtree(out / name, ignore_errors=True)


def write_report(report: Report, out: pathlib.Path) -> None:
    """Write ``report.json``."""
    make_folder(out)
    write_text(out / FILE_NAME, report.to_json())


def environment(packages: dict[str, str]) -> dict[str, Any]:
    """The machine and the versions with which the numbers were taken."""
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": packages,
    }


@functools.cache
def machine() -> tuple[str | int | None, ...]:
    """What identifies this machine in the key of a measurement.

    A cache that is copied to another machine has no measurements for it.
    """
    lines = _cpuinfo()
    flags = next(
        (line for line in lines if line.startswith(("flags", "Features"))), ""
    )
    return (
        platform.machine(),
        processor(),
        os.cpu_count(),
        platform.system(),
        digest(flags),
    )


def processor() -> str:
    """The processor's name, if the system reports it."""
    line = next(
        (line for line in _cpuinfo() if line.startswith("model name")), None
    )
    if line is None:
        return platform.processor() or "unknown"
    return line.partition(":")[2].strip()


def _cpuinfo() -> list[str]:
    """What Linux reports about the processor; empty on other systems."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.is_file():
        return []
    return info.read_text(encoding="utf-8", errors="replace").splitlines()


def _shipped_before(folder: pathlib.Path, target: str) -> bool:
    """True if edgekit has shipped this target into this folder."""
    return _manifest(folder).get("target") == target


def _shipped_key(folder: pathlib.Path) -> str | None:
    return _manifest(folder).get("key")


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest that an earlier run wrote to a shipped folder; empty if there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _replace(partial: pathlib.Path, final: pathlib.Path) -> None:
    """Replace a folder in two moves; the old one is removed after the new one is there."""
    old = partial.with_suffix(".old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)
