"""Carries out a plan: the shared steps once, then the race of each target, then the folder
that the user takes away.
"""

import dataclasses
import datetime
import json
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

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
from edgekit.errors import EdgekitError, HostError, MissingBackend, RunnerError, TaskError
from edgekit.formats import FORMATS, main_distributions
from edgekit.hosts.lookup import environments, reach
from edgekit.measurement import Measurement, worst
from edgekit.pipeline.build import Build, identities, versions
from edgekit.pipeline.bundle_contents import gather
from edgekit.pipeline.candidate import Ground, key_of, torch_runner
from edgekit.pipeline.race import Result, race
from edgekit.planning.plan import Plan
from edgekit.planning.routes import PlannedStep
from edgekit.progress import Progress, Silent
from edgekit.report import EvidenceReport, Report, StageReport, TargetReport
from edgekit.target import Target
from edgekit.task import Task
from edgekit.tasks.loader import load as load_task

#: The distributions whose versions the report tells.
PACKAGES = (
    "torch",
    "torchao",
    "numpy",
    *main_distributions(),
    *(name for record in FORMATS.values() for name in record.build_distributions),
    "torch-pruning",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Where a run puts things, and how it tells that it goes on."""

    out: pathlib.Path
    cache: pathlib.Path
    progress: Progress = dataclasses.field(default_factory=Silent)
    #: Take measurements again, also where they are cached.
    fresh: bool = False
    #: Hosts on which every shipped file is verified too.
    on: tuple[str, ...] = ()


def run(plan: Plan, options: Options) -> Report:
    """Do everything that the plan says, ship the winners to ``options.out`` and give the
    report.
    """
    plan.require_possible()
    started, began = datetime.datetime.now(datetime.UTC), time.monotonic()
    recipe = plan.recipe
    assert recipe.model is not None
    assert recipe.task is not None
    require_usable(options.out, [planned.target.name for planned in plan.targets])
    task = load_task(recipe.task)
    _require_enough(task)
    build = Build(
        task, Cache(options.cache, options.progress.say), options.progress, recipe.seed
    )
    first = build.follow(recipe.model, None, plan.shared[:1])
    # The data, the labels and the metric are tried on the untrained network, so that a
    # mistake in them is told before any training.
    _stage_accuracy(build, recipe.model, first[0], options.fresh)
    taught = build.teach(_teacher_of(plan), plan.teacher) if plan.teacher else []
    shared = [*first, *build.follow(recipe.model, first[0], plan.shared[1:])]
    stages = [
        *_stages(
            build, _teacher_of(plan), zip(plan.teacher, taught, strict=True), options.fresh
        ),
        *_stages(build, recipe.model, zip(plan.shared, shared, strict=True), options.fresh),
    ]
    targets = []
    prepare(options.out)
    for planned in plan.targets:
        try:
            ground = Ground(
                build,
                recipe.model,
                planned,
                shared[plan.baseline - 1],
                shared[-1],
                reach(planned.target.host),
                options.fresh,
            )
            shipped = _shipped(ground, race(ground), options.out)
        except (HostError, MissingBackend, RunnerError) as error:
            targets.append(_unreached(planned.target, error))
            continue
        targets.append(
            _elsewhere(
                shipped, dict.fromkeys((*planned.target.also_on, *options.on)), options
            )
        )
    report = Report(
        edgekit=edgekit.__version__,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        verdict=worst(row.verdict for row in targets),
        targets=tuple(targets),
        stages=tuple(stages),
        task=build.described,
        environment=environment(versions(PACKAGES)),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
    )
    write_report(report, options.out)
    return report


def _require_enough(task: Task) -> None:
    need = sum(parity.BATCHES)
    if len(task.need("test", "verification")) < need:
        raise TaskError(
            f"Task {task.name!r} has fewer than {need} test samples, and verification needs {need}.",
            fix="give more; an interval wants hundreds",
        )


def _teacher_of(plan: Plan) -> str:
    distill = plan.recipe.find("distill")
    return "" if distill is None else distill.teacher


def _shipped(ground: Ground, result: Result, out: pathlib.Path) -> TargetReport:
    """The target's report with the paths of the shipped files filled in, and what other
    hosts said of them before.
    """
    report = result.report
    if result.winner is None:
        withdraw(report.name, out)
        return report
    assert result.winner.artifact is not None
    entry = ship(
        result.winner.artifact, report, out, gather(ground, result.winner, result.reference)
    )
    rows = tuple(
        row.model_copy(update={"artifact": entry}) if row.scheme == report.winner else row
        for row in report.candidates
    )
    return with_evidence(report.model_copy(update={"candidates": rows}), out / report.name)


def _unreached(target: Target, error: EdgekitError) -> TargetReport:
    """A target whose host went away: the others are raced all the same, and the same
    command goes on later. What was shipped before stays.
    """
    why = f"its host {target.host} failed: {error}"
    return TargetReport(
        name=target.name,
        title=target.title,
        format=target.format,
        runtime=target.runtime,
        verdict="unmeasured",
        winner=None,
        chosen=why,
    )


def _elsewhere(
    report: TargetReport, hosts: Iterable[str], options: Options
) -> TargetReport:
    """The target's report with the evidence of other hosts; what they said before of the
    same bundle is not asked again.
    """
    winner = report.candidate(report.winner)
    if winner is None or winner.artifact is None:
        return report
    folder, progress = options.out / report.name, options.progress
    known = (
        set() if options.fresh else {row.host for row in report.evidence if not row.partial}
    )
    asked: list[EvidenceReport] = []
    for host in hosts:
        progress.start(f"verify {report.name} on {host}")
        rows: list[EvidenceReport] = []
        try:
            for name in environments(host):
                rows += () if name in known else verify(folder, name, progress=progress)
        except EdgekitError as error:
            rows.append(
                EvidenceReport(
                    host=host,
                    key=winner.artifact.key,
                    when=now(),
                    verdict="unmeasured",
                    error=str(error),
                )
            )
        ran = [row for row in rows if not row.skipped]
        asked += ran
        progress.finish(
            "known" if not rows else rows[-1].error or ", ".join(row.verdict for row in ran)
        )
    return with_evidence(report, folder, asked)


def _stages(
    build: Build, model: str, steps: Iterable[tuple[PlannedStep, Artifact]], fresh: bool
) -> list[StageReport]:
    """One row a step: what it noted, and the accuracy of its network, so that each stage's
    share of the loss is seen.
    """
    rows = []
    for step, artifact in steps:
        measured = _stage_accuracy(build, model, artifact, fresh)
        rows.append(
            StageReport(
                name=step.intent,
                step=step.step,
                key=artifact.key,
                measurements=measured,
                notes=_told(artifact.notes),
            )
        )
    return rows


def _stage_accuracy(
    build: Build, model: str, artifact: Artifact, fresh: bool
) -> tuple[Measurement, ...]:
    task = build.task
    test = task.need("test", "a stage's accuracy")
    key = key_of(
        "stage",
        artifact.key,
        build.described["splits"]["test"],
        identities(task, task.metric),
    )

    def measure() -> Any:
        with torch_runner(build, model, artifact) as runner:
            return accuracy.accuracy(
                accuracy.answer(runner, test, task.metric), task.metric
            ).model_dump(mode="json")

    return (Measurement.model_validate(build.cache.record(key, measure, fresh=fresh)),)


def _told(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes as plain JSON values."""
    told: dict[str, Any] = json.loads(json.dumps(notes))
    return told
