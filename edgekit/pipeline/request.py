"""What a user asks for, on the command line or in Python, and the plan for it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit import catalog
from edgekit import recipe as recipes
from edgekit import target as targets
from edgekit.planning import plan as plans
from edgekit.recipe import Recipe
from edgekit.target import Target


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """A recipe, and what replaces its values.

    Attributes:
        recipe: a name, a path, the content of a recipe file, or a recipe.
        model, weights, task: take the place of the recipe's, if given.
        targets: names, paths or targets; take the place of the recipe's, if any is given.
        effort: quick, normal or thorough.
        assignments: ``key=value`` texts, such as ``train.epochs=3``.
    """

    recipe: "str | pathlib.Path | Mapping[str, Any] | Recipe"
    model: str | None = None
    weights: str | None = None
    task: str | None = None
    targets: tuple[str | Target, ...] = ()
    effort: str | None = None
    assignments: tuple[str, ...] = ()

    def plan(self) -> plans.Plan:
        """The plan of the recipe with these words in it.

        Raises:
            EdgekitError: a file or a name is not valid. What is missing or impossible is in
                the plan itself.
        """
        recipe = self._filled(self._load())
        objects = {
            row.name: row for row in self.targets if isinstance(row, Target)
        }

        def find(name: str) -> Target:
            return objects[name] if name in objects else find_target(name)

        chosen = plans.targets_of(recipe, find)
        return plans.plan(recipe, chosen, host_problem=_host_problem)

    def _load(self) -> Recipe:
        assignments = list(self.assignments)
        if self.effort is not None:
            assignments.append(f"quantize.effort={self.effort}")
        if isinstance(self.recipe, Recipe):
            return recipes.reassign(self.recipe, assignments)
        if isinstance(self.recipe, Mapping):
            return recipes.from_data(self.recipe, assignments)
        return recipes.load(
            catalog.find("recipes", str(self.recipe)), assignments
        )

    def _filled(self, recipe: Recipe) -> Recipe:
        names = [
            row.name if isinstance(row, Target) else row for row in self.targets
        ]
        replacements = {
            "model": self.model,
            "weights": self.weights,
            "task": self.task,
            "targets": tuple(dict.fromkeys(names)) or None,
        }
        present = {
            key: value
            for key, value in replacements.items()
            if value is not None
        }
        return recipe.model_copy(update=present)


def as_assignments(
    overrides: Mapping[str, Any] | Sequence[str],
) -> tuple[str, ...]:
    """``{"train.epochs": 3}`` as the texts of ``--set``; texts stay unchanged."""
    if not isinstance(overrides, Mapping):
        return tuple(overrides)
    return tuple(
        f"{key}={json.dumps(value)}" for key, value in overrides.items()
    )


def find_target(name: str) -> Target:
    """The target of a name or a path."""
    return targets.load(catalog.find("targets", name))


def _host_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with a host, and the fix; None if it is ready.

    This machine is always ready, so plans for it stay quick: what reaches hosts imports
    numpy.
    """
    if name == "local":
        return None
    from edgekit.hosts import lookup

    return lookup.find_problem(name)
