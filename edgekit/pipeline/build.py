"""Carries out planned steps: one contract, one cache.

A step that was done before, with the same inputs, is not done again. A cached step is not
even imported, so a run from the cache needs no framework.
"""

import dataclasses
import importlib.metadata
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.artifact import Artifact
from edgekit.cache import Cache, digest, file_digest
from edgekit.contracts import Context, Source, Step
from edgekit.errors import ModelError, StepError, TaskError
from edgekit.pipeline.code_identity import PACKAGE, code_digest
from edgekit.planning.routes import PlannedStep
from edgekit.progress import Progress
from edgekit.sources.loader import fingerprint, network_builder
from edgekit.task import Task, identity
from edgekit.value import Value

if TYPE_CHECKING:
    from edgekit.contracts import Networks
    from edgekit.sources.objects import ModelObject

#: The step that starts a chain. Its key also covers the files that the model comes from.
LOAD = "load_model"


class StepFacts(Value):
    """What a step's class declares, as far as its cache key needs it."""

    version: int
    packages: tuple[str, ...]
    reads: tuple[str, ...]
    defaults: Mapping[str, Any]


class Build:
    """The steps of one run, on one task, with one cache.

    Attributes:
        teacher: the trained teacher, once ``teach`` has run.
        described: what the task reports about itself; hashing its data takes time, so that
            is done once.
    """

    def __init__(
        self,
        task: Task,
        cache: Cache,
        progress: Progress,
        seed: int,
        models: "Mapping[str, ModelObject] | None" = None,
    ) -> None:
        """``models`` are networks that were given as objects, by the name in the recipe."""
        self.task = task
        self.cache = cache
        self.progress = progress
        self.seed = seed
        self.teacher: Artifact | None = None
        self.described = task.describe()
        self._teacher_spec: str | None = None
        self._models = dict(models or {})

    def follow(
        self, model: str, start: Artifact | None, steps: Sequence[PlannedStep]
    ) -> list[Artifact]:
        """Do the steps in order, each on the result of the one before; return all results."""
        results: list[Artifact] = []
        for planned in steps:
            start = self._do(model, start, planned)
            results.append(start)
        return results

    def teach(self, model: str, steps: Sequence[PlannedStep]) -> list[Artifact]:
        """Train the teacher that later steps learn from."""
        results = self.follow(model, None, steps)
        self.teacher = results[-1]
        self._teacher_spec = model
        return results

    def networks(self, model: str) -> "Networks":
        """A function that builds fresh networks of a model, for the task's data."""
        if model in self._models:
            return self._models[model].networks
        inputs = self.task.need("test", "the model").inputs
        shape = next(iter(inputs.values())).shape
        channels = shape[1] if len(shape) > 1 else None
        return network_builder(model, channels, self.task.classes)

    def _do(
        self, model: str, start: Artifact | None, planned: PlannedStep
    ) -> Artifact:
        parameters = self._parameters(planned, model)
        key = self._key(planned.step, parameters, start, model)
        self.progress.start(planned.intent)
        cached = self.cache.find(key)
        if cached is not None:
            self.progress.finish("cached")
            return cached
        step = registry.STEPS.load(planned.step)(**parameters)
        if start is not None:
            _require_format(planned.step, step, start)
            step.requires(start)
        parent = None if start is None else start.key
        result = self.cache.build(
            key,
            parent,
            planned.step,
            lambda folder: self._run(step, start, model, folder),
        )
        self.progress.finish()
        return result

    def _run(
        self,
        step: Any,
        start: Artifact | None,
        model: str,
        folder: pathlib.Path,
    ) -> Artifact:
        teacher = self._teacher_spec
        context = Context(
            folder=folder,
            networks=self.networks(model),
            task=self.task,
            seed=self.seed,
            progress=self.progress,
            teacher=self.teacher,
            teacher_networks=None
            if teacher is None
            else self.networks(teacher),
        )
        if start is None:
            source: Source = step
            result = source.run(None, context)
            _require_promise(step, result)
            source.ensures(None, result)
            return result
        chained: Step = step
        result = chained.run(start, context)
        _require_promise(step, result)
        chained.ensures(start, result)
        return result

    def _parameters(self, planned: PlannedStep, model: str) -> dict[str, Any]:
        parameters = dict(planned.parameters)
        if planned.step == LOAD:
            weights = parameters["weights"]
            parameters["weights_sha256"] = (
                None if weights is None else _hash_weights(weights)
            )
            parameters["fingerprint"] = self._fingerprint(model)
        return parameters

    def _fingerprint(self, model: str) -> str:
        if model in self._models:
            return self._models[model].fingerprint
        return fingerprint(model)

    def _key(
        self,
        name: str,
        parameters: Mapping[str, Any],
        start: Artifact | None,
        model: str,
    ) -> str:
        task, facts = self.task, self._facts(name)
        inputs = task.need("test", "the model").inputs
        shapes = {
            key: [str(each.dtype), list(each.shape[1:])]
            for key, each in inputs.items()
        }
        splits = self.described["splits"]
        reads = facts.reads
        learns = "teacher" in reads and self.teacher is not None
        return digest(
            {
                "step": name,
                "version": facts.version,
                "parameters": {**facts.defaults, **parameters},
                "parent": None if start is None else start.key,
                "model": model if start is None else None,
                "task": [shapes, task.classes],
                "data": {
                    split: splits[split] for split in reads if split in splits
                },
                "loss": identities(task, task.loss)
                if "train" in reads
                else None,
                "metric": identities(task, task.metric)
                if "metric" in reads
                else None,
                "teacher": self.teacher.key
                if learns and self.teacher
                else None,
                "seed": self.seed,
                "packages": versions(facts.packages),
                "code": code_digest(registry.STEPS.module(name)),
            }
        )

    def _facts(self, name: str) -> StepFacts:
        """A step's facts, from the cache if its code has not changed since."""
        module = registry.STEPS.module(name)
        if module.partition(".")[0] != PACKAGE:
            return _read_facts(name)
        key = digest(
            {
                "facts": registry.STEPS.entry(name).where,
                "code": code_digest(module),
            }
        )
        facts = self.cache.record(
            key, lambda: _read_facts(name).model_dump(mode="json")
        )
        return StepFacts.model_validate(facts)


