"""The files around the code agree with it: workflow, hooks, templates, metadata and changelog."""

import pathlib
import re
import shutil
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from scripts import constraints, hygiene

ROOT = constraints.ROOT
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def load(path: pathlib.Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads(
        (ROOT / "pyproject.toml").read_text()
    )["project"]
    return table


def make_targets() -> set[str]:
    """The targets that the Makefile declares as .PHONY."""
    text = (ROOT / "Makefile").read_text()
    return {
        name
        for row in re.findall(r"^\.PHONY:(.*)$", text, re.M)
        for name in row.split()
    }


def called_targets(text: str) -> set[str]:
    """The names after ``make`` at the start of a command."""
    return set(
        re.findall(r"(?:^|`|run: |time |\$ )make ([a-z][a-z-]*)", text, re.M)
    )


def test_the_workflow_tests_every_supported_python() -> None:
    """Core only and all extras, on the versions of requires-python."""
    jobs = load(WORKFLOW)["jobs"]
    for job in ("core", "all"):
        assert jobs[job]["strategy"]["matrix"]["python"] == list(
            constraints.VERSIONS
        )
    low, high = re.fullmatch(
        r">=3\.(\d+),<3\.(\d+)", project()["requires-python"]
    ).groups()  # type: ignore[union-attr]
    supported = [f"3.{minor}" for minor in range(int(low), int(high))]
    assert supported == list(constraints.VERSIONS)


def test_the_workflow_runs_what_it_is_for() -> None:
    """Each job calls its make targets; the newest packages run on a schedule only."""
    jobs = load(WORKFLOW)["jobs"]
    called = {
        name: called_targets(yaml.dump(job)) for name, job in jobs.items()
    }
    assert called == {
        "core": {"test-core"},
        "all": {"check", "demo", "test"},
        "docs": {"docs"},
        "newest": {"test-newest"},
    }
    assert "schedule" in jobs["newest"]["if"]


def test_the_workflow_may_only_read() -> None:
    """A pull request from a stranger gets a token without write access."""
    assert load(WORKFLOW)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(
    "name",
    [
        ".ci/run",
        ".github/workflows/ci.yml",
        ".github/pull_request_template.md",
        ".pre-commit-config.yaml",
        "CONTRIBUTING.md",
    ],
)
def test_every_make_target_that_is_named_exists(name: str) -> None:
    """In the scripts, the workflow, the templates and the guide for contributors."""
    called = called_targets((ROOT / name).read_text(encoding="utf-8"))
    assert called, f"{name} calls no make target"
    assert called <= make_targets()


def test_a_make_target_that_does_not_exist_is_noticed() -> None:
    """The check above can fail."""
    assert called_targets("      - run: make nothing PYTHON=python") == {
        "nothing"
    }
    assert "nothing" not in make_targets()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_makefile_explains_every_target() -> None:
    """The comment at its top has a line for each target except clean, format and internal ones."""
    head = (ROOT / "Makefile").read_text().partition("PYTHON ?=")[0]
    explained = set(re.findall(r"^#   make ([a-z-]+)", head, re.M))
    assert make_targets() - explained == {
        "clean",
        "format",
        "core-tests",
        "measure",
    }
    assert explained <= make_targets()


def test_the_hooks_download_nothing() -> None:
    """All of them are local, run the tools of .venv, and call scripts that exist."""
    repositories = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    hooks = [
        hook for repository in repositories for hook in repository["hooks"]
    ]
    assert {"hygiene", "ruff", "ruff-format", "wording", "mypy"} == {
        hook["id"] for hook in hooks
    }
    for hook in hooks:
        words = hook["entry"].split()
        assert hook["language"] == "system"
        assert words[0] == ".venv/bin/python"
        assert words[1] == "-m" or (ROOT / words[1]).is_file()


@pytest.mark.parametrize("name", ["bug", "device", "feature"])
def test_an_issue_template_is_a_form(name: str) -> None:
    """With a name, a description, and at least one required answer."""
    form = load(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"]
    assert form["description"]
    fields = [row for row in form["body"] if row["type"] != "markdown"]
    ids = [row["id"] for row in fields]
    assert len(set(ids)) == len(ids)
    assert any(row.get("validations", {}).get("required") for row in fields)


def test_the_metadata_names_where_the_project_is() -> None:
    """Documentation, source, issues and changes; authors; one license."""
    assert {"Documentation", "Source", "Issues", "Changelog"} == set(
        project()["urls"]
    )
    assert all(url.startswith("https://") for url in project()["urls"].values())
    assert project()["authors"]


def test_the_changelog_has_the_sections_of_keep_a_changelog() -> None:
    """A heading per version, and below it only the sections of keepachangelog.com."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == f"{project()['version']} - Unreleased"
    sections = re.findall(r"^### (.*)$", text, re.M)
    assert {"Added", "Changed", "Fixed"} <= set(sections)
    assert set(sections) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.md", "text \n", "white space at the end"),
        ("a.md", "text", "no line break"),
        ("a.md", "text\n\n", "empty lines at the end"),
        ("a.py", "<<<<<<< HEAD\n", "merge marker"),
        ("a.yaml", "a: [1\n", "not valid yaml"),
        ("a.toml", "a = \n", "not valid toml"),
        ("a.json", "{\n", "not valid json"),
        ("a.bin", "x" * 1_000_001 + "\n", "expected at most 1,000,000"),
    ],
)
def test_each_fault_of_a_file_is_noticed(
    name: str, content: str, fault: str, tmp_path: pathlib.Path
) -> None:
    """One file for each rule of scripts/hygiene.py."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert any(fault in row for row in hygiene.faults(path))
    assert hygiene.main([str(path)]) == 1


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_files_of_the_repository_are_clean() -> None:
    """No fault in any file that git tracks."""
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    rows = [
        row for path in paths if path.is_file() for row in hygiene.faults(path)
    ]
    assert rows == []
