"""A report as a real run writes it: four targets with raced, dropped, failed, inconclusive
and unmeasured rows. No framework is needed.
"""

from typing import Any

from edgekit.measurement import (
    Measurement,
    MeasurementName,
    Verdict,
    unmeasured,
)
from edgekit.report import (
    ArtifactReport,
    CandidateReport,
    GateReport,
    Report,
    ShippedFile,
    StageReport,
    TargetReport,
)
from edgekit.signature import Signature, TensorSpec

ORT = "local: onnxruntime 1.31.1, 1 thread"
LITERT = "local: ai-edge-litert 2.3.0, 1 thread"
SIMULATED = "local: onnxruntime 1.31.1, optimizations off, on the Q/DQ graph"
BUILD_LOG = "tensorrt_rtx 1.7.1, built for SM86, SM89, SM120, not run"
PREDICTED = (
    "predicted from the file's operators; edgetpu_compiler is not installed"
)
NO_GPU = "no NVIDIA GPU at this host"
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)
Ends = tuple[float, float, float]


def number(
    name: MeasurementName,
    ends: Ends,
    unit: str,
    where: str,
    verdict: Verdict | None = None,
) -> Measurement:
    """A measurement with its interval."""
    how = {
        "accuracy": "450 test samples; Wilson's interval",
        "accuracy_drop": "paired with the float reference, 450 test samples; Tango's interval",
        "latency_ms": "median of 60 rounds, batch 1, interleaved in shuffled order, 1 thread",
        "speedup": "median over rounds of the reference's time by the candidate's",
    }[name]
    return Measurement(
        name=name,
        value=ends[0],
        low=ends[1],
        high=ends[2],
        unit=unit,
        n=60 if name in ("latency_ms", "speedup") else 450,
        where=where,
        how=how,
        verdict=verdict,
    )


def count(
    name: MeasurementName, value: float, unit: str, where: str
) -> Measurement:
    """A measurement without an interval."""
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        where=where,
        how="read from the graph that the runtime executes",
    )


def tested(
    accuracy: Ends, drop: Ends, where: str, verdict: Verdict = "pass"
) -> list[Measurement]:
    """Parity, accuracy and drop."""
    parity = Measurement(
        name="parity",
        value=0.7,
        unit="output steps",
        n=64,
        where=where,
        how="largest difference to torch, 64 samples in batches of 1 and 8",
        verdict="pass",
    )
    return [
        parity,
        number("accuracy", accuracy, "top1", where),
        number("accuracy_drop", drop, "top1", where, verdict),
    ]


def timed(latency: Ends, speedup: Ends, where: str) -> list[Measurement]:
    """Latency and speed-up."""
    return [
        number("latency_ms", latency, "ms", where),
        number("speedup", speedup, "x", where),
    ]


def audited(
    share: float, floats: int, transposes: int, where: str
) -> list[Measurement]:
    """What the runtime executes."""
    return [
        count("int8_mac_share", share, "share", where),
        count("float_ops", floats, "operators", where),
        count("transposes", transposes, "operators", where),
    ]


def files(
    target: str, scheme: str, suffix: str, size: int, *, shipped: bool = False
) -> ArtifactReport:
    """One part's file."""
    path = f"{target}/main.{suffix}" if shipped else None
    file = ShippedFile(
        part="main",
        role="model",
        path=path,
        sha256=f"{abs(hash((target, scheme))):064x}"[:64].replace("-", "0"),
        bytes=size,
    )
    return ArtifactReport(
        key=f"{target}-{scheme}",
        bytes=size,
        files=(file,),
        signatures={"main": SIGNATURE},
        notes={"scheme": scheme},
    )


def sized(size: int, reference: int) -> list[Measurement]:
    """Size and ratio."""
    where = "the file itself"
    return [
        count("size_bytes", size, "bytes", where),
        count("size_ratio", reference / size, "x", where),
    ]


def gate(
    name: MeasurementName,
    limit: float,
    ends: Ends | None,
    unit: str,
    **more: Any,
) -> GateReport:
    """A gate's row."""
    value, low, high = ends or (None, None, None)
    return GateReport(
        name=name,
        limit=limit,
        value=value,
        low=low,
        high=high,
        unit=unit,
        **more,
    )


