"""PyTorch module paths in the names of TFLite tensors."""

import pytest

from edgekit.formats.tflite.names import inside, module_of

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
    """edgekit's names give the whole path, litert-torch's the attributes, names of other
    tools nothing.
    """
    assert module_of(name) == module


def test_inside() -> None:
    """A module is inside of itself and of its parents, not of one whose name begins alike."""
    assert inside("layers.1.conv", ("layers.1",)) and inside("layers.1", ("layers.1",))
    assert not inside("layers.10", ("layers.1",)) and not inside("layers.1", ())
