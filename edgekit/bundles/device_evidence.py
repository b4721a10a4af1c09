"""Evidence that was measured on a device and copied back.

Either what ``verify.py --json`` wrote, or the files of trtexec on a machine with a GPU.
"""

import pathlib
import re
from typing import TYPE_CHECKING, Any

from edgekit.bundles import bundle as bundles
from edgekit.bundles.bundle import Manifest
from edgekit.bundles.evidence import (
    judge_outputs,
    now,
    store_evidence,
    verdict_on,
)
from edgekit.device_worker import bundled
from edgekit.errors import BundleError
from edgekit.formats.tensorrt import device_results
from edgekit.hosts.responses import to_printable
from edgekit.measurement import Measurement, Verdict, unmeasured
from edgekit.report import EvidenceReport
from edgekit.value import Value, parse, strict_json

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: The largest file that is read, in bytes.
_MAX_BYTES = 64 << 20
#: The longest text in a file that is shown.
_MAX_TEXT = 2000


class ScriptResult(Value):
    """What ``python verify.py --json FILE`` writes on a device."""

    key: str
    bundle: str
    verdict: Verdict
    where: str
    when: str
    machine: str
    versions: dict[str, str]
    measurements: tuple[Measurement, ...]


def import_results(
    folder: pathlib.Path, results: pathlib.Path, device: str
) -> EvidenceReport:
    """Store in a bundle what a device measured, and return it.

    Args:
        folder: the bundle.
        results: the file of ``verify.py``, or the folder with the files of trtexec.
        device: the user's name for the device.

    Raises:
        BundleError: the bundle is not valid, or the results are of another file.
        RunnerError: the results cannot be read. Nothing is stored then.
    """
    manifest = bundles.load(folder)
    name = to_printable(device)
    if results.is_file():
        fields = _from_script(manifest, results)
    else:
        fields = _from_trtexec(manifest, folder, results, name)
    report = EvidenceReport.model_validate(
        {
            **fields,
            "host": name,
            "key": manifest.key,
            "bundle": manifest.facts.id,
            "verdict": verdict_on(fields["measurements"]),
        }
    )
    store_evidence(folder, manifest, report)
    return report


def _from_script(manifest: Manifest, path: pathlib.Path) -> dict[str, Any]:
    """The fields of an EvidenceReport.

    The verdict in the file is not trusted: it is computed again from the measurements.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        data = _sanitize(strict_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise BundleError(
            f"{path} cannot be read: {problem}.",
            fix="on the device: python verify.py --json results.json",
        ) from problem
    result = parse(ScriptResult, data, str(path), BundleError)
    if (result.key, result.bundle) != (manifest.key, manifest.facts.id):
        raise BundleError(
            f"{path} is about another file than this bundle's.",
            fix="copy this bundle to the device and run its verify.py there",
        )
    return dict(result)


def _from_trtexec(
    manifest: Manifest, folder: pathlib.Path, results: pathlib.Path, device: str
) -> dict[str, Any]:
    if not any(file.role == "recipe" for file in manifest.files):
        raise BundleError(
            f"{folder} has no engine recipe, so trtexec cannot have written results for it.",
            fix="on the device: python verify.py --json results.json; then name that file "
            "with --results",
        )
    samples = bundles.samples(folder, manifest)
    first = {name: array[:1] for name, array in samples.items()}
    fed = set(bundled.select(first, "input"))
    has_outputs = {
        name: {spec.name for spec in signature.inputs} <= fed
        for name, signature in manifest.signatures.items()
    }
    parts = device_results.read(results, has_outputs)
    where = f"{device}: trtexec, as reported by its files"
    outputs: dict[str, Array] = {}
    for part in parts.values():
        outputs.update(part.outputs or {})
    measurements = [
        *_compare(manifest, first, outputs, where),
        *device_results.measure(parts, where),
    ]
    return {"where": where, "when": now(), "measurements": measurements}


def _compare(
    manifest: Manifest,
    arrays: "dict[str, Array]",
    outputs: "dict[str, Array]",
    where: str,
) -> list[Measurement]:
    """Parity of the first sample, by the rules of every other host.

    It is unmeasured if a part's inputs come from another part.
    """
    expected = set(bundled.select(arrays, "expected"))
    if len(manifest.signatures) > 1 and not expected <= set(outputs):
        reason = "the inputs of some parts come from other parts, and were not given to trtexec"
        return [unmeasured("parity", "output steps", where, reason)]
    decoded = dict(outputs)
    for signature in manifest.signatures.values():
        for spec in signature.outputs:
            array = outputs.get(spec.name)
            if array is not None and array.ndim == len(spec.dims):
                decoded[spec.name] = spec.decode(array)
    facts = manifest.facts.model_dump(mode="json", by_alias=True)
    return judge_outputs(arrays, decoded, facts, where)


def _sanitize(value: Any) -> Any:
    """The same data, without control characters in any text."""
    if isinstance(value, dict):
        return {
            to_printable(key): _sanitize(inner) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_sanitize(inner) for inner in value]
    return to_printable(value, _MAX_TEXT) if isinstance(value, str) else value


def default_name(results: pathlib.Path) -> str:
    """A name for a device if the user names none: that of the copied file or folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", results.resolve().stem) or "device"
