"""Reading edgetpu_compiler's output, as version 16 prints it."""

import pytest

from edgekit.formats.edgetpu.log import LogRow, parse

LIMITATION = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
COMPLETE = """Edge TPU Compiler version 16.0.384591198
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
PARTLY = f"""Edge TPU Compiler version 16.0.384591198
Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 3
Number of operations that will run on CPU: 4
Off-chip memory used for streaming uncached model parameters: 10.50KiB

Operator                       Count      Status

QUANTIZE                       1          {LIMITATION}
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


def test_a_fully_mapped_network() -> None:
    """All operators mapped: counts, sizes in bytes, version."""
    log = parse(COMPLETE)
    assert (
        log.succeeded,
        log.version,
        log.mapped,
        log.total,
        log.operations,
        log.subgraphs,
    ) == (True, "16.0.384591198", 31, 31, 31, 1)
    assert (log.on_chip_bytes, log.on_chip_free_bytes, log.off_chip_bytes) == (
        4540334,
        2715812,
        0,
    )
    assert log.rows[0] == LogRow(
        op="CONV_2D", count=13, status="Mapped to Edge TPU"
    )


def test_a_partly_mapped_network() -> None:
    """Operators of one kind may have several statuses; each keeps the compiler's words."""
    log = parse(PARTLY)
    assert (log.succeeded, log.mapped, log.total, log.off_chip_bytes) == (
        True,
        3,
        7,
        10752,
    )
    assert [row.status for row in log.rows if row.op == "CONV_2D"] == [
        "Mapped to Edge TPU",
        "More than one subgraph is not supported",
    ]
    assert log.rows[-1].op == "Custom:TFLite_Detection"


def test_a_failure_and_nonsense() -> None:
    """A failed compilation, and text that is not a log, have no rows and no success."""
    for text in (FAILED, "", "Operator went away 3 times\n"):
        log = parse(text)
        assert (log.succeeded, log.rows, log.total) == (False, (), 0)


# The samples below are written for these tests in the compiler's format. A comment at each
# names where such texts were seen.

