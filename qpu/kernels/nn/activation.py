"""Activations: functions of single items, alone and at the end of other kernels."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, same_shape, separate
from qpu.kernels.common.shapes import flat, returned
from qpu.lang import Const, Grid, In, Out, clamp, erf, exp, f32, kernel, maximum, tanh, where
from qpu.launch import Run

__all__ = ["KINDS", "activate", "activated", "check_kind", "reference_activate"]

KINDS: Final = ("none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "hardswish", "elu")


def activated(kind: str, v: Any) -> Any:
    """A value through an activation, in a kernel."""
    if kind == "none":
        return v
    if kind == "relu":
        return maximum(v, 0.0)
    if kind == "relu6":
        return clamp(v, 0.0, 6.0)
    if kind == "leaky_relu":
        return where(v > 0.0, v, 0.01 * v)
    if kind == "sigmoid":
        return 1.0 / (1.0 + exp(-clamp(v, -80.0, 80.0)))
    if kind == "tanh":
        return tanh(v)
    if kind == "silu":
        return v / (1.0 + exp(-clamp(v, -80.0, 80.0)))
    if kind == "gelu":
        return 0.5 * v * (1.0 + erf(v * 0.7071067811865476))
    if kind == "hardswish":
        return v * clamp(v + 3.0, 0.0, 6.0) * (1.0 / 6.0)
    return where(v > 0.0, v, exp(clamp(v, -80.0, 0.0)) - 1.0)


@kernel
def each(k: Grid, x: In[f32], out: Out[f32], kind: Const[str]) -> None:
    i = k.index()
    out[i] = activated(kind, x[i])


def check_kind(kind: str) -> None:
    """Refuse an activation that does not exist. Raises: UsageError."""
    if kind not in KINDS:
        raise UsageError(f"activation = {kind!r}", help=f"allowed: {', '.join(KINDS)}")


@entry
def activate(x: Memory, out: Memory, kind: str) -> Run:
    """A function of each item. x, out: f32 of one shape. kind: one of `KINDS`; leaky_relu has the slope 0.01, gelu is
    the exact one, by the error function. The error is a few units in the last place of the largest intermediate result.
    """
    source, target = operand("x", x, np.float32), operand("out", out, np.float32, mode="out")
    check_kind(kind)
    same_shape(x=source, out=target)
    separate("out", target, x=source)
    with Jobs(device(x=source, out=target)) as jobs:
        place = flat(jobs, target, read=False)
        jobs.add(each, flat(jobs, source), place, kind)
        returned(jobs, place, target)
        return jobs.run()


def reference_activate(x: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """The same in NumPy, in float64."""
    v = x.astype(np.float64)
    with np.errstate(over="ignore"):
        functions: dict[str, Any] = {
            "none": lambda: v,
            "relu": lambda: np.maximum(v, 0),
            "relu6": lambda: np.clip(v, 0, 6),
            "leaky_relu": lambda: np.where(v > 0, v, 0.01 * v),
            "sigmoid": lambda: 1 / (1 + np.exp(-v)),
            "tanh": lambda: np.tanh(v),
            "silu": lambda: v / (1 + np.exp(-v)),
            "gelu": lambda: 0.5 * v * (1 + np.vectorize(math.erf)(v / np.sqrt(2))),
            "hardswish": lambda: v * np.clip(v + 3, 0, 6) / 6,
            "elu": lambda: np.where(v > 0, v, np.expm1(np.minimum(v, 0))),
        }
        return np.asarray(functions[kind]())
