"""What the end-to-end tests share: bundles of one scheme, and an OpenSSH server on the
loopback address with two Pythons.
"""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgekit import catalog, recipe, target
from edgekit.pipeline.run import Options, run
from edgekit.planning import plan
from tests.hosts import sshd
from tests.whole import reached

FAMILIES = pathlib.Path(__file__).with_name("families.py")
Make = Callable[[str, str, str, str], pathlib.Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Runs a recipe of one scheme for one target, chosen by rule, and returns the bundle."""
    folder = tmp_path_factory.mktemp("families")

    def build(model: str, data: str, scheme: str, device: str) -> pathlib.Path:
        compress: list[Any] = [{"quantize": {"scheme": scheme, "samples": 64}}]
        if data == "task":
            compress.insert(0, {"train": {"epochs": 2}})
        requested = recipe.Recipe.model_validate(
            {
                "name": "family",
                "model": model if ":" in model else f"{FAMILIES}:{model}",
                "task": f"{FAMILIES}:{data}",
                "compress": compress,
                "targets": [device],
                "gates": {"accuracy_drop": 0.9},
            }
        )
        untimed = {
            "latency": "unmeasured",
            "latency_note": "chosen by rule",
            "schemes": (scheme, "float"),
            "also_on": (),
        }
        out = folder / f"{model.rpartition(':')[2]}-{device}-{scheme}"
        run(
            plan.plan(
                requested,
                [
                    target.load(catalog.find("targets", device)).model_copy(
                        update=untimed
                    )
                ],
            ),
            Options(out, folder / "cache"),
        )
        assert (
            json.loads((out / device / "manifest.json").read_text())["scheme"]
            == scheme
        )
        return out / device

    return build


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A real OpenSSH server on the loopback address."""
    with sshd.serving(tmp_path_factory.mktemp("ssh") / "server") as running:
        yield running


@pytest.fixture(scope="session")
def loopback(
    server: sshd.Server, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A host file for the server with the Python of these tests."""
    return reached.described(
        tmp_path_factory.mktemp("hosts") / "loopback.yaml", server
    )


@pytest.fixture(scope="session")
def board(server: sshd.Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A host file for the server with an emulated ARM Python."""
    reached.set_up("qemu-arm64")
    folder = tmp_path_factory.mktemp("hosts")
    return reached.described(
        folder / "arm-board.yaml",
        server,
        *reached.arm_python(folder),
        untimed="an emulator",
    )


@pytest.fixture(scope="session")
def over_ssh(loopback: str, board: str) -> dict[str, str]:
    """Both hosts of the server, by short names."""
    return {"loopback": loopback, "board": board}
