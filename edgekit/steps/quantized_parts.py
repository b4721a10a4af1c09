"""Writing a part of a model with its calibration."""

import shutil

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.quantization.calibration import Calibration, Constants, write
from edgekit.steps.torch_reference import QUANTIZATION

#: The role of a part's changed constants among its files.
CONSTANTS = "constants"


def copy_with_calibration(
    artifact: Artifact,
    part: Part,
    calibration: Calibration,
    constants: Constants,
    context: Context,
) -> Part:
    """Copy the files of a part to ``context.folder`` and write its calibration next to them.

    Returns the new part. ``constants`` are written only if there are any.
    """
    files = {}
    for role, file in part.files.items():
        shutil.copyfile(artifact.path(part, role), context.folder / file.path)
        files[role] = File(path=file.path)
    path = context.folder / f"{part.name}.quantization.json"
    written = write(calibration, constants, path)
    for role, path in zip((QUANTIZATION, CONSTANTS), written, strict=False):
        files[role] = File(path=path.name)
    return part.model_copy(update={"files": files})
