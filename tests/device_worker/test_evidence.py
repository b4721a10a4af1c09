"""``python verify.py`` on a device: numpy and the runtime alone, and every file under its
hash.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy
import pytest

from edgekit.device_worker import evidence


@pytest.fixture(params=["cpu-onnx", "mobile-tflite"])
def bundle(
    request: pytest.FixtureRequest,
    shipped: pathlib.Path,
    tmp_path: pathlib.Path,
) -> pathlib.Path:
    """A copy of a shipped bundle."""
    return pathlib.Path(
        shutil.copytree(shipped / request.param, tmp_path / "taken away")
    )


def script(
    bundle: pathlib.Path,
    *words: str,
    python: tuple[str, ...] = (sys.executable,),
) -> "subprocess.CompletedProcess[str]":
    """What a user starts on the device."""
    return subprocess.run(
        [*python, str(bundle / "verify.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_passes_where_it_was_made_and_needs_nothing_of_edgekit(
    bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The script exits with 0 and prints old and new side by side, in a Python that cannot
    import edgekit, torch or onnx.
    """
    blocked = (
        "import sys, runpy\n"
        "sys.modules.update(edgekit=None, torch=None, onnx=None, scipy=None, pydantic=None)\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    process = script(
        bundle,
        "--json",
        str(tmp_path / "found.json"),
        python=(sys.executable, "-c", blocked),
    )
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads((tmp_path / "found.json").read_text())
    rows = {row["name"]: row for row in result["measurements"]}
    assert (
        result["verdict"],
        rows["parity"]["value"],
        rows["bit_equal"]["value"],
    ) == (
        "pass",
        0.0,
        1.0,
    )
    assert (
        rows["speedup"]["low"]
        <= rows["speedup"]["value"]
        <= rows["speedup"]["high"]
    )
    assert "shipped" in process.stdout and "verdict: pass" in process.stdout


def test_a_changed_file_is_refused(bundle: pathlib.Path) -> None:
    """One changed byte, and one missing file, are both reported; nothing is run."""
    model = next(
        path for path in bundle.iterdir() if path.suffix in (".onnx", ".tflite")
    )
    content = bytearray(model.read_bytes())
    content[100] ^= 1
    model.write_bytes(content)
    (bundle / "device_worker" / "store.py").unlink()
    process = script(bundle, "--no-times")
    assert (
        process.returncode != 0
        and "Traceback (most recent call last)" not in process.stdout
    )
    (bundle / "device_worker" / "store.py").write_text("")
    with pytest.raises(
        evidence.CorruptBundle, match=f"{model.name} has the hash"
    ):
        evidence.read_bundle(str(bundle))
    with pytest.raises(evidence.CorruptBundle, match="device_worker/store.py"):
        evidence.read_bundle(str(bundle))


def test_a_file_that_computes_something_else_fails(
    bundle: pathlib.Path,
) -> None:
    """Other expected outputs than the file computes (as on a device with a broken kernel) end
    with 1.
    """
    with numpy.load(bundle / "samples.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name in [
        key for key in arrays if key.startswith(("expected:", "reference:"))
    ]:
        arrays[name] = numpy.roll(arrays[name], 1, axis=0)
    numpy.savez(bundle / "samples.npz", **arrays)  # type: ignore[arg-type]
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["bundle"]["sha256"]["samples.npz"] = evidence.sha256(
        str(bundle / "samples.npz")
    )
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    process = script(bundle, "--no-times")
    assert process.returncode == 1 and "verdict: fail" in process.stdout


def test_a_runtime_that_is_missing_is_reported(bundle: pathlib.Path) -> None:
    """Without the runtime the script reports that in one line."""
    program = (
        "import sys\n"
        "sys.modules.update(onnxruntime=None, ai_edge_litert=None, tflite_runtime=None)\n"
        f"sys.path.insert(0, {os.fspath(bundle)!r}); sys.argv = ['verify.py']\n"
        f"from device_worker.evidence import main; sys.exit(main({os.fspath(bundle)!r}))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        process.returncode == 3
        and "cannot be run on this machine" in process.stderr
        and "Traceback" not in process.stderr
    )


def test_fewer_samples_can_be_looked_at(bundle: pathlib.Path) -> None:
    """``--samples 8`` looks at 8, and a few samples do not turn equal outputs into doubt."""
    result = evidence.verify(str(bundle), samples=8, measure_times=False)
    assert {row["n"] for row in result["measurements"]} == {8}
    assert result["verdict"] == "pass"


def test_an_engine_counts_only_where_its_log_is_of_this_graph(
    tmp_path: pathlib.Path,
) -> None:
    """Built from another graph, changed since, or without a log: not this bundle's."""
    (tmp_path / "main.onnx").write_bytes(b"graph")
    (tmp_path / "main.engine").write_bytes(b"engine")
    graph, engine = (
        evidence.sha256(str(tmp_path / name))
        for name in ("main.onnx", "main.engine")
    )
    path, model = str(tmp_path / "main"), str(tmp_path / "main.onnx")
    assert evidence.find_engine(path, model) is None
    for log, result in (
        ({"onnx_sha256": graph, "engine_sha256": engine}, f"{path}.engine"),
        ({"onnx_sha256": graph}, None),
        ([], None),
        ({"onnx_sha256": "0", "engine_sha256": engine}, None),
        ({"onnx_sha256": graph, "engine_sha256": "0"}, None),
    ):
        (tmp_path / "main.log.json").write_text(json.dumps(log))
        assert evidence.find_engine(path, model) == result
