"""A real recording on this machine, and what it says of a real file.

Ratios with room: the machine is shared and noisy.
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
from edgekit.estimates.estimate import interval, of_artifact, of_file
from edgekit.estimates.table import HeldOut, Table
from edgekit.hosts.local import LocalHost

#: What an estimate may be off on a busy machine.
FACTOR = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The table of ``record local --quick``, written by the command."""
    made = tmp_path_factory.mktemp("table") / "here.json"
    done = CliRunner().invoke(
        record, ["local", "--quick", "--out", str(made)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "median error on 6 held-out files" in done.output
    return made


@pytest.fixture(scope="module")
def table(path: pathlib.Path) -> Table:
    return latency_table.load(path)


def test_a_recording_tells_where_it_was_taken(table: Table) -> None:
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
    assert {("Conv spatial", "float"), ("QLinearConv spatial", "uint8")} <= kinds
    assert all(row.low <= row.ns <= row.high for row in table.rows)
    growing = [row for row in table.rows if row.added is not None]
    assert sum(row.added > 0 for row in growing if row.added is not None) > 0.6 * len(
        growing
    )


def test_an_estimate_of_a_real_file_is_near_what_it_takes(path: pathlib.Path) -> None:
    """A residual network that the table was neither fitted to nor judged by, in float and
    int8.
    """
    made = networks.build("residual", "onnx", Cache(default_root()))
    taken = LocalHost().race(
        made, networks.feeds("residual"), BenchProtocol(rounds=8, warmup=5)
    )
    for scheme, artifact in made.items():
        found = of_artifact(artifact, str(path))
        assert found.unknown == {}
        assert (
            1 / FACTOR
            < found.ms / (sorted(taken[scheme].nanoseconds)[4] / NS_IN_MS)
            < FACTOR
        )
        assert (
            found.low is not None
            and found.high is not None
            and found.low <= found.ms <= found.high
        )
        assert sum(
            line.share for line in found.lines
        ) + found.call_ms / found.ms == pytest.approx(1)


def test_the_command_tells_an_estimate_as_one(path: pathlib.Path) -> None:
    """The sentence with origin and error, the longest operators first with their modules;
    the same as JSON.
    """
    artifact = networks.build("residual", "onnx", Cache(default_root()))["float"]
    file = str(artifact.path(artifact.parts[0]))
    done = CliRunner().invoke(
        estimate, [file, "--device", str(path)], catch_exceptions=False
    )
    assert (
        done.exit_code == 0
        and "estimate, from local-onnx recorded on 20" in done.output
        and "stages.2.0.conv2" in done.output
    )
    told = json.loads(
        CliRunner()
        .invoke(estimate, [file, "--device", str(path), "--json"], catch_exceptions=False)
        .output
    )
    assert (
        told["estimate"]["name"] == "latency_estimate_ms"
        and told["unknown"] == {}
        and len(told["rows"]) > 9
    )


def test_operators_that_were_not_timed_make_a_lower_bound(
    path: pathlib.Path, table: Table
) -> None:
    """A quick table knows no transformer: its operators are listed, counted as nothing, and
    it is said.
    """
    artifact = networks.build("small_encoder", "onnx", Cache(default_root()))["float"]
    file = artifact.path(artifact.parts[0])
    found = of_file(file, "onnx", table)
    assert (
        found.unknown["Softmax (float)"] == 2 and "a lower bound" in found.measurement().how
    )
    assert all(line.share == 0 for line in found.lines if line.ms is None)
    done = CliRunner().invoke(
        estimate, [str(file), "--device", str(path)], catch_exceptions=False
    )
    assert "at least" in done.output and "Softmax (float) 2" in done.output


def test_a_table_of_another_runtime_is_refused(
    tmp_path: pathlib.Path, path: pathlib.Path
) -> None:
    """With the command that records the right one."""
    with pytest.raises(EstimateError, match="--format tflite"):
        of_file(tmp_path / "x.tflite", "tflite", latency_table.load(path))


def test_times_under_emulation_are_refused(tmp_path: pathlib.Path) -> None:
    """Before any work, and no file is left."""
    host = tmp_path / "arm.yaml"
    host.write_text(
        "title: emulated\nkind: qemu\nenvironments: {main: {packages: [numpy==2.0.0]}}\n"
    )
    done = _failed(["--out", str(tmp_path / "arm.json"), str(host)])
    assert isinstance(done.exception, HostError) and "emulated" in str(done.exception)
    assert not (tmp_path / "arm.json").exists()


@pytest.mark.parametrize(
    "name", ["nowhere", "local; touch x", "$(touch x)", "../local", "ssh:-oProxyCommand=x"]
)
def test_a_name_is_only_a_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What a shell would run, or ssh would take for an option, is refused as an unknown
    host; nothing is made.
    """
    monkeypatch.chdir(tmp_path)
    assert isinstance(_failed([name]).exception, EdgekitError)
    assert list(tmp_path.iterdir()) == []


def test_a_tflite_file_is_cut_from_its_first_operators_on(tmp_path: pathlib.Path) -> None:
    """Each cut has more operators than the one before, the last is the whole, and all run."""
    made = networks.build("small_layers", "tflite", Cache(default_root()))
    for scheme, artifact in made.items():
        folder = tmp_path / scheme
        folder.mkdir()
        cuts = operators.cut(artifact, 4, folder)
        found = operators.read_all([cut.path(cut.parts[0]) for cut in cuts], "tflite")
        assert [len(several) for several in found] == [2, 4, 5, 7]
        times = LocalHost().race(
            {str(number): cut for number, cut in enumerate(cuts)},
            networks.feeds("small_layers"),
            BenchProtocol(rounds=6),
        )
        assert len(times) == 4
        assert {operator.cost.dtype for operator in found[-1]} == {
            "float32" if scheme == "float" else "int8"
        }


def test_the_interval_holds_the_value_and_grows_with_the_errors(table: Table) -> None:
    """No interval from two networks; a wider one from worse estimates; always around the
    value.
    """
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
        exact.model_copy(update={"estimated": 101 * factor}) for factor in (1.1, 2)
    )
    assert interval(1.0, table.model_copy(update={"held_out": (exact, near)})) == (
        None,
        None,
    )
    narrow = interval(
        1.0, table.model_copy(update={"held_out": (exact, near, exact, near)})
    )
    wide = interval(1.0, table.model_copy(update={"held_out": (exact, far, exact, far)}))
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