def cpu_onnx() -> TargetReport:
    """Passes: three files race, int8 wins."""
    won = [
        *audited(0.998, 0, 0, ORT),
        *tested((0.9844, 0.9683, 0.9924), (0.0022, -0.0060, 0.0108), ORT),
        *sized(31_244, 318_402),
    ]
    half = [
        *audited(0.0, 9, 0, ORT),
        *tested((0.9867, 0.9712, 0.9939), (0.0, -0.0084, 0.0084), ORT),
        *sized(82_010, 318_402),
    ]
    unpruned = [
        *audited(0.0, 9, 0, ORT),
        *tested((0.9867, 0.9712, 0.9939), (0.0, -0.0084, 0.0084), ORT),
        *sized(161_300, 318_402),
    ]
    before = [
        *audited(0.0, 9, 0, ORT),
        *tested((0.9867, 0.9712, 0.9939), (0.0, 0.0, 0.0), ORT),
        *sized(318_402, 318_402),
    ]
    return TargetReport(
        name="cpu-onnx",
        title="A computer with an x86 processor, ONNX Runtime",
        format="onnx",
        runtime="onnxruntime",
        verdict="pass",
        winner="w8a8-static",
        chosen="the fastest of 3 that hold accuracy",
        reference=CandidateReport(
            scheme="float",
            status="raced",
            artifact=files("cpu-onnx", "reference", "onnx", 318_402),
            measurements=(
                *before,
                *timed((0.0952, 0.0947, 0.0958), (1.0, 1.0, 1.0), ORT),
            ),
        ),
        candidates=(
            CandidateReport(
                scheme="w8a8-static",
                status="raced",
                artifact=files(
                    "cpu-onnx", "w8a8-static", "onnx", 31_244, shipped=True
                ),
                measurements=(
                    *won,
                    *timed((0.0412, 0.0409, 0.0416), (2.31, 2.27, 2.36), ORT),
                ),
            ),
            CandidateReport(
                scheme="fp16",
                status="raced",
                artifact=files("cpu-onnx", "fp16", "onnx", 82_010),
                warnings=("18 Cast operators were added around float kernels",),
                measurements=(
                    *half,
                    *timed((0.0821, 0.0812, 0.0829), (1.16, 1.14, 1.18), ORT),
                ),
            ),
            CandidateReport(
                scheme="float",
                status="raced",
                artifact=files("cpu-onnx", "float", "onnx", 161_300),
                measurements=(
                    *unpruned,
                    *timed((0.0573, 0.0569, 0.0577), (1.66, 1.64, 1.69), ORT),
                ),
            ),
        ),
        gates=(
            gate(
                "accuracy_drop",
                0.02,
                (0.0022, -0.0060, 0.0108),
                "top1",
                where=ORT,
                verdict="pass",
            ),
            gate(
                "speedup",
                1.0,
                (2.31, 2.27, 2.36),
                "x",
                where=ORT,
                verdict="pass",
            ),
        ),
    )


def mobile_tflite() -> TargetReport:
    """Inconclusive: the limit of the accuracy gate is inside the interval; one scheme is
    dropped.
    """
    won = [
        *audited(0.981, 1, 2, LITERT),
        *tested(
            (0.9711, 0.9514, 0.9830),
            (0.0156, 0.0032, 0.0287),
            LITERT,
            "inconclusive",
        ),
        *sized(29_680, 312_900),
    ]
    lost = [
        *audited(0.981, 1, 2, LITERT),
        *tested(
            (0.9333, 0.9065, 0.9529), (0.0534, 0.0330, 0.0781), LITERT, "fail"
        ),
        *sized(30_912, 312_900),
    ]
    before = [
        *audited(0.0, 9, 2, LITERT),
        *tested((0.9867, 0.9712, 0.9939), (0.0, 0.0, 0.0), LITERT),
        *sized(312_900, 312_900),
    ]
    return TargetReport(
        name="mobile-tflite",
        title="A phone or a small computer, LiteRT (TFLite) on its processor",
        format="tflite",
        runtime="litert",
        verdict="inconclusive",
        winner="w8a8-static",
        chosen="the fastest of 1 that hold accuracy, although its accuracy is inconclusive",
        reference=CandidateReport(
            scheme="float",
            status="raced",
            artifact=files("mobile-tflite", "reference", "tflite", 312_900),
            measurements=(
                *before,
                *timed((0.1182, 0.1175, 0.1190), (1.0, 1.0, 1.0), LITERT),
            ),
        ),
        candidates=(
            CandidateReport(
                scheme="w8a8-static",
                status="raced",
                artifact=files(
                    "mobile-tflite",
                    "w8a8-static",
                    "tflite",
                    29_680,
                    shipped=True,
                ),
                measurements=(
                    *won,
                    *timed(
                        (0.0388, 0.0384, 0.0393), (3.05, 2.99, 3.10), LITERT
                    ),
                ),
            ),
            CandidateReport(
                scheme="w8-dynamic",
                status="dropped",
                reason="it loses 0.0534 top1 (gate 0.02)",
                artifact=files("mobile-tflite", "w8-dynamic", "tflite", 30_912),
                measurements=tuple(lost),
            ),
            CandidateReport(
                scheme="fp16",
                status="failed",
                reason="The TFLite file main.tflite was refused by the runtime: "
                "failed to prepare node 4 (DEQUANTIZE).",
            ),
        ),
        gates=(
            gate(
                "accuracy_drop",
                0.02,
                (0.0156, 0.0032, 0.0287),
                "top1",
                where=LITERT,
                verdict="inconclusive",
            ),
            gate(
                "speedup",
                1.0,
                (3.05, 2.99, 3.10),
                "x",
                where=LITERT,
                verdict="pass",
            ),
        ),
        notes=(
            "Accuracy: measured with LiteRT on this machine; "
            "an ARM processor returns the same int8 numbers to within a step.",
        ),
    )


