"""The torch reference: the networks themselves, float or with simulated quantization, in
edgekit's own process.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from edgekit.artifact import Part, chain
from edgekit.device_worker.batches import run_in_slices
from edgekit.device_worker.frames import WorkerError
from edgekit.errors import ModelError, RunnerError

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]


class TorchRunner:
    """Runs networks by part name as a Runner: one thread, evaluation mode, no gradients,
    slices of at most 256 samples.
    """

    def __init__(
        self, networks: Mapping[str, torch.nn.Module], parts: Sequence[Part]
    ) -> None:
        missing = [part.name for part in parts if part.name not in networks]
        if missing or not parts:
            raise ModelError(
                f"There is no network for the part {', '.join(missing) or '(none)'}; there are {', '.join(networks) or 'none'}."
            )
        self.where = f"local: torch {torch.__version__}, 1 thread"
        self._networks, self._parts = networks, tuple(parts)

    def __enter__(self) -> "TorchRunner":
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def infer(self, feeds: "Feeds") -> "dict[str, Array]":
        """The last part's outputs, as real numbers in the task's layout, for any number of
        samples.
        """
        self._parts[0].signature.check_feeds(feeds, f"Part {self._parts[0].name!r}")
        with _one_thread(), torch.no_grad():
            return chain(self._parts, self._part, feeds)

    def _part(self, part: Part, feeds: "Feeds") -> "dict[str, Array]":
        part.signature.check_feeds(feeds, f"Part {part.name!r}")
        network, signature = self._networks[part.name], part.signature

        def call(cut: "dict[str, Array]") -> "dict[str, Array]":
            # A copy: torch warns of arrays that must not be written to, such as those of
            # another runner.
            tensors = [
                torch.from_numpy(spec.encode(cut[spec.name]).copy())
                for spec in signature.inputs
            ]
            try:
                outputs = _named(
                    network(*tensors), [spec.name for spec in signature.outputs]
                )
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise RunnerError(
                    f"The network of part {part.name!r} failed: {error}",
                    fix="check that the task's inputs fit the network",
                ) from error
            return {
                spec.name: spec.decode(outputs[spec.name].numpy())
                for spec in signature.outputs
            }

        with _evaluating(network):
            try:
                return run_in_slices(
                    {spec.name: feeds[spec.name] for spec in signature.inputs},
                    signature.inputs[0].static_batch,
                    call,
                )
            except WorkerError as error:
                raise RunnerError(
                    f"Part {part.name!r}: {error}.", fix="give each input one row a sample"
                ) from error


def _named(result: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """A network's result by output name: a tensor, a tuple in the signature's order, or a
    mapping by name.
    """
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        if set(names) <= set(result):
            return {name: result[name].contiguous() for name in names}
        result = tuple(result.values())
    if len(result) != len(names):
        raise ValueError(f"it gives {len(result)} outputs, its signature has {len(names)}")
    return {name: tensor.contiguous() for name, tensor in zip(names, result, strict=True)}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while.

    A graph of torch.export has no modes and refuses both calls; it is left as it is.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
