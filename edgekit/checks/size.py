"""The sizes of the shipped files."""

from edgekit.artifact import Artifact
from edgekit.formats import FORMATS
from edgekit.measurement import Measurement, unmeasured

WHERE = "the file itself"
HOW = "bytes of the files of every part that the runtime loads"
UNSEALED = "the artifact is not sealed, so its sizes are unknown"


def size_bytes(artifact: Artifact) -> Measurement:
    """Return the bytes of the files that the runtime loads, of every part."""
    if artifact.size_bytes == 0:
        return unmeasured("size_bytes", "bytes", WHERE, UNSEALED)
    # An engine also holds its kernels' text, so its own size does not measure the
    # compressed network.
    record = FORMATS.get(artifact.format)
    how = HOW
    if record is not None and record.size_note:
        how = record.size_note
    return Measurement(
        name="size_bytes",
        value=artifact.size_bytes,
        unit="bytes",
        where=WHERE,
        how=how,
    )


def size_ratio(reference: Artifact, candidate: Artifact) -> Measurement:
    """Return how many times smaller the candidate is than the reference."""
    if reference.size_bytes == 0 or candidate.size_bytes == 0:
        return unmeasured("size_ratio", "x", WHERE, UNSEALED)
    how = size_bytes(candidate).how
    detail = {
        "reference_bytes": reference.size_bytes,
        "bytes": candidate.size_bytes,
    }
    return Measurement(
        name="size_ratio",
        value=reference.size_bytes / candidate.size_bytes,
        unit="x",
        where=WHERE,
        how=how,
        detail=detail,
    )
