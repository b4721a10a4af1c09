"""A network as a torch.export program: free dims named after the signature, outputs in the
signature's order.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping

import torch

from edgekit.errors import StepError
from edgekit.signature import Signature

#: The attribute that holds the network while it is traced; taken off module paths again.
_WRAPPED = "edgekit_network"


class _Ordered(torch.nn.Module):
    """Calls the network and gives its outputs in the signature's order: one tensor, or a
    tuple.
    """

    def __init__(self, network: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        setattr(self, _WRAPPED, network)
        self._names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = in_order(getattr(self, _WRAPPED)(*inputs), self._names)
        return outputs[0] if len(outputs) == 1 else outputs


def in_order(result: object, names: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """A network's result as tensors in the order of ``names``.

    Raises StepError where there are more or fewer.
    """
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        given = {name: value for name, value in result.items() if value is not None}
        result = (
            tuple(given[name] for name in names)
            if set(names) <= given.keys()
            else tuple(given.values())
        )
    if (
        not isinstance(result, tuple | list)
        or len(result) != len(names)
        or not all(isinstance(item, torch.Tensor) for item in result)
    ):
        told = f"The network gives {_told(result)}; its signature names the outputs {', '.join(names)}."
        raise StepError(told, fix="return these tensors, as a tuple or a dict")
    return tuple(result)


def example(signature: Signature, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Random inputs of ``batch`` samples, in the signature's order."""
    drawn = signature.draw(batch)
    return tuple(torch.from_numpy(drawn[spec.name].copy()) for spec in signature.inputs)


def capture(network: torch.nn.Module, signature: Signature) -> torch.export.ExportedProgram:
    """Trace the network in eval mode, or raise StepError with what in it cannot be traced.

    Dims that the signature names stay free under these names. Inputs are positional, in the
    signature's order. A graph that was captured before, then quantized, keeps its module
    paths.
    """
    names = {
        dim: torch.export.Dim(dim)
        for spec in signature.inputs
        for dim in spec.dims
        if isinstance(dim, str)
    }
    dims = tuple(
        {axis: names[dim] for axis, dim in enumerate(spec.dims) if isinstance(dim, str)}
        for spec in signature.inputs
    )
    again = hasattr(network, _WRAPPED)
    wrapped = (
        network
        if again
        else _Ordered(network, tuple(spec.name for spec in signature.outputs))
    )
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                wrapped.eval(),
                example(signature),
                dynamic_shapes=dims if again else (dims,),
                strict=False,
            )
    except StepError:
        raise
    except Exception as error:  # torch.export raises whatever the network's own code raises
        raise StepError(
            f"The network cannot be traced by torch.export: {_first_lines(error)}",
            fix="keep forward() free of branches on values, and of shapes that fix the number of samples",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the notes that torch, torchao and onnxscript write for their own developers from
    the user. Errors pass.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with _filtered():
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
    with warnings.catch_warnings():
        for category, message in (
            (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
            (UserWarning, "Using padding='same' with even kernel lengths"),
            (UserWarning, "erase_node.* on a node that was already erased"),
            (
                UserWarning,
                "The tensor attributes .* were assigned during export",
            ),  # nn.LSTM and its like hold their weights twice
            (UserWarning, "must run observer before calling calculate_qparams"),
        ):
            warnings.filterwarnings("ignore", category=category, message=message)
        for module in (
            r"torch\._export",
            r"torch\.export",
            r"torch\.onnx",
            r"torch\.fx",
            r"torchao\.",
            r"onnxscript",
        ):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
            warnings.filterwarnings("ignore", category=FutureWarning, module=module)
        yield


def module_of(node: torch.fx.Node) -> str:
    """The path of the PyTorch module that a node came from; the empty string is the network
    itself.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return plain_path(next(reversed([entry[0] for entry in stack.values()]), ""))


def plain_path(path: str) -> str:
    """A module path without what tracing added to it."""
    return re.sub(rf"^(?:{_WRAPPED}(?:\.|$))+", "", path)


def _told(result: object) -> str:
    if isinstance(result, Mapping):
        return f"a dict of {', '.join(map(str, result)) or 'nothing'}"
    return (
        f"{len(result)} results"
        if isinstance(result, tuple | list)
        else type(result).__name__
    )


def _first_lines(error: Exception, limit: int = 300) -> str:
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:4])
    return f"{type(error).__name__}: {text[:limit]}"
