"""OpenVINO is imported without the package that reports its use."""

import subprocess
import sys

#: Prints whether telemetry was imported, and can be afterwards by others who want it.
_PROGRAM = """
import sys
from edgekit.formats.openvino.library import openvino
print("openvino_telemetry" in sys.modules, openvino.tools.ovc.telemetry.__module__)
import openvino_telemetry
"""


def test_telemetry_is_not_imported() -> None:
    """In a new process; OpenVINO's own stub takes its place."""
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "openvino.tools.ovc.telemetry_stub"]
