"""What is missing or impossible in a recipe for its targets, found before any work."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

from edgekit import registry
from edgekit.errors import EdgekitError, unknown
from edgekit.planning.routes import PlannedStep, PlannedTarget
from edgekit.recipe import (
    OBJECT_PREFIX,
    Distill,
    Prune,
    Quantize,
    Recipe,
)
from edgekit.target import Target

Installed = Callable[[str], bool]
#: What is wrong with a host and the fix, by its name; None if it can be used.
HostProblem = Callable[[str], tuple[str, str] | None]
_PATH_FIX = (
    "check the path; it is relative to the folder where the command runs"
)
_HOST_FIX = "'edgekit hosts' lists the hosts"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is missing or impossible, and the fix."""

    where: str
    what: str
    fix: str


def find_missing_inputs(
    recipe: Recipe, targets: Sequence[Target]
) -> Iterator[Problem]:
    """A model, a task, targets or files that the recipe does not name, or names wrongly."""
    yield from _find_missing_names(recipe)
    yield from _find_target_problems(targets)
    distill: Distill | None = recipe.find("distill")
    if recipe.model is not None:
        yield from _find_spec_problems("model", recipe.model, registry.SOURCES)
    if distill is not None and distill.teacher is not None:
        yield from _find_spec_problems(
            "distill.teacher", distill.teacher, registry.SOURCES
        )
    if recipe.task is not None and not recipe.task.endswith(".npz"):
        yield from _find_spec_problems("task", recipe.task, registry.TASKS)
    yield from _find_missing_files(recipe, distill)
    yield from _find_untrained_reference(recipe)


def _find_missing_names(recipe: Recipe) -> Iterator[Problem]:
    if recipe.model is None:
        yield Problem(
            "model",
            "the recipe names no network",
            "give --model zoo:resnet8, --model file.py:function or "
            "--model package.module:function",
        )
    if recipe.task is None:
        yield Problem(
            "task",
            "the recipe names no task",
            "give --task digits, --task data.npz or --task file.py:function",
        )


def _find_target_problems(targets: Sequence[Target]) -> Iterator[Problem]:
    names = [target.name for target in targets]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(
            "targets",
            f"two targets have the name {name}; their files would share a folder",
            "name each target once, or give one another name",
        )
    if not targets:
        yield Problem(
            "targets",
            "the recipe names no target",
            "give --target NAME; 'edgekit targets' lists them",
        )


def _find_spec_problems(
    where: str, spec: str, table: registry.Registry
) -> Iterator[Problem]:
    """What is wrong with a name such as ``zoo:name`` or ``file.py:function``.

    Nothing is imported to find out.
    """
    if spec in table or spec.startswith(OBJECT_PREFIX):
        return
    place, colon, function = spec.rpartition(":")
    if place == "zoo" or not colon:
        fix = "use a known name, file.py:function or package.module:function"
        yield Problem(where, unknown(table.kind, spec, table), fix)
    elif not function.isidentifier():
        fix = "write file.py:function or package.module:function"
        yield Problem(where, f"{spec!r} does not end in a function's name", fix)
    elif place.endswith(".py") and not pathlib.Path(place).is_file():
        yield Problem(where, f"there is no file {place}", _PATH_FIX)
    elif not place.endswith(".py") and not registry.installed(
        place.partition(".")[0]
    ):
        fix = "write a path that ends in .py, or install the package"
        yield Problem(where, f"there is no module {place!r}", fix)


def _find_missing_files(
    recipe: Recipe, distill: Distill | None
) -> Iterator[Problem]:
    files = {"weights": recipe.weights}
    if distill is not None:
        files["distill.teacher_weights"] = distill.teacher_weights
    if recipe.task is not None and recipe.task.endswith(".npz"):
        files["task"] = recipe.task
    for where, name in files.items():
        if name is not None and not pathlib.Path(name).is_file():
            yield Problem(where, f"there is no file {name}", _PATH_FIX)


def _find_untrained_reference(recipe: Recipe) -> Iterator[Problem]:
    """A network of the zoo without weights, which nothing trains before it is compared."""
    if recipe.model is None or not recipe.model.startswith("zoo:"):
        return
    kinds = [intent.kind for intent in recipe.compress]
    before_pruning = (
        kinds[: kinds.index("prune")] if "prune" in kinds else kinds
    )
    trains = {"train", "distill"}.intersection(before_pruning)
    if recipe.weights is None and not trains:
        yield Problem(
            "model",
            f"{recipe.model}: the network that everything is compared with would have "
            "random weights",
            "add a train entry before any other, or give --weights",
        )


