"""Imports point down, frameworks stay in the leaves, and the quick commands import none.

Each rule is also shown to fail.
"""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: The levels of the package, lowest first: a module may import what is on a lower level only.
#: A name covers everything below it, unless a longer name says otherwise; * is any one name.
#: docs/explanation/architecture.md draws them.
LEVELS: tuple[frozenset[str], ...] = tuple(
    frozenset(level.split())
    for level in (
        "arrays errors device_worker formats.record",
        # The records of the formats are literal data.
        "formats.onnx.format formats.*.provider",
        "formats.*.format",
        "formats",
        "value splits",
        "signature measurement progress task",
        "formats.tensorrt.nvidia formats.tflite.names formats.ethosu.log",
        "artifact formats.tensorrt.trtexec",
        "scheme",
        "recipe diagnosis",
        "target host",
        "contracts report estimates.table",
        "registry catalog user_code cache pipeline.verdict pipeline.code_identity",
        "planning.routes planning.remedies bundles.bundle formats.ethosu.vela",
        "bundles.shipping",
        "planning.problems",
        "planning.plan",
        "sources tasks quantization hosts checks rendering",
        "steps",
        "formats.runtime_size formats.module_paths",
        "formats.onnx formats.tflite",
        # Any other format may follow these two.
        "formats.*",
        "formats.inspection",
        "bundles.evidence",
        "bundles.device_evidence pipeline.build",
        "estimates",
        "pipeline.candidate",
        "pipeline.verification pipeline.timing pipeline.bundle_contents",
        "pipeline.race",
        "pipeline.run pipeline.request",
        "api",
        "testing",
        "cli",
    )
)
#: Packages whose modules import each other.
PACKAGES = (
    "device_worker",
    "sources",
    "tasks",
    "quantization",
    "hosts",
    "checks",
    "rendering",
    "steps",
    "estimates",
    "cli",
)
FRAMEWORKS = frozenset(
    (
        "torch",
        "torchao",
        "torchvision",
        "torch_pruning",
        "timm",
        "transformers",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "onnxscript",
        "litert_torch",
        "ai_edge_litert",
        "ai_edge_quantizer",
        "tensorrt",
        "tensorrt_rtx",
        "neural_compressor",
        "openvino",
        "jax",
        "sklearn",
        "scipy",
        "safetensors",
    )
)
#: The only packages where a framework may be imported: the leaves, and the fakes for tests,
#: which are tiny networks among others.
LEAVES = frozenset(
    (
        "device_worker",
        "sources",
        "tasks",
        "quantization",
        "hosts",
        "checks",
        "steps",
        "formats",
        "estimates",
    )
)
WITH_FRAMEWORKS = LEAVES | {"testing"}


def level_name(module: str) -> str | None:
    """The entry of LEVELS that covers a module, given without ``edgekit.``: the longest one."""
    entries = [name for level in LEVELS for name in level]
    words = module.split(".")
    for count in range(len(words), 0, -1):
        prefix = ".".join(words[:count])
        if prefix in entries:
            return prefix
        wildcards = (
            name for name in entries if "*" in name and covers(name, prefix)
        )
        found = next(wildcards, None)
        if found is not None:
            return found
    return None