def coral_edgetpu() -> TargetReport:
    """Fails: the only scheme could not be built."""
    before = [
        *audited(0.0, 9, 2, LITERT),
        *tested((0.9867, 0.9712, 0.9939), (0.0, 0.0, 0.0), LITERT),
        *sized(312_900, 312_900),
    ]
    missing = (
        unmeasured(
            "latency_ms", "ms", "coral-edgetpu", "no Edge TPU at this host"
        ),
        unmeasured("speedup", "x", "coral-edgetpu", "no Edge TPU at this host"),
    )
    return TargetReport(
        name="coral-edgetpu",
        title="Coral Edge TPU (USB, PCIe, Dev Board)",
        format="edgetpu",
        runtime="edgetpu",
        verdict="fail",
        winner=None,
        chosen="no candidate holds (w8a8-static: failed: Operator 3 (EXP) has float inputs, "
        "and the Edge TPU runs integers only)",
        reference=CandidateReport(
            scheme="float",
            status="raced",
            artifact=files("coral-edgetpu", "reference", "tflite", 312_900),
            measurements=(*before, *missing),
        ),
        candidates=(
            CandidateReport(
                scheme="w8a8-static",
                status="failed",
                reason="Operator 3 (EXP) has float inputs, and the Edge TPU runs integers only.",
            ),
            CandidateReport(
                scheme="float",
                status="dropped",
                reason="the device runs integer arithmetic only",
            ),
        ),
        notes=(
            "Latency: no Edge TPU at this host.",
            "Accuracy: measured with LiteRT on the processor, from the same integer file; "
            "the Edge TPU was not run.",
        ),
    )


def rtx_tensorrt() -> TargetReport:
    """Passes by rule: latency cannot be taken here, and the gate that needs it is not
    required.
    """
    won = [
        *audited(0.964, 1, 3, BUILD_LOG),
        *tested((0.9844, 0.9683, 0.9924), (0.0022, -0.0060, 0.0108), SIMULATED),
        *sized(148_212, 401_776),
    ]
    half = [
        *audited(0.0, 9, 0, BUILD_LOG),
        *tested((0.9867, 0.9712, 0.9939), (0.0, -0.0084, 0.0084), SIMULATED),
        *sized(214_020, 401_776),
    ]
    before = [
        *audited(0.0, 9, 0, BUILD_LOG),
        *tested((0.9867, 0.9712, 0.9939), (0.0, 0.0, 0.0), SIMULATED),
        *sized(401_776, 401_776),
    ]
    missing = (
        unmeasured("latency_ms", "ms", "rtx-tensorrt", NO_GPU),
        unmeasured("speedup", "x", "rtx-tensorrt", NO_GPU),
    )
    return TargetReport(
        name="rtx-tensorrt",
        title="NVIDIA RTX graphics cards, Ampere to Blackwell, TensorRT",
        format="tensorrt",
        runtime="tensorrt",
        verdict="pass",
        winner="w8a8-static",
        chosen="chosen by rule, latency unmeasured: "
        "the first in the target's order that holds accuracy",
        reference=CandidateReport(
            scheme="float",
            status="raced",
            artifact=files("rtx-tensorrt", "reference", "engine", 401_776),
            measurements=(*before, *missing),
        ),
        candidates=(
            CandidateReport(
                scheme="w8a8-static",
                status="raced",
                artifact=files(
                    "rtx-tensorrt",
                    "w8a8-static",
                    "engine",
                    148_212,
                    shipped=True,
                ),
                measurements=(*won, *missing),
                warnings=(
                    "main: head (gemm) runs in Float although the graph is int8",
                ),
            ),
            CandidateReport(
                scheme="fp16",
                status="raced",
                artifact=files("rtx-tensorrt", "fp16", "engine", 214_020),
                measurements=(*half, *missing),
            ),
        ),
        gates=(
            gate(
                "accuracy_drop",
                0.02,
                (0.0022, -0.0060, 0.0108),
                "top1",
                where=SIMULATED,
                verdict="pass",
            ),
            gate(
                "speedup",
                1.0,
                None,
                "x",
                where="rtx-tensorrt",
                verdict="unmeasured",
                required=False,
                why=NO_GPU,
            ),
        ),
        notes=(
            f"Latency: {NO_GPU}.",
            "Accuracy: measured with ONNX Runtime (optimizations off) on the Q/DQ graph "
            "that the engine is built from; the engine was not run.",
        ),
    )


