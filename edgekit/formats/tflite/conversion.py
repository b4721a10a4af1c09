"""The boundary to litert-torch: imported and run quietly, with its errors translated.

    convert(graph, samples, path, channel_last_inputs=(0,), channel_last_outputs=())

The inputs of the file are named ``serving_default_args_0, ...`` in the order of ``samples``.
"""

import contextlib
import logging
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch

from edgekit.formats.tflite import names as tflite_names
from edgekit.formats.tflite.converter_errors import translate_error
from edgekit.quantization.capture import module_of

#: litert-torch's progress lines; messages below errors of the C++ converter and of its math
#: library.
_ENVIRONMENT = {
    "LITERT_TORCH_SHOW_PROGRESS": "n",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
#: The signature that a runtime uses by default.
DEFAULT_SIGNATURE = "serving_default"
#: Loggers that report missing GPU libraries and deprecated calls of torchao while
#: litert-torch is imported.
_LOGGERS = ("torchao", "torch.utils._pytree")
_NOISY_MODULES = (
    r"torch\.",
    r"torchao\.",
    r"litert_torch\.",
    r"jax\.",
    r"ai_edge_litert\.",
)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    handlers = list(logging.root.handlers)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        # logging.warning(), which litert-torch calls, installs a handler of the root logger
        # permanently.
        logging.root.handlers[:] = handlers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages of litert-torch and its dependencies to their own developers."""
    with _environment(_ENVIRONMENT), warnings.catch_warnings(), _logging():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            for module in _NOISY_MODULES:
                warnings.filterwarnings(
                    "ignore", category=category, module=module
                )
        # When Python compiles torchao for the first time.
        warnings.filterwarnings("ignore", message="invalid escape sequence")
        warnings.filterwarnings(
            "ignore",
            category=UserWarning,
            message="Using padding='same' with even kernel lengths",
        )
        # Raised in the standard library's copyreg while torch.export copies a tree.
        warnings.filterwarnings(
            "ignore",
            category=FutureWarning,
            message=r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        )
        yield


with quiet():
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import (
        PT2EQuantizer,
        get_symmetric_quantization_config,
    )
    from litert_torch.quantize.quant_config import QuantConfig


class _Inference(torch.nn.Module):
    """Wraps an exported graph, which rejects train() and eval()."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.network = graph
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> object:
        if isinstance(self.network, torch.fx.GraphModule):
            # Node by node, so that a graph that is traced again keeps the modules of its
            # nodes.
            with torch.fx.traceback.preserve_node_meta():
                return torch.fx.Interpreter(self.network).run(*inputs)
        return self.network(*inputs)

    def train(self, mode: bool = True) -> "_Inference":
        return self


def as_inference(graph: torch.nn.Module) -> torch.nn.Module:
    """The graph as a module that is in eval mode and stays there."""
    return _Inference(graph)


def _name_modules(graph: torch.nn.Module) -> None:
    """Make litert-torch write the complete module path of every node.

    From a stack of modules it would write long class names and omit containers.
    """
    if not isinstance(graph, torch.fx.GraphModule):
        return
    for node in graph.graph.nodes:
        if node.op == "call_function":
            path = tflite_names.MARK + module_of(node)
            node.meta["nn_module_stack"] = {"module": ("", path)}


def convert(
    graph: torch.nn.Module,
    samples: Sequence[torch.Tensor],
    path: pathlib.Path,
    *,
    channel_last_inputs: Sequence[int] = (),
    channel_last_outputs: Sequence[int] = (),
    quantized: bool = False,
) -> None:
    """Write the network as a TFLite file with the static shapes of ``samples``.

    ``samples`` are in the network's own layout; the inputs and outputs at the given
    positions are channel-last in the file. ``quantized``: the quantize and dequantize
    operators of the graph become int8 arithmetic. Raises StepError if the converter fails.
    """
    convert_several(
        {DEFAULT_SIGNATURE: (graph, samples)},
        path,
        channel_last_inputs=channel_last_inputs,
        channel_last_outputs=channel_last_outputs,
        quantized=quantized,
    )


def convert_several(
    signatures: Mapping[str, tuple[torch.nn.Module, Sequence[torch.Tensor]]],
    path: pathlib.Path,
    *,
    channel_last_inputs: Sequence[int] = (),
    channel_last_outputs: Sequence[int] = (),
    quantized: bool = False,
) -> None:
    """As ``convert``, for one network in several static shapes, by signature name.

    The file stores the weights once.
    """
    config = None
    if quantized:
        # litert-torch only reads from this quantizer that it is static; without it, it
        # writes a float file with Q/DQ operators.
        quantizer = PT2EQuantizer().set_global(
            get_symmetric_quantization_config(is_per_channel=True)
        )
        config = QuantConfig(pt2e_quantizer=quantizer)
    converter = litert_torch
    try:
        with quiet(), torch.no_grad():
            for name, (graph, samples) in signatures.items():
                _name_modules(graph)
                wrapped = litert_torch.to_channel_last_io(
                    as_inference(graph),
                    args=list(channel_last_inputs),
                    outputs=list(channel_last_outputs),
                )
                arguments = tuple(
                    _to_channel_last(sample)
                    if position in channel_last_inputs
                    else sample
                    for position, sample in enumerate(samples)
                )
                converter = converter.signature(
                    name, as_inference(wrapped), arguments
                )
            converter.convert(quant_config=config).export(str(path))
    except (
        Exception
    ) as error:  # the converter raises whatever its many parts raise
        raise translate_error(error, path.stem) from error


def _to_channel_last(sample: torch.Tensor) -> torch.Tensor:
    return sample.movedim(1, -1).contiguous()
