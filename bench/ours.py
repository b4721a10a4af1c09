"""edgekit's winner, made the way a user makes it: ``edgekit run int8``, which races every
scheme of the target.
"""

import json
import pathlib
import subprocess
import sys

from bench.networks import CACHE, ROOT, Network, Runtime
from edgekit.artifact import Artifact, File, Part
from edgekit.bundles.bundle import MANIFEST
from edgekit.report import Report, load
from edgekit.signature import Signature

TARGETS: dict[str, str] = {"onnx": "cpu-onnx", "tflite": "mobile-tflite"}


class NoWinnerError(Exception):
    """edgekit shipped no file; the message is the reason."""


def run(network: Network, runtime: Runtime) -> tuple[str, Artifact]:
    """Run edgekit; the scheme that won, and its file."""
    folder, weights = (
        CACHE / "runs" / f"{network.name}-{runtime}",
        network.weights(),
    )
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "run",
        "int8",
        "--model",
        f"{network.file}:model",
        "--task",
        f"{network.file}:task",
        "--target",
        TARGETS[runtime],
        "--set",
        f"gates.accuracy_drop={network.gate}",
        "--out",
        str(folder),
        "--cache",
        str(CACHE / "edgekit"),
        *([] if weights is None else ["--weights", str(weights)]),
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open(
        "w", encoding="utf-8"
    ) as log:
        code = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code not in (0, 1, 3):
        raise NoWinnerError(
            f"edgekit ended with {code}: {_last_line(pathlib.Path(log.name))}"
        )
    report = load(folder)
    (target,) = report.targets
    if target.winner is None:
        raise NoWinnerError(target.chosen)
    return target.winner, shipped(report, folder)


def shipped(report: Report, folder: pathlib.Path) -> Artifact:
    """The files that edgekit shipped, as an artifact that can be run."""
    (target,) = report.targets
    manifest = json.loads(
        (folder / target.name / MANIFEST).read_text(encoding="utf-8")
    )
    files: dict[str, dict[str, File]] = {}
    for row in manifest["files"]:
        files.setdefault(row["part"], {})[row["role"]] = File(
            path=pathlib.PurePosixPath(row["path"]).name,
            sha256=row["sha256"],
            bytes=row["bytes"],
        )
    parts = tuple(
        Part(
            name=name,
            signature=Signature.model_validate(signature),
            files=files[name],
        )
        for name, signature in manifest["signatures"].items()
    )
    return Artifact(
        format=manifest["format"], parts=parts, folder=folder / target.name
    )


def _last_line(path: pathlib.Path) -> str:
    lines = [
        line.strip()
        for line in path.read_text(
            encoding="utf-8", errors="replace"
        ).splitlines()
        if line.strip()
    ]
    return next(
        (line for line in lines if line.startswith("Error")),
        lines[-1] if lines else "it printed nothing",
    )[:200]
