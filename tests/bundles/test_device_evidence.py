"""What a device brings back: trtexec's files for an engine recipe, and the result of
``verify.py``; kept with the bundle, or refused.
"""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from click.testing import CliRunner

from edgekit import catalog, recipe, report, target
from edgekit.bundles import bundle
from edgekit.cli.main import main
from edgekit.pipeline.run import Options, run
from edgekit.planning import plan
from tests.formats.tensorrt.test_device_results import TEN, query


@pytest.fixture(scope="module")
def recipes(
    shipped: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The results of a run for a Jetson: the network of ``shipped`` as an engine recipe."""
    told = json.loads((shipped / "report.json").read_text())["recipe"]
    wanted = recipe.Recipe.model_validate(
        {
            **told,
            "targets": ["jetson-orin-nano"],
            "gates": {"accuracy_drop": 0.1},
        }
    )
    out = tmp_path_factory.mktemp("jetson") / "out"
    run(
        plan.plan(
            wanted, [target.load(catalog.find("targets", "jetson-orin-nano"))]
        ),
        Options(out, shipped.parent / "cache"),
    )
    return out


@pytest.fixture
def folder(recipes: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of its bundle, beside the report."""
    return (
        pathlib.Path(shutil.copytree(recipes, tmp_path / "results"))
        / "jetson-orin-nano"
    )


def brought(
    folder: pathlib.Path,
    made: pathlib.Path,
    wrong: Callable[[Any], Any] = lambda values: values,
) -> pathlib.Path:
    """Files after trtexec's formats, as if the engine had given what the bundle expects."""
    made.mkdir()
    expected = bundle.samples(folder, bundle.load(folder))["expected:output"][
        :1
    ]
    (made / "main.layers.json").write_text(json.dumps(TEN))
    (made / "main.times.json").write_text(
        json.dumps([query(2.0 + k / 100) for k in range(101)])
    )
    given = wrong(expected)
    dimensions, values = (
        "x".join(map(str, given.shape)),
        [float(value) for value in given.ravel()],
    )
    (made / "main.out.json").write_text(
        json.dumps(
            [{"name": "output", "dimensions": dimensions, "values": values}]
        )
    )
    return made


def verify(*words: str) -> Any:
    return CliRunner().invoke(main, ["verify", *words])


def test_a_recipe_ships_the_raw_input_that_its_lines_name(
    folder: pathlib.Path,
) -> None:
    """The first sample, in the graph's own layout and dtype; hashed like the rest."""
    told = json.loads((folder / "main.recipe.json").read_text())
    assert (
        "--loadInputs=input:main.input.bin" in told["trtexec"]["10"]["answer"]
        and "--loadInputs=input:main.input.bin"
        in told["trtexec"]["11"]["answer"]
    )
    first = bundle.samples(folder, bundle.load(folder))["input:input"][:1]
    assert numpy.array_equal(
        numpy.frombuffer(
            (folder / "main.input.bin").read_bytes(), "float32"
        ).reshape(first.shape),
        first,
    )
    facts = bundle.load(folder).bundle
    assert facts is not None and "main.input.bin" in facts.sha256


def test_trtexecs_files_become_measured_results(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Latency, int8 by layer and parity, labelled with the device's name, in the run's
    report.
    """
    done = verify(
        str(folder),
        "--results",
        f"orin-nano, TensorRT 10.3={brought(folder, tmp_path / 'back')}",
        "--json",
    )
    assert done.exit_code == 0, done.output
    ((row,),) = json.loads(done.stdout).values()
    found = {measured["name"]: measured for measured in row["measurements"]}
    assert (row["host"], row["verdict"]) == ("orin-nano, TensorRT 10.3", "pass")
    assert found["parity"]["value"] < 1e-3 and found["latency_ms"][
        "value"
    ] == pytest.approx(2.5)
    assert (
        found["int8_mac_share"]["value"] == pytest.approx(2 / 3)
        and "trtexec" in found["latency_ms"]["where"]
    )
    (told,) = report.load(folder.parent).targets
    assert [evidence.host for evidence in told.evidence] == [
        "orin-nano, TensorRT 10.3"
    ]
    assert (
        "orin-nano, TensorRT 10.3" in (folder.parent / "report.md").read_text()
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda values: values[:, ::-1], "output steps"),
        (lambda values: values[:, :-1], "has shape [1, 9], expected [1, 10]"),
        (lambda values: values * numpy.nan, "output is not finite"),
    ],
)
def test_an_engine_that_computes_something_else_fails(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    wrong: Callable[[Any], Any],
    said: str,
) -> None:
    """Classes in another order, an output of another shape, numbers that overflowed: the
    verdict is fail, by the rules of every other host.
    """
    done = verify(
        str(folder),
        "--results",
        str(brought(folder, tmp_path / "back", wrong)),
        "--json",
    )
    assert done.exit_code == 1
    ((row,),) = json.loads(done.stdout).values()
    assert (
        row["verdict"] == "fail"
        and row["host"] == "back"
        and said in json.dumps(row["measurements"])
    )


def test_the_script_of_another_machine_is_read_back(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """``verify.py --json`` in the copied folder, then ``--results``: the same rows, under
    the device's name.
    """
    away, told = (
        shutil.copytree(folder, tmp_path / "away"),
        tmp_path / "found.json",
    )
    done = subprocess.run(
        [
            sys.executable,
            str(away / "verify.py"),
            "--samples",
            "16",
            "--json",
            str(told),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read = verify(str(folder), "--results", f"board={told}", "--json")
    assert read.exit_code == 0, read.output
    ((row,),) = json.loads(read.stdout).values()
    assert (
        row["host"] == "board"
        and row["machine"]
        and row["versions"]["onnxruntime"]
    )
    assert {measured["name"] for measured in row["measurements"]} >= {
        "parity",
        "bit_equal",
        "accuracy",
    }


def test_results_that_do_not_belong_here_are_refused_and_nothing_is_kept(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Another file's result, no JSON, an empty folder, a result for two bundles, a path
    that is not there: one sentence each, with the way out.
    """
    other = {
        "key": "another",
        "bundle": "b",
        "verdict": "pass",
        "where": "x",
        "when": "now",
        "machine": "m",
        "versions": {},
        "measurements": [],
    }
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "broken.json").write_text('{"key": ')
    (tmp_path / "wrong.json").write_text(
        json.dumps({**other, "verdict": "good", "more": 1})
    )
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "main.layers.json").write_text("[" * 100_000)
    number = {
        "name": "parity",
        "value": 1.0,
        "unit": "",
        "where": "",
        "how": "",
        "verdict": "pass",
    }
    (tmp_path / "nan.json").write_text(
        json.dumps(
            {**other, "measurements": [{**number, "value": float("nan")}]}
        )
    )
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("other.json", "is about another file"),
        ("broken.json", "cannot be read"),
        ("wrong.json", "2 errors"),
        ("nan.json", "NaN is not valid JSON"),
        ("deep", "main.layers.json: invalid JSON"),
        ("empty", "main.layers.json: there is no such file"),
        ("none", "cannot be read|there is no such file"),
    ):
        done = verify(str(folder), "--results", str(tmp_path / name))
        assert (
            done.exit_code == 1
            and any(word in done.output for word in said.split("|"))
            and "Fix:" in done.output
        ), done.output
    assert not list(folder.glob("evidence/*"))
    shutil.copytree(folder, folder.parent / "another")
    assert (
        "has the results of one bundle, but there are 2"
        in verify(
            str(folder.parent), "--results", str(tmp_path / "empty")
        ).output
    )


