"""The plan: recipe x target -> chains of steps, and everything that is missing or
impossible. Pure; imports no framework.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgekit import registry
from edgekit.errors import EdgekitError, PlanError, unknown
from edgekit.planning.routes import PlannedCandidate, PlannedStep, candidate
from edgekit.recipe import (
    Distill,
    Effort,
    Finetune,
    Gates,
    Intent,
    Prune,
    Quantize,
    Recipe,
    Train,
)
from edgekit.scheme import SCHEMES
from edgekit.target import Target

Installed = Callable[[str], bool]
#: What is known against a host and the way out, by its name; None where it can be used.
HostProblem = Callable[[str], tuple[str, str] | None]


def _nothing_known(name: str) -> None:
    """Nothing is known against any host."""


@dataclasses.dataclass(frozen=True)
class PlannedTarget:
    """One target's candidates in its order of preference, and the float reference."""

    target: Target
    reference: PlannedCandidate
    candidates: tuple[PlannedCandidate, ...]
    gates: Gates
    #: How much time may go into remedies, and how many samples they are calibrated on.
    effort: Effort
    samples: int
    #: Schemes that are left out, each with the reason.
    left_out: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is missing or impossible, and the way out."""

    where: str
    what: str
    fix: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole way.

    ``shared[:baseline]`` makes the float network that everything is compared with.
    """

    recipe: Recipe
    teacher: tuple[PlannedStep, ...]
    shared: tuple[PlannedStep, ...]
    baseline: int
    targets: tuple[PlannedTarget, ...]
    problems: tuple[Problem, ...]

    def require_possible(self) -> None:
        """Raise one PlanError that lists every problem; nothing where there is none."""
        if self.problems:
            lines = [
                f"{problem.where}: {problem.what}\n    Fix: {problem.fix}"
                for problem in self.problems
            ]
            raise PlanError(
                f"The recipe {self.recipe.name!r} cannot be run as it is:\n  "
                + "\n  ".join(lines)
            )


def plan(
    recipe: Recipe,
    targets: Sequence[Target],
    installed: Installed = registry.installed,
    *,
    host_problem: HostProblem = _nothing_known,
) -> Plan:
    """The chains of steps from the recipe's model to every target's files.

    ``host_problem`` tells what is wrong with a target's host.
    """
    multiple = math.lcm(*(target.limits.channel_multiple for target in targets))
    shared, baseline = _shared(recipe, multiple)
    teacher = _teacher(recipe)
    planned = tuple(_target(recipe, target) for target in targets)
    problems = [
        *_inputs_missing(recipe, targets),
        *_impossible(recipe, planned),
        *_packages_missing(recipe, (*teacher, *shared), planned, installed),
        *_hosts_not_ready(targets, host_problem),
    ]
    return Plan(recipe, teacher, shared, baseline, planned, tuple(problems))


def _shared(recipe: Recipe, multiple: int) -> tuple[tuple[PlannedStep, ...], int]:
    """The torch-side steps for all targets, and how many of them come before the network is
    made smaller.
    """
    steps = [
        PlannedStep(
            "load", "load_model", {"model": recipe.model, "weights": recipe.weights}
        )
    ]
    baseline = None
    for intent in recipe.compress:
        if intent.kind == "quantize":
            continue
        if intent.kind == "prune" and baseline is None:
            baseline = len(steps)
        steps.append(_step(intent, recipe.find("distill"), multiple))
    return tuple(steps), len(steps) if baseline is None else baseline


def _step(intent: Intent, distill: Distill | None, multiple: int) -> PlannedStep:
    settings = intent.value
    if isinstance(settings, Prune):
        kept = multiple if settings.multiple is None else settings.multiple
        return PlannedStep(
            "prune",
            "prune",
            {"ratio": settings.ratio, "multiple": kept, "skip": list(settings.skip)},
        )
    training = _training(settings)
    if isinstance(settings, Distill) or (
        isinstance(settings, Finetune) and distill is not None
    ):
        teaching = settings if isinstance(settings, Distill) else distill
        assert teaching is not None
        return PlannedStep(
            intent.kind,
            "distill",
            {**training, "temperature": teaching.temperature, "alpha": teaching.alpha},
        )
    return PlannedStep(intent.kind, "train", training)


def _training(settings: Train) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Train.model_fields}


