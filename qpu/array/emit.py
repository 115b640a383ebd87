"""Kernels of fused expressions, emitted directly as KIR: iteration spaces, loads, the steps of an expression, stores.

A `Group` says everything that the instructions depend on; addresses, extents, strides and Python numbers are launch
values. Forms of the iteration: "flat", one axis over all workers; "rows", workers take rows of the last axis; "index",
one axis whose index is taken apart for arrays that move differently. Reductions are in `qpu.array.reduce`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qpu.array.dtypes import BY_NAME, Kind, kind_of
from qpu.array.operations import OPERATIONS, converted, power_of
from qpu.array.values import Complex, Maker, Operand
from qpu.lang.compile import KernelIR, Parameter, tidied
from qpu.lang.front import Site
from qpu.lang.kir import Access, Region, Skip, Value
from qpu.lang.types import DTYPES
from qpu.lang.values import Index

__all__ = [
    "CONTIGUOUS",
    "FIXED",
    "INDEXED",
    "PER_ROW",
    "SOURCE",
    "STRIDED",
    "Emitter",
    "Group",
    "Leaf",
    "Output",
    "Reduction",
    "Step",
    "elementwise",
]

LANES = 16
FIXED, PER_ROW, CONTIGUOUS, STRIDED, INDEXED, SOURCE = range(6)
"""How an array moves along the last axis: not at all, and not with the rows either; not at all; by one element; by a
stride; by its own index (form "index"); as a step says that computes an index."""


class Leaf(NamedTuple):
    """An array that is read. dtype: its name; moves: along the last axis; outer: along which outer axes; after: it is
    read where the result of a reduction is, not where its operands are.
    """

    dtype: str
    moves: int
    outer: tuple[bool, ...]
    after: bool = False


class Step(NamedTuple):
    """One operation. args: numbers of values: the leaves come first, then the scalars, then the steps."""

    op: str
    args: tuple[int, ...]
    dtype: str
    attr: Any = None


class Output(NamedTuple):
    """An array that is written: which value, as what, and how it moves. at: the value that is the index (SOURCE); only:
    the value that says where, -1 everywhere.
    """

    value: int
    dtype: str
    moves: int
    outer: tuple[bool, ...]
    at: int = -1
    only: int = -1


class Reduction(NamedTuple):
    """How the step "reduce" joins elements. form: "lanes" or "columns"; outer: how many reduced axes the turns have;
    kept: how many axes the rows run over; parts: the elements of a result are cut into parts; rows: workers take rows.
    """

    op: str
    form: str
    outer: int
    kept: int
    parts: bool
    rows: bool


class Group(NamedTuple):
    """What one kernel computes. form: of the iteration; axes: how many; scalars: their dtypes."""

    form: str
    axes: int
    leaves: tuple[Leaf, ...]
    scalars: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    reduction: Reduction | None = None


class Emitter(Maker):
    """One evaluation of a group."""

    def __init__(self, group: Group, isa: str, coarsen: int, layout: str, sites: Sequence[Site] = ()) -> None:
        super().__init__(isa)
        self.group, self.coarsen, self.layout = group, coarsen, layout
        self.mask: Value | None = None
        self.sites = list(sites)
        q = self.q
        self.scalars = [self._scalar(n, kind_of(BY_NAME[name])) for n, name in enumerate(group.scalars)]
        arrays = len(group.leaves) + len(group.outputs)
        self.bases = [q.emit("param", type_="u", attr=f"{self.name(n)}.base") for n in range(arrays)]
        self.fixed: dict[int, Operand] = {}
        for n, leaf in enumerate(group.leaves):
            if leaf.moves == FIXED:
                self.fixed[n] = self.load(n, q.const("i", 0), self.bases[n], 0)

    def name(self, n: int) -> str:
        """The name of an array in the list of launch values."""
        count = len(self.group.leaves)
        return f"x{n}" if n < count else f"y{n - count}"

    def param(self, name: str) -> Value:
        """A launch value, i32."""
        return self.q.emit("param", type_="i", attr=name)

    def _scalar(self, n: int, kind: Kind) -> Operand:
        q = self.q
        if kind.letter == "c":
            return Complex(*(q.emit("param", type_="f", attr=f"s{n}{part}") for part in ("", "i")))
        v = q.emit("param", type_="i" if kind.letter == "b" else kind.letter, attr=f"s{n}")
        return q.emit("ne", v, q.const("i", 0), type_="b", attr="i") if kind.letter == "b" else v

    # -- regions

    def under(self, mask: Value, body: Callable[[], None]) -> None:
        """A body for the lanes of a mask, skipped where no lane is left."""
        q = self.q
        if mask.op == "const":
            if mask.attr:
                body()
            return
        region = Region(q.region)
        before, self.mask = self.mask, mask if self.mask is None else q.emit("band", self.mask, mask)
        mask = self.mask
        with self.into(region):
            body()
        self.mask = before
        q.append("if_any", (mask,), "", Skip(region, []), varying=False)

    def count(self, start: Value, stop: Value, step: Value, body: Callable[[Value], None]) -> None:
        """body(start), body(start + step), ... below stop; all the same in all lanes."""
        q = self.q

        def turn(carried: Sequence[Value]) -> Sequence[Value]:
            body(carried[0])
            return [q.emit("add", carried[0], step)]

        self.loop([start], [False], lambda c: q.emit("lt", c[0], stop, type_="b", attr="i"), turn)

    # -- memory

    def load(self, n: int, offset: Value, base: Value, plus: int) -> Operand:
        """The element of array n at base + offset + plus bytes."""
        kind = kind_of(BY_NAME[self.group.leaves[n].dtype])
        q, storage = self.q, DTYPES[kind.storage]
        mask = () if self.mask is None or not offset.varying else (self.mask,)
        parts = [
            q.append("load", (base, offset, *mask), storage.value, Access(n, plus + at, kind.storage, n))
            for at in ((0, 4) if kind.letter == "c" else (0,))
        ]
        if kind.letter == "c":
            return Complex(*parts)
        if kind.letter == "b":
            return q.emit("ne", parts[0], q.const("i", 0), type_="b", attr="i")
        return parts[0]

    def store(self, n: int, offset: Value, base: Value, plus: int, v: Operand, kind: Kind) -> None:
        """Store into array n."""
        q = self.q
        mask = () if self.mask is None else (self.mask,)
        if isinstance(v, Complex):
            for part, at in zip(v, (0, 4), strict=True):
                q.append("store", (base, offset, part, *mask), "", Access(n, plus + at, kind.storage, n))
            return
        if kind.letter == "b":
            v = q.emit("select", v, q.const("i", 1), q.const("i", 0))
        q.append("store", (base, offset, v, *mask), "", Access(n, plus, kind.storage, n))

    # -- iteration

    def chunks(self, n: Value, spread: bool, one: Callable[[Index], None]) -> None:
        """Items 0..n-1, one at a time; see `many`."""

        def each(ixs: Sequence[Index]) -> None:
            for ix in ixs:
                one(ix)

        self.many(n, spread, each)

    def many(self, n: Value, spread: bool, items: Callable[[Sequence[Index]], None]) -> None:
        """Items 0..n-1: whole chunks in a loop whose byte offset counts up to zero, the rest under a mask.

        spread: over the workers; else one worker takes them all.
        """
        q, coarsen = self.q, self.coarsen
        shift = (LANES * coarsen * 4).bit_length() - 1
        whole = q.emit("and", n, q.const("i", -(LANES * coarsen) & 0xFFFFFFFF))
        limit = q.emit("shl", whole, q.const("u", 2))
        lane = q.emit("lane")
        wide = coarsen if self.layout == "quad" else 1
        lanes = q.emit("shl", lane, q.const("u", 1 + wide.bit_length()))
        worker = q.emit("worker") if spread else q.const("i", 0)
        workers = q.emit("workers") if spread else q.const("i", 1)
        first = q.emit("sub", q.emit("shl", worker, q.const("u", shift)), limit)
        step = q.emit("shl", workers, q.const("u", shift))

        def going(c: Sequence[Value]) -> Value:
            return q.emit("any", q.emit("lt", c[0], q.const("i", 0), type_="b", attr="i"))

        def turn(c: Sequence[Value]) -> Sequence[Value]:
            quad = self.layout == "quad"
            items([Index(c[0], limit, u if quad else LANES * u) for u in range(coarsen)])
            return [q.emit("add", c[0], step)]

        self.loop([q.emit("add", lanes, first)], [True], going, turn, LANES * coarsen)
        left = q.emit("shl", q.emit("sub", n, whole), q.const("u", 2))
        for u in range(1 if spread else coarsen):
            at = q.emit("add", q.emit("shl", worker, q.const("u", 4)), q.const("i", LANES * u))
            off = q.emit("shl", q.emit("add", at, lane), q.const("u", 2))
            inside = q.emit("lt", off, left, type_="b", attr="i")
            self.under(inside, lambda off=off: items([Index(off, limit)]))  # type: ignore[misc]  # a lambda's default

    def rows(self, body: Callable[[Sequence[Value]], None]) -> None:
        """Rows w, w + W, ... for worker w, each with its index on the outer axes."""
        q = self.q
        outer = self.group.axes - 1

        def row(number: Value) -> None:
            body(self.apart(number, [self.param(f"d{k}") for k in range(outer)]))

        self.count(q.emit("worker"), self.param("rows"), q.emit("workers"), row)

    def apart(self, number: Value, extents: Sequence[Value]) -> list[Value]:
        """The index on each axis of an item, the first axis outermost; extents[0] is not read."""
        q = self.q
        found: list[Value] = []
        for extent in reversed(extents[1:]):
            rest = q.emit("div", number, extent)
            found.append(q.emit("sub", number, q.emit("mul", rest, extent)))
            number = rest
        return [number, *reversed(found)] if extents else []

    def at_row(self, n: int, at: Sequence[Value], moves: Sequence[bool]) -> Value:
        """The base of array n in a row; at: its index on the outer axes."""
        q = self.q
        base = self.bases[n]
        for k, (index, moving) in enumerate(zip(at, moves, strict=True)):
            if moving:
                by = q.emit("mul", index, self.param(f"{self.name(n)}.t{k}"))
                base = q.emit("add", base, q.emit("bitcast", by, type_="u"))
        return base

    def place(self, n: int, moves: int, size: int, base: Value, ix: Index, at: Callable[[], Sequence[Value]],
              outer: Sequence[bool]) -> tuple[Value, Value, int]:  # fmt: skip
        """Base, offset and constant bytes of an item in array n."""
        q = self.q
        if moves == CONTIGUOUS:
            off, limit, plus = ix.scaled(q, size)
            return q.emit("add", base, q.emit("bitcast", limit, type_="u")), off, plus
        if moves == STRIDED:
            return base, q.emit("mul", ix.value(q), self.param(f"{self.name(n)}.t")), 0
        if moves == INDEXED:
            offset: Value | None = None
            for k, (index, moving) in enumerate(zip(at(), outer, strict=True)):
                if moving:
                    by = q.emit("mul", index, self.param(f"{self.name(n)}.t{k}"))
                    offset = by if offset is None else q.emit("add", offset, by)
            assert offset is not None
            return base, offset, 0
        return base, q.const("i", 0), 0

    # -- steps

    def scaled(self, index: Operand | None, size: int) -> Value:
        """Bytes of an index."""
        assert isinstance(index, Value)
        q = self.q
        v = index if index.type == "i" else q.emit("bitcast", index, type_="i")
        return q.emit("shl", v, q.const("u", size.bit_length() - 1)) if size > 1 else v

    def run(self, values: list[Operand | None], first: int, stop: int) -> None:
        """Compute the steps first..stop-1; values: by number, filled up."""
        group = self.group
        start = len(group.leaves) + len(group.scalars)
        for n in range(first, stop):
            step = group.steps[n]
            values[start + n] = self.step(step, [values[a] for a in step.args])  # type: ignore[misc]  # made before

    def dtype(self, n: int) -> str:
        """The dtype of a value by number."""
        group = self.group
        if n < len(group.leaves):
            return group.leaves[n].dtype
        n -= len(group.leaves)
        return group.scalars[n] if n < len(group.scalars) else group.steps[n - len(group.scalars)].dtype

    def step(self, step: Step, operands: Sequence[Operand]) -> Operand:
        """One operation."""
        target = kind_of(BY_NAME[step.dtype])
        sources = [kind_of(BY_NAME[self.dtype(a)]) for a in step.args]
        if step.op == "gather":
            return self.load(step.args[0], self.scaled(operands[1], target.size), self.bases[step.args[0]], 0)
        if step.op == "astype":
            return converted(self, operands[0], sources[0], target)
        if step.op == "where":
            a, b = (converted(self, v, k, target) for v, k in zip(operands[1:], sources[1:], strict=True))
            return self.choose(operands[0], a, b)
        if step.op == "power":
            return power_of(self, target, converted(self, operands[0], sources[0], target), step.attr)
        if step.op == "clip":
            v, low, high = (converted(self, v, k, target) for v, k in zip(operands, sources, strict=True))
            return self.extreme("min", target, self.extreme("max", target, v, low), high)  # type: ignore[arg-type]  # values
        row = OPERATIONS[step.op]
        kind = kind_of(BY_NAME[step.attr]) if step.attr else target
        given = [converted(self, v, k, kind) for v, k in zip(operands, sources, strict=True)]
        return row.emit(self, kind, *given)

    def choose(self, mask: Operand, a: Operand, b: Operand) -> Operand:
        """a where the mask holds, else b."""
        q = self.q
        if isinstance(a, Complex) and isinstance(b, Complex):
            return Complex(*(q.emit("select", mask, x, y) for x, y in zip(a, b, strict=True)))  # type: ignore[arg-type]  # a mask
        assert isinstance(a, Value) and isinstance(b, Value) and isinstance(mask, Value)
        if a.type == "b":
            return q.emit("bor", q.emit("band", mask, a), q.emit("band", q.emit("bnot", mask), b))
        return q.emit("select", mask, a, b)

    # -- the kernel

    def finish(self, name: str) -> KernelIR:
        """The kernel that was emitted."""
        group = self.group
        rows = [Parameter("k", "kernel", "Grid")]
        rows += [Parameter(self.name(n), "array", kind_of(BY_NAME[leaf.dtype]).storage, "in", 1)
                 for n, leaf in enumerate(group.leaves)]  # fmt: skip
        rows += [Parameter(f"y{n}", "array", kind_of(BY_NAME[o.dtype]).storage, "out", 1)
                 for n, o in enumerate(group.outputs)]  # fmt: skip
        arrays = len(group.leaves) + len(group.outputs)
        sites = [Site(n, "load" if n < len(group.leaves) else "store", None) for n in range(arrays)]
        extent: list[Any] = ["n"] if group.form in ("flat", "index") else ["rows", "n"]
        ir = KernelIR(name, self.q.top, rows, sites, self.layout, self.coarsen, False, extent=extent)
        return tidied(ir, self.isa, self.turns)


def elementwise(group: Group, isa: str, coarsen: int, layout: str) -> KernelIR:
    """The kernel of a group without a reduction."""
    m = Emitter(group, isa, coarsen, layout)
    q = m.q
    leaves = len(group.leaves)
    n = m.param("n")

    def row(at: Sequence[Value] | None) -> None:
        bases = list(m.bases)
        loaded: dict[int, Operand] = dict(m.fixed)
        if at is not None:
            both = [(x.moves, x.outer) for x in group.leaves] + [(x.moves, x.outer) for x in group.outputs]
            for k, (moves, outer) in enumerate(both):
                if moves not in (FIXED, SOURCE):
                    bases[k] = m.at_row(k, at, outer)
                if moves == PER_ROW and k < leaves:
                    loaded[k] = m.load(k, q.const("i", 0), bases[k], 0)

        def one(ix: Index) -> None:
            found: list[Sequence[Value]] = []

            def index() -> Sequence[Value]:
                if not found:
                    extents = [m.param(f"d{k}") for k in range(group.axes)]
                    found.append(m.apart(ix.value(q), extents))
                return found[0]

            values: list[Operand | None] = [loaded.get(k) for k in range(leaves)]
            values += [*m.scalars, *[None] * len(group.steps)]
            for k, leaf in enumerate(group.leaves):
                if values[k] is None and leaf.moves != SOURCE:
                    size = kind_of(BY_NAME[leaf.dtype]).size
                    base, off, plus = m.place(k, leaf.moves, size, bases[k], ix, index, leaf.outer)
                    values[k] = m.load(k, off, base, plus)
            m.run(values, 0, len(group.steps))
            for k, out in enumerate(group.outputs, leaves):
                kind = kind_of(BY_NAME[out.dtype])
                v = values[out.value]
                assert v is not None
                if out.moves == SOURCE:
                    base, off, plus = bases[k], m.scaled(values[out.at], kind.size), 0
                else:
                    base, off, plus = m.place(k, out.moves, kind.size, bases[k], ix, index, out.outer)
                if out.only < 0:
                    m.store(k, off, base, plus, v, kind)
                    continue
                mask = values[out.only]
                assert isinstance(mask, Value)
                m.under(mask, lambda: m.store(k, off, base, plus, v, kind))  # noqa: B023  # called at once

        m.chunks(n, at is None, one)

    if group.form == "rows":
        m.rows(row)
    else:
        row(None)
    return m.finish("expression")
