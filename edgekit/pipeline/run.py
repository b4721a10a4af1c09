"""Carries out a plan: the shared steps once, then the race of each target, then shipping."""

import dataclasses
import datetime
import json
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import edgekit
from edgekit.artifact import Artifact
from edgekit.bundles.evidence import now, verify, with_evidence
from edgekit.bundles.shipping import (
    environment,
    prepare,
    require_usable,
    ship,
    withdraw,
    write_report,
)
from edgekit.cache import Cache
from edgekit.checks import accuracy, parity
from edgekit.errors import (
    EdgekitError,
    HostError,
    MissingBackend,
    RunnerError,
    TaskError,
)
from edgekit.formats import FORMATS, main_distributions
from edgekit.hosts.lookup import list_environments, open_host
from edgekit.measurement import Measurement, worst
from edgekit.pipeline.build import Build, identities, versions
from edgekit.pipeline.bundle_contents import collect_contents
from edgekit.pipeline.candidate import (
    RaceContext,
    measurement_key,
    torch_runner,
)
from edgekit.pipeline.race import RaceResult, race
from edgekit.planning.plan import Plan
from edgekit.planning.routes import PlannedStep, PlannedTarget
from edgekit.progress import Progress, Silent
from edgekit.report import EvidenceReport, Report, StageReport, TargetReport
from edgekit.target import Target
from edgekit.task import Task
from edgekit.tasks.loader import load as load_task

if TYPE_CHECKING:
    from edgekit.sources.objects import ModelObject

