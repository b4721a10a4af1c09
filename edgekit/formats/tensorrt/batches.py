"""The fields that both TensorRT steps share: the GPUs, the batches, and the graphs that they
accept.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from edgekit.artifact import Artifact
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt.graph import (
    require_capabilities,
    require_supported,
)
from edgekit.formats.tensorrt.nvidia import parse_capability


@dataclasses.dataclass(frozen=True)
class Batches:
    """The GPUs, and the batches of a graph with a free batch: 1 to ``max_batch`` samples,
    tuned for ``opt_batch``.

    ``profiles`` are further [min, opt, max], tuned separately; the batch is the only
    dimension that edgekit's exports leave free. Raises StepError for an invalid compute
    capability or profile.
    """

    compute_capabilities: Sequence[str] = ()
    max_batch: int = 16
    opt_batch: int = 1
    profiles: Sequence[Sequence[int]] = ()

    step: ClassVar[str] = ""

    def __post_init__(self) -> None:
        capabilities = [
            self._normalize(name) for name in self.compute_capabilities
        ]
        unique = tuple(dict.fromkeys(capabilities))
        object.__setattr__(self, "compute_capabilities", unique)
        object.__setattr__(
            self, "profiles", tuple(tuple(row) for row in self.profiles)
        )
        invalid = [
            f"profile {list(row)}"
            for row in self.batches
            if len(row) != 3 or not 1 <= row[0] <= row[1] <= row[2]
        ]
        if invalid:
            raise StepError(
                f"{self.step}: expected 1 <= min <= opt <= max, got {', '.join(invalid)}.",
                fix="set max_batch to at least 1, opt_batch to at most max_batch, and profiles "
                "as [min, opt, max]",
            )

    @property
    def batches(self) -> tuple[Sequence[int], ...]:
        """[min, opt, max] of every profile."""
        return ((1, self.opt_batch, self.max_batch), *self.profiles)

    def requires(self, artifact: Artifact) -> None:
        """The graph is float, half float, symmetric int8, fp8 or has 4-bit weights, only
        its batch is free, and the GPUs have its arithmetic.
        """
        for part in artifact.parts:
            graph = onnx_graph.read(artifact.path(part)).graph
            require_supported(graph, part.name, self.step)
            require_capabilities(graph, part.name, self.compute_capabilities)

    def _normalize(self, name: str) -> str:
        """``SM86`` for SM86, sm_86, 86 and 8.6."""
        number = parse_capability(name)
        if number is None:
            raise StepError(
                f"{self.step}: {name!r} is not a compute capability.",
                fix="write it as SM86 or 8.6",
            )
        return f"SM{number}"
