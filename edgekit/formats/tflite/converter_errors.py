"""What errors of the TFLite converter and of LiteRT mean, and how to fix them."""

import re
from typing import NamedTuple

from edgekit.errors import StepError


class KnownError(NamedTuple):
    """A pattern in an error's text, its meaning, and a fix that was tried.

    The meaning may use the named groups of the pattern.
    """

    pattern: str
    meaning: str
    fix: str


_REPLACE = "replace this operator in the network"
#: The first pattern that matches is used. Each fix was tried (facts on TFLite, 1.2).
KNOWN_ERRORS: tuple[KnownError, ...] = (
    KnownError(
        r"failed to legalize operation 'mhlo\.convolution'",
        "TFLite has no transposed convolution with this kernel, stride and padding",
        "use kernel 4, stride 2, padding 1 or kernel 2, stride 2; or "
        "ConvTranspose2d(padding=0), and crop the result",
    ),
    KnownError(
        r"Lowering not found: aten\.(rand|normal|bernoulli)",
        "forward() generates random numbers",
        "pass the noise as an input of the network",
    ),
    KnownError(
        r"Lowering not found: aten\._assert_async",
        "one_hot (or another operator that checks its values) is not supported in TFLite",
        "write one_hot as (index[..., None] == torch.arange(classes)).float()",
    ),
    KnownError(
        r"Lowering not found: aten\.histc",
        "grouped mixture-of-experts code is not supported in TFLite",
        "set experts_implementation='batched_mm' in the model's config",
    ),
    KnownError(
        r"Lowering not found: cond",
        "torch.cond is not supported in TFLite",
        "remove branches on values; compute both sides and choose with torch.where",
    ),
    KnownError(
        r"complex<f32>|torch\.complex64",
        "complex numbers are not supported in TFLite",
        "compute the features outside of the network",
    ),
    KnownError(
        r"jnp\.nonzero|ConcretizationTypeError|GuardOnDataDependentSymNode",
        "the shape of a tensor depends on values",
        "use masks of a fixed shape instead of nonzero() or boolean indexing",
    ),
    KnownError(
        r"stablehlo\.scatter|STABLEHLO_SCATTER",
        "adding to indexed positions (index_add, scatter_add) does not run in TFLite",
        "write it as a product with a one-hot matrix: "
        "(index[None] == torch.arange(n)[:, None]).float() @ values",
    ),
    KnownError(
        r"STABLEHLO_SORT",
        "sort or topk over several rows does not run in TFLite",
        "use topk on one row, or repeated max with a mask",
    ),
    KnownError(
        r"Lowering not found: (?P<operator>[\w.]+)",
        "the operator {operator} is not supported in TFLite",
        _REPLACE,
    ),
    KnownError(
        r"builtin opcode '(?P<operator>\w+)'",
        "LiteRT has no kernel for {operator}",
        _REPLACE,
    ),
)


def translate_error(error: Exception, where: str) -> StepError:
    """The StepError that explains an error of the converter or of LiteRT.

    ``where`` names the part. Unknown errors are quoted, with at most 300 characters.
    """
    text = f"{type(error).__name__}: {error}"
    for rule in KNOWN_ERRORS:
        match = re.search(rule.pattern, text)
        if match:
            groups = {
                name: value or "" for name, value in match.groupdict().items()
            }
            return StepError(
                f"{where}: {rule.meaning.format(**groups)}.", fix=rule.fix
            )
    lines = [line.strip() for line in str(error).strip().splitlines()]
    summary = " ".join(lines[:3])[:300]
    return StepError(
        f"{where}: the TFLite converter failed: {type(error).__name__}: {summary}",
        fix="replace the operator that it names, or use a target with the format onnx",
    )
