"""``python verify.py`` in a bundle: repeats its evidence on this machine, with numpy and the
runtime alone.

Exit status: 0 if all holds, 1 if something fails, 2 for an incomplete or modified bundle, 3
if something stays inconclusive or unmeasured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy

from . import bundled, cuda, edgetpu, judging, tensors
from .frames import WorkerError
from .rules import EXIT_CODES
from .runtimes import runtime_of
from .store import sha256
from .worker import Worker

if TYPE_CHECKING:
    from .tensors import Array

    Arrays = dict[str, Array]

EXIT_CORRUPT = 2
MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
#: The folder of the float file inside a bundle.
REFERENCE = "reference"
ROUNDS = 60
WARMUP = 20
ROUND_MS = 2.0
#: Runtimes that execute on the device itself.
DEVICE_RUNTIMES = ("tensorrt", "edgetpu")


class CorruptBundle(Exception):
    """The bundle's files differ from those listed in its manifest; one line for each."""


class Chain:
    """The files of an artifact, loaded and run one after another on real arrays by name.

    ``prefix`` separates its files from those of another chain in the same worker; ``entry``
    is the manifest or its section of the float file. ``runtime`` names the runtime and
    version; ``is_device`` is whether that is the device's own.
    """

    def __init__(
        self,
        worker: Worker,
        prefix: str,
        folder: str,
        entry: Mapping[str, Any],
        threads: int,
    ) -> None:
        self.worker = worker
        self.threads = threads
        self._prefix = prefix
        self._signatures = entry["signatures"]
        self.runtime = ""
        self.is_device = False
        for part in self._signatures:
            path, runtime = _choose_file(folder, entry, part)
            # The Q/DQ graph of an engine must be executed as written.
            optimize = entry["format"] != "tensorrt" or runtime == "tensorrt"
            reply, _ = worker.load(
                {},
                name=prefix + part,
                path=path,
                runtime=runtime,
                threads=threads,
                options=_load_options(folder, entry, part, path, optimize),
            )
            self.runtime = reply["runtime"]
            self.is_device = runtime in DEVICE_RUNTIMES

    def infer(
        self,
        feeds: Mapping[str, Array],
        outputs: list[str],
        recorded_inputs: list[Arrays] | None = None,
    ) -> Arrays:
        """The requested outputs as real arrays.

        The encoded inputs of every part are appended to ``recorded_inputs``.
        """
        values = dict(feeds)
        for part, signature in self._signatures.items():
            encoded = {}
            for spec in signature["inputs"]:
                encoded[spec["name"]] = tensors.encode(
                    values[spec["name"]],
                    spec["dtype"],
                    spec["axes"],
                    tensors.affine_of(spec),
                )
            if recorded_inputs is not None:
                recorded_inputs.append(encoded)
            _, raw = self.worker.infer(encoded, name=self._prefix + part)
            values.update(tensors.decode_outputs(raw, signature["outputs"]))
        return {name: values[name] for name in outputs}

    def prepare_timing(
        self, name: str, feeds: Mapping[str, Array], outputs: list[str]
    ) -> None:
        """Set up the worker's track ``name`` on the first sample."""
        recorded: list[Arrays] = []
        first = {key: array[:1] for key, array in feeds.items()}
        self.infer(first, outputs, recorded)
        arrays = {}
        for index, encoded in enumerate(recorded):
            for key, array in encoded.items():
                arrays[f"{index}:{key}"] = array
        self.worker.warm(
            arrays,
            name=name,
            models=[self._prefix + part for part in self._signatures],
            warmup=WARMUP,
            round_ms=ROUND_MS,
        )


