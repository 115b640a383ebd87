"""The generated page of the array namespace: every function with its dtypes and what differs from the standard."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from qpu.array import linalg, namespace
from qpu.array.dtypes import DTYPES
from qpu.array.elementwise import dtypes_of
from qpu.array.fft import Fft
from qpu.array.methods import METHODS
from qpu.array.operations import OPERATIONS

__all__ = ["array_page"]

DIFFERENCES = {
    "add": "VideoCore IV truncates sums and has no denormals (as do the other float functions)",
    "divide": "3 ulp (VideoCore IV 6); integers are taken and become float32",
    "maximum": "NaN propagates on V3D; VideoCore IV has no NaN",
    "minimum": "as `maximum`",
    "clip": "as `maximum`; bounds have the dtype of x or are numbers",
    "sum": "narrow signed integers and bool give int32, unsigned ones uint32, not 64 bits",
    "prod": "as `sum`",
    "cumulative_sum": "as `sum`",
    "mean": "integers are taken and become float32",
    "var": "as `mean`; of complex64 float32",
    "std": "as `var`",
    "argmax": "int32",
    "argmin": "int32",
    "nonzero": "int32",
    "argsort": "int32; always stable; NaN come last",
    "sort": "NaN come last",
    "searchsorted": "int32",
    "unique_all": "indices and counts are int32",
    "pow": "integers to negative powers are refused as NumPy does",
    "sin": "absolute error 2^-21 (VideoCore IV 2^-19), for angles of any size",
    "cos": "as `sin`",
    "remainder": "as the standard for infinities on V3D; VideoCore IV any value of zero or infinite divisors; "
    "integers by 0: x1 on every board",
    "floor_divide": "floats as `remainder`; integers by 0, which the standard leaves open: on V3D 1 (x1 <= 0) or "
    "-2 (x1 > 0; unsigned: the largest number less 1), on VideoCore IV any value",
    "astype": "float to integer truncates; outside the range any value",
    "take": "an index outside of the axis is undefined (EmuFault on emulated boards)",
    "matmul": "also through the library's kernel, which sums in another order",
    "sqrt": "3 ulp (VideoCore IV 6)",
}
"""What the standard, or NumPy, does otherwise."""


INTRODUCTION = (
    "What `gpu.xp` has, from the rows of the package: the array API standard, version 2023.12, without 64-bit dtypes. "
    "The [tutorial](../tutorials/5-arrays.md) shows how to use it; [accuracy](array-accuracy.md) says what results "
    "are worth.\n"
)


def array_page() -> str:
    """The page."""
    parts = [
        "# Arrays: functions and dtypes\n",
        INTRODUCTION,
        _dtypes(),
        _elementwise(),
        _functions(),
        _extensions(),
        _methods(),
    ]
    return "\n".join(parts)


def _table(head: str, lines: list[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *lines, ""])


def _dtypes() -> str:
    rows = [f"| `{k.name}` | {k.size} | `{k.storage}` |" for k in DTYPES]
    text = (
        "`float64`, `int64`, `uint64` and `complex128` do not exist: data of these types is refused with the cast to "
        "write. Python numbers take the dtype of the array beside them. `float16` is storage: operations on it give "
        "`float32`. `int32` with `uint32` is refused, because the standard's result would be `int64`.\n"
    )
    return "## Dtypes\n\n" + text + "\n" + _table("| dtype | bytes | in kernels |", rows)


def _elementwise() -> str:
    rows = []
    for row in OPERATIONS.values():
        result = {"same": "as the operands", "bool": "bool", "real": "as the operand, float32 of complex64",
                  "float": "as the operands, float32 of integers"}[row.result]  # fmt: skip
        mark = "" if row.standard else " (not in the standard)"
        note = DIFFERENCES.get(row.name, "" if row.exact else "see the accuracy table")
        args = "x" if row.arity == 1 else "x1, x2"
        rows.append(f"| `{row.name}({args})`{mark} | {row.doc} | {dtypes_of(row)} | {result} | {note} |")
    head = "| function | result | dtypes | dtype of the result | differences |"
    return "## Elementwise functions\n\n" + _table(head, rows)


def _first(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).replace("|", "\\|")


def _signature(name: str, function: Callable[..., Any]) -> str:
    shown = []
    for p in inspect.signature(function).parameters.values():
        if p.name in ("self", "device"):
            continue
        star = "*" if p.kind is p.VAR_POSITIONAL else ""
        default = "" if p.default is p.empty else f"={p.default!r}"
        shown.append(f"{star}{p.name}{default}")
    return f"`{name}({', '.join(shown)})`"


def _functions() -> str:
    found = {n: f for n, f in namespace.FUNCTIONS.items() if n not in OPERATIONS}
    for name, f in inspect.getmembers(namespace.Namespace, callable):
        if not name.startswith("_"):
            found[name] = f
    rows = [f"| {_signature(n, f)} | {_first(f)} | {DIFFERENCES.get(n, '')} |" for n, f in sorted(found.items())]
    return "## Other functions\n\n" + _table("| function | result | differences |", rows)


def _extensions() -> str:
    rows = [
        f"| {_signature(f'linalg.{n}', f)} | {_first(f)} |"
        for n, f in sorted(vars(linalg.EXTENSION).items())
        if callable(f)
    ]
    transforms = [
        f"| {_signature(f'fft.{n}', f)} | {_first(f)} |"
        for n, f in sorted(inspect.getmembers(Fft, callable))
        if not n.startswith("_")
    ]
    head = "| function | result |"
    text = "Transforms of float32 and complex64 along axes of any length; `norm` as in the standard.\n\n"
    linear = "## Extension `linalg`\n\n" + _table(head, rows)
    return linear + "\n## Extension `fft`\n\n" + text + _table(head, transforms)


def _methods() -> str:
    rows = [f"| `x.{name}(...)` | `xp.{function}` |" for name, function in METHODS.items()]
    return "## Methods of arrays\n\n" + _table("| method | function |", rows)
