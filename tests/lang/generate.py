"""Random kernels as source text: every statement and operator of the language, nested; and arguments for them.

Floats stay finite and away from NaN: names are limited when they are bound, and integers are made of limited floats.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WORKERS", "Arguments", "arguments", "kernel_of_any_kind", "kernel_source"]

HEADER = """from qpu.lang.surface import *
from qpu.lang.surface import FUNCTIONS
NAMES = ("minimum", "maximum", "clamp", "sign", "bitcast", "floor", "ceil", "trunc", "rint", "copysign", "clz", "ror",
         "popcount", "mul24", "fma")
(minimum, maximum, clamp, sign, bitcast, floor, ceil, trunc, rint, copysign, clz, ror, popcount, mul24,
 fma) = (FUNCTIONS[n] for n in NAMES)


def helper(a, b):
    if a > b:
        return a - b
    c = a * 2
    return c + b


"""


WORKERS = 3  # of a Team
KINDS = ("line", "line", "line", "plane", "team")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of a generated kernel, by name. kind: of its items; outputs: arrays that it writes."""

    kind: str
    values: dict[str, Any]
    outputs: tuple[str, ...] = ("oi", "of")


def arguments(kind: str, n: int, seed: int, *, loads: bool) -> Arguments:
    """Arguments for n items; of a plane for about as many in rows of 19, of a Team for n items. loads: those of further
    arrays, too.
    """
    r = np.random.default_rng(seed)
    items = {"rows": -(-n // 19), "columns": min(n, 19)} if kind == "plane" else {"n": n}
    shape = tuple(max(x, 1) for x in items.values())
    out = (WORKERS,) if kind == "team" else shape
    return Arguments(kind, {
        **items,
        "n0": int(r.integers(0, 9)),
        "s0": float(np.float32(r.uniform(-3, 3))),
        "p": r.integers(-60, 60, shape).astype(np.int32),
        "q": (r.integers(-400, 400, shape) / 16).astype(np.float32),
        "oi": np.zeros(out, np.int32),
        "of": np.zeros(out, np.float32),
        **({} if not loads else {"far": r.integers(-99, 99, 3 * n + 2).astype(np.int32),
                             "packed": r.integers(0, 2**32, max(n, 1), dtype=np.uint32)}),
    })  # fmt: skip


EVERY = {
    "i": ("a0 | a1", "minimum(a0, a1)", "maximum(a0, a2)", "~a1", "clz(a0)", "a0 >> 3", "a1 & 29", "a0 - a1",
          "mul24(a0 & 4095, 77)", "a2 << (a1 & 7)", "i32(clamp(x0 * 3.3, -900.0, 900.0))"),
    "u": ("ror(u0, 5)", "minimum(u0, u1 * 99)", "maximum(u0, u1)", "u0 >> (u1 & 31)", "u0 ^ u1",
          "u32(clamp(x0 * 5.7, 0.0, 900.0))"),
    "f": ("x0 * x1", "x0 - x1", "minimum(x0, x1)", "maximum(x0, x1)", "floor(x0 * 0.37)", "ceil(x0 * 0.37)",
          "trunc(x0 * 0.37)", "rint(x0 * 0.37)", "f32(a0 & 4095)", "f32(u0 & 65535)"),
}  # fmt: skip
"""Expressions that need each row of selection."""
SHARE = 3  # one kernel of so many has each of them


class Generator:
    """One kernel. Names: i32 a0.., u32 u0.., f32 x0.., all bound before the control flow; masks are expressions.

    small: of so many statements (True: of one to three) with short expressions, which compile in a tenth of the time;
    loads: of further arrays; every: results also have a share of EVERY, of which the next seeds have the rest.
    """

    def __init__(self, seed: int, *, small: int | bool = False, loads: bool = True, every: bool = False) -> None:
        parts = {t: [x for n, x in enumerate(rows, seed) if every and not n % SHARE] for t, rows in EVERY.items()}
        self.more = "".join(f" ^ {x if t == 'i' else f'i32({x})'}" for t in "iu" for x in (f"({y})" for y in parts[t]))
        self.sums = "".join(f" + ({x})" for x in parts["f"])
        self.r = random.Random(seed)
        self.expressions, self.leaves, self.room = (
            (1, 0.4, self.r.randint(1, 3) if small is True else small) if small else (2, 0.25, 1000)
        )
        self.loads: list[str] = []  # elements of further arrays: at steps, and of packed words
        self.far = loads
        self.lines: list[str] = []
        self.names = {"i": ["a0", "a1", "a2"], "u": ["u0", "u1"], "f": ["x0", "x1"]}
        self.loops = 0
        self.depth = 0
        self.fixed: set[str] = set()
        self.kind = self.at = ""

    def emit(self, indent: int, text: str) -> None:
        self.lines.append("    " * indent + text)

    def expression(self, type_: str, depth: int = 0) -> str:
        r = self.r
        if depth > self.expressions or r.random() < self.leaves:
            return self.leaf(type_)
        e = lambda t=type_: self.expression(t, depth + 1)  # noqa: E731
        if type_ == "f":
            return r.choice((
                lambda: f"({e()} + {e()})", lambda: f"({e()} - {e()})", lambda: f"({e()} * {e()})",
                lambda: f"abs({e()})", lambda: f"minimum({e()}, {e()})", lambda: f"maximum({e()}, {e()})",
                lambda: f"(-{e()})", lambda: f"f32({e('i')})",
                lambda: f"where({self.condition(depth + 1)}, {e()}, {e()})",
                lambda: f"({e()} if {self.condition(depth + 1)} else {e()})", lambda: f"({e()} + {e('i')})",
                lambda: f"{r.choice(('floor', 'ceil', 'trunc', 'rint'))}({e()})", lambda: f"({e()} * 0.5)",
                lambda: f"fma({e()}, {e()}, {e()})", lambda: f"copysign({e()}, {e()} + 0.5)",
                lambda: f"f32({e('u')} & 65535)",
                lambda: f"min({e()}, {e()})", lambda: f"max({e()}, {e()})", lambda: f"helper({e()}, {e()})",
            ))()  # fmt: skip
        if type_ == "u":
            return r.choice((
                lambda: f"({e()} + {e()})", lambda: f"({e()} ^ {e()})", lambda: f"({e()} & {e()})",
                lambda: f"({e()} | {e()})", lambda: f"({e()} >> {r.randrange(0, 35)})", lambda: f"u32({e('i')})",
                lambda: f"({e()} << {r.randrange(0, 35)})", lambda: f"(~{e()})", lambda: f"({e()} - {e()})",
                lambda: f"minimum({e()}, {e()})", lambda: f"({e()} * {r.randrange(0, 70)})",
                lambda: f"bitcast({e('i')}, u32)", lambda: f"({e()} >> ({e()} & 31))", lambda: f"ror({e()}, {e()})",
                lambda: f"u32(popcount({e()}))", lambda: f"u32(clamp({e('f')}, 0.0, 60000.0))",
                lambda: f"({e()} * {e()})",
                lambda: f"maximum({e()}, {e()})", lambda: f"({e()} // ({e()} | 1))", lambda: f"bitcast({e('f')}, u32)",
                lambda: f"({e()} // {r.randrange(1, 90)})", lambda: f"({e()} % {r.randrange(1, 90)})",
            ))()  # fmt: skip
        return r.choice((
            lambda: f"({e()} + {e()})", lambda: f"({e()} - {e()})", lambda: f"({e()} * {e()})",
            lambda: f"({e()} & {e()})", lambda: f"({e()} ^ {e()})", lambda: f"({e()} << {r.randrange(0, 8)})",
            lambda: f"({e()} >> {r.randrange(0, 33)})", lambda: f"minimum({e()}, {e()})", lambda: f"abs({e()})",
            lambda: f"maximum({e()}, {e()})", lambda: f"(-{e()})", lambda: f"(~{e()})",
            lambda: f"helper({e()}, {e()})", lambda: f"where({self.condition(depth + 1)}, {e()}, {e()})",
            lambda: f"i32({self.condition(depth + 1)})", lambda: f"(({e()}) // {r.choice((1, 2, 3, 7, 10, 64))})",
            lambda: f"(({e()}) % {r.choice((1, 2, 3, 7, 10, 64))})", lambda: f"sign({e()})", lambda: f"i32({e('u')})",
            lambda: f"({e()} if {self.condition(depth + 1)} else {r.randrange(-9, 9)})", lambda: f"({e()} ** 2)",
            lambda: f"({e()} | {e()})", lambda: f"({e()} << ({e()} & 7))", lambda: f"clz({e()})",
            lambda: f"i32(clamp({e('f')}, -9000.0, 9000.0))", lambda: f"({e()} // (({e()} & 15) + 1))",
            lambda: f"({e()} % (({e()} & 7) - 9))", lambda: f"mul24({e()} & 4095, {e()} & 255)",
        ))()  # fmt: skip

    def leaf(self, type_: str) -> str:
        r = self.r
        if r.random() < 0.3:
            if type_ == "f":
                return r.choice(("0.0", "1.0", "-1.5", "0.25", "2.0", "100.0"))
            if type_ == "u":
                return f"u32({r.choice((0, 1, 2, 3, 5, 16, 31, 255, 65537, 4000000000))})"
            return f"i32({r.choice((r.randrange(-20, 40), r.randrange(-(2**31), 2**31)))})"
        if type_ == "i" and self.loads and r.random() < 0.15:
            return r.choice(self.loads)
        return r.choice(self.names[type_])

    def condition(self, depth: int = 0) -> str:
        r = self.r
        if depth >= self.expressions + 1 or r.random() < 0.6:
            t = r.choice("iiuf")
            left = r.choice(self.names[t])
            return f"({left} {r.choice(('<', '<=', '>', '>=', '==', '!='))} {self.expression(t, self.expressions)})"
        a, b = self.condition(depth + 1), self.condition(depth + 1)
        return r.choice((f"({a} and {b})", f"({a} or {b})", f"(not {a})"))

    def statement(self, indent: int, in_loop: bool) -> None:
        r = self.r
        kind = r.random()
        self.room -= 1
        if self.depth >= 3 or self.room < 0:
            kind *= 0.45
        if kind < 0.35:
            t = r.choice("iiuf")
            name = r.choice([n for n in self.names[t] if not n.startswith("j") and n not in self.fixed])
            if r.random() < 0.4 and t != "f":
                op = r.choice(("+=", "-=", "*=") if t != "u" else ("+=", "^=", "|="))
                self.emit(indent, f"{name} {op} {self.expression(t, 1)}")
            else:
                self.emit(indent, f"{name} = {self.weak(t, self.expression(t))}")
        elif kind < 0.41:
            self.emit(indent, f"l[{r.randrange(3)}] = {self.weak('i', self.expression('i', 1))}")
        elif kind < 0.45:
            self.emit(indent, f"a0, a1 = a1, {self.weak('i', self.expression('i', 1))}")
        elif kind < 0.70:
            self.depth += 1
            self.emit(indent, f"if {self.condition()}:")
            self.block(indent + 1, in_loop)
            if r.random() < 0.4:
                self.emit(indent, f"elif {self.condition()}:")
                self.block(indent + 1, in_loop)
            if r.random() < 0.5:
                self.emit(indent, "else:")
                self.block(indent + 1, in_loop)
            self.depth -= 1
        elif kind < 0.86:
            self.depth += 1
            self.loops += 1
            j = f"j{self.loops}"
            bound = r.choice((str(r.randrange(0, 9)), "n0", f"(a{r.randrange(3)} & 7)", f"{r.randrange(2, 6)}"))
            header = r.choice((f"range({bound})", f"range(1, {bound})", f"unroll(range({r.randrange(0, 4)}))",
                               f"range({bound}, -1, -2)"))  # fmt: skip
            self.emit(indent, f"for {j} in {header}:")
            self.names["i"].append(j)
            self.block(indent + 1, True)
            self.names["i"].remove(j)
            self.depth -= 1
        else:
            self.depth += 1
            self.loops += 1
            c = f"c{self.loops}"
            self.emit(indent, f"{c} = i32(0)")
            self.emit(indent, f"while {c} < {r.randrange(1, 6)} and {self.condition(1)}:")
            self.emit(indent + 1, f"{c} += 1")
            self.block(indent + 1, True)
            self.depth -= 1

    @staticmethod
    def weak(type_: str, text: str) -> str:
        """Bind a typed value, so that a name keeps its type."""
        return (
            f"clamp({text}, -9000.0, 9000.0) + 0.0" if type_ == "f" else {"i": "i32", "u": "u32"}[type_] + f"({text})"
        )

    def block(self, indent: int, in_loop: bool) -> None:
        self.statement(indent, in_loop)
        for _ in range(self.r.randrange(2) if self.room > 0 else 0):
            self.statement(indent, in_loop)
        if in_loop and self.depth and self.r.random() < 0.25:
            if self.kind != "team" and self.r.random() < 0.25:
                self.leave(indent)
            else:
                self.emit(indent, self.r.choice(("break", "continue")))

    def statements(self, indent: int, count: int) -> None:
        """So many, or fewer where there is no room."""
        self.statement(indent, False)
        for _ in range(count - 1):
            if self.room > 0:
                self.statement(indent, False)

    def source(self, kind: str) -> str:
        of = {"plane": "2"}.get(kind, "")
        self.kind = kind
        items = "rows: i32, columns: i32" if kind == "plane" else "n: i32"
        self.emit(0, f"def generated(k: {'Team' if kind == 'team' else 'Grid'}, {items}, n0: i32, s0: f32, "
                     f"p: In{of}[i32], q: In{of}[f32], oi: Out{of}[i32], of: Out{of}[f32]"
                     f"{'' if not self.far else ', far: In[i32], packed: In[u8x4]'}) -> None:")  # fmt: skip
        if kind != "plane" and self.far:
            self.loads = [
                *(f"far.get({at}, 9)" for at in ("3 * i + 1", "2 * i - 1", "far.size - 1 - i", "a0")),
                "far.clamp[a1]", *(f"packed.get(i, u8x4(1, 2, 3, 4))[{k}]" for k in range(4)),
            ]  # fmt: skip
        if kind == "team":
            self.team()
        else:
            self.item("r, c" if kind == "plane" else "i")
        return HEADER + "\n".join(self.lines) + "\n"

    def bind(self, indent: int, at: str, p: str, q: str) -> None:
        for line in (f"a0 = {p}", f"a1 = i32({at})", "a2 = i32(3)", f"u0 = u32({p}) * 2654435761", "u1 = u32(7)",
                     f"x0 = {q}", "x1 = f32(s0)", f"l = [i32({at}), i32(0), {p}]"):  # fmt: skip
            self.emit(indent, line)

    MIX = "a0 ^ a1 ^ a2 ^ i32(u0) ^ i32(u1) ^ l[0] ^ l[1] ^ l[2]"

    def item(self, at: str) -> None:
        """The body of an item."""
        r = self.r
        place = at
        self.emit(1, f"{at} = k.index({'rows, columns' if ',' in at else 'n'})")
        if "," in at:
            self.emit(1, "i = r * 100 + c")
            at = "i"
        self.bind(1, at, f"p[{place}]", f"q[{place}]")
        self.at = place
        self.statements(1, r.randrange(2, 5))
        if r.random() < 0.2:
            self.emit(1, f"if {self.condition()}:")
            self.leave(2)
        self.emit(1, f"oi[{place}] = {self.MIX}{self.more}")
        self.emit(1, f"of[{place}] = x0 + x1{self.sums}")

    def leave(self, indent: int) -> None:
        """Results, and the item's end."""
        self.emit(indent, f"oi[{self.at}] = a1")
        self.emit(indent, f"of[{self.at}] = x1")
        self.emit(indent, "return")

    def team(self) -> None:
        """Items of a Team, what they leave behind, and lane operations."""
        r = self.r
        self.bind(1, "k.lane", "k.lane * 3 - 7", "f32(k.lane) * 0.25")
        self.emit(1, "for i in k.items(n):")
        self.emit(2, "v = p.get(i, 0)")
        self.emit(2, "y = q.get(i, 0)")
        self.names["i"].append("v")
        self.names["f"].append("y")
        self.fixed = {"v", "y"}
        self.statements(2, r.randrange(1, 4))
        self.names["i"].remove("v")
        self.names["f"].remove("y")
        self.emit(1, f"m = {self.MIX}{self.more}")
        for _ in range(r.randrange(1, 4)):
            self.emit(1, r.choice((
                "m = m + k.rotate(m, 3)", "m = k.scan(m)", "m ^= k.sum(m)", "m = k.shuffle(m, k.lane ^ 5)",
                "m += k.broadcast(m, 7)", "m = m - k.max(m)", "m = k.min(m) + k.lane", "m ^= k.last(m)",
                "m += i32(k.any(m > 3))", "m += i32(k.all(m < 9))",
            )))  # fmt: skip
        self.emit(1, f"z = k.max(x0{self.sums}) + k.min(x1)")
        self.emit(1, "oi[k.worker] = k.sum(m)")
        self.emit(1, "of[k.worker] = z")


def kernel_source(seed: int, *, small: bool = False) -> str:
    """The text of a module with the kernel `generated`, for items in a line."""
    return Generator(seed, small=small, loads=not small).source("line")


def kernel_of_any_kind(
    seed: int, *, small: int | bool = False, loads: bool = False, every: bool = False
) -> tuple[str, str]:
    """A text, and what kind of items its kernel has. loads: of further arrays, which those that are not small have;
    every: with a share of EVERY.
    """
    generator = Generator(seed, small=small, loads=loads or not small, every=every)
    kind = generator.r.choice(KINDS)
    return generator.source(kind), kind
