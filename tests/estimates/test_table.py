"""A table is read completely, or refused with a list of all its errors."""

import json
import pathlib

import pytest

from edgekit.errors import EstimateError
from edgekit.estimates import table as latency_table
from edgekit.estimates.table import Cost, HeldOut, Row, Table

ADD = Cost(kind="Add", dtype="float", macs=0, read=800, written=400, weights=0)


def table(**changes: object) -> Table:
    """A small table."""
    row = Row(
        network="sum",
        scheme="float",
        ends=1200,
        operators=(ADD,),
        ns=5000,
        low=4900,
        high=5100,
    )
    plain: dict[str, object] = {
        "schema": 2,
        "name": "board-onnx",
        "runtime": "onnxruntime",
        "host": "board",
        "where": "board: onnxruntime 1.31.1, 1 thread",
        "machine": "aarch64",
        "recorded": "2026-11-21T12:00:00+00:00",
        "edgekit": "0.1.0",
        "rounds": 15,
        "rows": (row,),
    }
    return Table.model_validate({**plain, **changes})


def held_out(ns: float, estimated: float) -> HeldOut:
    """A network that took ``ns``, with an estimate of ``estimated``."""
    return HeldOut(
        network="net",
        scheme="float",
        ns=ns,
        low=ns,
        high=ns,
        estimated=estimated,
        ends=1200,
        operators=(ADD,),
    )


def test_a_table_survives_a_round_trip(tmp_path: pathlib.Path) -> None:
    """Written and read again, it is equal."""
    path = tmp_path / "board.json"
    path.write_text(table().model_dump_json(by_alias=True))
    assert latency_table.load(path) == table()


def test_the_provenance_contains_origin_and_errors() -> None:
    """Median and worst error of the held-out networks; where and when it was recorded."""
    rows = (held_out(100, 110), held_out(100, 80), held_out(100, 160))
    assert table(held_out=rows).provenance == (
        "estimate, from board-onnx recorded on 2026-11-21 at board; "
        "median error on 3 held-out files: 20 %, worst 60 %"
    )
    assert "not measured" in table().provenance


def test_all_errors_are_reported_at_once(tmp_path: pathlib.Path) -> None:
    """Wrong runtime, negative time, unknown key: one error."""
    data = json.loads(table().model_dump_json(by_alias=True))
    data["runtime"], data["rows"][0]["ns"], data["spede"] = "onnxruntim", -1, 3
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(EstimateError) as caught:
        latency_table.load(tmp_path / "x.json")
    assert (
        "3 errors" in str(caught.value)
        and "Did you mean 'onnxruntime'" in str(caught.value)
        and "rows.0.ns" in str(caught.value)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "[" * 100_000,
        '{"rows": []}',
        '{"schema": 99}',
        '{"rows": [{"ns": NaN}]}',
        "\x00",
    ],
)
def test_other_files_are_refused(tmp_path: pathlib.Path, text: str) -> None:
    """With an error of edgekit, never a traceback."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(EstimateError):
        latency_table.load(tmp_path / "x.json")


def test_binary_files_are_refused(tmp_path: pathlib.Path) -> None:
    """Such as a picture."""
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(EstimateError):
        latency_table.load(tmp_path / "x.json")


def test_a_name_finds_a_table_in_the_configuration_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown name is answered with the nearest; a name with a slash is a path."""
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path))
    with pytest.raises(EstimateError, match="hosts record"):
        latency_table.find("board-onnx")
    (tmp_path / "latency").mkdir()
    (tmp_path / "latency" / "board-onnx.json").write_text("{}")
    assert (
        latency_table.find("board-onnx")
        == tmp_path / "latency" / "board-onnx.json"
    )
    with pytest.raises(EstimateError, match="Did you mean 'board-onnx'"):
        latency_table.find("bord-onnx")
    for name in ("../board-onnx", "board-onnx; rm -rf .", "$(id).json"):
        with pytest.raises(EstimateError):
            latency_table.find(name)
