"""Whether one candidate may race: its audit, its parity with PyTorch, and its accuracy on
growing pieces of the test data.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit import registry, scheme
from edgekit.artifact import Artifact, outputs_of
from edgekit.checks import accuracy, parity, size
from edgekit.contracts import Runner
from edgekit.errors import RunnerError, TaskError
from edgekit.measurement import Measurement
from edgekit.pipeline import verdict
from edgekit.pipeline.build import identities
from edgekit.pipeline.candidate import Entry, Ground, key_of, torch_runner
from edgekit.task import Split

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: The first look at accuracy; each further one takes four times as many samples.
FIRST_LOOK = 128
GROWTH = 4
#: Before all samples are seen, a candidate is dropped only where an interval of 99.5 % says
#: so: this much wider than the one of 95 %, so that several looks together stay below a
#: risk of 5 % (Bonferroni).
EARLY = 2.807 / 1.960


class Growing:
    """A runner's outputs on the first samples of a list of samples; each sample is asked
    for once.
    """

    def __init__(self, runner: Callable[[], Runner], samples: Split) -> None:
        self._runner = runner
        self._samples = samples
        self._outputs: dict[str, Array] = {}
        self._where = ""

    def answers(self, count: int, metric: Any) -> accuracy.Answers:
        """The scored answers to the first ``count`` samples."""
        have = len(next(iter(self._outputs.values()))) if self._outputs else 0
        if have < count:
            with self._runner() as runner:
                more = accuracy.outputs_of(runner, self._samples.rows(slice(have, count)))
                self._where = runner.where
            self._outputs = {
                name: numpy.concatenate([self._outputs[name], array]) if have else array
                for name, array in more.items()
            }
        return accuracy.scored(
            {name: array[:count] for name, array in self._outputs.items()},
            self._samples.take(count),
            metric,
            self._where,
        )


class Verification:
    """The checks of one target's candidates, all against one reference, whose answers are
    computed once.
    """

    def __init__(self, ground: Ground, reference: Entry) -> None:
        self._ground = ground
        self._reference = reference
        build = ground.build
        test = build.task.need("test", "verification")
        #: Data are often sorted by class; every look is at the first samples of one random
        #: order.
        self._samples = test.draw(len(test), build.seed)
        self._original = Growing(
            lambda: ground.host.open(self._artifact(reference)), self._samples
        )

    def audit(self, entry: Entry) -> None:
        """Read what the runtime will execute; a file that the device cannot run is dropped."""
        ground, artifact = self._ground, self._artifact(entry)
        limits = ground.planned.target.limits
        found = ground.build.cache.record(
            key_of("audit", artifact.key, limits.model_dump(mode="json")),
            lambda: _audit(artifact, limits),
            fresh=ground.fresh,
        )
        entry.measurements += _measurements(found["measurements"])
        entry.warnings = tuple(found["warnings"])
        floats = next((row for row in entry.measurements if row.name == "float_ops"), None)
        if (
            limits.arithmetic == "integer"
            and floats is not None
            and floats.value
            and entry.scheme != "float"
        ):
            entry.status = f"dropped: {floats.value:.0f} of its operators compute in float, and the device runs integers only"

    def verify(self, entry: Entry) -> None:
        """Parity with torch, then accuracy against the reference; what fails is dropped
        with the number that says so.
        """
        ground, reference, artifact = (
            self._ground,
            self._artifact(self._reference),
            self._artifact(entry),
        )
        assert entry.torch is not None
        build, gates = ground.build, ground.planned.gates
        data = [
            build.described["splits"]["test"],
            identities(build.task, build.task.metric),
            build.seed,
            gates.accuracy_drop,
            scheme.find(entry.scheme).parity_steps,
        ]
        key = key_of(
            "verify", artifact.key, entry.torch.key, reference.key, data, ground.place
        )
        build.progress.start(
            f"verify {ground.planned.target.name} {'reference' if entry is self._reference else entry.scheme}"
        )
        found = build.cache.record(
            key, lambda: _dumped(self._verify(entry)), fresh=ground.fresh
        )
        entry.measurements += _measurements(found)
        entry.measurements += [
            size.size_bytes(artifact),
            size.size_ratio(reference, artifact),
        ]
        broken = next(
            (
                row
                for row in entry.measurements
                if row.name in ("parity", "accuracy_drop") and row.verdict == "fail"
            ),
            None,
        )
        if broken is not None and broken.name == "parity":
            entry.status = f"dropped: it does not compute what torch computes ({broken.detail.get('fault') or f'{broken.value:.3g} {broken.unit}'})"
        elif broken is not None:
            entry.status = f"dropped: it loses {broken.value:.4f} {broken.unit} (gate {gates.accuracy_drop})"
        build.progress.finish(entry.status)

    def _verify(self, entry: Entry) -> list[Measurement]:
        assert entry.torch is not None
        ground, artifact = self._ground, self._artifact(entry)
        # A scale that is found while the network runs depends on all samples of a batch:
        # one at a time, as they are timed and as they will run.
        alone = {"samples": 1} if scheme.find(entry.scheme).method == "dynamic" else None
        with ground.host.open(artifact, alone) as candidate:
            same = self._parity(
                candidate, entry.torch, artifact, scheme.find(entry.scheme).parity_steps
            )
            return [same] if same.verdict == "fail" else [same, *self._compared(candidate)]

    def _parity(
        self, candidate: Runner, torch: Artifact, artifact: Artifact, steps: float
    ) -> Measurement:
        """Whether the file computes what its PyTorch network computes, within the scheme's
        steps or the quantization's own error.
        """
        ground = self._ground
        inputs, outputs, scales = (
            ground.build.task.need("test", "verification").inputs,
            outputs_of(artifact.parts),
            parity.output_steps(torch),
        )
        with torch_runner(ground.build, ground.model, torch) as reference:
            same = parity.check(candidate, reference, inputs, outputs, steps, scales)
            if same.verdict == "pass" or not any(
                "quantization" in part.files for part in torch.parts
            ):
                return same
            with torch_runner(
                ground.build, ground.model, torch, quantized=False
            ) as original:
                own = parity.own_error(reference, original, inputs, outputs, scales)
        if same.value is None or same.value > own:
            return same
        how = f"{same.how}; more than {steps:g} steps, but less than quantization itself moves this network ({own:.3g})"
        return same.model_copy(
            update={
                "verdict": "pass",
                "how": how,
                "detail": {**same.detail, "own_error": own},
            }
        )

    def _compared(self, candidate: Runner) -> list[Measurement]:
        """Accuracy against the reference on growing pieces of the test data, until the
        candidate clearly fails or all are seen.
        """
        metric, limit = (
            self._ground.build.task.metric,
            self._ground.planned.gates.accuracy_drop,
        )
        ours = Growing(lambda: _Open(candidate), self._samples)
        for count in looks(len(self._samples)):
            last = count == len(self._samples)
            rows = accuracy.measure(
                _answered(ours, count, metric),
                self._original.answers(count, metric),
                metric,
            )
            drop = next(row for row in rows if row.name == "accuracy_drop")
            judged = verdict.judged_drop(drop if last else _wider(drop), limit)
            if last or judged == "fail":
                return [
                    row.model_copy(update={"verdict": judged}) if row is drop else row
                    for row in rows
                ]
        raise AssertionError("the last look is at all samples")

    @staticmethod
    def _artifact(entry: Entry) -> Artifact:
        assert entry.artifact is not None
        return entry.artifact


class _Open:
    """A runner that is open already, and stays so."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.where = runner.where

    def __enter__(self) -> Runner:
        return self._runner

    def __exit__(self, *details: object) -> None:
        """Whoever opened it closes it."""

    def infer(self, feeds: Mapping[str, "Array"]) -> dict[str, "Array"]:
        return self._runner.infer(feeds)


