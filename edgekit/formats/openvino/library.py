"""OpenVINO without its telemetry.

Every ``import openvino`` reports itself to Intel over the network if the package
openvino-telemetry is installed, which openvino requires, and asks nobody (2026.4.1). OpenVINO
itself works without that package.
"""

import sys

_TELEMETRY = "openvino_telemetry"
_blocked = _TELEMETRY not in sys.modules
if _blocked:
    # Python's own way to refuse an import (docs.python.org, "The import system", 5.3.1).
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
import openvino  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

if _blocked:
    del sys.modules[_TELEMETRY]

__all__ = ["openvino", "ops"]
