"""Vela as a program: what it knows, what its report says, and what becomes of its failures.

With the real Vela where it is asked for files.
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
#: What begins like a TFLite file, and is none.
NOISE = b"\x1c\x00\x00\x00TFL3" + b"0" * 200


def stands_in(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let another program be run in Vela's place."""
    monkeypatch.setattr(vela, "COMMAND", (sys.executable, "-c", program))


def refused(path: pathlib.Path, setting: Setting = U55) -> str:
    made = path.with_name("made.tflite")
    with pytest.raises(StepError) as caught:
        vela.compiled(path, setting, made)
    assert not made.exists()
    return str(caught.value)


def test_the_accelerators_are_those_that_vela_takes() -> None:
    """The table is Vela's own list of choices, in its order."""
    told = subprocess.run(
        [*vela.COMMAND, "--help"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"--accelerator-config \{([^}]*)\}", told)
    assert found is not None
    assert tuple(found[1].replace("\n", "").replace(" ", "").split(",")) == ACCELERATORS


def test_what_vela_ships_is_known() -> None:
    """System configurations and memory modes are read from Vela's own file."""
    systems, modes = vela.known()
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
    ("changes", "said"),
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
def test_names_that_vela_does_not_know_are_refused_with_those_that_it_does(
    changes: dict[str, str], said: str
) -> None:
    """Another family's clock too, which Vela itself would take without a word."""
    vela.require(U55)
    with pytest.raises(StepError) as caught:
        vela.require(U55.model_copy(update=changes))
    assert said in str(caught.value)
    assert "Fix: write one of " in str(caught.value)


def test_without_vela_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Not installed, or the parent package too is not: the command that installs it."""
    monkeypatch.setattr(vela, "MODULE", "no_such_package.vela")
    for call in (
        lambda: vela.require(U55),
        vela.version,
        lambda: vela.compiled(tmp_path / "main.tflite", U55),
    ):
        with pytest.raises(MissingBackend, match=r"pip install 'edgekit\[ethosu\]'"):
            call()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (NOISE, "it does not read this file"),
        (b"", "the file is empty"),
        (b"not a model", "no TFLite file|take this for"),
    ],
)
def test_a_file_that_vela_cannot_read_is_told(
    tmp_path: pathlib.Path, content: bytes, said: str
) -> None:
    """The real Vela, which crashes on noise, shows a traceback for an empty file: one
    sentence, and the way out.
    """
    (tmp_path / "main.tflite").write_bytes(content)
    told = refused(tmp_path / "main.tflite")
    assert re.search(said, told), told
    assert "main.tflite" in told
    assert "Fix:" in told
    assert "Traceback" not in told


def test_a_memory_mode_that_the_system_has_no_memory_for_is_told(
    tmp_path: pathlib.Path,
) -> None:
    """Dedicated SRAM needs a memory beside it that can be written; flash is none."""
    (tmp_path / "main.tflite").write_bytes(NOISE)
    assert "the memory mode does not fit the system configuration" in refused(
        tmp_path / "main.tflite", U55.model_copy(update={"memory_mode": "Dedicated_Sram"})
    )


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
        (
            "import os, signal; print('so far', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
            r"crashed on main.tflite \(SIGSEGV\); its last words: so far",
        ),
        (
            "raise SystemExit('out of luck')",
            r"failed on main.tflite \(exit status 1\): out of luck",
        ),
        (
            "raise SystemExit('Non-passthrough operation (NotEqual) could not run on NPU')",
            r"neither place an operator on the NPU .*NotEqual",
        ),
        ("print('done')", "not all that it writes"),
        (
            "import pathlib, sys; out = pathlib.Path(sys.argv[3]); out.mkdir(); [(out / ('model_' + name)).write_text('a,b\\n1\\n') for name in "
            "('vela.tflite', 'debug.xml', 'summary_x.csv')]",
            "wrote of main.tflite cannot be read",
        ),
    ],
)
def test_whatever_vela_does_is_bounded_and_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    """A hang, a crash, a failure, nothing written, a report of another shape: one
    StepError, and no file.
    """
    monkeypatch.setattr(vela, "TIMEOUT_S", 0.5 if "sleep" in program else 60.0)
    stands_in(monkeypatch, program)
    (tmp_path / "main.tflite").write_bytes(NOISE)
    assert re.search(said, refused(tmp_path / "main.tflite"))


def test_a_program_that_is_not_there_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter itself may be gone."""
    monkeypatch.setattr(vela, "COMMAND", (str(tmp_path / "none"),))
    (tmp_path / "main.tflite").write_bytes(NOISE)
    assert "cannot be started: No such file or directory" in refused(
        tmp_path / "main.tflite"
    )


def test_a_folder_called_ethosu_is_not_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would take the package from the folder where the command runs."""
    (tmp_path / "ethosu" / "vela").mkdir(parents=True)
    (tmp_path / "ethosu" / "vela" / "__main__.py").write_text(
        "raise SystemExit('the wrong one')"
    )
    (tmp_path / "ethosu" / "vela" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.tflite").write_bytes(b"")
    assert "the file is empty" in refused(tmp_path / "main.tflite")
