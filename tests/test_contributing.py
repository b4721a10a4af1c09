"""The code of CONTRIBUTING.md is correct: its target loads and is planned, its scheme is the
one of the table, its step keeps the contract and works.

tests/formats/test_toy_format.py runs the format that it adds.
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
from edgekit.formats.tflite import quantize
from edgekit.planning.plan import plan
from edgekit.recipe import Recipe
from edgekit.scheme import SCHEMES, Scheme
from edgekit.steps import torch_signatures, torch_storage
from edgekit.testing import tiny_network, tiny_task


@pytest.fixture(scope="module")
def document(root: pathlib.Path) -> str:
    """The text of CONTRIBUTING.md, its indented blocks moved to the margin."""
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.sub(r"^   (?=\S| )", "", text, flags=re.MULTILINE)


def block(document: str, language: str, excerpt: str) -> str:
    """The one fenced block that contains an excerpt."""
    pattern = rf"^```{language}\n(.*?)^```"
    blocks = re.findall(pattern, document, flags=re.MULTILINE | re.DOTALL)
    matches = [text for text in blocks if excerpt in text]
    assert len(matches) == 1, excerpt
    return str(matches[0])


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
    planned = plan(recipe, [targets.load(path)], lambda module: True)
    planned.require_possible()
    gates = planned.targets[0].gates
    assert gates.size_bytes == 2000000
    assert gates.accuracy_drop == 0.02


def test_the_scheme_of_the_document_is_one(document: str) -> None:
    """The row that is shown is the one of the table, and the quantizer has the function that
    is shown.
    """
    from ai_edge_quantizer.quantizer import Quantizer

    row = block(document, "python", "Scheme(")
    scheme = eval(row, {"Scheme": Scheme})  # noqa: S307 (our own document)
    assert scheme == SCHEMES["w8-weight"]
    shown = block(document, "python", "def _set_weight_only")
    assert hasattr(quantize, "_set_weight_only")
    methods = re.findall(r"quantizer\.(\w+)\(", shown)
    assert methods
    assert all(hasattr(Quantizer, name) for name in methods)


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
        shown = inspect.signature(getattr(type(step), method)).parameters
        required = inspect.signature(getattr(Step, method)).parameters
        assert list(shown) == list(required)

    task, network = tiny_task(), tiny_network()
    with torch.no_grad():
        network[0].weight[0, 0] = 100.0
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder in folders:
        folder.mkdir()
    before = torch_storage.save(
        {"main": network},
        torch_signatures.find_signatures(
            {"main": network}, task.need("test", "a test")
        ),
        folders[0],
        {},
    )
    step.requires(before)
    after = step.run(
        before,
        Context(
            folder=folders[1],
            networks=lambda: {"main": tiny_network(1)},
            task=task,
        ),
    )
    step.ensures(before, after)
    assert after.notes["clipped"] >= 1
    clipped = torch_storage.load(after, {"main": tiny_network(1)})["main"]
    original = torch_storage.load(before, {"main": tiny_network(1)})["main"]
    assert float(clipped[0].weight.detach().abs().max()) < 100
    assert float(original[0].weight.detach().max()) == 100
    with pytest.raises(StepError, match="cannot be clipped"):
        module.ClipWeights(sigmas=0.0).requires(before)


def test_the_runtime_of_the_document_has_the_interface_of_the_others(
    document: str,
) -> None:
    """Its class has the constructor, the attributes and the method of those that run on a
    processor. tests/formats/test_toy_format.py runs it.
    """
    shown = block(document, "python", "class Model")
    for model in (runtime_onnxruntime.Model, runtime_litert.Model):
        signature = f"def __init__{inspect.signature(model.__init__)}:"
        assert signature.replace("'", "") in shown.replace("'", "")
        for name in ("runtime", "inputs", "outputs"):
            assert f"self.{name}" in shown
            assert f"self.{name}" in inspect.getsource(model)
        assert list(inspect.signature(model.bind).parameters) == [
            "self",
            "arrays",
        ]
