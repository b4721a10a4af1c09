"""ai-edge-quantizer's own recipes for TFLite, each as one function that writes a file."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy
from ai_edge_quantizer import quantizer, recipe

from bench.exports import CHANNEL_LAST
from bench.peer_inputs import PeerInputs, Recipe


def _write(
    inputs: PeerInputs,
    path: pathlib.Path,
    words: Any,
    *,
    calibrated: bool = False,
) -> None:
    quantized = quantizer.Quantizer(str(inputs.float_file), words)
    ranges = quantized.calibrate(_rows(inputs)) if calibrated else None
    quantized.quantize(ranges).export_model(str(path), overwrite=True)


def _rows(inputs: PeerInputs) -> dict[str, list[dict[str, Any]]]:
    """Calibration samples by the file's own signature and input names, in its layout and
    dtypes.
    """
    from ai_edge_litert.interpreter import Interpreter

    running = Interpreter(model_path=str(inputs.float_file))
    ((key, signature),) = running.get_signature_list().items()
    details = running.get_signature_runner(key).get_input_details()
    names = sorted(
        signature["inputs"], key=lambda name: int(name.rpartition("_")[2])
    )
    rows = []
    for row in inputs.rows():
        arrays = [
            numpy.transpose(array, CHANNEL_LAST) if inputs.images else array
            for array in row.values()
        ]
        rows.append(
            {
                name: numpy.ascontiguousarray(array, details[name]["dtype"])
                for name, array in zip(names, arrays, strict=True)
            }
        )
    return {key: rows}


def static(inputs: PeerInputs, path: pathlib.Path) -> None:
    """static_wi8_ai8: all in int8, inputs and outputs too."""
    _write(inputs, path, recipe.static_wi8_ai8(), calibrated=True)


def dynamic(inputs: PeerInputs, path: pathlib.Path) -> None:
    """dynamic_wi8_afp32: int8 weights per channel, activations scaled while it runs."""
    _write(inputs, path, recipe.dynamic_wi8_afp32())


def weight_only(inputs: PeerInputs, path: pathlib.Path) -> None:
    """weight_only_wi8_afp32: int8 weights per channel, float arithmetic."""
    _write(inputs, path, recipe.weight_only_wi8_afp32())


PEERS: Mapping[str, Recipe] = {
    "ai-edge-quantizer static": static,
    "ai-edge-quantizer dynamic": dynamic,
    "ai-edge-quantizer weight-only": weight_only,
}
