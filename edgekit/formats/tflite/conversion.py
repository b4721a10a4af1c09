"""litert-torch, spoken to in one place: imported and run without its noise, its errors told
in plain words.

    convert(graph, samples, path, channel_last_inputs=(0,), channel_last_outputs=(), quantized=False)

The file's inputs are named ``serving_default_args_0, ...`` in the order of ``samples``.
"""

import contextlib
import logging
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch

from edgekit.errors import StepError
from edgekit.formats.tflite import names as tflite_names
from edgekit.quantization.capture import module_of

#: Progress lines of litert-torch; messages of the C++ converter and of its math library
#: below errors.
_ENVIRONMENT = {
    "LITERT_TORCH_SHOW_PROGRESS": "n",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
#: The signature that a runtime takes where it is told none.
DEFAULT = "serving_default"
#: What torchao and torch say while litert-torch imports them: GPU libraries that are not
#: there, a deprecated call of torchao's.
_LOGGERS = ("torchao", "torch.utils._pytree")


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
def quiet() -> Iterator[None]:
    """Keep what litert-torch and its parts tell their own developers from the user."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    handlers = list(logging.root.handlers)
    with _environment(_ENVIRONMENT), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            for module in (
                r"torch\.",
                r"torchao\.",
                r"litert_torch\.",
                r"jax\.",
                r"ai_edge_litert\.",
            ):
                warnings.filterwarnings("ignore", category=category, module=module)
        # While Python compiles torchao for the first time.
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
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            # logging.warning(), which litert-torch calls, gives the root logger a handler
            # for good.
            logging.root.handlers[:] = handlers


with quiet():
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import (
        PT2EQuantizer,
        get_symmetric_quantization_config,
    )
    from litert_torch.quantize.quant_config import QuantConfig

#: What the converter or the runtime says -> what it means, and the way out (each tried:
#: facts on TFLite, 1.2).
KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"failed to legalize operation 'mhlo\.convolution'",
        "a transposed convolution with this kernel, stride and padding has no TFLite format",
        "use kernel 4, stride 2, padding 1 or kernel 2, stride 2; or ConvTranspose2d(padding=0) and crop the result",
    ),
    (
        r"Lowering not found: aten\.(rand|normal|bernoulli)",
        "forward() draws random numbers",
        "make the noise an input of the network",
    ),
    (
        r"Lowering not found: aten\._assert_async",
        "one_hot (or another operator that checks its values) has no TFLite format",
        "write one_hot as (index[..., None] == torch.arange(classes)).float()",
    ),
    (
        r"Lowering not found: aten\.histc",
        "grouped mixture-of-experts code has no TFLite format",
        "set experts_implementation='batched_mm' in the model's config",
    ),
    (
        r"Lowering not found: cond",
        "torch.cond has no TFLite format",
        "remove branches on values; compute both sides and choose with torch.where",
    ),
    (
        r"complex<f32>|torch\.complex64",
        "complex numbers have no TFLite format",
        "compute the features outside of the network",
    ),
    (
        r"jnp\.nonzero|ConcretizationTypeError|GuardOnDataDependentSymNode",
        "the shape of a tensor depends on values",
        "use masks of a fixed shape instead of nonzero() or boolean indexing",
    ),
    (
        r"stablehlo\.scatter|STABLEHLO_SCATTER",
        "adding into indexed places (index_add, scatter_add) does not run in TFLite",
        "write it as a product with a one-hot matrix: (index[None] == torch.arange(n)[:, None]).float() @ values",
    ),
    (
        r"STABLEHLO_SORT",
        "sort or topk over several rows does not run in TFLite",
        "use topk on one row, or repeated max with a mask",
    ),
    (
        r"Lowering not found: (?P<what>[\w.]+)",
        "the operator {what} has no TFLite format",
        "replace this operator in the network",
    ),
    (
        r"builtin opcode '(?P<what>\w+)'",
        "LiteRT has no kernel for {what}",
        "replace this operator in the network",
    ),
)


def translated(error: Exception, where: str) -> StepError:
    """The StepError that tells what a converter's or runtime's error means."""
    text = str(error)
    for pattern, meaning, fix in KNOWN:
        found = re.search(pattern, f"{type(error).__name__}: {text}")
        if found:
            named = {name: value or "" for name, value in found.groupdict().items()}
            return StepError(f"{where}: {meaning.format(**named)}.", fix=fix)
    lines = " ".join(line.strip() for line in text.strip().splitlines()[:3])
    return StepError(
        f"{where}: the TFLite converter failed: {type(error).__name__}: {lines[:300]}",
        fix="replace the operator that it names, or take a target of the format onnx",
    )


class _Inference(torch.nn.Module):
    """Stands in front of an exported graph, which refuses train() and eval()."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.network = graph
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> object:
        if isinstance(self.network, torch.fx.GraphModule):
            # Node by node, so that a graph that is traced again keeps the modules that its
            # nodes came from.
            with torch.fx.traceback.preserve_node_meta():
                return torch.fx.Interpreter(self.network).run(*inputs)
        return self.network(*inputs)

    def train(self, mode: bool = True) -> "_Inference":
        return self


def inference(graph: torch.nn.Module) -> torch.nn.Module:
    """The graph as a module that counts as being in eval mode, and stays there."""
    return _Inference(graph)


def _name_modules(graph: torch.nn.Module) -> None:
    """Let litert-torch write every node's whole module path; of a stack of modules it
    writes long class names and leaves containers out.
    """
    for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
        if node.op == "call_function":
            node.meta["nn_module_stack"] = {
                "module": ("", tflite_names.MARK + module_of(node))
            }


def convert(
    graph: torch.nn.Module,
    samples: Sequence[torch.Tensor],
    path: pathlib.Path,
    *,
    channel_last_inputs: Sequence[int] = (),
    channel_last_outputs: Sequence[int] = (),
    quantized: bool = False,
) -> None:
    """Write the network as a TFLite file with the static shapes of ``samples``, which are
    in the network's own layout.

    The inputs and outputs named by number are channel-last in the file. ``quantized``: the
    graph holds quantize and dequantize ops; they become int8 arithmetic. Raises StepError.
    """
    several = {DEFAULT: (graph, samples)}
    convert_several(
        several,
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
    """As ``convert``, for one network in several static shapes, by the name of each
    signature. The file holds the weights once.
    """
    # litert-torch reads of this quantizer only that it is static; without it, it writes a
    # float file with Q/DQ ops.
    config = (
        QuantConfig(
            pt2e_quantizer=PT2EQuantizer().set_global(
                get_symmetric_quantization_config(is_per_channel=True)
            )
        )
        if quantized
        else None
    )
    converter = litert_torch
    try:
        with quiet(), torch.no_grad():
            for name, (graph, samples) in signatures.items():
                _name_modules(graph)
                wrapped = litert_torch.to_channel_last_io(
                    inference(graph),
                    args=list(channel_last_inputs),
                    outputs=list(channel_last_outputs),
                )
                given = tuple(
                    sample.movedim(1, -1).contiguous()
                    if k in channel_last_inputs
                    else sample
                    for k, sample in enumerate(samples)
                )
                converter = converter.signature(name, inference(wrapped), given)
            converter.convert(quant_config=config).export(str(path))
    except Exception as error:  # the converter raises whatever its many parts raise
        raise translated(error, path.stem) from error
