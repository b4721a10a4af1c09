"""What is tried if quantization loses too much, and in which order.

Pure: from a diagnosis to candidates.

1. what helps most in the simulation: another observer, equalization, SmoothQuant, an output
   split, better rounding; then these together
2. the fewest, cheapest layers in float that remove 6, 12 and 20 dB of the noise
3. quantization-aware training, if there are training data and the effort allows it
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.diagnosis import MIXED, Diagnosis, LayerNoise, Trial
from edgekit.recipe import Effort
from edgekit.scheme import Tuning

#: How many remedies are built and verified, at most.
MOST: Mapping[Effort, int] = {"quick": 1, "normal": 4, "thorough": 10}
#: A change that gains less than this in the simulation is not worth a build.
GAIN_DB = 1.0
#: Shares of the noise that are left when the noisiest layers are in float: 6, 12 and 20 dB
#: less.
LEFT = (0.25, 0.0625, 0.01)


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A tuning of a scheme, and why it should help."""

    tuning: Tuning
    why: str
    trained: bool = False

    @property
    def name(self) -> str:
        """What is added to the scheme's name."""
        words = [self.tuning.describe()]
        if self.trained:
            words.append("trained")
        return "+".join(word for word in words if word)


def trials(effort: Effort) -> tuple[Tuning, ...]:
    """The single changes that the diagnosis simulates."""
    quick = (
        Tuning(observer="min-max"),
        Tuning(observer="percentile"),
        Tuning(equalize=True),
        Tuning(smooth=0.5),
        Tuning(split_outputs=True),
        Tuning(correct_bias=True),
    )
    if effort != "thorough":
        return quick
    return (*quick, Tuning(smooth=0.75), Tuning(rounding="learned"))


def propose(
    diagnosis: Diagnosis, effort: Effort, trainable: bool
) -> list[Remedy]:
    """The remedies to try, the most promising first; at most ``MOST[effort]``."""
    remedies = [
        Remedy(trial.tuning, _reason(diagnosis, trial))
        for trial in _helpful_trials(diagnosis)
    ]
    single = [remedy.tuning for remedy in remedies]
    together = combine(single)
    if len(single) > 1 and together not in single:
        remedies.insert(1, Remedy(together, "what helps alone, together"))
    count = len(diagnosis.layers)
    for kept, left in noisiest_layers(diagnosis.layers):
        share = f"{100 * (1 - left):.0f} %"
        why = f"{len(kept)} of {count} layers cause {share} of the noise"
        remedies.append(Remedy(together.model_copy(update={"keep": kept}), why))
    if trainable and effort != "quick":
        place = len(remedies)
        if effort != "thorough":
            place = min(place, MOST[effort] - 1)
        why = "training lets the weights compensate for their rounding"
        remedies.insert(place, Remedy(together, why, trained=True))
    return remedies[: MOST[effort]]


def _helpful_trials(diagnosis: Diagnosis) -> list[Trial]:
    """The trials that gain enough, the best first.

    The noise of a small piece of an output is negligible next to a large one, so the
    simulation cannot show what splitting a mixed output gains: that comes first.
    """

    def splits_mixed_output(trial: Trial) -> bool:
        return diagnosis.mixed_output > MIXED and trial.tuning.split_outputs

    def gains(trial: Trial) -> bool:
        return trial.sqnr_db - diagnosis.sqnr_db >= GAIN_DB

    helpful = [
        trial
        for trial in diagnosis.trials
        if gains(trial) or splits_mixed_output(trial)
    ]
    return sorted(
        helpful,
        key=lambda trial: (not splits_mixed_output(trial), -trial.sqnr_db),
    )


def _reason(diagnosis: Diagnosis, trial: Trial) -> str:
    if trial.tuning.split_outputs and diagnosis.mixed_output > MIXED:
        times = f"{diagnosis.mixed_output:.0f} times"
        return f"the ranges of what one output joins differ {times}"
    return f"simulated SQNR {diagnosis.sqnr_db:.1f} -> {trial.sqnr_db:.1f} dB"


def combine(tunings: Sequence[Tuning]) -> Tuning:
    """All changes in one; of two that exclude each other, the first."""
    together: dict[str, Any] = {}
    for tuning in tunings:
        for name, value in _changes(tuning).items():
            together.setdefault(name, value)
    return Tuning().model_copy(update=together)


def _changes(tuning: Tuning) -> dict[str, Any]:
    plain = Tuning()
    values = {name: getattr(tuning, name) for name in Tuning.model_fields}
    return {
        name: value
        for name, value in values.items()
        if value != getattr(plain, name)
    }


def noisiest_layers(
    layers: Sequence[LayerNoise],
) -> list[tuple[tuple[str, ...], float]]:
    """Growing sets of modules to keep in float, with the share of the noise that is left.

    Fewer than half of all layers. Greedy: the next layer has the most noise for its cost,
    which is one layer plus its share of the multiplications.
    """
    noise = sum(layer.noise for layer in layers)
    macs = sum(layer.macs for layer in layers)
    if not noise or not macs:
        return []

    def noise_per_cost(layer: LayerNoise) -> float:
        return layer.noise / (1 / len(layers) + layer.macs / macs)

    ranked = sorted(layers, key=noise_per_cost, reverse=True)
    sets: list[tuple[tuple[str, ...], float]] = []
    kept: list[str] = []
    left = 1.0
    goals = list(LEFT)
    for layer in ranked[: max(1, len(layers) // 2)]:
        if layer.module:
            kept.append(layer.module)
        left -= layer.noise / noise
        if goals and left <= goals[0] and kept:
            sets.append((tuple(kept), max(left, 0.0)))
            goals = [goal for goal in goals if goal < left]
    return sets
