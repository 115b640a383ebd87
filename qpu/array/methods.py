"""Methods of arrays that are functions of the namespace: `x.sum(axis=0)` is `xp.sum(x, axis=0)`."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from qpu.array.array import Array, provides

__all__ = ["METHODS", "method"]

METHODS: Final = {
    "all": "all",
    "any": "any",
    "argmax": "argmax",
    "argmin": "argmin",
    "argsort": "argsort",
    "clip": "clip",
    "conj": "conj",
    "cumsum": "cumulative_sum",
    "max": "max",
    "mean": "mean",
    "min": "min",
    "nonzero": "nonzero",
    "prod": "prod",
    "repeat": "repeat",
    "round": "round",
    "squeeze": "squeeze",
    "std": "std",
    "sum": "sum",
    "take": "take",
    "transpose": "permute_dims",
    "var": "var",
}
"""Methods by name: the function of the namespace."""


@provides("method")
def method(x: Array, name: str) -> Any:
    """The method of an array. Raises: AttributeError."""
    function = METHODS.get(name)
    if function is None:
        raise AttributeError(f"an Array has no attribute {name!r}\n  help: functions are in x.__array_namespace__()")
    return partial(_call, x, name, function)


def _call(x: Array, name: str, function: str, *args: Any, **keywords: Any) -> Any:
    if name == "transpose":
        args = ((args[0] if len(args) == 1 and not isinstance(args[0], int) else args) or tuple(range(x.ndim))[::-1],)
    elif name == "squeeze" and not args and "axis" not in keywords:
        args = (tuple(n for n, extent in enumerate(x.shape) if extent == 1),)
    elif args and function in ("sum", "prod", "min", "max", "mean", "std", "var", "any", "all", "argmin", "argmax",
                               "cumulative_sum", "argsort"):  # fmt: skip
        keywords["axis"], args = args[0], args[1:]
    return getattr(x.__array_namespace__(), function)(x, *args, **keywords)
