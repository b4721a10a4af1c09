"""Write operators as others that the runtimes have in int8.

In float the network computes what it did; only embeddings are rounded.

``rewrite`` makes every graph fit; what is done here depends on how the graph will be
quantized, and for which runtime.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.formats import kernels_of, runtimes
from edgekit.quantization.capture import module_of
from edgekit.quantization.edgetpu import FOR_EDGETPU
from edgekit.quantization.operators import SPLIT, TFLITE, WEIGHTED, A
from edgekit.quantization.rewrite import LINEARS, constant, replace
from edgekit.quantization.settings import Settings
from edgekit.quantization.site import Site

#: A plain number outside of this range (a mask of attention scores) would leave no step to
#: what it is added to.
_LARGEST = 1024.0
_MILLIONTH = 2**-20
_EMBEDDING_RUNTIMES = tuple(
    runtime
    for runtime in runtimes()
    if {"onnxruntime", "litert"}.intersection(kernels_of(runtime))
)


def decompose(graph: GraphModule, settings: Settings) -> None:
    """Change the graph in place. Raises StepError for a split that no layer allows."""
    for path, channel in settings.split:
        _split_layer(graph, path, channel)
    # What the Edge TPU lacks comes first: it is written with operators of the second table.
    for table in (FOR_EDGETPU, _CHANGES) if settings.runtime == "edgetpu" else (_CHANGES,):
        for node in list(graph.graph.nodes):
            change = table.get(node.target) if node.op == "call_function" else None
            if change is not None and not settings.keeps(module_of(node)):
                change(Site(graph, node, settings))
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def _turned(site: Site) -> None:
    """A transposed constant is a constant."""
    stored = constant(site.graph, site.args[0])
    if stored is not None:
        turned = site.node.target(stored, *site.args[1:])  # type: ignore[operator]
        site.put(site.store("turned", turned.contiguous()))


def _linear_of_addmm(site: Site) -> None:
    bias, value, weight = site.args[:3]
    stored = constant(site.graph, weight)
    if (
        stored is not None
        and constant(site.graph, bias) is not None
        and not site.node.kwargs
    ):
        site.put(
            site.make(
                A.linear.default, value, site.store("weight", stored.t().contiguous()), bias
            )
        )


def _linear_of_matmul(site: Site) -> None:
    stored = constant(site.graph, site.args[1])
    if stored is not None and stored.dim() == 2 and site.is_float:
        site.put(
            site.make(
                A.linear.default,
                site.args[0],
                site.store("weight", stored.t().contiguous()),
            )
        )


def _bias_apart(site: Site) -> None:
    """On ONNX Runtime a Gemm with a float result does not fuse; a MatMul does, and its bias
    is an Add.
    """
    if (
        site.settings.placement != "linear"
        or site.node.meta["val"].dim() != 2
        or len(site.args) < 3
        or site.args[2] is None
    ):
        return
    if constant(site.graph, site.args[1]) is not None:
        site.put(
            site.make(
                A.add.Tensor, site.make(A.linear.default, *site.args[:2]), site.args[2]
            )
        )


def _sum_with_number(sign: int) -> Callable[[Site], None]:
    def change(site: Site) -> None:
        value = _number(site.args[1])
        if value is not None and site.is_float:
            value *= sign * float(site.node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
            if abs(value) <= _LARGEST:
                site.put(site.make(A.add.Tensor, site.args[0], site.number(value)))

    return change


def _product_with_number(site: Site) -> None:
    value = _number(site.args[1])
    if value is not None and site.is_float and 1 / _LARGEST <= abs(value) <= _LARGEST:
        site.put(site.make(A.mul.Tensor, site.args[0], site.number(value)))


def _quotient(site: Site) -> None:
    if not site.is_float or site.node.kwargs:
        return
    value, stored = _number(site.args[1]), constant(site.graph, site.args[1])
    if value is not None and 1 / _LARGEST <= abs(value) <= _LARGEST:
        site.put(site.make(A.mul.Tensor, site.args[0], site.number(1 / value)))
    elif stored is not None and stored.dtype == torch.float32 and bool((stored != 0).all()):
        site.put(
            site.make(A.mul.Tensor, site.args[0], site.store("reciprocal", 1 / stored))
        )


def _negative(site: Site) -> None:
    if site.is_float:
        site.put(site.make(A.mul.Tensor, site.args[0], site.number(-1.0)))


def _number_minus(site: Site) -> None:
    value = _number(site.args[1])
    if (
        value is not None
        and abs(value) <= _LARGEST
        and site.is_float
        and len(site.args) == 2
        and not site.node.kwargs
    ):
        site.put(
            site.make(
                A.add.Tensor,
                site.make(A.mul.Tensor, site.args[0], site.number(-1.0)),
                site.number(value),
            )
        )


def _silu(site: Site) -> None:
    if (
        site.settings.runtime != "tensorrt" and site.is_float
    ):  # TensorRT computes it inside the layer before it
        site.put(
            site.make(
                A.mul.Tensor, site.args[0], site.make(A.sigmoid.default, site.args[0])
            )
        )


def _hardsigmoid(site: Site) -> None:
    if site.settings.runtime in TFLITE and site.is_float:
        raised = site.make(
            A.relu6.default, site.make(A.add.Tensor, site.args[0], site.number(3.0))
        )
        site.put(site.make(A.mul.Tensor, raised, site.number(1 / 6)))


def _clip(site: Site) -> None:
    """A clip at both ends belongs to the operator before it; at zero it is a ReLU."""
    low, high = (
        _number(site.args[1]) if len(site.args) > 1 else None,
        _number(site.args[2]) if len(site.args) > 2 else None,
    )
    if not site.is_float or site.node.kwargs:
        return
    if low is not None and high is not None:
        site.put(
            site.make(A.hardtanh.default, site.args[0], low, _highest(site, low, high))
        )
    elif low == 0 and len(site.args) == 2:
        site.put(site.make(A.relu.default, site.args[0]))


def _unit_clip(site: Site) -> None:
    bounds = (
        *site.args[1:3],
        *(-1, 1)[len(site.args) - 1 :],
    )  # torch leaves a bound out that is the default
    highest = _highest(site, 0.0, 1.0)
    if bounds == (0, 1) and site.is_float and highest != 1:
        site.put(site.make(A.hardtanh.default, site.args[0], 0.0, highest))


def _highest(site: Site, low: float, high: float) -> float:
    """A clip to [0, 1] that belongs to the operator before it, for TFLite: its converter
    makes RELU_0_TO_1 of it, and leaves both float. A millionth more is a MINIMUM, which
    is int8; alone RELU_0_TO_1 is int8 too.
    """
    first = site.args[0]
    belongs = (
        isinstance(first, Node)
        and first.target in (*WEIGHTED, A.add.Tensor, A.mul.Tensor, A.sub.Tensor)
        and len(first.users) == 1
    )
    return (
        high + _MILLIONTH
        if belongs and (low, high) == (0, 1) and site.settings.runtime in TFLITE
        else high
    )


def _pieces(site: Site) -> None:
    """Pieces of a tensor as slices, which keep its scale."""
    axis, first = _axis(site), site.args[0]
    bounds, total = [0], first.meta["val"].shape[axis]  # type: ignore[union-attr]
    if not isinstance(total, int) or any(
        user.target is not operator.getitem for user in site.node.users
    ):
        return
    for piece in site.node.meta["val"]:
        bounds.append(bounds[-1] + int(piece.shape[axis]))
    for user in list(site.node.users):
        index = int(str(user.args[1]))
        replace(
            user, site.make(A.slice.Tensor, first, axis, bounds[index], bounds[index + 1])
        )


def _rows(site: Site) -> None:
    axis = int(str(site.args[1])) if len(site.args) > 1 else 0
    if all(user.target is operator.getitem for user in site.node.users):
        for user in list(site.node.users):
            replace(
                user, site.make(A.select.int, site.args[0], axis, int(str(user.args[1])))
            )


def _attention(site: Site) -> None:
    """Scaled products, softmax, products, for a device without floats: LiteRT itself is
    slower with it. Masks stay with the float operator.
    """
    query, key, value = site.args[:3]
    assert isinstance(query, Node) and isinstance(key, Node)
    plain = not any(site.args[3:]) and set(site.node.kwargs) <= {"scale"}
    if (
        site.settings.runtime not in ("edgetpu", "ethosu")
        or site.settings.placement != "all"
        or not plain
        or not site.is_float
    ):
        return
    scale = site.node.kwargs.get("scale")
    factor = (
        float(str(scale))
        if scale is not None
        else float(query.meta["val"].shape[-1]) ** -0.5
    )
    scaled = site.make(A.mul.Tensor, query, site.number(factor))
    scores = site.make(A.matmul.default, scaled, site.make(A.transpose.int, key, -2, -1))
    site.put(site.make(A.matmul.default, site.make(A.softmax.int, scores, -1), value))


def _embedding(site: Site) -> None:
    """Rows of int8 with a scale each: a quarter of the file, and nothing but the rows that
    are read is made float again.
    """
    stored = constant(site.graph, site.args[0])
    if (
        stored is None
        or stored.dtype != torch.float32
        or site.settings.runtime not in _EMBEDDING_RUNTIMES
    ):
        return
    scales = stored.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    rounded = torch.round(stored / scales).to(torch.int8)
    index = site.args[1]
    row = site.make(
        A.to.dtype,
        site.make(A.embedding.default, site.store("rows", rounded), index),
        torch.float32,
    )
    site.put(
        site.make(
            A.mul.Tensor,
            row,
            site.make(A.embedding.default, site.store("scales", scales), index),
        )
    )


def _split_layer(graph: GraphModule, path: str, channel: int) -> None:
    """One layer as two, their results put together in float."""
    found = [
        node
        for node in graph.graph.nodes
        if node.op == "call_function"
        and node.target in WEIGHTED
        and module_of(node) == path
    ]
    fix = "name a convolution or linear layer, and the first channel of its second part"
    if not found:
        raise StepError(
            f"{path} cannot be split: it is no convolution or linear layer.", fix=fix
        )
    for node in found:
        weight, bias = (
            constant(graph, node.args[1]),
            constant(graph, node.args[2]) if len(node.args) > 2 else None,
        )
        grouped = node.target not in LINEARS and len(node.args) > 6 and node.args[6] != 1
        if weight is None or grouped or not 0 < channel < len(weight):
            has = (
                "groups" if grouped else f"{0 if weight is None else len(weight)} channels"
            )
            raise StepError(
                f"{path} cannot be split at channel {channel}: it has {has}.", fix=fix
            )
        site, parts = Site(graph, node, Settings()), []
        for name, part in (
            ("first", slice(None, channel)),
            ("second", slice(channel, None)),
        ):
            stored = [
                site.store(f"{name}_weight", weight[part]),
                None if bias is None else site.store(f"{name}_bias", bias[part]),
            ]
            parts.append(site.make(node.target, node.args[0], *stored, *node.args[3:]))
        whole = site.make(A.cat.default, parts, -1 if node.target in LINEARS else 1)
        whole.meta[SPLIT] = True
        site.put(whole)


def _number(item: object) -> float | None:
    return (
        float(item)
        if isinstance(item, int | float) and not isinstance(item, bool)
        else None
    )


def _axis(site: Site) -> int:
    rank = int(site.args[0].meta["val"].dim())  # type: ignore[union-attr]
    return (
        int(str(site.args[2]))
        if len(site.args) > 2
        else int(str(site.node.kwargs.get("dim", 0)))
    ) % rank


_CHANGES: Mapping[Callable[..., Any], Callable[[Site], None]] = {
    A.t.default: _turned,
    A.transpose.int: _turned,
    A.permute.default: _turned,
    A.addmm.default: _linear_of_addmm,
    A.matmul.default: _linear_of_matmul,
    A.mm.default: _linear_of_matmul,
    A.linear.default: _bias_apart,
    A.add.Tensor: _sum_with_number(1),
    A.sub.Tensor: _sum_with_number(-1),
    A.mul.Tensor: _product_with_number,
    A.div.Tensor: _quotient,
    A.neg.default: _negative,
    A.rsub.Scalar: _number_minus,
    A.silu.default: _silu,
    A.hardsigmoid.default: _hardsigmoid,
    A.clamp.default: _clip,
    A.hardtanh.default: _unit_clip,
    A.chunk.default: _pieces,
    A.split.Tensor: _pieces,
    A.split_with_sizes.default: _pieces,
    A.unbind.int: _rows,
    A.scaled_dot_product_attention.default: _attention,
    A.embedding.default: _embedding,
}
