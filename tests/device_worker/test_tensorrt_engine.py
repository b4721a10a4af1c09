"""An engine on a GPU, tested without one: a device whose clock and memory are ours, and
what a machine with no GPU reports.
"""

import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from edgekit.device_worker import cuda, runtime_tensorrt
from edgekit.device_worker.cuda import (
    EngineError,
    measure,
    percentile,
    summarize,
)
from edgekit.device_worker.runtime_tensorrt import Model
from edgekit.formats.tensorrt import build as tensorrt_build


class Device:
    """A GPU of a dictionary: a copy or a kernel is done when the stream is waited for; the
    clock goes on by what each call costs.
    """

    stream = 7

    def __init__(self, capturable: bool = True) -> None:
        self.clock, self.pending, self.capturable = 0.0, 0.0, capturable
        self.memory: dict[int, bytes] = {}
        self.captured = self.freed = 0

    def now(self) -> float:
        return self.clock

    def spend(self, host_s: float, gpu_s: float) -> None:
        """The processor is busy for ``host_s``; the GPU works in parallel and has ``gpu_s``
        more to do.
        """
        self.clock += host_s
        self.pending = max(self.pending - host_s, 0) + gpu_s

    def wait(self) -> None:
        self.clock, self.pending = self.clock + self.pending, 0.0

    def allocate(self, count: int) -> int:
        address = 1000 * (len(self.memory) + 1)
        self.memory[address] = bytes(count)
        return address

    def free(self, address: int) -> None:
        self.freed += 1

    def to_device(self, address: int, array: Any) -> None:
        self.memory[address] = array.tobytes()

    def to_host(self, array: Any, address: int) -> None:
        array[...] = numpy.frombuffer(
            self.memory[address], array.dtype, array.size
        ).reshape(array.shape)

    def event(self) -> list[float]:
        return [0.0]

    def record(self, event: list[float]) -> None:
        event[0] = self.clock + self.pending

    def elapsed_ms(self, start: list[float], end: list[float]) -> float:
        self.wait()
        return (end[0] - start[0]) * 1e3

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        self.captured += 1
        return (lambda: self.spend(5e-6, 2e-3)) if self.capturable else None


def test_the_method_is_trtexecs() -> None:
    """A kernel of 2 ms and 0.1 ms to start it: 200 ms of warm-up, 3 s of queries, the
    compute time of the events.
    """
    device = Device(capturable=False)
    result = measure(lambda: device.spend(1e-4, 2e-3), device)
    assert result["gpu_compute_ms"]["median"] == pytest.approx(
        2.1
    )  # as trtexec's: the event is recorded before the enqueue begins
    assert result["enqueue_ms"]["median"] == pytest.approx(0.1) and result[
        "host_ms"
    ]["median"] == pytest.approx(2.1)
    assert (
        result["flags"]["warm_up_queries"] >= 95
        and result["gpu_compute_ms"]["n"] >= 1400
    )
    assert result["flags"]["cuda_graph"] is False and result["warnings"] == []
    assert (
        result["queries_per_s"] == pytest.approx(1 / 2.1e-3, rel=0.01)
        and len(result["raw_ms"]) == result["gpu_compute_ms"]["n"]
    )


def test_a_slow_inference_is_asked_ten_times() -> None:
    """Where one takes 2 s the ten queries decide, not the 3 seconds."""
    device = Device()
    assert (
        measure(lambda: device.spend(1e-4, 2.0), device, use_graph=False)[
            "gpu_compute_ms"
        ]["n"]
        == 10
    )
    assert device.captured == 0


def test_a_graph_is_captured_after_one_enqueue_and_launched_from_then_on() -> (
    None
):
    """The first enqueue does what is done once; after the capture only the graph runs."""
    device, enqueued = Device(), []
    result = measure(
        lambda: (enqueued.append(1), device.spend(1e-4, 2e-3))[1], device
    )
    assert (
        len(enqueued) == 1
        and device.captured == 1
        and result["flags"]["cuda_graph"] is True
    )
    assert result["enqueue_ms"]["median"] == pytest.approx(0.005)


def test_a_gpu_that_waits_for_the_processor_is_reported() -> None:
    """1 ms to start a kernel of 0.1 ms, and times that jump."""
    device = Device()
    (warning,) = measure(
        lambda: device.spend(1e-3, 1e-4), device, use_graph=False
    )["warnings"]
    assert "may have waited for the processor" in warning
    durations = iter([2e-3, 3e-3] * 2000)
    (warning,) = measure(
        lambda: device.spend(1e-5, next(durations)), device, use_graph=False
    )["warnings"]
    assert "vary by more than 1 %" in warning


@pytest.mark.parametrize(
    ("n", "percent", "rank"),
    [
        (100, 99, 99),
        (10, 90, 9),
        (10, 99, 10),
        (1, 90, 1),
        (1000, 95, 950),
        (20, 95, 19),
    ],
)
def test_percentiles_are_exact(n: int, percent: int, rank: int) -> None:
    """With doubles the 90th of 10 numbers would be the tenth."""
    assert percentile(list(range(1, n + 1)), percent) == rank
    assert summarize([3.0, 1.0, 2.0])["median"] == 2.0


