"""Each peer's recipe, on a tiny network: the file runs and computes about the same."""

import os
import pathlib

import numpy
import pytest
import torch

from bench import exports, making, timing
from bench.peer_inputs import PeerInputs
from edgekit.task import Split

#: Recipes whose packages take long to import.
SLOW = (
    "NNCF",
    "NNCF, per tensor",
    "neural-compressor PT2E",
    "neural-compressor PT2E, folded",
)
FOR_LINEAR = (
    "ORT dynamic",
    "ORT MatMulNBits",
    "ai-edge-quantizer dynamic",
    "ai-edge-quantizer weight-only",
)
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own
CASES = [
    pytest.param(
        runtime, name, marks=[pytest.mark.slow] if name in SLOW else [], id=name
    )
    for runtime in ("onnx", "tflite")
    for name in making.peers(runtime)  # type: ignore[arg-type]
]


@pytest.fixture(scope="module")
def images() -> tuple[torch.nn.Module, Split]:
    """A convolution, the mean and a linear layer, on images with a gradient in them."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()
    return network, Split(
        {
            "input": numpy.random.default_rng(0).random(
                (24, 1, 8, 8), dtype="float32"
            )
        },
        None,
    )


@pytest.fixture(scope="module")
def tokens() -> tuple[torch.nn.Module, Split]:
    """Two linear layers on rows of tokens: what dynamic and weight-only recipes are for."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)
    ).eval()
    return network, Split(
        {
            "input": numpy.random.default_rng(0).random(
                (24, 3, 64), dtype="float32"
            )
        },
        None,
    )


@pytest.fixture(scope="module")
def exported(
    images: tuple[torch.nn.Module, Split],
    tokens: tuple[torch.nn.Module, Split],
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    """A folder with the float files of both networks in both formats."""
    folder = tmp_path_factory.mktemp("float")
    for name, (network, split) in (("images", images), ("tokens", tokens)):
        for runtime in ("onnx", "tflite"):
            path = folder / f"{name}.{runtime}"
            if runtime == "onnx":
                exports.to_onnx(network, split, path)
            else:
                exports.to_tflite(network, split, path, images=name == "images")
    return folder


@pytest.mark.parametrize(("runtime", "name"), CASES)
def test_a_recipe_gives_a_file_that_computes_the_network(
    runtime: timing.Runtime,
    name: str,
    exported: pathlib.Path,
    request: pytest.FixtureRequest,
    tmp_path: pathlib.Path,
) -> None:
    """The file holds int8 (it differs from float), runs, and is near what torch gives."""
    kind = "tokens" if name.startswith(FOR_LINEAR) else "images"
    network, split = request.getfixturevalue(kind)
    image = kind == "images"
    inputs = PeerInputs(
        exported / f"{kind}.{runtime}",
        network,
        split,
        tmp_path,
        attention=None if image else (4, 64),
        images=image,
    )
    path = tmp_path / f"model.{runtime}"
    recipe = making.peers(runtime)[name]
    if name in SLOW:  # these packages change torch where they are imported
        assert (
            making.in_own_process(tmp_path / "log.txt", recipe, inputs, path)
            == ""
        )
    else:
        recipe(inputs, path)
    with torch.no_grad():
        wanted = network(torch.from_numpy(split.inputs["input"])).numpy()
    with timing.LocalHost().open(
        timing.wrap(path, runtime, split, images=image)
    ) as runner:
        (made,) = runner.infer(split.inputs).values()
    error = numpy.abs(made - wanted).max() / numpy.ptp(wanted)
    assert 1e-6 < error < 0.2


def test_a_recipe_that_fails_or_dies_is_a_line(
    exported: pathlib.Path,
    tokens: tuple[torch.nn.Module, Split],
    tmp_path: pathlib.Path,
) -> None:
    """An error, a process that ends, and a recipe with nothing to do are told in one line;
    the bench goes on.
    """
    log = tmp_path / "log.txt"
    inputs = PeerInputs(
        tmp_path / "missing.onnx", tokens[0], tokens[1], tmp_path
    )
    recipes = making.peers("onnx")
    assert "missing.onnx" in making.in_own_process(
        log,
        recipes["ORT MatMulNBits 8, block 32"],
        inputs,
        tmp_path / "made.onnx",
    )
    assert (
        making.in_own_process(
            log,
            recipes["ORT dynamic, fused first"],
            inputs,
            tmp_path / "made.onnx",
        )
        == "not applicable: no transformer"
    )
    assert making.in_own_process(log, os._exit, 3) == "the process died"
