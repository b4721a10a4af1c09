"""4-bit weights in blocks by neural-compressor: each linear layer's own grid, and the
network with exactly these weights in float.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import nn

from edgekit.arrays import Array
from edgekit.errors import StepError
from edgekit.formats.neural_compressor import package as inc

BITS, BLOCK = 4, 32
_FIX = "use edgekit's own w4-weight"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The 4-bit weights of one linear layer: ``real = (stored - zero) * scale``, with scale and
    zero per block of inputs.
    """

    #: [outputs, inputs], 0 to 15.
    stored: Array
    #: [outputs, blocks]
    scale: Array
    #: [outputs, blocks]; integers (uint8) or reals (float32).
    zero: Array

    def weights(self) -> Array:
        """Return the real weights [outputs, inputs] in float32."""
        block = numpy.arange(self.stored.shape[1]) // BLOCK
        real: Array = (
            self.stored.astype("float32")
            - self.zero.astype("float32")[:, block]
        ) * self.scale[:, block]
        return real


Grids = dict[str, Grid]
#: Calls the network on all calibration data.
Run = Callable[[], None]


def rtn(network: nn.Module) -> Grids:
    """Round the weights to nearest; the linear layers of ``network`` get the rounded weights.

    Raises StepError if neural-compressor fails.
    """
    config = inc.RTNConfig(
        dtype="int",
        bits=BITS,
        group_size=BLOCK,
        use_sym=False,
        use_layer_wise=False,
    )
    with inc.translate_errors(_FIX):
        # The popular format would round scales and biases to 16 bits.
        inc.convert(network, config, use_optimum_format=False)
    return _replace(network)


def awq(network: nn.Module, run: Run) -> Grids:
    """Scale the weights by the activations that the language model inside ``network`` gets
    (AWQ), then round to nearest.

    Raises StepError if there is no language model, or neural-compressor fails.
    """
    model = language_model(network)
    if model is None:
        raise StepError(
            "neural-compressor's AWQ supports Hugging Face causal language models only; this"
            " network contains none.",
            fix="use the scheme w4-weight-rtn or w4-weight-hqq, or edgekit's own w4-weight",
        )
    batches: list[torch.Tensor] = []

    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        batches.append(
            kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        )

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    with inc.translate_errors(_FIX):
        run()
        hook.remove()
        config = inc.AWQConfig(
            dtype="int",
            bits=BITS,
            group_size=BLOCK,
            use_sym=False,
            use_layer_wise=False,
        )
        prepared = inc.prepare(model, config, example_inputs=batches[0])
        for ids in batches:
            prepared(ids, use_cache=False)
        inc.convert(prepared)
    return _replace(network)


def hqq(network: nn.Module) -> Grids:
    """Quantize half-quadratically (HQQ), with real zeros.

    neural-compressor's public function groups the *outputs* of a layer, in half precision; no
    runtime has such a grid. Its algorithm gets the weights arranged so that a group is a block
    of inputs, in single precision. Raises StepError if it fails.
    """
    grids = {}
    before = inc.hqq_global_option.use_half
    inc.hqq_global_option.use_half = False
    config = inc.QTensorConfig(
        nbits=BITS,
        channel_wise=True,
        group_size=BLOCK,
        optimize=True,
        round_zero=True,
        pack=False,
    )
    try:
        with inc.translate_errors(_FIX):
            for path, layer in _linear_layers(network):
                outputs, inputs = layer.weight.shape
                if inputs % BLOCK:
                    continue
                columns = layer.weight.reshape(-1, BLOCK).T.contiguous()
                quantized = inc.HQQTensorHandle.quantize(columns, config)
                stored = quantized.val.T.reshape(outputs, inputs).to(
                    torch.uint8
                )
                scale = quantized.scale.reshape(outputs, -1).float()
                zero = quantized.zero.reshape(outputs, -1).float()
                grids[path] = Grid(stored.numpy(), scale.numpy(), zero.numpy())
                layer.weight.copy_(torch.from_numpy(grids[path].weights()))
    finally:
        inc.hqq_global_option.use_half = before
    return grids


def language_model(network: nn.Module) -> nn.Module | None:
    """Return the Hugging Face causal language model that ``network`` is or contains, or None."""
    for module in network.modules():
        bases = {
            f"{base.__module__}.{base.__name__}"
            for base in type(module).__mro__
        }
        is_model = "transformers.modeling_utils.PreTrainedModel" in bases
        name = type(module).__name__
        if is_model and name.endswith(("ForCausalLM", "LMHeadModel")):
            return module
    return None


def _linear_layers(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the layers to quantize, with their paths.

    A language model's head stays in float, as in neural-compressor's other algorithms.
    """
    for path, module in network.named_modules():
        is_head = path.endswith(("lm_head", "output_layer", "embed_out"))
        if type(module) is nn.Linear and not is_head:
            yield path, module


def _replace(network: nn.Module) -> Grids:
    """Replace each layer of neural-compressor's by a plain linear layer with the grid's weights."""
    grids = {}
    for path, module in list(network.named_modules()):
        if not isinstance(module, inc.INCWeightOnlyLinear):
            continue
        grids[path] = grid_of(module)
        layer = nn.Linear(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
        )
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(grids[path].weights()))
            if module.bias is not None:
                layer.bias.copy_(module.bias.float())
        owner, _, name = path.rpartition(".")
        setattr(network.get_submodule(owner), name, layer.eval())
    return grids


def grid_of(module: Any) -> Grid:
    """Return the grid of an INCWeightOnlyLinear, unpacked by its own code."""
    unpacked = module.unpack()
    stored = unpacked["int_weight"].to(torch.int32).numpy()
    scale = unpacked["scales"].float().numpy()
    zero = unpacked["zp"].to(torch.int32).numpy()
    return Grid(
        (stored & 15).astype("uint8"), scale, (zero & 15).astype("uint8")
    )
