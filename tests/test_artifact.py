"""Artifacts: one or more parts, each with files and a signature, run as a chain."""

import pathlib

import pydantic
import pytest

from edgekit.artifact import Artifact, File, Part, chain, outputs_of
from edgekit.signature import Signature, TensorSpec


def part(name: str, takes: tuple[str, ...], gives: str, **files: File) -> Part:
    """A part that maps named tensors to one other."""

    def spec(tensor: str) -> TensorSpec:
        return TensorSpec(name=tensor, dtype="float32", dims=("batch", 2))

    return Part(
        name=name,
        signature=Signature(
            inputs=tuple(map(spec, takes)), outputs=(spec(gives),)
        ),
        files=files,
    )


ENCODER = part(
    "encoder",
    ("image",),
    "code",
    model=File(path="encoder.onnx", sha256="a", bytes=10),
)
DECODER = part(
    "decoder",
    ("code", "image"),
    "answer",
    model=File(path="decoder.onnx", sha256="b", bytes=5),
    log=File(path="x.json", bytes=100),
)


def test_parts_are_run_in_order_and_fed_by_name() -> None:
    """A decoder gets the encoder's output and the data; the last part's outputs are the
    answer.
    """
    seen = []

    def call(one: Part, feeds: dict[str, float]) -> dict[str, float]:
        seen.append((one.name, sorted(feeds)))
        return {one.signature.outputs[0].name: sum(feeds.values()) + 1}

    assert chain((ENCODER, DECODER), call, {"image": 2.0}) == {"answer": 6.0}
    assert seen == [("encoder", ["image"]), ("decoder", ["code", "image"])]


def test_both_of_two_towers_are_outputs() -> None:
    """What no later part takes is the model's output, so that no tower goes unverified."""
    towers = (
        part("image_tower", ("image",), "image_code"),
        part("text_tower", ("text",), "text_code"),
    )
    assert [spec.name for spec in outputs_of(towers)] == [
        "image_code",
        "text_code",
    ]
    found = chain(
        towers,
        lambda tower, feeds: {
            tower.signature.outputs[0].name: sum(feeds.values())
        },
        {"image": 1, "text": 2},
    )
    assert found == {"image_code": 1, "text_code": 2}


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/b", "", ".hidden", "manifest.json", "a\\b"]
)
def test_a_file_lies_inside_its_folder(path: str) -> None:
    """A name that leads elsewhere, or to the manifest, is refused when the value is made."""
    with pytest.raises(
        pydantic.ValidationError, match="not the name of a file"
    ):
        File(path=path)


def test_size_counts_what_is_shipped() -> None:
    """The bytes of the model files count, a build log does not; a PyTorch part counts all
    its files.
    """
    assert Artifact(format="onnx", parts=(ENCODER, DECODER)).size_bytes == 15
    torch = part(
        "main",
        ("image",),
        "answer",
        weights=File(path="w", bytes=3),
        architecture=File(path="a", bytes=4),
    )
    assert Artifact(format="torch", parts=(torch,)).size_bytes == 7


def test_separate_weights_are_loaded_with_the_model() -> None:
    """Both files of a format that stores weights separately count; its log does not."""
    two_files = part(
        "main",
        ("image",),
        "answer",
        model=File(path="main.xml", bytes=1),
        weights=File(path="main.bin", bytes=20),
        log=File(path="x.json", bytes=300),
    )
    assert list(two_files.loaded_files) == ["model", "weights"]
    assert Artifact(format="onnx", parts=(two_files,)).size_bytes == 21


def test_an_artifact_survives_being_written_down() -> None:
    """All but the folder, which is where it lies and not what it is, comes back from JSON."""
    artifact = Artifact(
        format="onnx",
        parts=(ENCODER, DECODER),
        step="x",
        key="k",
        notes={"a": [1]},
        folder=pathlib.Path("/somewhere"),
    )
    again = Artifact.model_validate_json(artifact.model_dump_json())
    assert again == artifact.model_copy(update={"folder": pathlib.Path()})
    assert artifact.path(ENCODER) == pathlib.Path("/somewhere/encoder.onnx")


@pytest.mark.parametrize(
    "parts", [(), (ENCODER, ENCODER)], ids=["none", "twice the same name"]
)
def test_parts_must_be_there_and_differ(parts: tuple[Part, ...]) -> None:
    """An artifact with no part, or with two of one name, cannot be made."""
    with pytest.raises(pydantic.ValidationError):
        Artifact(format="onnx", parts=parts)
