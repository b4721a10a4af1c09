"""Type aliases for NumPy arrays, for annotations.

Modules that must start without NumPy import this one under ``TYPE_CHECKING`` only.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing

#: An array of any dtype and shape.
Array: TypeAlias = numpy.typing.NDArray[Any]
#: The inputs of a network, or of a part of one, by name; the first axis counts samples.
Feeds: TypeAlias = Mapping[str, Array]
