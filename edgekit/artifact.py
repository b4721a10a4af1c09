"""A model at rest: one or more parts, each with its files and signature.

An artifact never changes once it is sealed.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import pydantic

from edgekit.errors import unknown
from edgekit.formats import FORMATS
from edgekit.signature import Signature, TensorSpec
from edgekit.value import Value

#: The format of a network that is still PyTorch's; it has no record.
TORCH = "torch"


def _known_format(name: str) -> str:
    names = (TORCH, *FORMATS)
    if name not in names:
        raise ValueError(unknown("format", name, names))
    return name


#: The name of a format: ``torch``, or one of ``edgekit.formats.FORMATS``.
FormatName = Annotated[str, pydantic.AfterValidator(_known_format)]
#: The name of the only part of a model that has one.
MAIN = "main"
#: What a runtime loads for one part: the file ``model``, and the file ``weights`` of formats
#: that store the weights separately.
LOADED_ROLES = ("model", "weights")

T = TypeVar("T")


class File(Value):
    """One file of a part: its name inside the artifact's folder, and its hash and size once
    the artifact is sealed.
    """

    path: str
    sha256: str = ""
    bytes: int = 0

    @pydantic.field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if (
            not path
            or path.startswith(".")
            or "/" in path
            or "\\" in path
            or path == "manifest.json"
        ):
            raise ValueError(
                f"{path!r} is not the name of a file inside the artifact's folder"
            )
        return path


class Part(Value):
    """One network of a model (an encoder, a decoder, a tower).

    Most models have one, called ``main``.
    """

    name: str
    signature: Signature
    #: role -> file. A runtime loads ``model``, together with ``weights`` if there is such a
    #: file; a torch part has no ``model``.
    files: dict[str, File]

    @property
    def loaded_files(self) -> dict[str, File]:
        """The files that a runtime loads, by role; all files of a part without ``model``."""
        if "model" not in self.files:
            return self.files
        return {
            role: self.files[role]
            for role in LOADED_ROLES
            if role in self.files
        }


class Artifact(Value):
    """A model in one format.

    ``folder`` holds the files; ``notes`` what the step adds to the report.
    """

    format: FormatName
    parts: tuple[Part, ...] = pydantic.Field(min_length=1)
    step: str = ""
    key: str = ""
    parent: str | None = None
    notes: dict[str, Any] = pydantic.Field(default_factory=dict)
    folder: pathlib.Path = pydantic.Field(default=pathlib.Path(), exclude=True)

    @pydantic.model_validator(mode="after")
    def _names_differ(self) -> "Artifact":
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(
                f"two parts have the same name: {', '.join(names)}"
            )
        return self

    def path(self, part: Part, role: str = "model") -> pathlib.Path:
        """The path of one file of a part."""
        return self.folder / part.files[role].path

    def part(self, name: str) -> Part:
        """The part called ``name``."""
        return next(part for part in self.parts if part.name == name)

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that a runtime loads."""
        return sum(
            file.bytes
            for part in self.parts
            for file in part.loaded_files.values()
        )


def chain(
    parts: Iterable[Part],
    call: Callable[[Part, Mapping[str, T]], Mapping[str, T]],
    feeds: Mapping[str, T],
) -> dict[str, T]:
    """Run the parts in order and return the model's outputs (see ``outputs_of``).

    Each part is fed by name, from the data and from the outputs of the parts before it.
    ``call(part, feeds)`` runs one part.
    """
    values = dict(feeds)
    parts = tuple(parts)
    for part in parts:
        names = [
            spec.name for spec in part.signature.inputs if spec.name in values
        ]
        values.update(call(part, {name: values[name] for name in names}))
    return {spec.name: values[spec.name] for spec in outputs_of(parts)}


def outputs_of(parts: Sequence[Part]) -> tuple[TensorSpec, ...]:
    """The outputs of the entire model: those that no later part reads.

    Both outputs of a model with two towers are among them.
    """
    outputs: list[TensorSpec] = []
    for index, part in enumerate(parts):
        read_later: set[str] = set()
        for later in parts[index + 1 :]:
            read_later.update(spec.name for spec in later.signature.inputs)
        outputs += [
            spec
            for spec in part.signature.outputs
            if spec.name not in read_later
        ]
    return tuple(outputs)
