"""What both ways to a TensorRT engine have in common: the GPUs, how large a batch may be,
and which graphs they take.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from edgekit.artifact import Artifact
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt.graph import refuse, refuse_old
from edgekit.formats.tensorrt.nvidia import capability


@dataclasses.dataclass(frozen=True)
class Batches:
    """The GPUs, and the batches of a graph whose batch is free: 1 to ``max_batch`` samples,
    tuned for ``opt_batch``.

    ``profiles`` are further [min, opt, max], tuned apart; the batch is the only dimension
    that our exports leave free.
    """

    compute_capabilities: Sequence[str] = ()
    max_batch: int = 16
    opt_batch: int = 1
    profiles: Sequence[Sequence[int]] = ()

    step: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "compute_capabilities",
            tuple(
                dict.fromkeys(self._capability(name) for name in self.compute_capabilities)
            ),
        )
        object.__setattr__(self, "profiles", tuple(tuple(row) for row in self.profiles))
        wrong = [
            f"profile {list(row)}"
            for row in self.batches
            if len(row) != 3 or not 1 <= row[0] <= row[1] <= row[2]
        ]
        if wrong:
            told = f"{self.step}: min <= opt <= max does not hold, or a batch is below 1, in {', '.join(wrong)}."
            raise StepError(
                told,
                fix="give max_batch at least 1, opt_batch at most max_batch, and profiles as [min, opt, max]",
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
            refuse(graph, part.name, self.step)
            refuse_old(graph, part.name, self.compute_capabilities)

    def _capability(self, name: str) -> str:
        """``SM86`` for SM86, sm_86, 86 and 8.6."""
        number = capability(name)
        if number is None:
            raise StepError(
                f"{self.step}: {name!r} is not a compute capability.",
                fix="write it as SM86 or 8.6",
            )
        return f"SM{number}"
