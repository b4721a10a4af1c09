"""``python verify.py``: runs the evidence of a bundle again on the machine where it lies,
with numpy and the runtime alone.

Ends with 0 where all holds, 1 where something fails, 2 for a bundle that is not whole, 3
where something stays open.
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

from . import bundled, edgetpu, judging, tensorrt_engine, tensors
from .frames import WorkerError
from .runtimes import RUNTIME_OF
from .store import sha256
from .worker import Worker

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Arrays = dict[str, Array]

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3, "unmeasured": 3}
MANIFEST, SAMPLES = "manifest.json", "samples.npz"
#: The folder of the float file inside a bundle.
REFERENCE = "reference"
ROUNDS, WARMUP, ROUND_MS = 60, 20, 2.0


class NotWhole(Exception):
    """The bundle's files are not those that its manifest tells; one line for each."""


class Chain:
    """The files of an artifact, loaded and run one after another, fed by name with real
    arrays.
    """

    def __init__(
        self,
        worker: Worker,
        prefix: str,
        folder: str,
        entry: Mapping[str, Any],
        threads: int,
    ) -> None:
        self._worker, self._prefix = worker, prefix
        self._signatures = entry["signatures"]
        self.runtime, self.is_device = "", False
        for part in self._signatures:
            path, runtime = _way(folder, entry, part)
            optimize = entry["format"] != "tensorrt" or runtime == "tensorrt"
            reply, _ = worker.load(
                {},
                name=prefix + part,
                path=path,
                runtime=runtime,
                threads=threads,
                options={"optimize": optimize},
            )
            self.runtime, self.is_device = (
                reply["runtime"],
                runtime in ("tensorrt", "edgetpu"),
            )

    def infer(
        self,
        feeds: Mapping[str, Array],
        outputs: list[str],
        feeds_of: list[Arrays] | None = None,
    ) -> Arrays:
        """The outputs that are asked for, as real numbers.

        ``feeds_of`` gathers what every part was fed.
        """
        known = dict(feeds)
        for part, signature in self._signatures.items():
            given = {
                spec["name"]: tensors.encode(
                    known[spec["name"]], spec["dtype"], spec["axes"], _affine(spec)
                )
                for spec in signature["inputs"]
            }
            if feeds_of is not None:
                feeds_of.append(given)
            _, found = self._worker.infer(given, name=self._prefix + part)
            specs = signature["outputs"]
            ordered = (
                [found[spec["name"]] for spec in specs]
                if set(found) == {spec["name"] for spec in specs}
                else list(found.values())
            )
            known.update(
                {
                    spec["name"]: tensors.decode(array, spec["axes"], _affine(spec))
                    for spec, array in zip(specs, ordered)
                }
            )
        return {name: known[name] for name in outputs}

    def track(self, name: str, feeds: Mapping[str, Array], outputs: list[str]) -> None:
        """Get ready to be timed on one sample."""
        gathered: list[Arrays] = []
        self.infer({key: array[:1] for key, array in feeds.items()}, outputs, gathered)
        arrays = {
            f"{k}:{key}": array
            for k, given in enumerate(gathered)
            for key, array in given.items()
        }
        self._worker.warm(
            arrays,
            name=name,
            models=[self._prefix + part for part in self._signatures],
            warmup=WARMUP,
            round_ms=ROUND_MS,
        )


def read(folder: str) -> tuple[dict[str, Any], Arrays]:
    """The manifest and the samples, after every file was found to be the one that the
    manifest tells. Raises NotWhole.
    """
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as stream:
        manifest = json.load(stream)
    wrong = []
    for name, wanted in manifest["bundle"]["sha256"].items():
        path = os.path.join(folder, *name.split("/"))
        found = sha256(path) if os.path.isfile(path) else None
        if found != wanted:
            wrong.append(
                f"{name} is missing"
                if found is None
                else f"{name} has the hash {found}, not {wanted}"
            )
    if wrong:
        raise NotWhole("\n".join(wrong))
    return manifest, bundled.samples(os.path.join(folder, SAMPLES), manifest["bundle"])


