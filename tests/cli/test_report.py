"""``edgekit report``: a finished run, drawn again."""

import pathlib
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.main import main
from edgekit.rendering.html import html
from edgekit.rendering.markdown import markdown
from edgekit.report import Report


def report(*words: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, words)])


def test_each_format_is_what_its_room_draws(
    finished: pathlib.Path, sample: Callable[..., Report]
) -> None:
    """md, html and json print the whole text; json is the file itself."""
    assert report(finished, "--format", "md").stdout == markdown(sample())
    assert report(finished, "--format", "html").stdout.rstrip() == html(sample()).rstrip()
    assert report(finished, "--format", "json").stdout == (
        finished / "report.json"
    ).read_text(encoding="utf-8")
    assert report(finished, "--json").stdout == (finished / "report.json").read_text(
        encoding="utf-8"
    )


def test_a_failed_run_can_be_drawn(finished: pathlib.Path) -> None:
    """Drawing succeeds whatever the verdict is; the file may be named instead of its
    folder.
    """
    done = report(finished / "report.json")
    assert done.exit_code == 0
    assert "Verdict: fail" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["holds no report.json", "--out"]),
        ("{", ["cannot be read"]),
        ('{"schema": 7}', ["schema 7"]),
        ('{"schema": 1}', ["verdict", "missing"]),
    ],
)
def test_a_broken_report_is_told(
    tmp_path: pathlib.Path, text: str | None, words: list[str]
) -> None:
    """No report, half a report, another schema, missing keys: each has its message, none a
    traceback.
    """
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    done = report(tmp_path)
    assert done.exit_code == 1
    for word in words:
        assert word in done.stderr
