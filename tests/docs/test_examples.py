"""Every example runs, as a user would run it: in a separate process and folder."""

import os
import pathlib
import subprocess
import sys

import pytest

import edgekit

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*.py")
)


def test_there_are_six_examples() -> None:
    """The list in examples/README.md names each of them."""
    text = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 6
    assert [
        name
        for name in EXAMPLES
        if f"]({name.removeprefix('examples/')})" not in text
    ] == []


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, tmp_path: pathlib.Path) -> None:
    """The example ends well, writes a report into the folder that it is given, and warns of
    nothing.
    """
    command = [sys.executable, str(ROOT / example), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout.strip()
    report = edgekit.load_report(tmp_path / "out")
    assert report.verdict in ("pass", "inconclusive", "unmeasured")
    assert [row.name for row in report.targets if row.winner is None] == []
