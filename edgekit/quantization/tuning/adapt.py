"""Calibrating a float network with the changes that a tuning asks for.

1. equalize, smooth      change weights so that ranges agree; the float network computes the
   same
2. calibrate             finds the ranges of activations
3. learned rounding      moves weights by less than one step
4. bias correction       removes the mean error of each channel
"""

import torch

from edgekit.quantization.calibration import BatchSource, Calibration, Constants
from edgekit.quantization.graph import calibrate
from edgekit.quantization.settings import Settings
from edgekit.quantization.tuning.biases import correct_biases
from edgekit.quantization.tuning.equalization import equalize
from edgekit.quantization.tuning.rounding import learn_rounding
from edgekit.quantization.tuning.smoothing import smooth
from edgekit.scheme import Tuning
from edgekit.signature import Signature


def adapt(
    network: torch.nn.Module,
    batches: BatchSource,
    signature: Signature,
    settings: Settings,
    tuning: Tuning,
) -> tuple[Calibration, Constants]:
    """Calibrate a network with ``settings``, after and before the changes of ``tuning``.

    Returns the calibration and the changed constants by name. Raises StepError as
    ``calibrate`` does, and if a requested change does not apply to the network.
    """
    constants: dict[str, torch.Tensor] = {}
    changes: list[str] = []

    def record(what: str, changed: Constants) -> None:
        constants.update(changed)
        changes.append(f"{what}: {len(changed)} tensors")

    if tuning.equalize:
        record("equalize", equalize(network, signature))
    if tuning.smooth is not None:
        smoothed = smooth(network, signature, batches, tuning.smooth, constants)
        record(f"smooth {tuning.smooth}", smoothed)
    calibration = calibrate(network, batches(), signature, settings, constants)
    if tuning.rounding == "learned":
        weights = learn_rounding(
            network, signature, batches, calibration, constants
        )
        record("learned rounding", weights)
    if tuning.correct_bias:
        biases = correct_biases(
            network, signature, batches, calibration, constants
        )
        record("bias correction", biases)
    return calibration.model_copy(update={"changes": tuple(changes)}), constants
