"""Carries out planned steps: one contract, one cache.

A step that was done before, with the same inputs, is not done again.
"""

import importlib.metadata
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.artifact import Artifact
from edgekit.cache import Cache, digest, file_digest
from edgekit.contracts import Context, Step
from edgekit.errors import EdgekitError, ModelError, StepError, TaskError
from edgekit.pipeline.code_identity import code_digest
from edgekit.planning.routes import PlannedStep
from edgekit.progress import Progress
from edgekit.sources.loader import fingerprint, network_factory
from edgekit.task import Task, identity

if TYPE_CHECKING:
    from edgekit.contracts import Networks


class Build:
    """One run's way through its steps."""

    def __init__(self, task: Task, cache: Cache, progress: Progress, seed: int) -> None:
        self.task = task
        self.cache = cache
        self.progress = progress
        self.seed = seed
        self.teacher: Artifact | None = None
        self._teacher_spec: str | None = None
        #: What the task says of itself; hashing its data takes time, so it is asked once.
        self.described = task.describe()

    def follow(
        self, model: str, start: Artifact | None, steps: Sequence[PlannedStep]
    ) -> list[Artifact]:
        """Do the steps in order, each on what the one before it gave; all the artifacts, in
        order.
        """
        done: list[Artifact] = []
        for planned in steps:
            start = self._one(model, start, planned)
            done.append(start)
        return done

    def teach(self, model: str, steps: Sequence[PlannedStep]) -> list[Artifact]:
        """Make the teacher that later steps learn from."""
        made = self.follow(model, None, steps)
        self.teacher, self._teacher_spec = made[-1], model
        return made

    def networks(self, model: str) -> "Networks":
        """The way to make fresh networks of a model, with as many channels and classes as
        the task has.
        """
        shapes = [
            array.shape for array in self.task.need("test", "the model").inputs.values()
        ]
        return network_factory(
            model, shapes[0][1] if len(shapes[0]) > 1 else None, self.task.classes
        )

    def _one(self, model: str, start: Artifact | None, planned: PlannedStep) -> Artifact:
        step = self._step(planned, model)
        key = self._key(step, planned.step, start, model)
        self.progress.start(planned.intent)
        found = self.cache.find(key)
        if found is not None:
            self.progress.finish("cached")
            return found
        if start is not None:
            _refuse_format(planned.step, step, start)
            step.requires(start)
        made = self.cache.build(
            key,
            None if start is None else start.key,
            planned.step,
            lambda folder: self._made(step, start, model, folder),
        )
        self.progress.finish()
        return made

    def _made(
        self, step: Step, start: Artifact | None, model: str, folder: pathlib.Path
    ) -> Artifact:
        teacher = self._teacher_spec
        context = Context(
            folder=folder,
            networks=self.networks(model),
            task=self.task,
            seed=self.seed,
            progress=self.progress,
            teacher=self.teacher,
            teacher_networks=None if teacher is None else self.networks(teacher),
        )
        made = step.run(start, context)  # type: ignore[arg-type]  # the first step starts from nothing
        if made.format != step.gives:
            raise StepError(
                f"{type(step).__name__} promised the format {step.gives} and gave {made.format}. This is a fault of the step."
            )
        step.ensures(start, made)  # type: ignore[arg-type]
        return made

    def _step(self, planned: PlannedStep, model: str) -> Step:
        parameters = dict(planned.parameters)
        if planned.step == "load_model":
            weights = parameters["weights"]
            parameters |= {
                "weights_sha256": None if weights is None else _weights_digest(weights),
                "fingerprint": fingerprint(model),
            }
        step: Step = registry.STEPS.load(planned.step)(**parameters)
        return step

    def _key(self, step: Step, name: str, start: Artifact | None, model: str) -> str:
        task = self.task
        shapes = {
            key: [str(array.dtype), list(array.shape[1:])]
            for key, array in task.need("test", "the model").inputs.items()
        }
        trains = "train" in step.reads
        return digest(
            {
                "step": name,
                "version": step.version,
                "parameters": _parameters(step),
                "parent": None if start is None else start.key,
                "model": model if start is None else None,
                "task": [shapes, task.classes],
                "data": {split: self.described["splits"][split] for split in step.reads},
                "loss": identities(task, task.loss) if trains else None,
                "metric": identities(task, task.metric)
                if getattr(step, "scored", False)
                else None,
                "teacher": self.teacher.key
                if name == "distill" and self.teacher is not None
                else None,
                "seed": self.seed,
                "packages": versions(step.packages),
                "code": code_digest(type(step).__module__),
            }
        )


def identities(task: Task, what: Any) -> list[str | None]:
    """What a loss or a metric is: its own text, and the code of the file that the task came
    from.
    """
    return [identity(what), task.origin.get("code")]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution, ``none`` where it is not installed; a
    program (``tool:NAME``) by its file's hash.
    """
    found = {}
    for name in packages:
        if name.startswith("tool:"):
            path = shutil.which(name.removeprefix("tool:"))
            found[name] = "none" if path is None else file_digest(pathlib.Path(path))
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def try_follow(
    build: Build, model: str, start: Artifact, steps: Sequence[PlannedStep]
) -> Artifact | EdgekitError:
    """The last artifact, or the error that stopped the way to it: one candidate's failure
    is not the run's.
    """
    try:
        return build.follow(model, start, steps)[-1]
    except (StepError, ModelError, TaskError) as error:
        build.progress.finish("failed")
        return error


def _parameters(step: Step) -> Mapping[str, Any]:
    return {name: getattr(step, name) for name in step.__dataclass_fields__}  # type: ignore[attr-defined]


def _refuse_format(name: str, step: Step, start: Artifact) -> None:
    if start.format not in step.takes:
        raise StepError(
            f"The step {name} takes {' or '.join(step.takes)}, not {start.format}. This is a fault of the plan."
        )


def _weights_digest(weights: str) -> str:
    try:
        return file_digest(pathlib.Path(weights))
    except OSError as problem:
        raise ModelError(
            f"The weights {weights} cannot be read: {problem.strerror}.",
            fix="check the path given with --weights",
        ) from problem
