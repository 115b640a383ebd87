"""What a launch knows of a kernel's accesses: ranges of affine indices, as expressions that the host evaluates.

The front end notes, for each access that certainly happens, its index on each axis as a sum of items, loop counters,
lane and worker, each times a number that the launch knows. The extremes of such a sum are reached, so an index outside
of the array is certain as well, and the launch is refused. A sum may contain parts made of others (quotients, shifts,
remainders, minima and maxima, products) whose extremes are reached, too, as long as no two parts depend on the same
item. Everything else is left alone, or clamped (`check=True`), as is a sum that does not fit 32 bits and wraps.

An access of no array stands for the step of a range: its index, step - 1, must not be negative.
An expression is an integer, the name of a launch value ("x.shape0", "n", or `WORKERS`), or [operation, operand, ...].
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from qpu.errors import Loc
from qpu.lang.kir import Region, Value
from qpu.lang.values import Index

__all__ = ["WORKERS", "Access", "Expr", "Ranges", "Term", "evaluator", "host", "room_of_workers"]

Expr: TypeAlias = "int | str | list[Any]"
WORKERS: Final = "%workers"
"""How many workers run; no parameter of a kernel can have that name, nor that of other values of the launch itself."""


def _signed(x: int) -> int:
    return (x & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _unsigned(x: int) -> int:
    return x & 0xFFFFFFFF


_OPERATIONS: Final[dict[str, Callable[..., int]]] = {
    "i.add": lambda a, b: _signed(a + b),
    "i.sub": lambda a, b: _signed(a - b),
    "i.mul": lambda a, b: _signed(a * b),
    "i.and": lambda a, b: a & b,
    "i.or": lambda a, b: a | b,
    "i.xor": lambda a, b: a ^ b,
    "i.not": lambda a: ~a,
    "i.min": min,
    "i.max": max,
    "i.shl": lambda a, b: _signed(a << (b & 31)),
    "i.asr": lambda a, b: a >> (b & 31),
    "i.shr": lambda a, b: _signed(_unsigned(a) >> (b & 31)),
    "i.div": lambda a, b: a // b if b else 0,
    "i.mod": lambda a, b: a % b if b else 0,
    "i.cast": _signed,
    "u.add": lambda a, b: _unsigned(a + b),
    "u.sub": lambda a, b: _unsigned(a - b),
    "u.mul": lambda a, b: _unsigned(a * b),
    "u.and": lambda a, b: a & b,
    "u.or": lambda a, b: a | b,
    "u.xor": lambda a, b: a ^ b,
    "u.not": lambda a: _unsigned(~a),
    "u.umin": min,
    "u.umax": max,
    "u.shl": lambda a, b: _unsigned(a << (b & 31)),
    "u.shr": lambda a, b: a >> (b & 31),
    "u.asr": lambda a, b: _unsigned(_signed(a) >> (b & 31)),
    "u.div": lambda a, b: a // b if b else 0,
    "u.mod": lambda a, b: a % b if b else 0,
    "u.cast": _unsigned,
    # of the sums: exact
    "sum": lambda *parts: sum(parts),
    "times": lambda a, b: a * b,
    "low": lambda low, high, factor: factor * (low if factor >= 0 else high - 1),
    "high": lambda low, high, factor: factor * (high - 1 if factor >= 0 else low),
    "least": lambda a, b, c, d: min(a * c, a * d, b * c, b * d),
    "most": lambda a, b, c, d: max(a * c, a * d, b * c, b * d),
    "over": lambda a, b: a // b if b > 0 else 0,
    "shifted": lambda a, b: a >> (b & 31),
    "smaller": min,
    "larger": max,
    # of a % m where a runs over low..high, all of them
    "rest_low": lambda low, high, m: low % m if m > 0 and low // m == high // m else 0,
    "rest_high": lambda low, high, m: 0 if m <= 0 else high % m if low // m == high // m else m - 1,
    "empty": lambda *pairs: int(any(a >= b for a, b in zip(pairs[::2], pairs[1::2], strict=True))),
}


def evaluator(expressions: Sequence[Expr]) -> Callable[[Mapping[str, int]], tuple[int, ...]]:
    """A function that evaluates expressions for the values of a launch. Raises: KeyError for an unknown operation."""
    functions: list[Callable[..., int]] = []

    def text(e: Expr) -> str:
        if isinstance(e, int):
            return str(int(e))
        if isinstance(e, str):
            return f"v[{e!r}]"
        functions.append(_OPERATIONS[e[0]])
        name = f"f[{len(functions) - 1}]"
        return f"{name}({', '.join(text(x) for x in e[1:])})"

    body = "".join(f"{text(e)}, " for e in expressions)
    made: Callable[[Mapping[str, int]], tuple[int, ...]] = eval(f"lambda v: ({body})", {"f": functions})
    return made


def host(v: Value) -> Expr | None:
    """A value as an expression of launch values; None where it depends on more than those."""
    if v.op == "const":
        return _signed(v.attr) if v.type == "i" else int(v.attr)
    if v.op == "param":
        return str(v.attr) if v.type in ("i", "u") else None
    if v.op == "workers":
        return WORKERS
    if v.op == "same":
        return host(v.args[0])
    name = f"{v.type}.{'cast' if v.op == 'bitcast' else v.op}"
    if name not in _OPERATIONS or any(a.type not in ("i", "u") for a in v.args):
        return None
    parts = [host(a) for a in v.args]
    return None if any(p is None for p in parts) else [name, *parts]


# -- sums


def _adds(total: Value, a: Value, b: Value) -> bool:
    """Whether `total` is a + b."""
    if total is a:
        return b.constant == 0
    return any(x is b or (x.op == "const" == b.op and x.attr == b.attr) for x in total.args if x is not a)


@dataclass(frozen=True, slots=True)
class Term:
    """A number whose least value is low and whose greatest is high - 1. high: at least low + 1 in a launch that does
    anything. whole: it runs over all of them; of: the terms that it is made of, by id (empty: none but itself).
    """

    low: Expr
    high: Expr
    whole: bool = True
    of: frozenset[int] = frozenset()

    @property
    def roots(self) -> frozenset[int]:
        """The terms that decide it."""
        return self.of or frozenset({id(self)})


@dataclass(slots=True)
class _Sum:
    """terms times their factors, plus a constant. needs (low, high): it is so where each low is below its high."""

    terms: list[tuple[Term, Expr]]
    constant: Expr
    needs: tuple[tuple[Expr, Expr], ...] = ()

    @property
    def low(self) -> Expr:
        """Its least value."""
        return _extreme("low", self)

    @property
    def high(self) -> Expr:
        """Its greatest value."""
        return _extreme("high", self)

    @property
    def roots(self) -> frozenset[int]:
        """The terms that decide it."""
        return frozenset().union(*(t.roots for t, _ in self.terms))

    @property
    def fits(self) -> tuple[tuple[Expr, Expr], ...]:
        """What is needed for it not to wrap."""
        return *self.needs, (_LEAST - 1, self.low), (self.high, -_LEAST)

    def plus(self, other: _Sum) -> _Sum | None:
        terms = list(self.terms)
        for a, _ in self.terms:
            if any(b is not a and a.roots & b.roots for b, _ in other.terms):
                return None  # they do not reach their extremes together
        for term, factor in other.terms:
            at = next((i for i, (t, _) in enumerate(terms) if t is term), None)
            if at is None:
                terms.append((term, factor))
            else:
                terms[at] = (term, _sum(terms[at][1], factor))
        return _Sum(terms, _sum(self.constant, other.constant), (*self.needs, *other.needs))

    def times(self, factor: Expr) -> _Sum:
        terms = [(t, _product(f, factor)) for t, f in self.terms]
        return _Sum(terms, _product(self.constant, factor), self.needs)


_LEAST: Final = -(1 << 31)


def _extreme(which: str, of: _Sum) -> Expr:
    return of.constant if not of.terms else ["sum", of.constant, *([which, t.low, t.high, f] for t, f in of.terms)]


def _part(low: Expr, high: Expr, whole: bool, *of: _Sum) -> _Sum:
    """A sum of one term that others make."""
    roots = frozenset().union(*(x.roots for x in of))
    needs = tuple(pair for x in of for pair in x.fits)
    return _Sum([(Term(low, _sum(high, 1), whole, roots), 1)], 0, needs)


def _sum(a: Expr, b: Expr) -> Expr:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 else a if b == 0 else ["sum", a, b]


def _product(a: Expr, b: Expr) -> Expr:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 0 or b == 0:
        return 0
    return b if a == 1 else a if b == 1 else ["times", a, b]


@dataclass(frozen=True, slots=True)
class Access:
    """An index of an access that certainly happens. array: parameter name; axis; terms (low, high, factor) and
    constant: their sum is the index. guards (low, high): loops around it; it happens where none is empty. text: as
    written; store: whether it writes.
    """

    array: str
    axis: int
    terms: tuple[tuple[Expr, Expr, Expr], ...]
    constant: Expr
    guards: tuple[tuple[Expr, Expr], ...]
    text: str
    loc: Loc | None
    store: bool

    def row(self) -> list[Any]:
        """Lists and numbers that stand for it, but for its place; `of` reads them."""
        terms, guards = [list(t) for t in self.terms], [list(g) for g in self.guards]
        return [self.array, self.axis, terms, self.constant, guards, self.text, self.store]

    @classmethod
    def of(cls, row: Sequence[Any], loc: Loc | None) -> Access:
        """The access that `row` made."""
        array, axis, terms, constant, guards, text, store = row
        return cls(array, axis, tuple((a, b, c) for a, b, c in terms), constant, tuple((a, b) for a, b in guards), text,
                   loc, store)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is evaluated for the items or turns of one loop. sure: it happens for each of them."""

    region: Region
    mask: Value | None
    sure: bool
    guards: tuple[tuple[Expr, Expr], ...]


