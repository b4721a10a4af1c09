"""A user's own Python: finding a function in ``file.py:function`` or
``package.module:function`` and calling it.

This runs the user's code by design. A file's neighbours can be imported from it, as if it
were started with ``python file.py``; nothing is written beside it and ``sys.path`` is left
as it was.
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


def is_function_spec(spec: str) -> bool:
    """Whether ``spec`` looks like ``file.py:function`` or ``package.module:function``."""
    where, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier() or where == "zoo":
        return False
    return where.endswith(".py") or all(word.isidentifier() for word in where.split("."))


def load_function(spec: str, error: ErrorKind) -> Callable[[], Any]:
    """Import what ``spec`` names and give a function without arguments that calls it.

    Whatever goes wrong in the user's file, now or at the call, is raised as ``error`` with
    the file and line.
    """
    where, name = _split(spec, error)
    files = module_files(spec, error)
    with _as_started_there(where, files, fresh=True), _told_as(error, spec, files):
        module = _import(where, files[0])
    function = getattr(module, name, None)
    if function is None:
        known = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_")
        ]
        hint = suggest(name, known) or "It defines no function."
        raise error(
            f"{where} has no function {name!r}. {hint}",
            fix="name a function of that file after the colon",
        )
    _takes_no_arguments(function, spec, error)

    def call() -> Any:
        with _as_started_there(where, files, fresh=False), _told_as(error, spec, files):
            return function()

    return call


def module_files(spec: str, error: ErrorKind) -> tuple[pathlib.Path, ...]:
    """The files that the result depends on: the named one first, then the neighbours that
    it imports, however deep.

    For ``package.module:function`` only that module's file.
    """
    where, _ = _split(spec, error)
    if not where.endswith(".py"):
        return (_find_module(where, error),)
    first = pathlib.Path(where).expanduser().resolve()
    if not first.is_file():
        around = (
            [path.name for path in first.parent.glob("*.py")]
            if first.parent.is_dir()
            else []
        )
        raise error(
            f"No such file: {where}. {suggest(first.name, around)}".rstrip(),
            fix="give the path of a Python file, then a colon and a function's name",
        )
    found, waiting = [first], [first]
    while waiting:
        for path in _neighbours(waiting.pop(), first.parent):
            if path not in found:
                found.append(path)
                waiting.append(path)
    return (first, *sorted(found[1:]))


def fingerprint(files: Sequence[pathlib.Path]) -> str:
    """A hash of the names and the bytes of some files; the folder that they lie in does not
    matter.
    """
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
    """The file of ``package.module``; the folder where edgekit was started counts as a
    place to look.
    """
    try:
        with _as_started_there(name, (), fresh=False):
            spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    except (
        Exception,
        SystemExit,
    ) as problem:  # looking for a module imports the packages that it lies in
        last = traceback.extract_tb(problem.__traceback__)[-1]
        raise error(
            f"{_short(last.filename)}:{last.lineno}: {type(problem).__name__}: {problem}",
            fix=f"{name} must be imported without an error",
        ) from problem
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise error(
            f"There is no Python module {name!r}.",
            fix="install its package, or give the path of a file: file.py:function",
        )
    return pathlib.Path(spec.origin)


def _neighbours(path: pathlib.Path, root: pathlib.Path) -> Iterator[pathlib.Path]:
    """The .py files (or packages' __init__.py) that ``path`` imports from ``root``, its own
    folder, or one above it by dots.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # told with its line when the file is imported
    names: set[tuple[pathlib.Path, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(
                (base, alias.name) for alias in node.names for base in (root, path.parent)
            )
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            bases = (
                (path.parents[min(node.level, len(path.parents)) - 1],)
                if node.level
                else (root, path.parent)
            )
            names.update(
                (base, name)
                for base in bases
                for name in (
                    node.module or "",
                    *(prefix + alias.name for alias in node.names),
                )
            )
    for base, name in sorted(names):
        words = name.split(".") if name else []
        for count in range(1, len(words) + 1):
            stem = base.joinpath(*words[:count])
            yield from (
                file.resolve()
                for file in (stem.with_name(stem.name + ".py"), stem / "__init__.py")
                if file.is_file()
            )


def _import(where: str, path: pathlib.Path) -> types.ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    # The name holds the path's hash: two users' files may both be called net.py.
    name = f"edgekit_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
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
def _as_started_there(
    where: str, files: Sequence[pathlib.Path], fresh: bool
) -> Iterator[None]:
    """Let imports find the neighbours of the user's file, write no .pyc, and put everything
    back.

    Modules of other places that have a neighbour's name are set aside meanwhile. ``fresh``:
    neighbours are read again.
    """
    folder = str(files[0].parent if where.endswith(".py") else pathlib.Path.cwd())
    neighbours = {
        path.parent.name if path.name == "__init__.py" else path.stem: path
        for path in files[1:]
    }
    aside = {
        name: sys.modules.pop(name)
        for name, path in neighbours.items()
        if name in sys.modules and _file_of(sys.modules[name]) != path
    }
    if fresh:
        for name in neighbours:
            sys.modules.pop(name, None)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.modules.update(aside)
        sys.dont_write_bytecode = before
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _file_of(module: types.ModuleType) -> pathlib.Path | None:
    file = getattr(module, "__file__", None)
    return pathlib.Path(file).resolve() if file else None


@contextlib.contextmanager
def _told_as(error: ErrorKind, spec: str, files: Sequence[pathlib.Path]) -> Iterator[None]:
    """Translate whatever the user's code raises, with the place in the user's own file."""
    try:
        yield
    except EdgekitError:
        raise
    except SyntaxError as problem:
        line = "" if problem.lineno is None else f":{problem.lineno}"
        raise error(
            f"{_short(problem.filename or str(files[0]))}{line}: {type(problem).__name__}: {problem.msg}",
            fix="correct that line" if line else "correct that file",
        ) from problem
    except ModuleNotFoundError as problem:
        fix = f"install the package that holds {problem.name!r}, or put {problem.name}.py beside the file"
        raise error(f"{_place(problem, files)}: {problem.msg}", fix=fix) from problem
    except (Exception, SystemExit) as problem:  # the user's code may raise anything
        raise error(
            f"{_place(problem, files)}: {type(problem).__name__}: {problem}",
            fix=f"{spec} must run without an error",
        ) from problem


def _place(problem: BaseException, files: Sequence[pathlib.Path]) -> str:
    """``file:line`` of the deepest frame that lies in the user's files."""
    own = {str(path) for path in files}
    frames = [
        frame
        for frame in traceback.extract_tb(problem.__traceback__)
        if str(pathlib.Path(frame.filename).resolve()) in own
    ]
    return (
        f"{_short(frames[-1].filename)}:{frames[-1].lineno}"
        if frames
        else _short(str(files[0]))
    )


def _short(file: str) -> str:
    path, here = pathlib.Path(file), pathlib.Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _takes_no_arguments(function: Any, spec: str, error: ErrorKind) -> None:
    if not callable(function):
        raise error(
            f"{spec} is of type {type(function).__name__}, not a function.",
            fix="name a function that takes no arguments",
        )
    try:
        inspect.signature(function).bind()
    except TypeError as problem:
        fix = "give every argument a default, or write a function without arguments that calls it"
        raise error(
            f"{spec} is called without arguments, but: {problem}.", fix=fix
        ) from problem
    except ValueError:
        return  # a built-in without a signature
