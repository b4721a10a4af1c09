"""What is tried where quantization loses too much, and in which order.

Pure: from a diagnosis to candidates.

1. what the simulation says helps most: another observer, equalization, SmoothQuant, an
   output split, better rounding; then these together
2. the fewest, cheapest layers in float that take 6, 12 and 20 dB of the noise away
3. quantization-aware training, where there are training data and the effort allows it
"""

import dataclasses
from collections.abc import Mapping, Sequence

from edgekit.diagnosis import MIXED, Diagnosis, LayerNoise, Trial
from edgekit.recipe import Effort
from edgekit.scheme import Tuning

#: How many remedies are built and verified, at most.
MOST: Mapping[Effort, int] = {"quick": 1, "normal": 4, "thorough": 10}
#: A change that the simulation finds to gain less than this is not worth a build.
GAIN_DB = 1.0
#: Shares of the noise that are left when the loudest layers are in float: 6, 12 and 20 dB
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
        return "+".join(
            word
            for word in (self.tuning.describe(), "trained" if self.trained else "")
            if word
        )


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
    return (
        (*quick, Tuning(smooth=0.75), Tuning(rounding="learned"))
        if effort == "thorough"
        else quick
    )


def propose(diagnosis: Diagnosis, effort: Effort, trainable: bool) -> list[Remedy]:
    """The remedies to try, the most promising first; at most ``MOST[effort]``."""
    # The noise of a small piece of an output is not heard beside a large one, so the
    # simulation cannot tell what splitting it gains.
    mixed = diagnosis.mixed_output > MIXED
    helpful = [
        trial
        for trial in diagnosis.trials
        if trial.sqnr_db - diagnosis.sqnr_db >= GAIN_DB
        or (mixed and trial.tuning.split_outputs)
    ]
    helpful.sort(
        key=lambda trial: (not (mixed and trial.tuning.split_outputs), -trial.sqnr_db)
    )
    found = [Remedy(trial.tuning, _reason(diagnosis, trial)) for trial in helpful]
    together = combined([remedy.tuning for remedy in found])
    if len(helpful) > 1 and together not in [remedy.tuning for remedy in found]:
        found.insert(1, Remedy(together, "what helps alone, together"))
    for kept, left in loudest(diagnosis.layers):
        told = f"{len(kept)} of {len(diagnosis.layers)} layers make {100 * (1 - left):.0f} % of the noise"
        found.append(Remedy(together.model_copy(update={"keep": kept}), told))
    if trainable and effort != "quick":
        place = len(found) if effort == "thorough" else min(len(found), MOST[effort] - 1)
        found.insert(
            place,
            Remedy(
                together,
                "training lets the weights make up for their rounding",
                trained=True,
            ),
        )
    return found[: MOST[effort]]


def _reason(diagnosis: Diagnosis, trial: Trial) -> str:
    if trial.tuning.split_outputs and diagnosis.mixed_output > MIXED:
        return (
            f"the ranges of what one output joins differ {diagnosis.mixed_output:.0f} times"
        )
    return f"simulated SQNR {diagnosis.sqnr_db:.1f} -> {trial.sqnr_db:.1f} dB"


def combined(tunings: Sequence[Tuning]) -> Tuning:
    """All changes in one; of two that exclude each other, the first."""
    plain, together = Tuning(), Tuning()
    for tuning in tunings:
        changed = {
            name: getattr(tuning, name)
            for name in Tuning.model_fields
            if getattr(tuning, name) != getattr(plain, name)
        }
        together = together.model_copy(
            update={
                name: value
                for name, value in changed.items()
                if getattr(together, name) == getattr(plain, name)
            }
        )
    return together


def loudest(layers: Sequence[LayerNoise]) -> list[tuple[tuple[str, ...], float]]:
    """Growing sets of modules to keep in float, with the share of the noise that is left;
    fewer than half of all.

    Greedy: the next layer has the most noise for its cost, which is one layer plus its
    share of the multiplications.
    """
    noise, macs = sum(layer.noise for layer in layers), sum(layer.macs for layer in layers)
    if not noise or not macs:
        return []
    ranked = sorted(
        layers, key=lambda layer: -layer.noise / (1 / len(layers) + layer.macs / macs)
    )
    found: list[tuple[tuple[str, ...], float]] = []
    kept: list[str] = []
    left, wanted = 1.0, list(LEFT)
    for layer in ranked[: max(1, len(layers) // 2)]:
        if layer.module:
            kept.append(layer.module)
        left -= layer.noise / noise
        if wanted and left <= wanted[0] and kept:
            found.append((tuple(kept), max(left, 0.0)))
            wanted = [share for share in wanted if share < left]
    return found
