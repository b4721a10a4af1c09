"""The table of docs/devices/edge-tpu.md is made by the bench, and its networks gain by the
rewrites.
"""

import pathlib

import torch

from bench import edgetpu_mapping
from bench.edgetpu_networks import NETWORKS


def test_a_row_before_and_after(tmp_path: pathlib.Path) -> None:
    """A padded max pool cuts the network; rewritten, all of it maps."""
    torch.manual_seed(0)
    network, data = (
        NETWORKS["resnet stem (padded max pool)"]().eval(),
        torch.randn(8, 3, 32, 32),
    )
    with edgetpu_mapping.without_rewrites():
        assert edgetpu_mapping.row(network, data, tmp_path).startswith(
            "2 of 12 | 51 % | "
        )
    assert edgetpu_mapping.row(network, data, tmp_path).startswith(
        "12 of 12 | 100 % | "
    )


def test_the_document_has_every_network(root: pathlib.Path) -> None:
    """One row each."""
    text = (root / "docs/devices/edge-tpu.md").read_text(encoding="utf-8")
    assert all(
        f"\n| {name} | " in text for name in {**edgetpu_mapping.ZOO, **NETWORKS}
    )
