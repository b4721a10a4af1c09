"""Which subgraph the Edge TPU's compiler would map."""

import pathlib

import pytest

from edgekit.formats.edgetpu import mapper as edgetpu_mapper
from edgekit.formats.edgetpu.mapper import (
    LIMITATION,
    MAPPED,
    SUBGRAPH,
    UNSUPPORTED,
    count_subgraphs,
    predict,
)
from edgekit.formats.tflite.graph import Graph, Operator, Tensor


def tensor(index: int, dtype: str = "int8", size: int = 0) -> Tensor:
    return Tensor(
        index=index,
        name=f"t{index}",
        dtype=dtype,
        shape=(1, 4, 4, 8),
        bytes=size,
        values=None,
    )


def graph(
    *operators: tuple[str, tuple[int, ...], int], floats: tuple[int, ...] = ()
) -> Graph:
    """Operators as (name, indices of the tensors that it reads, index of the tensor that it
    writes).
    """

    def at(index: int) -> Tensor:
        return tensor(index, "float32" if index in floats else "int8")

    nodes = tuple(
        Operator(
            index=k,
            op=op,
            version=1,
            inputs=tuple(map(at, reads)),
            outputs=(at(writes),),
            options={},
        )
        for k, (op, reads, writes) in enumerate(operators)
    )
    return Graph(
        path=pathlib.Path("x.tflite"),
        inputs=(),
        outputs=(),
        operators=nodes,
        extra_graphs=0,
    )


S, U = "RELU", "PADV2"


@pytest.mark.parametrize(
    ("subject", "statuses", "count"),
    [
        (graph((S, (0,), 1), (S, (1,), 2)), [MAPPED, MAPPED], 1),
        (
            graph((S, (0,), 1), (U, (1,), 2), (S, (2,), 3), (S, (3,), 4)),
            [MAPPED, UNSUPPORTED, SUBGRAPH, SUBGRAPH],
            2,
        ),
        # A branch parallel to the operator that is not mapped belongs to the first subgraph.
        (
            graph((S, (0,), 1), (U, (1,), 2), (S, (1,), 3), ("ADD", (2, 3), 4)),
            [MAPPED, UNSUPPORTED, MAPPED, SUBGRAPH],
            2,
        ),
        (
            graph((U, (0,), 1), (S, (1,), 2), (U, (2,), 3), (S, (3,), 4)),
            [UNSUPPORTED, MAPPED, UNSUPPORTED, SUBGRAPH],
            2,
        ),
        (graph((U, (0,), 1)), [UNSUPPORTED], 0),
    ],
)
def test_only_the_first_subgraph_is_mapped(
    subject: Graph, statuses: list[str], count: int
) -> None:
    """After the first operator on the CPU, all that reads its results stays there; each later
    subgraph would require -a.
    """
    assert [result.status for result in predict(subject)] == statuses
    assert count_subgraphs(subject) == count


def test_float_ends_stay_on_the_cpu() -> None:
    """As in the compiler's logs: the first QUANTIZE and the last DEQUANTIZE of a
    network with float ends, all between them mapped.
    """
    subject = graph(
        ("QUANTIZE", (0,), 1),
        (S, (1,), 2),
        (S, (2,), 3),
        ("DEQUANTIZE", (3,), 4),
        floats=(0, 4),
    )
    assert [result.status for result in predict(subject)] == [
        LIMITATION,
        MAPPED,
        MAPPED,
        edgetpu_mapper.DTYPE,
    ]


def test_weights_are_counted_once() -> None:
    """Two operators that share weights store them once on the chip."""
    shared = Operator(
        index=0,
        op="CONV_2D",
        version=1,
        inputs=(tensor(0), tensor(1, size=576)),
        outputs=(tensor(2),),
        options={},
    )
    assert edgetpu_mapper.parameter_bytes([shared, shared]) == 576
