"""Arm's compiler for the Ethos-U, Vela, run as a program of its own: what it knows, and
what it says of a TFLite file.

Vela estimates; it runs nothing. Its numbers hold for the clock and the memories of one
system configuration.
"""

import configparser
import csv
import importlib.metadata
import importlib.util
import io
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from edgekit import registry
from edgekit.errors import MissingBackend, StepError, suggest
from edgekit.value import Value

MODULE, DISTRIBUTION, EXTRA = "ethosu.vela", "ethos-u-vela", "ethosu"
#: The custom operator that stands for all that Vela has compiled.
CUSTOM = "CUSTOM:ethos-u"
#: -P: a folder of the user's that is called ethosu is not taken for Vela.
COMMAND: Sequence[str] = (sys.executable, "-P", "-m", MODULE)
#: Vela takes 1 to 3 s for small networks; no compilation is waited for longer.
TIMEOUT_S = 300.0
#: The configuration file that Vela ships.
CONFIG = "Arm/vela.ini"
#: What Vela 5.2 compiles for; the last number is multiply-accumulates a cycle.
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
_LONGEST_REASON = 240
_TABLE = re.compile(r'<table name="(\w+)">\s*<!\[CDATA\[\n(.*?)\]\]>', re.DOTALL)
_WARNING = re.compile(
    r"^Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<name>.*)'\nReason: (?P<reason>.+(?:\n.+)*)",
    re.MULTILINE,
)
#: The tensor that has a dtype, which may be a long path.
_TENSOR = re.compile(r"(DataType \w+) \(.*\)")
#: Words of Vela's failures -> what they mean, and the way out.
_FAILURES: Mapping[str, tuple[str, str]] = {
    "cannot mmap an empty file": ("the file is empty", "export it again"),
    "Failed to load TfLite model": (
        "it does not read this file",
        "export the file again; a part of it is missing or damaged",
    ),
    "Failed to parse TFLite file": (
        "it does not read this file",
        "export the file again, or leave the operators out that only newer TFLite runtimes know",
    ),
    "No networks defined": (
        "it does not take this for a TFLite file",
        "name a .tflite file",
    ),
    "could not run on NPU": (
        "it can neither place an operator on the NPU nor leave it to the CPU",
        "take that operator out of the network",
    ),
    "Incorrect argument to CLI option": (
        "it does not know this configuration",
        "correct the target's limits; 'python -m ethosu.vela --list-configs "
        f"{CONFIG}' lists what it knows",
    ),
    "Invalid configuration of": (
        "the memory mode does not fit the system configuration",
        "take memory_mode Shared_Sram or Sram_Only with flash, Dedicated_Sram with DRAM",
    ),
}


class Setting(Value):
    """What a file is compiled for. The names are Vela's own."""

    accelerator: str
    system_config: str
    memory_mode: str
    #: How much SRAM Vela may plan with; None: as much as the memory mode gives.
    sram_bytes: int | None = None

    @property
    def macs_per_cycle(self) -> int:
        """How many products the NPU adds in one cycle, at most."""
        return int(self.accelerator.rpartition("-")[2])


class Layer(Value):
    """One of Vela's rows.

    An operator of the file may become several, or none. ``operator`` is its number in the
    file.
    """

    operator: int | None
    original: str
    op: str
    name: str
    target: Literal["NPU", "CPU"]
    cycles: int
    macs: int


class Refusal(Value):
    """An operator that Vela does not place on the NPU: its kind, the name of what it gives,
    and why.
    """

    op: str
    name: str
    reason: str


