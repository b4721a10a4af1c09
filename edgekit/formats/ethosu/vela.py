"""Run Vela, Arm's compiler for the Ethos-U, as a program: its configurations, and the
compilation of a TFLite file.
"""

import configparser
import importlib.metadata
import importlib.util
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from edgekit import registry
from edgekit.errors import MissingBackend, StepError, suggest
from edgekit.formats.ethosu import log as vela_log
from edgekit.formats.ethosu.log import Log, Setting

MODULE, DISTRIBUTION, EXTRA = "ethosu.vela", "ethos-u-vela", "ethosu"
#: -P: a folder of the user's that is named ethosu is not imported instead of Vela.
COMMAND: Sequence[str] = (sys.executable, "-P", "-m", MODULE)
#: Vela needs 1 to 3 s for small networks.
TIMEOUT_S = 300.0
#: The configuration file that Vela ships.
CONFIG = "Arm/vela.ini"
#: What Vela 5.2 compiles for; the last number is multiply-accumulates per cycle.
ACCELERATORS = (
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-128",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
)


class KnownFailure(NamedTuple):
    """A text in Vela's output, what it means, and a fix."""

    text: str
    meaning: str
    fix: str


_KNOWN_FAILURES = (
    KnownFailure(
        "cannot mmap an empty file", "the file is empty", "export it again"
    ),
    KnownFailure(
        "Failed to load TfLite model",
        "it cannot read this file",
        "export the file again; a part of it is missing or damaged",
    ),
    KnownFailure(
        "Failed to parse TFLite file",
        "it cannot read this file",
        "export the file again, or remove operators that only newer TFLite runtimes support",
    ),
    KnownFailure(
        "No networks defined",
        "it does not recognize this as a TFLite file",
        "pass a .tflite file",
    ),
    KnownFailure(
        "could not run on NPU",
        "it can neither place an operator on the NPU nor leave it to the CPU",
        "remove that operator from the network",
    ),
    KnownFailure(
        "Incorrect argument to CLI option",
        "unknown configuration",
        "correct the target's limits; 'python -m ethosu.vela --list-configs "
        f"{CONFIG}' lists the valid ones",
    ),
    KnownFailure(
        "Invalid configuration of",
        "the memory mode does not fit the system configuration",
        "use memory_mode Shared_Sram or Sram_Only with flash, Dedicated_Sram with DRAM",
    ),
)


def require(setting: Setting) -> None:
    """Check that Vela is installed and supports a setting.

    Raises MissingBackend if it is not installed, and StepError for an unknown name, with
    the valid ones.
    """
    systems, modes = list_configurations()
    # Vela itself silently accepts the clock and the memories of another family.
    family = setting.accelerator.rpartition("-")[0].replace("-", "_")
    matching = [
        name for name in systems if name.lower().startswith(f"{family}_")
    ]
    _require_choice("accelerator", setting.accelerator, ACCELERATORS)
    _require_choice(
        "system_config",
        setting.system_config,
        matching,
        f" for {setting.accelerator}",
    )
    _require_choice("memory_mode", setting.memory_mode, modes)


def _require_choice(
    kind: str, name: str, choices: Sequence[str], scope: str = ""
) -> None:
    if name not in choices:
        raise StepError(
            f"Vela has no {kind} {name!r}{scope}. {suggest(name, choices)}",
            fix=f"use one of {', '.join(choices)} in the target's limits",
        )


