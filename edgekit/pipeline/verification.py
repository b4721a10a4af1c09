"""Whether a candidate may race: its audit, its parity with PyTorch, and its accuracy.

Accuracy is measured on a growing part of the test data.
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
from edgekit.pipeline.candidate import (
    Candidate,
    RaceContext,
    measurement_key,
    torch_runner,
)
from edgekit.task import Split

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: The first look at accuracy; each further one takes four times as many samples.
FIRST_LOOK = 128
GROWTH = 4
#: Before all samples are seen, a candidate is dropped only if an interval of 99.5 % shows
#: it: this much wider than the one of 95 %, so that several looks together stay below a
#: risk of 5 % (Bonferroni).
EARLY = 2.807 / 1.960


class IncrementalOutputs:
    """A runner's outputs for the first samples of a split; each sample is computed once."""

    def __init__(
        self, open_runner: Callable[[], Runner], samples: Split
    ) -> None:
        self._open_runner = open_runner
        self._samples = samples
        self._outputs: dict[str, Array] = {}
        self._where = ""

    def answers(self, count: int, metric: Any) -> accuracy.ScoredOutputs:
        """The scored outputs for the first ``count`` samples."""
        self._compute(count)
        outputs = {name: array[:count] for name, array in self._outputs.items()}
        return accuracy.score_outputs(
            outputs, self._samples.take(count), metric, self._where
        )

    def _compute(self, count: int) -> None:
        computed = (
            len(next(iter(self._outputs.values()))) if self._outputs else 0
        )
        if computed >= count:
            return
        with self._open_runner() as runner:
            more = accuracy.run_split(
                runner, self._samples.rows(slice(computed, count))
            )
            self._where = runner.where
        if not computed:
            self._outputs = dict(more)
            return
        for name, array in more.items():
            self._outputs[name] = numpy.concatenate(
                [self._outputs[name], array]
            )


class Verification:
    """The checks of one target's candidates against one reference.

    The reference's outputs are computed once.
    """

    def __init__(self, context: RaceContext, reference: Candidate) -> None:
        self._context = context
        self._reference = reference
        test = context.build.task.need("test", "verification")
        # Data are often sorted by class; every look is at the first samples of one random
        # order.
        self._samples = test.draw(len(test), context.build.seed)
        self._original = IncrementalOutputs(
            lambda: context.host.open(reference.file), self._samples
        )

    def audit(self, candidate: Candidate) -> None:
        """Read what the runtime will execute; drop a file that the device cannot execute."""
        artifact = candidate.file
        limits = self._context.planned.target.limits
        key = measurement_key(
            "audit", artifact.key, limits.model_dump(mode="json")
        )
        audit = self._context.record(key, lambda: _audit(artifact, limits))
        candidate.measurements += _measurements(audit["measurements"])
        candidate.warnings = tuple(audit["warnings"])
        floats = candidate.measurement("float_ops")
        if limits.arithmetic != "integer" or candidate.scheme == "float":
            return
        if floats is not None and floats.value:
            count = f"{floats.value:.0f}"
            candidate.drop(
                f"{count} of its operators compute in float, and the device executes "
                "integers only"
            )

    def verify(self, candidate: Candidate) -> None:
        """Check parity with torch, then accuracy against the reference.

        What fails is dropped, with the number that shows it.
        """
        context, reference = self._context, self._reference
        build, target = context.build, context.planned.target
        label = "reference" if candidate is reference else candidate.scheme
        build.progress.start(f"verify {target.name} {label}")
        rows = context.record(
            self._verification_key(candidate),
            lambda: _dump(self._measure(candidate)),
        )
        candidate.measurements += _measurements(rows)
        candidate.measurements += [
            size.size_bytes(candidate.file),
            size.size_ratio(reference.file, candidate.file),
        ]
        self._drop_if_wrong(candidate)
        build.progress.finish(candidate.report().outcome)

    def _verification_key(self, candidate: Candidate) -> str:
        assert candidate.torch is not None
        build = self._context.build
        facts = [
            build.described["splits"]["test"],
            identities(build.task, build.task.metric),
            build.seed,
            self._context.planned.gates.accuracy_drop,
            scheme.find(candidate.scheme).parity_steps,
        ]
        return measurement_key(
            "verify",
            candidate.file.key,
            candidate.torch.key,
            self._reference.file.key,
            facts,
            self._context.host_identity,
        )

    def _drop_if_wrong(self, candidate: Candidate) -> None:
        same = candidate.measurement("parity")
        lost = candidate.measurement("accuracy_drop")
        if same is not None and same.verdict == "fail":
            fault = same.detail.get("fault") or f"{same.value:.3g} {same.unit}"
            candidate.drop(f"it does not compute what torch computes ({fault})")
        elif lost is not None and lost.verdict == "fail":
            gate = self._context.planned.gates.accuracy_drop
            candidate.drop(
                f"it loses {lost.value:.4f} {lost.unit} (gate {gate})"
            )

    def _measure(self, candidate: Candidate) -> list[Measurement]:
        assert candidate.torch is not None
        used = scheme.find(candidate.scheme)
        # A scale that is found at run time depends on all samples of a batch: they are fed
        # one at a time, as they are timed and as they will be executed.
        options = {"samples": 1} if used.method == "dynamic" else None
        with self._context.host.open(candidate.file, options) as runner:
            same = self._parity(
                runner, candidate.torch, candidate.file, used.parity_steps
            )
            if same.verdict == "fail":
                return [same]
            return [same, *self._compare_accuracy(runner)]

    def _parity(
        self, runner: Runner, torch: Artifact, artifact: Artifact, steps: float
    ) -> Measurement:
        """Whether the file computes what its PyTorch network computes.

        It may differ by the scheme's steps, or by the error of the quantization itself.
        """
        build, model = self._context.build, self._context.model
        inputs = build.task.need("test", "verification").inputs
        outputs = outputs_of(artifact.parts)
        scales = parity.output_steps(torch)
        with torch_runner(build, model, torch) as reference:
            same = parity.check(
                runner, reference, inputs, outputs, steps, scales
            )
            quantized = any(
                "quantization" in part.files for part in torch.parts
            )
            if same.verdict == "pass" or not quantized:
                return same
            with torch_runner(build, model, torch, quantized=False) as original:
                error = parity.quantization_error(
                    reference, original, inputs, outputs, scales
                )
        if same.value is None or same.value > error:
            return same
        how = (
            f"{same.how}; more than {steps:g} steps, but less than the quantization error of "
            f"this network ({error:.3g})"
        )
        detail = {**same.detail, "quantization_error": error}
        return same.model_copy(
            update={"verdict": "pass", "how": how, "detail": detail}
        )

    def _compare_accuracy(self, runner: Runner) -> list[Measurement]:
        """Compare with the reference until the candidate clearly fails or all data are seen."""
        metric = self._context.build.task.metric
        limit = self._context.planned.gates.accuracy_drop
        candidate = IncrementalOutputs(
            lambda: _OpenRunner(runner), self._samples
        )
        for count in looks(len(self._samples)):
            last = count == len(self._samples)
            own = _score_candidate(candidate, count, metric)
            rows = accuracy.measure(
                own, self._original.answers(count, metric), metric
            )
            drop = next(row for row in rows if row.name == "accuracy_drop")
            judged = verdict.judge_drop(drop if last else _widen(drop), limit)
            if last or judged == "fail":
                judged_drop = drop.model_copy(update={"verdict": judged})
                return [judged_drop if row is drop else row for row in rows]
        raise AssertionError("the last look is at all samples")


