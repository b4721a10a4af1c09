"""Schemes: the table agrees with itself."""

import pytest

from edgekit.errors import EdgekitError
from edgekit.formats import FORMATS
from edgekit.scheme import _ALSO, NOT_OFFERED, REFUSED, SCHEMES, find, refused


@pytest.mark.parametrize("name", SCHEMES)
def test_a_schemes_name_and_fields_agree(name: str) -> None:
    """Each scheme is found by its name, can be made in a format that has a route, and its
    name tells its bits.
    """
    scheme = find(name)
    assert scheme.name == name
    assert scheme.formats
    assert set(scheme.formats) <= set(FORMATS)
    assert scheme.calibrated == (scheme.method == "static")
    if name.startswith("w8"):
        assert scheme.weight_bits == 8
    assert scheme.parity_steps > 0


def test_an_unknown_scheme_is_answered_with_the_nearest() -> None:
    """A slip of the finger costs one line."""
    with pytest.raises(EdgekitError, match="Did you mean 'w8a8-static'"):
        find("w8a8-statik")


@pytest.mark.parametrize("name", [*REFUSED, *_ALSO])
def test_what_neural_compressor_cannot_do_is_refused_with_the_reason(
    name: str,
) -> None:
    """A scheme by that name gets neural-compressor's reason and what edgekit offers, which
    is a scheme that exists.
    """
    assert name not in SCHEMES
    reason = refused(name)
    assert reason is not None
    assert reason.startswith(f"{name}: neural-compressor 3.10 cannot: ")
    offered = reason.rpartition("; use ")[2]
    assert any(scheme in offered for scheme in SCHEMES)
    with pytest.raises(EdgekitError, match="neural-compressor 3.10 cannot"):
        find(name)


def test_other_names_are_not_refused_in_its_name() -> None:
    """A known scheme, and a slip of the finger, have nothing to do with neural-compressor."""
    assert [
        refused(name)
        for name in ("w8a8-static", "w8a8-static-inc", "w8a8-statik")
    ] == [None, None, None]


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_tensorrt_could_build_and_nobody_could_check_is_refused_with_the_reason(
    name: str,
) -> None:
    """fp4 has no arithmetic in ONNX Runtime (tests/test_nvidia.py tries it), so
    no number would say what they are worth.
    """
    assert name not in SCHEMES
    with pytest.raises(
        EdgekitError,
        match=f"{name}: .*could not be measured.*; use (fp16|fp8 or w4-weight)",
    ):
        find(name)
