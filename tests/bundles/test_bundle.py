"""A bundle is read as a stranger's folder: every file under its hash, no path that leads
out, all mistakes at once.
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.bundles import bundle
from edgekit.cache import file_digest
from edgekit.errors import BundleError

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(shipped: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of a shipped bundle."""
    return pathlib.Path(
        shutil.copytree(shipped / "cpu-onnx", tmp_path / "cpu-onnx")
    )


def rewrite(folder: pathlib.Path, change: Change) -> None:
    """Change the manifest."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    change(manifest)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def test_a_bundle_holds_all_that_proves_it(folder: pathlib.Path) -> None:
    """Every file is under its hash; samples, float file and code are there; preprocessing
    is told in words.
    """
    manifest = bundle.load(folder)
    assert manifest.bundle is not None
    assert {
        "samples.npz",
        "verify.py",
        "main.onnx",
        "reference/main.onnx",
        "device_worker/evidence.py",
    } <= set(manifest.bundle.sha256)
    assert {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    } == {*manifest.bundle.sha256, bundle.MANIFEST}
    assert "float32" in manifest.bundle.preprocessing["input"]
    names = {row.name for row in manifest.bundle.shipped}
    assert {"parity", "bit_equal", "accuracy", "accuracy_drop"} <= names
    reference = bundle.reference(manifest, folder)
    assert (
        reference is not None
        and file_digest(reference.path(reference.parts[0]))
        == reference.parts[0].files["model"].sha256
    )


def test_everything_that_is_wrong_is_told_at_once(folder: pathlib.Path) -> None:
    """A changed, a missing and an unlisted file are in one error."""
    (folder / "verify.py").write_text("print('hello')")
    (folder / "samples.npz").unlink()
    rewrite(
        folder, lambda manifest: manifest["bundle"]["sha256"].pop("main.onnx")
    )
    with pytest.raises(BundleError) as raised:
        bundle.load(folder)
    assert all(
        said in raised.value.message
        for said in (
            "verify.py has the hash",
            "samples.npz is missing",
            "main.onnx: no hash is listed",
        )
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda manifest: manifest["bundle"]["sha256"].update(
                {"../../etc/passwd": "0"}
            ),
            "is not a valid name in a bundle",
        ),
        (
            lambda manifest: manifest["bundle"]["sha256"].update(
                {"/etc/passwd": "0"}
            ),
            "is not a valid name in a bundle",
        ),
        (lambda manifest: manifest.update(bundle=None), "has no samples"),
        (
            lambda manifest: manifest.update(format="onyx"),
            "Did you mean 'onnx'",
        ),
        (
            lambda manifest: manifest["bundle"].update(steps="many"),
            "bundle.steps",
        ),
        (
            lambda manifest: manifest["bundle"]["steps"].update(
                output=float("nan")
            ),
            "NaN is not valid JSON",
        ),
        (
            lambda manifest: manifest["files"][0].update(role="weights"),
            "the part 'main' has no model file",
        ),
        (lambda manifest: manifest.update(signatures={}), "names no part"),
        (
            lambda manifest: manifest.update(format="torch"),
            "no device executes the format 'torch'",
        ),
        (
            lambda manifest: manifest["signatures"]["main"]["inputs"][0].update(
                axes=[0, 9, 9, 9]
            ),
            "has the axes",
        ),
        (
            lambda manifest: manifest["signatures"]["main"]["outputs"][
                0
            ].update(dims=["batch", 10**12]),
            "has the dims",
        ),
    ],
)
def test_a_wrong_manifest_is_refused(
    folder: pathlib.Path, change: Change, said: str
) -> None:
    """A path that leads out, a folder without samples, and wrong words are refused with the
    place.
    """
    rewrite(folder, change)
    with pytest.raises(BundleError, match=said):
        bundle.load(folder)


def test_a_link_in_place_of_a_file_is_not_followed(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A file that is a link counts as missing, also where its content is right."""
    (folder / "main.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "main.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="main.onnx is missing"):
        bundle.load(folder)


def test_samples_are_never_executed(folder: pathlib.Path) -> None:
    """An array of Python objects, which numpy would unpickle, is refused."""
    import numpy

    told = bundle.load(folder)
    numpy.savez(
        folder / "samples.npz",
        **{"input:input": numpy.array([object()], dtype=object)},
    )
    with pytest.raises(
        BundleError,
        match=r"samples\.npz cannot be read: input:input.npy has the dtype object",
    ):
        bundle.samples(folder, told)


def test_a_folder_without_a_manifest_and_noise_are_told(
    tmp_path: pathlib.Path,
) -> None:
    """Neither is a traceback."""
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        bundle.load(tmp_path)
    (tmp_path / bundle.MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.load(tmp_path)