def _teacher(recipe: Recipe) -> tuple[PlannedStep, ...]:
    settings: Distill | None = recipe.find("distill")
    if settings is None:
        return ()
    load = PlannedStep(
        "load teacher",
        "load_model",
        {"model": settings.teacher, "weights": settings.teacher_weights},
    )
    if settings.teacher_weights is not None:
        return (load,)
    training = _training(recipe.find("train") or settings)
    return load, PlannedStep(
        "train teacher", "train", {**training, "epochs": settings.teacher_epochs}
    )


def _target(recipe: Recipe, target: Target) -> PlannedTarget:
    quantize: Quantize | None = recipe.find("quantize")
    samples = (quantize or Quantize()).samples
    wanted = (
        ("float",)
        if quantize is None
        else target.schemes
        if quantize.scheme == "auto"
        else (quantize.scheme, "float")
    )
    left_out: dict[str, str] = {}
    candidates = []
    for name in dict.fromkeys(wanted):
        reason = target.refuses(name) or (
            None
            if name in target.schemes or name == "float"
            else "the target's file does not list it"
        )
        if (
            reason is None
            and SCHEMES[name].trained
            and quantize is not None
            and quantize.scheme == "auto"
            and quantize.effort != "thorough"
        ):
            reason = (
                "trained only as a remedy, with scheme: w8a8-qat, or with effort: thorough"
            )
        if reason is None:
            candidates.append(candidate(name, target, samples))
        else:
            left_out[name] = reason
    reference, effort = candidate("float", target, samples), (quantize or Quantize()).effort
    return PlannedTarget(
        target,
        reference,
        tuple(candidates),
        target.gates.over(recipe.gates),
        effort,
        samples,
        left_out,
    )


def _inputs_missing(recipe: Recipe, targets: Sequence[Target]) -> Iterator[Problem]:
    if recipe.model is None:
        yield Problem(
            "model",
            "the recipe names no network",
            "give --model zoo:resnet8, --model file.py:function or --model package.module:function",
        )
    if recipe.task is None:
        yield Problem(
            "task",
            "the recipe names no task",
            "give --task digits, --task data.npz or --task file.py:function",
        )
    names = [target.name for target in targets]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(
            "targets",
            f"two targets are called {twice}; their files would share a folder",
            "name each target once, or give one another name",
        )
    if not targets:
        yield Problem(
            "targets",
            "the recipe names no target",
            "give --target NAME; 'edgekit targets' lists them",
        )
    distill: Distill | None = recipe.find("distill")
    for where, spec in (
        ("model", recipe.model),
        ("distill.teacher", distill.teacher if distill else None),
    ):
        if spec is not None:
            yield from _spec_problems(where, spec, registry.SOURCES)
    if recipe.task is not None and not recipe.task.endswith(".npz"):
        yield from _spec_problems("task", recipe.task, registry.TASKS)
    files = (
        ("weights", recipe.weights),
        ("distill.teacher_weights", distill.teacher_weights if distill else None),
        ("task", recipe.task),
    )
    for where, name in files:
        if (
            name is not None
            and (where != "task" or name.endswith(".npz"))
            and not pathlib.Path(name).is_file()
        ):
            yield Problem(
                where,
                f"there is no file {name}",
                "check the path; it is taken from the folder where the command runs",
            )
    kinds = [intent.kind for intent in recipe.compress]
    before_pruning = kinds[: kinds.index("prune")] if "prune" in kinds else kinds
    untrained = recipe.weights is None and not {"train", "distill"} & set(before_pruning)
    if recipe.model is not None and recipe.model.startswith("zoo:") and untrained:
        told = "the network that all is compared with would have random weights"
        yield Problem(
            "model",
            f"{recipe.model}: {told}",
            "add a train entry before any other, or give --weights",
        )


def _spec_problems(where: str, spec: str, known: registry.Registry) -> Iterator[Problem]:
    """What is wrong with ``zoo:name``, ``file.py:function`` or ``package.module:function``,
    told without importing it.
    """
    if spec in known:
        return
    place, colon, function = spec.rpartition(":")
    if place == "zoo" or not colon:
        yield Problem(
            where,
            unknown(known.kind, spec, known),
            "use a known name, file.py:function or package.module:function",
        )
    elif not function.isidentifier():
        yield Problem(
            where,
            f"{spec!r} does not end in a function's name",
            "write file.py:function or package.module:function",
        )
    elif place.endswith(".py") and not pathlib.Path(place).is_file():
        yield Problem(
            where,
            f"there is no file {place}",
            "check the path; it is taken from the folder where the command runs",
        )
    elif not place.endswith(".py") and not registry.installed(place.partition(".")[0]):
        yield Problem(
            where,
            f"there is no module {place!r}",
            "write a path that ends in .py, or install the package",
        )


