"""4-bit weights in blocks by neural-compressor: each linear layer's own grid, and the
network with exactly these weights in float.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import numpy.typing
import torch
from torch import nn

from edgekit.errors import StepError
from edgekit.formats.neural_compressor import package as inc

Array = numpy.typing.NDArray[Any]
BITS, BLOCK = 4, 32
_FIX = "take edgekit's own w4-weight"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The 4-bit weights of one linear layer: real = (stored - zero) * scale, one scale and
    zero for each block of inputs.
    """

    #: [outputs, inputs], 0 to 15.
    stored: Array
    #: [outputs, blocks]
    scale: Array
    #: [outputs, blocks]; whole numbers (uint8), or reals (float32).
    zero: Array

    def weights(self) -> Array:
        """The real weights [outputs, inputs], in float32."""
        block = numpy.arange(self.stored.shape[1]) // BLOCK
        real: Array = (
            self.stored.astype("float32") - self.zero.astype("float32")[:, block]
        ) * self.scale[:, block]
        return real


Grids = dict[str, Grid]
#: Calls the whole network on calibration data.
Run = Callable[[], None]


def rtn(network: nn.Module) -> Grids:
    """Round to nearest. The linear layers of ``network`` get the rounded weights."""
    config = inc.RTNConfig(
        dtype="int", bits=BITS, group_size=BLOCK, use_sym=False, use_layer_wise=False
    )
    with inc.working(_FIX):
        # The popular format would round scales and biases to 16 bits.
        inc.convert(network, config, use_optimum_format=False)
    return _replace(network)


def awq(network: nn.Module, run: Run) -> Grids:
    """Activation-aware scales, found on what the language model inside ``network`` is
    given; then round to nearest.
    """
    model = language_model(network)
    if model is None:
        raise StepError(
            "neural-compressor's AWQ takes Hugging Face causal language models only; this network holds none.",
            fix="take the scheme w4-weight-rtn or w4-weight-hqq, or edgekit's own w4-weight",
        )
    given: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(
            kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        ),
        with_kwargs=True,
    )
    with inc.working(_FIX):
        run()
        hook.remove()
        config = inc.AWQConfig(
            dtype="int", bits=BITS, group_size=BLOCK, use_sym=False, use_layer_wise=False
        )
        prepared = inc.prepare(model, config, example_inputs=given[0])
        for ids in given:
            prepared(ids, use_cache=False)
        inc.convert(prepared)
    return _replace(network)


def hqq(network: nn.Module) -> Grids:
    """Half-quadratic quantization with real zeros.

    neural-compressor's front door groups the *outputs* of a layer, in half precision; no
    runtime has such a grid. Its algorithm is given the weights so arranged that a group is
    a block of inputs, in single precision.
    """
    grids = {}
    before, inc.hqq_global_option.use_half = inc.hqq_global_option.use_half, False
    config = inc.QTensorConfig(
        nbits=BITS,
        channel_wise=True,
        group_size=BLOCK,
        optimize=True,
        round_zero=True,
        pack=False,
    )
    try:
        with inc.working(_FIX):
            for path, layer in _linear_layers(network):
                outputs, inputs = layer.weight.shape
                if inputs % BLOCK:
                    continue
                found = inc.HQQTensorHandle.quantize(
                    layer.weight.reshape(-1, BLOCK).T.contiguous(), config
                )
                stored = found.val.T.reshape(outputs, inputs).to(torch.uint8).numpy()
                scale, zero = (
                    part.reshape(outputs, -1).float().numpy()
                    for part in (found.scale, found.zero)
                )
                grids[path] = Grid(stored, scale, zero)
                layer.weight.copy_(torch.from_numpy(grids[path].weights()))
    finally:
        inc.hqq_global_option.use_half = before
    return grids


def language_model(network: nn.Module) -> nn.Module | None:
    """The Hugging Face causal language model that ``network`` is or holds, or None."""
    for module in network.modules():
        bases = {f"{base.__module__}.{base.__name__}" for base in type(module).__mro__}
        if "transformers.modeling_utils.PreTrainedModel" in bases and type(
            module
        ).__name__.endswith(("ForCausalLM", "LMHeadModel")):
            return module
    return None


def _linear_layers(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The layers to quantize.

    A language model's head stays in float, as in neural-compressor's other algorithms.
    """
    for path, module in network.named_modules():
        if type(module) is nn.Linear and not path.endswith(
            ("lm_head", "output_layer", "embed_out")
        ):
            yield path, module


def _replace(network: nn.Module) -> Grids:
    """Put a plain linear layer with the grid's weights in the place of each of
    neural-compressor's.
    """
    grids = {}
    for path, module in list(network.named_modules()):
        if not isinstance(module, inc.INCWeightOnlyLinear):
            continue
        grids[path] = grid_of(module)
        layer = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None
        )
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(grids[path].weights()))
            if module.bias is not None:
                layer.bias.copy_(module.bias.float())
        owner, _, name = path.rpartition(".")
        setattr(network.get_submodule(owner), name, layer.eval())
    return grids


def grid_of(module: Any) -> Grid:
    """The grid that an INCWeightOnlyLinear holds, unpacked by its own code."""
    held = module.unpack()
    stored, scale = (
        held["int_weight"].to(torch.int32).numpy(),
        held["scales"].float().numpy(),
    )
    zero = held["zp"].to(torch.int32).numpy()
    return Grid((stored & 15).astype("uint8"), scale, (zero & 15).astype("uint8"))
