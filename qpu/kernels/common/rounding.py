"""Bounds of rounding errors, which the tests of the library hold its results against.

V3D rounds to the nearest: an operation errs by up to 2**-24 of its result. VideoCore IV truncates sums (2**-23), rounds
products to the nearest, and has no numbers below 2**-126 (vc4.md 10.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qpu.core.isa import Isa

__all__ = ["bound", "unit"]


def unit(isa: Isa) -> float:
    """Largest relative error of one addition or multiplication."""
    return 2.0**-23 if isa is Isa.VC4 else 2.0**-24


def bound(isa: Isa, operations: float, size: ArrayLike) -> NDArray[Any]:
    """Elementwise bound of the error of results through which up to `operations` roundings run one after another.

    size: the sum of the magnitudes of all terms of a result. (1 + u)**n - 1 and what underflow loses, 2**-126 an
    operation.
    """
    growth = np.expm1(operations * np.log1p(unit(isa)))
    return np.asarray(growth * np.asarray(size, np.float64) + operations * 2.0**-126)
