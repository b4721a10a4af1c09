"""Calibration is plain data, and the quantized graph rebuilt from it is the same for every
backend.
"""

import json
import math
import pathlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import StepError
from edgekit.quantization.calibration import Calibration, read
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec


def signature(*dims: int, outputs: int = 1) -> Signature:
    names = (
        ("output",)
        if outputs == 1
        else tuple(f"output_{k}" for k in range(outputs))
    )
    specs = tuple(
        TensorSpec(name=name, dtype="float32", dims=("batch", 10))
        for name in names
    )
    return Signature(
        inputs=(
            TensorSpec(name="input", dtype="float32", dims=("batch", *dims)),
        ),
        outputs=specs,
    )


IMAGE = signature(1, 8, 8)


def randomize(network: nn.Module) -> nn.Module:
    """Batch statistics that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return network.eval()


def batches(*dims: int, count: int = 2) -> list[tuple[Tensor, ...]]:
    return [(torch.rand(32, *dims),) for _ in range(count)]


def small() -> nn.Module:
    layers = [
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8, 10),
    ]
    return randomize(nn.Sequential(*layers))


class Residual(nn.Module):
    """Adds, concatenates, and normalizes after ReLU and before a padded convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.third = (
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.Conv2d(16, 8, 1),
        )
        self.norm_2, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(functional.relu(self.first(x)))
        y = functional.relu(self.norm_2(self.second(x)) + x)
        return self.head(self.third(torch.cat([x, y], 1)).mean((2, 3)))


class Padded(nn.Module):
    """Asymmetric padding, 'same' padding of an even kernel, a pool that rounds up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(1, 8, 3),
            nn.Conv2d(8, 8, 2, padding="same"),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.first(functional.pad(x, (0, 1, 2, 0))))
        x = functional.max_pool2d(self.second(x), 3, 2, ceil_mode=True)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "make",
    [small, lambda: randomize(Residual()), lambda: Padded().eval()],
    ids=["small", "residual", "padded"],
)
def test_both_folds_compute_the_same_numbers_close_to_float(
    make, symmetric: bool
) -> None:
    """One calibration produces one computation, whether weights are stored as int8 or not, on
    two batch sizes.
    """
    network, data = make(), batches(1, 8, 8)
    calibration = calibrate(network, data, IMAGE, Settings(symmetric=symmetric))
    folded, unfolded = (
        simulate(network, IMAGE, calibration, fold=True),
        simulate(network, IMAGE, calibration, fold=False),
    )
    with torch.no_grad():
        for samples in (data[0][0], data[0][0][:1]):
            assert torch.equal(folded(samples), unfolded(samples))
            reference = network(samples)
            assert (folded(samples) - reference).abs().max() < 0.06 * max(
                float(network(data[0][0]).abs().max()), 0.5
            )


def test_calibration_survives_json_exactly(tmp_path: pathlib.Path) -> None:
    """What was stored is what is read, to the last bit, so the rebuilt graph is the same."""
    network, data = small(), batches(1, 8, 8)
    calibration = calibrate(network, data, IMAGE, Settings(symmetric=False))
    path = tmp_path / "main.quantization.json"
    path.write_text(calibration.model_dump_json(), encoding="utf-8")
    again = read(path)
    assert again == calibration
    with torch.no_grad():
        first, second = (
            simulate(network, IMAGE, calibration, fold=True),
            simulate(network, IMAGE, again, fold=True),
        )
        assert torch.equal(first(data[0][0]), second(data[0][0]))


def test_symmetric_activations_have_zero_point_zero_and_weights_stay_in_range() -> (
    None
):
    """TensorRT's rules hold in the calibration itself; asymmetric graphs do use zero
    points.
    """
    for symmetric in (True, False):
        tensors = calibrate(
            small(), batches(1, 8, 8), IMAGE, Settings(symmetric=symmetric)
        ).tensors.values()
        activations = [tensor for tensor in tensors if tensor.axis is None]
        weights = [tensor for tensor in tensors if tensor.axis is not None]
        assert (
            all(
                zero == 0
                for tensor in activations
                for zero in tensor.zero_point
            )
            is symmetric
        )
        assert weights and all(
            tensor.quant_min == -127
            and set(tensor.zero_point) == {0}
            and tensor.axis == 0
            for tensor in weights
        )


def test_calibration_names_modules_and_shares_scales_through_pools() -> None:
    """A report can say which PyTorch module a scale belongs to; a pool and a reshape keep
    the scale.
    """
    tensors = calibrate(
        small(), batches(1, 8, 8), IMAGE, Settings(symmetric=False)
    ).tensors
    assert {"0", "6"} <= {tensor.module for tensor in tensors.values()}
    shared = next(
        tensor.nodes for tensor in tensors.values() if len(tensor.nodes) > 1
    )
    assert (
        shared[0].startswith("relu")
        and any("pool" in name for name in shared)
        and any("flatten" in name for name in shared)
    )


def test_the_network_is_not_changed() -> None:
    """Folding batch normalization works on a copy."""
    network = randomize(Residual())
    before = {
        name: value.clone() for name, value in network.state_dict().items()
    }
    calibration = calibrate(
        network, batches(1, 8, 8), IMAGE, Settings(symmetric=False)
    )
    simulate(network, IMAGE, calibration, fold=True)
    assert all(
        torch.equal(value, before[name])
        for name, value in network.state_dict().items()
    )


def test_a_tensor_that_is_always_zero_gets_a_usable_scale() -> None:
    """A dead ReLU has neither a scale of zero nor NaN."""
    network = small()
    nn.init.zeros_(network[1].weight)
    nn.init.constant_(network[1].bias, -1.0)
    calibration = calibrate(
        network, batches(1, 8, 8), IMAGE, Settings(symmetric=False)
    )
    assert all(
        math.isfinite(scale) and scale > 0
        for tensor in calibration.tensors.values()
        for scale in tensor.scale
    )
    with torch.no_grad():
        data = torch.rand(3, 1, 8, 8)
        assert (
            simulate(network, IMAGE, calibration, fold=True)(data)
            - network(data)
        ).abs().max() < 0.02


def test_bounded_functions_have_the_scales_that_tflite_asks_for() -> None:
    """Sigmoid's output is 1/256 with zero point -128."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate, self.head = (
                nn.Conv2d(1, 4, 3),
                nn.Conv2d(4, 4, 1),
                nn.Linear(4, 10),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.head((x * torch.sigmoid(self.gate(x))).mean((2, 3)))

    tensors = calibrate(
        Gate().eval(), batches(1, 8, 8), IMAGE, Settings(symmetric=False)
    ).tensors
    assert (tensors["sigmoid"].scale, tensors["sigmoid"].zero_point) == (
        (1 / 256,),
        (-128,),
    )


