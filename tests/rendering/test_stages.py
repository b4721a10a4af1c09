"""What steps noted, told shortly."""

from edgekit.rendering.formatting import NumberFormat
from edgekit.rendering.stages import changes, channels, facts, losses

SAYS = NumberFormat(share=True)
PRUNED = {
    "ratio": 0.5,
    "multiple": 8,
    "parts": {
        "main": {
            "parameters": [1000, 250],
            "macs": [4000, 1000],
            "channels": {"a": [16, 8], "b": [32, 16]},
        }
    },
}


def test_pruning_is_told_before_and_after() -> None:
    """Parameters, MACs and channels with what is gone."""
    assert dict(facts(PRUNED, SAYS)) == {
        "parameters": "1,000 to 250 (75 % less)",
        "MACs": "4.00 k to 1.00 k (75 % less)",
        "channels": "48 to 24 in 2 layers",
        "ratio": "0.5",
        "multiple": "8",
    }
    assert [(row.name, row.before, row.after) for row in channels(PRUNED)] == [
        ("a", 16, 8),
        ("b", 32, 16),
    ]


def test_several_parts_are_told_apart() -> None:
    """The part's name stands before the number."""
    two = {"parts": {name: {"parameters": [10, 5]} for name in ("encoder", "decoder")}}
    assert [row.name for row in changes(two, SAYS)] == [
        "encoder: parameters",
        "decoder: parameters",
    ]


def test_the_loss_is_told_by_its_ends() -> None:
    """First and last value, and how many epochs."""
    assert facts({"loss": [2.0, 0.5, 0.125]}, SAYS) == [("loss", "2 to 0.125 in 3 epochs")]
    assert losses({"loss": [1.0]}) == []
    assert losses({"loss": "low"}) == []


def test_notes_of_any_shape_are_told() -> None:
    """What is not known is told flat, and never raises."""
    strange = {
        "parts": "none",
        "loss": None,
        "deep": {"er": [True, 1.5]},
        "empty": {},
        "parameters": [1],
    }
    assert facts(strange, SAYS) == [
        ("parts", "none"),
        ("loss", "none"),
        ("deep.er", "yes, 1.5"),
        ("empty", "none"),
        ("parameters", "1"),
    ]
    assert facts({"parts": {"main": {"parameters": [0, 0]}}}, SAYS) == [
        ("parameters", "0 to 0")
    ]
