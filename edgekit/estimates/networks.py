"""The networks that a latency table is recorded with.

Probes are cut into files that are timed; held-out networks measure the error of the estimates.
They become files by edgekit's own steps, so their operators are those of the files that edgekit
ships.
"""

import contextlib
from collections.abc import Mapping

import numpy

from edgekit.arrays import Array
from edgekit.artifact import Artifact, FormatName
from edgekit.cache import Cache
from edgekit.errors import ModelError, StepError, TaskError
from edgekit.estimates import architectures
from edgekit.pipeline.build import Build, follow_candidate
from edgekit.planning.routes import PlannedStep, candidate
from edgekit.progress import Silent
from edgekit.target import RUNTIMES, Target
from edgekit.task import Task

#: Samples in the test data, and as many for calibration.
SAMPLES = 32
#: Networks that are cut, by the name of their function in ``architectures``, with the shape of
#: one sample.
PROBES: Mapping[str, tuple[int, ...]] = {
    "dense_small": (3, 40, 40),
    "dense_tiny": (1, 10, 10),
    "dense_wide": (1, 12, 12),
    "pointwise": (3, 48, 48),
    "depthwise": (3, 56, 56),
    "blocks": (3, 24, 24),
    "pools": (3, 24, 24),
    "layers": (32,),
    "small_layers": (48,),
    "elements": (8, 48, 32),
    "narrow_tokens": (96, 16),
    "wide_tokens": (24, 16),
    "short_tokens": (16, 16),
    "few_units": (8, 16),
    "many_units": (6, 16),
}
#: Networks that are held out, likewise.
HELD_OUT: Mapping[str, tuple[int, ...]] = {
    "cnn": (1, 8, 8),
    "residual": (1, 8, 8),
    "narrow_residual": (3, 32, 32),
    "deep_residual": (3, 16, 16),
    "narrow_separable": (3, 48, 48),
    "wide_separable": (3, 96, 96),
    "pooled": (3, 32, 32),
    "plain_layers": (64,),
    "small_encoder": (32, 16),
    "encoder": (64, 16),
    "recurrent": (12, 16),
}
#: The subset for a quick table.
QUICK_PROBES = ("dense_small", "dense_tiny", "blocks", "small_layers")
QUICK_HELD_OUT = ("cnn", "narrow_residual", "plain_layers")
SHAPES: Mapping[str, tuple[int, ...]] = {**PROBES, **HELD_OUT}
#: The schemes of the files: float, and what edgekit ships for both formats.
SCHEMES = ("float", "w8a8-static")


def build(name: str, format: FormatName, cache: Cache) -> dict[str, Artifact]:
    """Build the files of one network by scheme, or read them from the cache.

    Schemes that cannot be built are left out.
    """
    samples = _draw_samples(name)
    task = Task(
        name=f"random {name}",
        test=({name: samples[:SAMPLES]}, numpy.arange(SAMPLES) % 10),
        calibration={name: samples[SAMPLES:]},
    )
    target = Target(
        name="estimates",
        title="held-out networks",
        format=format,
        runtime=RUNTIMES[format],
        schemes=SCHEMES,
    )
    pipeline = Build(task, cache, Silent(), seed=0)
    model = f"{architectures.__name__}:{name}"
    load = PlannedStep("load", "load_model", {"model": model, "weights": None})
    start = pipeline.follow(model, None, [load])[-1]
    files = {}
    for scheme in SCHEMES:
        steps = candidate(scheme, target, SAMPLES).steps
        with contextlib.suppress(StepError, ModelError, TaskError):
            files[scheme] = follow_candidate(pipeline, model, start, steps)
    return files


def feeds(name: str) -> dict[str, Array]:
    """Return one sample for a network, by the name of its input."""
    return {name: _draw_samples(name)[:1]}


def _draw_samples(name: str) -> Array:
    """Draw 2 * SAMPLES float32 samples from a standard normal distribution."""
    random = numpy.random.default_rng(0)
    samples: Array = random.standard_normal((2 * SAMPLES, *SHAPES[name]))
    return samples.astype("float32")
