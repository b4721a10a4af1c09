"""The documents are checked against the code: every command parses, every name in it exists,
the quick commands run, Python compiles and names what edgekit has, YAML is valid, links lead
somewhere.
"""

import ast
import importlib
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import click
import pytest
import yaml

import edgekit
from edgekit import catalog, host, recipe, target
from edgekit.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FILES = [ROOT / "README.md", ROOT / "examples" / "README.md", *PAGES]
DOCUMENTS = [str(path.relative_to(ROOT)) for path in FILES]
#: Commands that need no framework and no finished run.
QUICK = (
    "plan",
    "targets",
    "recipes",
    "models",
    "schemes",
    "doctor",
    "--help",
    "--version",
)
README_LINES = 130
#: What the site generates while it is built; docs/generate.py.
GENERATED = ("docs/reference/report.schema.json",)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def read(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of some languages; the empty string is a block without one."""
    return [
        block
        for language, block in _FENCE.findall(text)
        if language in languages
    ]


def commands_in(text: str) -> Iterator[str]:
    """The ``edgekit`` commands of a document, without prompt and comment."""
    for block in blocks(text, "console", "sh", ""):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s{2,}#.*", "", line.removeprefix("$ ")).strip()
            if command.startswith("edgekit ") and "[FOLDER]" not in command:
                yield " ".join(command.split())


def commands() -> list[str]:
    """Every different command of all documents."""
    return sorted(
        {command for name in DOCUMENTS for command in commands_in(read(name))}
    )


def parse(
    words: list[str],
) -> tuple[click.Command, dict[str, object], list[str]]:
    """Find the command that ``words`` name; parse its options as click does, without
    running it or looking for files. Raises click.UsageError.
    """
    command: click.Command = main
    context = click.Context(main, info_name="edgekit")
    while (
        isinstance(command, click.Group)
        and words
        and not words[0].startswith("-")
    ):
        child = command.get_command(context, words[0])
        if child is None:
            raise click.UsageError(f"unknown command {words[0]!r}")
        context = click.Context(child, info_name=words[0], parent=context)
        command, words = child, words[1:]
    options, rest, order = command.make_parser(context).parse_args(list(words))
    required = [
        p
        for p in command.params
        if isinstance(p, click.Argument) and p.required
    ]
    missing = [
        p.name for p in required if not as_list(options.get(str(p.name)))
    ]
    if missing and not {"help", "version"} & set(options):
        raise click.UsageError(f"missing {', '.join(map(str, missing))}")
    for parameter in order:
        if isinstance(parameter.type, click.Choice):
            parameter.type.convert(
                options[str(parameter.name)], parameter, context
            )
    if rest:
        raise click.UsageError(f"unexpected {' '.join(rest)}")
    return command, options, rest


def run_edgekit(
    words: list[str], folder: pathlib.Path
) -> subprocess.CompletedProcess[str]:
    """Run a command of the documents in ``folder``."""
    command = [sys.executable, "-m", "edgekit", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder
    )


def as_list(value: object) -> list[str]:
    """The values of an option that may be repeated."""
    if isinstance(value, list | tuple):
        return [str(row) for row in value]
    return (
        [value] if isinstance(value, str) else []
    )  # click marks a missing value itself


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub derive them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"\s+", "-", title) for title in plain}


def test_the_search_finds_commands() -> None:
    """The first command of README is found, and many others."""
    assert "edgekit run recipes/digits.yaml --out runs/digits" in commands()
    assert len(commands()) >= 40


def test_wrong_commands_are_refused() -> None:
    """The parser that the next test uses can fail: a command, an option, a choice, a count."""
    for line in (
        "rnu x",
        "run x --tagret y",
        "report x --format pdf",
        "run",
        "run a b",
    ):
        with pytest.raises(click.UsageError):
            parse(shlex.split(line))


@pytest.mark.parametrize("command", commands())
def test_command_parses(command: str) -> None:
    """The command and its options exist, and so do the recipe, targets and hosts in it."""
    words = shlex.split(command)[1:]
    placeholders = {"HOST", "NAME", "BUNDLE", "FILE", "RECIPE", "DIR", "..."}
    if placeholders & set(words):
        words = [word for word in words if word != "..."]
    found, options, _ = parse(words) if "..." not in command else (None, {}, [])
    if found is None:
        return
    for name in as_list(options.get("targets")) + as_list(
        options.get("target")
    ):
        assert name.endswith(".yaml") or name in catalog.names("targets"), name
    if found.name in ("run", "plan") and (given := options.get("recipe")):
        assert (
            given in placeholders
            or catalog.find("recipes", str(given)).is_file()
        )
    if words[:1] == ["hosts"]:
        for name in as_list(options.get("names")) + as_list(
            options.get("name")
        ):
            known = name in catalog.names("hosts") or name.startswith(
                ("ssh:", "adb:")
            )
            assert known or name in placeholders, name


@pytest.mark.parametrize(
    "command",
    [
        line
        for line in commands()
        if shlex.split(line)[1] in QUICK and "..." not in line
    ],
)
def test_quick_command_runs(command: str, tmp_path: pathlib.Path) -> None:
    """Each command that needs no run before it succeeds in a folder with README's net.py."""
    (tmp_path / "net.py").write_text(own_network())
    done = run_edgekit(shlex.split(command)[1:], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_exist(document: str) -> None:
    """Each relative link, its anchor, and each path that is written as code exists."""
    path, text = ROOT / document, read(document)
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" in link:
            continue
        place = (path.parent / link).resolve() if link else path
        generated = str(place.relative_to(ROOT)) in GENERATED
        if not place.exists() and not generated:
            missing.append(link)
        elif anchor and anchor not in slugs(place.read_text(encoding="utf-8")):
            missing.append(f"{link}#{anchor}")
    folders = "edgekit|tests|recipes|targets|hosts|docs|examples|bench"
    named = re.findall(rf"`((?:{folders})/[\w/.-]+\.\w+)`", text)
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_are_valid(document: str) -> None:
    """Python compiles and imports what edgekit has, YAML is what it describes, TOML is TOML."""
    text = read(document)
    for block in blocks(text, "python"):
        check_names(ast.parse(block, document))
    for block in blocks(text, "toml"):
        tomllib.loads(block)
    for number, block in enumerate(blocks(text, "yaml")):
        data = yaml.safe_load(block)
        assert isinstance(data, dict | list)
        if isinstance(data, dict):
            check_yaml({"name": f"block-{number}", **data})


def check_yaml(data: dict[str, object]) -> None:
    """Validate a target, a recipe or a host, whichever the keys belong to."""
    if "runtime" in data:
        target.Target.model_validate(data)
    elif "compress" in data:
        recipe.Recipe.model_validate(data)
    elif "kind" in data:
        host.HostFile.model_validate(data)


def check_names(tree: ast.Module) -> None:
    """Each name that a block imports from edgekit, or reads as ``edgekit.NAME``, exists."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "edgekit"
        ):
            module = importlib.import_module(str(node.module))
            assert [
                a.name for a in node.names if not hasattr(module, a.name)
            ] == []
        is_attribute = isinstance(node, ast.Attribute) and isinstance(
            node.value, ast.Name
        )
        if is_attribute and node.value.id == "edgekit":
            assert node.attr in edgekit.__all__, node.attr


def test_invalid_blocks_are_noticed() -> None:
    """The checks of blocks can fail."""
    with pytest.raises(AssertionError):
        check_names(ast.parse("import edgekit\nedgekit.rnu()"))
    with pytest.raises(AssertionError):
        check_names(ast.parse("from edgekit.report import Reprot"))
    with pytest.raises(ValueError, match="runtime"):
        check_yaml({"name": "x", "format": "onnx", "runtime": "litert"})


def test_readme_is_short_and_starts_with_the_installation() -> None:
    """README has its budget, installs in its first block, and shows one command and Python."""
    text = read("README.md")
    assert len(text.splitlines()) <= README_LINES
    language, first = _FENCE.findall(text)[0]
    assert language == "console"
    assert first.splitlines()[0] == "$ pip install 'edgekit[all]'"
    assert first.splitlines()[1].startswith("$ edgekit run ")
    assert (
        len([line for line in blocks(text, "python")[0].splitlines() if line])
        <= 8
    )


def own_network() -> str:
    """README's file with a network and a task."""
    (block,) = [
        b for b in blocks(read("README.md"), "python") if "def task" in b
    ]
    return block


def test_own_network_is_short() -> None:
    """The example for a user's own model and data has at most 25 lines."""
    assert len(own_network().splitlines()) <= 25


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml lists every page once; the pages of targets are added when it is built."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))[
        "nav"
    ]
    listed = re.findall(r"[\w/-]+\.md", str(nav))
    assert sorted(listed) == [
        str(path.relative_to(ROOT / "docs")) for path in PAGES
    ]
