"""What the quantizer knows of each operator, in one literal table: how it becomes int8, and
which runtimes have a kernel for that.

``docs/quantizer.md`` shows the same table in words; tests/quantization/test_operators.py
compares the two, and tests/quantization/test_each_operator.py runs every row in every
runtime.

* weighted: convolutions and linear layers with constant weights; an activation that follows
  is part of them
* joining: two tensors with scales of their own; an activation that follows is part of it
* uniting: all its inputs get one scale, and so does the result
* sharing: only passes numbers on; what comes out has the scale of what went in
* curved: a function of one tensor, with a scale of its own
* bounded: a curved operator whose range is known beforehand
* rewritten: becomes other operators of this table first, with the same numbers
  (``decompose``)
* float: never int8, for the reason that is given
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch

from edgekit.formats import kernels_of, runtimes
from edgekit.target import Runtime

A = torch.ops.aten
Kind = Literal[
    "weighted", "joining", "uniting", "sharing", "curved", "bounded", "rewritten", "float"
]
_ORT: Runtime = "onnxruntime"
_LITE: Runtime = "litert"
_TRT: Runtime = "tensorrt"
_TPU: Runtime = "edgetpu"
_NPU: Runtime = "ethosu"
#: The runtimes whose file is a TFLite file; those for a device hold more int8 operators
#: than LiteRT gains by.
TFLITE: tuple[Runtime, ...] = tuple(
    runtime for runtime in runtimes() if _LITE in kernels_of(runtime)
)
_ALL: tuple[Runtime, ...] = (_ORT, _LITE, _TRT)
_CPU: tuple[Runtime, ...] = (_ORT, _LITE)
RECURRENT = "recurrent layers stay float; the scheme w8-dynamic makes their weights int8"


@dataclasses.dataclass(frozen=True)
class Operator:
    """One row.

    A weighted operator outside of ``runtimes`` stays float there; any other would gain
    nothing, so it stays float there too.
    """

    kind: Kind
    runtimes: tuple[Runtime, ...] = ()
    #: For the report: why it stays float, or when.
    reason: str = ""

    def runs_in(self, runtime: Runtime | None) -> bool:
        """Whether it is int8 in a runtime; the Edge TPU's and the Ethos-U's files are
        LiteRT's. For no runtime in particular: wherever ONNX Runtime or LiteRT has a
        kernel, as the other computes the same numbers in float between two scales; but
        weights only where ONNX Runtime has one.
        """
        if runtime is None:
            return _ORT in self.runtimes or (
                self.kind != "weighted" and _LITE in self.runtimes
            )
        return any(row in self.runtimes for row in kernels_of(runtime))


def _rows(
    operator: Operator, *targets: Callable[..., Any]
) -> Iterator[tuple[Callable[..., Any], Operator]]:
    return ((target, operator) for target in targets)


OPERATORS: Mapping[Callable[..., Any], Operator] = dict(
    (
        *_rows(
            Operator("weighted", _ALL),
            A.conv1d.default,
            A.conv2d.default,
            A.conv1d.padding,
            A.conv2d.padding,
            A.linear.default,
        ),
        *_rows(
            Operator(
                "weighted", (_ORT, _TRT), "it has no int8 convolution in 3 dimensions"
            ),
            A.conv3d.default,
            A.conv3d.padding,
        ),
        *_rows(
            Operator(
                "float", (), "no converter makes an int8 transposed convolution of it"
            ),
            A.conv_transpose1d.default,
            A.conv_transpose2d.input,
            A.conv_transpose3d.input,
        ),
        *_rows(Operator("joining", _ALL), A.add.Tensor, A.mul.Tensor),
        # LiteRT multiplies two int8 tensors four times as slowly as two float ones; only a
        # device without floats gains.
        *_rows(
            Operator("joining", (_ORT, _TRT, _TPU, _NPU)), A.matmul.default, A.bmm.default
        ),
        *_rows(Operator("joining", (_LITE,)), A.sub.Tensor),
        *_rows(Operator("uniting", (_LITE,)), A.maximum.default, A.minimum.default),
        *_rows(Operator("uniting", _ALL), A.cat.default, A.stack.default),
        *_rows(
            Operator("sharing", _ALL),
            A.max_pool1d.default,
            A.max_pool2d.default,
            A.max_pool3d.default,
            A.avg_pool1d.default,
            A.avg_pool2d.default,
            A.avg_pool3d.default,
            A.adaptive_avg_pool1d.default,
            A.adaptive_avg_pool2d.default,
            A.adaptive_avg_pool3d.default,
            A.mean.dim,
            A.flatten.using_ints,
            A.unflatten.int,
            A.reshape.default,
            A.view.default,
            A.transpose.int,
            A.permute.default,
            A.squeeze.dim,
            A.squeeze.dims,
            A.squeeze.default,
            A.unsqueeze.default,
            A.slice.Tensor,
            A.select.int,
            A.contiguous.default,
            A.clone.default,
            A.expand.default,
            A.pixel_shuffle.default,
            A.upsample_nearest1d.vec,
            A.upsample_nearest2d.vec,
            A.pad.default,
        ),
        *_rows(
            Operator("curved", _ALL), A.relu.default, A.relu6.default, A.hardtanh.default
        ),
        *_rows(Operator("curved", _CPU), A.leaky_relu.default),
        *_rows(
            Operator("curved", (_LITE,)), A.hardswish.default, A.gelu.default, A.abs.default
        ),
        *_rows(Operator("bounded", _CPU), A.sigmoid.default),
        *_rows(Operator("bounded", (_LITE,)), A.tanh.default),
        *_rows(Operator("bounded", (_TPU, _NPU)), A.softmax.int),
        *_rows(
            Operator("rewritten", _CPU),
            A.addmm.default,
            A.silu.default,
            A.hardsigmoid.default,
            A.clamp.default,
            A.neg.default,
            A.rsub.Scalar,
            A.div.Tensor,
            A.chunk.default,
            A.split.Tensor,
            A.split_with_sizes.default,
            A.unbind.int,
            A.scaled_dot_product_attention.default,
            A.embedding.default,
        ),
        *_rows(
            Operator("float", (), RECURRENT), A.lstm.input, A.gru.input, A.rnn_tanh.input
        ),
        *_rows(
            Operator("float", (), "normalizations need more digits than int8 has"),
            A.layer_norm.default,
            A.group_norm.default,
            A.rms_norm.default,
            A.instance_norm.default,
        ),
        *_rows(
            Operator("float", (), "its statistics come from the batch, or from the sample"),
            A.batch_norm.default,
        ),
        *_rows(
            Operator("float", (), "no runtime has an int8 kernel for it"),
            A.elu.default,
            A.prelu.default,
            A.log_softmax.int,
        ),
    )
)

#: Marks, in a node's meta, the concatenation that puts a layer together again that was
#: split.
SPLIT = "edgekit_split"
SHARING = {target for target, row in OPERATORS.items() if row.kind == "sharing"}
WEIGHTED = {target for target, row in OPERATORS.items() if row.kind == "weighted"}
#: Activations that belong to the operator before them.
FUSED = {A.relu.default, A.relu6.default, A.hardtanh.default}
#: Bounded operators: the lowest and the highest number that they give.
BOUNDS: Mapping[Callable[..., Any], tuple[float, float]] = {
    A.sigmoid.default: (0, 1),
    A.tanh.default: (-1, 1),
    A.softmax.int: (0, 1),
}


def name(target: object) -> str:
    """An operator's name as reports and the document write it."""
    return str(target).removeprefix("aten.").removesuffix(".default")
