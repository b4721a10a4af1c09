"""The folder that a user takes away: whole folders or none, and every file with its hash."""

import json
import pathlib

import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.bundles import shipping
from edgekit.cache import file_digest
from edgekit.errors import CacheError
from edgekit.report import TargetReport
from edgekit.signature import Signature, TensorSpec

TARGET = TargetReport(
    name="cpu",
    title="cpu",
    format="onnx",
    runtime="onnxruntime",
    verdict="pass",
    winner="float",
    chosen="alone",
)


@pytest.fixture
def artifact(tmp_path: pathlib.Path) -> Artifact:
    """An artifact of two parts."""
    signature = Signature(
        inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 2)),),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 2)),
        ),
    )
    parts = []
    for name in ("encoder", "decoder"):
        path = tmp_path / f"{name}.onnx"
        path.write_text(name)
        parts.append(
            Part(
                name=name,
                signature=signature,
                files={
                    "model": File(
                        path=path.name, sha256=file_digest(path), bytes=7
                    )
                },
            )
        )
    return Artifact(format="onnx", parts=tuple(parts), key="k", folder=tmp_path)


def test_every_part_is_shipped_with_its_hash(
    artifact: Artifact, tmp_path: pathlib.Path
) -> None:
    """The files of all parts lie in the target's folder; the entry and the manifest name
    them with hash and size.
    """
    out = tmp_path / "out"
    entry = shipping.ship(artifact, TARGET, out)
    assert [file.path for file in entry.files] == [
        "cpu/encoder.onnx",
        "cpu/decoder.onnx",
    ]
    for file in entry.files:
        assert file.path is not None
        assert file_digest(out / file.path) == file.sha256
    manifest = json.loads((out / "cpu" / "manifest.json").read_text())
    assert (manifest["target"], manifest["scheme"], manifest["key"]) == (
        "cpu",
        "float",
        "k",
    )
    assert set(manifest["signatures"]) == {"encoder", "decoder"}


def test_shipping_again_replaces_the_folder(
    artifact: Artifact, tmp_path: pathlib.Path
) -> None:
    """What an earlier run shipped is gone afterwards, and nothing else is left beside the
    folder.
    """
    out = tmp_path / "out"
    shipping.ship(artifact, TARGET, out)
    (out / "cpu" / "old.onnx").write_text("old")
    shipping.prepare(out)
    shipping.ship(artifact, TARGET, out)
    assert sorted(path.name for path in (out / "cpu").iterdir()) == [
        "decoder.onnx",
        "encoder.onnx",
        "manifest.json",
    ]
    assert [path.name for path in out.iterdir()] == ["cpu"]


def test_a_failure_keeps_what_was_shipped_before(
    artifact: Artifact, tmp_path: pathlib.Path
) -> None:
    """When a file cannot be copied the old folder stays as it was."""
    out = tmp_path / "out"
    shipping.ship(artifact, TARGET, out)
    (artifact.folder / "decoder.onnx").unlink()
    with pytest.raises(FileNotFoundError):
        shipping.ship(artifact, TARGET, out)
    assert sorted(path.name for path in (out / "cpu").iterdir()) == [
        "decoder.onnx",
        "encoder.onnx",
        "manifest.json",
    ]
    assert [path.name for path in out.iterdir()] == ["cpu"]


def test_a_target_without_a_winner_ships_nothing(
    artifact: Artifact, tmp_path: pathlib.Path
) -> None:
    """An old winner is withdrawn."""
    out = tmp_path / "out"
    shipping.ship(artifact, TARGET, out)
    shipping.withdraw("cpu", out)
    assert list(out.iterdir()) == []


def test_a_folder_that_is_not_edgekits_is_not_touched(
    tmp_path: pathlib.Path,
) -> None:
    """A folder that happens to have a target's name is refused before any work, and never
    removed.
    """
    out = tmp_path / "out"
    (out / "cpu").mkdir(parents=True)
    (out / "cpu" / "thesis.txt").write_text("mine")
    with pytest.raises(CacheError, match="not created by edgekit"):
        shipping.require_usable(out, ["cpu"])
    shipping.withdraw("cpu", out)
    assert (out / "cpu" / "thesis.txt").read_text() == "mine"


def test_a_new_run_takes_the_old_report_away(
    artifact: Artifact, tmp_path: pathlib.Path
) -> None:
    """No old report stands beside new files, and nothing is left of a run that was killed."""
    out = tmp_path / "out"
    shipping.ship(artifact, TARGET, out)
    (out / "report.json").write_text("{}")
    (out / ".cpu.0.partial").mkdir()
    shipping.prepare(out)
    assert [path.name for path in out.iterdir()] == ["cpu"]


def test_the_machine_is_told_by_more_than_its_name() -> None:
    """Measurements are kept for this processor, its features and its cores."""
    assert len(shipping.machine()) == 5
    assert shipping.machine() == shipping.machine()


def test_the_environment_names_the_machine() -> None:
    """The report tells processor, cores, system and Python."""
    told = shipping.environment({"numpy": "2"})
    assert all(
        told[key]
        for key in ("machine", "processor", "cores", "system", "python")
    )
    assert told["packages"] == {"numpy": "2"}
