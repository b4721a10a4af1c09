"""Reading edgetpu_compiler's output, as version 16 prints it."""

from edgekit.steps.edgetpu_log import LogRow, parse

WHOLE = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 412 ms.

Input model: /tmp/main.tflite
Input size: 4.08MiB
Output model: /tmp/out/main_edgetpu.tflite
Output size: 4.38MiB
On-chip memory used for caching model parameters: 4.33MiB
On-chip memory remaining for caching model parameters: 2.59MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 31
Operation log: /tmp/out/main_edgetpu.log

Operator                       Count      Status

CONV_2D                        13         Mapped to Edge TPU
DEPTHWISE_CONV_2D              13         Mapped to Edge TPU
RESHAPE                        1          Mapped to Edge TPU
SOFTMAX                        1          Mapped to Edge TPU
QUANTIZE                       2          Mapped to Edge TPU
MEAN                           1          Mapped to Edge TPU
Compilation child process completed within timeout period.
Compilation succeeded!
"""
PARTLY = """Edge TPU Compiler version 16.0.384591198
Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 3
Number of operations that will run on CPU: 4
Off-chip memory used for streaming uncached model parameters: 10.50KiB

Operator                       Count      Status

QUANTIZE                       1          Operation is otherwise supported, but not mapped due to some unspecified limitation
QUANTIZE                       1          Mapped to Edge TPU
CONV_2D                        2          Mapped to Edge TPU
CONV_2D                        1          More than one subgraph is not supported
TRANSPOSE                      1          Operation not supported
Custom:TFLite_Detection        1          Operation is working on an unsupported data type
"""
FAILED = """Edge TPU Compiler version 16.0.384591198
Invalid model: /tmp/main.tflite
Model not quantized
"""


def test_a_whole_network() -> None:
    """All operators mapped: counts, sizes in bytes, version."""
    log = parse(WHOLE)
    assert (log.succeeded, log.version, log.mapped, log.total, log.operations, log.subgraphs) == (True, "16.0.384591198", 31, 31, 31, 1)
    assert (log.on_chip_bytes, log.on_chip_free_bytes, log.off_chip_bytes) == (4540334, 2715812, 0)
    assert log.rows[0] == LogRow(op="CONV_2D", count=13, status="Mapped to Edge TPU")


def test_a_network_that_is_cut() -> None:
    """One kind of operator may have several fates; each keeps the compiler's words."""
    log = parse(PARTLY)
    assert (log.succeeded, log.mapped, log.total, log.off_chip_bytes) == (True, 3, 7, 10752)
    assert [row.status for row in log.rows if row.op == "CONV_2D"] == ["Mapped to Edge TPU", "More than one subgraph is not supported"]
    assert log.rows[-1].op == "Custom:TFLite_Detection"


def test_a_failure_and_nonsense() -> None:
    """A failed compilation, and text that is no log, give no rows and no success."""
    for text in (FAILED, "", "Operator went away 3 times\n"):
        log = parse(text)
        assert (log.succeeded, log.rows, log.total) == (False, (), 0)
