"""Input channels of linear layers that are far larger than the others, found by running the
float file on calibration data.

One such channel sets the scale of its whole row, and all other numbers of the row are left
with a few steps (Dettmers et al. 2022). The error of a rounded row goes with the square of
its largest value; channels are taken out, largest first, as long as that helps much.
"""

from collections.abc import Iterator, Mapping

import numpy
import onnx
import onnxruntime

from edgekit.artifact import Artifact, Part, chain
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.graph import Array
from edgekit.task import Split

#: Taking channels out must lower the mean error of the rows by a third, else all stay.
_WORTH = 1.5
#: As few channels as come this close to what the largest number of them would gain.
_CLOSE = 1.1
#: By part, then by tensor: the number that the tensor is never below, or None where it has
#: none.
Wanted = Mapping[str, Mapping[str, float | None]]


def find(
    artifact: Artifact, wanted: Wanted, split: Split, most: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The channels of each wanted tensor to leave in float, at most ``most``; tensors
    without any are left out. Memory does not grow with the samples.
    """
    found: dict[str, dict[str, tuple[int, ...]]] = {}

    def call(part: Part, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        run = _Run(artifact, part, wanted[part.name], feeds)
        found[part.name] = run.outliers(most)
        return run.outputs()

    chain(artifact.parts, call, dict(split.inputs))
    return found


def choose(errors: Array) -> int:
    """How many channels to take out.

    ``errors[k]`` is the mean square of the rows' largest values without the k largest
    channels.
    """
    if not errors[0] > _WORTH * errors[-1]:
        return 0
    return int(numpy.argmax(errors <= _CLOSE * errors[-1]))


class _Run:
    """One part, run sample by sample, with the wanted tensors as further outputs."""

    def __init__(
        self,
        artifact: Artifact,
        part: Part,
        wanted: Mapping[str, float | None],
        feeds: Mapping[str, Array],
    ) -> None:
        self.part, self.wanted, self.feeds = part, wanted, feeds
        model = onnx_graph.read(artifact.path(part))
        own = {value.name for value in (*model.graph.input, *model.graph.output)}
        self.inner = [name for name in wanted if name not in own]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in self.inner
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # sums in one order, whatever the machine
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def outliers(self, most: int) -> dict[str, tuple[int, ...]]:
        if not self.wanted:
            return {}
        peaks: dict[str, Array] = {}
        for name, rows in self._rows():
            highest = rows.max(axis=0)
            peaks[name] = numpy.maximum(peaks[name], highest) if name in peaks else highest
        self._refuse_bad(peaks)
        order = {
            name: numpy.argsort(-peak, kind="stable")[:most] for name, peak in peaks.items()
        }
        sums = {name: numpy.zeros(len(channels) + 1) for name, channels in order.items()}
        for name, rows in self._rows():
            for count in range(len(sums[name])):
                sums[name][count] += numpy.square(
                    rows.max(axis=1), dtype=numpy.float64
                ).sum()
                if count < len(order[name]):
                    rows[:, order[name][count]] = 0
        chosen = {name: order[name][: choose(sums[name])] for name in sums}
        return {
            name: tuple(sorted(int(channel) for channel in channels))
            for name, channels in chosen.items()
            if len(channels)
        }

    def outputs(self) -> dict[str, Array]:
        names = [spec.name for spec in self.part.signature.outputs]
        made = [self.session.run(names, feeds) for feeds in self._samples()]
        return {
            name: numpy.concatenate([row[index] for row in made])
            for index, name in enumerate(names)
        }

    def _rows(self) -> Iterator[tuple[str, Array]]:
        """Each wanted tensor of each sample as rows of magnitudes: how far every number is
        from zero, or from the floor.
        """
        for feeds in self._samples():
            values = (
                dict(zip(self.inner, self.session.run(self.inner, feeds), strict=True))
                if self.inner
                else {}
            )
            for name, floor in self.wanted.items():
                value = values.get(name, feeds.get(name))
                if value is not None and value.ndim > 1:
                    yield (
                        name,
                        numpy.abs(
                            value.reshape(-1, value.shape[-1]) - numpy.float32(floor or 0)
                        ),
                    )

    def _samples(self) -> Iterator[dict[str, Array]]:
        specs = self.part.signature.inputs
        for index in range(len(self.feeds[specs[0].name])):
            yield {
                spec.name: spec.encode(self.feeds[spec.name][index : index + 1])
                for spec in specs
            }

    def _refuse_bad(self, peaks: Mapping[str, Array]) -> None:
        if not all(numpy.isfinite(peak).all() for peak in peaks.values()):
            told = f"{self.part.name} computes NaN or infinity on the calibration data."
            raise StepError(
                told,
                fix="take such samples out of the task's calibration data, or mend the network",
            )
