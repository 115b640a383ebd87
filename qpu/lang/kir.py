"""KIR, the kernel's intermediate representation: structured SSA that is the same for all three GPUs.

A kernel is a `Region` of operations; loops and skipped parts are operations with a region of their own. Values hold 16
lanes of 32 bits, or one truth value a lane. What an operation means is its row (`ROWS`): operand types, result type and
a semantic function over `LaneOps`, from which folding, both interpreters, the verifier and the text form derive.

Types: ``f`` binary32, ``i`` signed, ``u`` unsigned, ``b`` mask. In rows ``n`` stands for i or u and ``x`` for f, i or
u, the same one wherever it occurs in the row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from qpu.errors import Loc

__all__ = ["ROWS", "Access", "Builder", "Loop", "Region", "Request", "Row", "Skip", "Value", "values_made", "walk"]

Sem: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One operation. args, result: type letters. sem: f(v, *operands) over LaneOps, None where lanes or memory are
    involved. pure: equal operands give equal results and nothing else happens, so that it may be shared and moved.
    """

    name: str
    args: str
    result: str
    sem: Sem | None
    doc: str
    commutes: bool = False
    pure: bool = True


def _row(name: str, types: str, sem: Sem | None, doc: str, *, commutes: bool = False, pure: bool = True) -> Row:
    args, _, result = types.partition(">")
    return Row(name, args, result, sem, doc, commutes, pure)


def _lane(method: str) -> Sem:
    return lambda v, *operands: getattr(v, method)(*operands)


def _count(v: Any, n: Any) -> Any:
    return v.and_(n, v.const(31))


def _shift(method: str) -> Sem:
    return lambda v, a, n: getattr(v, method)(a, _count(v, n))


def _ror(v: Any, a: Any, n: Any) -> Any:
    n = _count(v, n)
    return v.or_(v.shr(a, n), v.shl(a, _count(v, v.sub(v.const(32), n))))


def _choose(test: Callable[[Any, Any, Any], Any]) -> Sem:
    """The first operand where test(v, a, b), else the second."""
    return lambda v, a, b: v.select(test(v, a, b), a, b)


def _fmin(v: Any, a: Any, b: Any) -> Any:
    nan = v.mnot(v.feq(a, a))
    return v.select(nan, b, v.select(v.flt(b, a), b, a))


def _fmax(v: Any, a: Any, b: Any) -> Any:
    nan = v.mnot(v.feq(a, a))
    return v.select(nan, b, v.select(v.flt(a, b), b, a))


def _mul24(v: Any, a: Any, b: Any) -> Any:
    mask = v.const(0xFFFFFF)
    return v.mul(v.and_(a, mask), v.and_(b, mask))


def _smul24(v: Any, a: Any, b: Any) -> Any:
    n = v.const(8)
    return v.mul(v.asr(v.shl(a, n), n), v.asr(v.shl(b, n), n))


def _compare(kind: str) -> dict[str, Sem]:
    """A comparison by operand type."""
    return {
        "lt": {"f": _lane("flt"), "i": _lane("slt"), "u": _lane("ult")},
        "le": {
            "f": _lane("fle"),
            "i": lambda v, a, b: v.mnot(v.slt(b, a)),
            "u": lambda v, a, b: v.mnot(v.ult(b, a)),
        },
        "eq": {"f": _lane("feq"), "i": _lane("eq"), "u": _lane("eq")},
        "ne": {
            "f": lambda v, a, b: v.mnot(v.feq(a, b)),
            "i": lambda v, a, b: v.mnot(v.eq(a, b)),
            "u": lambda v, a, b: v.mnot(v.eq(a, b)),
        },
    }[kind]


COMPARE: Final = {name: _compare(name) for name in ("lt", "le", "eq", "ne")}
"""Comparisons: name -> operand type -> meaning."""


def _byte(n: int) -> Sem:
    return lambda v, a: v.and_(v.shr(a, v.const(8 * n)), v.const(255))


def _half_signed(v: Any, a: Any) -> Any:
    n = v.const(16)
    return v.asr(v.shl(a, n), n)


