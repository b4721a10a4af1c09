"""The Python API: the same as the command line, on objects.

>>> import edgekit
>>> report = edgekit.run("zoo:cnn", "digits", targets=["cpu-onnx"])  # doctest: +SKIP
>>> report.target("cpu-onnx").winner  # doctest: +SKIP
'w8a8-static'
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from edgekit import cache as caches
from edgekit import report as reports
from edgekit.contracts import Audit
from edgekit.errors import TaskError, unknown
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


class PlanOptions(TypedDict, total=False):
    """What ``plan`` and ``run`` accept besides their own arguments.

    Attributes:
        weights: a checkpoint that is loaded into the network.
        effort: ``quick``, ``normal`` or ``thorough``: how much is tried if int8 loses too
            much.
        overrides: changes to the recipe, such as ``{"train.epochs": 3}``.
    """

    weights: "Path | None"
    effort: str | None
    overrides: "Overrides"


class RunOptions(PlanOptions, total=False):
    """What ``run`` accepts besides its own arguments.

    Attributes:
        verify_on: hosts on which every shipped file is verified too.
        cache: the folder of finished steps; by default ``$EDGEKIT_CACHE``, else the user's.
        fresh: take measurements again, also if they are cached.
        progress: receives progress; by default a bar on a terminal or in a notebook.
    """

    verify_on: Sequence[str]
    cache: "Path | None"
    fresh: bool
    progress: Progress | None


def run(
    model: "Model",
    task: "TaskLike",
    *,
    targets: "Sequence[str | Target] | None" = None,
    recipe: "RecipeLike" = "int8",
    out: "Path | None" = None,
    **options: Unpack[RunOptions],
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
        **options: ``weights``, ``effort``, ``overrides``, ``verify_on``, ``cache``,
            ``fresh`` and ``progress``; see ``RunOptions``.

    Returns:
        The report, which is also in ``out`` as JSON, Markdown and HTML.

    Raises:
        EdgekitError: something is missing, impossible or failed for all targets; ``fix``
            is what to do. What fails for one target is in the report.
    """
    _require_known(options, RunOptions)
    models, name = _named_model(model)
    task_object, task_name = _named_task(task)
    planned = _request(recipe, name, task_name, targets, options).plan()
    planned.require_possible()
    # Imports numpy and more: only now is the plan known to be possible.
    from edgekit.pipeline.run import Options

    folder = (
        pathlib.Path("runs") / planned.recipe.name
        if out is None
        else pathlib.Path(out)
    )
    cache = options.get("cache")
    with _show_progress(options.get("progress")) as progress:
        settings = Options(
            out=folder,
            cache=caches.default_root()
            if cache is None
            else pathlib.Path(cache),
            progress=progress,
            fresh=options.get("fresh", False),
            on=tuple(options.get("verify_on", ())),
            task=task_object,
            models=models,
        )
        return execute(planned, settings)


def execute(plan: Plan, options: "Options") -> Report:
    """Carry out a plan, and write the report as JSON, Markdown and HTML."""
    from edgekit.pipeline import run as pipeline
    from edgekit.rendering.files import write_files

    report = pipeline.run(plan, options)
    write_files(report, options.out)
    return report


def plan(
    recipe: "RecipeLike" = "int8",
    *,
    model: "Model | None" = None,
    task: "TaskLike | None" = None,
    targets: "Sequence[str | Target] | None" = None,
    **options: Unpack[PlanOptions],
) -> Plan:
    """What ``run`` would do, and everything that is missing or impossible.

    No framework is imported, and nothing is computed. The arguments are those of ``run``.

    Returns:
        The plan. ``plan.problems`` lists what prevents a run, each with its fix;
        ``plan.require_possible()`` raises them as one error.
    """
    _require_known(options, PlanOptions)
    model_name = (
        model if isinstance(model, str) or model is None else _label(model)
    )
    task_name = task if isinstance(task, str) or task is None else _label(task)
    return _request(recipe, model_name, task_name, targets, options).plan()


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
    bundle: "Path",
    *,
    host: str = "local",
    samples: int | None = None,
    timed: bool = True,
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

    return list(
        evidence.verify(pathlib.Path(bundle), host, samples, timed=timed)
    )


def load_report(folder: "Path") -> Report:
    """Read the report of a finished run from its folder, or from its JSON file.

    Raises:
        ReportError: there is no report, or it is not valid.
    """
    return reports.load(pathlib.Path(folder))


def _request(
    recipe: "RecipeLike",
    model: str | None,
    task: str | None,
    targets: "Sequence[str | Target] | None",
    options: PlanOptions,
) -> RunRequest:
    weights = options.get("weights")
    return RunRequest(
        recipe=recipe,
        model=model,
        weights=None if weights is None else str(weights),
        task=task,
        targets=tuple(targets or ()),
        effort=options.get("effort"),
        assignments=as_assignments(options.get("overrides", ())),
    )


def _require_known(options: Mapping[str, object], accepted: type) -> None:
    """Raise a TypeError with the nearest name for an option that does not exist."""
    names = accepted.__annotations__
    for name in options:
        if name not in names:
            raise TypeError(unknown("option", name, names))


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
    name = getattr(value, "name", None) or getattr(
        value, "__name__", type(value).__name__
    )
    return f"{OBJECT_PREFIX}{name}"


@contextlib.contextmanager
def _show_progress(progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    from edgekit.rendering.progress import show_progress

    with show_progress() as shown:
        yield shown
