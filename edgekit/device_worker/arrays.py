"""Types of arrays and frames, for annotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy.typing

Array = numpy.typing.NDArray[Any]
#: One inference on fixed arrays; returns the outputs in the file's order.
Call = Callable[[], list[Array]]
#: The header of a frame and the arrays that follow it.
Reply = tuple[dict[str, Any], dict[str, Array]]
#: Scale and zero point: real = scale * (stored - zero_point)  (Jacob et al. 2018, eq. 1).
Affine = Optional[tuple[float, int]]  # noqa: UP045 (Python 3.9)