class Ranges:
    """What the front end knows of items and counters while it evaluates a kernel. accesses: found so far; extent: of a
    Grid, once it is known.
    """

    def __init__(self, top: Region) -> None:
        self.accesses: list[Access] = []
        self.extent: list[Expr] | None = None
        self._scopes = [_Scope(top, None, True, ())]
        self._terms: dict[int, tuple[Value, Term, int]] = {}  # by value: its term, and what to add
        self._offsets: dict[int, tuple[Index, Term, int]] = {}  # by the offset that items are counted by
        self._known: dict[tuple[str, str, int], Term] = {}
        self._lane, self._worker = Term(0, 16), Term(0, WORKERS)
        self._seen: set[Any] = set()
        self._parts: dict[int, tuple[Value, _Sum | None]] = {}  # by value

    @contextmanager
    def items(
        self, at: Sequence[Any], extent: Sequence[Value], region: Region, mask: Value | None, *, grid: bool
    ) -> Iterator[None]:
        """Evaluate an item whose indices are `at`, one an axis; they run over the extent."""
        self._parts = {}  # of the copy of an item before this one, which the same values may tell
        before = self._scopes[-1]
        sure = before.sure and (grid or (region.parent is before.region and mask is before.mask))
        guards = []
        for axis, (index, n) in enumerate(zip(at, extent, strict=True)):
            size = host(n)
            if size is None:
                sure = False
                continue
            term = self._term(0, size, axis)
            guards.append((term.low, term.high))
            if isinstance(index, Index):
                self._offsets[id(index.off)] = (index, term, -index.plus)
            elif isinstance(index, Value):
                self._terms[id(index)] = (index, term, 0)
        yield from self._within(_Scope(region, mask, sure, (*before.guards, *guards)))

    @contextmanager
    def counter(
        self, at: Value, start: Value, stop: Value, step: int, region: Region, mask: Value | None
    ) -> Iterator[None]:
        """Evaluate a turn of a loop whose counter `at` runs over range(start, stop, step)."""
        before = self._scopes[-1]
        low, high = host(start), host(stop)
        if low is None or high is None or abs(step) != 1:
            yield
            return
        term = self._term(low, high, 0) if step > 0 else self._term(_sum(high, 1), _sum(low, 1), 0)
        self._terms[id(at)] = (at, term, 0)
        sure = before.sure and region.parent is before.region and mask is before.mask
        yield from self._within(_Scope(region, mask, sure, (*before.guards, (term.low, term.high))))

    def positive(self, step: Value, node: ast.AST, loc: Loc | None) -> None:
        """Note that a step must be positive, as an access of nothing."""
        scope, expression = self._scopes[-1], host(step)
        if expression is not None and scope.sure:
            text = ast.unparse(node)
            self.accesses.append(Access("", 0, (), _sum(expression, -1), scope.guards, text, loc, False))

    def _within(self, scope: _Scope) -> Iterator[None]:
        self._scopes.append(scope)
        try:
            yield
        finally:
            self._scopes.pop()

    def _term(self, low: Expr, high: Expr, axis: int) -> Term:
        return self._known.setdefault((str(low), str(high), axis), Term(low, high))

    def note(
        self, array: str, keys: Sequence[Any], region: Region, mask: Value | None, node: ast.AST, loc: Loc | None,
        store: bool,
    ) -> bool:  # fmt: skip
        """Note an access; whether every one of its indices is known and checked."""
        scope = self._scopes[-1]
        if not scope.sure or region is not scope.region or mask is not scope.mask:
            return False
        whole = True
        for axis, key in enumerate(keys):
            found = self._of(key)
            if found is None:
                whole = False
                continue
            whole &= not found.needs
            terms, guards = tuple((t.low, t.high, f) for t, f in found.terms), (*scope.guards, *found.needs)
            seen = (array, axis, str(terms), str(found.constant), str(guards), store)
            if seen not in self._seen:
                self._seen.add(seen)
                text = ast.unparse(node)
                self.accesses.append(Access(array, axis, terms, found.constant, guards, text, loc, store))
        return whole

    def _of(self, key: Any) -> _Sum | None:
        if isinstance(key, int):
            return _Sum([], int(key))
        if isinstance(key, Index):
            item = self._offsets.get(id(key.off))
            return None if item is None else _Sum([(item[1], 1)], item[2] + key.plus)
        return self._value(key) if isinstance(key, Value) else None

    def _value(self, v: Value) -> _Sum | None:
        known = self._terms.get(id(v))
        if known is not None:
            return _Sum([(known[1], 1)], known[2])
        if v.op in ("lane", "worker"):
            return _Sum([(self._lane if v.op == "lane" else self._worker, 1)], 0)
        if v.op in ("bitcast", "same"):
            return self._value(v.args[0])
        by = (v.args[1].constant or 0) - 2 if v.op == "asr" else -1
        if by >= 0:  # an item's index made from its offset
            inner = v.args[0]
            for part in inner.args if inner.op == "add" else (inner,):
                item = self._offsets.get(id(part))
                if item is not None and _adds(inner, part, item[0].limit):
                    found = _Sum([(item[1], 1)], item[2])
                    return self._made(v, lambda found=found: _quotient("shifted", found, by) if by else found)  # type: ignore[misc]  # a lambda's default
        expression = host(v)
        if expression is not None:
            return _Sum([], expression)
        if v.op in ("add", "sub"):
            a, b = (self._value(x) for x in v.args)
            return None if a is None or b is None else a.plus(b if v.op == "add" else b.times(-1))
        if v.op in ("mul", "shl"):
            for x, y in ((v.args[0], v.args[1]), (v.args[1], v.args[0]))[: 1 if v.op == "shl" else 2]:
                a, factor = self._value(x), host(y)
                if a is not None and factor is not None:
                    return a.times(["i.shl", 1, factor] if v.op == "shl" else factor)
        return self._made(v, lambda: self._monotone(v)) if v.type == "i" else None

    def _made(self, v: Value, make: Callable[[], _Sum | None]) -> _Sum | None:
        """What a value is made of, once, so that the same value is the same term."""
        if id(v) not in self._parts:
            self._parts[id(v)] = v, make()
        return self._parts[id(v)][1]

    def _monotone(self, v: Value) -> _Sum | None:
        """A value that reaches its extremes where those it is made of do."""
        if len(v.args) != 2 or any(x.type not in ("i", "u") for x in v.args):
            return None
        a, by = self._value(v.args[0]), host(v.args[1])
        if v.op in ("div", "asr") and a is not None and by is not None:
            return _quotient("over" if v.op == "div" else "shifted", a, by)
        bits = v.args[1].constant if v.op == "and" else None
        if a is not None and (v.op == "mod" or (bits is not None and not bits & bits + 1)):
            m = by if v.op == "mod" else _sum(_signed(bits or 0), 1)
            if m is None or not _runs(a):
                return None
            found = _part(["rest_low", a.low, a.high, m], ["rest_high", a.low, a.high, m], True, a)
            found.needs = (*found.needs, (0, m))
            return found
        b = self._value(v.args[1])
        if a is None or b is None or a.roots & b.roots:
            return None
        if v.op == "mul":
            ends = a.low, a.high, b.low, b.high
            return _part(["least", *ends], ["most", *ends], False, a, b)
        if v.op in ("min", "max"):
            op = "smaller" if v.op == "min" else "larger"
            return _part([op, a.low, b.low], [op, a.high, b.high], False, a, b)
        return None


def _quotient(op: str, a: _Sum, by: Expr) -> _Sum:
    """A sum divided by a positive number, or shifted."""
    found = _part([op, a.low, by], [op, a.high, by], _runs(a), a)
    if op == "over":
        found.needs = (*found.needs, (0, by))
    return found


def _runs(a: _Sum) -> bool:
    """Whether a sum takes every value between its extremes."""
    return all(t.whole and f in (1, -1) for t, f in a.terms)


def room_of_workers(accesses: Sequence[Access]) -> str | None:
    """The launch value that tells how many workers a Team has: the size of the first array to which each worker writes
    at its own number. None where there is no such array.
    """
    own = ((0, WORKERS, 1),)
    for a in accesses:
        if a.store and a.constant == 0 and not a.guards and a.terms == own:
            return f"{a.array}.shape{a.axis}"
    return None
