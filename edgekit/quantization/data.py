"""Calibration data, looked at while they pass: what would give useless ranges is told
before it is used.
"""

from collections.abc import Iterable, Iterator

import torch

from edgekit.errors import StepError
from edgekit.signature import Signature, TensorSpec

_Batch = tuple[torch.Tensor, ...]


def checked(inputs: Iterable[_Batch], signature: Signature) -> Iterator[_Batch]:
    """Hand on one batch after the other (each a tuple in the signature's order), none of
    them kept.

    Raises StepError for no data, an empty batch, another number of tensors or samples,
    another shape, a number that is not finite; and at the end where every input holds one
    single number in all samples.
    """
    ranges: list[tuple[float, float] | None] = [None] * len(signature.inputs)
    seen = numbers = 0
    for batch in inputs:
        _check_form(batch, signature, seen)
        for k, (spec, tensor) in enumerate(zip(signature.inputs, batch, strict=True)):
            ranges[k] = _joined(ranges[k], _range(spec, tensor, seen))
            numbers += tensor.numel()
        yield batch
        seen += len(batch[0])
    if not seen:
        raise StepError(
            "There are no calibration data.",
            fix="give the task calibration or training data",
        )
    if numbers > len(ranges) and all(
        found is not None and found[0] == found[1] for found in ranges
    ):
        told = ", ".join(
            f"{spec.name} is always {found[0]:g}"
            for spec, found in zip(signature.inputs, ranges, strict=True)
            if found
        )
        raise StepError(
            f"The calibration data are constant: {told} in all {seen} samples.",
            fix="calibrate with samples as they occur in use",
        )


def _check_form(batch: _Batch, signature: Signature, seen: int) -> None:
    where = f"behind sample {seen}" if seen else "at the beginning"
    names = ", ".join(spec.name for spec in signature.inputs)
    if len(batch) != len(signature.inputs):
        raise StepError(
            f"A calibration batch {where} has {len(batch)} tensors; the network takes {names}.",
            fix=f"give a tuple of {names} for each batch",
        )
    counts = [len(tensor) if tensor.dim() else 0 for tensor in batch]
    if 0 in counts:
        raise StepError(
            f"A calibration batch {where} is empty.", fix="leave empty batches out"
        )
    if len(set(counts)) > 1:
        told = ", ".join(
            f"{count} of {spec.name}"
            for count, spec in zip(counts, signature.inputs, strict=True)
        )
        raise StepError(
            f"A calibration batch {where} has {told}.",
            fix="give as many samples of each input",
        )
    for spec, tensor in zip(signature.inputs, batch, strict=True):
        fits = len(spec.dims) == tensor.dim() and all(
            isinstance(dim, str) or dim == size
            for dim, size in zip(spec.dims, tensor.shape, strict=True)
        )
        if not fits:
            told = f"{spec.name} has the shape {list(tensor.shape)} in calibration; the network takes {list(spec.dims)}"
            raise StepError(
                f"{told}.", fix="prepare the calibration data as the training data"
            )


def _range(spec: TensorSpec, tensor: torch.Tensor, seen: int) -> tuple[float, float]:
    low, high = (
        float(value)
        for value in torch.aminmax(
            tensor.detach().flatten().float()
            if tensor.dtype == torch.bool
            else tensor.detach().flatten()
        )
    )
    if low - low != 0 or high - high != 0:  # NaN or infinite
        sample = next(
            k for k, row in enumerate(tensor) if not bool(torch.isfinite(row).all())
        )
        what = "NaN" if bool(torch.isnan(tensor[sample]).any()) else "an infinite number"
        raise StepError(
            f"The calibration data hold {what}: {spec.name}, sample {seen + sample}.",
            fix="clean the data, or leave this sample out",
        )
    return low, high


def _joined(
    first: tuple[float, float] | None, second: tuple[float, float]
) -> tuple[float, float]:
    return second if first is None else (min(first[0], second[0]), max(first[1], second[1]))
