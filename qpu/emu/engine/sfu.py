"""The special functions of the SFU in binary64, each as one fixed sequence of IEEE operations.

The tables of the hardware are not public. Both engines evaluate these sequences and round once to binary32, so their
results are equal bit for bit on every host and lie within an ulp of the true value. The low bits differ from hardware
(v3d.md 7.1, vc4.md 11: accuracy figures are tolerances, not bit patterns).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

__all__ = ["Doubles", "exp2", "log2", "recip", "rsqrt", "sinpi"]


class Doubles(Protocol):
    """Operations on vectors of binary64 in addition to ``+ - * /``, which are operators of the vectors."""

    def rint(self, x: Any) -> Any:
        """Round to an integral value, ties to even."""
        ...

    def sqrt(self, x: Any) -> Any: ...
    def absolute(self, x: Any) -> Any: ...
    def less(self, x: Any, y: float) -> Any:
        """The mask x < y; false for NaN."""
        ...

    def equal(self, x: Any, y: float) -> Any: ...
    def where(self, m: Any, x: Any, y: Any) -> Any:
        """x where m is set, else y; x and y are vectors or floats."""
        ...

    def pow2(self, n: Any) -> Any:
        """2**n for integral n in -1000..1000."""
        ...

    def split(self, x: Any) -> tuple[Any, Any]:
        """(m, e), x = m * 2**e, 1 <= m < 2, for positive finite normal x; any finite pair for other x."""
        ...


def _horner(x: Any, coefficients: list[float]) -> Any:
    total = x * 0.0 + coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


_EXP2 = [math.log(2.0) ** k / math.factorial(k) for k in range(14)]
_ATANH = [2.0 / math.log(2.0) / (2 * k + 1) for k in range(12)]
_SIN = [(-1.0) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(13)]


def recip(d: Doubles, x: Any) -> Any:
    """1 / x."""
    return 1.0 / x


def rsqrt(d: Doubles, x: Any) -> Any:
    """1 / sqrt(x)."""
    return 1.0 / d.sqrt(x)


def exp2(d: Doubles, x: Any) -> Any:
    """2**x. Outside the binary32 range the result is so small or large that rounding gives 0 or infinity."""
    inside = d.where(d.less(x, -300.0), -300.0, d.where(d.less(300.0 - x, 0.0), 300.0, x))
    n = d.rint(inside)
    safe = d.where(d.less(d.absolute(n), 301.0), n, 0.0)  # for NaN any exponent gives NaN
    return _horner(inside - safe, _EXP2) * d.pow2(safe)


def log2(d: Doubles, x: Any) -> Any:
    """log2(x); log2(0) = -infinity, negative x gives NaN."""
    m, e = d.split(x)
    high = d.less(1.4142135623730951 - m, 0.0)
    m = d.where(high, m * 0.5, m)
    e = d.where(high, e + 1.0, e)
    s = (m - 1.0) / (m + 1.0)
    value = e + s * _horner(s * s, _ATANH)
    value = d.where(d.equal(x, math.inf), math.inf, value)
    value = d.where(d.equal(x, 0.0), -math.inf, value)
    value = d.where(d.less(x, 0.0), math.nan, value)
    return d.where(d.equal(x - x, 0.0), value, d.where(d.equal(x, math.inf), math.inf, x - x))


def sinpi(d: Doubles, x: Any) -> Any:
    """sin(pi * x)."""
    r = x - 2.0 * d.rint(x * 0.5)  # exact: -1 <= r <= 1
    r = d.where(d.less(0.5 - r, 0.0), 1.0 - r, d.where(d.less(r, -0.5), -1.0 - r, r))
    return r * _horner(r * r, _SIN)
