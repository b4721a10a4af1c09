"""Checks on calibration data while they are read, before they produce useless ranges."""

from collections.abc import Iterable, Iterator

import torch

from edgekit.errors import StepError
from edgekit.signature import Signature, TensorSpec

_Batch = tuple[torch.Tensor, ...]
_Range = tuple[float, float]


def check_batches(
    inputs: Iterable[_Batch], signature: Signature
) -> Iterator[_Batch]:
    """Yield the batches of ``inputs`` one by one, unchanged, and check each.

    A batch is a tuple in the signature's order; none is kept. Raises StepError if there are
    no data, a batch is empty, the number of tensors or samples or a shape does not match,
    or a value is NaN or infinite; and after the last batch if every input is constant.
    """
    ranges: list[_Range | None] = [None] * len(signature.inputs)
    samples = 0
    values = 0
    for batch in inputs:
        _check_shapes(batch, signature, samples)
        for k, (spec, tensor) in enumerate(
            zip(signature.inputs, batch, strict=True)
        ):
            ranges[k] = _merge(ranges[k], _range(spec, tensor, samples))
            values += tensor.numel()
        yield batch
        samples += len(batch[0])
    if not samples:
        raise StepError(
            "There are no calibration data.",
            fix="give the task calibration or training data",
        )
    # A single value per input cannot vary.
    if values > len(ranges):
        _check_not_constant(ranges, signature, samples)


def _check_not_constant(
    ranges: list[_Range | None], signature: Signature, samples: int
) -> None:
    lows = [
        bounds[0]
        for bounds in ranges
        if bounds is not None and bounds[0] == bounds[1]
    ]
    if len(lows) < len(ranges):
        return
    constants = ", ".join(
        f"{spec.name} is always {low:g}"
        for spec, low in zip(signature.inputs, lows, strict=True)
    )
    raise StepError(
        f"The calibration data are constant: {constants} in all {samples} samples.",
        fix="calibrate with representative samples",
    )


def _check_shapes(batch: _Batch, signature: Signature, samples: int) -> None:
    where = f"after sample {samples}" if samples else "at the beginning"
    names = ", ".join(spec.name for spec in signature.inputs)
    if len(batch) != len(signature.inputs):
        raise StepError(
            f"A calibration batch {where} has {len(batch)} tensors; "
            f"the network expects {names}.",
            fix=f"give a tuple of {names} for each batch",
        )
    _check_counts(batch, signature, where)
    for spec, tensor in zip(signature.inputs, batch, strict=True):
        if not _fits(spec, tensor):
            raise StepError(
                f"{spec.name} has the shape {list(tensor.shape)} in calibration; "
                f"the network expects {list(spec.dims)}.",
                fix="preprocess the calibration data like the training data",
            )


def _check_counts(batch: _Batch, signature: Signature, where: str) -> None:
    counts = [len(tensor) if tensor.dim() else 0 for tensor in batch]
    if 0 in counts:
        raise StepError(
            f"A calibration batch {where} is empty.",
            fix="leave empty batches out",
        )
    if len(set(counts)) > 1:
        described = ", ".join(
            f"{count} of {spec.name}"
            for count, spec in zip(counts, signature.inputs, strict=True)
        )
        raise StepError(
            f"A calibration batch {where} has different numbers of samples: {described}.",
            fix="give the same number of samples for each input",
        )


def _fits(spec: TensorSpec, tensor: torch.Tensor) -> bool:
    if len(spec.dims) != tensor.dim():
        return False
    pairs = zip(spec.dims, tensor.shape, strict=True)
    return all(isinstance(dim, str) or dim == size for dim, size in pairs)


def _range(spec: TensorSpec, tensor: torch.Tensor, samples: int) -> _Range:
    """The lowest and highest value, or StepError with the first sample that is not finite."""
    values = tensor.detach().flatten()
    if values.dtype == torch.bool:
        values = values.float()
    low, high = (float(value) for value in torch.aminmax(values))
    if low - low == 0 and high - high == 0:  # both are finite
        return low, high
    for k, sample in enumerate(tensor):
        if bool(torch.isfinite(sample).all()):
            continue
        what = "NaN" if bool(torch.isnan(sample).any()) else "an infinite value"
        raise StepError(
            f"The calibration data contain {what}: {spec.name}, sample {samples + k}.",
            fix="clean the data, or leave this sample out",
        )
    return low, high


def _merge(first: _Range | None, second: _Range) -> _Range:
    if first is None:
        return second
    return min(first[0], second[0]), max(first[1], second[1])
