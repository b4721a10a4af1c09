"""The plan: the steps from a model to every target's files, and what stands in the way.

Pure; imports no framework.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from edgekit import registry
from edgekit.errors import EdgekitError, PlanError
from edgekit.planning import problems
from edgekit.planning.problems import HostProblem, Installed, Problem
from edgekit.planning.routes import PlannedStep, PlannedTarget, candidate
from edgekit.recipe import (
    Distill,
    Finetune,
    Intent,
    Prune,
    Quantize,
    Recipe,
    Train,
)
from edgekit.scheme import SCHEMES
from edgekit.target import Target


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a run will do.

    Attributes:
        teacher: the steps that train the teacher; empty if the recipe has none.
        shared: the steps on the PyTorch network, done once for all targets.
        baseline: ``shared[:baseline]`` give the float network that everything is compared
            with.
        problems: what is missing or impossible, each with its fix.
    """

    recipe: Recipe
    teacher: tuple[PlannedStep, ...]
    shared: tuple[PlannedStep, ...]
    baseline: int
    targets: tuple[PlannedTarget, ...]
    problems: tuple[Problem, ...]

    def require_possible(self) -> None:
        """Raise one PlanError that lists every problem, if there is any."""
        if not self.problems:
            return
        lines = []
        for problem in self.problems:
            lines.append(
                f"{problem.where}: {problem.what}\n    Fix: {problem.fix}"
            )
        listing = "\n  ".join(lines)
        raise PlanError(
            f"The recipe {self.recipe.name!r} cannot be run:\n  {listing}"
        )


def _no_problem(name: str) -> None:
    """Assume that every host is ready."""


def plan(
    recipe: Recipe,
    targets: Sequence[Target],
    installed: Installed = registry.installed,
    *,
    host_problem: HostProblem = _no_problem,
) -> Plan:
    """Plan a recipe for some targets.

    Args:
        installed: whether a module could be imported.
        host_problem: what is wrong with a target's host, by its name.
    """
    multiple = math.lcm(*(target.limits.channel_multiple for target in targets))
    shared, baseline = _plan_shared(recipe, multiple)
    teacher = _plan_teacher(recipe)
    planned = tuple(_plan_target(recipe, target) for target in targets)
    steps = (*teacher, *shared)
    listed = [
        *problems.find_missing_inputs(recipe, targets),
        *problems.find_impossible(recipe, planned),
        *problems.find_missing_packages(recipe, steps, planned, installed),
        *problems.find_host_problems(targets, host_problem),
    ]
    return Plan(recipe, teacher, shared, baseline, planned, tuple(listed))


def targets_of(recipe: Recipe, find: Callable[[str], Target]) -> list[Target]:
    """The recipe's targets.

    Raises:
        PlanError: it lists every name that is not valid.
    """
    targets, errors = [], []
    for name in recipe.targets:
        try:
            targets.append(find(name))
        except EdgekitError as error:
            errors.append(str(error))
    if errors:
        raise PlanError("\n".join(errors))
    return targets


def _plan_shared(
    recipe: Recipe, multiple: int
) -> tuple[tuple[PlannedStep, ...], int]:
    """The steps for all targets, and how many of them come before pruning."""
    load = {"model": recipe.model, "weights": recipe.weights}
    steps = [PlannedStep("load", "load_model", load)]
    baseline = None
    for intent in recipe.compress:
        if intent.kind == "quantize":
            continue
        if intent.kind == "prune" and baseline is None:
            baseline = len(steps)
        steps.append(_plan_intent(intent, recipe.find("distill"), multiple))
    return tuple(steps), len(steps) if baseline is None else baseline


def _plan_intent(
    intent: Intent, distill: Distill | None, multiple: int
) -> PlannedStep:
    settings = intent.value
    if isinstance(settings, Prune):
        return _plan_pruning(settings, multiple)
    training = _training_parameters(settings)
    teaching = _teaching_of(settings, distill)
    if teaching is None:
        return PlannedStep(intent.kind, "train", training)
    training |= {"temperature": teaching.temperature, "alpha": teaching.alpha}
    return PlannedStep(intent.kind, "distill", training)


def _plan_pruning(settings: Prune, multiple: int) -> PlannedStep:
    parameters = {
        "ratio": settings.ratio,
        "multiple": multiple
        if settings.multiple is None
        else settings.multiple,
        "skip": list(settings.skip),
    }
    return PlannedStep("prune", "prune", parameters)


def _teaching_of(settings: Train, distill: Distill | None) -> Distill | None:
    """How a training learns from the teacher; None if it does not."""
    if isinstance(settings, Distill):
        return settings
    return distill if isinstance(settings, Finetune) else None


def _training_parameters(settings: Train) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Train.model_fields}


def _plan_teacher(recipe: Recipe) -> tuple[PlannedStep, ...]:
    settings: Distill | None = recipe.find("distill")
    if settings is None:
        return ()
    parameters = {
        "model": settings.teacher,
        "weights": settings.teacher_weights,
    }
    load = PlannedStep("load teacher", "load_model", parameters)
    if settings.teacher_weights is not None:
        return (load,)
    training = _training_parameters(recipe.find("train") or settings)
    training["epochs"] = settings.teacher_epochs
    return load, PlannedStep("train teacher", "train", training)


def _plan_target(recipe: Recipe, target: Target) -> PlannedTarget:
    requested: Quantize | None = recipe.find("quantize")
    quantize = requested or Quantize()
    left_out: dict[str, str] = {}
    candidates = []
    for name in _requested_schemes(requested, target):
        reason = _reason_to_leave_out(name, target, quantize)
        if reason is None:
            candidates.append(candidate(name, target, quantize.samples))
        else:
            left_out[name] = reason
    return PlannedTarget(
        target=target,
        reference=candidate("float", target, quantize.samples),
        candidates=tuple(candidates),
        gates=target.gates.over(recipe.gates),
        effort=quantize.effort,
        samples=quantize.samples,
        left_out=left_out,
    )


def _requested_schemes(quantize: Quantize | None, target: Target) -> list[str]:
    """The schemes to try, each once. Float takes part in every race."""
    if quantize is None:
        return ["float"]
    if quantize.scheme == "auto":
        return list(dict.fromkeys(target.schemes))
    return list(dict.fromkeys((quantize.scheme, "float")))


def _reason_to_leave_out(
    name: str, target: Target, quantize: Quantize
) -> str | None:
    refusal = target.refuses(name)
    if refusal:
        return refusal
    if name not in target.schemes and name != "float":
        return "the target's file does not list it"
    chosen_by_edgekit = (
        quantize.scheme == "auto" and quantize.effort != "thorough"
    )
    if SCHEMES[name].trained and chosen_by_edgekit:
        return "trained only as a remedy, with scheme: w8a8-qat, or with effort: thorough"
    return None
