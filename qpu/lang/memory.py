"""Memory for V3D: loads and stores of KIR as requests to the TMU, four neighbouring words as one.

Items of a Grid are independent, so in a chunk of several items the loads come first and the stores last. A load stays
behind a store to the same array when one item has both.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from qpu.lang.grouping import Grouping, groups, unique
from qpu.lang.kir import Access, Region, Request, Value
from qpu.lang.rewrite import Rewriter
from qpu.lang.types import DTYPES

__all__ = ["plan_memory"]

TYPES = {"i8": 0, "i16": 1, "u8": 5, "u16": 6, "f16": 6}
PER_LANE = 0xF8  # per pixel, regular; the type is in bits 2:0
VEC4 = PER_LANE | 4
WORD = 0xFF
ATOMICS = {"add": 0, "cas": 3, "and": 8, "or": 9, "xor": 10}
_MIN = {"i": 6, "u": 4}


class _Planner(Rewriter):
    """capacity: words that may be pending. rule: which accesses may be four words at once."""

    def __init__(self, isa: str, capacity: int, rule: Grouping) -> None:
        super().__init__(isa)
        self.capacity = capacity
        self.rule = rule
        self.groups: dict[int, list[Value]] = {}

    # -- regions

    def region(self, region: Region) -> None:
        ops = region.ops
        outer = self.groups
        self.groups = groups(ops, self.rule)
        if not self.groups:
            super().region(region)
            self.groups = outer
            return
        loads, stores = (unique(ops, self.groups, op) for op in ("load", "store"))
        waiting = deque(loads)
        pending: deque[tuple[list[Value], int]] = deque()
        for v in ops:
            self.q.loc = v.loc
            if id(v) in self.groups:
                continue
            self._ask(waiting, pending)
            needs = {id(a) for a in v.args}
            if any(id(x) in needs and id(x) not in self.map for g in loads for x in g):
                self._collect(waiting, pending, needs)
            if v.op in ("load", "atomic"):  # results come in the order of the requests
                while pending:
                    self._take(pending)
            self.one(v)
        self._ask(waiting, pending)
        self._collect(waiting, pending, {id(x) for g in loads for x in g})
        for group in stores:
            self._store_group(group)
        self.groups = outer

    # -- loads

    def _address(self, v: Value) -> tuple[Value, Value]:
        """Base with the constant added, and offset."""
        base, offset = self.get(v.args[0]), self.get(v.args[1])
        return self.q.emit("add", base, self.u(v.attr.offset)), offset

    def _ready(self, v: Value) -> bool:
        return all(id(a) in self.map for a in v.args[:2])

    def _ask(self, waiting: deque[list[Value]], pending: deque[tuple[list[Value], int]]) -> None:
        """Requests whose addresses are known and whose results have room."""
        while waiting and self._ready(waiting[0][0]):
            words = len(waiting[0])
            if sum(n for _, n in pending) + words > self.capacity:
                return
            group = waiting.popleft()
            byte = VEC4 if words > 1 else _byte(group[0].attr)
            self.q.append("request", self._address(group[0]), "", Request(group[0].attr, words, byte), varying=False)
            pending.append((group, words))

    def _collect(self, waiting: deque[list[Value]], pending: deque[tuple[list[Value], int]], needs: set[int]) -> None:
        """Take results until those that are needed are there."""
        while any(x not in self.map for x in needs if any(x == id(y) for g, _ in pending for y in g)) or (
            waiting and any(x == id(y) for x in needs for g in waiting for y in g)
        ):
            if not pending:
                self._ask(waiting, pending)
                if not pending:
                    return
            self._take(pending)
            self._ask(waiting, pending)

    def _take(self, pending: deque[tuple[list[Value], int]]) -> None:
        """The results of the oldest request."""
        group, _ = pending.popleft()
        for v in group:
            self.map[id(v)] = self.q.append("pop", (), v.type, None, varying=v.varying)

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op == "load":
            return self._load(v, args)
        if v.op == "store":
            return self._store(v, args)
        if v.op == "atomic":
            return self._atomic(v, args)
        return None

    def _load(self, v: Value, args: tuple[Value, ...]) -> Value:
        q, a = self.q, v.attr
        t = DTYPES[a.dtype]
        base = q.emit("add", args[0], self.u(a.offset))
        q.append("request", (base, args[1], *args[2:]), "", Request(_bits(a), 1, _byte(a)), varying=False)
        raw = "u" if t.name == "f16" else v.type
        found = q.append("pop", (), raw, None, varying=v.varying)
        if t.name == "f16":
            found = q.emit("h2f", found)
        if a.zero and len(args) > 2:
            found = q.emit("select", args[2], found, q.const(found.type, 0))
        return found

    # -- stores

    def _word(self, v: Value, value: Value) -> Value:
        """A value as it is stored: halves as their bits."""
        return self.q.emit("f2h", value) if DTYPES[v.attr.dtype].name == "f16" else value

    def _store(self, v: Value, args: tuple[Value, ...]) -> Value:
        q, a = self.q, v.attr
        DTYPES[a.dtype]
        base = q.emit("add", args[0], self.u(a.offset))
        q.append("data", (self._word(v, args[2]),), "", None, varying=False)
        return q.append("commit", (base, args[1], *args[3:]), "", Request(_bits(a), 1, _byte(a)), varying=False)

    def _store_group(self, group: list[Value]) -> None:
        q = self.q
        for v in group:
            q.append("data", (self.get(v.args[2]),), "", None, varying=False)
        q.append("commit", self._address(group[0]), "", Request(group[0].attr, 4, VEC4), varying=False)

    def _atomic(self, v: Value, args: tuple[Value, ...]) -> Value:
        q, a = self.q, v.attr
        t = DTYPES[a.dtype]
        number = ATOMICS.get(a.operation)
        if number is None:
            number = _MIN[t.value] + (a.operation == "max")
        count = 2 if a.operation == "cas" else 1
        base = q.emit("add", args[0], self.u(a.offset))
        if a.once:
            args = (*args, q.emit("eq", q.emit("lane"), q.const("i", 0), type_="b", attr="i"))
        for x in args[2 : 2 + count]:
            q.append("data", (x,), "", None, varying=False)
        request = Request(replace(a), 1, 0x80 | number << 3 | 7)
        q.append("commit", (base, args[1], *args[2 + count :]), "", request, varying=False)
        return q.append("pop", (), v.type, None, varying=True)


def _byte(access: Access) -> int:
    """The configuration of an access to single elements."""
    t = DTYPES[access.dtype]
    return WORD if t.size >= 4 else PER_LANE | TYPES[t.name]


def _bits(access: Access) -> Access:
    """An access to halves as one to their bits: conversions are operations of their own."""
    return replace(access, dtype="u16") if access.dtype == "f16" else access


def plan_memory(
    top: Region,
    isa: str,
    capacity: int,
    wide: frozenset[int],
    inputs: frozenset[int] | None,
    read_only: frozenset[int] = frozenset(),
) -> Region:
    """The same kernel with requests instead of loads and stores.

    capacity: result words that may be pending; wide: arrays whose accesses may be four words at once; inputs: of a
    Team, the arrays that overlap nothing that is written; read_only: those whose single loads may pass stores.
    """
    planner = _Planner(isa, capacity, Grouping(wide, ("load", "store"), 4, 16, inputs, read_only))
    planner.region(top)
    return planner.q.top
