"""What is wrong with a quantized artifact: the noise of its layers, and what would make it
quieter.
"""

import functools
from collections.abc import Mapping, Sequence

import torch

from edgekit.artifact import Artifact
from edgekit.diagnosis import Diagnosis
from edgekit.quantization.calibration import read, read_constants
from edgekit.quantization.tuning.sensitivity import diagnose as diagnose_part
from edgekit.scheme import Tuning
from edgekit.steps import torch_storage
from edgekit.steps.quantize_torch import drawn, rows_of
from edgekit.steps.torch_reference import QUANTIZATION
from edgekit.task import Split

#: Calibration samples that a diagnosis looks at.
SAMPLES = 128


def diagnose(
    artifact: Artifact,
    networks: Mapping[str, torch.nn.Module],
    split: Split,
    seed: int,
    trials: Sequence[Tuning],
) -> Diagnosis:
    """Diagnose every part of a calibrated artifact; the loudest part's diagnosis is given."""
    loaded = torch_storage.load(artifact, networks)
    order = drawn(split, SAMPLES, seed)
    found = []
    for place, part in enumerate(artifact.parts):
        path = artifact.path(part, QUANTIZATION)
        rows = functools.partial(rows_of, split, order, artifact.parts[: place + 1], loaded)
        found.append(
            diagnose_part(
                loaded[part.name].eval(),
                part.signature,
                rows,
                (read(path), read_constants(path)),
                trials,
            )
        )
    return min(found, key=lambda diagnosis: diagnosis.sqnr_db)