def follow_candidate(
    build: Build, model: str, start: Artifact, steps: Sequence[PlannedStep]
) -> Artifact:
    """The result of a candidate's steps; an error is also reported to the progress."""
    try:
        return build.follow(model, start, steps)[-1]
    except (StepError, ModelError, TaskError):
        build.progress.finish("failed")
        raise


def identities(task: Task, what: Any) -> list[str | None]:
    """What a loss or a metric is: its own text, and the code of the task's file."""
    return [identity(what), task.origin.get("code")]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution, or ``none``.

    A program on the PATH, written ``tool:NAME``, is identified by its file's hash.
    """
    return {name: _version(name) for name in packages}


def _version(name: str) -> str:
    if name.startswith("tool:"):
        path = shutil.which(name.removeprefix("tool:"))
        return "none" if path is None else file_digest(pathlib.Path(path))
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _read_facts(name: str) -> StepFacts:
    step = registry.STEPS.load(name)
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(step)
        if field.default is not dataclasses.MISSING
    }
    return StepFacts(
        version=step.version,
        packages=step.packages,
        reads=step.reads,
        defaults=defaults,
    )


def _require_format(name: str, step: Step, start: Artifact) -> None:
    if start.format not in step.takes:
        raise StepError(
            f"The step {name} accepts {' or '.join(step.takes)}, not {start.format}.",
            fix="report this as a bug of the plan",
        )


def _require_promise(step: Step | Source, result: Artifact) -> None:
    if result.format != step.gives:
        name = type(step).__name__
        raise StepError(
            f"{name} must produce the format {step.gives}, got {result.format}.",
            fix="report this as a bug of the step",
        )


def _hash_weights(weights: str) -> str:
    try:
        return file_digest(pathlib.Path(weights))
    except OSError as problem:
        raise ModelError(
            f"The weights {weights} cannot be read: {problem.strerror}.",
            fix="check the path given with --weights",
        ) from problem
