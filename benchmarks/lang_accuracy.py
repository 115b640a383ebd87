"""The error of every function of the kernel language, on each GPU, over all exponents: measured, against bounds.

Each function is expanded for the instruction set and run by the interpreter with that set's own operations, which
equals the emulated boards bit for bit. Arguments: of every exponent and sign, edges of the mantissa and random ones.
The reference is the C library's function on the same arguments in binary64, whose error is below 2**-28 units in the
last place of binary32. What silicon's unit for special functions gives is known within limits only, so a second run
replaces each of its results by one at random within these limits (V3D: Vulkan's, v3d.md 7.1; VideoCore IV: 10 bits of
1/x and 1/sqrt(x), vc4.md 11): the bounds have to hold there, too.

    python benchmarks/lang_accuracy.py                     # a table
    python benchmarks/lang_accuracy.py --per 2000 --json   # one object a figure; arguments of each exponent and sign
    python benchmarks/lang_accuracy.py --page docs/reference/lang-accuracy.md
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.lang.fold import fold
from qpu.lang.interp import Interpreter
from qpu.lang.kir import Access, Builder
from qpu.lang.legalise import legalise
from qpu.lang.legalise_vc4 import legalise_vc4
from qpu.lang.math import EXPANSIONS, FAST
from qpu.lang.math_kit import Kit
from qpu.lang.math_roots import divide
from qpu.lang.meaning import meanings

__all__ = ["ROWS", "Figure", "evaluate", "measure"]

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
LEAST = 2.0**-126
ISAS = ("vc4", "v3d42", "v3d71")


@dataclass(frozen=True, slots=True)
class Row:
    """A function. true: in binary64; v3d, vc4: bounds in units in the last place; absolute: bounds of the error itself
    instead; near: the absolute bound of V3D for arguments in [0.5, 2]. inside: the arguments that count.
    """

    name: str
    true: Callable[..., Any]
    v3d: float
    vc4: float
    inside: Callable[..., Any] = lambda *x: np.ones(x[0].shape, np.bool_)
    absolute: tuple[float, float] | None = None
    near: float | None = None
    domain: str = ""


def _within(limit: float) -> Callable[..., Any]:
    return lambda x: np.abs(x) <= limit


_positive: Callable[..., Any] = lambda x, *more: x > 0  # noqa: E731
_erf = np.vectorize(math.erf, otypes=[np.float64])
TURNS = 2.0**15

ROWS = {
    row.name: row
    for row in (
        Row("recip", lambda x: 1 / x, 2.5, 4),
        Row("rsqrt", lambda x: 1 / np.sqrt(x), 2.5, 4, _positive, domain="x > 0"),
        Row("sqrt", np.sqrt, 3, 6, _positive, domain="x > 0"),
        Row("divide", lambda x, y: x / y, 3, 6),
        Row("fmod", np.fmod, 0, 0, lambda x, y: np.abs(x / y) < 2.0**60, domain="x / y < 2**60"),
        Row("hypot", np.hypot, 8, 16),
        Row("exp", np.exp, 5, 8),
        Row("exp2", np.exp2, 5, 8),
        Row("expm1", np.expm1, 8, 16),
        Row("log", np.log, 3, 8, _positive, domain="x > 0"),
        Row("log2", np.log2, 3, 8, _positive, near=2.0**-21, domain="x > 0"),
        Row("log10", np.log10, 3, 8, _positive, domain="x > 0"),
        Row("log1p", np.log1p, 8, 16, lambda x: x > -1, domain="x > -1"),
        Row("pow", np.power, 8, 16, _positive, domain="x > 0"),
        Row("sin", np.sin, 0, 0, _within(TURNS), (2.0**-21, 2.0**-19), domain="abs(x) <= 2**15"),
        Row("cos", np.cos, 0, 0, _within(TURNS), (2.0**-21, 2.0**-19), domain="abs(x) <= 2**15"),
        Row("tan", np.tan, 8, 16, _within(TURNS), domain="abs(x) <= 2**15"),
        Row("asin", np.arcsin, 8, 16, _within(1), domain="abs(x) <= 1"),
        Row("acos", np.arccos, 8, 16, _within(1), domain="abs(x) <= 1"),
        Row("atan", np.arctan, 8, 16),
        Row("atan2", np.arctan2, 8, 16),
        Row("sinh", np.sinh, 8, 16),
        Row("cosh", np.cosh, 8, 16),
        Row("tanh", np.tanh, 8, 16),
        Row("erf", _erf, 8, 16),
        Row("floor", np.floor, 0, 0),
        Row("ceil", np.ceil, 0, 0),
        Row("trunc", np.trunc, 0, 0),
        Row("rint", np.rint, 0, 0),
        Row("fast.recip", lambda x: 1 / x, 2.5, 2.0**13 + 1),
        Row("fast.rsqrt", lambda x: 1 / np.sqrt(x), 2, 2.0**13 + 1, _positive, domain="x > 0"),
        Row("fast.exp2", np.exp2, 5, 2.0**13 + 1, _within(1), domain="abs(x) <= 1"),
        Row("fast.log2", np.log2, 3, 2.0**13 + 1, _positive, near=2.0**-21, domain="x > 0"),
        Row("fast.sin", lambda x: np.sin(np.pi * x), 0, 0, _within(0.5), (2.0**-11, 2.0**-19),
            domain="abs(x) <= 0.5"),
    )
}  # fmt: skip
OPERATIONS = {"floor": "ffloor", "ceil": "fceil", "trunc": "ftrunc", "rint": "fround",
              **{f"fast.{name}": op for name, op in FAST.items()}}  # fmt: skip
"""Functions that are one operation, before it is replaced by those of the instruction set."""

EXACT = "abs bitcast clamp clz copysign isfinite isinf isnan maximum minimum mul24 popcount ror sign where"
"""Functions whose result is not rounded."""


class UnitAtItsLimits(NumpyLanes):
    """Operations whose special functions err at random, with the rounding as much as silicon's may."""

    __slots__ = ("coarse", "random")

    def __init__(self, isa: Isa, seed: int) -> None:
        self.coarse = isa is Isa.VC4
        self.random = np.random.default_rng(seed)

    def _moved(self, exact: Any, units: Any) -> Any:
        value = exact.view(np.float32)
        error = (
            self.random.uniform(-1, 1, value.shape)
            * units
            * np.spacing((np.abs(value) * (1 - 2.0**-23)).astype(np.float32))
        )
        moved = (value.astype(np.float64) + error).astype(np.float32)
        keep = ~np.isfinite(value) | (value == 0) | (value == 1)
        return np.where(keep, value, moved).view(np.uint32)

    def recip(self, a: Any) -> Any:
        return self._moved(NumpyLanes().recip(a), 2.0**13 if self.coarse else 2.0)

    def rsqrt(self, a: Any) -> Any:
        return self._moved(NumpyLanes().rsqrt(a), 2.0**13 if self.coarse else 1.5)

    def exp2(self, a: Any) -> Any:
        size = np.minimum(np.abs(a.view(np.float32)), 200)
        return self._moved(NumpyLanes().exp2(a), 2.0**13 if self.coarse else 2.5 + 2 * size)

    def log2(self, a: Any) -> Any:
        exact = NumpyLanes().log2(a)
        if self.coarse:
            return self._moved(exact, 2.0**13)
        value, x = exact.view(np.float32), a.view(np.float32)
        near = (x >= 0.5) & (x <= 2)
        absolute = (value + self.random.uniform(-1, 1, value.shape) * 2.0**-22).astype(np.float32)
        return np.where(near, absolute.view(np.uint32), self._moved(exact, 2.0))


