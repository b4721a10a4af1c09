"""Build the float file and the peers' files, each in a separate process, and cache them.

The cache is ``bench/.cache``. A recipe that fails, hangs or crashes is a row with its error.
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
from bench.networks import CACHE, NETWORKS, ROOT, Network, Runtime
from bench.peer_inputs import SAMPLES, NotApplicableError, PeerInputs, Recipe

FLOAT = "float"
#: Packages and sources that the files depend on.
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
SOURCES = ("exports.py", "peer_inputs.py")
TIMEOUT_S = 1200
LONGEST_LINE = 300


@dataclasses.dataclass(frozen=True)
class BuiltFile:
    """A file, or the error if there is none. ``seconds`` is how long building it took."""

    name: str
    file: pathlib.Path | None
    error: str = ""
    seconds: float = 0.0


def peers(runtime: Runtime) -> Mapping[str, Recipe]:
    """The peers' recipes of one runtime, by name."""
    table: Mapping[str, Recipe] = importlib.import_module(
        f"bench.peers_{runtime}"
    ).PEERS
    return table


def make(network: Network, runtime: Runtime, name: str) -> BuiltFile:
    """Build the file of one peer, or the float file, unless it is cached."""
    version = _digest(network, runtime, name)
    files = CACHE / "files" / network.name
    folder = files / f"{runtime}-{_slug(name)}-{version}"
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
            json.dumps(
                {"error": error, "seconds": round(time.monotonic() - began, 1)}
            )
        )
    recorded = json.loads(record.read_text())
    file = None if recorded["error"] else folder / f"model.{runtime}"
    return BuiltFile(name, file, recorded["error"], recorded["seconds"])


def in_own_process(
    log: pathlib.Path, work: Callable[..., None], *arguments: Any
) -> str:
    """Do the work in a new process, and return its error in one line, or an empty string.

    Its output goes to ``log``.
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


def _guarded(
    log: pathlib.Path, work: Callable[..., None], *arguments: Any
) -> str:
    with _redirect_output(log):
        try:
            work(*arguments)
        except NotApplicableError as reason:
            return f"not applicable: {reason}"
        except (
            Exception
        ) as error:  # whatever a peer raises is its row in the table
            traceback.print_exc()
            return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _make(
    network_name: str, runtime: Runtime, name: str, path: pathlib.Path
) -> None:
    network = NETWORKS[network_name]
    if name == FLOAT:
        exports.export(network, runtime, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        peers(runtime)[name](
            inputs_of_peers(network, runtime, pathlib.Path(scratch)), path
        )


def inputs_of_peers(
    network: Network, runtime: Runtime, scratch: pathlib.Path
) -> PeerInputs:
    """Return the inputs of a peer's recipe."""
    task = network.task()
    calibration = task.need("calibration", "the peers").draw(SAMPLES, seed=0)
    built = make(network, runtime, FLOAT)
    if built.file is None:
        raise RuntimeError(f"cannot build the float file: {built.error}")
    return PeerInputs(
        built.file,
        network.make(),
        calibration,
        scratch,
        network.attention,
        network.images,
    )


def first_line(error: BaseException) -> str:
    """Return the first line that is not empty, without the folders of this machine."""
    line = next(
        (line.strip() for line in str(error).splitlines() if line.strip()), ""
    )
    return line.replace(f"{CACHE}/", "")[:LONGEST_LINE]


@contextlib.contextmanager
def _redirect_output(path: pathlib.Path) -> Iterator[None]:
    """Redirect everything that is printed to a file, also by C++ code."""
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
        if name.startswith("_")
        and getattr(thing, "__module__", "") == recipe.__module__
    ]
    return "".join(map(inspect.getsource, [recipe, *helpers]))


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that build the files."""
    installed = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def _slug(name: str) -> str:
    return "".join(
        letter if letter.isalnum() else "-" for letter in name.lower()
    )
