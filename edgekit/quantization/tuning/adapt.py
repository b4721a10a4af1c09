"""From a float network and data to its calibration and the constants that were changed: the
order in which a tuning's parts are done.

1. equalize, smooth      change weights so that ranges agree; the float network computes the
   same
2. calibrate             finds the ranges of activations
3. learned rounding      changes weights within their steps
4. bias correction       takes the mean error out of each channel
"""

import torch

from edgekit.quantization.calibration import Calibration, Constants, Rows
from edgekit.quantization.graph import calibrate
from edgekit.quantization.settings import Settings
from edgekit.quantization.tuning.biases import corrected_biases
from edgekit.quantization.tuning.equalization import equalized
from edgekit.quantization.tuning.rounding import learned_rounding
from edgekit.quantization.tuning.smoothing import smoothed
from edgekit.scheme import Tuning
from edgekit.signature import Signature


def adapt(
    network: torch.nn.Module,
    rows: Rows,
    signature: Signature,
    settings: Settings,
    tuning: Tuning,
) -> tuple[Calibration, Constants]:
    """Calibrate a network as ``settings`` and ``tuning`` say.

    Raises StepError as ``calibrate`` does, and where a change that is asked for finds
    nothing that it could change.
    """
    constants: dict[str, torch.Tensor] = {}
    changes: list[str] = []

    def note(what: str, changed: Constants) -> None:
        constants.update(changed)
        changes.append(f"{what}: {len(changed)} tensors")

    if tuning.equalize:
        note("equalize", equalized(network, signature))
    if tuning.smooth is not None:
        note(
            f"smooth {tuning.smooth}",
            smoothed(network, signature, rows, tuning.smooth, constants),
        )
    found = calibrate(network, rows(), signature, settings, constants)
    if tuning.rounding == "learned":
        note(
            "learned rounding", learned_rounding(network, signature, rows, found, constants)
        )
    if tuning.correct_bias:
        note(
            "bias correction", corrected_biases(network, signature, rows, found, constants)
        )
    return found.model_copy(update={"changes": tuple(changes)}), constants
