"""Validation of arguments: numbers, ranges, seconds. Numbers of NumPy are accepted without importing NumPy."""

from __future__ import annotations

import math
import operator
from typing import Any, Protocol

from qpu.errors import UsageError

__all__ = ["Addressed", "number", "seconds", "whole", "within"]


class Addressed(Protocol):
    """Device memory: a buffer, or a part of one."""

    @property
    def address(self) -> int:
        """GPU address, u32."""
        ...


def whole(name: str, value: Any, allowed: str = "a whole number") -> int:
    """`value` as an int when it is a whole number of any integer type. Raises: UsageError, for truth values as well."""
    if type(value) is int:
        return value
    if type(value).__name__ not in ("bool", "bool_"):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise UsageError(f"{name} = {value!r}; allowed: {allowed}", help="pass an int, or an integer of NumPy")


def within(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int. Raises: UsageError unless it is a whole number from `low` to `high`."""
    number = whole(name, value, f"{low}..{high}")
    if not low <= number <= high:
        raise UsageError(f"{name} = {value!r}; allowed: {low}..{high}", help="pass a number in that range")
    return number


def _real(value: Any) -> float:
    """`value` as a float, NaN when it is no number."""
    try:
        return math.nan if type(value).__name__ in ("bool", "bool_", "str") else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a float. Raises: UsageError unless it is a number from `low` to `high`; NaN never is."""
    found = _real(value)
    if not low <= found <= high:
        anything = (low, high) == (-math.inf, math.inf)
        allowed = "a number" if anything else f"a number from {low:g} to {high:g}"
        help = "pass an int or a float" if anything else "pass a number in that range"
        raise UsageError(f"{name} = {value!r}; allowed: {allowed}", help=help)
    return found


def seconds(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a finite number of seconds. Raises: UsageError."""
    found = value if type(value) is float else _real(value)
    if not math.isfinite(found) or (positive and found <= 0):
        kind = "a finite, positive number" if positive else "a finite number"
        raise UsageError(f"{name} = {value!r}; allowed: {kind} of seconds", help="pass an int or a float")
    return found
