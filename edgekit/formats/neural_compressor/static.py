"""Static int8 by neural-compressor: its quantizer on edgekit's graph, its tuning loop driven
by the task's own metric.
"""

import copy
import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgekit.errors import NothingToDo
from edgekit.formats.neural_compressor import package as inc
from edgekit.quantization.capture import capture
from edgekit.quantization.pt2e import ObserverBase, convert_pt2e
from edgekit.quantization.rewrite import rewrite
from edgekit.signature import Signature

Rows = Sequence[tuple[torch.Tensor, ...]]
Score = Callable[[torch.nn.Module], float]
#: What is tried, in this order: how activation ranges are computed, and whether the zero point
#: is fixed at the middle. Weights have per-channel scales.
TRIALS: tuple[Mapping[str, Any], ...] = (
    {"act_algo": "minmax", "act_sym": False},
    {"act_algo": "kl", "act_sym": False},
    {"act_algo": "minmax", "act_sym": True},
    {"act_algo": "kl", "act_sym": True},
)
_WEIGHTS = {
    "w_dtype": "int8",
    "w_sym": True,
    "w_granularity": "per_channel",
    "w_algo": "minmax",
}


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """The quantized graph, the chosen trial, and the scores in the metric's unit."""

    graph: torch.nn.Module
    chosen: Mapping[str, Any]
    #: Of the float network; None if nothing was scored.
    float_score: float | None
    #: Of each trial that was run, in order.
    scores: tuple[float, ...]


def quantize(
    network: torch.nn.Module,
    signature: Signature,
    rows: Rows,
    score: Score | None,
    drop: float,
) -> TuningResult:
    """Quantize with the first trial that loses at most ``drop`` in ``score`` (in the metric's
    unit), else with the best one.

    Without ``score`` the first trial is used. Raises StepError if neural-compressor fails,
    NothingToDo if it quantizes nothing.
    """
    graph = _capture(network, signature)

    def calibrate(model: torch.nn.Module) -> None:
        for row in rows:
            model(*row)

    with inc.translate_errors("use edgekit's own w8a8-static"):
        scores: list[float] = []
        chosen = _config(TRIALS[0])
        if score is not None:
            chosen, scores = _tune(graph, rows[0], calibrate, score, drop)
        prepared = inc.prepare(_copy(graph), chosen, example_inputs=rows[0])
        calibrate(prepared)
        if not any(
            isinstance(module, ObserverBase) for module in prepared.modules()
        ):
            raise NothingToDo(
                "neural-compressor has nothing to quantize in this network.",
                fix="choose the scheme 'float'",
            )
        # Its own convert leaves float weights, each followed by a quantizer; folded, the file
        # stores int8.
        converted = convert_pt2e(prepared, fold_quantize=True)
    settings = {name: getattr(chosen, name) for name in TRIALS[0]}
    float_score = scores[0] if scores else None
    return TuningResult(
        fix_mode(converted), settings, float_score, tuple(scores[1:])
    )


def fix_mode(graph: torch.nn.Module) -> torch.nn.Module:
    """Put the graph in evaluation mode for good: torchao makes ``train()`` and ``eval()``
    raise, and exporters call ``eval()``.
    """
    for module in graph.modules():
        module.training = False
    keep_mode = types.MethodType(lambda module, mode=False: module, graph)
    graph.train = keep_mode  # type: ignore[method-assign]
    graph.eval = keep_mode  # type: ignore[method-assign]
    return graph


def _capture(network: torch.nn.Module, signature: Signature) -> torch.nn.Module:
    graph = capture(network, signature).module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    with torch.no_grad():
        rewrite(graph)
    return _mark_as_exported(graph)


def _mark_as_exported(graph: torch.nn.Module) -> torch.nn.Module:
    """Set what neural-compressor looks for on a graph that it has exported itself."""
    graph._exported = True  # type: ignore[assignment]
    graph.dynamic_shapes = None  # type: ignore[assignment]
    return graph


def _copy(graph: torch.nn.Module) -> torch.nn.Module:
    return _mark_as_exported(copy.deepcopy(graph))


def _config(trial: Mapping[str, Any]) -> Any:
    return inc.StaticQuantConfig(
        act_dtype="uint8", act_granularity="per_tensor", **_WEIGHTS, **trial
    )


def _tune(
    graph: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    calibrate: Callable[[torch.nn.Module], None],
    score: Score,
    drop: float,
) -> tuple[Any, list[float]]:
    """Return the configuration that neural-compressor's loop chooses, and all scores, the
    float network's first.
    """
    scores: list[float] = []

    def evaluate(model: torch.nn.Module) -> float:
        """1 for the float network, minus what is lost: its criterion is relative, and wrong
        for a metric below 0.
        """
        scores.append(score(fix_mode(model)))
        return 1.0 + scores[-1] - scores[0]

    config = inc.TuningConfig(
        config_set=[_config(trial) for trial in TRIALS],
        tolerable_loss=drop,
        max_trials=len(TRIALS),
    )
    best = inc.autotune(
        _copy(graph),
        tune_config=config,
        eval_fn=evaluate,
        run_fn=calibrate,
        example_inputs=example,
    )
    return next(iter(best.qconfig.values())), scores
