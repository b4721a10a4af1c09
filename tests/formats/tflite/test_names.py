"""PyTorch module paths in the names of TFLite tensors."""

import pytest

from edgekit.formats.module_paths import is_within
from edgekit.formats.tflite.names import module_of

SEQUENTIAL = "torch.nn.modules.container.Sequential_layers"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("~layers.0.conv;3", "layers.0.conv"),
        ("~layers.0.act;;~layers.0.conv;1", "layers.0.conv"),
        ("~encoder.norm;2/smoothed", "encoder.norm"),
        ("~;1", ""),
        (
            f"mine.Net/{SEQUENTIAL}/mine.Block_0/torch.nn.modules.conv.Conv2d_conv;1",
            "layers.0.conv",
        ),
        (
            f"mine.Net/{SEQUENTIAL}/torch.nn.modules.activation.ReLU_1;;mine.Net/{SEQUENTIAL}/torch.nn.modules.conv.Conv2d_0;",
            "layers.0",
        ),
        ("serving_default_args_0:0", ""),
        ("serving_default_output_0_output", ""),
        ("arith.constant7", ""),
        ("model/conv2d/BiasAdd/ReadVariableOp", ""),
        ("", ""),
    ],
)
def test_module_of(name: str, module: str) -> None:
    """edgekit's names contain the complete path, litert-torch's the attributes, names of
    other tools nothing.
    """
    assert module_of(name) == module


def test_is_within() -> None:
    """A module is within itself and its parents, not within one whose name starts alike."""
    assert is_within("layers.1.conv", ("layers.1",))
    assert is_within("layers.1", ("layers.1",))
    assert not is_within("layers.10", ("layers.1",))
    assert not is_within("layers.1", ())
