"""Networks that int8 ruins, on real files in the real runtime: the race ends with a file
that passes, and the report names the remedy.
"""

import collections
import pathlib
import runpy
from typing import Any

import numpy
import pytest

from edgekit.artifact import Artifact
from edgekit.cache import Cache
from edgekit.contracts import BenchProtocol, Samples
from edgekit.hosts.local import LocalHost
from edgekit.pipeline.build import Build
from edgekit.pipeline.candidate import RaceContext
from edgekit.pipeline.race import RaceResult, race
from edgekit.planning.plan import plan
from edgekit.progress import Silent
from edgekit.recipe import Recipe
from edgekit.rendering import summary
from edgekit.rendering.formatting import NumberFormat
from edgekit.target import Target
from edgekit.task import Task

#: One channel is 2,000 times as large as the others, and the next layer's weight makes up
#: for it: float does not mind.
OUTLIER = """
import torch
from torch import nn


class Outlier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 16, 4)
        with torch.no_grad():
            self.first.weight[5] *= 2000
            self.first.bias[5] *= 2000
            self.second.weight[:, 5] /= 2000

    def forward(self, input):
        x = torch.relu(self.second(torch.relu(self.first(input))))
        return self.head(torch.nn.functional.max_pool2d(x, 2).flatten(1))


def model():
    torch.manual_seed(0)
    return Outlier()
"""
#: One output of places (up to 1,000) and scores (below 1), as a detector's.
MIXED = """
import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 16, 3, padding=1)
        self.places = nn.Linear(16 * 16, 4)
        self.scores = nn.Linear(16 * 16, 4)
        with torch.no_grad():
            self.places.weight *= 3000

    def forward(self, input):
        x = torch.nn.functional.max_pool2d(torch.relu(self.body(input)), 2).flatten(1)
        return torch.cat([self.places(x), self.scores(x)], 1)


def model():
    torch.manual_seed(0)
    return Detector()
"""


def scores_only(outputs: Any, labels: Any) -> Any:
    """1 where the largest score, behind the four places, is the label's."""
    return (outputs[:, 4:].argmax(1) == labels).astype("float64")


class Timed:
    """The local host with made-up times, so that a test does not depend on the machine's
    load: int8 is twice as fast as float.
    """

    def open(self, artifact: Artifact, options: Any = None) -> Any:
        return LocalHost().open(artifact, options)

    def identity(self) -> dict[str, str]:
        return {"host": "timed"}

    def race(
        self, artifacts: Any, feeds: Any, protocol: BenchProtocol
    ) -> dict[str, Samples]:
        times = collections.defaultdict(
            lambda: 0.5, {"": 1.0, "float": 1.0, "fp16": 1.2}
        )
        noise = numpy.random.default_rng(protocol.seed).uniform(
            0.99, 1.01, (len(artifacts), 30)
        )
        return {
            name: Samples(tuple(times[name] * 1e6 * row))
            for name, row in zip(artifacts, noise, strict=True)
        }


def raced(
    folder: pathlib.Path,
    source: str,
    effort: str,
    metric: Any = "top1",
    **gates: float,
) -> RaceResult:
    """A race for ONNX Runtime of a network whose own answers are the labels: float is
    always right.
    """
    import torch

    (folder / "net.py").write_text(source)
    network = runpy.run_path(str(folder / "net.py"))["model"]()
    random = numpy.random.default_rng(0)
    images = random.normal(size=(400, 1, 8, 8)).astype("float32")
    with torch.no_grad():
        answers = network.eval()(torch.from_numpy(images)).numpy()
    labels = (answers if metric == "top1" else answers[:, 4:]).argmax(1)
    task = Task(
        name="own answers",
        train=(images[:200], labels[:200]),
        test=(images[200:], labels[200:]),
        metric=metric,
    )
    target = Target(
        name="cpu",
        title="a processor",
        format="onnx",
        runtime="onnxruntime",
        schemes=("w8a8-static", "float"),
    )
    recipe = Recipe.model_validate(
        {
            "model": f"{folder}/net.py:model",
            "task": "digits",
            "gates": {"accuracy_drop": 0.05, "speedup": 1.5, **gates},
            "compress": [{"quantize": {"effort": effort}}],
        }
    )
    planned = plan(recipe, [target])
    build = Build(task, Cache(folder / "cache"), Silent(), 0)
    shared = build.follow(str(recipe.model), None, planned.shared)
    return race(
        RaceContext(
            build,
            str(recipe.model),
            planned.targets[0],
            shared[0],
            shared[0],
            Timed(),
            fresh=True,
        )
    )


def test_a_layers_outlier_is_equalized(tmp_path: pathlib.Path) -> None:
    """Plain int8 is dropped for its accuracy; equalization holds, wins, and the report says
    why it was tried and what it gained.
    """
    report = raced(tmp_path, OUTLIER, "normal").report
    plain = report.candidate("w8a8-static")
    assert plain is not None
    assert plain.outcome.startswith("dropped: it loses")
    assert report.verdict == "pass"
    assert report.winner is not None
    assert "equalize" in report.winner
    assert report.diagnosis is not None
    assert report.diagnosis.activations_db < report.diagnosis.weights_db
    told = summary.findings(report, NumberFormat(share=True))
    assert any(
        "equalize" in line and "where w8a8-static lost" in line for line in told
    )


def test_an_output_that_mixes_ranges_is_split(tmp_path: pathlib.Path) -> None:
    """Scores that share a scale with places a thousand times as large are lost; left apart
    they hold.
    """
    report = raced(tmp_path, MIXED, "normal", scores_only).report
    plain = report.candidate("w8a8-static")
    assert plain is not None
    assert plain.outcome.startswith("dropped: it loses")
    assert report.diagnosis is not None
    assert report.diagnosis.mixed_output > 100
    assert report.winner is not None
    assert "split-outputs" in report.winner
    assert report.verdict == "pass"


@pytest.mark.parametrize("effort", ["quick"])
def test_effort_bounds_what_is_tried(
    tmp_path: pathlib.Path, effort: str
) -> None:
    """With little effort one remedy is built at most."""
    report = raced(tmp_path, OUTLIER, effort).report
    assert len([row for row in report.candidates if row.why]) <= 1
