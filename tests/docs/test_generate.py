"""The generated pages of the documentation site: one page per target, tables from the code."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from types import ModuleType

import pytest

from edgekit import target
from edgekit.cli.main import COMMANDS
from edgekit.report import Report
from edgekit.scheme import SCHEMES

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGETS = sorted(path.stem for path in (ROOT / "targets").glob("*.yaml"))


def load_generator() -> ModuleType:
    """Import docs/generate.py, which is not part of a package."""
    spec = importlib.util.spec_from_file_location(
        "docs_generate", ROOT / "docs/generate.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()


@pytest.mark.parametrize("name", TARGETS)
def test_target_page_shows_the_file(name: str) -> None:
    """A target's page has its schemes in order, its limits, its source and its notes."""
    device = target.load(ROOT / "targets" / f"{name}.yaml")
    page = generate.target_page(device)
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", page, re.MULTILINE)
    assert rows[-len(device.schemes) :] == list(device.schemes)
    for text in (
        device.title,
        device.source,
        device.latency_note,
        device.accuracy_note,
    ):
        assert " ".join(text.split()) in page
    for limit in device.limits.model_fields_set:
        is_default = getattr(device.limits, limit) == getattr(
            target.Limits(), limit
        )
        assert is_default or f"`{limit}`" in page


@pytest.mark.parametrize("name", TARGETS)
def test_target_page_links_its_family(name: str) -> None:
    """The family's page exists and names the target."""
    page = generate.target_page(target.load(ROOT / "targets" / f"{name}.yaml"))
    (family,) = re.findall(r"The family: \[[^\]]+\]\(\.\./([\w-]+\.md)\)", page)
    text = (ROOT / "docs/devices" / family).read_text(encoding="utf-8")
    assert f"`{name}`" in text


def test_marks_are_replaced_in_all_pages() -> None:
    """Every mark of the pages names a generator, and each generator is used."""
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "docs").rglob("*.md")
    )
    marks = re.findall(r"<!-- generated: (\w+) -->", text)
    assert sorted(marks) == sorted(generate.GENERATORS)
    assert "generated:" not in generate.fill("<!-- generated: schemes -->")
    with pytest.raises(KeyError):
        generate.fill("<!-- generated: nonsense -->")


def test_schemes_are_complete() -> None:
    """The table of schemes has a row for each."""
    table = generate.schemes_table()
    assert all(f"| `{name}` |" in table for name in SCHEMES)


def test_command_line_is_complete() -> None:
    """Each command has a section with its options, subcommands too."""
    text = generate.command_line()
    assert all(f"## edgekit {name}\n" in text for name in COMMANDS)
    assert "## edgekit hosts setup\n" in text
    assert "`-t, --target NAME`" in text


def test_report_tables_describe_every_key() -> None:
    """Each field of each class that a report contains has a row."""
    text = generate.report_tables()
    for kind in generate.report_classes():
        section = text.partition(f"## {kind.__name__}\n")[2].partition("\n## ")[
            0
        ]
        names = [
            field.alias or name for name, field in kind.model_fields.items()
        ]
        assert [name for name in names if f"| `{name}` |" not in section] == []


def test_field_comments_are_read() -> None:
    """The comment before a field becomes its description; a field without one has none."""
    comments = generate.field_comments(target.Limits)
    assert "multiples" in comments["channel_multiple"]
    assert "compute_capabilities" not in comments


def test_error_table_follows_the_tree() -> None:
    """Each error has a row with the error that it is a kind of."""
    assert "| `NothingToDo` | `StepError` |" in generate.error_table()


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: pathlib.Path) -> None:
    """``mkdocs build --strict`` succeeds; every target has a page, the schema is valid."""
    pytest.importorskip("mkdocstrings", reason="pip install 'edgekit[docs]'")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-d",
        str(tmp_path),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NO_MKDOCS_2_WARNING": "1",
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TARGETS:
        assert (tmp_path / "devices/targets" / name / "index.html").is_file()
    schema = json.loads((tmp_path / "reference/report.schema.json").read_text())
    assert schema == Report.model_json_schema()
    api = (tmp_path / "reference/api/index.html").read_text(encoding="utf-8")
    names = (
        "run",
        "plan",
        "inspect",
        "verify",
        "load_report",
        "Task",
        "Report",
    )
    assert [name for name in names if f'id="edgekit.{name}"' not in api] == []
