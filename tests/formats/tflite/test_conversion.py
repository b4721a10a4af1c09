"""Foreign errors in plain words."""

import pytest

from edgekit.formats.tflite.conversion import KNOWN, translated

#: What litert-torch 0.10 and LiteRT 2.3 said when each of these was met.
MET = (
    (
        "ValueError: Failed to run converter passes: failed to legalize operation 'mhlo.convolution'",
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
        "Only update, Add, Multiply, Maximum and Minimum operations are currently supported for stablehlo.scatter",
        "index_add",
    ),
    ("Didn't find op for builtin opcode 'STABLEHLO_SORT' version '1'", "topk"),
    ("Lowering not found: aten.special_thing.default", "aten.special_thing.default"),
    (
        "Didn't find op for builtin opcode 'STABLEHLO_WHILE' version '1'",
        "no kernel for STABLEHLO_WHILE",
    ),
)


@pytest.mark.parametrize(("text", "meaning"), MET)
def test_known_errors_are_translated(text: str, meaning: str) -> None:
    """Each error that was met is told by its meaning and with a way out."""
    error = translated(RuntimeError(text), "main")
    assert meaning in error.message
    assert error.message.startswith("main: ")
    assert error.fix


def test_every_rule_was_met() -> None:
    """No translation is without an error that needs it."""
    assert len(MET) == len(KNOWN)


def test_unknown_errors_keep_their_words() -> None:
    """What is not in the table is passed on, cut short, with a way out."""
    error = translated(KeyError("surprise " * 100), "main")
    assert "the TFLite converter failed: KeyError" in error.message
    assert len(error.message) < 400
    assert error.fix