def _byte_signed(v: Any, a: Any) -> Any:
    n = v.const(24)
    return v.asr(v.shl(a, n), n)


# name, operand types > result type, meaning. Attributes: const bits; param name; rot lanes; loads and stores Access.
ROWS: Final[dict[str, Row]] = {
    r.name: r
    for r in (
        # -- sources
        _row("const", ">x", None, "A constant; the attribute holds its 32 bits, or the truth value of a mask."),
        _row("param", ">x", None, "A launch argument, the same in all lanes; the attribute is its name."),
        _row("lane", ">i", None, "0..15."),
        _row("worker", ">i", None, "Number of the worker, 0..workers-1."),
        _row("workers", ">i", None, "How many workers run."),
        _row("stream", ">x", None, "The next word of the launch's stream.", pure=False),
        # -- floats
        _row("fadd", "ff>f", _lane("fadd"), "a + b.", commutes=True),
        _row("fsub", "ff>f", _lane("fsub"), "a - b."),
        _row("fmul", "ff>f", _lane("fmul"), "a * b.", commutes=True),
        _row("fmin", "ff>f", _fmin, "The smaller; of a NaN and a number the number.", commutes=True),
        _row("fmax", "ff>f", _fmax, "The larger; of a NaN and a number the number.", commutes=True),
        _row("fabs", "f>f", lambda v, a: v.and_(a, v.const(0x7FFFFFFF)), "The absolute value."),
        _row("fneg", "f>f", lambda v, a: v.xor(a, v.const(0x80000000)), "The opposite sign."),
        _row("recip", "f>f", _lane("recip"), "1 / a, as accurate as the GPU's unit."),
        _row("rsqrt", "f>f", _lane("rsqrt"), "1 / sqrt(a), as accurate as the GPU's unit."),
        _row("exp2", "f>f", _lane("exp2"), "2 ** a, as accurate as the GPU's unit."),
        _row("log2", "f>f", _lane("log2"), "log2(a), as accurate as the GPU's unit."),
        _row("sinpi", "f>f", _lane("sinpi"), "sin(pi * a) for abs(a) <= 0.5, as accurate as the GPU's unit."),
        _row("ffloor", "f>f", _lane("ffloor"), "The largest integral value not above a."),
        _row("fceil", "f>f", _lane("fceil"), "The smallest integral value not below a."),
        _row("ftrunc", "f>f", _lane("ftrunc"), "Toward zero."),
        _row("fround", "f>f", _lane("fround"), "To the nearest integral value, ties to even."),
        _row("itof", "i>f", _lane("itof"), "Signed integer to float."),
        _row("utof", "u>f", _lane("utof"), "Unsigned integer to float."),
        _row("ftoi", "f>i", _lane("ftoi"), "Truncated; outside the range any value."),
        _row("ftou", "f>u", _lane("ftou"), "Truncated; outside the range any value."),
        _row("h2f", "u>f", _lane("h2f"), "The low 16 bits as a half float."),
        _row("f2h", "f>u", _lane("f2h"), "To half float in the low 16 bits."),
        # -- integers
        _row("add", "nn>n", _lane("add"), "a + b modulo 2**32.", commutes=True),
        _row("sub", "nn>n", _lane("sub"), "a - b modulo 2**32."),
        _row("mul", "nn>n", _lane("mul"), "a * b modulo 2**32.", commutes=True),
        _row("umul24", "nn>n", _mul24, "Low 32 bits of a[23:0] * b[23:0].", commutes=True),
        _row(
            "smul24", "nn>n", _smul24, "Low 32 bits of the product of both, sign-extended from bit 23.", commutes=True
        ),
        _row("umulh", "uu>u", _lane("umulh"), "High 32 bits of the unsigned product.", commutes=True),
        _row("and", "nn>n", _lane("and_"), "a & b.", commutes=True),
        _row("or", "nn>n", _lane("or_"), "a | b.", commutes=True),
        _row("xor", "nn>n", _lane("xor"), "a ^ b.", commutes=True),
        _row("not", "n>n", _lane("not_"), "~a."),
        _row("shl", "nu>n", _shift("shl"), "a << (b & 31)."),
        _row("shr", "nu>n", _shift("shr"), "a >> (b & 31), zeros move in."),
        _row("asr", "nu>n", _shift("asr"), "a >> (b & 31), the sign moves in."),
        _row("ror", "nu>n", _ror, "a rotated right by b & 31 bits."),
        _row("min", "ii>i", _choose(lambda v, a, b: v.slt(a, b)), "The smaller, signed.", commutes=True),
        _row("max", "ii>i", _choose(lambda v, a, b: v.slt(b, a)), "The larger, signed.", commutes=True),
        _row("umin", "uu>u", _choose(lambda v, a, b: v.ult(a, b)), "The smaller, unsigned.", commutes=True),
        _row("umax", "uu>u", _choose(lambda v, a, b: v.ult(b, a)), "The larger, unsigned.", commutes=True),
        _row("clz", "n>i", _lane("clz"), "Leading zero bits, 32 for 0."),
        _row("bitcast", "x>x", lambda v, a: a, "The same bits as another type."),
        _row("sext8", "n>i", _byte_signed, "Bits 7:0, sign-extended."),
        _row("sext16", "n>i", _half_signed, "Bits 15:0, sign-extended."),
        _row("div", "nn>n", None, "Quotient, rounded down; by zero any value. Legalised."),
        _row("mod", "nn>n", None, "a - b * (a div b); by zero any value. Legalised."),
        # -- masks
        *(
            _row(name, "xx>b", None, f"a {sign} b; the attribute is the operand type.", commutes=name in ("eq", "ne"))
            for name, sign in (("lt", "<"), ("le", "<="), ("eq", "=="), ("ne", "!="))
        ),
        _row("band", "bb>b", _lane("mand"), "Both.", commutes=True),
        _row("bor", "bb>b", _lane("mor"), "Either.", commutes=True),
        _row("bnot", "b>b", _lane("mnot"), "Not."),
        _row("any", "b>b", None, "True in all lanes where any lane is."),
        _row("all", "b>b", None, "True in all lanes where every lane is."),
        _row("select", "bxx>x", _lane("select"), "b where a, else c."),
        # -- lanes
        _row("rot", "x>x", None, "Lane l gets lane (l + n) % 16; the attribute is n."),
        _row("rotv", "xi>x", None, "As rot, by a uniform value."),
        _row("bcast", "xi>x", None, "The lane that a uniform value names, in all lanes."),
        _row("same", "x>x", lambda v, a: a, "A value that is known to be the same in all lanes."),
        _row("shuffle", "xi>x", None, "Lane l gets lane b[l] % 16."),
        _row("asm", "*>x", None, "Operations of the instruction set; the attribute is an `inline_asm.Asm`."),
        # -- memory: base, offset in bytes, value of a store, mask; the attribute is an Access
        _row("load", "ui*>x", None, "Elements at base + offset.", pure=False),
        _row("store", "uix*>", None, "Elements to base + offset.", pure=False),
        _row("atomic", "ui*>x", None, "Read, modify, write; gives the old element.", pure=False),
        # as the TMU does it: addresses and results apart; made by `qpu.lang.memory`
        _row("request", "ui*>", None, "Asks for words at base + offset; the attribute is a Request.", pure=False),
        _row("pop", ">x", None, "The next word that was asked for.", pure=False),
        _row("data", "x>", None, "The next word to store.", pure=False),
        _row("row", "x>", None, "The next row of a store that `data` began (VideoCore IV).", pure=False),
        _row("commit", "ui*>", None, "Stores the words at base + offset; the attribute is a Request.", pure=False),
        # words that are the same in all lanes, without the TMU; made by `qpu.lang.streams`
        _row("seek", "u>", None, "Begins to read words from an address on.", pure=False),
        _row("next", ">x", None, "The next of these words.", pure=False),
        # as VideoCore IV does it: by DMA, which sees what others have stored; made by `qpu.lang.legalise_vc4`
        _row("fetch", "ui*>x", None, "Elements at base + offset in the first lanes, read by DMA.", pure=False),
        _row("lock", ">", None, "Waits for the mutex of the chip.", pure=False),
        _row("unlock", ">", None, "Gives the mutex back when the worker's stores have ended.", pure=False),
        _row(
            "semaphore",
            ">",
            None,
            "Counts one of 16 down, or up; the attribute is its number and whether down.",
            pure=False,
        ),
        _row("barrier", ">", None, "Waits for all workers of the team.", pure=False),
        # -- control
        _row("loop", "b*>", None, "Repeats its region (Loop).", pure=False),
        _row("if_any", "b*>", None, "Its region, when any lane wants it (Skip).", pure=False),
        _row("result", ">x", None, "A value that comes out of a loop or if_any; the attribute is its number."),
        _row("parameter", ">x", None, "A value that is carried into a turn of a loop; the attribute is its number."),
    )
}


