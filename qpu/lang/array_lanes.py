"""`LaneOps` on arrays, for the interpreters: slow, exact, and without the emulator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from qpu.lang.plain_lanes import PlainLanes

__all__ = ["ArrayLanes"]

_PLAIN = PlainLanes()


class ArrayLanes:
    """`LaneOps` on arrays of bit patterns and masks, element by element."""

    def const(self, value: int) -> Any:
        """A constant in every lane."""
        return np.uint32(value & 0xFFFFFFFF)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _spread(name)


@cache
def _spread(name: str) -> Callable[..., Any]:
    one = getattr(_PLAIN, name)

    def each(*operands: Any) -> Any:
        arrays = np.broadcast_arrays(*operands)
        flat = [a.reshape(-1).tolist() for a in arrays]
        found = [one(*row) for row in zip(*flat, strict=True)]
        kind = np.bool_ if found and isinstance(found[0], bool) else np.uint32
        return np.array(found, kind).reshape(arrays[0].shape)

    return each
