"""Evidence that was taken on a device and carried back: what ``verify.py --json`` wrote, or
the files of trtexec on a machine with a GPU.
"""

import pathlib
import re
from typing import TYPE_CHECKING, Any

from edgekit.bundles import bundle as bundles
from edgekit.bundles.bundle import Manifest
from edgekit.bundles.evidence import judged, keep, now, verdict_on
from edgekit.device_worker import bundled
from edgekit.errors import BundleError
from edgekit.formats.tensorrt import device_results
from edgekit.hosts.responses import plain
from edgekit.measurement import Measurement, Verdict, unmeasured
from edgekit.report import EvidenceReport
from edgekit.value import Value, parse, strict_json

if TYPE_CHECKING:
    from edgekit.formats.tensorrt.device_results import Array

#: The longest file that is read.
_LARGEST = 64 << 20


class Carried(Value):
    """What ``python verify.py --json FILE`` writes on a device."""

    key: str
    bundle: str
    verdict: Verdict
    where: str
    when: str
    machine: str
    versions: dict[str, str]
    measurements: tuple[Measurement, ...]


def take(folder: pathlib.Path, results: pathlib.Path, device: str) -> EvidenceReport:
    """Keep in a bundle what a device brought back, and tell it; ``device`` is what the user
    calls it.

    Raises BundleError for results of another file, RunnerError for what cannot be read.
    Nothing is kept then.
    """
    manifest = bundles.load(folder)
    name = plain(device)
    found = (
        _from_script(manifest, results)
        if results.is_file()
        else _from_trtexec(manifest, folder, results, name)
    )
    report = EvidenceReport.model_validate(
        {
            **found,
            "host": name,
            "key": manifest.key,
            "bundle": manifest.facts.id,
            "verdict": verdict_on(found["measurements"]),
        }
    )
    keep(folder, manifest, report)
    return report


def _from_script(manifest: Manifest, path: pathlib.Path) -> dict[str, Any]:
    """The fields of an EvidenceReport.

    The verdict in the file is not believed: it is drawn from the rows again.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        data = _plain(strict_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise BundleError(
            f"{path} cannot be read: {problem}.",
            fix="on the device: python verify.py --json results.json",
        ) from problem
    found = parse(Carried, data, str(path), BundleError)
    if (found.key, found.bundle) != (manifest.key, manifest.facts.id):
        raise BundleError(
            f"{path} is about another file than this bundle's.",
            fix="copy this bundle to the device and run its verify.py there",
        )
    return dict(found)


def _from_trtexec(
    manifest: Manifest, folder: pathlib.Path, results: pathlib.Path, device: str
) -> dict[str, Any]:
    if not any(file.role == "recipe" for file in manifest.files):
        raise BundleError(
            f"{folder} holds no engine recipe, so there is nothing that trtexec could have written.",
            fix="on the device: python verify.py --json results.json; then name that file with --results",
        )
    arrays = {name: array[:1] for name, array in bundles.samples(folder, manifest).items()}
    fed = bundled.select(arrays, "input").keys()
    answered = {
        name: {spec.name for spec in signature.inputs} <= fed
        for name, signature in manifest.signatures.items()
    }
    found = device_results.read(results, answered)
    where = f"{device}: trtexec, as told by its files"
    ours = {
        name: array
        for part in found.values()
        for name, array in (part.outputs or {}).items()
    }
    return {
        "where": where,
        "when": now(),
        "measurements": [
            *_answers(manifest, arrays, ours, where),
            *device_results.measured(found, where),
        ],
    }


def _answers(
    manifest: Manifest, arrays: "dict[str, Array]", ours: "dict[str, Array]", where: str
) -> list[Measurement]:
    """Parity of the first sample, by the rules of every other host; unmeasured where a
    part's inputs come from another part.
    """
    specs = {
        spec.name: spec
        for signature in manifest.signatures.values()
        for spec in signature.outputs
    }
    if (
        len(manifest.signatures) > 1
        and not bundled.select(arrays, "expected").keys() <= ours.keys()
    ):
        return [
            unmeasured(
                "parity",
                "output steps",
                where,
                "the inputs of some parts come from other parts, and were not given to trtexec",
            )
        ]
    decoded = {
        name: specs[name].decode(array)
        for name, array in ours.items()
        if name in specs and array.ndim == len(specs[name].dims)
    }
    return judged(
        arrays,
        {**ours, **decoded},
        manifest.facts.model_dump(mode="json", by_alias=True),
        where,
    )


def _plain(value: Any) -> Any:
    """Every text without what a terminal would act on."""
    if isinstance(value, dict):
        return {plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return plain(value, 2000) if isinstance(value, str) else value


def default_name(results: pathlib.Path) -> str:
    """What a device is called where the user does not say: the name of the file or folder
    that it brought back.
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "-", results.resolve().stem) or "device"
