"""The PyTorch reference: the networks themselves, float or with simulated quantization, in
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
    from edgekit.arrays import Array, Feeds


class TorchRunner:
    """Runs networks by part name as a Runner, in slices of at most 256 samples.

    One thread, evaluation mode, no gradients.
    """

    def __init__(
        self, networks: Mapping[str, torch.nn.Module], parts: Sequence[Part]
    ) -> None:
        missing = [part.name for part in parts if part.name not in networks]
        if missing or not parts:
            names = ", ".join(missing) or "(none)"
            available = ", ".join(networks) or "none"
            raise ModelError(
                f"No network for the part {names}. Available: {available}."
            )
        self.where = f"local: torch {torch.__version__}, 1 thread"
        self._networks = networks
        self._parts = tuple(parts)

    def __enter__(self) -> "TorchRunner":
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def infer(self, feeds: "Feeds") -> "dict[str, Array]":
        """The last part's outputs as real arrays in the task's layout, for any number of
        samples.
        """
        first = self._parts[0]
        first.signature.check_feeds(feeds, f"Part {first.name!r}")
        with _one_thread(), torch.no_grad():
            return chain(self._parts, self._infer_part, feeds)

    def _infer_part(self, part: Part, feeds: "Feeds") -> "dict[str, Array]":
        part.signature.check_feeds(feeds, f"Part {part.name!r}")
        network = self._networks[part.name]
        inputs = part.signature.inputs

        def call(arrays: "dict[str, Array]") -> "dict[str, Array]":
            return _call_network(network, part, arrays)

        with _evaluation_mode(network):
            try:
                return run_in_slices(
                    {spec.name: feeds[spec.name] for spec in inputs},
                    inputs[0].static_batch,
                    call,
                )
            except WorkerError as error:
                raise RunnerError(
                    f"Part {part.name!r}: {error}.",
                    fix="pass the same number of samples for every input",
                ) from error


def _call_network(
    network: torch.nn.Module, part: Part, arrays: "dict[str, Array]"
) -> "dict[str, Array]":
    # Copies: torch warns about arrays that are not writable, such as those of another runner.
    tensors = [
        torch.from_numpy(spec.encode(arrays[spec.name]).copy())
        for spec in part.signature.inputs
    ]
    specs = part.signature.outputs
    try:
        outputs = _name_outputs(
            network(*tensors), [spec.name for spec in specs]
        )
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise RunnerError(
            f"The network of part {part.name!r} failed: {error}",
            fix="check that the task's inputs match the network",
        ) from error
    return {
        spec.name: spec.decode(outputs[spec.name].numpy()) for spec in specs
    }


def _name_outputs(result: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
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
        raise ValueError(f"expected {len(names)} outputs, got {len(result)}")
    return {
        name: tensor.contiguous()
        for name, tensor in zip(names, result, strict=True)
    }


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _evaluation_mode(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode within the context.

    A graph of torch.export has no modes and refuses both calls; it is left unchanged.
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
