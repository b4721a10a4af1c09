"""Schemes: the table agrees with itself."""

import pytest

from edgekit.errors import EdgekitError
from edgekit.plan import ROUTES
from edgekit.scheme import SCHEMES, find


@pytest.mark.parametrize("name", SCHEMES)
def test_a_schemes_name_and_fields_agree(name: str) -> None:
    """Each scheme is found by its name, can be made in a form that has a route, and its name tells its bits."""
    scheme = find(name)
    assert scheme.name == name
    assert scheme.forms
    assert set(scheme.forms) <= set(ROUTES)
    assert scheme.calibrated == (scheme.method == "static")
    if name.startswith("w8"):
        assert scheme.weight_bits == 8
    assert scheme.parity_steps > 0


def test_an_unknown_scheme_is_answered_with_the_nearest() -> None:
    """A slip of the finger costs one line."""
    with pytest.raises(EdgekitError, match="did you mean 'w8a8-static'"):
        find("w8a8-statik")
