"""``edgekit report``: a finished run is shown again."""

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


def test_each_format_is_what_its_module_draws(
    finished: pathlib.Path, sample: Callable[..., Report]
) -> None:
    """md, html and json print the complete text; json is the file itself."""
    assert report(finished, "--format", "md").stdout == markdown(sample())
    assert (
        report(finished, "--format", "html").stdout.rstrip()
        == html(sample()).rstrip()
    )
    assert report(finished, "--format", "json").stdout == (
        finished / "report.json"
    ).read_text(encoding="utf-8")
    assert report(finished, "--json").stdout == (
        finished / "report.json"
    ).read_text(encoding="utf-8")


def test_a_failed_run_can_be_drawn(finished: pathlib.Path) -> None:
    """The verdict does not matter; the path may be that of the file."""
    done = report(finished / "report.json")
    assert done.exit_code == 0
    assert "Verdict: fail" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["has no report.json", "--out"]),
        ("{", ["cannot be read"]),
        ('{"schema": 7}', ["schema 7"]),
        ('{"schema": 2}', ["verdict", "missing"]),
    ],
)
def test_an_invalid_report_is_reported(
    tmp_path: pathlib.Path, text: str | None, words: list[str]
) -> None:
    """No report, a partial one, another schema, missing keys: a message, no traceback."""
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    done = report(tmp_path)
    assert done.exit_code == 1
    for word in words:
        assert word in done.stderr
