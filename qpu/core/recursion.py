"""Functions that recurse as deep as their input is nested."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["deep"]

T = TypeVar("T")
_FRAMES = 20_000


def deep(function: Callable[[], T]) -> T:
    """What a function returns; called again with a higher limit of Python where it recurses too deep for the usual one.

    The function limits the depth of what its user wrote, and has no effects that a second call repeats. Frames of pure
    Python do not use the stack of C.
    """
    try:
        return function()
    except RecursionError:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _FRAMES))
        try:
            return function()
        finally:
            sys.setrecursionlimit(limit)