def looks(samples: int) -> list[int]:
    """How many samples are seen at each look: 128, 512, 2,048 ... while they are less than
    half of all, then all.
    """
    found, count = [], FIRST_LOOK
    while 2 * count < samples:
        found.append(count)
        count *= GROWTH
    return [*found, samples]


def _wider(drop: Measurement) -> Measurement:
    """The drop with an interval of 99.5 % in place of 95 %."""
    if drop.value is None or drop.low is None or drop.high is None:
        return drop
    return drop.model_copy(
        update={
            "low": drop.value - EARLY * (drop.value - drop.low),
            "high": drop.value + EARLY * (drop.high - drop.value),
        }
    )


def _answered(ours: Growing, count: int, metric: Any) -> accuracy.Answers:
    """The candidate's scored answers.

    The metric holds for the reference, so where it refuses them the candidate is to blame.
    """
    try:
        return ours.answers(count, metric)
    except TaskError as error:
        raise RunnerError(f"its answers cannot be scored: {error.message}") from error


def _audit(artifact: Artifact, limits: Any) -> Mapping[str, Any]:
    audit = registry.AUDITS.load(artifact.format)(artifact, limits)
    return {"measurements": _dumped(audit.measurements), "warnings": list(audit.warnings)}


def _dumped(rows: Sequence[Measurement]) -> list[Any]:
    return [row.model_dump(mode="json") for row in rows]


def _measurements(rows: Sequence[Any]) -> list[Measurement]:
    return [Measurement.model_validate(row) for row in rows]
