"""Running a user's own Python: a function named by a file or a module.

``file.py:function`` or ``package.module:function``. This runs the user's code by design. A
file can import the modules next to it, as if it were started with ``python file.py``;
nothing is written next to it, and ``sys.path`` is restored.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgekit.errors import EdgekitError, suggest

ErrorKind = type[EdgekitError]
_Paths = Sequence[pathlib.Path]


def is_function_spec(spec: str) -> bool:
    """Whether ``spec`` looks like ``file.py:function`` or ``package.module:function``."""
    where, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier() or where == "zoo":
        return False
    return where.endswith(".py") or all(
        word.isidentifier() for word in where.split(".")
    )


def load_function(spec: str, error: ErrorKind) -> Callable[[], Any]:
    """Import what ``spec`` names; returns a function without arguments that calls it.

    Whatever fails in the user's file, now or at the call, is raised as ``error`` with the
    file and line.
    """
    where, name = _split(spec, error)
    files = module_files(spec, error)
    with (
        _import_environment(where, files, fresh=True),
        _reraise_as(error, spec, files),
    ):
        module = _import(where, files[0])
    function = getattr(module, name, None)
    if function is None:
        functions = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_")
        ]
        hint = suggest(name, functions) or "It defines no function."
        raise error(
            f"{where} has no function {name!r}. {hint}",
            fix="name a function of that file after the colon",
        )
    _check_no_arguments(function, spec, error)

    def call() -> Any:
        environment = _import_environment(where, files, fresh=False)
        with environment, _reraise_as(error, spec, files):
            return function()

    return call


def module_files(spec: str, error: ErrorKind) -> tuple[pathlib.Path, ...]:
    """The files on which the result depends: the named one first.

    Then the modules next to it that it imports, directly or indirectly. For
    ``package.module:function`` only that module's file. Raises ``error`` if the file or
    module does not exist.
    """
    where, _ = _split(spec, error)
    if not where.endswith(".py"):
        return (_find_module(where, error),)
    first = pathlib.Path(where).expanduser().resolve()
    if not first.is_file():
        siblings = [path.name for path in first.parent.glob("*.py")]
        raise error(
            f"No such file: {where}. {suggest(first.name, siblings)}".rstrip(),
            fix="give the path of a Python file, then a colon and a function's name",
        )
    files = {first}
    pending = [first]
    while pending:
        for path in _imported_files(pending.pop(), first.parent):
            if path not in files:
                files.add(path)
                pending.append(path)
    return (first, *sorted(files - {first}))


def fingerprint(files: _Paths) -> str:
    """The SHA-256 of the names and contents of files; their folders do not matter."""
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _split(spec: str, error: ErrorKind) -> tuple[str, str]:
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise error(
            f"{spec!r} does not name a function.",
            fix="write file.py:function or package.module:function",
        )
    return where, name


def _find_module(name: str, error: ErrorKind) -> pathlib.Path:
    """The file of ``package.module``; the working directory is searched too."""
    try:
        with _import_environment(name, (), fresh=False):
            spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    # Finding a module imports its parent packages, which may raise anything.
    except (Exception, SystemExit) as problem:
        last = traceback.extract_tb(problem.__traceback__)[-1]
        place = f"{_short_path(last.filename)}:{last.lineno}"
        raise error(
            f"{place}: {type(problem).__name__}: {problem}",
            fix=f"{name} must be imported without an error",
        ) from problem
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise error(
            f"There is no Python module {name!r}.",
            fix="install its package, or give the path of a file: file.py:function",
        )
    return pathlib.Path(spec.origin)


def _imported_files(
    path: pathlib.Path, root: pathlib.Path
) -> Iterator[pathlib.Path]:
    """The .py files that ``path`` imports from ``root`` or from its own folder.

    A relative import is looked up in the folder that its dots name. A package is
    represented by its __init__.py.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # reported with its line when the file is imported
    imports: set[tuple[pathlib.Path, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            folders = [root, path.parent]
        elif isinstance(node, ast.ImportFrom):
            names = _names_of(node)
            folders = [root, path.parent]
            if node.level:
                folders = [path.parents[min(node.level, len(path.parents)) - 1]]
        else:
            continue
        imports.update((folder, name) for folder in folders for name in names)
    for folder, name in sorted(imports):
        yield from _module_paths(folder, name)


def _names_of(node: ast.ImportFrom) -> list[str]:
    """The modules that ``from module import names`` may load."""
    module = node.module or ""
    prefix = f"{module}." if module else ""
    return [module, *(prefix + alias.name for alias in node.names)]


def _module_paths(folder: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """The existing files of a dotted name and of its parent packages below ``folder``."""
    words = name.split(".") if name else []
    for count in range(1, len(words) + 1):
        stem = folder.joinpath(*words[:count])
        for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if file.is_file():
                yield file.resolve()


def _import(where: str, path: pathlib.Path) -> types.ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    # The name contains the path's hash: two users' files may both be named net.py.
    path_hash = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"edgekit_user_{path.stem}_{path_hash}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _import_environment(
    where: str, files: _Paths, fresh: bool
) -> Iterator[None]:
    """Let imports find the modules next to the user's file, and write no .pyc files.

    Modules of other folders with the same name as one of these are set aside meanwhile;
    everything is restored afterwards. ``fresh``: modules next to the file are read again.
    """
    folder = str(
        files[0].parent if where.endswith(".py") else pathlib.Path.cwd()
    )
    neighbours = {_module_name(path): path for path in files[1:]}
    set_aside = {}
    for name, path in neighbours.items():
        loaded = sys.modules.get(name)
        if loaded is not None and _file_of(loaded) != path:
            set_aside[name] = sys.modules.pop(name)
        elif fresh:
            sys.modules.pop(name, None)
    dont_write_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.modules.update(set_aside)
        sys.dont_write_bytecode = dont_write_bytecode
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _module_name(path: pathlib.Path) -> str:
    return path.parent.name if path.name == "__init__.py" else path.stem


def _file_of(module: types.ModuleType) -> pathlib.Path | None:
    file = getattr(module, "__file__", None)
    return pathlib.Path(file).resolve() if file else None


@contextlib.contextmanager
def _reraise_as(error: ErrorKind, spec: str, files: _Paths) -> Iterator[None]:
    """Translate whatever the user's code raises, with the line in the user's own file."""
    try:
        yield
    except EdgekitError:
        raise
    except SyntaxError as problem:
        file = _short_path(problem.filename or str(files[0]))
        line = "" if problem.lineno is None else f":{problem.lineno}"
        raise error(
            f"{file}{line}: {type(problem).__name__}: {problem.msg}",
            fix="correct that line" if line else "correct that file",
        ) from problem
    except ModuleNotFoundError as problem:
        raise error(
            f"{_place(problem, files)}: {problem.msg}",
            fix=f"install the package that contains {problem.name!r}, "
            f"or put {problem.name}.py next to the file",
        ) from problem
    except (
        Exception,
        SystemExit,
    ) as problem:  # the user's code may raise anything
        raise error(
            f"{_place(problem, files)}: {type(problem).__name__}: {problem}",
            fix=f"{spec} must run without an error",
        ) from problem


def _place(problem: BaseException, files: _Paths) -> str:
    """``file:line`` of the deepest frame in the user's files."""
    own = {str(path) for path in files}
    for frame in reversed(traceback.extract_tb(problem.__traceback__)):
        if str(pathlib.Path(frame.filename).resolve()) in own:
            return f"{_short_path(frame.filename)}:{frame.lineno}"
    return _short_path(str(files[0]))


def _short_path(file: str) -> str:
    """The path of a file relative to the working directory, if it is inside of it."""
    path = pathlib.Path(file)
    here = pathlib.Path.cwd()
    return (
        str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    )


def _check_no_arguments(function: Any, spec: str, error: ErrorKind) -> None:
    """Raise ``error`` unless ``function`` can be called without arguments."""
    if not callable(function):
        raise error(
            f"{spec} is of type {type(function).__name__}, not a function.",
            fix="name a function without arguments",
        )
    try:
        inspect.signature(function).bind()
    except TypeError as problem:
        raise error(
            f"{spec} must be callable without arguments: {problem}.",
            fix="give every argument a default, "
            "or write a function without arguments that calls it",
        ) from problem
    except ValueError:
        return  # a built-in without a signature
