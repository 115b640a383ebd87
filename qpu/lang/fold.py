"""Folding while KIR is made: constants, identities that change no result, and one form for affine addresses.

What is not folded on purpose: x + 0.0 and x * 0.0 (signed zeros, NaN), and special functions (the hardware's bits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from qpu.core.scalar_lanes import ScalarLanes
from qpu.lang.kir import COMPARE, ROWS, Builder, Loop, Value

__all__ = ["evaluate", "fold"]

_LANES: Final = ScalarLanes()
_HARDWARE: Final = frozenset({"recip", "rsqrt", "exp2", "log2", "sinpi"})
_ONES: Final = 0xFFFFFFFF
_ONE: Final = 0x3F800000
_MINUS_ONE: Final = 0xBF800000
_TWO: Final = 0x40000000
_UNIFORM_IS_ENOUGH: Final = frozenset({"any", "all", "rot", "rotv", "bcast", "shuffle"})
_INVERSE: Final = {"eq": "ne", "ne": "eq"}


def evaluate(op: str, type_: str, operands: list[int | bool], attr: Any) -> int | bool | None:
    """The result of a pure operation on constants, by its row; None for what only hardware knows."""
    if op in COMPARE:
        return bool(COMPARE[op][attr](_LANES, *operands))
    if op in ("div", "mod"):
        a, b = operands
        if not b:
            return None
        if type_ == "i":
            a, b = (x - (1 << 32) if x >> 31 else x for x in (a, b))
        return (a // b if op == "div" else a % b) & _ONES
    sem = ROWS[op].sem
    if sem is None or op in _HARDWARE:
        return None
    result = sem(_LANES, *operands)
    return result if isinstance(result, bool) else int(result) & _ONES


def fold(q: Builder, op: str, args: tuple[Value, ...], type_: str, attr: Any) -> Value | None:
    """A value that the operation need not be made for, or None."""
    if not args or not ROWS[op].pure:
        return None
    if all(a.op == "const" for a in args):
        found = evaluate(op, type_, [a.attr for a in args], attr)
        if found is not None:
            return q.const(type_, found)
    if op in _UNIFORM_IS_ENOUGH and not args[0].varying:
        return args[0]
    rule = _RULES.get(op)
    return None if rule is None else rule(q, args, type_)


def _bits(value: Value) -> int | None:
    return value.constant


def _add(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a, b = args
    if a.op == "const":  # constants stand second
        return q.emit("add", b, a)
    n = _bits(b)
    if n == 0:
        return a
    if n is not None and a.op == "add" and (inner := _bits(a.args[1])) is not None:
        return q.emit("add", a.args[0], q.const(type_, inner + n & _ONES))
    return None


def _sub(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a, b = args
    n = _bits(b)
    if n is not None:
        return q.emit("add", a, q.const(type_, -n & _ONES))
    if a is b:
        return q.const(type_, 0)
    return None


def _mul(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a, b = args
    if a.op == "const":
        return q.emit("mul", b, a)
    n = _bits(b)
    if n == 0:
        return b
    if n == 1:
        return a
    if n == _ONES:
        return q.emit("sub", q.const(type_, 0), a)
    if n is not None and n & (n - 1) == 0:
        return q.emit("shl", a, q.const("u", n.bit_length() - 1))
    return None


def _logic(neutral: int, absorbing: int | None, same: int | None) -> Callable[..., Value | None]:
    """Folding of and, or, xor. same: what op(x, x) is, None for x itself."""

    def rule(name: str, q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
        a, b = args
        if a.op == "const":
            return q.emit(name, b, a)
        n = _bits(b)
        if n == neutral:
            return a
        if n is not None and n == absorbing:
            return b
        if a is b:
            return a if same is None else q.const(type_, same)
        return None

    return rule


def _named(name: str, rule: Callable[..., Value | None]) -> Callable[..., Value | None]:
    return lambda q, args, type_: rule(name, q, args, type_)


def _shift(name: str, q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a, b = args
    n = _bits(b)
    if n is None:
        return None
    if n & 31 == 0:
        return a
    if n > 31:
        return q.emit(name, a, q.const("u", n & 31))
    inner = _bits(a.args[1]) if a.op == name else None
    if inner is not None and name != "ror":
        if inner + n < 32:
            return q.emit(name, a.args[0], q.const("u", inner + n))
        return q.emit("asr", a.args[0], q.const("u", 31)) if name == "asr" else q.const(type_, 0)
    return None


def _fmul(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a, b = args
    if a.op == "const":
        return q.emit("fmul", b, a)
    n = _bits(b)
    if n == _ONE:
        return a
    if n == _TWO:  # exact on every chip
        return q.emit("fadd", a, a)
    if n == _MINUS_ONE:
        return q.emit("fneg", a)
    return None


def _same(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    return args[0] if args[0] is args[1] else None


def _twice(name: str, q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    """not(not(x)), fneg(fneg(x))."""
    return args[0].args[0] if args[0].op == name else None


def _fabs(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a = args[0]
    if a.op == "fabs":
        return a
    return q.emit("fabs", a.args[0]) if a.op == "fneg" else None


def _bitcast(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a = args[0]
    if a.type == type_:
        return a
    return q.emit("bitcast", a.args[0], type_=type_) if a.op == "bitcast" else None


def _bnot(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a = args[0]
    if a.op == "bnot":
        return a.args[0]
    if a.op in _INVERSE:
        return q.emit(_INVERSE[a.op], *a.args, type_="b", attr=a.attr)
    if a.op in ("lt", "le") and a.attr != "f":  # with a NaN both a < b and b <= a are false
        return q.emit("le" if a.op == "lt" else "lt", a.args[1], a.args[0], type_="b", attr=a.attr)
    return None


def _masks(name: str, q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    a, b = args
    absorbing = name == "bor"
    for one, other in ((a, b), (b, a)):
        if one.op == "const":
            return one if bool(one.attr) is absorbing else other
        if one.op == "bnot" and one.args[0] is other:
            return q.const("b", absorbing)
    if a is b:
        return a
    for one, other in ((a, b), (b, a)):  # a and (a and c); a or (a or c); a and (a or c)
        if one.op == name and other in one.args:
            return one
        if one.op in ("band", "bor") and one.op != name and other in one.args:
            return other
    return None


def _select(q: Builder, args: tuple[Value, ...], type_: str) -> Value | None:
    mask, a, b = args
    if mask.op == "const":
        return a if mask.attr else b
    if a is b:
        return a
    if a.type == "b":  # flags are not chosen by flags
        return q.emit("bor", q.emit("band", mask, a), q.emit("band", q.emit("bnot", mask), b))
    if mask.op == "bnot":
        return q.emit("select", mask.args[0], b, a)
    if b.op == "select" and b.args[0] is mask:
        return q.emit("select", mask, a, b.args[2])
    if a.op == "select" and a.args[0] is mask:
        return q.emit("select", mask, a.args[1], b)
    return a if _kept(a, mask, b, 8) else None


def _kept(v: Value, mask: Value, old: Value, depth: int) -> bool:
    """Whether `v` is `old` in all lanes outside the mask: everything that made it was under the mask, too."""
    if v is old:
        return True
    if not depth:
        return False
    if v.op == "select":
        test, new, other = v.args
        return _kept(other, mask, old, depth - 1) and (_implies(test, mask) or _kept(new, mask, old, depth - 1))
    if v.op != "result":
        return False
    (of,) = v.args
    before, after = of.args[1 + v.attr], of.attr.yields[v.attr]
    if not _kept(before, mask, old, depth - 1):
        return False
    if isinstance(of.attr, Loop):
        return _kept(after, mask, of.attr.region.parameters[v.attr], depth - 1)
    return _kept(after, mask, old, depth - 1) or _kept(after, mask, before, depth - 1)


def _implies(test: Value, mask: Value) -> bool:
    """Whether a lane of one mask is one of the other."""
    return test is mask or (test.op == "band" and any(_implies(x, mask) for x in test.args))


_RULES: Final[dict[str, Callable[..., Value | None]]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "and": _named("and", _logic(_ONES, 0, None)),
    "or": _named("or", _logic(0, _ONES, None)),
    "xor": _named("xor", _logic(0, None, 0)),
    **{name: _named(name, _shift) for name in ("shl", "shr", "asr", "ror")},
    "not": _named("not", _twice),
    "fneg": _named("fneg", _twice),
    "fmul": _fmul,
    **dict.fromkeys(("fmin", "fmax", "min", "max", "umin", "umax"), _same),
    "fabs": _fabs,
    "bitcast": _bitcast,
    "bnot": _bnot,
    "band": _named("band", _masks),
    "bor": _named("bor", _masks),
    "select": _select,
}
