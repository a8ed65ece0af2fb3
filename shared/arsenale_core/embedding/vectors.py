"""The type of vectors, for modules that compute with them."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
"""Unit vectors, shape `(texts, dim)`; or one, shape `(dim,)`."""
