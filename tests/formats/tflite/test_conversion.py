"""Errors of the converter and of LiteRT are explained, with a fix."""

import pytest

from edgekit.formats.tflite.converter_errors import (
    KNOWN_ERRORS,
    translate_error,
)

#: What litert-torch 0.10 and LiteRT 2.3 raised in each of these cases.
RAISED = (
    (
        "ValueError: Failed to run converter passes: failed to legalize operation "
        "'mhlo.convolution'",
        "transposed convolution",
    ),
    ("Lowering not found: aten.randn_like.default", "random numbers"),
    ("Lowering not found: aten._assert_async.msg", "one_hot"),
    ("Lowering not found: aten.histc.default", "mixture-of-experts"),
    ("Lowering not found: cond", "torch.cond"),
    ("Unsupported ir element type: complex<f32>", "complex numbers"),
    (
        "ConcretizationTypeError: jnp.nonzero must be statically specified",
        "depends on values",
    ),
    (
        "Only update, Add, Multiply, Maximum and Minimum operations are currently supported for "
        "stablehlo.scatter",
        "index_add",
    ),
    ("Didn't find op for builtin opcode 'STABLEHLO_SORT' version '1'", "topk"),
    (
        "Lowering not found: aten.special_thing.default",
        "aten.special_thing.default",
    ),
    (
        "Didn't find op for builtin opcode 'STABLEHLO_WHILE' version '1'",
        "no kernel for STABLEHLO_WHILE",
    ),
)


@pytest.mark.parametrize(("text", "meaning"), RAISED)
def test_known_errors_are_translated(text: str, meaning: str) -> None:
    """Each error that was observed is reported with its meaning and a fix."""
    error = translate_error(RuntimeError(text), "main")
    assert meaning in error.message
    assert error.message.startswith("main: ")
    assert error.fix


def test_every_rule_was_observed() -> None:
    """Every rule belongs to an error that was observed."""
    assert len(RAISED) == len(KNOWN_ERRORS)


def test_unknown_errors_are_quoted() -> None:
    """An error that is not in the table is quoted, truncated, with a fix."""
    error = translate_error(KeyError("surprise " * 100), "main")
    assert "the TFLite converter failed: KeyError" in error.message
    assert len(error.message) < 400
    assert error.fix
