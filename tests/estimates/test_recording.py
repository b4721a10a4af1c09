"""A real recording on this machine, and the estimate of a real file.

Ratios have wide limits: the machine is shared and noisy.
"""

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from edgekit.cache import Cache, default_root
from edgekit.checks.latency import NS_IN_MS
from edgekit.cli.estimate import estimate
from edgekit.cli.record import record
from edgekit.contracts import BenchProtocol
from edgekit.errors import EdgekitError, EstimateError, HostError
from edgekit.estimates import networks, operators
from edgekit.estimates import table as latency_table
from edgekit.estimates.estimate import of_artifact, of_file, prediction_interval
from edgekit.estimates.table import HeldOut, Table
from edgekit.hosts.local import LocalHost

#: Largest allowed ratio of estimate and measurement on a busy machine.
FACTOR = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The table of ``record local --quick``, written by the command."""
    return _record(tmp_path_factory.mktemp("table") / "here.json")


def _record(file: pathlib.Path) -> pathlib.Path:
    done = CliRunner().invoke(
        record, ["local", "--quick", "--out", str(file)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "median error on 6 held-out files" in done.output
    return file


@pytest.fixture(scope="module")
def table(path: pathlib.Path) -> Table:
    return latency_table.load(path)


def test_a_recording_contains_its_origin(table: Table) -> None:
    """Host, runtime with its version, machine, date; float and int8 operators; every
    interval around its median.
    """
    assert (
        table.where.startswith("local: onnxruntime ")
        and table.machine
        and table.versions
        and table.recorded.startswith("20")
    )
    kinds = {cost.key for row in table.rows for cost in row.operators}
    assert {
        ("Conv spatial", "float"),
        ("QLinearConv spatial", "uint8"),
    } <= kinds
    assert all(row.low <= row.ns <= row.high for row in table.rows)
    differences = [row.added for row in table.rows if row.added is not None]
    positive = [value for value in differences if value > 0]
    assert len(positive) > 0.6 * len(differences)


def test_an_estimate_of_a_real_file_is_near_its_time(
    path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A residual network that is not in the table, in float and int8.

    The load of the machine can change between the recording and the measurement. A wrong
    estimate stays wrong when both are repeated.
    """
    files = networks.build("residual", "onnx", Cache(default_root()))
    ratios: list[float] = []
    for attempt in range(3):
        file = _record(tmp_path / f"{attempt}.json") if attempt else path
        times = LocalHost().race(
            files,
            networks.feeds("residual"),
            BenchProtocol(rounds=8, warmup=5),
        )
        ratios = []
        for scheme, artifact in files.items():
            measured_ms = sorted(times[scheme].nanoseconds)[4] / NS_IN_MS
            ratios.append(of_artifact(artifact, str(file)).ms / measured_ms)
        if all(1 / FACTOR < ratio < FACTOR for ratio in ratios):
            break
    assert all(1 / FACTOR < ratio < FACTOR for ratio in ratios), ratios


def test_an_estimate_is_made_of_its_operators(path: pathlib.Path) -> None:
    """Every operator is known, the interval contains the estimate, the shares sum to one."""
    files = networks.build("residual", "onnx", Cache(default_root()))
    for artifact in files.values():
        result = of_artifact(artifact, str(path))
        assert result.unknown == {}
        assert result.low is not None
        assert result.high is not None
        assert result.low <= result.ms <= result.high
        shares = sum(line.share for line in result.lines)
        assert shares + result.call_ms / result.ms == pytest.approx(1)


def test_the_command_labels_an_estimate(path: pathlib.Path) -> None:
    """Origin and error, the slowest operators first with their modules; also as JSON."""
    artifact = networks.build("residual", "onnx", Cache(default_root()))[
        "float"
    ]
    file = str(artifact.path(artifact.parts[0]))
    done = CliRunner().invoke(
        estimate, [file, "--device", str(path)], catch_exceptions=False
    )
    assert (
        done.exit_code == 0
        and "estimate, from local-onnx recorded on 20" in done.output
        and "stages.2.0.conv2" in done.output
    )
    data = json.loads(
        CliRunner()
        .invoke(
            estimate,
            [file, "--device", str(path), "--json"],
            catch_exceptions=False,
        )
        .output
    )
    assert (
        data["estimate"]["name"] == "latency_estimate_ms"
        and data["unknown"] == {}
        and len(data["rows"]) > 9
    )


