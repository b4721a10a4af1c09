"""CONTRIBUTING.md shows code that is true: its target loads and is planned, its scheme
fits, its step keeps the contract and works.
"""

import dataclasses
import inspect
import pathlib
import re
import sys
import types

import pytest
import torch

from edgekit import target as targets
from edgekit.contracts import Context, Step
from edgekit.device_worker import runtime_litert, runtime_onnxruntime
from edgekit.errors import StepError
from edgekit.planning.plan import plan
from edgekit.recipe import Recipe
from edgekit.scheme import Scheme
from edgekit.steps import torch_signatures, torch_storage
from edgekit.testing import tiny_network, tiny_task


@pytest.fixture(scope="module")
def document(root: pathlib.Path) -> str:
    """The text of CONTRIBUTING.md, its indented blocks moved to the margin."""
    return re.sub(
        r"^   (?=\S| )",
        "",
        (root / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )


def block(document: str, language: str, holding: str) -> str:
    """The one fenced block that holds a text."""
    found = [
        text
        for text in re.findall(
            rf"^```{language}\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL
        )
        if holding in text
    ]
    assert len(found) == 1, holding
    return found[0]


def test_the_target_of_the_document_is_planned(
    document: str, tmp_path: pathlib.Path
) -> None:
    """The file that is shown loads and takes part in a plan, with its own gate."""
    path = tmp_path / "my-board.yaml"
    path.write_text(block(document, "yaml", "My board"))
    recipe = Recipe.model_validate(
        {
            "model": "zoo:cnn",
            "task": "digits",
            "compress": ["train", {"quantize": {}}],
            "gates": {"accuracy_drop": 0.02},
        }
    )
    found = plan(recipe, [targets.load(path)], lambda module: True)
    found.require_possible()
    assert (found.targets[0].gates.size_bytes, found.targets[0].gates.accuracy_drop) == (
        2000000,
        0.02,
    )


def test_the_scheme_of_the_document_is_one(document: str) -> None:
    """The row that is shown makes a scheme, and the quantizer has the function that is
    shown.
    """
    from ai_edge_quantizer.quantizer import Quantizer

    scheme = eval(block(document, "python", "Scheme("), {"Scheme": Scheme})  # noqa: S307 (our own document)
    assert scheme.name == "w8-weight"
    called = re.findall(r"quantizer\.(\w+)\(", block(document, "python", "def _weights"))
    assert all(hasattr(Quantizer, name) for name in called)


def test_the_step_of_the_document_keeps_the_contract_and_works(
    document: str, tmp_path: pathlib.Path
) -> None:
    """The step that is shown clips an outlier, leaves the old artifact alone, and refuses
    what it cannot do.
    """
    path = tmp_path / "clip_weights.py"
    path.write_text(block(document, "python", "class ClipWeights"))
    module = types.ModuleType("clip_weights")
    sys.modules["clip_weights"] = module  # dataclasses look their module up
    try:
        exec(compile(path.read_text(), str(path), "exec"), vars(module))  # noqa: S102 (our own document)
    finally:
        del sys.modules["clip_weights"]
    step = module.ClipWeights(sigmas=3.0)
    assert dataclasses.is_dataclass(step)
    for method in ("requires", "run", "ensures"):
        assert list(inspect.signature(getattr(type(step), method)).parameters) == list(
            inspect.signature(getattr(Step, method)).parameters
        )

    task, network = tiny_task(), tiny_network()
    with torch.no_grad():
        network[0].weight[0, 0] = 100.0
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder in folders:
        folder.mkdir()
    before = torch_storage.save(
        {"main": network},
        torch_signatures.find_signatures({"main": network}, task.need("test", "a test")),
        folders[0],
        {},
    )
    step.requires(before)
    after = step.run(
        before,
        Context(folder=folders[1], networks=lambda: {"main": tiny_network(1)}, task=task),
    )
    step.ensures(before, after)
    assert after.notes["clipped"] >= 1
    clipped = torch_storage.load(after, {"main": tiny_network(1)})["main"]
    assert float(clipped[0].weight.detach().abs().max()) < 100
    assert (
        float(
            torch_storage.load(before, {"main": tiny_network(1)})["main"][0]
            .weight.detach()
            .max()
        )
        == 100
    )
    with pytest.raises(StepError, match="cannot be clipped"):
        module.ClipWeights(sigmas=0.0).requires(before)


def test_a_runtime_of_the_worker_has_what_the_document_says(document: str) -> None:
    """The class that is shown takes what the worker gives and has what it uses, like those
    that run on a processor.
    """
    shown = block(document, "python", "class Model")
    for model in (runtime_onnxruntime.Model, runtime_litert.Model):
        assert f"def __init__{inspect.signature(model.__init__)}:".replace(
            "'", ""
        ) in shown.replace("'", "")
        for name in ("runtime", "inputs", "outputs"):
            assert f"self.{name}" in shown
            assert f"self.{name}" in inspect.getsource(model)
        assert list(inspect.signature(model.bind).parameters) == ["self", "arrays"]