class Log(Value):
    """What Vela said of one file: estimates, for the clock and the memories of the
    configuration.
    """

    version: str
    setting: Setting
    clock_hz: float
    #: Cycles of the NPU's part, memory accesses included; the CPU's operators take none
    #: here.
    cycles: int
    sram_bytes: int
    dram_bytes: int
    on_chip_flash_bytes: int
    off_chip_flash_bytes: int
    #: Of the first graph of a file. Where it has several graphs Vela may tell the rows of
    #: another one.
    layers: tuple[Layer, ...]
    refusals: tuple[Refusal, ...]

    @property
    def time_ms(self) -> float:
        """The NPU's time for one inference."""
        return 1000 * self.cycles / self.clock_hz

    @property
    def storage_bytes(self) -> int:
        """All memory but SRAM: where the weights lie."""
        return self.dram_bytes + self.on_chip_flash_bytes + self.off_chip_flash_bytes


def require(setting: Setting) -> None:
    """Raise MissingBackend where Vela is not installed, StepError for names that it does
    not know, with those that it does.
    """
    systems, modes = known()
    family = setting.accelerator.rpartition("-")[0].replace("-", "_")
    # Vela itself takes the clock and the memories of another family without a word.
    fitting = tuple(name for name in systems if name.lower().startswith(f"{family}_"))
    for what, given, choice in (
        ("accelerator", setting.accelerator, ACCELERATORS),
        ("system_config", setting.system_config, fitting),
        ("memory_mode", setting.memory_mode, modes),
    ):
        if given not in choice:
            other = f" for {setting.accelerator}" if what == "system_config" else ""
            raise StepError(
                f"Vela has no {what} {given!r}{other}. {suggest(given, choice)}",
                fix=f"write one of {', '.join(choice)} in the target's limits",
            )


def known() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The system configurations and the memory modes of the file that Vela ships."""
    path = _package().parent / "config_files" / CONFIG
    found = configparser.ConfigParser()
    if not found.read(path, encoding="utf-8"):
        raise MissingBackend(
            f"Vela's own {CONFIG} is not where it was in version 5.2.",
            fix=f"{registry.install(EXTRA)}",
        )
    names = [section.partition(".") for section in found.sections()]
    systems, modes = (
        tuple(name for kind, _, name in names if kind == wanted)
        for wanted in ("System_Config", "Memory_Mode")
    )
    return systems, modes


def version() -> str:
    """The installed version of Vela."""
    _package()
    return importlib.metadata.version(DISTRIBUTION)


def compiled(path: pathlib.Path, setting: Setting, made: pathlib.Path | None = None) -> Log:
    """Compile a TFLite file; the compiled file goes to ``made`` if that is given.

    Raises StepError, and leaves nothing behind then.
    """
    installed = version()
    with tempfile.TemporaryDirectory(prefix="edgekit-vela-") as folder:
        source = (
            pathlib.Path(folder) / "model.tflite"
        )  # Vela names what it writes after the file
        source.symlink_to(path.resolve())
        output = _run(source, path, setting)
        results = {
            suffix: next(iter(source.parent.glob(f"out/model_{suffix}")), None)
            for suffix in ("vela.tflite", "debug.xml", "summary_*.csv")
        }
        if None in results.values():
            raise StepError(
                f"Vela ended without an error, but not all that it writes for {path.name} is there.",
                fix="report it with the file",
            )
        texts = [
            file.read_text(encoding="utf-8", errors="replace")
            for file in (results["summary_*.csv"], results["debug.xml"])
            if file is not None
        ]
        try:
            log = _log(installed, setting, texts, _refusals(output))
        except (LookupError, ValueError) as error:
            fix = f"install version 5.2 of {DISTRIBUTION}"
            raise StepError(
                f"What Vela {installed} wrote of {path.name} cannot be read: {error}.",
                fix=fix,
            ) from error
        if made is not None and results["vela.tflite"] is not None:
            made.write_bytes(results["vela.tflite"].read_bytes())
        return log


def _package() -> pathlib.Path:
    """Vela's folder; it is not imported."""
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


