"""KIR to KIR that VideoCore IV can do: products of 32 bits from 24-bit ones, unsigned conversions, rounding, narrow
elements, and stores as rows of 16 words or lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from qpu.errors import CompileError, Diagnostic
from qpu.lang.kir import Loop, Region, Request, Skip, Value
from qpu.lang.rewrite import Rewriter
from qpu.lang.types import DTYPES

__all__ = ["lane_step", "legalise_vc4"]


def lane_step(v: Value, known: dict[int, int | None] | None = None) -> int | None:
    """How much an integer grows from each lane to the next; None where it is not the same everywhere."""
    known = {} if known is None else known
    if id(v) in known:
        return known[id(v)]
    known[id(v)] = None  # a carried value that depends on itself
    found = _step(v, known)
    known[id(v)] = found
    return found


def _step(v: Value, known: dict[int, int | None]) -> int | None:
    if not v.varying:
        return 0
    if v.op == "lane":
        return 1
    if v.op in ("bitcast", "same"):
        return lane_step(v.args[0], known)
    if v.op in ("add", "sub"):
        a, b = (lane_step(x, known) for x in v.args)
        if a is None or b is None:
            return None
        return a + b if v.op == "add" else a - b
    if v.op == "shl" and v.args[1].constant is not None:
        a = lane_step(v.args[0], known)
        return None if a is None else a << (v.args[1].constant & 31)
    if v.op == "mul" and v.args[1].constant is not None:
        a, n = lane_step(v.args[0], known), v.args[1].constant
        return None if a is None else a * (n - (1 << 32) if n >> 31 else n)
    if v.op == "parameter":
        return _parameter_step(v, known)
    return None


_LOOPS: dict[int, tuple[Value, Loop]] = {}


def _parameter_step(v: Value, known: dict[int, int | None]) -> int | None:
    """A carried value steps as its initial value does when each turn adds the same to all lanes."""
    row = _LOOPS.get(id(v.region))
    if row is None:
        return None
    loop, attr = row
    start = lane_step(loop.args[1 + v.attr], known)
    if start is None:
        return None
    known[id(v)] = start
    after = lane_step(attr.yields[v.attr], dict(known))
    return start if after == start else None


class _Vc4(Rewriter):
    """Replaces what VideoCore IV lacks. steps: of the values of the KIR that is read."""

    def __init__(self, top: Region, names: Sequence[str]) -> None:
        super().__init__("vc4")
        self.names = names
        self.steps: dict[int, int | None] = {}
        self._register(top)

    def _register(self, region: Region) -> None:
        for v in region.ops:
            if isinstance(v.attr, Loop):
                _LOOPS[id(v.attr.region)] = (v, v.attr)
            if isinstance(v.attr, Loop | Skip):
                self._register(v.attr.region)

    def i(self, value: int) -> Value:
        return self.q.const("i", value & 0xFFFFFFFF)

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        rule = _RULES.get(v.op)
        return None if rule is None else rule(self, v, args)

    # -- arithmetic

    def product(self, a: Value, b: Value) -> Value:
        """Low 32 bits of a product from products of 24 bits: the high bytes by the other's low part."""
        q = self.q
        a, b = self.cast(a, "u"), self.cast(b, "u")
        low = q.emit("umul24", a, b)
        high: Value | None = None
        for x, y in ((a, b), (b, a)):
            if x.constant is not None and x.constant < 1 << 24:
                continue
            part = q.emit("umul24", q.emit("shr", x, self.u(24)), y)
            high = part if high is None else q.emit("add", high, part)
        return low if high is None else q.emit("add", low, q.emit("shl", high, self.u(24)))

    def trunc(self, x: Value) -> Value:
        """Toward zero; from 2**23 on a float has no fraction."""
        q = self.q
        small = q.emit("lt", q.emit("fabs", x), self.f(8388608.0), type_="b", attr="f")
        return q.emit("select", small, q.emit("itof", q.emit("ftoi", x)), x)

    def lane0(self, mask: Value) -> Value:
        """Whether lane 0 is in the mask, in all lanes."""
        q = self.q
        bit = q.emit("select", mask, self.i(1), self.i(0))
        return q.emit("ne", q.emit("bcast", bit, self.i(0)), self.i(0), type_="b", attr="i")

    # -- memory

    def load(self, v: Value, args: tuple[Value, ...]) -> Value:
        """Aligned words from the TMU; narrow elements are taken out of theirs. Masked lanes read the first element."""
        q, a = self.q, v.attr
        t = DTYPES[a.dtype]
        base, offset = q.emit("add", args[0], self.u(a.offset)), args[1]
        if len(args) > 2:
            safe = q.emit("param", type_="u", attr=f"{self.names[a.array]}.base")
            base, offset = q.emit("select", args[2], q.emit("add", base, self.cast(offset, "u")), safe), self.i(0)
        q.append("request", (base, offset), "", Request(a, 1, 0xFF), varying=False)
        raw = "u" if t.size < 4 else v.type
        found = q.append("pop", (), raw, None, varying=v.varying)
        if t.size < 4:
            address = q.emit("add", base, self.cast(offset, "u"))
            found = self.narrow(found, address, t.name, v.type)
        if a.zero and len(args) > 2:
            found = q.emit("select", args[2], found, q.const(found.type, 0))
        return found

    def narrow(self, word: Value, address: Value, name: str, type_: str) -> Value:
        """An element out of the word that holds it."""
        q, t = self.q, DTYPES[name]
        shifted = q.emit("shr", word, q.emit("shl", address, self.u(3)))  # counts are modulo 32
        bits = 8 * t.size
        if name == "f16":
            return self.half(q.emit("and", shifted, self.u(0xFFFF)))
        if t.low < 0:
            n = self.u(32 - bits)
            return q.emit("asr", q.emit("shl", self.cast(shifted, "i"), n), n)
        return self.cast(q.emit("and", shifted, self.u((1 << bits) - 1)), "i")

    def half(self, h: Value) -> Value:
        """A half float by moving its fields; half denormals become 0, as this chip has none."""
        q = self.q
        sign = q.emit("shl", q.emit("and", h, self.u(0x8000)), self.u(16))
        rest = q.emit("and", h, self.u(0x7FFF))
        moved = q.emit("add", q.emit("shl", rest, self.u(13)), self.u(112 << 23))
        inf = q.emit("le", self.u(0x7C00), rest, type_="b", attr="u")
        moved = q.emit("select", inf, q.emit("or", moved, self.u(0x7F800000)), moved)
        zero = q.emit("lt", rest, self.u(0x400), type_="b", attr="u")
        moved = q.emit("select", zero, self.u(0), moved)
        return self.cast(q.emit("or", sign, moved), "f")

    def store(self, v: Value, args: tuple[Value, ...]) -> Value:
        q, a = self.q, v.attr
        t = DTYPES[a.dtype]
        value = args[2]
        if t.size < 4:
            finding = Diagnostic("lang-type", f"stores of {t} are not available on VideoCore IV yet", loc=v.loc)
            raise CompileError(finding.render(), [finding])
        step = lane_step(v.args[1], self.steps)
        base = q.emit("add", args[0], self.u(a.offset))
        lanes = self.prefix(v)
        if step == 4 and (len(args) == 3 or lanes is not None):
            q.append("data", (value,), "", None, varying=False)
            more = () if lanes is None else (self.map_value(lanes),)
            return q.append("commit", (base, args[1], *more), "", Request(a, 16, 0xFF), varying=False)
        if step == 0 and len(args) == 3:
            q.append("data", (value,), "", None, varying=False)
            return q.append("commit", (base, args[1]), "", Request(a, 1, 0xFF), varying=False)
        return self.scatter(v, base, args[1], value, args[3] if len(args) > 3 else None)

    def prefix(self, v: Value) -> tuple[Value, Value] | None:
        """A mask that says offset < limit, of an offset that steps by 4: the first lanes. The two values."""
        if len(v.args) < 4:
            return None
        mask = v.args[3]
        if (
            mask.op == "lt"
            and mask.attr == "i"
            and not mask.args[1].varying
            and lane_step(mask.args[0], self.steps) == 4
        ):
            return mask.args[0], mask.args[1]
        return None

    def map_value(self, pair: tuple[Value, Value]) -> Value:
        """How many lanes there are: (limit - offset of lane 0) / 4, at most 16."""
        q = self.q
        offset, limit = (self.get(x) for x in pair)
        rest = q.emit("sub", limit, q.emit("bcast", offset, self.i(0)))
        return q.emit("min", q.emit("asr", q.emit("add", rest, self.i(3)), self.u(2)), self.i(16))

    def scatter(self, v: Value, base: Value, offset: Value, value: Value, mask: Value | None) -> Value:
        """Lane by lane: in each of 16 turns lane 0 stores its word, then all lanes move down by one."""
        q = self.q
        address = q.emit("add", base, self.cast(offset, "u"))
        bit = self.i(1) if mask is None else q.emit("select", mask, self.i(1), self.i(0))
        inits = (self.i(16), address, value, bit)
        region = Region(q.region, loop=True)
        n, at, word, wanted = (q.parameter(region, x.type, i > 0) for i, x in enumerate(inits))
        outer, q.region = q.region, region
        test = q.emit("ne", q.emit("bcast", wanted, self.i(0)), self.i(0), type_="b", attr="i")
        inside = Region(region)
        q.region = inside
        q.append("data", (word,), "", None, varying=False)
        q.append("commit", (at, self.i(0)), "", Request(v.attr, 1, 0xFF), varying=False)
        q.region = region
        q.append("if_any", (test,), "", Skip(inside, []), varying=False)
        left = q.emit("sub", n, self.i(1))
        moved = [q.emit("rot", x, attr=1) for x in (at, word)]
        bits = wanted if mask is None else q.emit("rot", wanted, attr=1)
        cond = q.emit("ne", left, self.i(0), type_="b", attr="i")
        q.region = outer
        attr = Loop(region, [left, *moved, bits], cond)
        made = q.append("loop", (q.const("b", True), *inits), "", attr, varying=False)
        for x in inits:
            q.result(made, x.type, True)
        return made

    def to_half(self, x: Value) -> Value:
        """To a half float, to nearest even; what is below its normal range becomes 0."""
        q = self.q
        b = self.cast(x, "u")
        sign = q.emit("and", q.emit("shr", b, self.u(16)), self.u(0x8000))
        size = q.emit("and", b, self.u(0x7FFFFFFF))
        odd = q.emit("and", q.emit("shr", size, self.u(13)), self.u(1))
        rounded = q.emit("add", q.emit("add", size, self.u(0xFFF)), odd)
        h = q.emit("shr", q.emit("sub", rounded, self.u(112 << 23)), self.u(13))
        small = q.emit("lt", rounded, self.u(113 << 23), type_="b", attr="u")
        large = q.emit("le", self.u(143 << 23), rounded, type_="b", attr="u")
        h = q.emit("select", small, self.u(0), q.emit("select", large, self.u(0x7C00), h))
        return q.emit("or", sign, h)