def is_module(name: str) -> bool:
    """Whether a name below ``edgekit`` is a module or a package of this checkout."""
    path = ROOT.joinpath("edgekit", *name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def covers(pattern: str, name: str) -> bool:
    """Whether a pattern such as ``formats.*.format`` stands for a name."""
    return (
        re.fullmatch(pattern.replace(".", r"\.").replace("*", r"\w+"), name)
        is not None
    )


def level_of(module: str) -> int | None:
    """The number of the level on which a module is."""
    covering = level_name(module)
    return next(
        (number for number, names in enumerate(LEVELS) if covering in names),
        None,
    )


def package_of(module: str) -> str | None:
    """The package whose modules may import each other, or None for a module of its own."""
    top, _, rest = module.partition(".")
    if top == "formats" and "." in rest:
        return f"formats.{rest.partition('.')[0]}"
    return top if top in PACKAGES else None


def imports(path: pathlib.Path) -> Iterator[tuple[int, str, bool]]:
    """Line, full name and whether it is for annotations only, of every import of a file,
    also inside functions.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    quoted = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) in quoted
        elif isinstance(node, ast.ImportFrom):
            # What runs on a device is loaded there under another name than here.
            assert node.level == (
                1 if node.level and path.parent.name == "device_worker" else 0
            ), (
                f"{path}:{node.lineno}: write the whole name of a module, not dots"
            )
            module = (
                f"edgekit.device_worker.{node.module}"
                if node.level
                else node.module
            )
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}", id(node) in quoted


def broken_rules(package: pathlib.Path) -> Iterator[str]:
    """One line for each import that breaks a rule, with its file and line."""
    for path in sorted(package.glob("**/*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        if module in ("__init__", "__main__") or path.name == "__init__.py":
            continue
        level = level_of(module)
        if level is None:
            yield f"{path}:1: {module} has no level; add it to LEVELS in tests/test_layering.py"
            continue
        for line, name, quoted in imports(path):
            top, _, rest = name.partition(".")
            if top == "edgekit":
                problem = _edgekit_rule(module, rest, level)
            else:
                problem = _foreign_rule(parts[0], top, quoted)
            if problem:
                yield f"{path}:{line}: {problem}"


def _edgekit_rule(module: str, imported: str, level: int) -> str | None:
    other = imported.partition(".")[0]
    if module.startswith("device_worker."):
        if other == "device_worker":
            return None
        return (
            "device_worker is sent to devices and may import nothing of edgekit"
        )
    if other in ("", "__version__"):
        return None
    if (
        imported.count(".") == 1
        and imported.startswith("formats.")
        and not is_module(imported)
    ):
        imported = "formats"  # from edgekit.formats import FORMATS
    imported_level = level_of(imported)
    if imported_level is None:
        return f"edgekit.{imported} is not a module with a level"
    own_package = package_of(module)
    if own_package is not None and own_package == package_of(imported):
        return None
    sideways = _step_rule(other) if module.startswith("steps.") else None
    if sideways is not None:
        return sideways
    if imported_level < level:
        return None
    here, there = level_name(module), level_name(imported)
    return f"{here} (level {level}) imports {there} (level {imported_level}); imports point down"


def _step_rule(imported: str) -> str | None:
    if imported == "hosts":
        return "leaves do not import each other"
    if imported in LEAVES - {"quantization", "device_worker"}:
        return "a step may import no other leaf than edgekit.quantization"
    return None


def _foreign_rule(here: str, top: str, quoted: bool) -> str | None:
    if top in FRAMEWORKS and not quoted and here not in WITH_FRAMEWORKS:
        return f"{top} is a framework; only the leaves import one"
    if top == "click" and here != "cli":
        return "click is for edgekit/cli only"
    return None


def imported_by(code: str, watched: frozenset[str]) -> set[str]:
    """Which of the watched packages are loaded in a fresh Python after ``code``."""
    script = f"import sys\n{code}\nprint('LOADED', *sorted({set(watched)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def command(*words: str) -> str:
    """Python code that runs an edgekit command to its end."""
    return (
        f"import edgekit.cli.main\ntry:\n    "
        f"edgekit.cli.main.main({list(words)!r})\nexcept SystemExit as end:\n    "
        f"assert not end.code, end.code"
    )


def test_imports_point_down_and_frameworks_stay_in_the_leaves(
    root: pathlib.Path,
) -> None:
    """No file of edgekit imports from its own floor or above, and no framework outside the
    leaves.
    """
    assert list(broken_rules(root / "edgekit")) == []


def test_every_package_has_a_docstring(root: pathlib.Path) -> None:
    """Each package has an __init__.py with a sentence that says what is in it."""
    for name in PACKAGES:
        tree = ast.parse(
            root.joinpath("edgekit", *name.split("."), "__init__.py").read_text(
                encoding="utf-8"
            )
        )
        assert ast.get_docstring(tree), (
            f"edgekit/{name}/__init__.py has no docstring"
        )


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("plan", "recipes/digits.yaml"),
        ("targets",),
        ("hosts",),
        ("recipes",),
        ("models",),
        ("schemes",),
    ],
    ids=" ".join,
)
def test_the_quick_commands_import_no_framework(
    words: tuple[str, ...], root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edgekit --help`, `plan` and the lists answer without importing torch or any other
    framework.
    """
    monkeypatch.chdir(root)
    assert imported_by(command(*words), FRAMEWORKS) == set()


def test_help_imports_not_even_numpy(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edgekit --help` is quick because nothing heavy is imported for it."""
    monkeypatch.chdir(root)
    assert (
        imported_by(command("--help"), FRAMEWORKS | {"numpy", "jinja2"})
        == set()
    )


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        (
            "errors.py",
            "from edgekit.value import Value\n",
            "errors (level 0) imports value (level",
        ),
        (
            "recipe.py",
            "from edgekit.planning import plan\n",
            "imports planning.plan (level",
        ),
        (
            "recipe.py",
            "def f():\n    from edgekit.cli import main\n",
            "imports cli (level",
        ),
        (
            "checks/size.py",
            "from edgekit.hosts import local\n",
            "imports hosts (level",
        ),
        (
            "steps/train.py",
            "from edgekit.sources import resnet\n",
            "a step may import no other leaf",
        ),
        (
            "steps/train.py",
            "from edgekit.pipeline import run\n",
            "imports point down",
        ),
        (
            "device_worker/worker.py",
            "from edgekit.errors import EdgekitError\n",
            "may import nothing of edgekit",
        ),
        ("planning/plan.py", "import torch.nn\n", "torch is a framework"),
        (
            "rendering/table.py",
            "def f():\n    import onnx\n",
            "onnx is a framework",
        ),
        (
            "pipeline/run.py",
            "from click import echo\n",
            "click is for edgekit/cli only",
        ),
        ("manager.py", "", "manager has no level"),
        (
            "pipeline/run.py",
            "from edgekit import nothing\n",
            "edgekit.nothing is not a module with a level",
        ),
    ],
)
def test_a_wrong_import_is_told_with_its_line(
    tmp_path: pathlib.Path, file: str, source: str, said: str
) -> None:
    """The layering test fails on a file that imports upwards, sideways, or a framework in
    the wrong place.
    """
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    (line,) = broken_rules(tmp_path)
    assert said in line
    assert line.startswith(f"{path}:")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "planning/plan.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
        ),
        (
            "steps/prune.py",
            "import torch\nfrom edgekit.quantization import placement\nfrom "
            "edgekit.steps import torch_storage\n",
        ),
        (
            "checks/size.py",
            "from edgekit import __version__\nfrom edgekit.report import Report\n",
        ),
    ],
)
def test_a_right_import_is_not_told(
    tmp_path: pathlib.Path, file: str, source: str
) -> None:
    """Annotations may name a framework, a step may use quantization, and anyone may import
    from below.
    """
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert list(broken_rules(tmp_path)) == []


def test_an_imported_framework_is_seen() -> None:
    """The test of quick commands fails where a framework is loaded."""
    assert imported_by("import safetensors", FRAMEWORKS) == {"safetensors"}
