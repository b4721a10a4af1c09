"""The order of remedies: what the simulation says first, layers in float next, training
where there is time.
"""

from edgekit.diagnosis import Diagnosis, LayerNoise, Trial
from edgekit.planning.remedies import (
    MOST,
    combine,
    noisiest_layers,
    propose,
    trials,
)
from edgekit.scheme import Tuning

LAYERS = (
    LayerNoise(module="loud", sqnr_db=10, macs=100),
    LayerNoise(module="middle", sqnr_db=20, macs=100),
    LayerNoise(module="quiet", sqnr_db=40, macs=100),
    LayerNoise(module="silent", sqnr_db=60, macs=100),
)


def ill(*tried: Trial, mixed: float = 1.0) -> Diagnosis:
    return Diagnosis(
        sqnr_db=9.5,
        weights_db=30,
        activations_db=9.6,
        layers=LAYERS,
        mixed_output=mixed,
        trials=tried,
    )


def test_what_helps_most_comes_first_then_all_of_it_then_layers_in_float() -> (
    None
):
    """A change that gains less than a decibel is not built."""
    gains = (
        (Tuning(equalize=True), 20),
        (Tuning(smooth=0.5), 25),
        (Tuning(correct_bias=True), 10),
    )
    found = propose(
        ill(*(Trial(tuning=tuning, sqnr_db=level) for tuning, level in gains)),
        "thorough",
        trainable=False,
    )
    assert [remedy.name for remedy in found] == [
        "smooth-0.5",
        "equalize+smooth-0.5",
        "equalize",
        "equalize+smooth-0.5+float-1",
        "equalize+smooth-0.5+float-2",
    ]
    assert found[3].tuning.keep == ("loud",)
    assert found[4].tuning.keep == ("loud", "middle")


def test_an_output_that_mixes_ranges_is_split_first() -> None:
    """The diagnosis names the cause, whatever else gains more in the simulation."""
    tried = (
        Trial(tuning=Tuning(equalize=True), sqnr_db=30),
        Trial(tuning=Tuning(split_outputs=True), sqnr_db=25),
    )
    assert (
        propose(ill(*tried, mixed=1000), "normal", trainable=True)[0].name
        == "split-outputs"
    )
    assert propose(ill(*tried), "normal", trainable=True)[0].name == "equalize"


def test_effort_bounds_the_number_and_training_needs_data() -> None:
    """Quick tries one and trains nothing; normal ends with training; without data nobody
    trains.
    """
    for effort in ("quick", "normal", "thorough"):
        found = propose(ill(), effort, trainable=True)
        assert len(found) <= MOST[effort]
        assert any(remedy.trained for remedy in found) == (effort != "quick")
        assert not any(
            remedy.trained for remedy in propose(ill(), effort, trainable=False)
        )
        assert all(tuning != Tuning() for tuning in trials(effort))


def test_the_fewest_and_cheapest_layers_are_kept() -> None:
    """Of two layers with the same noise the one with fewer multiplications goes first; half
    of all at most.
    """
    cheap = (
        LayerNoise(module="costly", sqnr_db=10, macs=1000),
        LayerNoise(module="cheap", sqnr_db=10, macs=10),
        *LAYERS[2:],
    )
    assert noisiest_layers(cheap)[0][0][0] == "cheap"
    assert (
        max(len(kept) for kept, _ in noisiest_layers(LAYERS))
        <= len(LAYERS) // 2
    )
    assert noisiest_layers(()) == []


def test_changes_are_joined_and_the_first_of_two_that_exclude_each_other_counts() -> (
    None
):
    """Two values of one field cannot both be had."""
    assert combine(
        [Tuning(smooth=0.5), Tuning(equalize=True), Tuning(smooth=0.75)]
    ) == Tuning(smooth=0.5, equalize=True)
