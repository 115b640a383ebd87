"""`LaneOps` without the emulator, for plain Python and `Kernel.interpret`: exact arithmetic, functions by `math`."""

from __future__ import annotations

import math
from collections.abc import Callable

from qpu.core.scalar_lanes import ScalarLanes, float_bits, float_of

__all__ = ["PlainLanes"]

_NAN = 0x7FC00000


def _special(function: Callable[[float], float]) -> Callable[[PlainLanes, int], int]:
    """A special function, rounded once; silicon's low bits are not documented (v3d.md 7.1, vc4.md 11)."""

    def apply(self: PlainLanes, a: int) -> int:
        x = float_of(a)
        try:
            return float_bits(function(x))
        except (ValueError, OverflowError, ZeroDivisionError):
            if function is _log2 or function is _rsqrt or function is _recip:
                if x == 0:
                    negative = function is _log2 or (function is _recip and a >> 31)
                    return 0xFF800000 if negative else 0x7F800000
                return _NAN
            return 0x7F800000 if function is _exp2 and x == x else _NAN

    return apply


def _recip(x: float) -> float:
    return 1 / x


def _rsqrt(x: float) -> float:
    return 1 / math.sqrt(x)


def _exp2(x: float) -> float:
    return math.exp2(x) if hasattr(math, "exp2") else 2.0**x


def _log2(x: float) -> float:
    return math.log2(x)


def _sinpi(x: float) -> float:
    return math.sin(math.pi * x)


class PlainLanes(ScalarLanes):
    """One lane: a pattern of 32 bits, or a truth value."""

    recip = _special(_recip)
    rsqrt = _special(_rsqrt)
    exp2 = _special(_exp2)
    log2 = _special(_log2)
    sinpi = _special(_sinpi)
