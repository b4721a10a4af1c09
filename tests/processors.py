"""What the processor under the tests can compute exactly.

x86 without VNNI adds two products of uint8 and int8 in 16 bits (``vpmaddubsw``), so ONNX
Runtime's default int8 kernels saturate there; see docs/devices/cpu.md. Tests of what a file
means let the runtime use its slower exact kernels.
"""

import functools

import numpy
import onnx
import onnxruntime


def exact_options() -> onnxruntime.SessionOptions:
    """Session options with which products of uint8 and int8 are exact on every processor.

    With them ONNX Runtime 1.31 and 1.32 refuse graphs with a DynamicQuantizeLSTM, or with
    weights that two nodes share ("Attempt to replace the existing tensor").
    """
    options = onnxruntime.SessionOptions()
    if saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@functools.cache
def saturates() -> bool:
    """Whether ONNX Runtime's default int8 kernels saturate on this processor."""
    graph = onnx.parser.parse_graph(
        "g (uint8[1,64] a) => (int32[1,1] y) { y = MatMulInteger(a, b) }"
    )
    graph.initializer.append(
        onnx.numpy_helper.from_array(numpy.full((64, 1), 127, numpy.int8), "b")
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    total = session.run(None, {"a": numpy.full((1, 64), 255, numpy.uint8)})[
        0
    ].item()
    exact, saturated = 64 * 255 * 127, 32 * 32767
    assert total in (exact, saturated)
    return bool(total == saturated)


def exact_session(
    session: onnxruntime.InferenceSession, path: str
) -> onnxruntime.InferenceSession:
    """A session that computes what a file means on this processor.

    That is the session itself, unless its fused int8 kernels saturate: then the file is
    loaded again without fusion, so that Q/DQ pairs compute in float.
    """
    if not saturates():
        return session
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
