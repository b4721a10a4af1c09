"""Makes the float file and the peers' files, each in a process of its own, and keeps them
in ``bench/.cache``.

A recipe that fails, hangs or takes its process down with it is a row that says so.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench import exports
from bench.given import SAMPLES, Given, NotApplicableError, Recipe
from bench.networks import CACHE, NETWORKS, ROOT, Network, Runtime

FLOAT = "float"
#: What the made files depend on.
PACKAGES = (
    "torch",
    "torchao",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "nncf",
    "neural-compressor",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
)
SOURCES = ("exports.py", "given.py")
TIMEOUT_S = 1200
LONGEST_LINE = 300


@dataclasses.dataclass(frozen=True)
class Made:
    """A file, or why there is none. ``seconds`` is what making it took."""

    name: str
    file: pathlib.Path | None
    error: str = ""
    seconds: float = 0.0


def peers(runtime: Runtime) -> Mapping[str, Recipe]:
    """The peers' recipes of one runtime, by name."""
    table: Mapping[str, Recipe] = importlib.import_module(f"bench.peers_{runtime}").PEERS
    return table


def make(network: Network, runtime: Runtime, name: str) -> Made:
    """The file of one peer (or the float file), made in a process of its own unless it was
    made before.
    """
    folder = (
        CACHE
        / "files"
        / network.name
        / f"{runtime}-{_slug(name)}-{_digest(network, runtime, name)}"
    )
    record = folder / "made.json"
    if not record.is_file():
        for outdated in folder.parent.glob(f"{runtime}-{_slug(name)}-*"):
            shutil.rmtree(outdated, ignore_errors=True)
        folder.mkdir(parents=True)
        network.weights()
        if name != FLOAT:
            make(network, runtime, FLOAT)
        began = time.monotonic()
        error = in_own_process(
            folder / "log.txt",
            _make,
            network.name,
            runtime,
            name,
            folder / f"model.{runtime}",
        )
        record.write_text(
            json.dumps({"error": error, "seconds": round(time.monotonic() - began, 1)})
        )
    told = json.loads(record.read_text())
    return Made(
        name,
        None if told["error"] else folder / f"model.{runtime}",
        told["error"],
        told["seconds"],
    )


def in_own_process(log: pathlib.Path, work: Callable[..., None], *arguments: Any) -> str:
    """Do the work in a fresh process; the error in one line, or nothing.

    What it prints goes to ``log``.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        done = pool.submit(_guarded, log, work, *arguments)
        try:
            return done.result(TIMEOUT_S)
        except concurrent.futures.process.BrokenProcessPool:
            return "the process died"
        except TimeoutError:
            for process in list(pool._processes.values()):
                process.kill()
            return f"no file after {TIMEOUT_S} s"


def _guarded(log: pathlib.Path, work: Callable[..., None], *arguments: Any) -> str:
    with _told_to(log):
        try:
            work(*arguments)
        except NotApplicableError as reason:
            return f"not applicable: {reason}"
        except Exception as error:  # whatever a peer raises is its row in the table
            traceback.print_exc()
            return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _make(network_name: str, runtime: Runtime, name: str, path: pathlib.Path) -> None:
    network = NETWORKS[network_name]
    if name == FLOAT:
        exports.export(network, runtime, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        peers(runtime)[name](given(network, runtime, pathlib.Path(scratch)), path)


def given(network: Network, runtime: Runtime, scratch: pathlib.Path) -> Given:
    """What a peer gets."""
    task = network.task()
    calibration = task.need("calibration", "the peers").draw(SAMPLES, seed=0)
    made = make(network, runtime, FLOAT)
    if made.file is None:
        raise RuntimeError(f"the float file could not be made: {made.error}")
    return Given(
        made.file, network.make(), calibration, scratch, network.attention, network.images
    )


def first_line(error: BaseException) -> str:
    """The first line that says something, without the folders of this machine."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line.replace(f"{CACHE}/", "")[:LONGEST_LINE]


@contextlib.contextmanager
def _told_to(path: pathlib.Path) -> Iterator[None]:
    """What the peers print goes to a file, C++ messages too."""
    with path.open("w", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


def _digest(network: Network, runtime: Runtime, name: str) -> str:
    sources = [(ROOT / "bench" / file).read_text() for file in SOURCES] + [
        (ROOT / network.file).read_text()
    ]
    facts = [
        versions(),
        sources,
        repr((network.training, network.attention, network.images)),
        "" if name == FLOAT else _source(peers(runtime)[name]),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _source(recipe: Recipe) -> str:
    """The recipe's own text and that of what its file keeps to itself."""
    own = vars(sys.modules[recipe.__module__])
    helpers = [
        thing
        for name, thing in own.items()
        if name.startswith("_") and getattr(thing, "__module__", "") == recipe.__module__
    ]
    return "".join(map(inspect.getsource, [recipe, *helpers]))


def versions() -> dict[str, str]:
    """The installed versions of what makes the files."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
