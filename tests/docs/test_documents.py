"""The documents are executed: every `edgekit` command in them parses, the quick ones run,
and every file they name exists.
"""

import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "docs/explanation/architecture.md",
    "docs/explanation/pitfalls.md",
    "docs/guides/hosts.md",
    "docs/guides/bundles.md",
)
#: Commands that need no framework and no finished run.
QUICK = ("plan", "targets", "recipes", "models", "schemes", "doctor", "--help", "--version")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line in a console block of a document that starts with edgekit."""
    found = []
    for document in DOCUMENTS:
        for block in blocks((ROOT / document).read_text(encoding="utf-8"), "console"):
            joined = block.replace("\\\n", " ")
            found += [
                line.removeprefix("$ ").split("  #")[0].strip()
                for line in joined.splitlines()
                if line.removeprefix("$ ").startswith("edgekit ")
            ]
    return sorted(set(found))


def edgekit(words: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the documents in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def test_the_documents_hold_commands() -> None:
    """The search finds what it looks for: the demo's command among others."""
    found = commands()
    assert "edgekit run recipes/digits.yaml --out runs/digits" in found
    assert len(found) >= 10


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documents_parses(command: str) -> None:
    """Each command names a command and options that exist: its words, followed by --help,
    are accepted.
    """
    words = shlex.split(command)[1:]
    known = edgekit([*words, "--help"], ROOT)
    assert known.returncode == 0, known.stderr
    told = known.stdout
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in told, f"{option} is not an option of edgekit {words[0]}"


@pytest.mark.parametrize(
    "command", [line for line in commands() if shlex.split(line)[1] in QUICK]
)
def test_the_quick_commands_of_the_documents_run(command: str) -> None:
    """Each command that needs no run before it is run, and answers without a traceback; 1
    is a problem told.
    """
    done = edgekit(shlex.split(command)[1:], ROOT)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(document: str) -> None:
    """Each relative link of a document, and each path that it writes as code, is there."""
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    links = [
        link
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
        if "://" not in link
    ]
    assert [link for link in links if not (path.parent / link).exists()] == []
    named = re.findall(r"`((?:edgekit|tests|recipes|targets|docs)/[\w/.-]+\.\w+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_python_of_the_documents_compiles(document: str) -> None:
    """Each Python block is valid Python, each YAML block valid YAML, each TOML block valid
    TOML.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        compile(block, document, "exec")
    for block in blocks(text, "yaml"):
        assert isinstance(yaml.safe_load(block), dict | list)
    for block in blocks(text, "toml"):
        tomllib.loads(block)


def test_the_readmes_own_network_and_task_are_short_and_planned(
    tmp_path: pathlib.Path,
) -> None:
    """The example for a user's own model and data has at most 25 lines, and is planned as
    it is written.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks(text, "python") if "def task" in block]
    assert len(block.splitlines()) <= 25
    (tmp_path / "net.py").write_text(block)
    done = edgekit(
        [
            "plan",
            "compress",
            "--model",
            "net.py:model",
            "--task",
            "net.py:task",
            "--target",
            "cpu-onnx",
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