def read_bundle(folder: str) -> tuple[dict[str, Any], Arrays]:
    """The manifest and the samples, after the hash of every file was checked.

    Raises CorruptBundle with all missing and modified files, ValueError for invalid samples.
    """
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as stream:
        manifest = json.load(stream)
    errors = []
    for name, expected in manifest["bundle"]["sha256"].items():
        path = os.path.join(folder, *name.split("/"))
        if not os.path.isfile(path):
            errors.append(f"{name} is missing")
            continue
        actual = sha256(path)
        if actual != expected:
            errors.append(f"{name} has the hash {actual}, expected {expected}")
    if errors:
        raise CorruptBundle("\n".join(errors))
    samples = bundled.load_samples(
        os.path.join(folder, SAMPLES), manifest["bundle"]
    )
    return manifest, samples


def verify(
    folder: str,
    threads: int = 1,
    samples: int | None = None,
    measure_times: bool = True,
) -> dict[str, Any]:
    """Repeat a bundle's evidence on its first ``samples`` samples, or on all.

    The result contains ``verdict``, ``where`` and ``measurements`` (see ``judging``), and
    identifies bundle and machine. Raises CorruptBundle, ValueError, and WorkerError.
    """
    manifest, arrays = read_bundle(folder)
    arrays = {name: array[:samples] for name, array in arrays.items()}
    worker = Worker()
    chain = Chain(worker, "file/", folder, manifest, threads)
    where = _describe_place(chain, threads, manifest["bundle"])
    rows = _compare(chain, arrays, manifest["bundle"], where)
    if measure_times and judging.can_time(manifest["bundle"], chain.is_device):
        rows += _measure_times(chain, folder, manifest["bundle"], arrays, where)
    machine = worker.hello({})[0]
    return {
        "key": manifest["key"],
        "bundle": manifest["bundle"]["id"],
        "verdict": judging.combine_verdicts(rows),
        "where": where,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine["machine"],
        "versions": machine["versions"],
        "measurements": rows,
    }


def _describe_place(
    chain: Chain, threads: int, facts: Mapping[str, Any]
) -> str:
    plural = "s" if threads > 1 else ""
    notes = [chain.runtime, f"{threads} thread{plural}"]
    if facts["stands_in"] and not chain.is_device:
        notes.append(facts["stands_in"])
    return f"{platform.node()}: {', '.join(notes)}"


def _compare(
    chain: Chain, arrays: Arrays, facts: Mapping[str, Any], where: str
) -> list[judging.Row]:
    inputs, expected, reference = (
        bundled.select(arrays, kind) for kind in bundled.KINDS
    )
    infer = _infer_one_by_one if facts["one_by_one"] else Chain.infer
    outputs = infer(chain, inputs, list(expected))
    rows = judging.compare_outputs(outputs, expected, reference, facts, where)
    if rows[0]["detail"].get("fault") is None:
        labels = arrays.get("labels")
        rows += judging.compare_accuracy(
            outputs, reference, labels, facts, where
        )
    return rows


def main(folder: str) -> int:
    """The command line of ``verify.py``; the exit status."""
    arguments = _parse_arguments()
    try:
        result = verify(
            folder, arguments.threads, arguments.samples, not arguments.no_times
        )
    except (CorruptBundle, OSError, ValueError) as error:
        print(
            f"This bundle is incomplete or modified:\n{error}", file=sys.stderr
        )
        return EXIT_CORRUPT
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        print(
            "This bundle is incomplete or modified: invalid manifest"
            f" ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
        return EXIT_CORRUPT
    except WorkerError as error:
        print(
            f"The file cannot be run on this machine: {error}", file=sys.stderr
        )
        return EXIT_CODES["unmeasured" if error.kind == "missing" else "fail"]
    _print_result(folder, result)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as stream:
            json.dump(result, stream, indent=1)
    return EXIT_CODES[result["verdict"]]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Repeat this bundle's evidence on this machine."
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of the runtime (default: 1)",
    )
    parser.add_argument(
        "--samples", type=int, help="use only the first samples"
    )
    parser.add_argument(
        "--no-times", action="store_true", help="do not measure times"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write the result as JSON"
    )
    return parser.parse_args()


