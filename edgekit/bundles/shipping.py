"""The folder a user takes away: a folder a target with the winner's files and manifest, and
report.json last of all.
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
from edgekit.bundles.bundle import EVIDENCE, MANIFEST, Proof, add
from edgekit.cache import digest, make_folder, sync_folder, write_text, writing
from edgekit.errors import CacheError
from edgekit.report import FILE_NAME, ArtifactReport, Report, TargetReport, describe


def ship(
    artifact: Artifact, target: TargetReport, out: pathlib.Path, proof: Proof | None = None
) -> ArtifactReport:
    """Put a winner's files, what proves them, and the manifest into ``out/<target>``, whole
    or not at all; its entry with the paths filled in.

    Evidence that other hosts gave for the same artifact stays.
    """
    final, partial = out / target.name, out / f".{target.name}.{uuid.uuid4().hex}.partial"
    entry = placed(describe(artifact), artifact, target.name)
    with writing(out):
        partial.mkdir(parents=True)
        try:
            for part in artifact.parts:
                for file in part.files.values():
                    shutil.copyfile(artifact.folder / file.path, partial / file.path)
            facts = (
                None
                if proof is None
                else add(proof, artifact, partial).model_dump(mode="json", by_alias=True)
            )
            manifest = {
                "target": target.name,
                "format": artifact.format,
                "runtime": target.runtime,
                "scheme": target.winner,
                **entry.model_dump(mode="json"),
                "bundle": facts,
            }
            if _shipped_key(final) == artifact.key and (final / EVIDENCE).is_dir():
                shutil.copytree(final / EVIDENCE, partial / EVIDENCE)
            write_text(partial / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            _replace(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return entry


def placed(entry: ArtifactReport, artifact: Artifact, folder: str) -> ArtifactReport:
    """An artifact's entry with the path of each file, inside the results."""
    files = tuple(
        file.model_copy(
            update={"path": f"{folder}/{artifact.part(file.part).files[file.role].path}"}
        )
        for file in entry.files
    )
    return entry.model_copy(update={"files": files})


def prepare(out: pathlib.Path) -> None:
    """Make a results folder ready: no old report beside new files, and nothing left of a
    killed run.
    """
    with writing(out):
        (out / FILE_NAME).unlink(missing_ok=True)
        for left in (*out.glob(".*.partial"), *out.glob(".*.old")):
            shutil.rmtree(left, ignore_errors=True)


def require_usable(out: pathlib.Path, targets: Sequence[str]) -> None:
    """Raise CacheError, before any work, where the results could not be written or would
    take the place of someone's folder.
    """
    make_folder(out)
    with writing(out):
        write_text(out / ".edgekit", "")
        (out / ".edgekit").unlink()
    for name in targets:
        if (out / name).exists() and not _shipped_before(out / name, name):
            raise CacheError(
                f"{out / name} was not made by edgekit, and the files for {name} would take its place.",
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
    """The machine and the versions that the numbers were taken with."""
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
    """What a number that was measured here depends on: a cache that is carried to another
    machine holds none for it.
    """
    flags = next(
        (line for line in _cpuinfo() if line.startswith(("flags", "Features"))), ""
    )
    return platform.machine(), processor(), os.cpu_count(), platform.system(), digest(flags)


def processor() -> str:
    """The processor's own name where the system tells it."""
    named = next((line for line in _cpuinfo() if line.startswith("model name")), None)
    return (
        platform.processor() or "unknown"
        if named is None
        else named.partition(":")[2].strip()
    )


def _cpuinfo() -> list[str]:
    """What Linux tells of the processor; nothing elsewhere."""
    info = pathlib.Path("/proc/cpuinfo")
    return (
        info.read_text(encoding="utf-8", errors="replace").splitlines()
        if info.is_file()
        else []
    )


def _shipped_before(folder: pathlib.Path, target: str) -> bool:
    """True where edgekit has shipped this target into this folder."""
    return _manifest(folder).get("target") == target


def _shipped_key(folder: pathlib.Path) -> str | None:
    return _manifest(folder).get("key")


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    """What an earlier run has written of a shipped folder; nothing where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _replace(partial: pathlib.Path, final: pathlib.Path) -> None:
    """Put a folder in the place of another in two moves; the old one is removed after the
    new one stands.
    """
    old = partial.with_suffix(".old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)
