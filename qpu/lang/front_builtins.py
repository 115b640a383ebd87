"""Python's own functions of collections, where these hold values of the GPU: sums, extremes, sorted lists."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any, Final

from qpu.lang import surface
from qpu.lang.front import Front
from qpu.lang.math import call_function
from qpu.lang.operators import binary, has_value, iterate, own, truth
from qpu.lang.values import Complex

__all__ = ["CALLS", "takes"]


def takes(callee: Any, args: list[Any]) -> bool:
    """Whether a call is one of those of this module: a function of one collection that holds values, or `divmod`."""
    if callee not in CALLS:
        return False
    return callee is divmod or (bool(args) and isinstance(args[0], list | tuple | set | dict))


def _sum(f: Front, node: ast.Call, items: Any, start: Any = 0) -> Any:
    total = start
    for x in iterate(f, node, items):
        total = x if total is start and not has_value(f, start) and start == 0 else binary(f, node, ast.Add, total, x)
    return total


def _extreme(name: str) -> Callable[..., Any]:
    def extreme(f: Front, node: ast.Call, items: Any) -> Any:
        values = list(iterate(f, node, items))
        if not values:
            raise f.error(node, "lang-python", f"ValueError: {name} of nothing", help="a list of one value or more")
        return values[0] if len(values) == 1 else call_function(f, node, surface.FUNCTIONS[name], values, {})

    return extreme


def _fold(every: bool) -> Callable[..., Any]:
    def fold(f: Front, node: ast.Call, items: Any) -> Any:
        found = None
        for x in iterate(f, node, items):
            if not f.is_value(x):
                if bool(x) is not every:
                    return not every
                continue
            test = truth(f, node, x)
            found = test if found is None else f.q.emit("band" if every else "bor", found, test)
        return every if found is None else found

    return fold


def _divmod(f: Front, node: ast.Call, a: Any, b: Any) -> Any:
    return binary(f, node, ast.FloorDiv, a, b), binary(f, node, ast.Mod, a, b)


def _sorted(f: Front, node: ast.Call, items: Any, *, reverse: bool = False) -> Any:
    """By exchanges of neighbours at growing and shrinking distances (Batcher's network)."""
    values = list(iterate(f, node, items))
    if any(isinstance(v, Complex) for v in values):
        raise f.error(node, "lang-type", "c64 has no order", help="sort by abs(...)")
    small, large = (surface.FUNCTIONS[n] for n in ("minimum", "maximum"))
    for a, b in _exchanges(len(values)):
        pair = [values[a], values[b]]
        values[a], values[b] = (call_function(f, node, g, pair, {}) for g in (small, large))
    return own(f, values[::-1] if reverse else values)


def _exchanges(n: int) -> Iterator[tuple[int, int]]:
    """Pairs to be put in order, one after another, so that n values are sorted."""
    p = 1
    while p < n:
        k = p
        while k:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        yield i + j, i + j + k
            k //= 2
        p *= 2


CALLS: Final[dict[Any, Callable[..., Any]]] = {
    sum: _sum,
    min: _extreme("minimum"),
    max: _extreme("maximum"),
    any: _fold(False),
    all: _fold(True),
    sorted: _sorted,
    divmod: _divmod,
}