class Context:
    """Doubles its input on the device's memory."""

    def __init__(self, device: Device, largest: int) -> None:
        self.device, self.largest = device, largest
        self.shape: tuple[int, ...] = ()
        self.at: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= self.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.at[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == Device.stream
        data = numpy.frombuffer(self.device.memory[self.at["x"]], "float32")
        self.device.memory[self.at["y"]] = (2 * data).tobytes()
        self.device.spend(1e-5, 1e-3)
        return True


def library(device: Device, opens: bool = True) -> Any:
    """The names of TensorRT that a model uses; the contract test holds them against the
    real ones.
    """
    names = ["x", "y"]
    engine = types.SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda k: names[k],
        get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
        get_tensor_shape=lambda name: (-1, 3),
        get_tensor_dtype=lambda name: "FLOAT",
        create_execution_context=lambda: Context(device, 4),
    )

    class Logger:
        pass

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            if opens:
                return engine
            self.logger.log(
                types.SimpleNamespace(name="ERROR"), "wrong architecture"
            )
            return None

    mode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
    return types.SimpleNamespace(
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=mode,
        nptype=lambda dtype: numpy.float32,
        __name__="tensorrt",
        __version__="10.3.0",
    )


def test_a_model_runs_on_what_it_is_given(tmp_path: pathlib.Path) -> None:
    """Rows as of the other runtimes, one inference a call, and more memory if the
    batch grows.
    """
    (tmp_path / "x.engine").write_bytes(b"engine")
    device = Device()
    model = Model(str(tmp_path / "x.engine"), 1, True, device, library(device))
    assert model.runtime == "tensorrt 10.3.0"
    assert model.inputs == [
        {
            "name": "x",
            "dtype": "float32",
            "shape": [None, 3],
            "quantization": None,
        }
    ]
    assert [row["name"] for row in model.outputs] == ["y"]
    call = model.bind({"x": numpy.float64([[1, 2, 3]])})
    first, second = call()[0], call()[0]
    assert (
        (first == [[2, 4, 6]]).all()
        and (second == first).all()
        and second is not first
    )
    (grown,) = model.bind({"x": numpy.ones((4, 3), "float32")})()
    assert grown.shape == (4, 3) and (grown == 2).all() and device.freed == 2
    assert (
        model.benchmark({"x": numpy.ones((1, 3), "float32")})["flags"][
            "cuda_graph"
        ]
        is True
    )


def test_wrong_inputs_are_reported(tmp_path: pathlib.Path) -> None:
    """A name that is missing, and a batch that no profile has."""
    (tmp_path / "x.engine").write_bytes(b"engine")
    device = Device()
    model = Model(str(tmp_path / "x.engine"), 1, True, device, library(device))
    with pytest.raises(
        EngineError, match="the inputs x are missing; got: other"
    ):
        model.bind({"other": numpy.ones((1, 3))})
    with pytest.raises(EngineError, match=r"x cannot have the shape \[5, 3\]"):
        model.bind({"x": numpy.ones((5, 3))})


def test_an_engine_for_another_gpu_is_reported_with_the_librarys_reason(
    tmp_path: pathlib.Path,
) -> None:
    """TensorRT returns None and logs the reason."""
    (tmp_path / "x.engine").write_bytes(b"engine")
    device = Device()
    with pytest.raises(
        EngineError, match=r"x\.engine cannot be loaded.*: wrong architecture"
    ):
        Model(
            str(tmp_path / "x.engine"),
            1,
            True,
            device,
            library(device, opens=False),
        )


def test_no_library_at_all_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name that was tried, with its reason."""
    monkeypatch.setattr(runtime_tensorrt, "MODULES", ("tensorrt_of_nobody",))
    monkeypatch.setattr(cuda, "LIBRARIES", ("libcudart_of_nobody.so",))
    with pytest.raises(
        EngineError,
        match="TensorRT cannot be imported: tensorrt_of_nobody: No module named",
    ):
        runtime_tensorrt.import_tensorrt()
    with pytest.raises(
        EngineError,
        match=r"CUDA's runtime library cannot be loaded: libcudart_of_nobody\.so",
    ):
        cuda.load_library()


def test_a_machine_without_a_gpu_reports_it(tmp_path: pathlib.Path) -> None:
    """The installed TensorRT-RTX, a real engine: opening it reports CUDA's error, not None."""
    library = pytest.importorskip("tensorrt_rtx")
    engine = real_engine(tmp_path)
    with pytest.raises(
        EngineError, match=r"cannot be loaded: .*cudaError 35|CUDA"
    ) as refusal:
        Model(str(engine), 1, True, Device(), library)
    assert "CUDA" in str(refusal.value)


def real_engine(folder: pathlib.Path) -> pathlib.Path:
    """A ReLU, built for SM86 in a separate process."""
    import json
    import subprocess
    import sys

    import onnx
    from onnx import TensorProto, helper

    graph_input, graph_output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8])
        for name in ("x", "y")
    )
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [graph_input],
        [graph_output],
    )
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
        ),
        str(folder / "x.onnx"),
    )
    request = {
        "module": "tensorrt_rtx",
        "onnx": str(folder / "x.onnx"),
        "engine": str(folder / "x.engine"),
        "compute_capabilities": ["SM86"],
        "profiles": [],
    }
    subprocess.run(
        [sys.executable, tensorrt_build.__file__, "-"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / "x.engine"
