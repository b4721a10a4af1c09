"""File formats: a folder for each, with what writes, reads, quantizes and audits its files.

``FORMATS`` holds their records. To add a format, add its folder and its name here.
"""

import importlib
from collections.abc import Mapping

from edgekit.formats.neural_compressor.provider import (
    PROVIDER as _NEURAL_COMPRESSOR,
)
from edgekit.formats.record import Format, Provider

NAMES = ("onnx", "ort", "openvino", "tflite", "tensorrt", "edgetpu", "ethosu")
FORMATS: Mapping[str, Format] = {
    name: importlib.import_module(f"edgekit.formats.{name}.format").FORMAT
    for name in NAMES
}
#: What quantizes instead of edgekit, by the provider that a scheme names.
PROVIDERS: Mapping[str, Provider] = {
    _NEURAL_COMPRESSOR.name: _NEURAL_COMPRESSOR
}


def main_distributions() -> tuple[str, ...]:
    """The package that executes the files of each format on this machine, as pip names it."""
    return tuple(
        dict.fromkeys(record.distributions[0] for record in FORMATS.values())
    )


def runtimes() -> tuple[str, ...]:
    """The runtimes that targets can name."""
    return tuple(dict.fromkeys(record.runtime for record in FORMATS.values()))


def kernels_of(runtime: str | None) -> tuple[str, ...]:
    """The rows of the quantizer's operator table that are int8 in a runtime.

    Empty for None, which stands for no runtime in particular.
    """
    records = (
        record for record in FORMATS.values() if record.runtime == runtime
    )
    return next((record.kernels for record in records), ())
