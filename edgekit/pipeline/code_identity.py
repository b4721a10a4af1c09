"""Which of edgekit's own code a cached result depends on, found from the import graph.

A cache key holds the digest of every module that could change the result: the module that
does the work, and everything that it imports, however deep. An import counts wherever it is
written (also inside a function), and so does a module that is loaded by its name from a
table (``"edgekit.steps.prune:Prune"``) or started as a script (``"build.py"``). A package
that is imported as an object counts with all its modules, because its files are then read
as data: the worker's source is sent to other machines that way.

The sources are searched with regular expressions, because parsing all of them takes a
second of every run. A test compares the result with Python's own parser.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import edgekit

PACKAGE = "edgekit"
_FROM = re.compile(
    r"^[ \t]*from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)",
    re.MULTILINE,
)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^\n]*)", re.MULTILINE)
_BY_NAME = re.compile(rf"""["']({PACKAGE}(?:\.\w+)+)(?::\w+)?["']""")
_SCRIPT = re.compile(r"""["'](\w+)\.py["']""")
#: A record of a format names modules in its own folder. Only the registry loads them, so a
#: module that reads the records does not depend on them, but one that uses the registry does.
FORMATS = f"{PACKAGE}.formats"
REGISTRY = f"{PACKAGE}.registry"
_RECORD = re.compile(rf"{PACKAGE}\.formats\.\w+\.(?:format|provider)")
_IN_FOLDER = re.compile(r"""["']([\w.]+):\w+["']""")
_COMMENT = re.compile(r"#[^\n]*")
#: Imports for annotations only: they are never executed.
_ANNOTATIONS = re.compile(
    r"^if TYPE_CHECKING:\n(?:[ \t]+[^\n]*\n|\n)+", re.MULTILINE
)


class ImportGraph:
    """The modules of one copy of edgekit and what each of them imports."""

    def __init__(self, root: pathlib.Path) -> None:
        """Find the modules below ``root``, the folder of the package; nothing is imported
        or executed.
        """
        self._root = root
        self._files = {
            _module_name(path, root): path for path in root.rglob("*.py")
        }

    @property
    def modules(self) -> frozenset[str]:
        """The full names of all modules, packages included."""
        return frozenset(self._files)

    @functools.cached_property
    def imports(self) -> Mapping[str, frozenset[str]]:
        """The modules that each module imports, directly."""
        imports = {
            name: frozenset(self._imports_of(name)) - {name}
            for name in self._files
        }
        if REGISTRY in imports:
            imports[REGISTRY] |= self._named_by_records
        if FORMATS in imports:
            imports[FORMATS] |= self._records
        return imports

    def reachable(self, modules: Iterable[str]) -> frozenset[str]:
        """The given modules and everything that they import, however deep.

        Raises:
            ValueError: a name is not a module of this copy.
        """
        waiting = list(modules)
        unknown = sorted(set(waiting) - self.modules)
        if unknown:
            raise ValueError(f"not a module of {PACKAGE}: {', '.join(unknown)}")
        reached: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting.extend(self.imports[name])
        return frozenset(reached)

    def digest(self, modules: Iterable[str]) -> str:
        """The SHA-256 of the names and sources of everything reachable from the given
        modules.
        """
        total = hashlib.sha256()
        for name in sorted(self.reachable(modules)):
            content = self._files[name].read_bytes()
            total.update(f"{name}:{len(content)}:".encode())
            total.update(content)
        return total.hexdigest()

    @functools.cached_property
    def _records(self) -> frozenset[str]:
        """The modules with the records of formats and providers."""
        return frozenset(
            name for name in self._files if _RECORD.fullmatch(name)
        )

    @property
    def _named_by_records(self) -> frozenset[str]:
        """What the records name as ``"module:attribute"`` in their own folder."""
        named: set[str] = set()
        for record in self._records:
            source = self._files[record].read_text(encoding="utf-8")
            for module in _IN_FOLDER.findall(source):
                named.update(
                    self._resolve(f"{record.rpartition('.')[0]}.{module}")
                )
        return frozenset(named)

    def _imports_of(self, name: str) -> Iterator[str]:
        path = self._files[name]
        source = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        source = _ANNOTATIONS.sub("", source)
        for target, imported in _FROM.findall(source):
            base = self._absolute(target, name)
            yield from self._resolve(base)
            for word in _names(imported):
                yield from self._resolve(f"{base}.{word}", as_object=True)
        for imported in _IMPORT.findall(source):
            for word in _names(imported):
                yield from self._resolve(word)
        for word in _BY_NAME.findall(source):
            yield from self._resolve(word)
        for stem in _SCRIPT.findall(source):
            yield from self._resolve(f"{self._package_of(name)}.{stem}")

    def _resolve(self, name: str, *, as_object: bool = False) -> Iterator[str]:
        """The modules that importing ``name`` executes, and an entire package if it is
        imported ``as_object``.
        """
        words = name.split(".")
        for count in range(1, len(words) + 1):
            module = ".".join(words[:count])
            if module in self._files:
                yield module
        if as_object and self._is_package(name):
            yield from (
                module
                for module in self._files
                if module.startswith(f"{name}.")
            )

    def _absolute(self, target: str, importer: str) -> str:
        """The full name of what a ``from`` names, also if it is written with dots."""
        level = len(target) - len(target.lstrip("."))
        if not level:
            return target
        words = self._package_of(importer).split(".")
        base = ".".join(words[: len(words) - level + 1])
        return f"{base}.{target[level:]}".rstrip(".")

    def _package_of(self, name: str) -> str:
        return name if self._is_package(name) else name.rpartition(".")[0]

    def _is_package(self, name: str) -> bool:
        return name in self._files and self._files[name].name == "__init__.py"


def code_digest(*modules: str) -> str:
    """The digest of this edgekit's code reachable from some modules.

    A module from outside edgekit, such as a step of another package, adds nothing: its
    ``version`` is in the key.
    """
    return _own_digest(
        tuple(name for name in modules if name.partition(".")[0] == PACKAGE)
    )


@functools.cache
def own_graph() -> ImportGraph:
    """The import graph of the edgekit that is running."""
    return ImportGraph(pathlib.Path(edgekit.__file__).parent)


@functools.cache
def _own_digest(modules: tuple[str, ...]) -> str:
    return own_graph().digest(modules)


def _module_name(path: pathlib.Path, root: pathlib.Path) -> str:
    words = list(path.relative_to(root).with_suffix("").parts)
    if words[-1] == "__init__":
        words.pop()
    return ".".join((PACKAGE, *words))


def _names(imported: str) -> Iterator[str]:
    """The names in ``a, b as c`` or ``(a, b as c)``."""
    for part in imported.strip("() \t\n").split(","):
        words = part.split()
        if words:
            yield words[0]