@dataclass(frozen=True, slots=True)
class Access:
    """What a load, store or atomic touches. array: number of the array parameter, -1 for shared memory. offset:
    constant bytes beyond base + offset. dtype: storage type. site: number of the access in the kernel's text, for
    reports; operation: of an atomic, once: which lane 0 alone does, for all. zero: lanes that the mask leaves out read
    0, not just anything. around: all of each 32-bit word that holds an element may be read.
    """

    array: int
    offset: int
    dtype: str
    site: int = 0
    operation: str = ""
    zero: bool = False
    once: bool = False
    around: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the TMU, or a DMA of VideoCore IV. access: of its first word; words: how many; byte: its
    configuration; step: bytes from a lane's element to the next lane's where they are not neighbours; rows: that
    follow each other in memory (both VideoCore IV).
    """

    access: Access
    words: int
    byte: int
    step: int = 0
    rows: int = 1


_numbers = itertools.count()


def values_made() -> int:
    """A number that grows by at least one with each operation made: how much work a loop has caused."""
    return next(_numbers)


class Value:
    """One operation and its result. type: "f", "i", "u", "b", or empty. varying: lanes may differ. number: grows with
    each value that is made.
    """

    __slots__ = ("args", "attr", "loc", "number", "op", "region", "type", "varying")

    def __init__(
        self, op: str, args: tuple[Value, ...], type_: str, attr: Any, region: Region, loc: Loc | None, varying: bool
    ) -> None:
        self.op = op
        self.args = args
        self.type = type_
        self.attr = attr
        self.region = region
        self.loc = loc
        self.varying = varying
        self.number = next(_numbers)

    @property
    def constant(self) -> int | None:
        """The bits of a constant, else None."""
        return self.attr if self.op == "const" else None

    def __repr__(self) -> str:
        return f"<{self.op} {self.type}>" if self.op != "const" else f"<const {self.type} {self.attr:#x}>"


class Region:
    """A sequence of operations. loop: it is executed again and again. parameters: carried values of a loop."""

    __slots__ = ("known", "loop", "ops", "parameters", "parent")

    def __init__(self, parent: Region | None, *, loop: bool = False) -> None:
        self.parent = parent
        self.loop = loop
        self.ops: list[Value] = []
        self.parameters: list[Value] = []
        self.known: dict[tuple[object, ...], Value] = {}

    def contains(self, value: Value) -> bool:
        """Whether the value is made in this region or one inside it."""
        region: Region | None = value.region
        while region is not None:
            if region is self:
                return True
            region = region.parent
        return False


@dataclass(slots=True)
class Loop:
    """Attribute of a loop. The operands are the guard (a mask, the same in all lanes) and the initial values; the
    region runs while `cond` holds after it: in any lane where it varies, else in all. results: one a carried value.
    items: its turns are items of a Grid or Team, or rows of them.
    """

    region: Region
    yields: list[Value]
    cond: Value
    results: list[Value] = field(default_factory=list)
    items: bool = False


@dataclass(slots=True)
class Skip:
    """Attribute of if_any. The operands are the mask and the values that hold where the region is skipped."""

    region: Region
    yields: list[Value]
    results: list[Value] = field(default_factory=list)


def walk(region: Region) -> Iterator[Value]:
    """All operations of a region and of the regions inside, each before what it contains."""
    for value in region.ops:
        yield value
        if isinstance(value.attr, Loop | Skip):
            yield from walk(value.attr.region)


_UNIFORM = frozenset({"const", "param", "worker", "workers", "stream", "any", "all", "bcast", "same", "barrier"})


Fold: TypeAlias = "Callable[[Builder, str, tuple[Value, ...], str, Any], Value | None]"


class Builder:
    """Makes KIR: shares equal operations, folds, and moves what a loop does not change in front of it.

    fold: `qpu.lang.fold.fold`, or what else may find a value that an operation need not be made for.
    """

    __slots__ = ("_fold", "loc", "region", "top")

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self.top = Region(None)
        self.region = self.top
        self.loc: Loc | None = None

    def const(self, type_: str, bits: int | bool) -> Value:
        """A constant of that type by its bits; of a mask by its truth value."""
        key = ("const", type_, bits)
        found = self.top.known.get(key)
        if found is None:
            found = self.top.known[key] = Value("const", (), type_, bits, self.top, None, False)
            self.top.ops.append(found)
        return found

    def emit(self, op: str, *args: Value, type_: str = "", attr: Any = None) -> Value:
        """An operation in the current region, or an equal one that is there already.

        type_: result type where the row leaves it open and no operand decides.
        """
        row = ROWS[op]
        result = type_ or self._result(row, args)
        folded = self._fold(self, op, args, result, attr)
        if folded is not None:
            return folded
        if not row.pure:
            return self.append(op, args, result, attr)
        if row.commutes and len(args) == 2 and args[0].number > args[1].number and args[1].op != "const":
            args = (args[1], args[0])
        key = (op, *(a.number for a in args), attr, result)
        region: Region | None = self.region
        while region is not None:
            found = region.known.get(key)
            if found is not None:
                return found
            region = region.parent
        where = self.region
        while where.loop and where.parent is not None and not any(where.contains(a) for a in args):
            where = where.parent
        made = Value(op, args, result, attr, where, self.loc, self.varies(op, args))
        where.known[key] = made
        if where is not self.region:
            self._hoist(where, made)
        else:
            where.ops.append(made)
        return made

    def append(self, op: str, args: tuple[Value, ...], type_: str, attr: Any, *, varying: bool | None = None) -> Value:
        """An operation at the end of the current region, never shared."""
        varies = self.varies(op, args) if varying is None else varying
        made = Value(op, args, type_, attr, self.region, self.loc, varies)
        self.region.ops.append(made)
        return made

    def parameter(self, region: Region, type_: str, varying: bool) -> Value:
        """A further carried value of a loop's region."""
        made = Value("parameter", (), type_, len(region.parameters), region, self.loc, varying)
        region.parameters.append(made)
        return made

    def result(self, of: Value, type_: str, varying: bool) -> Value:
        """A further result of a loop or if_any."""
        attr = of.attr
        assert isinstance(attr, Loop | Skip)
        made = Value("result", (of,), type_, len(attr.results), of.region, self.loc, varying)
        attr.results.append(made)
        return made

    @staticmethod
    def _result(row: Row, args: tuple[Value, ...]) -> str:
        if row.result not in ("n", "x"):
            return row.result
        for letter, value in zip(row.args, args, strict=False):
            if letter == row.result:
                return value.type
        raise ValueError(f"{row.name}: which type?")

    @staticmethod
    def varies(op: str, args: tuple[Value, ...]) -> bool:
        """Whether the result of an operation may differ between lanes."""
        if op == "lane":
            return True
        if op in _UNIFORM:
            return False
        return any(a.varying for a in args)

    @staticmethod
    def _hoist(where: Region, made: Value) -> None:
        where.ops.append(made)
