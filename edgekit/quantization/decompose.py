"""Replacing operators by others that the runtimes have in int8.

The float network computes the same values; only embeddings are rounded.

``rewrite`` prepares every graph in the same way. What is done here depends on how the graph
will be quantized, and for which runtime.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.formats import kernels_of, runtimes
from edgekit.quantization.capture import module_of
from edgekit.quantization.edgetpu import EDGETPU_REWRITES
from edgekit.quantization.graph_edit import constant_value, replace_node
from edgekit.quantization.operators import TFLITE, WEIGHTED, A
from edgekit.quantization.settings import Settings
from edgekit.quantization.site import Site
from edgekit.quantization.split_layer import split_layer

#: A larger constant (a mask of attention scores) would need a scale so coarse that the
#: tensor it is added to would be lost.
_LARGEST = 1024.0
_MILLIONTH = 2**-20
_INT8_MAX = 127
#: Runtimes that have an int8 kernel of ONNX Runtime or LiteRT.
_EMBEDDING_RUNTIMES = tuple(
    runtime
    for runtime in runtimes()
    if {"onnxruntime", "litert"}.intersection(kernels_of(runtime))
)
#: Runtimes of devices without float arithmetic: the only ones that gain by int8 attention.
_ATTENTION_RUNTIMES = ("edgetpu", "ethosu")
#: Operators whose kernels can include a clip of their output.
_CAN_CLIP = (*WEIGHTED, A.add.Tensor, A.mul.Tensor, A.sub.Tensor)


def decompose(graph: GraphModule, settings: Settings) -> None:
    """Replace operators of a graph in place.

    Raises StepError if a layer of ``settings.split`` cannot be split.
    """
    for path, channel in settings.split:
        split_layer(graph, path, channel)
    if settings.runtime == "edgetpu":
        # First, since its replacements are operators of the second table.
        _apply(EDGETPU_REWRITES, graph, settings)
    _apply(_REWRITES, graph, settings)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def _apply(
    table: Mapping[Callable[..., Any], Callable[[Site], None]],
    graph: GraphModule,
    settings: Settings,
) -> None:
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or settings.keeps(module_of(node)):
            continue
        rewrite = table.get(node.target)
        if rewrite is not None:
            rewrite(Site(graph, node, settings))


def _transposed_constant(site: Site) -> None:
    """A transposed constant becomes a constant."""
    stored = constant_value(site.graph, site.args[0])
    if stored is not None:
        target: Any = site.node.target
        transposed = target(stored, *site.args[1:]).contiguous()
        site.replace_with(site.insert_constant("turned", transposed))


def _addmm(site: Site) -> None:
    """bias + x @ W with constant W becomes a linear layer."""
    bias, value, weight = site.args[:3]
    stored = constant_value(site.graph, weight)
    has_bias = constant_value(site.graph, bias) is not None
    if stored is None or not has_bias or site.node.kwargs:
        return
    transposed = site.insert_constant("weight", stored.t().contiguous())
    site.replace_with(site.insert(A.linear.default, value, transposed, bias))


def _matmul(site: Site) -> None:
    """x @ W with constant W becomes a linear layer."""
    stored = constant_value(site.graph, site.args[1])
    if stored is None or stored.dim() != 2 or not site.is_float:
        return
    transposed = site.insert_constant("weight", stored.t().contiguous())
    site.replace_with(site.insert(A.linear.default, site.args[0], transposed))


def _linear(site: Site) -> None:
    """With placement "linear", a bias becomes a separate Add.

    On ONNX Runtime a Gemm with a float output does not fuse; a MatMul does.
    """
    if site.settings.placement != "linear" or site.node.meta["val"].dim() != 2:
        return
    if len(site.args) < 3 or site.args[2] is None:
        return
    if constant_value(site.graph, site.args[1]) is not None:
        product = site.insert(A.linear.default, *site.args[:2])
        site.replace_with(site.insert(A.add.Tensor, product, site.args[2]))


def _add_number(sign: int) -> Callable[[Site], None]:
    """x + number or x - number becomes a sum with a constant tensor."""

    def rewrite(site: Site) -> None:
        value = _number(site.args[1])
        if value is None or not site.is_float:
            return
        value *= sign * float(site.node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
        if abs(value) <= _LARGEST:
            number = site.insert_number(value)
            site.replace_with(site.insert(A.add.Tensor, site.args[0], number))

    return rewrite


def _multiply_number(site: Site) -> None:
    """x * number becomes a product with a constant tensor."""
    value = _number(site.args[1])
    if value is not None and site.is_float and _is_moderate(value):
        number = site.insert_number(value)
        site.replace_with(site.insert(A.mul.Tensor, site.args[0], number))


def _divide(site: Site) -> None:
    """x / constant becomes a product with the reciprocal."""
    if not site.is_float or site.node.kwargs:
        return
    value = _number(site.args[1])
    stored = constant_value(site.graph, site.args[1])
    if value is not None and _is_moderate(value):
        number = site.insert_number(1 / value)
        site.replace_with(site.insert(A.mul.Tensor, site.args[0], number))
    elif (
        stored is not None
        and stored.dtype == torch.float32
        and bool((stored != 0).all())
    ):
        reciprocal = site.insert_constant("reciprocal", 1 / stored)
        site.replace_with(site.insert(A.mul.Tensor, site.args[0], reciprocal))


def _negate(site: Site) -> None:
    if site.is_float:
        minus_one = site.insert_number(-1.0)
        site.replace_with(site.insert(A.mul.Tensor, site.args[0], minus_one))


def _subtract_from_number(site: Site) -> None:
    """number - x becomes -1 * x + number."""
    value = _number(site.args[1])
    if value is None or abs(value) > _LARGEST or not site.is_float:
        return
    if len(site.args) != 2 or site.node.kwargs:
        return
    negated = site.insert(A.mul.Tensor, site.args[0], site.insert_number(-1.0))
    site.replace_with(
        site.insert(A.add.Tensor, negated, site.insert_number(value))
    )


def _silu(site: Site) -> None:
    """x * sigmoid(x). TensorRT computes SiLU inside the layer before it."""
    if site.settings.runtime != "tensorrt" and site.is_float:
        gate = site.insert(A.sigmoid.default, site.args[0])
        site.replace_with(site.insert(A.mul.Tensor, site.args[0], gate))


def _hardsigmoid(site: Site) -> None:
    """relu6(x + 3) / 6 for TFLite."""
    if site.settings.runtime in TFLITE and site.is_float:
        shifted = site.insert(
            A.add.Tensor, site.args[0], site.insert_number(3.0)
        )
        clipped = site.insert(A.relu6.default, shifted)
        sixth = site.insert_number(1 / 6)
        site.replace_with(site.insert(A.mul.Tensor, clipped, sixth))


def _clamp(site: Site) -> None:
    """A clip at both ends becomes hardtanh, which kernels include; at zero it is a ReLU."""
    low = _number(site.args[1]) if len(site.args) > 1 else None
    high = _number(site.args[2]) if len(site.args) > 2 else None
    if not site.is_float or site.node.kwargs:
        return
    if low is not None and high is not None:
        upper = _upper_bound(site, low, high)
        site.replace_with(
            site.insert(A.hardtanh.default, site.args[0], low, upper)
        )
    elif low == 0 and len(site.args) == 2:
        site.replace_with(site.insert(A.relu.default, site.args[0]))


def _hardtanh(site: Site) -> None:
    """A clip to [0, 1] gets the upper bound that TFLite needs."""
    explicit = site.args[1:3]
    # torch leaves out trailing bounds that have their default.
    bounds = (*explicit, *(-1, 1)[len(explicit) :])
    upper = _upper_bound(site, 0.0, 1.0)
    if bounds == (0, 1) and site.is_float and upper != 1:
        site.replace_with(
            site.insert(A.hardtanh.default, site.args[0], 0.0, upper)
        )


def _upper_bound(site: Site, low: float, high: float) -> float:
    """The upper bound of a clip for the runtime.

    TFLite's converter turns a clip to [0, 1] that belongs to the operator before it into
    RELU_0_TO_1, and leaves both in float. With a bound that is a millionth higher it is a
    MINIMUM, which is int8. A RELU_0_TO_1 alone is int8 too.
    """
    first = site.args[0]
    is_unit_clip = (low, high) == (0, 1) and site.settings.runtime in TFLITE
    if not is_unit_clip or not isinstance(first, Node):
        return high
    if first.target in _CAN_CLIP and len(first.users) == 1:
        return high + _MILLIONTH
    return high


def _split(site: Site) -> None:
    """The pieces of a tensor become slices, which keep its scale."""
    axis = _axis(site)
    first: Any = site.args[0]
    if not isinstance(first.meta["val"].shape[axis], int) or not _is_unpacked(
        site
    ):
        return
    bounds = [0]
    for piece in site.node.meta["val"]:
        bounds.append(bounds[-1] + int(piece.shape[axis]))
    for user in list(site.node.users):
        index = int(str(user.args[1]))
        start, end = bounds[index : index + 2]
        replace_node(user, site.insert(A.slice.Tensor, first, axis, start, end))


def _unbind(site: Site) -> None:
    """The rows of a tensor become selections, which keep its scale."""
    axis = int(str(site.args[1])) if len(site.args) > 1 else 0
    if not _is_unpacked(site):
        return
    for user in list(site.node.users):
        index = int(str(user.args[1]))
        replace_node(user, site.insert(A.select.int, site.args[0], axis, index))


def _is_unpacked(site: Site) -> bool:
    """Whether a tuple of tensors is only read item by item."""
    return all(user.target is operator.getitem for user in site.node.users)


def _attention(site: Site) -> None:
    """Attention becomes matmul, softmax, matmul, for a device without float arithmetic.

    LiteRT itself is slower with it. Attention with a mask stays in float.
    """
    if site.settings.runtime not in _ATTENTION_RUNTIMES:
        return
    if site.settings.placement != "all" or not site.is_float:
        return
    if any(site.args[3:]) or not set(site.node.kwargs) <= {"scale"}:
        return
    query, key, value = site.args[:3]
    assert isinstance(query, Node)
    assert isinstance(key, Node)
    scale: Any = site.node.kwargs.get("scale")
    if scale is None:
        scale = query.meta["val"].shape[-1] ** -0.5
    scaled = site.insert(A.mul.Tensor, query, site.insert_number(float(scale)))
    transposed = site.insert(A.transpose.int, key, -2, -1)
    scores = site.insert(A.matmul.default, scaled, transposed)
    weights = site.insert(A.softmax.int, scores, -1)
    site.replace_with(site.insert(A.matmul.default, weights, value))


def _embedding(site: Site) -> None:
    """An embedding gets int8 rows with per-row scales.

    The file is a quarter as large, and only the rows that are looked up are dequantized.
    """
    stored = constant_value(site.graph, site.args[0])
    if stored is None or stored.dtype != torch.float32:
        return
    if site.settings.runtime not in _EMBEDDING_RUNTIMES:
        return
    scales = stored.abs().amax(1, keepdim=True).clamp(min=1e-12) / _INT8_MAX
    rounded = torch.round(stored / scales).to(torch.int8)
    index = site.args[1]
    rows = site.insert_constant("rows", rounded)
    row = site.insert(A.embedding.default, rows, index)
    row = site.insert(A.to.dtype, row, torch.float32)
    row_scale = site.insert_constant("scales", scales)
    scale = site.insert(A.embedding.default, row_scale, index)
    site.replace_with(site.insert(A.mul.Tensor, row, scale))


def _number(item: object) -> float | None:
    is_number = isinstance(item, int | float) and not isinstance(item, bool)
    return float(item) if is_number else None  # type: ignore[arg-type]


def _is_moderate(value: float) -> bool:
    return 1 / _LARGEST <= abs(value) <= _LARGEST


def _axis(site: Site) -> int:
    first: Any = site.args[0]
    axis = (
        site.args[2] if len(site.args) > 2 else site.node.kwargs.get("dim", 0)
    )
    return int(str(axis)) % int(first.meta["val"].dim())


_REWRITES: Mapping[Callable[..., Any], Callable[[Site], None]] = {
    A.t.default: _transposed_constant,
    A.transpose.int: _transposed_constant,
    A.permute.default: _transposed_constant,
    A.addmm.default: _addmm,
    A.matmul.default: _matmul,
    A.mm.default: _matmul,
    A.linear.default: _linear,
    A.add.Tensor: _add_number(1),
    A.sub.Tensor: _add_number(-1),
    A.mul.Tensor: _multiply_number,
    A.div.Tensor: _divide,
    A.neg.default: _negate,
    A.rsub.Scalar: _subtract_from_number,
    A.silu.default: _silu,
    A.hardsigmoid.default: _hardsigmoid,
    A.clamp.default: _clamp,
    A.hardtanh.default: _hardtanh,
    A.chunk.default: _split,
    A.split.Tensor: _split,
    A.split_with_sizes.default: _split,
    A.unbind.int: _unbind,
    A.scaled_dot_product_attention.default: _attention,
    A.embedding.default: _embedding,
}