def test_a_bundle_without_a_recipe_takes_no_files_of_trtexec(
    shipped: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """It says what to bring instead."""
    folder = shutil.copytree(shipped / "cpu-onnx", tmp_path / "cpu-onnx")
    done = verify(str(folder), "--results", str(tmp_path))
    assert (
        done.exit_code == 1
        and "has no engine recipe" in done.output
        and "verify.py --json" in done.output
    )


def test_results_that_compared_nothing_do_not_pass(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A parity that is unmeasured leaves the verdict open, whatever the file says; marks
    for a terminal are taken out.
    """
    manifest = bundle.load(folder)
    assert manifest.bundle is not None
    parity = {
        "name": "parity",
        "value": None,
        "unit": "output steps",
        "where": "x",
        "how": "",
        "verdict": "unmeasured",
    }
    told = {
        "key": manifest.key,
        "bundle": manifest.bundle.id,
        "verdict": "pass",
        "where": "\x1b]0;owned\x07here",
        "when": "now",
        "machine": "m",
        "versions": {},
    }
    (tmp_path / "found.json").write_text(
        json.dumps({**told, "measurements": [parity]})
    )
    done = verify(
        str(folder), "--results", str(tmp_path / "found.json"), "--json"
    )
    ((row,),) = json.loads(done.stdout).values()
    assert (done.exit_code, row["verdict"], row["where"]) == (
        3,
        "unmeasured",
        "?]0;owned?here",
    )