#: google-coral/edgetpu issues 342 and 317: with -a, several subgraphs are mapped.
ALL_SUBGRAPHS = """Edge TPU Compiler version 15.0.340273435

Model compiled successfully in 1502 ms.

Input model: net.tflite
Input size: 3.00MiB
Output model: net_edgetpu.tflite
Output size: 3.55MiB
On-chip memory used for caching model parameters: 2.25MiB
On-chip memory remaining for caching model parameters: 4.50MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 3
Total number of operations: 12
Operation log: net_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A \
percentage of the model will instead run on the CPU, which is slower.
Number of operations that will run on Edge TPU: 9
Number of operations that will run on CPU: 3

Operator                       Count      Status

CONV_2D                        7          Mapped to Edge TPU
PAD                            2          Mapped to Edge TPU
TRANSPOSE                      2          Operation not supported
RESIZE_NEAREST_NEIGHBOR        1          Operation version not supported
"""
#: google-coral/edgetpu issues 444, 601, 671: -d tries again with fewer operators until it
#: succeeds.
SEARCHED = """Edge TPU Compiler version 16.0.384591198
Searching for valid delegate with step 10
Try to compile segment with 20 ops
Started a compilation timeout timer of 180 seconds.
ERROR: Restored original execution plan after delegate application failure.
Compilation failed: Compilation failed due to large activation tensors in model.
Compilation child process completed within timeout period.
Compilation failed!
Try to compile segment with 10 ops
Intermediate tensors: block_2/Relu6
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 300 ms.

On-chip memory used for caching model parameters: 1.50MiB
On-chip memory remaining for caching model parameters: 5.25MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 20

Operator                       Count      Status

CONV_2D                        10         Mapped to Edge TPU
ADD                            10         More than one subgraph is not supported
Compilation child process completed within timeout period.
Compilation succeeded!
"""
#: issue 211: without -s there is no table.
WITHOUT_TABLE = """Edge TPU Compiler version 14.1.317412892

Model compiled successfully in 1600 ms.

On-chip memory used for caching model parameters: 6.00MiB
On-chip memory remaining for caching model parameters: 64.00KiB
Off-chip memory used for streaming uncached model parameters: 1.50MiB
Number of Edge TPU subgraphs: 1
Total number of operations: 108

Number of operations that will run on Edge TPU: 102
Number of operations that will run on CPU: 6
See the operation log file for individual operation details.
"""
#: The file that the compiler writes next to its result (issue 187): only the table.
LOG_FILE = """Edge TPU Compiler version 14.1.317412892
Input: tiny.tflite
Output: tiny_edgetpu.tflite

Operator                       Count      Status

MAX_POOL_2D                    6          Mapped to Edge TPU
CONV_2D                        2          More than one subgraph is not supported
"""
HEAD = (
    "Edge TPU Compiler version 16.0.384591198\n"
    "Started a compilation timeout timer of 180 seconds.\n"
)
END = "Compilation child process completed within timeout period.\nCompilation failed!\n"
FIFTEEN = "Edge TPU Compiler version 15.0.340273435\n"
FAILURES = [
    # issues 168, 313
    (
        FIFTEEN + "Invalid model: net.tflite\nModel not quantized\n",
        "not fully int8",
    ),
    # issues 92, 157
    (
        "Edge TPU Compiler version 2.1.302470888\n\nInternal compiler error. Aborting!\n",
        "or the compiler has a bug",
    ),
    # issue 686
    (
        HEAD
        + "Compilation timeout. This is usually caused by large activations.\n"
        "Compilation failed!\n",
        "use smaller images",
    ),
    # issue 829
    (
        HEAD
        + "ERROR: Attempting to use a delegate that only supports static-sized tensors "
        "with a graph that has dynamic-sized tensors.\n"
        "Compilation failed: Model failed in Tflite interpreter.\n" + END,
        "without a fixed size",
    ),
    # issue 384
    (
        FIFTEEN
        + "ERROR: Didn't find op for builtin opcode 'RSQRT' version '2'\n\n"
        "ERROR: Registration failed.\n",
        "does not support RSQRT in version 2",
    ),
    # issue 728
    (
        HEAD
        + "libc++abi: terminating with uncaught exception of type std::out_of_range: "
        "vector\n" + END,
        "a bug",
    ),
    # issue 800: no message
    (HEAD + END, ""),
]


def test_several_subgraphs() -> None:
    """With -a the log counts subgraphs; an operator may be rejected for its version."""
    log = parse(ALL_SUBGRAPHS)
    assert (log.succeeded, log.subgraphs, log.mapped, log.total) == (
        True,
        3,
        9,
        12,
    )
    assert (log.operations_on_tpu, log.operations_on_cpu) == (9, 3)
    assert log.rows[-1].status == "Operation version not supported"


def test_the_last_try_counts() -> None:
    """A search that fails first and then succeeds has succeeded; one that ends with a
    failure has not.
    """
    log = parse(SEARCHED)
    assert (
        log.succeeded,
        log.version,
        log.mapped,
        log.total,
        log.on_chip_bytes,
        log.failure,
    ) == (True, "16.0.384591198", 10, 20, 3 << 19, "")
    assert not parse(
        SEARCHED + "Try to compile segment with 9 ops\n" + HEAD + END
    ).succeeded


def test_a_log_without_a_table() -> None:
    """The compiler's own totals replace the table."""
    log = parse(WITHOUT_TABLE)
    assert (
        log.succeeded,
        log.rows,
        log.mapped,
        log.total,
        log.off_chip_bytes,
    ) == (
        True,
        (),
        102,
        108,
        3 << 19,
    )


def test_the_compilers_own_log_file() -> None:
    """It contains the table and the version, but not whether compilation succeeded."""
    log = parse(LOG_FILE)
    assert (log.version, log.mapped, log.total, log.on_chip_bytes) == (
        "14.1.317412892",
        6,
        8,
        None,
    )


@pytest.mark.parametrize(("text", "meaning"), FAILURES)
def test_failures_are_explained_with_a_fix(text: str, meaning: str) -> None:
    """A failure of the compiler is explained; without a message there is no explanation."""
    log = parse(text)
    assert not log.succeeded and log.version
    assert meaning in log.failure
    assert bool(meaning) == ("Fix: " in log.failure)
