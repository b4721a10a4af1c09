"""The published rules of the Edge TPU, one by one, on graphs written by hand."""

import pathlib
import re
from typing import Any

import pytest

from edgekit.checks import edgetpu_mapper
from edgekit.checks.edgetpu_mapper import DTYPE, LIMITATION, MAPPED, RANK, RULES, SUBGRAPH, UNSUPPORTED, judge, predict
from edgekit.checks.tflite_graph import Graph, Operator, Tensor


def tensor(index: int, shape: tuple[int, ...], dtype: str = "int8", *, size: int = 0, values: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(index=index, name=f"t{index}", dtype=dtype, shape=shape, bytes=size, values=values)


def operator(op: str, *inputs: Tensor | None, output: Tensor | None = None, **options: Any) -> Operator:
    return Operator(index=0, op=op, version=1, inputs=inputs, outputs=(output or tensor(99, (1, 4, 4, 8)),), options=options)


IMAGE = tensor(0, (1, 4, 4, 8))
WEIGHTS = tensor(1, (8, 3, 3, 8), size=576)
ROW = tensor(98, (1, 10))


def axes(*values: int) -> Tensor:
    return tensor(2, (len(values),), "int32", size=4 * len(values), values=values)


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        (operator("CONV_2D", IMAGE, WEIGHTS, dilationWFactor=1, dilationHFactor=1), MAPPED, ""),
        (operator("CONV_2D", IMAGE, WEIGHTS, dilationWFactor=1, dilationHFactor=2), LIMITATION, "dilations"),
        (operator("PADV2", IMAGE), UNSUPPORTED, "PADV2"),
        (operator("TRANSPOSE", IMAGE, axes(0, 3, 1, 2)), UNSUPPORTED, "TRANSPOSE"),
        (operator("ADD", tensor(0, (1, 4), "float32"), IMAGE), DTYPE, "float32"),
        (operator("ADD", tensor(0, (1, 4), "int16"), IMAGE), DTYPE, "int16"),
        (operator("ADD", tensor(0, (2, 4, 4, 8)), IMAGE), RANK, r"\[2, 4, 4, 8\]"),
        (operator("ADD", tensor(0, (1, 1, 4, 4, 8)), IMAGE), MAPPED, ""),
        (operator("MAX_POOL_2D", IMAGE, fusedActivationFunction=1), LIMITATION, "fused activation"),
        (operator("CONCATENATION", IMAGE, WEIGHTS), LIMITATION, "constant"),
        (operator("FULLY_CONNECTED", ROW, WEIGHTS, output=ROW), MAPPED, ""),
        (operator("FULLY_CONNECTED", ROW, WEIGHTS, output=tensor(3, (1, 7, 10))), LIMITATION, "single row"),
        (operator("SOFTMAX", ROW, output=ROW), MAPPED, ""),
        (operator("SOFTMAX", tensor(0, (1, 20_000)), output=ROW), LIMITATION, "16000"),
        (operator("SOFTMAX", tensor(0, (1, 2, 10)), output=ROW), LIMITATION, "single row"),
        (operator("MEAN", IMAGE, axes(1, 2), output=tensor(3, (1, 8))), MAPPED, ""),
        (operator("MEAN", tensor(0, (1, 4, 4, 6)), axes(-1), output=tensor(3, (1, 4, 4))), LIMITATION, "no multiple of 4"),
        (operator("MEAN", IMAGE, tensor(2, (2,), "int8")), LIMITATION, "not constant"),
        (operator("PAD", IMAGE, axes(0, 0, 1, 1, 1, 1, 0, 0)), MAPPED, ""),
        (operator("PAD", IMAGE, axes(1, 0, 1, 1, 1, 1, 0, 0)), LIMITATION, "pads the batch"),
        (operator("PACK", IMAGE, axis=0), LIMITATION, "along the batch"),
        (operator("PRELU", IMAGE, tensor(1, (1, 4, 8), size=32)), LIMITATION, "alpha"),
        (operator("STRIDED_SLICE", IMAGE, axes(0), axes(1), axes(2)), LIMITATION, "strides"),
        (operator("STRIDED_SLICE", IMAGE, axes(0), axes(1), axes(1)), MAPPED, ""),
    ],
)
def test_each_rule(given: Operator, status: str, reason: str) -> None:
    """An operator on its own gets the compiler's status word and a reason."""
    fate = judge(given)
    assert fate.status == status
    assert re.search(reason, fate.reason)


def test_every_rule_has_a_source() -> None:
    """Each entry of the table says where it was read."""
    assert all(rule.source for rule in RULES.values())


def test_what_follows_the_cpu_stays_there() -> None:
    """After the first operator on the CPU, all that reads its results stays on the CPU."""
    chain = [tensor(k, (1, 4, 4, 8)) for k in range(5)]
    ops = ("RELU", "PADV2", "RELU", "RELU")
    operators = tuple(Operator(index=k, op=op, version=1, inputs=(chain[k],), outputs=(chain[k + 1],), options={}) for k, op in enumerate(ops))
    graph = Graph(path=pathlib.Path("x.tflite"), inputs=(chain[0],), outputs=(chain[4],), operators=operators, others=0)
    assert [fate.status for fate in predict(graph)] == [MAPPED, UNSUPPORTED, SUBGRAPH, SUBGRAPH]


def test_weights_are_counted_once() -> None:
    """Two operators that share weights need them once on the chip."""
    shared = operator("CONV_2D", IMAGE, WEIGHTS)
    assert edgetpu_mapper.parameter_bytes([shared, shared]) == 576