def _run(source: pathlib.Path, path: pathlib.Path, setting: Setting) -> str:
    """What Vela printed. ``path`` is the file's name for the user."""
    budget = (
        []
        if setting.sram_bytes is None
        else ["--arena-cache-size", str(setting.sram_bytes)]
    )
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
        *budget,
        "--verbose-performance",
        "--enable-debug-db",
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(
            f"Vela did not end within {TIMEOUT_S:g} s on {path.name}.",
            fix="give it a smaller network",
        ) from error
    except OSError as error:
        raise StepError(
            f"Vela cannot be started: {error.strerror or error}.",
            fix=registry.install(EXTRA),
        ) from error
    if done.returncode:
        raise _failure(path.name, done)
    return done.stdout


def _failure(name: str, done: "subprocess.CompletedProcess[str]") -> StepError:
    said = [
        line.strip()
        for line in f"{done.stdout}\n{done.stderr}".splitlines()
        if line.strip()
    ]
    last = said[-1][:_LONGEST_REASON] if said else "it printed nothing"
    for words, (meaning, fix) in _FAILURES.items():
        line = next((line for line in said if words in line), None)
        if line is not None:
            return StepError(
                f"Vela cannot compile {name}: {meaning} ({line[:_LONGEST_REASON]}).",
                fix=fix,
            )
    if done.returncode < 0:
        crash = (
            signal.Signals(-done.returncode).name
            if -done.returncode in list(signal.Signals)
            else f"signal {-done.returncode}"
        )
        return StepError(
            f"Vela crashed on {name} ({crash}); its last words: {last}",
            fix="export the file again, or report it to Arm",
        )
    return StepError(
        f"Vela failed on {name} (exit status {done.returncode}): {last}",
        fix="'edgekit inspect' shows what the file holds",
    )


def _refusals(output: str) -> Iterator[Refusal]:
    return (
        Refusal(op=found["op"], name=found["name"], reason=_short(found["reason"]))
        for found in _WARNING.finditer(output)
    )


def _short(reason: str) -> str:
    """Of a wrong dtype only that it is wrong: the tensor's name and all dtypes that would
    be right take lines.
    """
    first = reason.splitlines()[0]
    told = _TENSOR.sub(r"\1", first) if _TENSOR.search(first) else reason
    return " ".join(told.split())[:_LONGEST_REASON]


def _log(
    installed: str, setting: Setting, texts: Sequence[str], refusals: Iterable[Refusal]
) -> Log:
    summary = next(_rows(texts[0]))
    tables = {name: list(_rows(content)) for name, content in _TABLE.findall(texts[1])}
    origins = {row["id"]: row for row in tables["source"]}
    layers = tuple(_layer(row, origins.get(row["source_id"])) for row in tables["perf"])
    memory = {
        kind: round(1024 * float(summary[f"{kind}_memory_used"]))
        for kind in ("sram", "dram", "on_chip_flash", "off_chip_flash")
    }
    return Log(
        version=installed,
        setting=setting,
        clock_hz=float(summary["core_clock"]),
        cycles=round(float(summary["cycles_total"])),
        sram_bytes=memory["sram"],
        dram_bytes=memory["dram"],
        on_chip_flash_bytes=memory["on_chip_flash"],
        off_chip_flash_bytes=memory["off_chip_flash"],
        layers=layers,
        refusals=tuple(refusals),
    )


def _layer(row: Mapping[str, str], origin: Mapping[str, str] | None) -> Layer:
    return Layer(
        operator=None if origin is None else int(origin["ext_key"]),
        original=row["operator"] if origin is None else origin["operator"],
        op=row["operator"],
        name=row["name"],
        target="CPU" if row["operator"] == "Passthrough" else "NPU",
        cycles=int(row["op_cycles"]),
        macs=int(row["mac_count"]),
    )


def _rows(text: str) -> Iterator[Mapping[str, str]]:
    """A table with a heading; ValueError for a row of another length (a tensor's name may
    hold anything).
    """
    for row in csv.DictReader(io.StringIO(text)):
        if None in row or None in row.values():
            raise ValueError(f"a row does not fit its table: {list(row.values())[:4]}")
        yield row
