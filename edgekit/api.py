"""The Python API: the same as the command line, on objects.

>>> import edgekit
>>> report = edgekit.run("zoo:cnn", "digits", targets=["cpu-onnx"])  # doctest: +SKIP
>>> report.target("cpu-onnx").winner  # doctest: +SKIP
'w8a8-static'
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import cache as caches
from edgekit import report as reports
from edgekit.contracts import Audit
from edgekit.errors import TaskError
from edgekit.formats.inspection import inspect_file
from edgekit.pipeline.request import RunRequest, as_assignments, find_target
from edgekit.planning.plan import Plan
from edgekit.progress import Progress
from edgekit.recipe import OBJECT_PREFIX, Recipe
from edgekit.report import EvidenceReport, Report
from edgekit.target import Target
from edgekit.task import Task

if TYPE_CHECKING:
    from torch import nn

    from edgekit.pipeline.run import Options

    Model = nn.Module | Callable[[], nn.Module | Mapping[str, nn.Module]] | str
    TaskLike = Task | Callable[[], Task] | str
    Path = str | pathlib.Path
    RecipeLike = Path | Mapping[str, Any] | Recipe
    Overrides = Mapping[str, Any] | Sequence[str]


def run(  # noqa: PLR0913 (the options of the command line)
    model: "Model",
    task: "TaskLike",
    *,
    targets: "Sequence[str | Target] | None" = None,
    recipe: "RecipeLike" = "int8",
    out: "Path | None" = None,
    weights: "Path | None" = None,
    effort: str | None = None,
    overrides: "Overrides" = (),
    verify_on: Sequence[str] = (),
    cache: "Path | None" = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compress a network, convert, race, verify and ship it for every target.

    Args:
        model: an ``nn.Module`` with its weights, a function that returns one (or a dict of
            part name to module), or a name: ``zoo:resnet8``, ``file.py:function`` or
            ``package.module:function``. The object itself is not changed.
        task: the data and their meaning: a ``Task``, a function that returns one, or a
            name: ``digits``, ``data.npz``, ``file.py:function``.
        targets: names or paths of targets, or ``Target`` values; None: the recipe's.
        recipe: the name or path of a recipe, the content of a recipe file, or a ``Recipe``.
        out: the folder for the report and the bundles; None: ``runs/<recipe>``.
        weights: a checkpoint that is loaded into the network.
        effort: ``quick``, ``normal`` or ``thorough``: how much is tried if int8 loses too
            much.
        overrides: changes to the recipe, such as ``{"train.epochs": 3}``.
        verify_on: hosts on which every shipped file is verified too.
        cache: the folder of finished steps; None: ``$EDGEKIT_CACHE``, else the user's.
        fresh: take measurements again, also if they are cached.
        progress: receives progress; None: a bar on a terminal or in a notebook.

    Returns:
        The report, which is also in ``out`` as JSON, Markdown and HTML.

    Raises:
        EdgekitError: something is missing, impossible or failed for all targets; ``fix``
            is what to do. What fails for one target is in the report.
    """
    models, name = _named_model(model)
    task_object, task_name = _named_task(task)
    request = RunRequest(
        recipe=recipe,
        model=name,
        weights=None if weights is None else str(weights),
        task=task_name,
        targets=tuple(targets or ()),
        effort=effort,
        assignments=as_assignments(overrides),
    )
    plan = request.plan()
    plan.require_possible()
    from edgekit.pipeline.run import (
        Options,  # imports numpy and more: the plan is checked first
    )

    folder = pathlib.Path("runs") / plan.recipe.name if out is None else pathlib.Path(out)
    with _progress(progress) as shown:
        options = Options(
            out=folder,
            cache=caches.default_root() if cache is None else pathlib.Path(cache),
            progress=shown,
            fresh=fresh,
            on=tuple(verify_on),
            task=task_object,
            models=models,
        )
        return execute(plan, options)


def execute(plan: Plan, options: "Options") -> Report:
    """Carry out a plan, and write the report as JSON, Markdown and HTML."""
    from edgekit.pipeline import run as pipeline
    from edgekit.rendering.files import write_files

    report = pipeline.run(plan, options)
    write_files(report, options.out)
    return report


def plan(  # noqa: PLR0913 (the options of the command line)
    recipe: "RecipeLike" = "int8",
    *,
    model: "Model | None" = None,
    task: "TaskLike | None" = None,
    targets: "Sequence[str | Target] | None" = None,
    weights: "Path | None" = None,
    effort: str | None = None,
    overrides: "Overrides" = (),
) -> Plan:
    """What ``run`` would do, and everything that is missing or impossible.

    No framework is imported, and nothing is computed. The arguments are those of ``run``.

    Returns:
        The plan. ``plan.problems`` lists what stands in the way, each with its fix;
        ``plan.require_possible()`` raises them as one error.
    """
    model_name = model if isinstance(model, str) or model is None else _label(model)
    task_name = task if isinstance(task, str) or task is None else _label(task)
    request = RunRequest(
        recipe=recipe,
        model=model_name,
        weights=None if weights is None else str(weights),
        task=task_name,
        targets=tuple(targets or ()),
        effort=effort,
        assignments=as_assignments(overrides),
    )
    return request.plan()


def inspect(path: "Path", *, target: "str | Target | None" = None) -> Audit:
    """What a runtime executes in one model file: operators, precision, warnings.

    Args:
        path: a file in one of the formats, such as ``net.onnx`` or ``net.tflite``.
        target: also hold the file against the limits of this target.

    Raises:
        EdgekitError: the file cannot be read, or does not fit the target.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    device = find_target(target) if isinstance(target, str) else target
    return inspect_file(file, device)


def verify(
    bundle: "Path", *, host: str = "local", samples: int | None = None, timed: bool = True
) -> list[EvidenceReport]:
    """Execute a bundle's samples on a host, and judge them by its gates.

    Args:
        bundle: a folder that ``run`` has shipped, such as ``runs/int8/cpu-onnx``.
        host: the name of a host, or ``ssh:address``.
        samples: use only the first ones.
        timed: also measure latency.

    Returns:
        One report for each environment of the host. They are stored in the bundle too.

    Raises:
        BundleError: the bundle is incomplete or was modified.
    """
    from edgekit.bundles import evidence

    return list(evidence.verify(pathlib.Path(bundle), host, samples, timed=timed))


def load_report(folder: "Path") -> Report:
    """Read the report of a finished run from its folder, or from its JSON file.

    Raises:
        ReportError: there is no report, or it is not valid.
    """
    return reports.load(pathlib.Path(folder))


def _named_model(model: "Model") -> tuple[dict[str, Any], str]:
    """The networks that are given as objects, and the name of the model in the recipe."""
    if isinstance(model, str):
        return {}, model
    from edgekit.sources.objects import ModelObject  # imports torch

    wrapped = ModelObject(model)
    return {wrapped.name: wrapped}, wrapped.name


def _named_task(task: "TaskLike") -> tuple[Task | None, str]:
    """The task, if it is given as an object, and its name in the recipe."""
    if isinstance(task, str):
        return None, task
    value = task if isinstance(task, Task) else task()
    if not isinstance(value, Task):
        raise TaskError(
            f"Expected a task, got {type(value).__name__}.",
            fix="give an edgekit.Task, a function that returns one, or a name such as digits",
        )
    return value, f"{OBJECT_PREFIX}{value.name}"


def _label(value: object) -> str:
    name = getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__)
    return f"{OBJECT_PREFIX}{name}"


@contextlib.contextmanager
def _progress(progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    from edgekit.rendering.progress import show_progress

    with show_progress() as shown:
        yield shown
