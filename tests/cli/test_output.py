"""Output: width, colours, readers that exit."""

import os
import pathlib
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.text import Text

from edgekit.cli import output

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    "words",
    [
        ["report", "{}", "--format", "html"],
        ["report", "{}"],
        ["targets"],
        ["schemes", "--json"],
    ],
)
def test_a_reader_that_exits_causes_no_traceback(
    environment: dict[str, str], finished: pathlib.Path, words: list[str]
) -> None:
    """``| head`` ends the command quietly, like any tool."""
    command = [
        sys.executable,
        "-m",
        "edgekit",
        *(word.format(finished) for word in words),
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == output.READER_GONE


def test_a_pipe_gets_plain_text_in_100_columns(
    edgekit: Run, finished: pathlib.Path
) -> None:
    """No colours, no line over 120 columns, no trailing spaces."""
    done = edgekit("report", str(finished))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert [
        line for line in done.stdout.splitlines() if line != line.rstrip()
    ] == []


def test_a_terminal_gets_colours(
    environment: dict[str, str], finished: pathlib.Path
) -> None:
    """On a terminal the verdicts are coloured, unless NO_COLOR is set."""

    def drawn(**more: str) -> str:
        main, side = pty.openpty()
        command = [sys.executable, "-m", "edgekit", "report", str(finished)]
        with subprocess.Popen(
            command,
            stdout=side,
            stderr=subprocess.PIPE,
            env={**environment, "TERM": "xterm-256color", **more},
        ) as process:
            os.close(side)
            text = b""
            try:
                while piece := os.read(main, 65536):
                    text += piece
            except OSError:  # the end of a terminal on Linux
                pass
            os.close(main)
        assert process.returncode == 0
        return text.decode()

    assert "\x1b[1;31mfail" in drawn()
    assert "[1;31m" not in drawn(NO_COLOR="1")


def test_text_from_outside_is_not_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Square brackets and emoji codes in names are shown unchanged."""
    drawn = output.grid("name")
    drawn.add_row("[red]x[/red] :smiley:")
    output.show(drawn, Text("[b]"), "[i]")
    assert capsys.readouterr().out == "name\n[red]x[/red] :smiley:\n[b]\n[i]\n"


@pytest.mark.parametrize(
    ("shell", "code", "message"),
    [
        (">/dev/full", 1, "Cannot print the result: No space left on device"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_an_output_that_cannot_be_written_causes_no_traceback(
    environment: dict[str, str], shell: str, code: int, message: str
) -> None:
    """A full disk is one sentence; a closed stdout is no error."""
    command = f"{sys.executable} -m edgekit schemes {shell}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_characters_that_the_encoding_lacks_are_replaced(
    environment: dict[str, str],
) -> None:
    """An ASCII terminal gets question marks, not a crash."""
    code = r"from edgekit.cli import output; output.write('caf\u00e9 \udcff')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONIOENCODING": "ascii:strict"},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf? ?\n", "")