def verify(
    folder: str, threads: int = 1, samples: int | None = None, timed: bool = True
) -> dict[str, Any]:
    """Run a bundle's evidence again: ``verdict``, ``where`` and ``measurements``, beside
    what was shipped.
    """
    manifest, arrays = read(folder)
    facts = manifest["bundle"]
    arrays = {
        name: array if samples is None else array[:samples]
        for name, array in arrays.items()
    }
    inputs, expected, reference = (bundled.group(arrays, kind) for kind in bundled.KINDS)
    worker = Worker()
    chain = Chain(worker, "file/", folder, manifest, threads)
    notes = [facts["stands_in"]] if facts["stands_in"] and not chain.is_device else []
    where = f"{platform.node()}: {', '.join([chain.runtime, f'{threads} thread' + ('s' if threads > 1 else ''), *notes])}"
    ours = (
        chain.infer(inputs, list(expected))
        if not facts["one_by_one"]
        else _one_by_one(chain, inputs, list(expected))
    )
    rows = judging.parity(ours, expected, reference, facts, where)
    if rows[0]["detail"].get("fault") is None:
        rows += judging.accuracy(ours, reference, arrays.get("labels"), facts, where)
    if timed and judging.may_time(facts, chain.is_device):
        chain.track("file", inputs, list(expected))
        told = facts.get("reference")
        if told is not None:
            Chain(
                worker, "reference/", os.path.join(folder, REFERENCE), told, threads
            ).track("reference", inputs, list(expected))
        raw = worker.bench({}, rounds=ROUNDS, seed=0)[0]["nanoseconds"]
        rows += judging.times(raw["file"], raw.get("reference"), facts, where)
    there = worker.hello({})[0]
    return {
        "key": manifest["key"],
        "bundle": facts["id"],
        "verdict": judging.verdict(rows),
        "where": where,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": there["machine"],
        "versions": there["versions"],
        "measurements": rows,
    }


def main(folder: str) -> int:
    """The command line of ``verify.py``."""
    parser = argparse.ArgumentParser(
        description="Run this bundle's evidence again, on this machine."
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (1)")
    parser.add_argument("--samples", type=int, help="look at the first samples only")
    parser.add_argument("--no-times", action="store_true", help="do not time")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON too")
    asked = parser.parse_args()
    try:
        found = verify(folder, asked.threads, asked.samples, not asked.no_times)
    except (NotWhole, OSError, ValueError) as problem:
        print(f"This bundle is not whole:\n{problem}", file=sys.stderr)
        return 2
    except (KeyError, IndexError, TypeError, AttributeError) as problem:
        print(
            f"This bundle is not whole: its manifest is not what edgekit writes ({type(problem).__name__}: {problem})",
            file=sys.stderr,
        )
        return 2
    except WorkerError as problem:
        print(f"The file cannot be run here: {problem}", file=sys.stderr)
        return EXIT_CODES["unmeasured" if problem.kind == "missing" else "fail"]
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as stream:
        shipped = {row["name"]: row for row in json.load(stream)["bundle"]["shipped"]}
    print(f"{found['where']}\n\n{'':16}{'shipped':>22}{'here':>22}  verdict")
    for row in found["measurements"]:
        print(
            f"{row['name']:16}{_told(shipped.get(row['name'])):>22}{_told(row):>22}  {row['verdict'] or ''}"
        )
    print(f"\nverdict: {found['verdict']}")
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as stream:
            json.dump(found, stream, indent=1)
    return EXIT_CODES[found["verdict"]]


def _way(folder: str, entry: Mapping[str, Any], part: str) -> tuple[str, str]:
    """The file of a part and the runtime for it: the device's own where it is here, else
    what stands in for it.

    An engine that was built here from the bundle's recipe lies as ``<part>.engine`` beside
    it; it counts where its log says that it is of this very graph.
    """
    files = {
        file["role"]: os.path.join(folder, os.path.basename(file["path"]))
        for file in entry["files"]
        if file["part"] == part
    }
    engine = files.get("engine") or _built(os.path.join(folder, part), files["model"])
    if entry["format"] == "tensorrt" and engine is not None and tensorrt_engine.present():
        return engine, "tensorrt"
    if entry["format"] == "edgetpu" and "compiled" in files and edgetpu.sticks():
        return files["compiled"], "edgetpu"
    return files["model"], RUNTIME_OF[entry["format"]]


def _built(path: str, model: str) -> str | None:
    """``<part>.engine``, where ``<part>.log.json`` says that it was built from this model
    file; None where it is of another, or of none that is known.
    """
    try:
        with open(f"{path}.log.json", encoding="utf-8") as stream:
            log = json.load(stream)
        if (log["onnx_sha256"], log["engine_sha256"]) == (
            sha256(model),
            sha256(f"{path}.engine"),
        ):
            return f"{path}.engine"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _one_by_one(chain: Chain, inputs: Mapping[str, Array], outputs: list[str]) -> Arrays:
    """Each sample on its own: a scale that is found while the network runs depends on all
    samples of a batch.
    """
    count = len(next(iter(inputs.values())))
    found = [
        chain.infer({name: array[k : k + 1] for name, array in inputs.items()}, outputs)
        for k in range(count)
    ]
    return {name: numpy.concatenate([one[name] for one in found]) for name in outputs}


def _affine(spec: Mapping[str, Any]) -> tuple[float, int] | None:
    told = spec["quantization"]
    return None if told is None else (told["scale"], told["zero_point"])


def _told(row: Mapping[str, Any] | None) -> str:
    return (
        "" if row is None or row["value"] is None else f"{row['value']:.5g} {row['unit']}"
    )