def stages() -> tuple[StageReport, ...]:
    """Teacher, training, distillation, pruning, fine-tuning."""
    channels = {
        "stem": [16, 8],
        "layers.0.conv1": [16, 8],
        "layers.0.conv2": [16, 8],
        "layers.1.conv1": [32, 16],
        "layers.1.conv2": [32, 16],
        "layers.2.conv2": [64, 32],
    }
    pruned = {
        "ratio": 0.5,
        "multiple": 8,
        "parts": {
            "main": {
                "parameters": [77_850, 20_010],
                "macs": [1_204_224, 318_976],
                "channels": channels,
                "outputs": {"output": [10]},
            }
        },
    }
    rows: tuple[tuple[str, str, Ends, dict[str, Any]], ...] = (
        (
            "load teacher",
            "load_model",
            (0.1, 0.0756, 0.1312),
            {
                "model": "zoo:resnet20",
                "weights": None,
                "parameters": {"main": 272_186},
                "macs": {"main": 2_537_984},
            },
        ),
        (
            "train teacher",
            "train",
            (0.9911, 0.9774, 0.9965),
            {
                "samples": 1078,
                "loss": [
                    1.71,
                    0.62,
                    0.31,
                    0.19,
                    0.12,
                    0.09,
                    0.07,
                    0.05,
                    0.05,
                    0.04,
                ],
            },
        ),
        (
            "load",
            "load_model",
            (0.0978, 0.0737, 0.1288),
            {
                "model": "zoo:resnet8",
                "weights": None,
                "parameters": {"main": 77_850},
                "macs": {"main": 1_204_224},
            },
        ),
        (
            "train",
            "train",
            (0.9822, 0.9653, 0.9909),
            {
                "samples": 1078,
                "loss": [
                    2.02,
                    1.08,
                    0.55,
                    0.33,
                    0.22,
                    0.17,
                    0.13,
                    0.11,
                    0.09,
                    0.08,
                ],
            },
        ),
        (
            "distill",
            "distill",
            (0.9867, 0.9712, 0.9939),
            {
                "samples": 1078,
                "loss": [0.82, 0.44, 0.31, 0.27, 0.22],
                "teacher": "9f31c7",
            },
        ),
        ("prune", "prune", (0.4133, 0.3688, 0.4594), pruned),
        (
            "finetune",
            "distill",
            (0.9844, 0.9683, 0.9924),
            {
                "samples": 1078,
                "loss": [1.31, 0.61, 0.42, 0.33, 0.29, 0.26, 0.24, 0.23],
                "teacher": "9f31c7",
            },
        ),
    )
    where = "local: torch 2.13.0, float"
    return tuple(
        StageReport(
            name=name,
            step=step,
            key=f"{name}-key",
            measurements=(number("accuracy", ends, "top1", where),),
            notes=notes,
        )
        for name, step, ends, notes in rows
    )


def sample(**changes: Any) -> Report:
    """A complete report; ``changes`` replace its fields."""
    recipe = {
        "name": "digits",
        "title": "Handwritten digits: teacher, distillation, pruning, int8, four targets",
        "model": "zoo:resnet8",
        "task": "digits",
        "targets": [
            "cpu-onnx",
            "mobile-tflite",
            "coral-edgetpu",
            "rtx-tensorrt",
        ],
        "gates": {"accuracy_drop": 0.02, "speedup": 1.0},
    }
    task = {
        "name": "digits",
        "loss": "cross_entropy",
        "metric": "top1",
        "also_in_test": {"train": 0, "calibration": 0},
        "splits": {
            "train": {"samples": 1078, "sha256": "1f" * 32},
            "calibration": {"samples": 269, "sha256": "a7" * 32},
            "test": {"samples": 450, "sha256": "c0" * 32},
        },
        "origin": {"source": "sklearn.datasets.load_digits", "seed": 0},
    }
    environment = {
        "machine": "x86_64",
        "processor": "Intel(R) Xeon(R) Processor @ 2.60GHz",
        "cores": 2,
        "system": "Linux 6.1.0",
        "python": "3.11.2",
        "packages": {
            "torch": "2.13.0",
            "onnxruntime": "1.31.1",
            "ai-edge-litert": "2.3.0",
            "tensorrt-rtx": "1.7.1.116",
        },
    }
    report = Report(
        edgekit="0.1.0",
        recipe=recipe,
        verdict="fail",
        targets=(cpu_onnx(), mobile_tflite(), coral_edgetpu(), rtx_tensorrt()),
        stages=stages(),
        task=task,
        environment=environment,
        started="2026-11-20T16:40:12+00:00",
        seconds=187.4,
    )
    return report.model_copy(update=changes)