def list_configurations() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The system configurations and the memory modes in the file that Vela ships.

    Raises MissingBackend if Vela is not installed, or the file is missing.
    """
    path = _package_folder().parent / "config_files" / CONFIG
    parser = configparser.ConfigParser()
    if not parser.read(path, encoding="utf-8"):
        raise MissingBackend(
            f"Vela's own {CONFIG} is not where it was in version 5.2.",
            fix=registry.install(EXTRA),
        )
    names = [section.partition(".") for section in parser.sections()]
    systems = tuple(name for kind, _, name in names if kind == "System_Config")
    modes = tuple(name for kind, _, name in names if kind == "Memory_Mode")
    return systems, modes


def version() -> str:
    """The installed version of Vela. Raises MissingBackend if it is not installed."""
    _package_folder()
    return importlib.metadata.version(DISTRIBUTION)


def compile_file(
    path: pathlib.Path, setting: Setting, output: pathlib.Path | None = None
) -> Log:
    """Compile a TFLite file, write the result to ``output`` if given, and return the log.

    Raises StepError if Vela fails; ``output`` is not written then.
    """
    installed = version()
    with tempfile.TemporaryDirectory(prefix="edgekit-vela-") as folder:
        # Vela names its own files after this one.
        source = pathlib.Path(folder) / "model.tflite"
        source.symlink_to(path.resolve())
        printed = _run(source, path.name, setting)
        results = {
            suffix: next(iter(source.parent.glob(f"out/model_{suffix}")), None)
            for suffix in ("vela.tflite", "debug.xml", "summary_*.csv")
        }
        compiled, debug, summary = results.values()
        if compiled is None or debug is None or summary is None:
            raise StepError(
                f"Vela finished without an error, but did not write all files for {path.name}.",
                fix="report it with the file",
            )
        try:
            log = vela_log.parse(
                installed,
                setting,
                _read_text(summary),
                _read_text(debug),
                printed,
            )
        except (LookupError, ValueError) as error:
            raise StepError(
                f"The report of Vela {installed} on {path.name} cannot be read: {error}.",
                fix=f"install version 5.2 of {DISTRIBUTION}",
            ) from error
        if output is not None:
            output.write_bytes(compiled.read_bytes())
        return log


def _read_text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _package_folder() -> pathlib.Path:
    """Vela's folder, without importing it."""
    try:
        spec = importlib.util.find_spec(MODULE)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingBackend(
            f"The Ethos-U compiler Vela (the package {DISTRIBUTION}) is not installed.",
            fix=registry.install(EXTRA),
        )
    return pathlib.Path(spec.submodule_search_locations[0])


def _command(source: pathlib.Path, setting: Setting) -> list[str]:
    command = [
        *COMMAND,
        str(source),
        "--output-dir",
        str(source.parent / "out"),
        "--config",
        CONFIG,
        "--accelerator-config",
        setting.accelerator,
        "--system-config",
        setting.system_config,
        "--memory-mode",
        setting.memory_mode,
    ]
    if setting.sram_bytes is not None:
        command += ["--arena-cache-size", str(setting.sram_bytes)]
    return [*command, "--verbose-performance", "--enable-debug-db"]


def _run(source: pathlib.Path, name: str, setting: Setting) -> str:
    """Run Vela and return its output. ``name`` is the file's name for messages."""
    try:
        process = subprocess.run(
            _command(source, setting),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(
            f"Vela did not finish within {TIMEOUT_S:g} s on {name}.",
            fix="use a smaller network",
        ) from error
    except OSError as error:
        raise StepError(
            f"Vela cannot be started: {error.strerror or error}.",
            fix=registry.install(EXTRA),
        ) from error
    if process.returncode:
        raise _translate_failure(name, process)
    return process.stdout


def _translate_failure(
    name: str, process: "subprocess.CompletedProcess[str]"
) -> StepError:
    output = f"{process.stdout}\n{process.stderr}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for failure in _KNOWN_FAILURES:
        line = next((line for line in lines if failure.text in line), None)
        if line is not None:
            quote = line[: vela_log.MAX_REASON]
            return StepError(
                f"Vela cannot compile {name}: {failure.meaning} ({quote}).",
                fix=failure.fix,
            )
    last_line = lines[-1][: vela_log.MAX_REASON] if lines else "no output"
    if process.returncode < 0:
        crash = _signal_name(-process.returncode)
        return StepError(
            f"Vela crashed on {name} ({crash}); its last output: {last_line}",
            fix="export the file again, or report it to Arm",
        )
    return StepError(
        f"Vela failed on {name} (exit status {process.returncode}): {last_line}",
        fix="'edgekit inspect' shows what the file contains",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
