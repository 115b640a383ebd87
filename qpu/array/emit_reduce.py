"""Kernels of reductions, emitted as KIR: what is reduced is computed on the way, and what follows at the end.

Form "lanes": a worker takes the elements of one result after another, 16 lanes and four accumulators at once, and joins
the lanes by a tree. Form "columns": lanes hold neighbouring results, and run through the elements of each. Sums of
floats add blocks of 64 vectors, then the blocks: the error grows with the square root of the number of summands rather
than with it. What is summed in which order depends on shapes alone, not on the number of QPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from qpu.array.dtypes import BY_NAME, Kind, kind_of
from qpu.array.emit import FIXED, LANES, PER_ROW, Emitter, Group
from qpu.array.operations import OPERATIONS
from qpu.array.values import Complex, Operand
from qpu.lang.compile import KernelIR
from qpu.lang.kir import Value
from qpu.lang.values import Index

__all__ = ["reduction"]

BLOCK: Final = 64  # vectors that are added before their sum is
State = list[Value]


class Reducer(Emitter):
    """One evaluation of a group with a reduction."""

    def __init__(self, group: Group, isa: str, coarsen: int, layout: str) -> None:
        super().__init__(group, isa, coarsen, layout)
        reduction = group.reduction
        assert reduction is not None
        self.how = reduction
        self.at = next(n for n, s in enumerate(group.steps) if s.op == "reduce")
        self.first = len(group.leaves) + len(group.scalars)
        self.operands = group.steps[self.at].args
        self.kind: Kind = kind_of(BY_NAME[self.dtype(self.operands[0])])
        self.n = self.param("n")
        self.turns_ = self.param("turns") if reduction.outer else self.q.const("i", 1)

    # -- what is joined

    def identity(self) -> State:
        """What changes nothing."""
        q, kind, op = self.q, self.kind, self.how.op
        if op == "sum":
            return [q.const("f", 0)] * 2 if kind.letter == "c" else [q.const(kind.letter, 0)]
        if op == "prod":
            one = q.const("f", 0x3F800000)
            if kind.letter == "c":
                return [one, q.const("f", 0)]
            return [one if kind.letter == "f" else q.const(kind.letter, 1)]
        if op in ("any", "all"):
            return [q.const("i", int(op == "all"))]
        low = op in ("max", "argmax")  # the identity of a maximum is the smallest value
        if kind.letter == "f":
            worst = q.const("f", 0xFF800000 if low else 0x7F800000)
        elif kind.letter == "u":
            worst = q.const("u", 0 if low else 0xFFFFFFFF)
        else:
            worst = q.const("i", 0x80000000 if low else 0x7FFFFFFF)
        return [worst, q.const("i", 0x7FFFFFFF)] if op.startswith("arg") else [worst]

    def state(self, v: Operand, index: Value | None) -> State:
        """One element."""
        if isinstance(v, Complex):
            return [v.real, v.imag]
        if self.kind.letter == "b":
            q = self.q
            return [q.emit("select", v, q.const("i", 1), q.const("i", 0))]
        return [v] if index is None else [v, index]

    def join(self, a: State, b: State) -> State:
        """Two states as one."""
        q, kind, op = self.q, self.kind, self.how.op
        if op == "sum":
            return [q.emit("fadd" if x.type == "f" else "add", x, y) for x, y in zip(a, b, strict=True)]
        if op == "prod":
            row = OPERATIONS["multiply"]
            if kind.letter == "c":
                return list(row.emit(self, kind, Complex(*a), Complex(*b)))  # type: ignore[arg-type]  # a pair
            return [q.emit("fmul" if kind.letter == "f" else "mul", a[0], b[0])]
        if op in ("any", "all"):
            return [q.emit("or" if op == "any" else "and", a[0], b[0])]
        if op in ("min", "max"):
            return [self.extreme(op, kind, a[0], b[0])]
        t = a[0].type
        x, y = (b[0], a[0]) if op == "argmin" else (a[0], b[0])
        better = q.emit("lt", x, y, type_="b", attr=t)  # b is better
        same = q.emit("eq", x, y, type_="b", attr=t)
        before = q.emit("lt", b[1], a[1], type_="b", attr="i")
        take = q.emit("bor", better, q.emit("band", same, before))
        if t == "f" and self.isa != "vc4":  # the first NaN is the result, as NumPy has it
            nan_a, nan_b = (q.emit("ne", v, v, type_="b", attr="f") for v in (a[0], b[0]))
            only = q.emit("band", nan_b, q.emit("bnot", nan_a))
            both = q.emit("band", q.emit("band", nan_a, nan_b), before)
            rest = q.emit("band", take, q.emit("bnot", nan_a))
            take = q.emit("bor", q.emit("bor", only, both), rest)
        return [q.emit("select", take, v, u) for u, v in zip(a, b, strict=True)]

    def lanes(self, s: State) -> State:
        """The 16 lanes joined, 8, 4, 2, 1 apart."""
        for distance in (8, 4, 2, 1):
            s = self.join(s, [self.q.emit("rot", v, attr=distance) if v.varying else v for v in s])
        return s

    def finished(self, s: State) -> Operand:
        """The value of a state."""
        if self.kind.letter == "c":
            return Complex(*s)
        if self.kind.letter == "b":
            return self.q.emit("ne", s[0], self.q.const("i", 0), type_="b", attr="i")
        return s[-1]

    @property
    def blocked(self) -> bool:
        """Whether sums of blocks are summed."""
        return self.how.op == "sum" and self.kind.letter in "fc"

    # -- elements

    def element(self, ix: Index, bases: Sequence[Value], loaded: dict[int, Operand], index: Value | None) -> State:
        """The state of the element at an index."""
        group = self.group
        values: list[Operand | None] = [loaded.get(k) for k in range(len(group.leaves))]
        values += [*self.scalars, *[None] * len(group.steps)]
        for k, leaf in enumerate(group.leaves):
            if values[k] is None and not leaf.after:
                size = kind_of(BY_NAME[leaf.dtype]).size
                base, off, plus = self.place(k, leaf.moves, size, bases[k], ix, tuple, ())
                values[k] = self.load(k, off, base, plus)
        self.run(values, 0, self.at)
        v = values[self.operands[0]]
        assert v is not None
        if len(self.operands) > 1:
            given = values[self.operands[1]]
            assert isinstance(given, Value)
            index = given
        return self.state(v, index if self.how.op.startswith("arg") else None)

    def moved(self, bases: Sequence[Value], names: str, by: Value | Sequence[Value]) -> list[Value]:
        """Bases that many steps further along axes; names: of the strides."""
        q = self.q
        steps = [by] if isinstance(by, Value) else by
        found = list(bases)
        for k, leaf in enumerate(self.group.leaves):
            if leaf.after or leaf.moves == FIXED:
                continue
            for axis, index in enumerate(steps):
                stride = self.param(f"x{k}.{names}{axis}")
                found[k] = q.emit("add", found[k], q.emit("bitcast", q.emit("mul", index, stride), type_="u"))
        return found

    def outer(self, t: Value) -> list[Value]:
        """The index on each outer reduced axis."""
        return self.apart(t, [self.param(f"r{k}") for k in range(self.how.outer)])

    def counted(
        self, start: Value, stop: Value, states: Sequence[State], body: Callable[[Value, list[State]], list[State]]
    ) -> list[State]:
        """body(t, states) for t from start to stop."""
        q = self.q
        one, width = q.const("i", 1), len(states[0])

        def going(c: Sequence[Value], stop: Value = stop) -> Value:
            return q.emit("lt", c[0], stop, type_="b", attr="i")

        def turn(c: Sequence[Value]) -> Sequence[Value]:
            found = body(c[0], _apart(c[1:], width))
            return [q.emit("add", c[0], one), *_flat(found)]

        if not self.blocked:
            flat = _flat(states)
            return _apart(self.loop([start, *flat], [False] + [True] * len(flat), going, turn)[1:], width)

        def block(c: Sequence[Value]) -> Sequence[Value]:
            end = q.emit("min", q.emit("add", c[0], q.const("i", BLOCK)), stop)
            zero = _flat([self.identity() for _ in states])
            inner = self.loop([c[0], *zero], [False] + [True] * len(zero), lambda x: going(x, end), turn)
            sums = [self.join(a, b) for a, b in zip(_apart(c[1:], width), _apart(inner[1:], width), strict=True)]
            return [inner[0], *_flat(sums)]

        flat = _flat(states)
        return _apart(self.loop([start, *flat], [False] + [True] * len(flat), going, block)[1:], width)

    # -- form "lanes"

    def run_lanes(self, n: Value, first: Value, bases: Sequence[Value], states: list[State]) -> list[State]:
        """n elements of the last axis joined to the states, one an item of a chunk. first: number of the first one."""
        q, coarsen = self.q, self.coarsen
        width = len(states[0])
        whole = q.emit("and", n, q.const("i", -(LANES * coarsen) & 0xFFFFFFFF))
        limit = q.emit("shl", whole, q.const("u", 2))
        lane = q.emit("lane")
        quad = self.layout == "quad"
        lanes = q.emit("shl", lane, q.const("u", 1 + (coarsen if quad else 1).bit_length()))
        step = q.const("i", LANES * coarsen * 4)
        loaded = dict(self.fixed)
        for k, leaf in enumerate(self.group.leaves):
            if not leaf.after and leaf.moves == PER_ROW:
                loaded[k] = self.load(k, q.const("i", 0), bases[k], 0)
        numbered = self.how.op.startswith("arg") and len(self.operands) == 1

        def one(ix: Index, s: State, mask: Value | None = None) -> State:
            index = q.emit("add", first, ix.value(q)) if numbered else None
            found = self.element(ix, bases, loaded, index)
            if mask is not None:
                found = [q.emit("select", mask, a, b) for a, b in zip(found, self.identity(), strict=True)]
            return self.join(s, found)

        def turn(c: Sequence[Value]) -> Sequence[Value]:
            now = _apart(c[1:], width)
            found = [one(Index(c[0], limit, u if quad else LANES * u), now[u]) for u in range(coarsen)]
            return [q.emit("add", c[0], step), *_flat(found)]

        def below(c: Sequence[Value], stop: Value) -> Value:
            return q.emit("any", q.emit("lt", c[0], stop, type_="b", attr="i"))

        start = q.emit("sub", lanes, limit)
        items = LANES * coarsen

        def block(c: Sequence[Value]) -> Sequence[Value]:
            size = q.const("i", BLOCK * LANES * coarsen * 4)
            stop = q.emit("min", q.emit("add", c[0], size), lanes)
            zero = _flat([self.identity() for _ in states])
            inner = self.loop([c[0], *zero], [True] * (1 + len(zero)), lambda x: below(x, stop), turn, items)
            sums = [self.join(a, b) for a, b in zip(_apart(c[1:], width), _apart(inner[1:], width), strict=True)]
            return [inner[0], *_flat(sums)]

        flat = _flat(states)
        body, count = (block, 0) if self.blocked else (turn, items)
        end = self.loop([start, *flat], [True] * (1 + len(flat)), lambda c: below(c, lanes), body, count)
        states = _apart(end[1:], width)
        left = q.emit("shl", q.emit("sub", n, whole), q.const("u", 2))
        found = []
        for u in range(coarsen):
            off = q.emit("shl", q.emit("add", lane, q.const("i", LANES * u)), q.const("u", 2))
            inside = q.emit("lt", off, left, type_="b", attr="i")
            before, self.mask = self.mask, inside
            found.append(one(Index(off, limit), states[u], inside))
            self.mask = before
        return found

    def by_lanes(self) -> None:
        """A row is one result."""
        q = self.q
        outer = self.how.outer

        def row(number: Value) -> None:
            part, at = self.row_of(number)
            bases = self.moved(self.bases, "t", at) if at else list(self.bases)
            states = [self.identity() for _ in range(self.coarsen)]
            if not outer:
                n, first = self.n, q.const("i", 0)
                if part is not None:
                    per = self.param("per")
                    first = q.emit("mul", part, per)
                    n = q.emit("min", per, q.emit("sub", n, first))
                    bases = self.moved(bases, "i", first)
                states = self.run_lanes(n, first, bases, states)
            else:
                start, stop = self.part_of(part)
                width = len(states[0])

                def turn(c: Sequence[Value]) -> Sequence[Value]:
                    there = self.moved(bases, "r", self.outer(c[0]))
                    first = q.emit("mul", c[0], self.n)
                    found = self.run_lanes(self.n, first, there, _apart(c[1:], width))
                    return [q.emit("add", c[0], q.const("i", 1)), *_flat(found)]

                flat = _flat(states)
                end = self.loop([start, *flat], [False] + [True] * len(flat),
                                lambda c: q.emit("lt", c[0], stop, type_="b", attr="i"), turn)  # fmt: skip
                states = _apart(end[1:], width)
            while len(states) > 1:
                states = [self.join(a, b) for a, b in zip(states[::2], states[1::2], strict=True)]
            self.mask = q.emit("eq", q.emit("lane"), q.const("i", 0), type_="b", attr="i")
            self.store_result(self.lanes(states[0]), number, None, at)
            self.mask = None

        self.count(q.emit("worker"), self.param("rows"), q.emit("workers"), row)

    # -- form "columns"

    def by_columns(self) -> None:
        """Lanes hold neighbouring results."""
        q = self.q

        def columns(number: Value | None) -> None:
            part, at = (None, []) if number is None else self.row_of(number)
            bases = self.moved(self.bases, "t", at) if at else list(self.bases)
            start, stop = self.part_of(part)

            def many(ixs: Sequence[Index]) -> None:
                def body(t: Value, states: list[State]) -> list[State]:
                    there = self.moved(bases, "r", self.outer(t))
                    loaded = dict(self.fixed)
                    for k, leaf in enumerate(self.group.leaves):
                        if not leaf.after and leaf.moves == PER_ROW:
                            loaded[k] = self.load(k, q.const("i", 0), there[k], 0)
                    index = t if self.how.op.startswith("arg") and len(self.operands) == 1 else None
                    found = [self.element(ix, there, loaded, index) for ix in ixs]
                    return [self.join(s, x) for s, x in zip(states, found, strict=True)]

                states = self.counted(start, stop, [self.identity() for _ in ixs], body)
                for ix, s in zip(ixs, states, strict=True):
                    self.store_result(s, number, ix, at)

            self.many(self.param("columns"), number is None, many)

        if self.how.rows:
            self.count(q.emit("worker"), self.param("rows"), q.emit("workers"), columns)
        else:
            columns(None)

    # -- rows, parts, results

    def row_of(self, number: Value) -> tuple[Value | None, list[Value]]:
        """The part of a row, None where it is whole, and its index on the kept outer axes."""
        q = self.q
        part: Value | None = None
        if self.how.parts:
            kept = self.param("kept")
            part = q.emit("div", number, kept)
            number = q.emit("sub", number, q.emit("mul", part, kept))
        extents = [self.param(f"d{k}") for k in range(self.how.kept)]
        return part, self.apart(number, extents)

    def part_of(self, part: Value | None) -> tuple[Value, Value]:
        """The outer reduced items of a part."""
        q = self.q
        if part is None:
            return q.const("i", 0), self.turns_
        per = self.param("per")
        start = q.emit("mul", part, per)
        return start, q.emit("min", q.emit("add", start, per), self.turns_)

    def store_result(self, s: State, number: Value | None, ix: Index | None, at: Sequence[Value]) -> None:
        """Compute what follows the reduction, and store. ix: the column, None where a row is one result."""
        q, group = self.q, self.group
        values: list[Operand | None] = [self.fixed.get(k) for k in range(len(group.leaves))]
        values += [*self.scalars, *[None] * len(group.steps)]
        values[self.first + self.at] = self.finished(s)
        zero = q.const("i", 0)
        for k, leaf in enumerate(group.leaves):
            if leaf.after and values[k] is None:
                base = self.at_row(k, at, leaf.outer)
                if ix is None:
                    values[k] = self.load(k, zero, base, 0)
                else:
                    size = kind_of(BY_NAME[leaf.dtype]).size
                    base, off, plus = self.place(k, leaf.moves, size, base, ix, tuple, ())
                    values[k] = self.load(k, off, base, plus)
        self.run(values, self.at + 1, len(group.steps))
        for k, out in enumerate(group.outputs, len(group.leaves)):
            kind = kind_of(BY_NAME[out.dtype])
            v = values[out.value]
            if out.value == self.first + self.at and self.how.op.startswith("arg") and k > len(group.leaves):
                v = s[0]  # of a part: the value beside its index
            assert v is not None
            base = self.bases[k]
            if number is not None:
                by = q.emit("mul", number, q.const("i", kind.size) if ix is None else self.param(f"{self.name(k)}.t"))
                base = q.emit("add", base, q.emit("bitcast", by, type_="u"))
            if ix is None:
                self.store(k, q.emit("shl", q.emit("lane"), q.const("u", kind.size.bit_length() - 1)), base, 0, v, kind)
                continue
            off, limit, plus = ix.scaled(q, kind.size)
            self.store(k, off, q.emit("add", base, q.emit("bitcast", limit, type_="u")), plus, v, kind)


def _flat(states: Sequence[State]) -> list[Value]:
    return [v for s in states for v in s]


def _apart(values: Sequence[Value], width: int) -> list[State]:
    return [list(values[n : n + width]) for n in range(0, len(values), width)]


def reduction(group: Group, isa: str, coarsen: int, layout: str) -> KernelIR:
    """The kernel of a group with a reduction."""
    m = Reducer(group, isa, coarsen, layout)
    assert group.reduction is not None
    if group.reduction.form == "lanes":
        m.by_lanes()
    else:
        m.by_columns()
    return m.finish("reduction")