class _OpenRunner:
    """A runner that is open already, and stays open."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.where = runner.where

    def __enter__(self) -> Runner:
        return self._runner

    def __exit__(self, *details: object) -> None:
        """Leave it open: whoever opened it closes it."""

    def infer(self, feeds: Mapping[str, "Array"]) -> dict[str, "Array"]:
        return self._runner.infer(feeds)


def looks(samples: int) -> list[int]:
    """How many samples are seen at each look.

    128, 512, 2,048 ... while they are less than half of all samples, then all.
    """
    counts = []
    count = FIRST_LOOK
    while 2 * count < samples:
        counts.append(count)
        count *= GROWTH
    return [*counts, samples]


def _widen(drop: Measurement) -> Measurement:
    """The drop with an interval of 99.5 % in place of 95 %."""
    if drop.value is None or drop.low is None or drop.high is None:
        return drop
    low = drop.value - EARLY * (drop.value - drop.low)
    high = drop.value + EARLY * (drop.high - drop.value)
    return drop.model_copy(update={"low": low, "high": high})


def _score_candidate(
    candidate: IncrementalOutputs, count: int, metric: Any
) -> accuracy.ScoredOutputs:
    """The candidate's scored outputs.

    The metric accepts the reference's outputs, so an error is the candidate's.
    """
    try:
        return candidate.answers(count, metric)
    except TaskError as error:
        raise RunnerError(
            f"its outputs cannot be scored: {error.message}"
        ) from error


def _audit(artifact: Artifact, limits: Any) -> Mapping[str, Any]:
    audit = registry.AUDITS.load(artifact.format)(artifact, limits)
    return {
        "measurements": _dump(audit.measurements),
        "warnings": list(audit.warnings),
    }


def _dump(rows: Sequence[Measurement]) -> list[Any]:
    return [row.model_dump(mode="json") for row in rows]


def _measurements(rows: Sequence[Any]) -> list[Measurement]:
    return [Measurement.model_validate(row) for row in rows]
