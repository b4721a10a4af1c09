"""Importing a user's own Python."""

import pathlib
import sys

import pytest

from edgekit import user_code
from edgekit.errors import ModelError, TaskError


def write(folder: pathlib.Path, **files: str) -> str:
    """Write ``name=content`` as name.py and give the path of the first."""
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content + "\n")
    return str(folder / f"{next(iter(files))}.py")


def test_a_function_of_a_file_is_called(tmp_path: pathlib.Path) -> None:
    """The function named after the colon is found and run."""
    assert (
        user_code.load_function(
            write(tmp_path, net="def model(): return 7") + ":model", ModelError
        )()
        == 7
    )


def test_neighbours_are_imported_at_load_and_at_call(
    tmp_path: pathlib.Path,
) -> None:
    """A file imports the modules next to it, at its top and inside its function."""
    path = write(
        tmp_path,
        net="import one\ndef model():\n    import two\n    return one.A + two.B",
        one="A = 1",
        two="B = 2",
    )
    assert user_code.load_function(f"{path}:model", ModelError)() == 3


def test_neighbours_of_two_folders_do_not_mix(tmp_path: pathlib.Path) -> None:
    """Two folders may each have a helper.py."""
    functions = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        path = write(
            folder,
            net="def model():\n    import helper_x\n    return helper_x.A",
            helper_x=f"A = {value}",
        )
        functions.append(user_code.load_function(f"{path}:model", ModelError))
    assert [function() for function in functions] == [1, 2]
    assert functions[0]() == 1


def test_a_changed_neighbour_is_read_again(tmp_path: pathlib.Path) -> None:
    """Loading again sees what was edited meanwhile."""
    path = write(
        tmp_path,
        net="import helper_y\ndef model(): return helper_y.A",
        helper_y="A = 1",
    )
    assert user_code.load_function(f"{path}:model", ModelError)() == 1
    write(tmp_path, helper_y="A = 22")
    assert user_code.load_function(f"{path}:model", ModelError)() == 22


def test_nothing_is_left_over(tmp_path: pathlib.Path) -> None:
    """No .pyc next to the user's file, and sys.path and the bytecode flag as they were."""
    path = write(
        tmp_path, net="import helper_z\ndef model(): return 1", helper_z=""
    )
    before = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = False
    try:
        user_code.load_function(f"{path}:model", ModelError)()
        assert sys.dont_write_bytecode is False
    finally:
        sys.dont_write_bytecode = before[1]
    assert sys.path == before[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "helper_z.py",
        "net.py",
    ]


def test_the_error_has_file_line_and_message(tmp_path: pathlib.Path) -> None:
    """An exception in the user's function is reported with its place in the user's file, not in
    the standard library.
    """
    path = write(
        tmp_path, net="import json\ndef model():\n    return json.loads('{')"
    )
    with pytest.raises(ModelError, match=r"net\.py:3: JSONDecodeError"):
        user_code.load_function(f"{path}:model", ModelError)()


def test_an_error_in_a_neighbour_names_the_neighbour(
    tmp_path: pathlib.Path,
) -> None:
    """The place is the deepest frame in the user's own files."""
    path = write(
        tmp_path,
        net="import helper_w\ndef model(): return helper_w.f()",
        helper_w="def f():\n    return 1 / 0",
    )
    with pytest.raises(ModelError, match=r"helper_w\.py:2: ZeroDivisionError"):
        user_code.load_function(f"{path}:model", ModelError)()


def test_a_syntax_error_has_its_line(tmp_path: pathlib.Path) -> None:
    """A file that Python cannot parse is reported with the line."""
    with pytest.raises(TaskError, match=r"net\.py:2: SyntaxError"):
        user_code.load_function(
            write(tmp_path, net="x = 1\ndef model(:") + ":model", TaskError
        )


def test_a_file_that_is_no_text_has_no_line(tmp_path: pathlib.Path) -> None:
    """Null bytes are reported with the file alone."""
    (tmp_path / "net.py").write_bytes(b"def model():\n\x00")
    with pytest.raises(ModelError, match=r"net\.py: SyntaxError: .*null bytes"):
        user_code.load_function(f"{tmp_path}/net.py:model", ModelError)


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('boom')", "import sys\nsys.exit(5)"]
)
def test_a_package_that_fails_when_it_is_imported_is_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """To find package.module Python imports the package; what that raises is reported with its
    place.
    """
    (tmp_path / "failing_package").mkdir()
    (tmp_path / "failing_package" / "__init__.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"__init__\.py:\d: (RuntimeError: boom|SystemExit: 5)"
    ):
        user_code.load_function("failing_package.mod:f", ModelError)


