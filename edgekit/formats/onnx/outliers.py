"""Find the input channels of linear layers that are far larger than the others, by running
the float file on calibration data.

One such channel sets the scale of its entire row, and all other numbers of the row are left
with a few steps (Dettmers et al. 2022). The error of a rounded row grows with the square of
its largest value; channels are taken out, largest first, as long as that helps much.
"""

from collections.abc import Iterator, Mapping

import numpy
import onnx
import onnxruntime

from edgekit.arrays import Array, Feeds
from edgekit.artifact import Artifact, Part, chain
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.task import Split

#: Taking channels out must lower the mean error of the rows by a third, else all stay.
_WORTH = 1.5
#: As few channels as come this close to what the largest number of them would gain.
_CLOSE = 1.1
#: The tensors to examine by part, each with the number that it is never below, or None if it
#: has none.
Floors = Mapping[str, Mapping[str, float | None]]


def find(
    artifact: Artifact, floors: Floors, split: Split, most: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the channels of each tensor to leave in float, at most ``most``, by part.

    Tensors without any are left out. Memory does not grow with the samples. Raises StepError
    if a tensor holds NaN or infinity.
    """
    channels: dict[str, dict[str, tuple[int, ...]]] = {}

    def call(part: Part, feeds: Feeds) -> Feeds:
        run = _Run(artifact, part, floors[part.name], feeds)
        channels[part.name] = run.outliers(most)
        return run.outputs()

    chain(artifact.parts, call, dict(split.inputs))
    return channels


def choose(errors: Array) -> int:
    """Return how many channels to take out.

    ``errors[k]`` is the mean square of the rows' largest values without the k largest
    channels.
    """
    if not errors[0] > _WORTH * errors[-1]:
        return 0
    return int(numpy.argmax(errors <= _CLOSE * errors[-1]))


class _Run:
    """One part, run sample by sample, with the tensors to examine as further outputs."""

    def __init__(
        self,
        artifact: Artifact,
        part: Part,
        floors: Mapping[str, float | None],
        feeds: Feeds,
    ) -> None:
        self.part = part
        self.floors = floors
        self.feeds = feeds
        model = onnx_graph.read(artifact.path(part))
        ends = {
            value.name for value in (*model.graph.input, *model.graph.output)
        }
        self.inner = [name for name in floors if name not in ends]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(
                name, onnx.TensorProto.FLOAT, None
            )
            for name in self.inner
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = (
            1  # sums in one order, whatever the machine
        )
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )

    def outliers(self, most: int) -> dict[str, tuple[int, ...]]:
        """Return the channels to leave in float; two passes over the samples."""
        largest_first = {
            name: numpy.argsort(-peak, kind="stable")[:most]
            for name, peak in self._peaks().items()
        }
        outliers = {}
        for name, errors in self._errors(largest_first).items():
            channels = largest_first[name][: choose(errors)]
            if len(channels):
                outliers[name] = tuple(
                    sorted(int(channel) for channel in channels)
                )
        return outliers

    def outputs(self) -> dict[str, Array]:
        """Run all samples and return the part's outputs."""
        names = [spec.name for spec in self.part.signature.outputs]
        results = [self.session.run(names, feeds) for feeds in self._samples()]
        return {
            name: numpy.concatenate([values[position] for values in results])
            for position, name in enumerate(names)
        }

    def _peaks(self) -> dict[str, Array]:
        """The largest magnitude of each channel."""
        peaks: dict[str, Array] = {}
        for name, rows in self._rows():
            highest = rows.max(axis=0)
            peaks[name] = (
                numpy.maximum(peaks[name], highest)
                if name in peaks
                else highest
            )
        if not all(numpy.isfinite(peak).all() for peak in peaks.values()):
            raise StepError(
                f"{self.part.name} computes NaN or infinity on the calibration data.",
                fix="remove such samples from the task's calibration data, or correct the"
                " network",
            )
        return peaks

    def _errors(self, largest_first: Mapping[str, Array]) -> dict[str, Array]:
        """The sum of squares of the rows' largest values, without the k largest channels."""
        sums = {
            name: numpy.zeros(len(order) + 1)
            for name, order in largest_first.items()
        }
        for name, rows in self._rows():
            for count in range(len(sums[name])):
                peaks = rows.max(axis=1)
                sums[name][count] += numpy.square(
                    peaks, dtype=numpy.float64
                ).sum()
                if count < len(largest_first[name]):
                    rows[:, largest_first[name][count]] = 0
        return sums

    def _rows(self) -> Iterator[tuple[str, Array]]:
        """Yield each tensor of each sample as rows of magnitudes: the distance of every number
        from zero, or from the tensor's floor.
        """
        if not self.floors:
            return
        for feeds in self._samples():
            values = dict(feeds)
            if self.inner:
                values.update(
                    zip(
                        self.inner,
                        self.session.run(self.inner, feeds),
                        strict=True,
                    )
                )
            for name, floor in self.floors.items():
                value = values.get(name)
                if value is not None and value.ndim > 1:
                    rows = value.reshape(-1, value.shape[-1])
                    yield name, numpy.abs(rows - numpy.float32(floor or 0))

    def _samples(self) -> Iterator[dict[str, Array]]:
        specs = self.part.signature.inputs
        for index in range(len(self.feeds[specs[0].name])):
            yield {
                spec.name: spec.encode(self.feeds[spec.name][index : index + 1])
                for spec in specs
            }