def _print_result(folder: str, result: Mapping[str, Any]) -> None:
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as stream:
        shipped = {
            row["name"]: row for row in json.load(stream)["bundle"]["shipped"]
        }
    print(f"{result['where']}\n")
    print(f"{'':16}{'shipped':>22}{'here':>22}  verdict")
    for row in result["measurements"]:
        before = _format_value(shipped.get(row["name"]))
        verdict = row["verdict"] or ""
        print(
            f"{row['name']:16}{before:>22}{_format_value(row):>22}  {verdict}"
        )
    print(f"\nverdict: {result['verdict']}")


def _measure_times(
    chain: Chain,
    folder: str,
    facts: Mapping[str, Any],
    arrays: Arrays,
    where: str,
) -> list[judging.Row]:
    inputs = bundled.select(arrays, "input")
    outputs = list(bundled.select(arrays, "expected"))
    chain.prepare_timing("file", inputs, outputs)
    entry = facts.get("reference")
    if entry is not None:
        float_folder = os.path.join(folder, REFERENCE)
        float_chain = Chain(
            chain.worker, "reference/", float_folder, entry, chain.threads
        )
        float_chain.prepare_timing("reference", inputs, outputs)
    reply, _ = chain.worker.bench({}, rounds=ROUNDS, seed=0)
    times = reply["nanoseconds"]
    return judging.summarize_times(
        times["file"], times.get("reference"), facts, where
    )


def _choose_file(
    folder: str, entry: Mapping[str, Any], part: str
) -> tuple[str, str]:
    """The file of a part and its runtime: the device's own if it is present, else a proxy.

    An engine that was built here from the bundle's recipe is ``<part>.engine`` in the same
    folder; it is used if its log shows that it was built from this graph.
    """
    files = _files_by_role(folder, entry, part)
    if entry["format"] == "tensorrt" and cuda.has_gpu():
        engine = files.get("engine") or find_engine(
            os.path.join(folder, part), files["model"]
        )
        if engine is not None:
            return engine, "tensorrt"
    if (
        entry["format"] == "edgetpu"
        and "compiled" in files
        and edgetpu.find_devices()
    ):
        return files["compiled"], "edgetpu"
    return files["model"], runtime_of(entry["format"])


def _load_options(
    folder: str, entry: Mapping[str, Any], part: str, path: str, optimize: bool
) -> dict[str, Any]:
    """How a file is loaded: with its file of weights, if the format has a separate one."""
    options: dict[str, Any] = {"optimize": optimize}
    files = _files_by_role(folder, entry, part)
    if path == files["model"] and "weights" in files:
        options["weights"] = files["weights"]
    return options


def _files_by_role(
    folder: str, entry: Mapping[str, Any], part: str
) -> dict[str, str]:
    return {
        file["role"]: os.path.join(folder, os.path.basename(file["path"]))
        for file in entry["files"]
        if file["part"] == part
    }


def find_engine(stem: str, model: str) -> str | None:
    """``<stem>.engine`` if ``<stem>.log.json`` shows that it was built from this model.

    None if there is none, it was built from another file, or its origin is unknown.
    """
    engine = f"{stem}.engine"
    try:
        with open(f"{stem}.log.json", encoding="utf-8") as stream:
            log = json.load(stream)
        built_from_model = log["onnx_sha256"] == sha256(model)
        if built_from_model and log["engine_sha256"] == sha256(engine):
            return engine
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _infer_one_by_one(
    chain: Chain, inputs: Mapping[str, Array], outputs: list[str]
) -> Arrays:
    """Run every sample separately: a scale that is computed during inference depends on all
    samples of a batch.
    """
    count = len(next(iter(inputs.values())))
    results = []
    for k in range(count):
        sample = {name: array[k : k + 1] for name, array in inputs.items()}
        results.append(chain.infer(sample, outputs))
    return {
        name: numpy.concatenate([result[name] for result in results])
        for name in outputs
    }


def _format_value(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return ""
    return f"{row['value']:.5g} {row['unit']}"
