"""Bundles over a real OpenSSH server: this machine's Python, and an ARM Python under
emulation, as on a board.
"""

import json
import pathlib
import shutil

import pytest
from click.testing import CliRunner

from edgekit import report
from edgekit.bundles import bundle
from edgekit.cli.main import main
from edgekit.hosts import lookup
from tests.whole.reached import verified

pytestmark = pytest.mark.slow


def test_the_digits_winners_hold_over_ssh(
    shipped: pathlib.Path, loopback: str, board: str, tmp_path: pathlib.Path
) -> None:
    """Both bundles, in this machine's Python (timed) and in the ARM one (not timed); what
    was found stands in the run's report.
    """
    results = pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))
    assert [row.name for row in report.load(results).targets] == [
        "cpu-onnx",
        "mobile-tflite",
    ]
    for rows in verified(results, "--on", loopback, "--on", board).values():
        near, far = rows.values()
        assert near.verdict == far.verdict == "pass", rows
        assert (
            near.measurement("bit_equal").value == 1
            and near.measurement("latency_ms") is not None
            and near.where.startswith("loopback: ")
        )  # type: ignore[union-attr]
        assert (
            far.machine == "aarch64"
            and far.measurement("latency_ms") is None
            and "an emulator" in far.where
        )
        assert far.measurement("parity").value <= 2  # type: ignore[union-attr]
    assert all(len(row.evidence) == 2 for row in report.load(results).targets)


@pytest.mark.parametrize(
    "name",
    [
        "it's",
        'a "b"',
        "c;touch owned",
        "$(touch owned)",
        "line\nbreak",
        "-rf",
        "--on",
        "`touch owned`",
        "naïve ☃",
    ],
)
def test_no_name_runs_a_command(
    shipped: pathlib.Path,
    loopback: str,
    tmp_path: pathlib.Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bundle whose folder and file have odd names is verified over ssh like any other,
    and nothing of the names is executed.
    """
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path(
        shutil.copytree(shipped / "cpu-onnx", tmp_path / name)
    )
    renamed(folder, "main.onnx", f"{name}.onnx")
    (rows,) = verified(
        folder.absolute(), "--on", loopback, "--no-times", "--samples", "4"
    ).values()
    assert [row.verdict for row in rows.values()] == ["pass"], rows
    assert (
        not list(tmp_path.rglob("owned"))
        and not (pathlib.Path.home() / "owned").exists()
    )


def renamed(folder: pathlib.Path, old: str, new: str) -> None:
    """Give a bundle's model another name, in its manifest too."""
    data = json.loads((folder / bundle.MANIFEST).read_text())
    (folder / old).rename(folder / new)
    data["files"] = [
        {**row, "path": f"{data['target']}/{new}"}
        if row["path"] == f"{data['target']}/{old}"
        else row
        for row in data["files"]
    ]
    data["bundle"]["sha256"] = {
        new if name == old else name: digest
        for name, digest in data["bundle"]["sha256"].items()
    }
    (folder / bundle.MANIFEST).write_text(json.dumps(data))


def test_a_run_asks_a_host_over_ssh(board: str, tmp_path: pathlib.Path) -> None:
    """``run --on``: the winner is verified there in the same command; the second run asks
    nobody again.
    """
    (tmp_path / "recipe.yaml").write_text(
        "model: zoo:cnn\ntask: digits\n"
        "compress: [{train: {epochs: 2}}, {quantize: {scheme: w8a8-static, samples: 64}}]\n"
        "targets: [cpu-onnx]\ngates: {accuracy_drop: 0.9, speedup: 0.01}\n"
    )
    words = [
        "run",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--on",
        board,
    ]
    times = []
    for _ in range(2):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        ((row,),) = (
            target.evidence for target in report.load(tmp_path / "out").targets
        )
        assert row.verdict == "pass" and row.machine == "aarch64"
        times.append(row.when)
    assert times[0] == times[1]
    assert "arm-board" in (tmp_path / "out" / "report.md").read_text()


def test_the_words_of_the_board_are_an_arm_python(board: str) -> None:
    """The stand-in of a board has its packages by itself, as a board has: no path is given
    to it.
    """
    hello = lookup.open_host(board).hello()
    assert (
        hello["machine"] == "aarch64"
        and hello["versions"]["onnxruntime"]
        and hello["versions"]["ai-edge-litert"]
    )
