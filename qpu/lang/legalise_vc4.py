"""KIR to KIR that VideoCore IV can do: products of 32 bits from 24-bit ones, unsigned conversions, rounding, narrow
elements, and stores as rows of 16 words or lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from qpu.errors import Diagnostic, Severity
from qpu.lang.arithmetic_vc4 import ARITHMETIC, Arithmetic
from qpu.lang.grouping import Grouping, groups, unique
from qpu.lang.kir import Access, Loop, Region, Request, Skip, Value, walk
from qpu.lang.steps import Formula, Steps
from qpu.lang.types import DTYPES

__all__ = ["legalise_vc4"]

STEP = 1 << 12
"""Between lanes of a bound: more could pass the largest integer within a vector."""


class _Vc4(Arithmetic):
    """Replaces what VideoCore IV lacks. steps: of the values of the KIR that is read; guards: masks of the skipped
    parts around what is read; stores: what changes memory, by array; waits: whether workers meet; items: regions of
    loops over items.
    """

    def __init__(
        self, top: Region, names: Sequence[str], notes: list[Diagnostic], inputs: frozenset[int] | None
    ) -> None:
        super().__init__("vc4")
        self.names = names
        self.notes = notes
        self.steps = Steps(top)
        self.guards: list[Value] = []
        self.atomics = True
        self.grid = inputs is None
        self.rules = {  # by the bytes from lane to lane: rows of memory, and four neighbours that each lane has
            4: Grouping(range(len(names)), ("store",), 64, 4, inputs),
            16: Grouping(range(len(names)), ("store",), 4, 4, inputs),
        }
        self.groups: dict[int, list[Value]] = {}
        self.items: set[Region] = set()
        self.stores: dict[int, list[Value]] = {}
        self.waits = False
        for v in walk(top):
            if isinstance(v.attr, Loop) and v.attr.items:
                self.items.add(v.attr.region)
            elif v.op in ("store", "atomic"):
                self.stores.setdefault(v.attr.array, []).append(v)
            self.waits |= v.op == "barrier"

    def region(self, region: Region) -> None:
        outer, self.groups = self.groups, self.rows(region)
        super().region(region)
        for group in unique(region.ops, self.groups, "store"):
            self.store_rows(group)
        self.groups = outer

    def rows(self, region: Region) -> dict[int, list[Value]]:
        """Stores of rows that follow each other in memory, or of neighbours in each lane."""
        found: dict[int, list[Value]] = {}
        for step, rule in self.rules.items():
            found.update({n: g for n, g in groups(region.ops, rule).items() if self.steps.of(g[0].args[1]) == step})
        return found

    def store_rows(self, group: Sequence[Value]) -> None:
        """Some rows by one store, which transposes them where they are neighbours in each lane."""
        q, first = self.q, group[0]
        q.loc = first.loc
        for n, v in enumerate(group):
            q.append("row" if n else "data", (self.get(v.args[2]),), "", None if n else 4, varying=False)
        base = q.emit("add", self.get(first.args[0]), self.u(first.attr.offset))
        step = self.steps.of(first.args[1])
        request = Request(first.attr, 16, 0xFF, 0 if step == 4 else step or 0, rows=len(group))
        q.append("commit", (base, self.get(first.args[1])), "", request, varying=False)

    def skip(self, v: Value, attr: Skip) -> None:
        self.guards.append(v.args[0])
        super().skip(v, attr)
        self.guards.pop()

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        rule = _RULES.get(v.op)
        return None if rule is None else rule(self, v, args)

    # -- arithmetic

    def lane0(self, mask: Value) -> Value:
        """Whether lane 0 is in the mask, in all lanes."""
        q = self.q
        bit = q.emit("select", mask, self.i(1), self.i(0))
        return q.emit("ne", q.emit("bcast", bit, self.i(0)), self.i(0), type_="b", attr="i")

    # -- memory

    def load(self, v: Value, args: tuple[Value, ...]) -> Value:
        """Aligned words from the TMU; narrow elements are taken out of theirs. Masked lanes read the first element."""
        if self.changing(v):
            return self.load_by_dma(v, args)
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

    def store(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        """A row of memory, a column with a stride, or lane by lane."""
        if id(v) in self.groups:
            return args[2]
        q, a = self.q, v.attr
        t = DTYPES[a.dtype]
        size = min(t.size, 4)
        value = args[2]
        if t.name == "f16":
            value, a = self.to_half(value), replace(a, dtype="u16")
        step = self.steps.of(v.args[1])
        base = q.emit("add", args[0], self.u(a.offset))
        if step == 0 and (len(args) == 3 or (not v.args[2].varying and self.guarded(v))):
            q.append("data", (value,), "", size, varying=False)
            return q.append("commit", (base, args[1]), "", Request(a, 1, 0xFF), varying=False)
        prefix = self.prefix(v.args[3]) if len(args) > 3 else []
        mask = args[3] if len(args) > 3 else None
        apart = self.apart(v.args[1]) if step is None and prefix is not None else None
        if apart is None and (step is None or not size <= step <= 0xFFFF or prefix is None):
            return self.scatter(a, base, args[1], value, mask)
        row = step == size
        request = Request(a, 16, 0xFF, 0 if row else step or 0)

        def put(more: tuple[Value, ...]) -> Value:
            if apart is not None:
                count = more[0] if more else self.i(16)
                return self.column(Request(a, 16, 0xFF), base, args[1], value, mask, count, apart)
            q.append("data", (value,), "", size if row else 4, varying=False)
            return q.append("commit", (base, args[1], *more), "", request, varying=False)

        assert prefix is not None
        if not prefix:
            return put(())
        (lanes,) = self.lanes_of(prefix)
        if self.guarded(v):
            return put((lanes,))
        inside = Region(q.region)
        outer, q.region = q.region, inside
        put((lanes,))
        q.region = outer
        some = q.emit("lt", self.i(0), lanes, type_="b", attr="i")
        return q.append("if_any", (some,), "", Skip(inside, []), varying=False)

    def apart(self, offset: Value) -> Value | None:
        """Bytes from lane to lane that only the launch knows, the same between all lanes; None where they are not."""
        formula = self.steps.formula(offset)
        return None if formula is None else self.made_of(formula)

    def made_of(self, formula: Formula) -> Value:
        """The value of a formula."""
        if isinstance(formula, int):
            return self.i(formula)
        if isinstance(formula, Value):
            return self.cast(self.get(formula), "i")
        op, a, b = formula[0], self.made_of(formula[1]), self.made_of(formula[2])
        if op == "mul":
            return self.cast(self.product(a, b), "i")
        return self.q.emit(op, a, self.cast(b, "u") if op == "shl" else b)

    def column(
        self, request: Request, base: Value, offset: Value, value: Value, mask: Value | None, lanes: Value, apart: Value
    ) -> Value:
        """A store of elements that are `apart` bytes apart, which the DMA can do up to 64 KiB; else lane by lane."""
        q, size = self.q, min(DTYPES[request.access.dtype].size, 4)
        distance = q.emit("sub", self.cast(apart, "u"), self.u(size))
        near = q.emit("lt", distance, self.u(1 << 16), type_="b", attr="u")
        outer = q.region
        q.region = quick = Region(outer)
        q.append("data", (value,), "", 4, varying=False)
        q.append("commit", (base, offset, lanes, self.cast(distance, "i")), "", request, varying=False)
        q.region = other = Region(outer)
        self.scatter(request.access, base, offset, value, mask, note=False)
        q.region = outer
        q.append("if_any", (near,), "", Skip(quick, []), varying=False)
        return q.append("if_any", (q.emit("bnot", near),), "", Skip(other, []), varying=False)

    def guarded(self, v: Value) -> bool:
        """Whether the part that holds a masked operation is skipped where no lane wants it."""
        return any(g is v.args[3] for g in self.guards)

    def prefix(self, mask: Value) -> list[tuple[Value, Value, int]] | None:
        """A mask that holds in the first lanes only, as values, limits and steps: all values below their limits."""
        found: list[tuple[Value, Value, int]] = []
        todo = [mask]
        while todo:
            mask = todo.pop()
            if mask.op == "band":
                todo += mask.args
                continue
            if not mask.varying:
                found.append((mask, mask, 0))
                continue
            if mask.op not in ("lt", "le") or mask.attr != "i" or mask.args[1].varying:
                return None
            step = self.steps.of(mask.args[0])
            if step is None or not 1 <= step <= STEP or step & (step - 1):
                return None
            found.append((mask.args[0], mask.args[1], step if mask.op == "lt" else -step))
        return found

    def lanes_below(self, value: Value, limit: Value, step: int) -> Value:
        """How many lanes have a value below a limit; a negative step: or equal to it; 0: a mask, the same in all."""
        q = self.q
        if not step:
            return q.emit("select", self.get(value), self.i(16), self.i(0))
        rest = q.emit("sub", self.get(limit), q.emit("bcast", self.get(value), self.i(0)))
        size = abs(step)
        rest = q.emit("add", rest, self.i(size - 1 if step > 0 else size))
        return q.emit("asr", rest, self.u(size.bit_length() - 1))

    def one_by_one(
        self, values: Sequence[Value], mask: Value | None, turn: Callable[[Sequence[Value]], Sequence[Value]], *,
        carried: Sequence[Value] = (),
    ) -> list[Value]:  # fmt: skip
        """A turn for each lane that the mask wants: its values are in lane 0 then, as in each turn all lanes move down.

        carried: further values that move, and that turns replace; what they are in the end.
        """
        q = self.q
        bit = self.i(1) if mask is None else q.emit("select", mask, self.i(1), self.i(0))
        inits = (self.i(16), bit, *values, *carried)
        region = Region(q.region, loop=True)
        n, wanted, *moving = (q.parameter(region, x.type, i > 0) for i, x in enumerate(inits))
        outer, q.region = q.region, region
        test = q.emit("ne", q.emit("bcast", wanted, self.i(0)), self.i(0), type_="b", attr="i")
        inside = Region(region)
        q.region = inside
        news = turn(moving)
        q.region = region
        olds = moving[len(values) :]
        part = q.append("if_any", (test, *olds), "", Skip(inside, list(news)), varying=False)
        after = [q.result(part, x.type, True) for x in olds]
        left = q.emit("sub", n, self.i(1))
        bits = wanted if mask is None else q.emit("rot", wanted, attr=1)
        moved = [q.emit("rot", x, attr=1) for x in (*moving[: len(values)], *after)]
        cond = q.emit("ne", left, self.i(0), type_="b", attr="i")
        q.region = outer
        made = q.append(
            "loop", (q.const("b", True), *inits), "", Loop(region, [left, bits, *moved], cond), varying=False
        )
        results = [q.result(made, x.type, True) for x in inits]
        return results[2 + len(values) :]

    def scatter(
        self, a: Access, base: Value, offset: Value, value: Value, mask: Value | None, *, note: bool = True
    ) -> Value:
        """A store lane by lane."""
        q = self.q
        if note:
            self.slow(f"the store of {a.dtype} at an address of each lane, or under a mask that is not a bound,")

        def turn(moving: Sequence[Value]) -> Sequence[Value]:
            at, word = moving
            q.append("data", (word,), "", min(DTYPES[a.dtype].size, 4), varying=False)
            q.append("commit", (at, self.i(0)), "", Request(a, 1, 0xFF), varying=False)
            return ()

        self.one_by_one((q.emit("add", base, self.cast(offset, "u")), value), mask, turn)
        return value

    def slow(self, what: str) -> None:
        """Note that something takes the lanes one after another."""
        loc = self.q.loc
        text = f"{what} takes its 16 lanes one after another on VideoCore IV"
        if not any(n.rule == "lane-loop" and n.loc == loc for n in self.notes):
            help_ = "neighbouring lanes at neighbouring addresses, or `where` in the value instead of `if`"
            self.notes.append(Diagnostic("lane-loop", text, Severity.INFO, loc, help=help_))

    # -- reads and updates by DMA, which sees what other workers have stored

    def changing(self, v: Value) -> bool:
        """Whether a load may have to see a store of this launch, which the caches before the TMU do not (vc4.md 13)."""
        a = v.attr
        if a.array < 0:
            return True
        if self.waits:
            return a.array in self.stores
        loops = self.loops_of(v.region)
        for s in self.stores.get(a.array, ()):
            if s.op == "atomic" or s.attr.site < a.site or loops & self.loops_of(s.region):
                return True
        return False

    def loops_of(self, region: Region | None) -> set[int]:
        """The loops around, but for those over a Grid's items: what one item stores no other one reads."""
        found = set()
        while region is not None:
            if region.loop and not (self.grid and region in self.items):
                found.add(id(region))
            region = region.parent
        return found

    def load_by_dma(self, v: Value, args: tuple[Value, ...]) -> Value:
        """A row of memory, one element for all lanes, or lane by lane."""
        q, a = self.q, v.attr
        base = q.emit("add", args[0], self.u(a.offset))
        mask = args[2] if len(args) > 2 else None
        step = self.steps.of(v.args[1])
        prefix = [] if mask is None else self.prefix(v.args[2])
        alone = mask is None or (bool(self.guards) and self.guards[-1] is v.args[2])
        found: Value | None = None
        if step == 0 and alone:
            found = q.emit("bcast", self.fetch(a, base, args[1], 1), self.i(0))
        elif step == min(DTYPES[a.dtype].size, 4) and prefix is not None and alone:
            found = self.fetch(a, base, args[1], 16, *self.lanes_of(prefix))
        if found is None:
            self.slow(f"the load of {a.dtype}, which the kernel also stores, at an address of each lane")
            first = q.emit("eq", q.emit("lane"), self.i(0), type_="b", attr="i")

            def turn(moving: Sequence[Value]) -> Sequence[Value]:
                return (q.emit("select", first, self.fetch(a, moving[0], self.i(0), 1), moving[1]),)

            address = q.emit("add", base, self.cast(args[1], "u"))
            found = self.one_by_one((address,), mask, turn, carried=(q.const(v.type, 0),))[0]
        if a.zero and mask is not None:
            found = q.emit("select", mask, found, q.const(found.type, 0))
        return found

    def lanes_of(self, prefix: Sequence[tuple[Value, Value, int]]) -> tuple[Value, ...]:
        """How many lanes a mask of bounds holds in; nothing for all."""
        if not prefix:
            return ()
        lanes = self.i(16)
        for test in prefix:
            lanes = self.q.emit("min", self.lanes_below(*test), lanes)
        return (lanes,)

    def fetch(self, a: Access, base: Value, offset: Value, words: int, *count: Value) -> Value:
        """Elements of the first lanes."""
        t = DTYPES[a.dtype]
        raw = "u" if t.size < 4 else t.value
        access = replace(a, dtype="u16") if t.name == "f16" else a
        found = self.q.append("fetch", (base, offset, *count), raw, Request(access, words, 0xFF), varying=True)
        if t.name == "f16":
            return self.half(found)
        if t.size == 4:
            return found
        if t.low < 0:
            n = self.u(32 - 8 * t.size)
            return self.q.emit("asr", self.q.emit("shl", self.cast(found, "i"), n), n)
        return self.cast(found, "i")

    def atomic(self, v: Value, args: tuple[Value, ...]) -> Value:
        """Under the mutex: read, change, write; in lane 0, or lane by lane."""
        q, a = self.q, v.attr
        base = q.emit("add", args[0], self.u(a.offset))
        count = 2 if a.operation == "cas" else 1
        operands, mask = args[2 : 2 + count], args[2 + count :]

        def update(at: Value, offset: Value, operands: Sequence[Value]) -> Value:
            q.append("lock", (), "", None, varying=False)
            old = self.fetch(a, at, offset, 1)
            q.append("data", (self.updated(a.operation, old, operands),), "", 4, varying=False)
            q.append("commit", (at, offset), "", Request(a, 1, 0xFF), varying=False)
            q.append("unlock", (), "", None, varying=False)
            return old

        if a.once:
            return update(base, args[1], operands)
        first = q.emit("eq", q.emit("lane"), self.i(0), type_="b", attr="i")

        def turn(moving: Sequence[Value]) -> Sequence[Value]:
            at, *values, found = moving
            return (q.emit("select", first, update(at, self.i(0), values), found),)

        self.slow("an atomic at an address of each lane")
        address = q.emit("add", base, self.cast(args[1], "u"))
        zero = q.const(v.type, 0)
        return self.one_by_one((address, *operands), mask[0] if mask else None, turn, carried=(zero,))[0]

    def barrier(self) -> Value:
        """All workers meet twice: each time worker 0 counts the others in and lets them go. With one meeting alone a
        quick worker could come again and take what lets a slow one go.
        """
        q = self.q
        worker, others = q.emit("worker"), q.emit("sub", q.emit("workers"), self.i(1))
        first = q.emit("eq", worker, self.i(0), type_="b", attr="i")
        some = q.emit("lt", self.i(0), others, type_="b", attr="i")

        def count(number: int, down: bool) -> None:
            region = Region(q.region, loop=True)
            n = q.parameter(region, "i", False)
            outer, q.region = q.region, region
            q.append("semaphore", (), "", (number, down), varying=False)
            left = q.emit("sub", n, self.i(1))
            cond = q.emit("lt", self.i(0), left, type_="b", attr="i")
            q.region = outer
            loop = q.append("loop", (some, others), "", Loop(region, [left], cond), varying=False)
            q.result(loop, "i", False)

        def part(mask: Value, body: Callable[[], None]) -> None:
            inside = Region(q.region)
            outer, q.region = q.region, inside
            body()
            q.region = outer
            q.append("if_any", (mask,), "", Skip(inside, []), varying=False)

        def lead() -> None:
            for n in (0, 2):
                count(n, True)
                count(n + 1, False)

        def follow() -> None:
            for n in range(4):
                q.append("semaphore", (), "", (n, n % 2 == 1), varying=False)

        q.append("barrier", (), "", None, varying=False)  # the end of the worker's own stores
        part(first, lead)
        part(q.emit("bnot", first), follow)
        return worker

    def updated(self, operation: str, old: Value, operands: Sequence[Value]) -> Value:
        """What an atomic operation makes of an element."""
        q, x = self.q, operands[0]
        if operation == "cas":
            return q.emit("select", q.emit("eq", old, x, type_="b", attr=x.type), operands[1], old)
        if operation in ("min", "max") and x.type == "u":
            less = q.emit("lt", old, x, type_="b", attr="u")
            return q.emit("select", less, *((old, x) if operation == "min" else (x, old)))
        return q.emit({"add": "fadd" if x.type == "f" else "add"}.get(operation, operation), old, x)


_RULES: Final[dict[str, Callable[..., Value | None]]] = {
    **ARITHMETIC,
    "load": lambda r, v, args: r.load(v, args),
    "store": lambda r, v, args: r.store(v, args),
    "atomic": lambda r, v, args: r.atomic(v, args) if r.atomics else None,
    "barrier": lambda r, v, args: r.barrier(),
}


def legalise_vc4(
    top: Region,
    names: Sequence[str],
    notes: list[Diagnostic] | None = None,
    *,
    inputs: frozenset[int] | None = None,
    atomics: bool = True,
) -> Region:
    """The same kernel in operations that VideoCore IV has; `qpu.lang.legalise` runs before. names: of the arrays;
    notes: to which what is slow is added; inputs: of a Team, the arrays that overlap nothing that is written; None: the
    items of loops are independent of each other; atomics: make them of reads and writes under the mutex, which an
    interpreter that runs all workers in step cannot keep apart.
    """
    r = _Vc4(top, names, [] if notes is None else notes, inputs)
    r.atomics = atomics
    r.region(top)
    return r.q.top
