"""The graph with switches: all on it is the quantized network, all off the float one."""

import pytest
import torch

from edgekit.errors import StepError
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.quantization.simulator import build_simulator
from tests.quantization.networks import IMAGE, normed, outlier, rows


@pytest.mark.parametrize("symmetric", [False, True])
def test_switches_on_is_the_quantized_network_and_off_the_float_one(
    symmetric: bool,
) -> None:
    """The same numbers as the graph that is exported (but for the last float bit), and as
    the network.
    """
    network, test = outlier(), next(rows(1, 8, 8, seed=9)())[0]
    calibration = calibrate(
        network, rows(1, 8, 8)(), IMAGE, Settings(symmetric=symmetric)
    )
    simulated = build_simulator(network, IMAGE, calibration)
    with torch.no_grad():
        step = calibration.output_scales[0]
        assert step is not None
        difference = (
            simulated.graph(test)
            - simulate(network, IMAGE, calibration, fold=True)(test)
        ).abs()
        assert float(difference.max()) <= 1.001 * step
        assert float((difference > step / 2).float().mean()) < 0.01
        simulated.set_all(False)
        assert torch.allclose(simulated.graph(test), network(test), atol=1e-4)


def test_operators_know_their_module_their_constants_and_their_cost() -> None:
    """Each convolution and linear layer is found with its path, its weight's name and its
    multiplications.
    """
    calibration = calibrate(outlier(), rows(1, 8, 8)(), IMAGE)
    by_module = {
        operator.module: operator
        for operator in build_simulator(outlier(), IMAGE, calibration).operators
    }
    assert list(by_module) == ["first", "depthwise", "point", "head"]
    assert by_module["first"].macs == 16 * 9 * 64
    assert by_module["head"].macs == 512 * 10
    assert by_module["point"].weight_name.endswith("point.weight")
    assert by_module["first"].input is not None


def test_another_networks_calibration_is_refused() -> None:
    """The tensors must be the same ones."""
    with pytest.raises(StepError, match="does not match its calibration"):
        build_simulator(
            normed(),
            IMAGE.model_copy(
                update={
                    "inputs": (
                        IMAGE.inputs[0].model_copy(
                            update={"dims": ("batch", 32)}
                        ),
                    )
                }
            ),
            calibrate(outlier(), rows(1, 8, 8)(), IMAGE),
        )
