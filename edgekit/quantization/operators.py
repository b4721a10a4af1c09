"""The operators that the quantizer supports, in one literal table.

A row contains how an operator becomes int8 and which runtimes have an int8 kernel for it.
``docs/explanation/quantizer.md`` shows the same table; tests/quantization/test_operators.py
compares both, and tests/quantization/test_each_operator.py runs every row in every runtime.

The kinds, with torchao's terms for their quantization specs:

* weighted: convolutions and linear layers with constant weights (``QuantizationSpec`` for
  input, weight and output). An activation that follows belongs to them.
* binary: two inputs, each with its own scale. An activation that follows belongs to it.
* shared-inputs: all inputs and the output share one scale (``SharedQuantizationSpec``).
* passthrough: only moves values; the output shares the scale of the input
  (``SharedQuantizationSpec``).
* unary: a function of one tensor; its output has its own scale.
* fixed-range: a unary operator whose output range is known beforehand
  (``FixedQParamsQuantizationSpec``).
* decomposed: replaced by other operators of this table first, which compute the same values
  (``decompose``).
* float: never int8, for the reason in the row.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from edgekit.formats import kernels_of, runtimes
from edgekit.target import Runtime

A = torch.ops.aten
Target = Callable[..., Any]
Kind = Literal[
    "weighted",
    "binary",
    "shared-inputs",
    "passthrough",
    "unary",
    "fixed-range",
    "decomposed",
    "float",
]
_ORT: Runtime = "onnxruntime"
_LITE: Runtime = "litert"
_TRT: Runtime = "tensorrt"
_TPU: Runtime = "edgetpu"
_NPU: Runtime = "ethosu"
#: The runtimes whose file is a TFLite file. Those for a device contain more int8 operators
#: than are worthwhile in LiteRT.
TFLITE: tuple[Runtime, ...] = tuple(
    runtime for runtime in runtimes() if _LITE in kernels_of(runtime)
)
_ALL: tuple[Runtime, ...] = (_ORT, _LITE, _TRT)
_CPU: tuple[Runtime, ...] = (_ORT, _LITE)
RECURRENT = "recurrent layers stay float; the scheme w8-dynamic makes their weights int8"


@dataclasses.dataclass(frozen=True)
class Operator:
    """One row of the table.

    An operator stays in float in any runtime that is not in ``runtimes``: it would gain
    nothing there.
    """

    kind: Kind
    runtimes: tuple[Runtime, ...] = ()
    #: For the report: why, or when, the operator stays in float.
    reason: str = ""

    def runs_in(self, runtime: Runtime | None) -> bool:
        """Whether the operator is int8 in a runtime.

        The files of the Edge TPU and the Ethos-U are LiteRT's. None means any runtime: the
        operator is int8 if ONNX Runtime or LiteRT has a kernel, because the other computes
        the same values in float between two scales; a weighted operator only if ONNX
        Runtime has one.
        """
        if runtime is None:
            in_litert = self.kind != "weighted" and _LITE in self.runtimes
            return _ORT in self.runtimes or in_litert
        return any(row in self.runtimes for row in kernels_of(runtime))


_ROWS: tuple[tuple[Operator, tuple[Target, ...]], ...] = (
    (Operator("weighted", _ALL), (
        A.conv1d.default, A.conv2d.default, A.conv1d.padding, A.conv2d.padding,
        A.linear.default,
    )),
    (Operator("weighted", (_ORT, _TRT), "it has no int8 convolution in 3 dimensions"), (
        A.conv3d.default, A.conv3d.padding,
    )),
    (Operator("float", (), "no converter produces an int8 transposed convolution"), (
        A.conv_transpose1d.default, A.conv_transpose2d.input, A.conv_transpose3d.input,
    )),
    (Operator("binary", _ALL), (A.add.Tensor, A.mul.Tensor)),
    # LiteRT multiplies two int8 tensors four times as slowly as two float ones; only a
    # device without float arithmetic gains.
    (Operator("binary", (_ORT, _TRT, _TPU, _NPU)), (A.matmul.default, A.bmm.default)),
    (Operator("binary", (_LITE,)), (A.sub.Tensor,)),
    (Operator("shared-inputs", (_LITE,)), (A.maximum.default, A.minimum.default)),
    (Operator("shared-inputs", _ALL), (A.cat.default, A.stack.default)),
    (Operator("passthrough", _ALL), (
        A.max_pool1d.default, A.max_pool2d.default, A.max_pool3d.default,
        A.avg_pool1d.default, A.avg_pool2d.default, A.avg_pool3d.default,
        A.adaptive_avg_pool1d.default, A.adaptive_avg_pool2d.default,
        A.adaptive_avg_pool3d.default,
        A.mean.dim,
        A.flatten.using_ints, A.unflatten.int, A.reshape.default, A.view.default,
        A.transpose.int, A.permute.default,
        A.squeeze.dim, A.squeeze.dims, A.squeeze.default, A.unsqueeze.default,
        A.slice.Tensor, A.select.int,
        A.contiguous.default, A.clone.default, A.expand.default,
        A.pixel_shuffle.default, A.upsample_nearest1d.vec, A.upsample_nearest2d.vec,
        A.pad.default,
    )),
    (Operator("unary", _ALL), (A.relu.default, A.relu6.default, A.hardtanh.default)),
    (Operator("unary", _CPU), (A.leaky_relu.default,)),
    (Operator("unary", (_LITE,)), (A.hardswish.default, A.gelu.default, A.abs.default)),
    (Operator("fixed-range", _CPU), (A.sigmoid.default,)),
    (Operator("fixed-range", (_LITE,)), (A.tanh.default,)),
    (Operator("fixed-range", (_TPU, _NPU)), (A.softmax.int,)),
    (Operator("decomposed", _CPU), (
        A.addmm.default, A.silu.default, A.hardsigmoid.default, A.clamp.default,
        A.neg.default, A.rsub.Scalar, A.div.Tensor,
        A.chunk.default, A.split.Tensor, A.split_with_sizes.default, A.unbind.int,
        A.scaled_dot_product_attention.default, A.embedding.default,
    )),
    (Operator("float", (), RECURRENT), (A.lstm.input, A.gru.input, A.rnn_tanh.input)),
    (Operator("float", (), "normalizations need more digits than int8 has"), (
        A.layer_norm.default, A.group_norm.default, A.rms_norm.default,
        A.instance_norm.default,
    )),
    (Operator("float", (), "its statistics come from the batch, or from the sample"), (
        A.batch_norm.default,
    )),
    (Operator("float", (), "no runtime has an int8 kernel for it"), (
        A.elu.default, A.prelu.default, A.log_softmax.int,
    )),
)  # fmt: skip
OPERATORS: Mapping[Target, Operator] = {
    target: operator for operator, targets in _ROWS for target in targets
}

#: Marks, in a node's meta, the concatenation of the two halves of a layer that was split.
SPLIT = "edgekit_split"
PASSTHROUGH = {
    target for target, row in OPERATORS.items() if row.kind == "passthrough"
}
WEIGHTED = {
    target for target, row in OPERATORS.items() if row.kind == "weighted"
}
LINEARS = {A.linear.default}
#: Activations that belong to the operator before them.
FUSED = {A.relu.default, A.relu6.default, A.hardtanh.default}
#: The lowest and highest output of the fixed-range operators.
BOUNDS: Mapping[Target, tuple[float, float]] = {
    A.sigmoid.default: (0, 1),
    A.tanh.default: (-1, 1),
    A.softmax.int: (0, 1),
}


def operator_name(target: object) -> str:
    """The name of an operator as reports and the documentation write it."""
    return str(target).removeprefix("aten.").removesuffix(".default")