def _impossible(recipe: Recipe, planned: Sequence[PlannedTarget]) -> Iterator[Problem]:
    prune: Prune | None = recipe.find("prune")
    quantize: Quantize | None = recipe.find("quantize")
    for row in planned:
        target, multiple = row.target, row.target.limits.channel_multiple
        if prune is not None and prune.multiple is not None and prune.multiple % multiple:
            yield Problem(
                f"{target.name}: prune.multiple",
                f"the target wants multiples of {multiple} channels, the recipe multiples of {prune.multiple}",
                "leave prune.multiple out; the targets' limits are then used",
            )
        if quantize is not None and quantize.scheme in row.left_out:
            yield Problem(
                f"{target.name}: quantize.scheme",
                f"{quantize.scheme} cannot be run: {row.left_out[quantize.scheme]}",
                f"use scheme: auto, or one of {', '.join(target.schemes)}",
            )
        elif not row.candidates:
            reasons = "; ".join(
                f"{name}: {reason}" for name, reason in row.left_out.items()
            )
            yield Problem(
                target.name,
                f"no scheme is left for this target ({reasons})",
                "add '- quantize: {scheme: auto}' to the recipe",
            )


def _packages_missing(
    recipe: Recipe,
    shared: Sequence[PlannedStep],
    planned: Sequence[PlannedTarget],
    installed: Installed,
) -> Iterator[Problem]:
    """One problem for each missing package, naming all that need it."""
    wanted: dict[tuple[str, str], list[str]] = {}

    def note(table: registry.Registry, name: str, who: str) -> None:
        for need in table.missing(name, installed) if name in table else ():
            wanted.setdefault((need, table.entry(name).extra), []).append(who)

    for spec, table in ((recipe.task, registry.TASKS), (recipe.model, registry.SOURCES)):
        if spec is not None:
            note(table, spec, spec)
    for step in shared:
        note(registry.STEPS, step.step, step.intent)
    for row in planned:
        for made in (row.reference, *row.candidates):
            for step in made.steps:
                note(registry.STEPS, step.step, f"{row.target.name} ({step.step})")
        note(registry.RUNTIMES, row.target.runtime, f"{row.target.name} (to run the file)")
        note(registry.AUDITS, row.target.format, f"{row.target.name} (audit)")
    by_need: dict[str, tuple[str, list[str]]] = {}
    for (need, extra), who in wanted.items():
        by_need.setdefault(need, (extra, []))[1].extend(who)
    for need, (extra, who) in by_need.items():
        yield Problem(
            "missing package",
            f"{need.replace('|', ' or ')}, needed by {', '.join(dict.fromkeys(who))}",
            registry.install(extra),
        )


def _hosts_not_ready(
    targets: Sequence[Target], host_problem: HostProblem
) -> Iterator[Problem]:
    """One problem for each host that cannot be used, naming the targets that are checked
    there.
    """
    for host in dict.fromkeys(target.host for target in targets):
        try:
            known = host_problem(host)
        except EdgekitError as error:
            known = (
                error.message.rstrip("."),
                error.fix or "'edgekit hosts' lists the hosts",
            )
        if known is not None:
            yield Problem(
                ", ".join(target.name for target in targets if target.host == host), *known
            )
    for host in dict.fromkeys(host for target in targets for host in target.also_on):
        try:
            host_problem(
                host
                # one that is not set up yet is a line in the report; a name that no host has is
                # a slip
            )
        except EdgekitError as error:
            named = ", ".join(target.name for target in targets if host in target.also_on)
            yield Problem(
                f"{named}: also_on",
                error.message.rstrip("."),
                error.fix or "'edgekit hosts' lists the hosts",
            )


def targets_of(recipe: Recipe, find: Callable[[str], Target]) -> list[Target]:
    """The recipe's targets, or one PlanError that lists every name that is wrong."""
    found, wrong = [], []
    for name in recipe.targets:
        try:
            found.append(find(name))
        except EdgekitError as error:
            wrong.append(str(error))
    if wrong:
        raise PlanError("\n".join(wrong))
    return found
