"""What edgekit uses of torchao's PT2E.

Imported without torchao's log messages about kernels for hardware that is not present.
"""

import logging
import warnings

_before = logging.root.manager.disable
logging.disable(logging.WARNING)
try:
    with warnings.catch_warnings():
        # While Python compiles torchao for the first time.
        warnings.filterwarnings("ignore", message="invalid escape sequence")
        from torchao.quantization.pt2e import (
            HistogramObserver,
            MinMaxObserver,
            MovingAverageMinMaxObserver,
            ObserverBase,
            PerChannelMinMaxObserver,
        )
        from torchao.quantization.pt2e.quantize_pt2e import (
            convert_pt2e,
            prepare_pt2e,
        )
        from torchao.quantization.pt2e.quantizer import (
            FixedQParamsQuantizationSpec,
            QuantizationAnnotation,
            QuantizationSpec,
            QuantizationSpecBase,
            Quantizer,
            SharedQuantizationSpec,
        )
finally:
    logging.disable(_before)

__all__ = [
    "FixedQParamsQuantizationSpec",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "ObserverBase",
    "PerChannelMinMaxObserver",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
    "convert_pt2e",
    "prepare_pt2e",
]
