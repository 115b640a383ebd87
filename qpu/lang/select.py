"""What instruction selection of all chips shares: registers, blocks, held masks, selects, loops, skipped parts.

A chip says how a mask becomes flags, and what a condition on flags is called (`Polarity`); see `qpu.lang.select_v3d`
and `qpu.lang.select_vc4`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, TypeAlias

from qpu.core.optable import Token
from qpu.errors import Loc
from qpu.lang.inline_asm import Asm, Register, row_of
from qpu.lang.kir import Loop, Region, Skip, Value, walk
from qpu.lang.mir import Block, MOp, Operand

__all__ = ["ALIAS", "TAKES_R5", "Polarity", "Selector", "Uniform", "pattern"]

Uniform: TypeAlias = tuple[str, object]
"""What a uniform holds: ("const", bits), ("param", name), and of a launch "worker", "workers", "row" (the first row of
the VPM that belongs to the worker), "scratch" (address of scratch memory)."""

Polarity: TypeAlias = str
"""Which flags mean true: "a", "na" on V3D; "z", "nz", "n", "nn", "c", "cc" on VideoCore IV."""

TAKES_R5: Final = frozenset({"bcast", "shuffle", "asm", "loop", "if_any"})
"""Operations that may leave something in the accumulator that spreads one lane."""

ALIAS: Final = frozenset({"bitcast", "same"})
"""Operations that change no bit."""


def pattern(v: Value) -> int:
    """The bits of a constant; a mask is 0 or -1."""
    return (0xFFFFFFFF if v.attr else 0) if v.type == "b" else int(v.attr)


class Selector(ABC):
    """One selection. place: the operand of each KIR value; held: the mask that the flags tell, and its polarity."""

    special: Mapping[str, Callable[..., None]]
    foldable: frozenset[str]
    lean = False
    """Keep constants out of registers and make them anew in each block; near: those that the current block has."""

    def __init__(self, top: Region) -> None:
        self.count = 0
        self.waiting = 0  # result words that were asked for and not taken yet, where loads are asked for ahead
        self.place: dict[int, Operand] = {}
        self.uniforms: dict[Uniform, int] = {}
        self.entry: list[MOp] = []
        self.blocks: list[Block] = []
        self.depth = 0
        self.held: tuple[Value, str] | None = None
        self.uses: dict[int, int] = {}
        self.inside: dict[int, Region] = {}
        self.folded: set[int] = set()
        self.requests: list[MOp] = []
        self.near: dict[object, int] = {}
        self.assembled: dict[tuple[object, ...], dict[int, int]] = {}
        self.masks: list[Value] = []
        self.loc: Loc | None = None
        self.type = ""
        self.at: dict[int, int] = {}
        self.user: dict[int, Value] = {}
        for v in walk(top):
            for a in v.args:
                self.user[id(a)] = v
                self.uses[id(a)] = self.uses.get(id(a), 0) + 1
            if isinstance(v.attr, Loop | Skip):
                for y in v.attr.yields:
                    self.uses[id(y)] = self.uses.get(id(y), 0) + 1
                if isinstance(v.attr, Loop):
                    self.uses[id(v.attr.cond)] = self.uses.get(id(v.attr.cond), 0) + 1
        self.now = self.block("entry")

    # -- building

    def register(self) -> int:
        self.count += 1
        return self.count - 1

    def block(self, name: str) -> Block:
        made = Block(f"{name}{len(self.blocks)}", self.depth, pending=self.waiting)
        if self.blocks and (self.now.branch is None or self.now.branch[1]):
            self.now.falls = made
        self.blocks.append(made)
        self.now = made
        self.held = None
        self.near = {}
        return made

    def op(
        self, name: str, dst: Operand | None = None, a: Operand | None = None, b: Operand | None = None, **more: Any
    ) -> MOp:
        m = MOp(name, dst, a, b, loc=self.loc, **more)
        m.type = self.type
        self.now.ops.append(m)
        return m

    # -- of the chip

    @abstractmethod
    def operand(self, v: Value) -> Operand:
        """The place of a value; constants as the chip has them."""

    @abstractmethod
    def emit(self, v: Value, dst: Operand, cond: str = "") -> None:
        """The operation of a value, its result in `dst`."""

    @abstractmethod
    def flags(self, v: Value) -> Polarity:
        """Make the flags tell a mask that is neither held nor inverted."""

    lane_flags: ClassVar[Mapping[int, Polarity]]
    """For the numbers of lanes that flags tell at once after `push_lanes`: in lanes from there on."""

    @abstractmethod
    def push_lanes(self, lane: Value) -> None:
        """Make the flags tell those of `lane_flags`."""

    @abstractmethod
    def materialise(self, v: Value) -> int:
        """A mask as a register of 0 and -1, which later uses test."""

    @abstractmethod
    def bits(self, value: int) -> Operand:
        """A constant."""

    def cond(self, polarity: Polarity) -> str:
        """The condition of an operation."""
        return f"if{polarity}"

    def opposite(self, polarity: Polarity) -> Polarity:
        """True where it was false."""
        return polarity[1:] if polarity.startswith("n") and len(polarity) > 1 else f"n{polarity}"

    @abstractmethod
    def branch_any(self, polarity: Polarity) -> str:
        """The branch condition "in any lane"."""

    @abstractmethod
    def branch_all(self, polarity: Polarity) -> str:
        """The branch condition "in every lane"."""

    def branch_none(self, polarity: Polarity) -> str:
        """The branch condition "in no lane"."""
        return self.branch_all(self.opposite(polarity))

    def end_region(self) -> None:  # noqa: B027  # most chips have nothing to do here
        """Before a block ends: what belongs to its requests."""

    def sign(self, m: MOp) -> Polarity | None:
        """Let an addition tell whether its result is negative; None where it cannot."""
        return None

    # -- masks

    def mask(self, v: Value) -> Polarity:
        """Make the flags tell the mask."""
        while v.op in ALIAS:
            v = v.args[0]
        if self.held is not None and self.held[0] is v:
            return self.held[1]
        if v.op == "bnot":
            return self.opposite(self.mask(v.args[0]))
        polarity = self._by_sign(v) or self.flags(v)
        self.held = (v, polarity)
        return polarity

    def keep(self, v: Value, r: int) -> int:
        """A mask is in a register from here on, until the region ends that the register is written in."""
        self.place[id(v)] = r
        self.masks.append(v)
        return r

    def forget(self, count: int) -> None:
        """At the end of a region: masks that were put into registers inside it may never have been."""
        for v in self.masks[count:]:
            del self.place[id(v)]
        del self.masks[count:]

    # -- places between operations

    def whole(self, source: Operand) -> int:
        """A register, as rotations need it; the colouring finds an accumulator for it, or copies it."""
        if type(source) is int:
            return source
        held = self.register()
        self.op("mov", held, source)
        return held

    def passes(self, v: Value, others: frozenset[str]) -> bool:
        """Whether the only use of a result comes before the next operation that leaves one where this one does, so that
        it may be read there.
        """
        used, region = v, v.region
        while True:
            if self.uses.get(id(used)) != 1 or id(used) not in self.user:
                return False
            used = self.user[id(used)]
            if used.region is not region:
                return False
            if id(used) not in self.folded:
                break
        if used.op not in self.foldable and used.op not in ("data", "row", "select", "fabs"):
            return False
        between = region.ops[self.at[id(v)] + 1 : self.at[id(used)]]
        return not any(x.op in others for x in between)

    # -- regions

    def region(self, region: Region) -> None:
        outer, self.at = self.at, {id(v): n for n, v in enumerate(region.ops)}
        self._operations(region)
        self.at = outer

    def _operations(self, region: Region) -> None:
        for v in region.ops:
            if v.op in ("select", "data", "row") and id(v) not in self.folded:
                x = v.args[1 if v.op == "select" else 0]
                if x.op in self.foldable and self.uses.get(id(x)) == 1 and x.region is region:
                    self.folded.add(id(x))
        for v in _settled(region.ops):
            self.loc, self.type = v.loc, v.type
            self.one(v)

    def one(self, v: Value) -> None:
        op = v.op
        if op in ("const", "parameter", "result") or op in ALIAS or id(v) in self.folded:
            return
        if v.type == "b" and op not in ("loop", "if_any"):
            return  # computed where it is used
        special = self.special.get(op)
        if special is not None:
            special(self, v)
            return
        r = self.register()
        self.emit(v, r)
        self.place[id(v)] = r

    def _asm(self, v: Value) -> None:
        """The steps of inline assembly, once for all their results."""
        asm: Asm = v.attr
        key = (id(self.now), asm.part(0), *(id(a) for a in v.args))
        made = self.assembled.get(key)
        if made is None:
            made = self.assembled[key] = {}
            for step in asm.steps:
                row = row_of(asm.isa, step.op)
                operands = [self._of_asm(made, v, r, imm=n == 0) for n, r in enumerate(step.operands)]
                if len(operands) == 2 and operands[0] == operands[1] and row.same_operands:
                    operands[1] = self.register()
                    self.op("mov", operands[1], operands[0])
                dst = made.setdefault(step.dst.n, self.register())
                sfu = Token.SFU in row.tokens
                self.op(row.name, dst, *operands, cond=step.cond, push=step.push, rf_only=sfu)
                if step.push:
                    self.held = None
        self.place[id(v)] = self._of_asm(made, v, asm.results[asm.out], imm=True)

    def _of_asm(self, made: dict[int, int], v: Value, r: Register, *, imm: bool) -> Operand:
        """A value of inline assembly: what it made, or an input."""
        if r.n >= 0:
            return made[r.n]
        return self.operand(v.args[-1 - r.n]) if imm else self.in_register(v.args[-1 - r.n])

    @abstractmethod
    def in_register(self, v: Value) -> Operand:
        """As operand, but never an immediate."""

    def _select(self, v: Value) -> None:
        mask, a, b = v.args
        d = self.register()
        polarity = self._by_lane(mask) or self.mask(mask)
        self.op("mov", d, self.operand(b), role="copy")
        if id(a) in self.folded:
            self.emit(a, d, self.cond(polarity))
        else:
            self.op("mov", d, self.operand(a), cond=self.cond(polarity))
        self.place[id(v)] = d

    def _by_lane(self, v: Value) -> Polarity | None:
        """The flags that tell which lanes have at least some number, beside those that tell others (`lane_flags`)."""
        if v.op != "le" or v.args[1].op != "lane":
            return None
        least, lane = v.args[0].constant, v.args[1]
        if least is None or least not in self.lane_flags:
            return None
        if self.held is None or self.held[0] is not lane:
            self.push_lanes(lane)
            self.held = (lane, "")
        return self.lane_flags[least]

    def _loop(self, v: Value) -> None:
        attr: Loop = v.attr
        self.end_region()
        guard, inits = v.args[0], v.args[1:]
        always = guard.op == "const" and guard.attr
        skip = None
        for p, init in zip(attr.region.parameters, inits, strict=True):
            r = self.register()
            self.copy_into(r, init)
            self.place[id(p)] = r
        if not always:
            polarity = self.mask(self._lanes_of(guard))
            skip = self.branch_none(polarity)
        before, known = self.now, len(self.masks)
        self.depth += 1
        body = self.block("loop")
        self.region(attr.region)
        yields = [(self.place[id(p)], y) for p, y in zip(attr.region.parameters, attr.yields, strict=True)]
        for _, y in yields:
            if y.type == "b" and y.op != "const":
                self.materialise(y)
        polarity = self._condition(attr)
        self._parallel([(p, self.operand(y)) for p, y in yields])
        self.end_region()
        self.now.branch = (body, self.branch_any(polarity))
        self.now.loc = v.loc
        self.depth -= 1
        self.forget(known)
        end = self.block("end")
        if skip is not None:
            before.branch = (end, skip)
            before.loc = v.loc
        for result, p in zip(attr.results, attr.region.parameters, strict=True):
            self.place[id(result)] = self.place[id(p)]

    def copy_into(self, r: int, v: Value) -> None:
        if v.type == "b":
            source = self.bits(pattern(v)) if v.op == "const" else self.materialise(v)
            self.op("mov", r, source, role="copy")
        else:
            self.op("mov", r, self.operand(v), role="copy")

    @staticmethod
    def _lanes_of(v: Value) -> Value:
        """The mask behind `any`: a branch asks all lanes itself."""
        return v.args[0] if v.op == "any" else v

    def _condition(self, attr: Loop) -> Polarity:
        """Make the flags tell the loop's condition."""
        return self.mask(self._lanes_of(attr.cond))

    def _by_sign(self, v: Value) -> Polarity | None:
        """The addition that makes a value tells whether it is below zero, where nothing has used the flags since."""
        if v.op != "lt" or v.attr != "i" or v.args[1].constant != 0 or id(v) in self.place:
            return None
        x = self.place.get(id(v.args[0]))
        for m in reversed(self.now.ops):
            if m.push or m.update or m.cond or m.op in ("umul24", "multop"):
                return None
            if m.dst == x and m.op in ("add", "sub"):
                return self.sign(m)
        return None

    def _parallel(self, copies: list[tuple[Operand, Operand]]) -> None:
        """All at once: an order in which nothing is overwritten before it is read, with a register for cycles."""
        todo = [(d, s) for d, s in copies if d != s]
        while todo:
            for i, (d, s) in enumerate(todo):
                if not any(other == d for j, (_, other) in enumerate(todo) if j != i):
                    self.op("mov", d, s, role="copy")
                    todo.pop(i)
                    break
            else:
                d, s = todo[0]
                kept = self.register()
                self.op("mov", kept, d, role="copy")
                todo = [(x, kept if y == d else y) for x, y in todo]

    def _if_any(self, v: Value) -> None:
        attr: Skip = v.attr
        self.end_region()
        outs = []
        for r, old in zip(attr.results, v.args[1:], strict=True):
            d = self.register()
            self.copy_into(d, old)
            outs.append((r, d))
        polarity = self.mask(v.args[0])
        held = self.held
        before, known = self.now, len(self.masks)
        self.block("then")
        self.held = held
        self.region(attr.region)
        for y in attr.yields:
            if y.type == "b" and y.op != "const":
                self.materialise(y)
        self._parallel([(d, self.operand(y)) for (_, d), y in zip(outs, attr.yields, strict=True)])
        self.end_region()
        self.forget(known)
        end = self.block("end")
        before.branch = (end, self.branch_none(polarity))
        before.loc = v.loc
        for r, d in outs:
            self.place[id(r)] = d


def _settled(ops: list[Value]) -> Iterator[Value]:
    """Operations in order, neighbouring selects by the age of what they choose: then each old value ends before the new
    one takes its place, as when a list moves up by one.
    """
    run: list[Value] = []
    for v in ops:
        if v.op == "select" and not any(a in run for a in v.args) and (not run or run[0].args[0] is v.args[0]):
            run.append(v)
            continue
        yield from sorted(run, key=lambda x: x.args[1].number)
        run = []
        if v.op == "select":
            run.append(v)
        else:
            yield v
    yield from sorted(run, key=lambda x: x.args[1].number)
