"""The notes of steps, as short lines."""

from edgekit.rendering.formatting import NumberFormat
from edgekit.rendering.stages import changes, channels, facts, losses

FORMAT = NumberFormat(share=True)
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


def test_pruning_is_shown_before_and_after() -> None:
    """Parameters, MACs and channels with the reduction."""
    assert dict(facts(PRUNED, FORMAT)) == {
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


def test_parts_are_distinguished() -> None:
    """The part's name precedes the number."""
    two = {
        "parts": {
            name: {"parameters": [10, 5]} for name in ("encoder", "decoder")
        }
    }
    assert [row.name for row in changes(two, FORMAT)] == [
        "encoder: parameters",
        "decoder: parameters",
    ]


def test_the_loss_is_shown_by_its_ends() -> None:
    """First and last value, and how many epochs."""
    assert facts({"loss": [2.0, 0.5, 0.125]}, FORMAT) == [
        ("loss", "2 to 0.125 in 3 epochs")
    ]
    assert losses({"loss": [1.0]}) == []
    assert losses({"loss": "low"}) == []


def test_notes_of_any_shape_are_shown() -> None:
    """Unknown notes are flattened, and never raise."""
    strange = {
        "parts": "none",
        "loss": None,
        "deep": {"er": [True, 1.5]},
        "empty": {},
        "parameters": [1],
    }
    assert facts(strange, FORMAT) == [
        ("parts", "none"),
        ("loss", "none"),
        ("deep.er", "yes, 1.5"),
        ("empty", "none"),
        ("parameters", "1"),
    ]
    assert facts({"parts": {"main": {"parameters": [0, 0]}}}, FORMAT) == [
        ("parameters", "0 to 0")
    ]