def evaluate(name: str, isa: str, *args: F32, lanes: Any = None) -> F32:
    """A function on arrays whose length is a multiple of 16, as the instruction set computes it."""
    q = Builder(fold)
    base = q.emit("param", type_="u", attr="x.base")
    item = q.emit("add", q.emit("shl", q.emit("worker"), q.const("u", 4)), q.emit("lane"))
    offset = q.emit("shl", item, q.const("u", 2))
    values = [q.append("load", (base, offset), "f", Access(i, 0, "f32")) for i in range(len(args))]
    if name in OPERATIONS and not (name == "fast.sin" and isa == "vc4"):
        made = q.emit(OPERATIONS[name], *values)
    elif name == "fast.sin":  # of a chip that has no such unit
        kit = Kit(q, isa)
        made = EXPANSIONS["sin"](kit, kit.mul(values[0], kit.number(math.pi)))
    else:
        made = (divide if name == "divide" else EXPANSIONS[name])(Kit(q, isa), *values)
    q.append("store", (base, offset, made), "", Access(len(args), 0, "f32"))
    top = legalise(q.top, isa)
    if isa == "vc4":
        top = legalise_vc4(top, ["x"] * (len(args) + 1))
    out = np.zeros(len(args[0]), np.float32)
    memory = [np.ascontiguousarray(a).view(np.uint8) for a in (*args, out)]
    run = Interpreter(top, {"x.base": 0}, memory, len(out) // 16, lanes or NumpyLanes(), meanings(isa))
    run.run()
    return out


@dataclass(frozen=True, slots=True)
class Figure:
    """The largest error found. unit: "ulp" or "absolute"; part: of the bound; at: the arguments."""

    name: str
    isa: str
    unit: str
    error: float
    bound: float
    part: float
    at: tuple[float, ...]
    limits: bool


def _mantissas(per: int, random: np.random.Generator) -> NDArray[np.uint32]:
    edges = np.array([0, 1, 2, 0x7FFFFF, 0x7FFFFE, 0x400000, 0x3504F2, 0x3504F3, 0x3504F4], np.uint32)
    return np.concatenate([edges, random.integers(0, 1 << 23, max(per - len(edges), 1), dtype=np.uint32)])


def arguments(count: int, per: int, seed: int) -> list[F32]:
    """Arguments of every exponent and sign; for two, each exponent of one with random ones of the other."""
    random = np.random.default_rng(seed)
    mantissas = _mantissas(per, random)
    exponents = np.arange(1, 255, dtype=np.uint32)
    x = ((exponents[:, None] << np.uint32(23)) | mantissas[None, :]).ravel()
    x = np.concatenate([x, x | np.uint32(0x80000000)])
    x = x[: len(x) // 16 * 16]
    if count == 1:
        return [x.view(np.float32)]
    # a third of the partners are near: powers, sums and quotients that mean something
    y = random.permutation(x)
    near = random.integers(-12, 13, len(x)).astype(np.float32)
    ordinary = (random.uniform(-1, 1, len(x)) * np.exp2(random.uniform(-10, 10, len(x)))).astype(np.float32)
    kind = random.integers(0, 3, len(x))
    with np.errstate(all="ignore"):
        close = np.abs(x.view(np.float32)) * np.exp2(near) * random.uniform(-2, 2, len(x)).astype(np.float32)
        chosen = np.where(kind == 0, y.view(np.float32), np.where(kind == 1, close, ordinary)).astype(np.float32)
    chosen = np.where(np.isfinite(chosen) & (np.abs(chosen) >= LEAST), chosen, np.float32(1.5))
    return [x.view(np.float32), chosen]


def powers(per: int, seed: int) -> list[F32]:
    """Bases of every exponent with exponents whose powers are in the range."""
    x = np.abs(arguments(1, per, seed)[0])
    random = np.random.default_rng(seed + 1)
    with np.errstate(all="ignore"):
        y = (random.uniform(-126, 128, len(x)) / np.log2(x.astype(np.float64))).astype(np.float32)
    close = (1 + random.uniform(-1, 1, len(x)) * np.exp2(random.uniform(-20, 0, len(x)))).astype(np.float32)
    x = np.where(random.integers(0, 2, len(x)) == 0, x, close).astype(np.float32)
    with np.errstate(all="ignore"):
        y = np.where(x == close, random.uniform(-126, 128, len(x)) / np.log2(x.astype(np.float64)), y)
    y = y.astype(np.float32)
    return [x, np.where(np.isfinite(y) & (np.abs(y) >= LEAST), y, np.float32(2.5))]


def measure(name: str, isa: str, per: int = 30, seed: int = 1, *, limits: bool = False) -> Figure:
    """The largest error of a function. limits: with a unit at the limits of what is known of silicon's."""
    row = ROWS[name]
    count = 2 if name in ("divide", "fmod", "hypot", "pow", "atan2") else 1
    args = powers(per, seed) if name == "pow" else arguments(count, per, seed)
    lanes = UnitAtItsLimits(Isa(isa), seed) if limits else None
    got = evaluate(name, isa, *args, lanes=lanes).astype(np.float64)
    vc4 = isa == "vc4"
    with np.errstate(all="ignore"):
        wide = [a.astype(np.float64) for a in args]
        true = row.true(*wide)
        counted = row.inside(*wide) & np.isfinite(true)
        error = np.abs(got - true)
        top = float(np.finfo(np.float32).max)
        over = np.abs(true) > top * (1 - 2.0**-20)  # either end of the range will do
        error = np.where(over & (np.abs(got) > top * (1 - 2.0**-19)) & (np.sign(got) == np.sign(true)), 0, error)
        if vc4:  # no denormals
            error = np.where(
                (np.abs(true) < LEAST * (1 + 2.0**-20)) & (np.abs(got) <= LEAST * (1 + 2.0**-19)), 0, error
            )
        unit = np.exp2(np.maximum(np.floor(np.log2(np.abs(true))), -126) - 23)
        unit = np.where(true == 0, 2.0**-149, unit)
        if row.absolute is not None:
            bound = row.absolute[vc4]
            found, part, kind = error, error / bound, "absolute"
        else:
            bound = row.vc4 if vc4 else row.v3d
            found, kind = error / unit, "ulp"
            part = found / bound if bound else np.where(found > 0, np.inf, 0)
            if row.near is not None and not vc4:
                close = (wide[0] >= 0.5) & (wide[0] <= 2)
                part = np.where(close, np.minimum(part, error / row.near), part)
                found = np.where(close, part * bound, found)
        part = np.where(counted, np.where(np.isnan(part), np.inf, part), 0)
    worst = int(np.argmax(part))
    at = tuple(float(a[worst]) for a in args)
    return Figure(name, isa, kind, float(found[worst]), bound, float(part[worst]), at, limits)


def _bound(figure: Figure) -> str:
    if figure.unit == "absolute":
        return f"2^{math.log2(figure.bound):.0f} absolute"
    return f"{figure.bound:g}" if figure.bound else "exact"


def _page(figures: dict[tuple[str, str, bool], Figure], per: int) -> str:
    lines = [
        "<!-- Written by benchmarks/lang_accuracy.py --page; not by hand. -->",
        "# Accuracy of the functions of the kernel language",
        "",
        "The largest error found over all normal arguments, in units in the last place (ulp) unless it says absolute.",
        f"Arguments are of every exponent and sign, {per} mantissas each; the reference is the C library in binary64,",
        "whose own error is below 2^-28 ulp of binary32. *Emulated*: as the emulated boards compute, whose units for",
        "special functions round the exact value. *Limits*: with a unit that errs at random as far as is known of",
        "silicon's (V3D: 2.5 ulp of 1/x, 2 of 1/sqrt(x), 3 + 2 abs(x) of 2^x, 3 of log2(x) or 2^-21 between 0.5 and 2;",
        "VideoCore IV: 10 bits). Both have to stay within the bound; the tests assert it.",
        "",
        "V3D computes by IEEE rules with denormals, infinities and NaN. VideoCore IV truncates sums and has neither",
        "denormals nor NaN: results below 2^-126 are 0, and where V3D gives NaN it gives any value. A result whose",
        "true value is denormal counts in units of 2^-149. `/`, `//`, `%`, `fmod` and `atan2` treat a denormal",
        "divisor as 0. `%` is exact but for one sum where the signs differ; `//` is the whole number next to",
        "(x - x % y) / y. Beyond 2^22 the argument of `sin`, `cos` and `tan` says nothing about the angle: they",
        "give NaN, on VideoCore IV any value.",
        "",
        "Plain Python lanes (`Kernel.python`) compute functions by the C library, rounded to binary32: they differ",
        "from a board by no more than the bound. `Kernel.interpret` computes as the emulated board does.",
        "",
        f"Not rounded at all: {', '.join(f'`{name}`' for name in EXACT.split())}. `fma(a, b, c)` is",
        "`a * b + c` with both roundings. `fast.` functions are the special function unit alone: V3D's `fast.exp2`",
        "errs by 3 + 2 abs(x) ulp at most; VideoCore IV, which has no sine, computes `fast.sin` as `sin`.",
        "",
        "| function | arguments | V3D 7.1 | limits | V3D 4.2 | limits | bound | VideoCore IV | limits | bound |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():

        def cell(isa: str, limits: bool, name: str = name) -> str:
            figure = figures[name, isa, limits]
            if figure.unit == "absolute":
                return f"2^{math.log2(figure.error):.1f}"
            return f"{figure.error:.2f}"

        first, second = figures[name, "v3d71", False], figures[name, "vc4", False]
        bounds = [
            f"2^{math.log2(f.bound):.0f} absolute"
            if f.unit == "absolute"
            else "exact"
            if not f.bound
            else f"{f.bound:g}"
            for f in (first, second)
        ]
        if row.near is not None:
            bounds[0] += f", 2^{math.log2(row.near):.0f} absolute in 0.5..2"
        cells = [f"`{'x / y' if name == 'divide' else name}`", row.domain or "all"]
        cells += [cell(isa, limits) for isa in ("v3d71", "v3d42") for limits in (False, True)] + [bounds[0]]
        cells += [cell("vc4", limits) for limits in (False, True)] + [bounds[1]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a figure")
    parser.add_argument("--per", type=int, default=300, help="arguments of each exponent and sign")
    parser.add_argument("--function", action="append", choices=sorted(ROWS), help="only this one; may be repeated")
    parser.add_argument("--isa", action="append", choices=ISAS, help="only this one; may be repeated")
    parser.add_argument("--page", metavar="FILE", help="write the page of the documentation")
    options = parser.parse_args()
    figures: dict[tuple[str, str, bool], Figure] = {}
    for name in options.function or ROWS:
        for isa in options.isa or ISAS:
            for limits in (False, True):
                figure = measure(name, isa, options.per, limits=limits)
                figures[name, isa, limits] = figure
                if options.json:
                    row = {k: getattr(figure, k) for k in ("name", "isa", "unit", "error", "bound", "part", "limits")}
                    print(json.dumps({"benchmark": "lang_accuracy", **row, "at": list(figure.at)}))
                elif not options.page:
                    what = "limits" if limits else ""
                    verdict = "" if figure.part <= 1 else "OVER THE BOUND"
                    print(f"{name:7} {isa:6} {figure.error:12.6g} {figure.unit:8} of {figure.bound:<12.6g} "
                          f"at {', '.join(map(repr, figure.at)):45} {what} {verdict}")  # fmt: skip
    if options.page:
        Path(options.page).write_text(_page(figures, options.per), encoding="utf-8")
    return 0 if all(f.part <= 1 for f in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
