"""Diagnosing a quantized artifact: the noise of its layers, and what would reduce it."""

import functools
from collections.abc import Mapping, Sequence

import torch

from edgekit.artifact import Artifact
from edgekit.diagnosis import Diagnosis
from edgekit.quantization.calibration import read, read_constants
from edgekit.quantization.tuning.sensitivity import diagnose as diagnose_part
from edgekit.scheme import Tuning
from edgekit.steps import torch_storage
from edgekit.steps.calibration_data import draw_samples, iterate_inputs
from edgekit.steps.torch_reference import QUANTIZATION
from edgekit.task import Split

#: Calibration samples that a diagnosis uses.
SAMPLES = 128


def diagnose(
    artifact: Artifact,
    networks: Mapping[str, torch.nn.Module],
    split: Split,
    seed: int,
    trials: Sequence[Tuning],
) -> Diagnosis:
    """Diagnose every part of a calibrated artifact.

    Returns the diagnosis of the part with the lowest SQNR.
    """
    loaded = torch_storage.load(artifact, networks)
    samples = draw_samples(split, SAMPLES, seed)
    diagnoses = []
    for index, part in enumerate(artifact.parts):
        path = artifact.path(part, QUANTIZATION)
        chain = artifact.parts[: index + 1]
        batches = functools.partial(
            iterate_inputs, split, samples, chain, loaded
        )
        adapted = (read(path), read_constants(path))
        network = loaded[part.name].eval()
        diagnoses.append(
            diagnose_part(network, part.signature, batches, adapted, trials)
        )
    return min(diagnoses, key=lambda diagnosis: diagnosis.sqnr_db)
