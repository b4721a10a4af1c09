"""``edgekit plan``: what a run would do, what is missing, what is impossible.

Requires no framework.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from edgekit.cli import output
from edgekit.cli.overrides import recipe_options
from edgekit.pipeline.request import RunRequest
from edgekit.planning.plan import Plan
from edgekit.planning.routes import PlannedCandidate, PlannedStep, PlannedTarget
from edgekit.rendering.formatting import plain

_INDENT = (0, 0, 0, 2)


@click.command()
@recipe_options
@output.as_json_option
def plan(request: RunRequest, *, as_json: bool) -> None:
    """Show what 'edgekit run RECIPE' would do, what is missing and what is impossible.

    Exit code 1 if there are problems.
    """
    planned = request.plan()
    if as_json:
        output.show_json(as_data(planned))
    else:
        output.show(*_drawn(planned))
    click.get_current_context().exit(1 if planned.problems else 0)


def as_data(planned: Plan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "recipe": planned.recipe.model_dump(mode="json"),
        "teacher": [_step_data(step) for step in planned.teacher],
        "shared": [_step_data(step) for step in planned.shared],
        "baseline": planned.baseline,
        "targets": [_target_data(target) for target in planned.targets],
        "problems": [
            {"where": problem.where, "what": problem.what, "fix": problem.fix}
            for problem in planned.problems
        ],
    }


def _target_data(planned: PlannedTarget) -> dict[str, Any]:
    return {
        "target": planned.target.model_dump(mode="json"),
        "reference": _candidate_data(planned.reference),
        "candidates": [
            _candidate_data(candidate) for candidate in planned.candidates
        ],
        "gates": planned.gates.model_dump(mode="json", exclude_none=True),
        "left_out": dict(planned.left_out),
    }


def _candidate_data(candidate: PlannedCandidate) -> dict[str, Any]:
    return {
        "scheme": candidate.scheme,
        "steps": [_step_data(step) for step in candidate.steps],
    }


def _step_data(step: PlannedStep) -> dict[str, Any]:
    return {
        "intent": step.intent,
        "step": step.step,
        "parameters": dict(step.parameters),
    }


def _drawn(planned: Plan) -> list[RenderableType]:
    recipe = planned.recipe
    parts: list[RenderableType] = [
        Text.assemble((recipe.name, "bold"), f"  {recipe.title}"),
        Text(f"model {recipe.model or '?'}, task {recipe.task or '?'}"),
    ]
    if planned.teacher:
        parts += [Text(), output.title("Teacher"), _steps(planned.teacher)]
    parts += [
        Text(),
        output.title("The network, once for all targets"),
        _steps(planned.shared, planned.baseline),
    ]
    for target in planned.targets:
        parts += [Text(), *_target(target)]
    if planned.problems:
        parts += [
            Text(),
            Text(f"Problems: {len(planned.problems)}", "bold red"),
        ]
        for problem in planned.problems:
            line = f"{problem.where}: {problem.what}\n  Fix: {problem.fix}"
            parts.append(Padding(Text(line), _INDENT))
    return parts


def _steps(
    steps: Sequence[PlannedStep], baseline: int | None = None
) -> RenderableType:
    """A numbered list; the step after which the network is the float reference is marked."""
    drawn = output.grid("", "", "", "")
    drawn.show_header = False
    for number, step in enumerate(steps, 1):
        mark = "<- compared with" if number == baseline else ""
        drawn.add_row(
            str(number),
            step.intent,
            Text(_parameters(step.parameters)),
            Text(mark, "dim"),
        )
    return Padding(drawn, _INDENT)


def _target(planned: PlannedTarget) -> list[RenderableType]:
    target = planned.target
    limits = planned.gates.model_dump(exclude_none=True)
    gates = (
        ", ".join(f"{name} {limit:g}" for name, limit in limits.items())
        or "none"
    )
    drawn = output.grid("scheme", "steps")
    drawn.add_row("reference", _route(planned.reference))
    for candidate in planned.candidates:
        drawn.add_row(candidate.scheme, _route(candidate))
    for scheme, reason in planned.left_out.items():
        drawn.add_row(Text(scheme, "dim"), Text(f"left out: {reason}", "dim"))
    head = Text.assemble(
        (target.name, "bold"),
        f"  {target.title} ({target.format}, {target.runtime})",
    )
    notes: list[RenderableType] = []
    if target.latency == "unmeasured":
        note = f"latency will be unmeasured: {target.latency_note}"
        notes.append(Padding(Text(note, "dim"), _INDENT))
    return [
        head,
        Padding(Text(f"gates: {gates}", "dim"), _INDENT),
        Padding(drawn, _INDENT),
        *notes,
    ]


def _route(candidate: PlannedCandidate) -> str:
    return " > ".join(step.step for step in candidate.steps)


def _parameters(parameters: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {plain(value)}"
        for key, value in parameters.items()
        if value not in (None, [], ())
    )
