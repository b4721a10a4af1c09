"""The options that ``run`` and ``plan`` share: a recipe, and what the command line puts in
place of its words.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from edgekit import catalog
from edgekit import recipe as recipes
from edgekit import target as targets
from edgekit.planning import plan as plans
from edgekit.target import Target


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user asked for on the command line.

    Each option takes the place of the recipe's own word.
    """

    recipe: str
    model: str | None
    weights: str | None
    task: str | None
    targets: tuple[str, ...]
    effort: str | None
    assignments: tuple[str, ...]

    def plan(self) -> plans.Plan:
        """The plan of the recipe with these words in it."""
        recipe = recipes.load(
            catalog.find("recipes", self.recipe), (*self.assignments, *self._effort())
        )
        given = {
            "model": self.model,
            "weights": self.weights,
            "task": self.task,
            "targets": tuple(dict.fromkeys(self.targets)) or None,
        }
        recipe = recipe.model_copy(
            update={key: value for key, value in given.items() if value is not None}
        )
        return plans.plan(
            recipe, plans.targets_of(recipe, find_target), host_problem=_host_problem
        )

    def _effort(self) -> tuple[str, ...]:
        return () if self.effort is None else (f"quantize.effort={self.effort}",)


def _host_problem(name: str) -> tuple[str, str] | None:
    """What is known against a host.

    This machine is always there, so plans for it stay quick: what reaches hosts needs
    numpy.
    """
    if name == "local":
        return None
    from edgekit.hosts import lookup as reach

    return reach.problem(name)


def find_target(name: str) -> Target:
    """The target of a name or a path."""
    return targets.load(catalog.find("targets", name))


_OPTIONS = (
    click.argument("recipe"),
    click.option(
        "--target",
        "-t",
        "targets",
        multiple=True,
        metavar="NAME",
        help="Only this target, a name or a file; may be repeated.",
    ),
    click.option(
        "--model",
        "-m",
        metavar="SPEC",
        help="The network: zoo:NAME, file.py:function or package.module:function.",
    ),
    click.option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Its checkpoint (.safetensors, or .pt with tensors only).",
    ),
    click.option(
        "--task",
        metavar="SPEC",
        help="The data: a name, data.npz, file.py:function or package.module:function.",
    ),
    click.option(
        "--effort",
        type=click.Choice(["quick", "normal", "thorough"]),
        help="How much is tried where int8 loses too much.  [default: normal]",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change the recipe, for example train.epochs=3; may be repeated.",
    ),
)


def recipe_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options; it is called with one ``Wanted`` and its own
    options.
    """

    @functools.wraps(function)
    def command(**given: Any) -> None:
        wanted = Wanted(
            **{field.name: given.pop(field.name) for field in dataclasses.fields(Wanted)}
        )
        function(wanted, **given)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