def test_what_stays_float_is_listed_with_its_reason() -> None:
    """An LSTM is named with its module; the layer after it is still quantized."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = (
                nn.LSTM(8, 8, batch_first=True),
                nn.Linear(8, 10),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    calibration = calibrate(
        Recurrent().eval(),
        batches(6, 8),
        signature(6, 8),
        Settings(symmetric=False),
    )
    assert calibration.quantized_ops == 1
    assert [
        (item.op, item.module, item.reason) for item in calibration.left_float
    ] == [
        (
            "lstm.input",
            "cell",
            "recurrent layers stay float; the scheme w8-dynamic makes their weights int8",
        )
    ]


def test_a_network_with_nothing_to_quantize_is_refused() -> None:
    """No int8 operator: an error with a fix, not a float file called int8."""

    class Only(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x.flatten(1)[:, :10], 1)

    with pytest.raises(
        StepError, match="Nothing in this network can be quantized"
    ):
        calibrate(
            Only().eval(), batches(1, 8, 8), IMAGE, Settings(symmetric=False)
        )


def test_missing_and_infinite_data_are_refused() -> None:
    """No batches, or numbers that are not finite, give an error and no scale."""
    with pytest.raises(StepError, match="no calibration data"):
        calibrate(small(), [], IMAGE, Settings(symmetric=False))
    with pytest.raises(
        StepError, match="contain an infinite value: input, sample 0"
    ):
        calibrate(
            small(),
            [(torch.full((2, 1, 8, 8), math.inf),)],
            IMAGE,
            Settings(observer="min-max"),
        )


def test_a_calibration_of_another_network_is_refused() -> None:
    """Scales are never put on tensors that they were not found for: neither by name nor by
    number of channels.
    """
    calibration = calibrate(
        small(), batches(1, 8, 8), IMAGE, Settings(symmetric=False)
    )
    with pytest.raises(StepError, match="does not match its calibration"):
        simulate(Padded().eval(), IMAGE, calibration, fold=True)
    wider = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 10),
    )
    with pytest.raises(StepError, match="does not match its calibration"):
        simulate(wider.eval(), IMAGE, calibration, fold=True)


def test_a_broken_calibration_file_is_refused(tmp_path: pathlib.Path) -> None:
    """Text that is not JSON, and JSON that is not a calibration."""
    path = tmp_path / "main.quantization.json"
    for text, message in (
        ("{", "not a calibration"),
        (json.dumps({"settings": 3}), "1 error"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(StepError, match=message):
            read(path)


def test_several_outputs_keep_the_order_of_the_signature() -> None:
    """A dict is put in the signature's order."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(8, 10), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"output_1": self.right(x), "output_0": self.left(x)}

    network, where = Two().eval(), signature(8, outputs=2)
    calibration: Calibration = calibrate(
        network, batches(8), where, Settings(symmetric=False)
    )
    data = torch.rand(4, 8)
    with torch.no_grad():
        left, right = simulate(network, where, calibration, fold=True)(data)
        assert (left - network.left(data)).abs().max() < 0.05 and (
            right - network.right(data)
        ).abs().max() < 0.05


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    """A branch on a value is the user's to change."""

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(StepError, match="cannot be traced") as raised:
        calibrate(
            Branch().eval(),
            batches(10),
            signature(10),
            Settings(symmetric=False),
        )
    assert "branches" in str(raised.value.fix)
