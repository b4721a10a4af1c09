"""The options that ``run`` and ``plan`` share: a recipe, and overrides of its keys."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from edgekit.pipeline.request import RunRequest

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
        help="How many remedies are tried if int8 loses too much.  [default: normal]",
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
    """Add the shared options to a command.

    It is called with one ``RunRequest``, and its own options as keyword arguments.
    """

    @functools.wraps(function)
    def command(**options: Any) -> None:
        names = [field.name for field in dataclasses.fields(RunRequest)]
        request = RunRequest(**{name: options.pop(name) for name in names})
        function(request, **options)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
