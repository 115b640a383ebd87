"""The translator of VideoCore IV programs to LLVM IR: chains of instructions that execute completely or not at all.

A chain is straight-line code. Its registers are LLVM values. At its end all its assumptions are checked (addresses,
queues, conditions, no NaN); only then are the registers stored and its one effect outside the QPU performed. When a
check fails, the function returns with the state before the chain, and the reference engine executes the instructions.

Floats in the fast strategies of `qpu.emu.engine.directed`: a sum or product needs no correction while only further sums
and products use it, also across chains (`Slot.RAW`). For all other uses, and before the function returns, denormals and
-0 become +0. A NaN, for which VideoCore IV has other rules, or a result that the strategy cannot round, undoes the
chain (`Reason.NAN`); programs with many of them continue in the exact strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from qpu.core.optable import Op
from qpu.emu.engine.directed import Floats, Sums
from qpu.emu.engine.llvm_lanes import (
    F32X16,
    I1,
    I1X16,
    I8,
    I16,
    I32,
    I32X16,
    I64,
    LANES,
    FloatMode,
    long,
    number_of,
    quick_names,
    splat,
)
from qpu.emu.engine.native import checkpoint
from qpu.emu.engine.shared_lanes import SharedLanes, shared
from qpu.emu.vc4 import alu
from qpu.emu.vc4.prepare import Dest, Plan
from qpu.emu.vc4.translate_graph import DYNAMIC, MUTEX, Graph, Node, releases
from qpu.emu.vc4.translate_state import Arg, Reason, Slot, Tally
from qpu.emu.vc4.translate_units import Units
from qpu.vc4 import sem
from qpu.vc4.instr import Alu, Branch, LoadImm
from qpu.vc4.regs import File

__all__ = ["Translation", "translate"]

Index = NDArray[np.intp]
_PTR = ir.PointerType()
I8X16 = ir.VectorType(I8, LANES)
I32X4 = ir.VectorType(I32, 4)
LONGEST = 512  # instructions of a chain
MOST_REQUESTS = 4  # of one TMU in a chain: popped results must remain in the queue in case the chain is undone
_FLAGS = {"z": Slot.Z, "n": Slot.N, "c": Slot.C}
_FUNCTIONS = {Alu: alu.operate, LoadImm: alu.load, Branch: alu.branch}
_SUMS: dict[Any, Callable[[Sums, ir.Value, ir.Value], ir.Value]] = {
    sem.fadd: Sums.add,
    sem.fsub: Sums.sub,
    sem.fmul: Sums.mul,
}
_LONG = (sem.v8muld,)  # operations with so much code that they are functions
SFU_RESULT = (Slot.SFU - Slot.A) // LANES


class Value:
    """The content of a register as bits, as floats, or both, each made when it is first needed.

    plain: the bits that VideoCore IV would have. Sums and products have none before they are used otherwise, because
    the host's denormals and -0 must become +0 first, and a NaN undoes the chain. unknown: number of a register that may
    hold such a sum or product of an earlier chain; `Slot.RAW` says so when the code runs.
    """

    __slots__ = ("bits", "plain", "single", "unknown")

    def __init__(
        self, bits: ir.Value | None, *, single: ir.Value | None = None, plain: bool = True, unknown: int | None = None
    ) -> None:
        self.bits = bits
        self.single = single
        self.plain = bits if plain else None
        self.unknown = unknown

    @property
    def raw(self) -> bool:
        """It is a sum or product that has had no other use."""
        return self.plain is None and self.unknown is None


@dataclass(slots=True)
class Translation:
    """The IR of a program. nodes[i] has number i; tallies[i] belongs to counters[i]; entries: numbers to start at."""

    module: object  # its str is the IR
    nodes: list[Node] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)


def translate(graph: Graph, entries: Sequence[Node], *, floats: Floats, avx512: bool) -> Translation:
    """The IR of all native nodes that can be reached in `graph` from `entries`, which must be native."""
    return _Translator(graph, floats, avx512).run(entries)


class _Translator:
    def __init__(self, graph: Graph, floats: Floats, avx512: bool) -> None:
        self.graph = graph
        self.floats = floats
        self.avx512 = avx512
        self.latches = graph.latches
        self.module = ir.Module("qpu")
        self.blocks: dict[Node, ir.Block] = {}
        self.numbers: dict[Node, int] = {}
        self.tallies: list[Tally] = []
        self.todo: list[Node] = []
        before: dict[Node, int] = {}
        for after in graph.follow.values():
            for n in after:
                before[n] = before.get(n, 0) + 1
        self.leaders = {n for n, count in before.items() if count > 1}

    # -- the function

    def run(self, entries: Sequence[Node]) -> Translation:
        types = [_PTR, _PTR, _PTR, I64, _PTR, _PTR, I64]
        self.function = ir.Function(self.module, ir.FunctionType(I32, types), "run")
        quick_names(self.function)
        start = self.function.append_basic_block("entry")
        self.leave = self.function.append_basic_block("leave")
        self.b = ir.IRBuilder(start)
        directed = self.floats is Floats.DIRECTED
        if directed:
            set.add(self.function.attributes, "strictfp")  # bypasses llvmlite's check, which rejects this attribute
        self.v = SharedLanes(self.b, avx512=self.avx512, directed=directed)
        self.sums = None if self.floats is Floats.EXACT else Sums(self.v, self.floats)
        if directed and self.sums is not None:
            self.v.from_int = self.sums.from_int
        self.raw = self.may_be_raw()
        self.units = Units(self)
        self.budget = self.b.alloca(I64)
        self.reason = self.b.alloca(I32)
        self.b.store(self.function.args[Arg.BUDGET], self.budget)
        # Where undone chains go, with the number of the first node, the length of the chain, and the reason.
        self.undo = self.function.append_basic_block("undo")
        phis = ir.IRBuilder(self.undo)
        self.undone = [phis.phi(I32) for _ in range(3)]
        self.mode = FloatMode(self.v, zero_denormals=self.floats is Floats.EMBEDDED, directed=directed)
        bad = self.function.append_basic_block("bad")
        switch = self.b.switch(self.load_scalar(Slot.RESUME), bad)
        self.leaders |= set(entries)
        for node in entries:
            switch.add_case(I32(self.number(node)), self.block(node))
        while self.todo:
            self.chain(self.todo.pop())
        self.b.position_at_end(bad)
        self.b.store(I32(Reason.BAD), self.reason)
        for phi in self.undone:
            phi.add_incoming(I32(0), bad)
        self.b.cbranch(I1(0), self.undo, self.leave)
        self.b.position_at_end(self.undo)
        number, length, reason = self.undone
        self.store_scalar(Slot.AT, number)
        self.store_scalar(Slot.HOLD, length)
        self.b.store(reason, self.reason)
        self.b.branch(self.leave)
        self.b.position_at_end(self.leave)
        if self.raw:
            self.settle()
        self.mode.restore()
        self.b.store(self.b.load(self.budget, typ=I64), self.pointer(Slot.LEFT))
        self.b.ret(self.b.load(self.reason, typ=I32))
        return Translation(self.module, list(self.numbers), self.tallies, [self.numbers[n] for n in entries])

    def number(self, node: Node) -> int:
        return self.numbers.setdefault(node, len(self.numbers))

    def block(self, node: Node) -> ir.Block:
        found = self.blocks.get(node)
        if found is None:
            found = self.blocks[node] = self.function.append_basic_block(f"i{node.at}")
            self.todo.append(node)
        return found

    def may_be_raw(self) -> frozenset[int]:
        """Registers that a sum or product can reach."""
        if self.sums is None:
            return frozenset()
        halves = [h for p in self.graph.plans.values() if isinstance(p.instr, Alu) for h in (p.add, p.mul) if h.active]
        return frozenset(h.dest.register for h in halves if h.dest.register >= 0 and (h.move or h.op.sem in _SUMS))

    def settle(self) -> None:
        """Before the function returns: what is marked in `Slot.RAW` becomes plain."""
        b, sums = self.b, self.sums
        assert sums is not None
        for word in sorted({number >> 6 for number in self.raw}):
            before = b.block
            loop, body, done = (self.function.append_basic_block(n) for n in ("raw", "plain", "settled"))
            first = self.load_scalar(Slot.RAW + 2 * word, I64)
            b.branch(loop)
            b.position_at_end(loop)
            mask = b.phi(I64)
            mask.add_incoming(first, before)
            b.cbranch(b.icmp_unsigned("==", mask, I64(0)), done, body)
            b.position_at_end(body)
            number = b.add(self.v.intrinsic("llvm.cttz.i64", I64, [mask, I1(1)]), I64(64 * word))
            at = b.gep(self.function.args[Arg.STATE], [b.shl(number, I64(6))], source_etype=I8)
            value = b.load(at, typ=F32X16)
            value.align = 64
            b.store(sums.plain(value), at).align = 64
            mask.add_incoming(b.and_(mask, b.sub(mask, I64(1))), b.block)
            b.branch(loop)
            b.position_at_end(done)
            self.store_scalar(Slot.RAW + 2 * word, I64(0))

    def native(self, node: Node) -> bool:
        return node.at >= 0 and node in self.graph.follow and node not in self.graph.reasons

    # -- memory of the state block

    def pointer(self, word: int) -> ir.Value:
        return self.b.gep(self.function.args[Arg.STATE], [long(4 * int(word))], source_etype=I8)

    def load_scalar(self, slot: int, kind: ir.Type = I32) -> ir.Value:
        return self.b.load(self.pointer(slot), typ=kind)

    def store_scalar(self, slot: int, value: ir.Value) -> None:
        self.b.store(value, self.pointer(slot))

    def splat(self, scalar: ir.Value) -> ir.Value:
        return splat(self.b, scalar)

    # -- chains

    def chain(self, node: Node) -> None:
        """Emit code from `node` on until control forks, leaves the function, or reaches a block that exists."""
        self.b.position_at_end(self.blocks[node])
        self.first = node
        self.registers: dict[int, Value] = {}
        self.dirty: dict[int, None] = {}
        self.flags: dict[str, ir.Value] = {}
        self.dirty_flags: dict[str, None] = {}
        self.latched_values: dict[int, ir.Value] = {}
        self.checks: list[ir.Value] = []  # i1: the chain must be undone
        self.unordered: list[ir.Value] = []  # floats that must not be NaN
        self.rounded = False  # whether there are sums or products
        self.taken: ir.Value | None = None
        self.target: ir.Value | None = None
        self.effects: list[Callable[[], None]] = []
        self.tally = Tally()
        self.units.begin()
        while True:
            checkpoint()
            plan = self.graph.plan(node.at)
            assert plan is not None
            self.at = node.at
            self.tally.add(plan)
            _FUNCTIONS[type(plan.instr)](self, plan)
            if node.sfu == 1:
                self.put(alu.R4, self.register(SFU_RESULT), None)
            after = self.graph.follow[node]
            if len(after) > 1 or node.left == 1:
                self.commit(after[-1])
                self.jump(node, after)
                return
            (following,) = after
            if releases(plan):
                self.commit(following)
                self.exit(Reason.YIELD, following)
                return
            if not self.native(following):
                self.commit(following)
                self.exit(Reason.EXIT, following)
                return
            if (
                self.effects
                or following in self.blocks
                or following in self.leaders
                or self.tally.instructions >= LONGEST
                or max(self.units.requests) >= MOST_REQUESTS
            ):
                self.commit(following)
                self.b.branch(self.block(following))
                return
            node = following

    def exit(self, reason: Reason, node: Node) -> None:
        self.store_scalar(Slot.AT, I32(self.number(node)))
        self.b.store(I32(reason), self.reason)
        self.b.branch(self.leave)

    def jump(self, node: Node, after: tuple[Node, ...]) -> None:
        """Emit the jump of the branch whose last delay slot was `node`."""
        goal = after[-1]
        if len(after) > 1:
            taken = self.taken
            if taken is None:
                taken = self.b.icmp_unsigned("!=", self.load_scalar(Slot.TAKEN), I32(0))
            here = self.function.append_basic_block("taken")
            there = self.function.append_basic_block("through")
            self.b.cbranch(taken, here, there)
            self.b.position_at_end(there)
            self.go(after[0])
            self.b.position_at_end(here)
        if goal.at < 0:
            self.exit(Reason.JUMP, goal)
            return
        if self.native(goal) and goal.at <= node.at:
            spent = self.b.icmp_signed("<=", self.b.load(self.budget, typ=I64), I64(0))
            stop = self.function.append_basic_block("budget")
            go_on = self.function.append_basic_block("again")
            self.b.cbranch(spent, stop, go_on)
            self.b.position_at_end(stop)
            self.exit(Reason.BUDGET, goal)
            self.b.position_at_end(go_on)
        self.go(goal)

    def go(self, node: Node) -> None:
        if self.native(node):
            self.b.branch(self.block(node))
        else:
            self.exit(Reason.EXIT, node)

    def commit(self, following: Node) -> None:
        """Emit the checks and then the stores of the chain. The builder ends in the block after the stores."""
        stores, raw = self.results()
        self.units.finish()
        b = self.b
        undo: ir.Value | None = None
        for check in self.checks:
            undo = check if undo is None else b.or_(undo, check)
        nan: ir.Value | None = None
        unordered = list(self.unordered)
        if len(unordered) % 2:
            unordered.append(unordered[-1])
        for x, y in zip(unordered[::2], unordered[1::2], strict=True):
            assert self.sums is not None
            found = self.sums.unordered(x, y)
            if not self.avx512:
                found = b.sext(found, I32X16)  # without AVX-512, vectors of i1 are slow
            nan = found if nan is None else b.or_(nan, found)
        fails = undo
        some: ir.Value | None = None
        if nan is not None:
            some = self.some(nan if self.avx512 else b.icmp_signed("<", nan, self.v.const(0)))
        if self.floats is Floats.DIRECTED and self.rounded:
            exceeded = self.mode.exceeded()
            some = exceeded if some is None else b.or_(some, exceeded)
        if some is not None:
            fails = some if fails is None else b.or_(fails, some)
        if fails is not None:
            good = self.function.append_basic_block("commit")
            reason: ir.Value = I32(Reason.FAIL)
            if some is not None:
                reason = I32(Reason.NAN) if undo is None else b.select(undo, reason, I32(Reason.NAN))
            undone = (I32(self.number(self.first)), I32(self.tally.instructions), reason)
            for phi, value in zip(self.undone, undone, strict=True):
                phi.add_incoming(value, b.block)
            b.cbranch(fails, self.undo, good).set_weights([1, 100_000])
            b.position_at_end(good)
        for number, value in stores:
            b.store(value, self.pointer(16 * number)).align = 64
        self.mark(raw)
        for name in self.dirty_flags:
            b.store(b.zext(self.flags[name], I8X16), self.pointer(_FLAGS[name])).align = 16
        for which, value in self.latched_values.items():
            last = b.shuffle_vector(value, value, ir.Constant(I32X4, [12, 13, 14, 15]))
            b.store(last, self.pointer(Slot.LATCH_A + 4 * which)).align = 16
        if following.left or following.at < 0:
            if self.taken is not None:
                self.store_scalar(Slot.TAKEN, b.zext(self.taken, I32))
            if self.target is not None:
                self.store_scalar(Slot.TARGET, self.target)
        self.units.commit()
        for effect in self.effects:
            effect()
        at = b.gep(self.function.args[Arg.COUNTERS], [I64(8 * len(self.tallies))], source_etype=I8)
        b.store(b.add(b.load(at, typ=I64), I64(1)), at)
        self.tallies.append(self.tally)
        b.store(b.sub(b.load(self.budget, typ=I64), I64(self.tally.instructions)), self.budget)

    # -- the thread that the functions of `alu` use; the SFU's result is register 70

    def value(self, bits: ir.Value) -> Value:
        return Value(bits)

    def single(self, x: Value) -> ir.Value:
        """A register content as operand of sums and products."""
        if x.single is None:
            bits = x.bits
            assert bits is not None
            if isinstance(bits, ir.Constant):  # LLVM computes with constants itself, and with their denormals
                bits = ir.Constant(I32X16, [n if n & sem.INF else 0 for n in map(number_of, bits.constant)])
            x.single = self.b.bitcast(bits, F32X16)
        return x.single

    def bits(self, x: Value) -> ir.Value:
        if x.bits is None:
            x.bits = self.b.bitcast(x.single, I32X16)
        return x.bits

    def plain(self, x: Value) -> ir.Value:
        """The bits that VideoCore IV would have."""
        if x.plain is None:
            b, sums = self.b, self.sums
            assert sums is not None
            plain = b.bitcast(sums.plain(self.single(x)), I32X16)
            if x.unknown is None:
                self.unordered.append(self.single(x))
            else:
                word = self.load_scalar(Slot.RAW + 2 * (x.unknown >> 6), I64)
                raw = b.trunc(b.lshr(word, I64(x.unknown & 63)), I1)
                plain = b.select(raw, plain, self.bits(x))
            x.plain = plain
        return x.plain

    def register(self, number: int) -> Value:
        found = self.registers.get(number)
        if found is None:
            bits = self.b.load(self.pointer(16 * number), typ=I32X16)
            bits.align = 64
            unknown = number if number in self.raw else None
            found = self.registers[number] = Value(bits, plain=unknown is None, unknown=unknown)
        return found

    def put(self, number: int, x: Value, mask: ir.Value | None) -> None:
        if mask is not None:
            old = self.register(number)
            if x.raw and old.raw:
                x = Value(self.b.select(mask, self.bits(x), self.bits(old)), plain=False)
            else:
                x = self.value(self.b.select(mask, self.plain(x), self.plain(old)))
        self.registers[number] = x
        self.dirty[number] = None

    def results(self) -> tuple[list[tuple[int, ir.Value]], set[int]]:
        """What the chain leaves in registers, and which of them are not plain."""
        stores: list[tuple[int, ir.Value]] = []
        kept: set[int] = set()
        for number in self.dirty:
            x = self.registers[number]
            if x.raw and number in self.raw:
                self.unordered.append(self.single(x))
                kept.add(number)
                stores.append((number, self.single(x)))
            else:
                stores.append((number, self.plain(x)))
        return stores, kept

    def mark(self, kept: set[int]) -> None:
        """Say in `Slot.RAW` which of the registers that the chain wrote are not plain."""
        b = self.b
        for word in range(2):
            mine = [n for n in self.dirty if n >> 6 == word and n in self.raw]
            ones = sum(1 << (n & 63) for n in mine if n in kept)
            zeros = sum(1 << (n & 63) for n in mine if n not in kept)
            if mine:
                now = self.load_scalar(Slot.RAW + 2 * word, I64)
                self.store_scalar(Slot.RAW + 2 * word, b.or_(b.and_(now, I64(~zeros)), I64(ones)))

    def move(self, x: Value) -> Value:
        return x

    def compute(self, op: Op, a: Value, b: Value | None) -> Value:
        v = self.v
        if self.sums is not None and b is not None and op.sem in _SUMS:
            self.rounded = True
            return Value(None, single=_SUMS[op.sem](self.sums, self.single(a), self.single(b)), plain=False)
        assert op.sem is not None
        first, second = self.plain(a), v.const(0) if b is None else self.plain(b)
        if op.sem in _LONG or (op.sem in _SUMS and not self.avx512):
            return self.value(v.b.call(shared(self.module, op.name, 2, op.sem, avx512=self.avx512), [first, second]))
        return self.value(op.sem(v, first, second))

    def shuffle(self, bits: ir.Value, lanes: Index) -> ir.Value:
        return self.b.shuffle_vector(bits, bits, ir.Constant(I32X16, lanes.tolist()))

    shuffle_mask = shuffle

    def latch(self, which: int, x: Value) -> None:
        if self.latches:
            self.latched_values[which] = self.plain(x)

    def latched(self, which: int) -> ir.Value:
        raise AssertionError("`why_not` excludes what reads latches")

    def flag(self, name: str) -> ir.Value:
        found = self.flags.get(name)
        if found is None:
            value = self.b.load(self.pointer(_FLAGS[name]), typ=I8X16)
            value.align = 16
            found = self.flags[name] = self.b.icmp_unsigned("!=", value, ir.Constant(I8X16, [0] * LANES))
        return found

    def set_flags(self, z: ir.Value, n: ir.Value, c: ir.Value, mask: ir.Value | None) -> None:
        for name, new in (("z", z), ("n", n), ("c", c)):
            self.flags[name] = new if mask is None else self.b.select(mask, new, self.flag(name))
            self.dirty_flags[name] = None

    def input(self, file: File, address: int) -> ir.Value:
        if address == 32:
            return self.units.uniform()
        if address == 48:
            return self.units.vpm_read()
        if address == 49:
            return self.splat(self.units.busy(file))
        if address == 50:
            self.units.wait(file)
        elif address == MUTEX:
            self.units.take_mutex()
        return self.splat(self.load_scalar(Slot.QPU)) if file is File.B else self.v.lane_id()

    def output(self, dest: Dest, bits: ir.Value, mask: ir.Value | None) -> None:
        self.check_condition(mask, scalar=dest.number in (40, 49, 50, MUTEX))
        self.units.write(dest.number, dest.file, bits)

    def start_sfu(self, dest: Dest, result: ir.Value, mask: ir.Value | None) -> None:
        self.check_condition(mask, scalar=False)
        self.put(SFU_RESULT, self.value(result), None)

    def check_condition(self, mask: ir.Value | None, *, scalar: bool) -> None:
        """Fail where a condition fails: hardware writes undefined data there, which the reference engine reports."""
        if mask is not None:
            self.checks.append(self.b.not_(self.b.extract_element(mask, I32(0)) if scalar else self.every(mask)))

    def tmu_result(self, tmu: int) -> ir.Value:
        return self.units.load(tmu)

    def clash(self, plan: Plan, add: ir.Value, mul: ir.Value, masks: tuple[ir.Value | None, ir.Value | None]) -> None:
        """Emit nothing: `why_not` admits complementary conditions only."""

    def some(self, mask: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("!=", self.b.bitcast(mask, I16), I16(0))

    def every(self, mask: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("==", self.b.bitcast(mask, I16), I16(0xFFFF))

    def branch(self, instr: Branch, taken: ir.Value | None) -> None:
        b = self.b
        self.taken = I1(1) if taken is None else taken
        if self.graph.target(self.at) == DYNAMIC:
            target: ir.Value = I32(instr.imm)
            if instr.rel:
                target = b.add(target, self.following())
            if instr.reg:
                register = self.plain(self.register(instr.raddr_a))
                low, high = (b.extract_element(register, I32(n)) for n in (0, 15))
                self.checks.append(b.and_(self.taken, b.icmp_unsigned("!=", low, high)))
                target = b.add(target, low)
            self.target = target

    def link(self, taken: ir.Value | None) -> tuple[ir.Value, ir.Value | None]:
        mask = None
        if taken is not None:
            one = self.b.insert_element(ir.Constant(I1X16, [0] * LANES), taken, I32(0))
            mask = self.b.shuffle_vector(one, one, ir.Constant(I32X16, [0] * LANES))
        return self.splat(self.following()), mask

    def following(self) -> ir.Value:
        """The address after the delay slots of the branch under construction."""
        return self.b.add(self.load_scalar(Slot.BASE), I32(8 * (self.at + 1 + alu.BRANCH_SLOTS)))
