"""Random kernels as source text: every statement and operator of the language, nested, with tails of every length."""

from __future__ import annotations

import random

__all__ = ["kernel_source"]

HEADER = """from qpu.lang.surface import *
from qpu.lang.surface import FUNCTIONS
minimum, maximum, clamp, sign, bitcast = (FUNCTIONS[n] for n in ("minimum", "maximum", "clamp", "sign", "bitcast"))


def helper(a, b):
    if a > b:
        return a - b
    c = a * 2
    return c + b


"""


class Generator:
    """One kernel. Names: i32 a0.., u32 u0.., f32 x0.., all bound before the control flow; masks are expressions."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.lines: list[str] = []
        self.names = {"i": ["a0", "a1", "a2"], "u": ["u0", "u1"], "f": ["x0", "x1"]}
        self.loops = 0
        self.depth = 0

    def emit(self, indent: int, text: str) -> None:
        self.lines.append("    " * indent + text)

    def expression(self, type_: str, depth: int = 0) -> str:
        r = self.r
        if depth > 2 or r.random() < 0.25:
            return self.leaf(type_)
        e = lambda t=type_: self.expression(t, depth + 1)  # noqa: E731
        if type_ == "f":
            return r.choice((
                lambda: f"({e()} + {e()})", lambda: f"({e()} - {e()})", lambda: f"({e()} * {e()})",
                lambda: f"abs({e()})", lambda: f"minimum({e()}, {e()})", lambda: f"maximum({e()}, {e()})",
                lambda: f"(-{e()})", lambda: f"f32({e('i')})",
                lambda: f"where({self.condition(depth + 1)}, {e()}, {e()})",
                lambda: f"({e()} if {self.condition(depth + 1)} else {e()})", lambda: f"({e()} + {e('i')})",
                lambda: f"FUNCTIONS['floor'](clamp({e()}, -1000.0, 1000.0))", lambda: f"({e()} * 0.5)",
            ))()  # fmt: skip
        if type_ == "u":
            return r.choice((
                lambda: f"({e()} + {e()})", lambda: f"({e()} ^ {e()})", lambda: f"({e()} & {e()})",
                lambda: f"({e()} | {e()})", lambda: f"({e()} >> {r.randrange(0, 35)})", lambda: f"u32({e('i')})",
                lambda: f"({e()} << {r.randrange(0, 35)})", lambda: f"(~{e()})", lambda: f"({e()} - {e()})",
                lambda: f"minimum({e()}, {e()})", lambda: f"({e()} * {r.randrange(0, 70)})",
                lambda: f"bitcast({e('f')} * 0.0, u32) * 0" if False else f"bitcast({e('i')}, u32)",
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
        ))()  # fmt: skip

    def leaf(self, type_: str) -> str:
        r = self.r
        if r.random() < 0.3:
            if type_ == "f":
                return r.choice(("0.0", "1.0", "-1.5", "0.25", "2.0", "100.0"))
            return str(r.choice((0, 1, 2, 3, 5, 16, 31, 255))) if type_ == "u" else str(r.randrange(-20, 40))
        return r.choice(self.names[type_])

    def condition(self, depth: int = 0) -> str:
        r = self.r
        if depth > 2 or r.random() < 0.6:
            t = r.choice("iiuf")
            left = r.choice(self.names[t])
            return f"({left} {r.choice(('<', '<=', '>', '>=', '==', '!='))} {self.expression(t, 2)})"
        a, b = self.condition(depth + 1), self.condition(depth + 1)
        return r.choice((f"({a} and {b})", f"({a} or {b})", f"(not {a})"))

    def statement(self, indent: int, in_loop: bool) -> None:
        r = self.r
        kind = r.random()
        if self.depth >= 3:
            kind *= 0.45
        if kind < 0.35:
            t = r.choice("iiuf")
            name = r.choice([n for n in self.names[t] if not n.startswith("j")])
            if r.random() < 0.4:
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
        return {"i": "i32", "u": "u32", "f": "f32"}[type_] + f"({text})"

    def block(self, indent: int, in_loop: bool) -> None:
        for _ in range(self.r.randrange(1, 4)):
            self.statement(indent, in_loop)
        if in_loop and self.depth and self.r.random() < 0.25:
            self.emit(indent, self.r.choice(("break", "continue")))

    def source(self, team: bool = False) -> str:
        r = self.r
        self.emit(
            0, "def generated(k: Grid, n0: i32, s0: f32, p: In[i32], q: In[f32], oi: Out[i32], of: Out[f32]) -> None:"
        )
        self.emit(1, "i = k.index(p.size)")
        self.emit(1, "a0 = p[i]")
        self.emit(1, "a1 = i32(i)")
        self.emit(1, "a2 = i32(3)")
        self.emit(1, "u0 = u32(p[i]) * 2654435761")
        self.emit(1, "u1 = u32(7)")
        self.emit(1, "x0 = q[i]")
        self.emit(1, "x1 = f32(s0)")
        self.emit(1, "l = [i32(i), i32(0), p[i]]")
        for _ in range(r.randrange(2, 6)):
            self.statement(1, False)
        if r.random() < 0.2:
            self.emit(1, f"if {self.condition()}:")
            self.emit(2, "oi[i] = a1")
            self.emit(2, "of[i] = x1")
            self.emit(2, "return")
        self.emit(1, "oi[i] = a0 ^ a1 ^ a2 ^ i32(u0) ^ i32(u1) ^ l[0] ^ l[1] ^ l[2]")
        self.emit(1, "of[i] = x0 + x1")
        return HEADER + "\n".join(self.lines) + "\n"


def kernel_source(seed: int) -> str:
    """The text of a module with the kernel `generated`."""
    return Generator(seed).source()
