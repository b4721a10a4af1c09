"""Vela as a program: its configurations, its report, and its failures.

The real Vela runs in the tests that compile files.
"""

import pathlib
import re
import subprocess
import sys

import pytest

from edgekit.errors import MissingBackend, StepError
from edgekit.formats.ethosu import vela
from edgekit.formats.ethosu.vela import ACCELERATORS, Setting

pytest.importorskip("ethosu.vela", reason="needs edgekit[ethosu]")

U55 = Setting(
    accelerator="ethos-u55-256",
    system_config="Ethos_U55_High_End_Embedded",
    memory_mode="Shared_Sram",
)
#: What starts like a TFLite file, but is not one.
NOISE = b"\x1c\x00\x00\x00TFL3" + b"0" * 200


def replace_vela(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Run another program instead of Vela."""
    monkeypatch.setattr(vela, "COMMAND", (sys.executable, "-c", program))


def refusal(path: pathlib.Path, setting: Setting = U55) -> str:
    compiled = path.with_name("compiled.tflite")
    with pytest.raises(StepError) as caught:
        vela.compile_file(path, setting, compiled)
    assert not compiled.exists()
    return str(caught.value)


def test_the_accelerators_are_those_of_vela() -> None:
    """The table is Vela's own list of choices, in its order."""
    message = subprocess.run(
        [*vela.COMMAND, "--help"], capture_output=True, text=True, check=True
    ).stdout
    choices = re.search(r"--accelerator-config \{([^}]*)\}", message)
    assert choices is not None
    assert (
        tuple(choices[1].replace("\n", "").replace(" ", "").split(","))
        == ACCELERATORS
    )


def test_configurations_are_read_from_velas_file() -> None:
    """System configurations and memory modes are read from Vela's own file."""
    systems, modes = vela.list_configurations()
    assert {
        "Ethos_U55_High_End_Embedded",
        "Ethos_U65_High_End",
        "Ethos_U85_SYS_DRAM_Low",
    } <= set(systems)
    assert {"Sram_Only", "Shared_Sram", "Dedicated_Sram_384KB"} <= set(modes)
    assert (
        U55.macs_per_cycle,
        U55.model_copy(update={"accelerator": "ethos-u85-2048"}).macs_per_cycle,
    ) == (256, 2048)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"accelerator": "ethos-u55-512"}, "no accelerator 'ethos-u55-512'"),
        (
            {"system_config": "Ethos_U55_High_End_Embeded"},
            "Did you mean 'Ethos_U55_High_End_Embedded'?",
        ),
        (
            {"system_config": "Ethos_U65_High_End"},
            "no system_config 'Ethos_U65_High_End' for ethos-u55-256",
        ),
        ({"memory_mode": "Shared"}, "Did you mean 'Shared_Sram'?"),
    ],
)
def test_unknown_names_are_rejected_with_the_valid_ones(
    changes: dict[str, str], expected: str
) -> None:
    """Also another family's clock, which Vela itself would silently accept."""
    vela.require(U55)
    with pytest.raises(StepError) as caught:
        vela.require(U55.model_copy(update=changes))
    assert expected in str(caught.value)
    assert "Fix: use one of " in str(caught.value)


def test_without_vela_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Not installed, nor its parent package: the command that installs it."""
    monkeypatch.setattr(vela, "MODULE", "no_such_package.vela")
    for call in (
        lambda: vela.require(U55),
        vela.version,
        lambda: vela.compile_file(tmp_path / "main.tflite", U55),
    ):
        with pytest.raises(
            MissingBackend, match=r"pip install 'edgekit\[ethosu\]'"
        ):
            call()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (NOISE, "it cannot read this file"),
        (b"", "the file is empty"),
        (b"not a model", "does not recognize this as a TFLite file"),
    ],
)
def test_a_file_that_vela_cannot_read_is_reported(
    tmp_path: pathlib.Path, content: bytes, expected: str
) -> None:
    """The real Vela crashes on noise and shows a traceback for an empty file: one sentence,
    and a fix.
    """
    (tmp_path / "main.tflite").write_bytes(content)
    message = refusal(tmp_path / "main.tflite")
    assert re.search(expected, message), message
    assert "main.tflite" in message
    assert "Fix:" in message
    assert "Traceback" not in message


def test_a_memory_mode_without_its_memory_is_reported(
    tmp_path: pathlib.Path,
) -> None:
    """Dedicated SRAM requires another writable memory; flash is not writable."""
    (tmp_path / "main.tflite").write_bytes(NOISE)
    assert "the memory mode does not fit the system configuration" in refusal(
        tmp_path / "main.tflite",
        U55.model_copy(update={"memory_mode": "Dedicated_Sram"}),
    )


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import time; time.sleep(60)", "did not finish within 0.5 s"),
        (
            "import os, signal; print('so far', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
            r"crashed on main.tflite \(SIGSEGV\); its last output: so far",
        ),
        (
            "raise SystemExit('out of luck')",
            r"failed on main.tflite \(exit status 1\): out of luck",
        ),
        (
            "raise SystemExit('Non-passthrough operation (NotEqual) could not run on NPU')",
            r"neither place an operator on the NPU .*NotEqual",
        ),
        ("print('done')", "did not write all files"),
        (
            "import pathlib, sys; out = pathlib.Path(sys.argv[3]); out.mkdir(); "
            "names = ('vela.tflite', 'debug.xml', 'summary_x.csv'); "
            "[(out / ('model_' + name)).write_text('a,b\\n1\\n') for name in names]",
            "on main.tflite cannot be read",
        ),
    ],
)
def test_every_failure_of_vela_is_reported(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    expected: str,
) -> None:
    """A hang, a crash, a failure, no output files, a report with another structure: one
    StepError, and no file.
    """
    monkeypatch.setattr(vela, "TIMEOUT_S", 0.5 if "sleep" in program else 60.0)
    replace_vela(monkeypatch, program)
    (tmp_path / "main.tflite").write_bytes(NOISE)
    assert re.search(expected, refusal(tmp_path / "main.tflite"))


def test_a_missing_program_is_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter itself may be missing."""
    monkeypatch.setattr(vela, "COMMAND", (str(tmp_path / "none"),))
    (tmp_path / "main.tflite").write_bytes(NOISE)
    assert "cannot be started: No such file or directory" in refusal(
        tmp_path / "main.tflite"
    )


def test_a_folder_named_ethosu_is_not_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would import the package from the folder where the command runs."""
    (tmp_path / "ethosu" / "vela").mkdir(parents=True)
    (tmp_path / "ethosu" / "vela" / "__main__.py").write_text(
        "raise SystemExit('the wrong one')"
    )
    (tmp_path / "ethosu" / "vela" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.tflite").write_bytes(b"")
    assert "the file is empty" in refusal(tmp_path / "main.tflite")