def _floor(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
    t = r.trunc(args[0])
    above = r.q.emit("lt", args[0], t, type_="b", attr="f")
    return r.q.emit("select", above, r.q.emit("fsub", t, r.f(1.0)), t)


def _ceil(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
    t = r.trunc(args[0])
    below = r.q.emit("lt", t, args[0], type_="b", attr="f")
    return r.q.emit("select", below, r.q.emit("fadd", t, r.f(1.0)), t)


def _round(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
    """Ties to even: by the fraction that truncation left and the parity of what remains."""
    q, x = r.q, args[0]
    t = r.trunc(x)
    rest = q.emit("fabs", q.emit("fsub", x, t))
    half = r.f(0.5)
    odd = q.emit("ne", q.emit("and", q.emit("ftoi", t), r.i(1)), r.i(0), type_="b", attr="i")
    up = q.emit("lt", half, rest, type_="b", attr="f")
    tie = q.emit("band", q.emit("eq", rest, half, type_="b", attr="f"), odd)
    negative = q.emit("lt", x, r.f(0.0), type_="b", attr="f")
    one = q.emit("select", negative, r.f(-1.0), r.f(1.0))
    return q.emit("select", q.emit("bor", up, tie), q.emit("fadd", t, one), t)


def _utof(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
    q, a = r.q, args[0]
    big = q.emit("lt", r.cast(a, "i"), r.i(0), type_="b", attr="i")
    half = q.emit("itof", r.cast(q.emit("shr", a, r.u(1)), "i"))
    return q.emit("select", big, q.emit("fadd", half, half), q.emit("itof", r.cast(a, "i")))


def _ftou(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
    q, a = r.q, args[0]
    limit = r.f(2147483648.0)
    big = q.emit("le", limit, a, type_="b", attr="f")
    high = q.emit("xor", r.cast(q.emit("ftoi", q.emit("fsub", a, limit)), "u"), r.u(0x80000000))
    return q.emit("select", big, high, r.cast(q.emit("ftoi", a), "u"))


def _uminmax(smaller: bool) -> Callable[..., Any]:
    def choose(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
        less = r.q.emit("lt", *args, type_="b", attr="u")
        a, b = args if smaller else (args[1], args[0])
        return r.q.emit("select", less, a, b)

    return choose


def _smul24(r: _Vc4, v: Value, args: tuple[Value, ...]) -> Value:
    n = r.u(8)
    a, b = (r.q.emit("asr", r.q.emit("shl", r.cast(x, "i"), n), n) for x in args)
    return r.cast(r.product(a, b), v.type)


_RULES: Final[dict[str, Callable[..., Value | None]]] = {
    "mul": lambda r, v, args: r.cast(r.product(*args), v.type),
    "ftrunc": lambda r, v, args: r.trunc(args[0]),
    "ffloor": _floor,
    "fceil": _ceil,
    "fround": _round,
    "utof": _utof,
    "ftou": _ftou,
    "umin": _uminmax(True),
    "umax": _uminmax(False),
    "smul24": _smul24,
    "h2f": lambda r, v, args: r.half(args[0]),
    "f2h": lambda r, v, args: r.to_half(args[0]),
    "fneg": lambda r, v, args: r.q.emit("fsub", r.f(0.0), args[0]),
    "load": lambda r, v, args: r.load(v, args),
    "store": lambda r, v, args: r.store(v, args),
}


def legalise_vc4(top: Region, names: Sequence[str]) -> Region:
    """The same kernel in operations that VideoCore IV has; `qpu.lang.legalise` runs before. names: of the arrays."""
    r = _Vc4(top, names)
    r.region(top)
    return r.q.top
