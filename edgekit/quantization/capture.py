"""Tracing a network as a torch.export program.

Free dims are named after the signature, and outputs are in the signature's order.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping

import torch

from edgekit.errors import StepError
from edgekit.signature import Signature

#: The attribute that holds the network while it is traced; removed from module paths again.
_WRAPPED = "edgekit_network"
#: Warnings that torch and torchao emit during tracing and that need no action.
_IGNORED_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, "Using padding='same' with even kernel lengths"),
    (UserWarning, "erase_node.* on a node that was already erased"),
    # nn.LSTM and similar modules keep two references to their weights.
    (UserWarning, "The tensor attributes .* were assigned during export"),
    (UserWarning, "must run observer before calling calculate_qparams"),
)
#: Modules whose deprecation warnings are for their own developers.
_IGNORED_MODULES = (
    r"torch\._export",
    r"torch\.export",
    r"torch\.onnx",
    r"torch\.fx",
    r"torchao\.",
    r"onnxscript",
)


class _OrderedOutputs(torch.nn.Module):
    """Calls the network and returns its outputs in the signature's order.

    One output is a tensor, several are a tuple.
    """

    def __init__(
        self, network: torch.nn.Module, names: tuple[str, ...]
    ) -> None:
        super().__init__()
        setattr(self, _WRAPPED, network)
        self._names = names

    def forward(
        self, *inputs: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        network = getattr(self, _WRAPPED)
        outputs = order_outputs(network(*inputs), self._names)
        return outputs[0] if len(outputs) == 1 else outputs


def order_outputs(
    result: object, names: tuple[str, ...]
) -> tuple[torch.Tensor, ...]:
    """The tensors of a network's result in the order of ``names``.

    ``result`` is a tensor, a tuple or list of tensors, or a mapping (entries that are None
    are ignored). Raises StepError if the number of tensors differs from ``names``.
    """
    outputs = result
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    if isinstance(outputs, Mapping):
        outputs = _order_mapping(outputs, names)
    if not _are_tensors(outputs, len(names)):
        raise StepError(
            f"The network returns {_describe(result)}; "
            f"its signature has the outputs {', '.join(names)}.",
            fix="return these tensors, as a tuple or a dict",
        )
    return tuple(outputs)  # type: ignore[arg-type]


def _order_mapping(
    result: Mapping[str, object], names: tuple[str, ...]
) -> tuple[object, ...]:
    present = {
        name: value for name, value in result.items() if value is not None
    }
    if set(names) <= present.keys():
        return tuple(present[name] for name in names)
    return tuple(present.values())


def _are_tensors(outputs: object, count: int) -> bool:
    if not isinstance(outputs, tuple | list) or len(outputs) != count:
        return False
    return all(isinstance(item, torch.Tensor) for item in outputs)


def example_inputs(
    signature: Signature, batch: int = 2
) -> tuple[torch.Tensor, ...]:
    """Random inputs of ``batch`` samples, in the signature's order."""
    arrays = signature.draw(batch)
    return tuple(
        torch.from_numpy(arrays[spec.name].copy()) for spec in signature.inputs
    )


def capture(
    network: torch.nn.Module, signature: Signature
) -> torch.export.ExportedProgram:
    """Trace a network in eval mode with torch.export.

    Dims that the signature names stay free and keep these names. Inputs are positional, in
    the signature's order. A graph that was captured before and then quantized keeps its
    module paths. Raises StepError if the network cannot be traced.
    """
    dims = _dynamic_dims(signature)
    dynamic_shapes: tuple[object, ...] = dims
    captured_before = hasattr(network, _WRAPPED)
    if not captured_before:
        network = _OrderedOutputs(
            network, tuple(spec.name for spec in signature.outputs)
        )
        # The wrapper's forward has a single parameter, *inputs.
        dynamic_shapes = (dims,)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                network.eval(),
                example_inputs(signature),
                dynamic_shapes=dynamic_shapes,
                strict=False,
            )
    except StepError:
        raise
    except (
        Exception
    ) as error:  # torch.export raises whatever the network's own code raises
        raise StepError(
            f"The network cannot be traced by torch.export: {_first_lines(error)}",
            fix="remove branches on tensor values from forward(), "
            "and shapes with a fixed batch size",
        ) from error


def _dynamic_dims(signature: Signature) -> tuple[dict[int, object], ...]:
    """The free axes of every input for torch.export: axis -> ``torch.export.Dim``."""
    dims: dict[str, object] = {}
    shapes = []
    for spec in signature.inputs:
        axes: dict[int, object] = {}
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, str):
                axes[axis] = dims.setdefault(dim, torch.export.Dim(dim))
        shapes.append(axes)
    return tuple(shapes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch, torchao and onnxscript log for their own developers.

    Errors are still logged.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            _ignore_warnings()
            yield
    finally:
        logging.disable(before)


def _ignore_warnings() -> None:
    for category, message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", category=category, message=message)
    for module in _IGNORED_MODULES:
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning, module=module
        )
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)


def module_of(node: torch.fx.Node) -> str:
    """The path of the PyTorch module that a node was traced from.

    The empty string is the network itself.
    """
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return plain_path(paths[-1]) if paths else ""


def plain_path(path: str) -> str:
    """A module path without the prefix that tracing adds."""
    return re.sub(rf"^(?:{_WRAPPED}(?:\.|$))+", "", path)


def _describe(result: object) -> str:
    if isinstance(result, Mapping):
        return f"a dict of {', '.join(map(str, result)) or 'nothing'}"
    if isinstance(result, tuple | list):
        return f"{len(result)} results"
    return type(result).__name__


def _first_lines(error: Exception, limit: int = 300) -> str:
    lines = str(error).strip().splitlines()[:4]
    text = " ".join(line.strip() for line in lines)
    return f"{type(error).__name__}: {text[:limit]}"