def test_a_missing_package_is_named(tmp_path: pathlib.Path) -> None:
    """The error for a failed import has the package to install."""
    with pytest.raises(
        ModelError, match=r"net\.py:1: No module named 'nosuchpackage'"
    ) as caught:
        user_code.load_function(
            write(tmp_path, net="import nosuchpackage") + ":model", ModelError
        )
    assert "nosuchpackage" in (caught.value.fix or "")


def test_sys_exit_does_not_end_edgekit(tmp_path: pathlib.Path) -> None:
    """A script that calls sys.exit() when imported is an error, not the end."""
    with pytest.raises(ModelError, match="SystemExit"):
        user_code.load_function(
            write(tmp_path, net="import sys\nsys.exit(3)") + ":model",
            ModelError,
        )


def test_the_nearest_function_is_offered(tmp_path: pathlib.Path) -> None:
    """A misspelt function gets a hint."""
    with pytest.raises(ModelError, match="Did you mean 'model'"):
        user_code.load_function(
            write(tmp_path, net="def model(): pass") + ":modle", ModelError
        )


def test_the_nearest_file_is_offered(tmp_path: pathlib.Path) -> None:
    """A misspelt file gets a hint."""
    write(tmp_path, network="")
    with pytest.raises(ModelError, match=r"Did you mean 'network\.py'"):
        user_code.load_function(f"{tmp_path}/netwrk.py:model", ModelError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def model(width): pass", "without arguments"),
        ("model = 3", "of type int"),
    ],
)
def test_what_cannot_be_called_is_refused(
    tmp_path: pathlib.Path, content: str, message: str
) -> None:
    """A function that needs arguments, or is not a function, is refused before the call."""
    with pytest.raises(ModelError, match=message):
        user_code.load_function(
            write(tmp_path, net=content) + ":model", ModelError
        )


def test_a_module_of_a_package_is_found() -> None:
    """package.module:function works for what is installed."""
    assert (
        user_code.load_function("pathlib:Path", ModelError)() == pathlib.Path()
    )
    with pytest.raises(ModelError, match=r"no Python module 'no\.such'"):
        user_code.load_function("no.such:thing", ModelError)


def test_a_module_in_the_working_folder_is_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with python -m, the folder where edgekit was started is looked in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack_q").mkdir()
    write(tmp_path / "pack_q", nets="def model(): return 5")
    assert user_code.load_function("pack_q.nets:model", ModelError)() == 5


def test_files_are_followed_through_neighbours_only(
    tmp_path: pathlib.Path,
) -> None:
    """The files that count: the named one, what it imports from its folder, what that
    imports, and not the rest.
    """
    (tmp_path / "pack").mkdir()
    path = write(
        tmp_path,
        net="import a, json\nfrom pack import deep",
        a="from b import x",
        b="import a",
        unused="",
    )
    write(tmp_path / "pack", __init__="", deep="")
    names = [
        str(file.relative_to(tmp_path))
        for file in user_code.module_files(f"{path}:model", ModelError)
    ]
    assert names[0] == "net.py"
    assert sorted(names[1:]) == [
        "a.py",
        "b.py",
        "pack/__init__.py",
        "pack/deep.py",
    ]


def test_what_is_a_function_and_what_is_not() -> None:
    """Names of the zoo and plain files are no functions."""
    results = [
        spec
        for spec in (
            "net.py:model",
            "a.b:f",
            "f:g",
            "zoo:cnn",
            "net.py",
            "x:1a",
            "a/b:f",
            "data.npz",
        )
        if user_code.is_function_spec(spec)
    ]
    assert results == ["net.py:model", "a.b:f", "f:g"]


def test_files_are_followed_through_packages(tmp_path: pathlib.Path) -> None:
    """A module in a package that imports the package again, by its name from the first
    file's folder or by dots, is followed.
    """
    (tmp_path / "models").mkdir()
    path = write(tmp_path, net="from models.net import model")
    write(
        tmp_path / "models",
        __init__="",
        net="from models.blocks import A\nfrom .more import B\ndef model(): return A + B",
        blocks="A = 1",
        more="B = 1",
    )
    names = {
        file.name
        for file in user_code.module_files(f"{path}:model", ModelError)
    }
    assert {"blocks.py", "more.py", "__init__.py"} <= names