def find_impossible(
    recipe: Recipe, planned: Sequence[PlannedTarget]
) -> Iterator[Problem]:
    """Requests that a target's limits exclude."""
    prune: Prune | None = recipe.find("prune")
    quantize: Quantize | None = recipe.find("quantize")
    for row in planned:
        if prune is not None:
            yield from _find_wrong_multiple(prune, row.target)
        if quantize is not None and quantize.scheme in row.left_out:
            reason = row.left_out[quantize.scheme]
            yield Problem(
                f"{row.target.name}: quantize.scheme",
                f"{quantize.scheme} cannot be executed: {reason}",
                f"use scheme: auto, or one of {', '.join(row.target.schemes)}",
            )
        elif not row.candidates:
            reasons = [
                f"{name}: {reason}" for name, reason in row.left_out.items()
            ]
            yield Problem(
                row.target.name,
                f"no scheme is left for this target ({'; '.join(reasons)})",
                "add '- quantize: {scheme: auto}' to the recipe",
            )


def _find_wrong_multiple(prune: Prune, target: Target) -> Iterator[Problem]:
    multiple = target.limits.channel_multiple
    if prune.multiple is not None and prune.multiple % multiple:
        yield Problem(
            f"{target.name}: prune.multiple",
            f"the target requires multiples of {multiple} channels, the recipe sets "
            f"multiples of {prune.multiple}",
            "leave prune.multiple out; the targets' limits are then used",
        )


def find_missing_packages(
    recipe: Recipe,
    shared: Sequence[PlannedStep],
    planned: Sequence[PlannedTarget],
    installed: Installed,
) -> Iterator[Problem]:
    """One problem for each missing package, with everything that needs it."""
    users: dict[str, list[str]] = {}
    extras: dict[str, str] = {}
    for table, name, user in _find_uses(recipe, shared, planned):
        if name not in table:
            continue
        for package in table.missing(name, installed):
            users.setdefault(package, []).append(user)
            extras.setdefault(package, table.entry(name).extra)
    for package, names in users.items():
        either = package.replace("|", " or ")
        yield Problem(
            "missing package",
            f"{either}, needed by {', '.join(dict.fromkeys(names))}",
            registry.install(extras[package]),
        )


def _find_uses(
    recipe: Recipe,
    shared: Sequence[PlannedStep],
    planned: Sequence[PlannedTarget],
) -> Iterator[tuple[registry.Registry, str, str]]:
    """What the plan uses: a table of implementations, a name in it, and who uses it."""
    if recipe.task is not None:
        yield registry.TASKS, recipe.task, recipe.task
    if recipe.model is not None:
        yield registry.SOURCES, recipe.model, recipe.model
    for step in shared:
        yield registry.STEPS, step.step, step.intent
    for row in planned:
        target = row.target
        for candidate in (row.reference, *row.candidates):
            for step in candidate.steps:
                yield registry.STEPS, step.step, f"{target.name} ({step.step})"
        yield (
            registry.RUNTIMES,
            target.runtime,
            f"{target.name} (to run the file)",
        )
        yield registry.AUDITS, target.format, f"{target.name} (audit)"


def find_host_problems(
    targets: Sequence[Target], host_problem: HostProblem
) -> Iterator[Problem]:
    """One problem for each host that cannot be used, with the targets that need it."""
    for host in dict.fromkeys(target.host for target in targets):
        names = ", ".join(
            target.name for target in targets if target.host == host
        )
        try:
            problem = host_problem(host)
        except EdgekitError as error:
            yield _host_error(names, error)
            continue
        if problem is not None:
            yield Problem(names, *problem)
    for host in dict.fromkeys(
        host for target in targets for host in target.also_on
    ):
        names = ", ".join(
            target.name for target in targets if host in target.also_on
        )
        try:
            # A host that is not set up yet is a line in the report; a name that no host has
            # is a mistake.
            host_problem(host)
        except EdgekitError as error:
            yield _host_error(f"{names}: also_on", error)


def _host_error(where: str, error: EdgekitError) -> Problem:
    return Problem(where, error.message.rstrip("."), error.fix or _HOST_FIX)
