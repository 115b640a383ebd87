"""Loads of the next turn asked for in this one: a loop begins with results that are there, not with requests.

The last turn is a copy of the loop's body behind it that asks for nothing, so nobody's memory is read. Counters are
carried a turn ahead, so that the addition which advances one tests it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qpu.lang.kir import ROWS, Loop, Region, Request, Skip, Value
from qpu.lang.rewrite import Rewriter

__all__ = ["load_ahead"]

LARGEST = 240  # operations of a body that is worth a copy
WORK = 2  # operations for each word loaded or stored, on VideoCore IV; with less the TMU is busy anyway
BUSY = 16  # operations a word, with which the wait for a turn's first results is short on 4.2, where taking one takes
# the place of a request
_BARS = frozenset({"atomic", "barrier", "lock", "unlock", "fetch", "semaphore"})


class _Ahead(Rewriter):
    """grid: whether turns over items are independent; inputs: numbers of the arrays that nothing writes. Inside a loop
    that is made, free: whether all loads may come before its stores; behind: what happens after an operation of it;
    skipped: operations that others stand for; bases: for a counter that is carried ahead, itself and its step.
    """

    def __init__(self, isa: str, capacity: int, grid: bool, inputs: frozenset[int]) -> None:
        super().__init__(isa)
        self.capacity = capacity
        self.grid = grid
        self.inputs = inputs
        self.free = False
        self.skipped: set[int] = set()
        self.behind: dict[int, Callable[[], None]] = {}
        self.bases: dict[int, tuple[Value, Value]] = {}

    def one(self, v: Value) -> None:
        if id(v) not in self.skipped:
            super().one(v)
        then = self.behind.get(id(v))
        if then is not None:
            then()

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op not in ("commit", "request") or id(v.args[1]) not in self.bases:
            return None
        carried, step = self.bases[id(v.args[1])]
        base = self.q.emit("sub", args[0], self.cast(step, args[0].type))
        return self.q.append(v.op, (base, carried, *args[2:]), v.type, v.attr, varying=v.varying)

    def loop(self, v: Value, attr: Loop) -> None:
        self.free = self.grid and attr.items
        requests = self._requests(attr)
        if not requests:
            super().loop(v, attr)
            return
        q, body = self.q, attr.region
        args = [self.get(a) for a in v.args]
        part = Region(q.region)
        outer, q.region = q.region, part
        first = {id(p): x for p, x in zip(body.parameters, args[1:], strict=True)}
        for r in requests:
            q.append("request", tuple(self._again(a, body, first) for a in r.args), "", r.attr, varying=False)
        steps = {n: self.get(s) for n in range(len(attr.yields)) if (s := _step(attr, n)) is not None}
        inits = [q.emit("add", x, steps[n]) if n in steps else x for n, x in enumerate(args[1:])]
        guard = self._again(attr.cond, body, first)
        region = Region(part, loop=True)
        self.regions[id(body)] = region
        carried = [q.parameter(region, p.type, p.varying) for p in body.parameters]
        word = next((x for x in body.ops if x.op == "next"), None)  # of a stream: its first one is read ahead, too
        if word is not None:
            self.skipped.add(id(word))
            inits.append(q.append("next", (), word.type, word.attr, varying=word.varying))
            self.map[id(word)] = q.parameter(region, word.type, word.varying)
        q.region = region
        ahead = self._enter(body, carried, steps)
        self.skipped |= {id(r) for r in requests}
        self._plan(attr, requests, ahead)
        self.region(body)
        yields = [q.emit("add", carried[n], steps[n]) if n in steps else self.get(y) for n, y in enumerate(attr.yields)]
        if word is not None:
            yields.append(q.append("next", (), word.type, word.attr, varying=word.varying))
        cond = self._again(attr.cond, body, ahead)
        self.behind.clear()
        self.bases.clear()
        q.region = part
        op = q.append("loop", (guard, *inits), "", Loop(region, yields, cond, items=attr.items), varying=False)
        self._enter(body, [q.result(op, p.type, p.varying) for p in carried], steps)
        if word is not None:
            self.map[id(word)] = q.result(op, word.type, word.varying)
        self.region(body)  # the last turn
        self.bases.clear()
        made = Skip(part, [self.get(y) for y in attr.yields])
        q.region = outer
        skip = q.append("if_any", tuple(args), "", made, varying=False)
        for r in attr.results:
            self.map[id(r)] = q.result(skip, r.type, r.varying)

    def _enter(self, body: Region, carried: list[Value], steps: Mapping[int, Value]) -> dict[int, Value]:
        """Begin a turn: what stands for the parameters. Returns what stands for them in the next turn, where known."""
        ahead = {}
        for n, p in enumerate(body.parameters):
            if n in steps:
                self.map[id(p)] = self.q.emit("sub", carried[n], steps[n])
                ahead[id(p)] = carried[n]
                self.bases[id(p)] = carried[n], steps[n]
            else:
                self.map[id(p)] = carried[n]
        return ahead

    def _plan(self, attr: Loop, requests: list[Value], ahead: Mapping[int, Value]) -> None:
        """Each request of the next turn when its results have room, the last one behind the stores where the TMU is
        full anyway; what may overlap them comes behind them in any case.
        """
        q, body = self.q, attr.region
        pops = [x for x in body.ops if x.op == "pop"]
        commits = [x for x in body.ops if x.op == "commit"]

        def ask(row: list[Value]) -> None:
            for r in row:
                args = tuple(self._again(a, body, ahead) for a in r.args)
                q.append("request", args, "", r.attr, varying=False)

        at: dict[int, list[Value]] = {}
        places = {id(x): n for n, x in enumerate(body.ops)}
        others = [
            x for x in body.ops if x.op == "request" and id(x) not in self.skipped
        ]  # of this turn: they come first
        words, late = 0, False
        full = len(pops) >= self.capacity
        for r in requests:
            words += r.attr.words
            late |= bool(commits) and ((full and r is requests[-1]) or not self._free(r))
            if late:
                after = commits[-1]
            else:
                after = pops[max(0, len(pops) + words - self.capacity - 1)]
            if others and places[id(after)] < places[id(others[-1])]:
                after = others[-1]
            at.setdefault(id(after), []).append(r)
        for number, row in at.items():
            self.behind[number] = lambda row=row: ask(row)  # type: ignore[misc]  # a lambda's default

    def _free(self, r: Value) -> bool:
        return self.free or r.attr.access.array in self.inputs

    def _again(self, v: Value, body: Region, places: Mapping[int, Value]) -> Value:
        """A value of the loop computed with other carried values."""
        if id(v) in places:
            return places[id(v)]
        if not body.contains(v):
            return self.get(v)
        if v.op == "const":
            return self.q.const(v.type, v.attr)
        args = tuple(self._again(a, body, places) for a in v.args)
        return self.q.emit(v.op, *args, type_=v.type, attr=v.attr)

    def _requests(self, attr: Loop) -> list[Value]:
        """The first requests of a turn, as many as have room at its end, where they can be asked for ahead."""
        body = attr.region
        found: list[Value] = []
        pops = words = work = stored = 0
        written: set[int] = set()  # arrays: a load behind a store of its own item takes what that stored
        after = False
        if len(body.ops) > LARGEST or attr.cond.op not in ("lt", "any"):
            return []
        for v in body.ops:
            if isinstance(v.attr, Loop | Skip) or v.op in _BARS:
                return []
            if v.op == "commit" and self._atomic(v):
                return []
            if v.op == "request":
                if len(v.args) > 2:
                    return []
                words += v.attr.words
                after |= v.attr.access.array in written
                if words <= self.capacity and not after:
                    found.append(v)
            if v.op == "commit":
                written.add(v.attr.access.array)
            pops += v.op == "pop"
            stored += v.op == "data"
            work += ROWS[v.op].pure
        if (self.isa == "vc4" and work < WORK * (words + stored)) or (self.isa != "v3d71" and work > BUSY * words):
            return []
        if self.isa == "vc4" and words > self.capacity:
            return []
        if not found or pops != words or (self.isa == "vc4" and not all(self._free(r) for r in found)):
            return []
        known = {id(p) for n, p in enumerate(body.parameters) if _step(attr, n) is not None}
        needs = [attr.cond, *(a for r in found for a in r.args)]
        return found if all(_follows(x, body, known) for x in needs) else []

    @staticmethod
    def _atomic(v: Value) -> bool:
        return isinstance(v.attr, Request) and v.attr.byte & 0x78 != 0x78


def _step(attr: Loop, n: int) -> Value | None:
    """What each turn adds to a carried integer, made in front of the loop; None where it does something else."""
    p, y = attr.region.parameters[n], attr.yields[n]
    if y.op != "add" or p not in y.args or p.type not in ("i", "u"):
        return None
    other = y.args[1] if y.args[0] is p else y.args[0]
    return None if other is p or attr.region.contains(other) else other


def _follows(v: Value, body: Region, known: set[int]) -> bool:
    """Whether a value of the loop is computed from these parameters alone."""
    if v.op == "parameter" and v.region is body:
        return id(v) in known
    if v.op == "const" or not body.contains(v):
        return True
    return ROWS[v.op].pure and all(_follows(a, body, known) for a in v.args)


def load_ahead(top: Region, isa: str, capacity: int, *, grid: bool, inputs: frozenset[int]) -> Region:
    """The same kernel with the loads of its innermost loops asked for a turn before.

    capacity: words that may be pending; grid: whether turns over items are independent; inputs: numbers of the arrays
    that nothing writes.
    """
    r = _Ahead(isa, capacity, grid, inputs)
    r.region(top)
    return r.q.top
