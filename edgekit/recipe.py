"""The recipe: what to do to a network, never how a backend does it."""

import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import pydantic
import yaml

from edgekit.errors import RecipeError, unknown
from edgekit.scheme import SCHEMES, refused
from edgekit.value import (
    UserConfig,
    check_folder_name,
    load_yaml,
    parse,
    read_yaml,
)

#: The start of the name of a model or a task that was given as an object.
OBJECT_PREFIX = "object:"

#: How much is tried where a candidate fails its gate.
Effort = Literal["quick", "normal", "thorough"]


class Train(UserConfig):
    """Train the network on the task's training data."""

    epochs: int = pydantic.Field(30, ge=1)
    batch_size: int = pydantic.Field(64, ge=1)
    learning_rate: float = pydantic.Field(0.003, gt=0)
    #: Move each image by up to this many pixels, at random. 0: leave the data unchanged.
    shift: int = pydantic.Field(0, ge=0)


class Distill(Train):
    """Train the network on the teacher's outputs (Hinton et al. 2015)."""

    teacher: str
    #: The teacher's checkpoint; without one the teacher is trained first.
    teacher_weights: str | None = None
    teacher_epochs: int = pydantic.Field(30, ge=1)
    temperature: float = pydantic.Field(4.0, gt=0)
    #: Share of the teacher's answer in the loss; the rest is the labels'.
    alpha: float = pydantic.Field(0.7, ge=0, le=1)


class Prune(UserConfig):
    """Remove entire channels, those with the smallest weights first."""

    ratio: float = pydantic.Field(0.5, gt=0, lt=1)
    #: Channels are kept in multiples of this; None: what the targets want.
    multiple: int | None = pydantic.Field(None, ge=1)
    #: Modules (by path) that keep all their channels.
    skip: tuple[str, ...] = ()


class Finetune(Train):
    """Train again after pruning, on the teacher's outputs if the recipe has a teacher."""

    epochs: int = pydantic.Field(10, ge=1)
    learning_rate: float = pydantic.Field(0.001, gt=0)


class Quantize(UserConfig):
    """Quantize: ``auto`` races the schemes of each target; a name asks for that one only."""

    scheme: str = "auto"
    #: How much time may be spent where int8 loses too much: see
    #: ``edgekit.planning.remedies``.
    effort: Effort = "normal"
    #: How many calibration samples are used.
    samples: int = pydantic.Field(256, ge=1)

    @pydantic.field_validator("scheme")
    @classmethod
    def _require_known(cls, name: str) -> str:
        if name != "auto" and name not in SCHEMES:
            if (reason := refused(name)) is not None:
                raise ValueError(reason)
            raise ValueError(unknown("scheme", name, ("auto", *SCHEMES)))
        return name


Kind = Literal["train", "distill", "prune", "finetune", "quantize"]


class Intent(UserConfig):
    """One line under ``compress``: exactly one of its keys is set."""

    train: Train | None = None
    distill: Distill | None = None
    prune: Prune | None = None
    finetune: Finetune | None = None
    quantize: Quantize | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        """``- train`` and ``- train:`` mean ``- train: {}``."""
        if isinstance(data, str):
            return {data: {}}
        if isinstance(data, dict):
            return {
                key: {} if value is None else value
                for key, value in data.items()
            }
        return data

    @pydantic.model_validator(mode="after")
    def _one_key(self) -> "Intent":
        if len(self.model_fields_set) != 1:
            raise ValueError(
                f"an entry holds exactly one of {', '.join(type(self).model_fields)}"
            )
        return self

    @property
    def kind(self) -> Kind:
        """Which intent this is."""
        return cast(Kind, next(iter(self.model_fields_set)))

    @property
    def value(self) -> Any:
        """The intent's own settings: a Train, Distill, Prune, Finetune or Quantize."""
        return getattr(self, self.kind)


class Gates(UserConfig):
    """What a shipped file must hold. None: not asked."""

    #: At most this much lost, in the metric's own unit (0.02 = 2 points of top-1).
    accuracy_drop: float | None = pydantic.Field(None, ge=0)
    #: At least this many times as fast as the float file of the network before pruning, in
    #: the same runtime.
    speedup: float | None = pydantic.Field(None, gt=0)
    #: At least this many times smaller than that file.
    size_ratio: float | None = pydantic.Field(None, gt=0)
    size_bytes: int | None = pydantic.Field(None, gt=0)
    latency_ms: float | None = pydantic.Field(None, gt=0)
    agreement: float | None = pydantic.Field(None, ge=0, le=1)
    int8_mac_share: float | None = pydantic.Field(None, ge=0, le=1)
    float_ops: int | None = pydantic.Field(None, ge=0)
    transposes: int | None = pydantic.Field(None, ge=0)
    tpu_mapped_share: float | None = pydantic.Field(None, ge=0, le=1)
    #: At most this long on an Ethos-U, as Vela estimates it; operators on the CPU are not
    #: in it.
    npu_time_ms: float | None = pydantic.Field(None, gt=0)
    #: At most so many operators that an Ethos-U leaves to the CPU.
    cpu_ops: int | None = pydantic.Field(None, ge=0)
    sram_bytes: int | None = pydantic.Field(None, gt=0)

    def over(self, base: "Gates") -> "Gates":
        """These gates if they are set (also to None), else those of ``base``."""
        own = self.model_dump(exclude_unset=True)
        return Gates(**{**base.model_dump(exclude_unset=True), **own})


