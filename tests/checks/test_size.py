"""Sizes are the bytes of the model files."""

from edgekit.artifact import Artifact, File, Part
from edgekit.checks.size import size_bytes, size_ratio
from edgekit.signature import Signature, TensorSpec

SPEC = TensorSpec(name="x", dtype="float32", dims=("batch", 1))


def artifact(*sizes: int) -> Artifact:
    """An ONNX artifact with a part of each size, each with a log next to it."""
    signature = Signature(inputs=(SPEC,), outputs=(SPEC,))
    files = [
        {
            "model": File(path=f"{k}.onnx", bytes=size),
            "log": File(path=f"{k}.log", bytes=7),
        }
        for k, size in enumerate(sizes)
    ]
    return Artifact(
        format="onnx",
        parts=tuple(
            Part(name=str(k), signature=signature, files=file)
            for k, file in enumerate(files)
        ),
    )


def test_the_size_is_that_of_all_model_files() -> None:
    """Two parts count both, their logs do not count."""
    assert size_bytes(artifact(100, 50)).value == 150


def test_the_ratio_is_how_many_times_smaller() -> None:
    """400 bytes against 100 is 4 times smaller; both sizes are in the detail."""
    measured = size_ratio(artifact(300, 100), artifact(100))
    assert (measured.value, measured.unit, measured.detail) == (
        4.0,
        "x",
        {"reference_bytes": 400, "bytes": 100},
    )


def test_an_unsealed_artifact_is_unmeasured() -> None:
    """Sizes that are not known yet are unmeasured, not as 0 or as a division by
    zero.
    """
    assert size_bytes(artifact(0)).verdict == "unmeasured"
    assert (
        size_ratio(artifact(0), artifact(1)).verdict
        == size_ratio(artifact(1), artifact(0)).verdict
        == "unmeasured"
    )