def test_unknown_operators_make_the_estimate_a_lower_bound(
    path: pathlib.Path, table: Table
) -> None:
    """A quick table has no transformer: its operators are listed, and count as 0 ms."""
    artifact = networks.build("small_encoder", "onnx", Cache(default_root()))[
        "float"
    ]
    file = artifact.path(artifact.parts[0])
    result = of_file(file, "onnx", table)
    assert result.unknown["Softmax (float)"] == 2
    assert "a lower bound" in result.measurement().how
    assert all(line.share == 0 for line in result.lines if line.ms is None)
    done = CliRunner().invoke(
        estimate, [str(file), "--device", str(path)], catch_exceptions=False
    )
    assert "at least" in done.output and "Softmax (float) 2" in done.output


def test_a_table_of_another_runtime_is_refused(
    tmp_path: pathlib.Path, path: pathlib.Path
) -> None:
    """The fix is the command that records a suitable one."""
    with pytest.raises(EstimateError, match="--format tflite"):
        of_file(tmp_path / "x.tflite", "tflite", latency_table.load(path))


def test_times_under_emulation_are_refused(tmp_path: pathlib.Path) -> None:
    """Before any work; no file is written."""
    host = tmp_path / "arm.yaml"
    host.write_text(
        "title: emulated\nkind: qemu\nenvironments: {main: {packages: [numpy==2.0.0]}}\n"
    )
    done = _failed(["--out", str(tmp_path / "arm.json"), str(host)])
    assert isinstance(done.exception, HostError) and "emulated" in str(
        done.exception
    )
    assert not (tmp_path / "arm.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "nowhere",
        "local; touch x",
        "$(touch x)",
        "../local",
        "ssh:-oProxyCommand=x",
    ],
)
def test_a_name_is_only_a_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Shell commands and options of ssh are refused as unknown hosts; no file is written."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(_failed([name]).exception, EdgekitError)
    assert list(tmp_path.iterdir()) == []


def test_a_tflite_file_is_cut_after_its_first_operators(
    tmp_path: pathlib.Path,
) -> None:
    """Each cut has more operators than the previous one; the last is complete; all run."""
    files = networks.build("small_layers", "tflite", Cache(default_root()))
    for scheme, artifact in files.items():
        folder = tmp_path / scheme
        folder.mkdir()
        cuts = operators.cut(artifact, 4, folder)
        paths = [cut.path(cut.parts[0]) for cut in cuts]
        cut_operators = operators.read_all(paths, "tflite")
        assert [len(listed) for listed in cut_operators] == [2, 4, 5, 7]
        times = LocalHost().race(
            {str(number): cut for number, cut in enumerate(cuts)},
            networks.feeds("small_layers"),
            BenchProtocol(rounds=6),
        )
        assert len(times) == 4
        assert {operator.cost.dtype for operator in cut_operators[-1]} == {
            "float32" if scheme == "float" else "int8"
        }


def test_the_interval_contains_the_value_and_grows_with_the_errors(
    table: Table,
) -> None:
    """None from two networks; a wider one from worse estimates."""
    exact = HeldOut(
        network="n",
        scheme="float",
        ns=100,
        low=100,
        high=100,
        estimated=101,
        ends=0,
        operators=(),
    )
    near, far = (
        exact.model_copy(update={"estimated": 101 * factor})
        for factor in (1.1, 2)
    )
    assert prediction_interval(
        1.0, table.model_copy(update={"held_out": (exact, near)})
    ) == (
        None,
        None,
    )
    narrow = prediction_interval(
        1.0, table.model_copy(update={"held_out": (exact, near, exact, near)})
    )
    wide = prediction_interval(
        1.0, table.model_copy(update={"held_out": (exact, far, exact, far)})
    )
    assert (
        narrow[0] is not None
        and narrow[1] is not None
        and wide[0] is not None
        and wide[1] is not None
    )
    assert wide[0] < narrow[0] <= 1 <= narrow[1] <= wide[1]


def _failed(words: list[str]) -> Result:
    done = CliRunner().invoke(record, words)
    assert done.exit_code != 0
    return done