class Recipe(UserConfig):
    """What to do to a network. ``model`` and ``task`` may be left to the command line."""

    name: str = "recipe"
    title: str = ""
    model: str | None = None
    weights: str | None = None
    task: str | None = None
    compress: tuple[Intent, ...] = ()
    targets: tuple[str, ...] = ()
    gates: Gates = Gates()
    #: Of everything random; 32 bits, which every library takes.
    seed: int = pydantic.Field(0, ge=0, lt=2**32)

    @pydantic.field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        """Results go to ``runs/<name>`` by default."""
        return check_folder_name(name)

    @pydantic.model_validator(mode="after")
    def _order(self) -> "Recipe":
        kinds = [intent.kind for intent in self.compress]
        if "quantize" in kinds[:-1]:
            raise ValueError(
                "compress: quantize must be the last entry "
                "(a quantized network cannot be trained or pruned)"
            )
        if kinds.count("distill") > 1:
            raise ValueError("compress: only one distill entry is possible")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("targets: a target is named twice")
        return self

    def find(self, kind: Kind) -> Any:
        """The settings of the first intent of this kind, or None."""
        return next(
            (intent.value for intent in self.compress if intent.kind == kind),
            None,
        )


def load(path: pathlib.Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or raise one RecipeError that lists everything wrong with it.

    ``assignments`` are ``key=value`` texts of the command line, such as ``train.epochs=3``
    or ``gates.speedup=2``.
    """
    data = {"name": path.stem, **read_yaml(path, RecipeError)}
    return _parse(data, assignments, str(path))


def from_data(
    data: Mapping[str, Any], assignments: Sequence[str] = ()
) -> Recipe:
    """A recipe from the content of a recipe file. Raises RecipeError like ``load``."""
    return _parse(copy.deepcopy(dict(data)), assignments, "the recipe")


def reassign(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """A recipe with other values. Raises RecipeError like ``load``."""
    if not assignments:
        return recipe
    compress = [
        {intent.kind: intent.value.model_dump(mode="json", exclude_unset=True)}
        for intent in recipe.compress
    ]
    data = recipe.model_dump(
        mode="json", exclude_unset=True, exclude={"compress"}
    )
    return _parse(
        {**data, "compress": compress},
        assignments,
        f"the recipe {recipe.name!r}",
    )


def _parse(
    data: dict[str, Any], assignments: Sequence[str], where: str
) -> Recipe:
    for text in assignments:
        _assign(data, text)
    return parse(Recipe, data, where, RecipeError)


def _assign(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"--set {text!r} is not of the format key=value.",
            fix="for example --set train.epochs=3",
        )
    place: Any = data
    parts = key.split(".")
    if parts[0] in Intent.model_fields:
        place, parts = _intent(data, parts[0], text), parts[1:]
    for part in parts[:-1]:
        place = (
            place[int(part)]
            if isinstance(place, list)
            and part.isdigit()
            and int(part) < len(place)
            else (
                place.setdefault(part, {}) if isinstance(place, dict) else None
            )
        )
    if not isinstance(place, dict) or not parts:
        raise RecipeError(
            f"--set {text!r}: the recipe has no place called {key!r}.",
            fix="name a key of the recipe, such as gates.speedup",
        )
    try:
        place[parts[-1]] = load_yaml(value)
    except yaml.YAMLError as problem:
        raise RecipeError(
            f"--set {text!r}: the value cannot be read as YAML.",
            fix="check its brackets and quotes",
        ) from problem


def _intent(data: dict[str, Any], kind: str, text: str) -> Any:
    """The settings of the first ``kind`` entry of ``compress``, made writable in ``data``."""
    entries: Any = data.get("compress")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if entry == kind or (isinstance(entry, dict) and kind in entry):
            settings = entry.get(kind) if isinstance(entry, dict) else None
            entries[index] = {kind: settings or {}}
            return entries[index][kind]
    raise RecipeError(
        f"--set {text!r}: the recipe has no {kind!r} entry under compress.",
        fix=f"add '- {kind}: {{}}' to the recipe",
    )