#: The distributions whose versions are in the report.
PACKAGES = (
    "torch",
    "torchao",
    "numpy",
    *main_distributions(),
    *(
        name
        for record in FORMATS.values()
        for name in record.build_distributions
    ),
    "torch-pruning",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Where a run writes, how it reports progress, and what is given as an object.

    Attributes:
        fresh: take measurements again, also if they are cached.
        on: hosts on which every shipped file is verified too.
        task: takes the place of the recipe's task.
        models: networks given as objects, by the name in the recipe.
    """

    out: pathlib.Path
    cache: pathlib.Path
    progress: Progress = dataclasses.field(default_factory=Silent)
    fresh: bool = False
    on: tuple[str, ...] = ()
    task: Task | None = None
    models: "Mapping[str, ModelObject]" = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True)
class _Network:
    """The shared results of a plan: each step's artifact, and the stages of the report."""

    build: Build
    model: str
    baseline: Artifact
    last: Artifact
    stages: tuple[StageReport, ...]


def run(plan: Plan, options: Options) -> Report:
    """Carry out a plan, and ship the winners to ``options.out``.

    Raises:
        EdgekitError: the plan is not possible, or something failed that all targets need.
            What fails for one target is in its part of the report.
    """
    plan.require_possible()
    started = datetime.datetime.now(datetime.UTC)
    began = time.monotonic()
    require_usable(
        options.out, [planned.target.name for planned in plan.targets]
    )
    network = _build_network(plan, options)
    prepare(options.out)
    targets = [
        _run_target(network, planned, options) for planned in plan.targets
    ]
    report = Report(
        edgekit=edgekit.__version__,
        recipe=plan.recipe.model_dump(mode="json", exclude_none=True),
        verdict=worst(row.verdict for row in targets),
        targets=tuple(targets),
        stages=network.stages,
        task=network.build.described,
        environment=environment(versions(PACKAGES)),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
    )
    write_report(report, options.out)
    return report


def _build_network(plan: Plan, options: Options) -> _Network:
    """Do the steps that all targets share."""
    recipe = plan.recipe
    assert recipe.model is not None
    assert recipe.task is not None
    task = options.task or load_task(recipe.task)
    _require_enough_samples(task)
    cache = Cache(options.cache, options.progress.say)
    build = Build(task, cache, options.progress, recipe.seed, options.models)
    first = build.follow(recipe.model, None, plan.shared[:1])
    # The data, the labels and the metric are tried on the untrained network, so that a
    # mistake in them is reported before any training.
    _stage_accuracy(build, recipe.model, first[0], options.fresh)
    teacher = _teacher_of(plan)
    taught = build.teach(teacher, plan.teacher) if plan.teacher else []
    shared = [*first, *build.follow(recipe.model, first[0], plan.shared[1:])]
    taught_steps = zip(plan.teacher, taught, strict=True)
    shared_steps = zip(plan.shared, shared, strict=True)
    stages = [
        *_stages(build, teacher, taught_steps, options.fresh),
        *_stages(build, recipe.model, shared_steps, options.fresh),
    ]
    baseline = shared[plan.baseline - 1]
    return _Network(build, recipe.model, baseline, shared[-1], tuple(stages))


def _run_target(
    network: _Network, planned: PlannedTarget, options: Options
) -> TargetReport:
    """Race one target, ship its winner, and verify that on other hosts."""
    target = planned.target
    try:
        context = RaceContext(
            network.build,
            network.model,
            planned,
            network.baseline,
            network.last,
            open_host(target.host),
            options.fresh,
        )
        shipped = _ship(context, race(context), options.out)
    except (HostError, MissingBackend, RunnerError) as error:
        return _unreachable(target, error)
    hosts = dict.fromkeys((*target.also_on, *options.on))
    return _verify_elsewhere(shipped, hosts, options)


def _require_enough_samples(task: Task) -> None:
    need = sum(parity.BATCHES)
    if len(task.need("test", "verification")) < need:
        raise TaskError(
            f"Task {task.name!r} has fewer than {need} test samples, and verification "
            f"needs {need}.",
            fix="give more; an interval needs hundreds",
        )


def _teacher_of(plan: Plan) -> str:
    distill = plan.recipe.find("distill")
    return "" if distill is None else distill.teacher


def _ship(
    context: RaceContext, result: RaceResult, out: pathlib.Path
) -> TargetReport:
    """The target's report with the paths of the shipped files and the stored evidence."""
    report, winner = result.report, result.winner
    if winner is None:
        withdraw(report.name, out)
        return report
    contents = collect_contents(context, winner, result.reference)
    entry = ship(winner.file, report, out, contents)
    rows = []
    for row in report.candidates:
        is_winner = row.scheme == report.winner
        rows.append(
            row.model_copy(update={"artifact": entry}) if is_winner else row
        )
    shipped = report.model_copy(update={"candidates": tuple(rows)})
    return with_evidence(shipped, out / report.name)


def _unreachable(target: Target, error: EdgekitError) -> TargetReport:
    """A target whose host failed.

    The other targets are raced all the same, and the same command resumes later. What was
    shipped before stays.
    """
    return TargetReport(
        name=target.name,
        title=target.title,
        format=target.format,
        runtime=target.runtime,
        verdict="unmeasured",
        winner=None,
        chosen=f"its host {target.host} failed: {error}",
    )


def _verify_elsewhere(
    report: TargetReport, hosts: Iterable[str], options: Options
) -> TargetReport:
    """The target's report with the evidence of other hosts.

    A host that has verified the same bundle before is not asked again.
    """
    winner = report.shipped
    if winner is None or winner.artifact is None:
        return report
    folder, progress = options.out / report.name, options.progress
    verified = set()
    if not options.fresh:
        verified = {row.host for row in report.evidence if not row.partial}
    new: list[EvidenceReport] = []
    for host in hosts:
        progress.start(f"verify {report.name} on {host}")
        rows: list[EvidenceReport] = []
        try:
            for name in list_environments(host):
                if name not in verified:
                    rows += verify(folder, name, progress=progress)
        except EdgekitError as error:
            key = winner.artifact.key
            failed = EvidenceReport(
                host=host,
                key=key,
                when=now(),
                verdict="unmeasured",
                error=str(error),
            )
            rows.append(failed)
        executed = [row for row in rows if not row.skipped]
        new += executed
        progress.finish(_summarize(rows, executed))
    return with_evidence(report, folder, new)


def _summarize(
    rows: Sequence[EvidenceReport], executed: Sequence[EvidenceReport]
) -> str:
    """What the progress shows about a host."""
    if not rows:
        return "known"
    return rows[-1].error or ", ".join(row.verdict for row in executed)


def _stages(
    build: Build,
    model: str,
    steps: Iterable[tuple[PlannedStep, Artifact]],
    fresh: bool,
) -> list[StageReport]:
    """One row for each step: its notes, and the accuracy of its network.

    They show which stage loses how much.
    """
    rows = []
    for step, artifact in steps:
        rows.append(
            StageReport(
                name=step.intent,
                step=step.step,
                key=artifact.key,
                measurements=_stage_accuracy(build, model, artifact, fresh),
                notes=_plain_notes(artifact.notes),
            )
        )
    return rows


def _stage_accuracy(
    build: Build, model: str, artifact: Artifact, fresh: bool
) -> tuple[Measurement, ...]:
    task = build.task
    test = task.need("test", "a stage's accuracy")
    data = build.described["splits"]["test"]
    key = measurement_key(
        "stage", artifact.key, data, identities(task, task.metric)
    )

    def measure() -> Any:
        with torch_runner(build, model, artifact) as runner:
            answers = accuracy.score_runner(runner, test, task.metric)
        return accuracy.accuracy(answers, task.metric).model_dump(mode="json")

    return (
        Measurement.model_validate(
            build.cache.record(key, measure, fresh=fresh)
        ),
    )


def _plain_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(notes))
    return plain
