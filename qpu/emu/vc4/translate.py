"""VideoCore IV programs to LLVM IR: chains of instructions that happen as a whole or not at all.

A chain is straight-line code. Its registers live in values; at its end everything it relied on is checked (addresses,
queues, conditions, no NaN), and only then registers are stored and its one outside effect happens. When a check fails,
the function returns with the state as it was before the chain, and the reference engine executes those instructions.

Floats in the fast variant: the host adds toward zero and takes denormal operands as zero, so a sum or product needs no
correction while only further sums and products use it. Elsewhere denormals and -0 become +0, and a NaN, for which
VideoCore IV has other rules, undoes the chain (`Reason.NAN`); such programs go on in the exact variant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llvmlite import ir

from qpu.core.optable import Op
from qpu.emu.engine.llvm_lanes import (
    F32X16,
    I1,
    I1X16,
    I8,
    I32,
    I32X16,
    I64,
    LANES,
    ROUND_TO_ZERO,
    FloatMode,
    LlvmLanes,
)
from qpu.emu.vc4.prepare import R5_ROTATION, Half, Place, Plan, Read, Source
from qpu.emu.vc4.translate_graph import DYNAMIC, MUTEX, Graph, Node, releases
from qpu.emu.vc4.translate_state import FAST_SUM, Arg, Reason, Slot, Tally
from qpu.emu.vc4.translate_units import Units
from qpu.vc4 import sem
from qpu.vc4.instr import Alu, Branch, LoadImm
from qpu.vc4.ops import SFU, is_move, saturated
from qpu.vc4.regs import BRANCH_CONDS, MUX_A, MUX_B, File

__all__ = ["Translation", "translate"]

_PTR = ir.PointerType()
I8X16 = ir.VectorType(I8, LANES)
I32X4 = ir.VectorType(I32, 4)
LONGEST = 512  # instructions of a chain
MOST_REQUESTS = 4  # of one TMU in a chain: what it takes from the queue must still be there if it is undone
_FLAGS = {"z": Slot.Z, "n": Slot.N, "c": Slot.C}
_LINKS = (Place.A, Place.B, Place.ACC, Place.R5_ALL, Place.R5_QUADS)


class _Value:
    """A register's content. raw: as float operations may take it; `plain` once denormals, -0 and NaN are dealt with."""

    __slots__ = ("plain", "raw")

    def __init__(self, raw: ir.Value, plain: ir.Value | None) -> None:
        self.raw = raw
        self.plain = plain


def raw_result(v: LlvmLanes, op: Op, a: ir.Value, b: ir.Value) -> ir.Value | None:
    """A sum or product by one host instruction, before `sem.flush`; None for other operations. For AVX-512.

    With the host's denormal operands counting as zero, the flushed result is that of `op.sem` unless it is a NaN.
    """
    if op.name == "fmul":
        return v.fmul(a, b)
    if op.name not in FAST_SUM:
        return None
    other = b if op.name == "fadd" else v.xor(b, v.const(sem.SIGN))
    operands = [v.b.bitcast(x, F32X16) for x in (a, other)]
    total = v.intrinsic("llvm.x86.avx512.add.ps.512", F32X16, [*operands, I32(ROUND_TO_ZERO)])
    return v.b.bitcast(total, I32X16)


@dataclass(slots=True)
class Translation:
    """The IR of a program. nodes[i] has number i; tallies[i] belongs to counters[i]; entries: numbers to start at."""

    ir: str
    nodes: list[Node] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)


def translate(graph: Graph, entries: Sequence[Node], *, fast: bool, avx512: bool) -> Translation:
    """The IR of everything native that can be reached in `graph` from `entries`, which are native themselves.

    fast: floats as described above; needs avx512.
    """
    return _Translator(graph, fast and avx512, avx512).run(entries)


class _Translator:
    def __init__(self, graph: Graph, fast: bool, avx512: bool) -> None:
        self.graph = graph
        self.fast = fast
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
        start = self.function.append_basic_block("entry")
        self.leave = self.function.append_basic_block("leave")
        self.b = ir.IRBuilder(start)
        self.v = LlvmLanes(self.b, avx512=self.avx512)
        self.units = Units(self)
        self.budget = self.b.alloca(I64)
        self.reason = self.b.alloca(I32)
        self.b.store(self.function.args[Arg.BUDGET], self.budget)
        mode = FloatMode(self.v, zero_denormals=self.fast)
        bad = self.function.append_basic_block("bad")
        switch = self.b.switch(self.load_scalar(Slot.RESUME), bad)
        self.leaders |= set(entries)
        for node in entries:
            switch.add_case(I32(self.number(node)), self.block(node))
        while self.todo:
            self.chain(self.todo.pop())
        self.b.position_at_end(bad)
        self.b.store(I32(Reason.BAD), self.reason)
        self.b.branch(self.leave)
        self.b.position_at_end(self.leave)
        mode.restore()
        self.b.store(self.b.load(self.budget, typ=I64), self.pointer(Slot.LEFT))
        self.b.ret(self.b.load(self.reason, typ=I32))
        return Translation(str(self.module), list(self.numbers), self.tallies, [self.numbers[n] for n in entries])

    def number(self, node: Node) -> int:
        return self.numbers.setdefault(node, len(self.numbers))

    def block(self, node: Node) -> ir.Block:
        found = self.blocks.get(node)
        if found is None:
            found = self.blocks[node] = self.function.append_basic_block(f"i{node.at}")
            self.todo.append(node)
        return found

    def native(self, node: Node) -> bool:
        return node.at >= 0 and node in self.graph.follow and node not in self.graph.reasons

    # -- memory of the state block

    def pointer(self, word: int) -> ir.Value:
        return self.b.gep(self.function.args[Arg.STATE], [I64(4 * int(word))], source_etype=I8)

    def load_scalar(self, slot: int, kind: ir.Type = I32) -> ir.Value:
        return self.b.load(self.pointer(slot), typ=kind)

    def store_scalar(self, slot: int, value: ir.Value) -> None:
        self.b.store(value, self.pointer(slot))

    def splat(self, scalar: ir.Value) -> ir.Value:
        undefined = ir.Constant(I32X16, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, I32(0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(I32X16, [0] * LANES))

    def bits(self, mask: ir.Value) -> ir.Value:
        """The 16 lanes of a mask as a number."""
        return self.b.bitcast(mask, ir.IntType(16))

    def any_lane(self, mask: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("!=", self.bits(mask), ir.IntType(16)(0))

    def all_lanes(self, mask: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("==", self.bits(mask), ir.IntType(16)(0xFFFF))

    # -- chains

    def chain(self, node: Node) -> None:
        """Emit from `node` on until control can go two ways, leaves, or meets a block that exists."""
        self.b.position_at_end(self.blocks[node])
        self.first = node
        self.registers: dict[int, _Value] = {}
        self.dirty: dict[int, None] = {}
        self.flags: dict[str, ir.Value] = {}
        self.dirty_flags: dict[str, None] = {}
        self.latched: dict[Slot, ir.Value] = {}
        self.checks: list[ir.Value] = []  # i1: the chain must be undone
        self.unordered: list[ir.Value] = []  # values that must not be NaN
        self.taken: ir.Value | None = None
        self.target: ir.Value | None = None
        self.effects: list[Callable[[], None]] = []
        self.tally = Tally()
        self.units.begin()
        while True:
            plan = self.graph.plan(node.at)
            assert plan is not None
            self.step(node, plan)
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
        """The branch whose last delay slot was `node` takes effect."""
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
        """Check, then store what the chain did. Ends in a block where control may be passed on."""
        stores = [(number, self.plain(self.registers[number])) for number in self.dirty]
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
            found = b.fcmp_unordered("uno", b.bitcast(x, F32X16), b.bitcast(y, F32X16))
            nan = found if nan is None else b.or_(nan, found)
        fails = undo
        some: ir.Value | None = None
        if nan is not None:
            some = self.any_lane(nan)
            fails = some if fails is None else b.or_(fails, some)
        if fails is not None:
            bad = self.function.append_basic_block("undo")
            good = self.function.append_basic_block("commit")
            b.cbranch(fails, bad, good).set_weights([1, 100_000])
            b.position_at_end(bad)
            self.store_scalar(Slot.AT, I32(self.number(self.first)))
            self.store_scalar(Slot.HOLD, I32(self.tally.instructions))
            reason: ir.Value = I32(Reason.FAIL)
            if some is not None:
                reason = I32(Reason.NAN) if undo is None else b.select(undo, reason, I32(Reason.NAN))
            b.store(reason, self.reason)
            b.branch(self.leave)
            b.position_at_end(good)
        for number, value in stores:
            b.store(value, self.pointer(16 * number)).align = 64
        for name in self.dirty_flags:
            b.store(b.zext(self.flags[name], I8X16), self.pointer(_FLAGS[name])).align = 16
        for slot, value in self.latched.items():
            last = b.shuffle_vector(value, value, ir.Constant(I32X4, [12, 13, 14, 15]))
            b.store(last, self.pointer(slot)).align = 16
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

    # -- registers: ra0..31 are 0..31, rb0..31 are 32..63, r0..r5 are 64..69, the SFU's result is 70

    def register(self, number: int) -> _Value:
        found = self.registers.get(number)
        if found is None:
            value = self.b.load(self.pointer(16 * number), typ=I32X16)
            value.align = 64
            found = self.registers[number] = _Value(value, value)
        return found

    def put(self, number: int, value: _Value) -> None:
        self.registers[number] = value
        self.dirty[number] = None

    def value(self, bits: ir.Value) -> _Value:
        """A register's content that is no result of float arithmetic."""
        return _Value(bits, bits)

    def plain(self, value: _Value) -> ir.Value:
        """The bits as VideoCore IV has them."""
        if value.plain is None:
            self.unordered.append(value.raw)
            value.plain = sem.flush(self.v, value.raw)
        return value.plain

    def flag(self, name: str) -> ir.Value:
        found = self.flags.get(name)
        if found is None:
            value = self.b.load(self.pointer(_FLAGS[name]), typ=I8X16)
            value.align = 16
            found = self.flags[name] = self.b.icmp_unsigned("!=", value, ir.Constant(I8X16, [0] * LANES))
        return found

    def condition(self, code: int) -> ir.Value | None:
        """Lanes in which a write condition holds; None for always."""
        if code < 2:
            return None
        flag = self.flag("znc"[(code >> 1) - 1])
        return self.v.mnot(flag) if code & 1 else flag

    def set_flags(self, result: ir.Value, carry: ir.Value | None, mask: ir.Value | None) -> None:
        v = self.v
        zero = v.const(0)
        new = {"z": v.eq(result, zero), "n": v.slt(result, zero), "c": v.mconst(False) if carry is None else carry}
        for name, value in new.items():
            if mask is not None:
                value = self.b.select(mask, value, self.flag(name))
            self.flags[name] = value
            self.dirty_flags[name] = None

    # -- instructions

    def step(self, node: Node, plan: Plan) -> None:
        """Emit one instruction."""
        self.tally.add(plan)
        if isinstance(plan.instr, Branch):
            self.branch(node, plan, plan.instr)
        elif isinstance(plan.instr, LoadImm):
            self.load_immediate(plan, plan.instr)
        else:
            assert isinstance(plan.instr, Alu)
            self.alu(plan)
        if node.sfu == 1:
            self.put(68, self.register(70))

    def read(self, source: Source | None, file: File) -> _Value | None:
        """The value of a read port, with its side effect; latches are kept up."""
        if source is None or source.read in (Read.LATCH, Read.SHARED):
            return None
        if source.read is Read.REGISTER:
            value = self.register(source.index + (0 if file is File.A else 32))
            if self.latches:
                self.latch(file, self.plain(value))
            return value
        if source.read is Read.SMALL_IMM:
            found = self.v.const(source.index)
        elif source.read is Read.INPUT and source.index == 32:
            found = self.splat(self.units.uniform())
        elif source.read is Read.INPUT and source.index == 48:
            found = self.units.vpm_read()
        elif source.read is Read.INPUT and source.index == 49:
            found = self.splat(self.units.busy(file))
        else:
            if source.read is Read.INPUT and source.index == 50:
                self.units.wait(file)
            elif source.read is Read.INPUT and source.index == MUTEX:
                self.units.take_mutex()
            found = self.v.lane_id() if file is File.A else self.splat(self.load_scalar(Slot.QPU))
        self.latch(file, found)
        return _Value(found, found)

    def latch(self, file: File, value: ir.Value) -> None:
        if self.latches:
            self.latched[Slot.LATCH_A if file is File.A else Slot.LATCH_B] = value

    def compute(self, half: Half, a: _Value, b: _Value | None) -> _Value:
        """The result of an operation."""
        op, v = half.op, self.v
        assert op.sem is not None
        if b is not None and a is b and is_move(op):
            return a
        if self.fast and b is not None:
            raw = raw_result(v, op, a.raw, b.raw)
            if raw is not None:
                return _Value(raw, None)
        result = op.sem(v, self.plain(a), v.const(0) if b is None else self.plain(b))
        return _Value(result, result)

    def carry(self, half: Half, a: _Value, b: _Value | None, result: ir.Value) -> ir.Value | None:
        carry = half.op.carry
        if carry is None:
            return None
        found: ir.Value = carry(self.v, self.plain(a), self.v.const(0) if b is None else self.plain(b), result)
        return found

    def alu(self, plan: Plan) -> None:
        v = self.v
        add, mul = plan.add, plan.mul
        assert add is not None and mul is not None
        va = self.read(plan.read_a, File.A)
        if plan.read_b is not None and plan.read_b.read is Read.SHARED:
            vb = va
            if va is not None:
                self.latch(File.B, self.plain(va))
        else:
            vb = self.read(plan.read_b, File.B)
        r4: _Value | None = None
        if plan.unpack is not None:
            convert = plan.unpack.as_float if plan.unpack_float else plan.unpack.as_int
            if plan.unpack_r4:
                if plan.unpack.code:
                    value = convert(v, self.plain(self.register(68)))
                    r4 = _Value(value, value)
            elif va is not None and plan.unpack.code:
                value = convert(v, self.plain(va))
                va = _Value(value, value)

        def operand(mux: int) -> _Value:
            if mux == MUX_A:
                assert va is not None
                return va
            if mux == MUX_B:
                assert vb is not None
                return vb
            if mux == 4 and r4 is not None:
                return r4
            return self.register(64 + mux)

        results: list[tuple[Half, _Value, ir.Value | None]] = []
        flags: tuple[ir.Value, ir.Value | None, ir.Value | None] | None = None
        if add.active:
            a = operand(add.a)
            b = (a if add.a == add.b else operand(add.b)) if add.op.arity == 2 else None
            result = self.compute(add, a, b)
            mask = self.condition(add.cond)
            if plan.flags_from == "add":
                flags = self.plain(result), self.carry(add, a, b, self.plain(result)), mask
            if add.pack is not None and add.pack.saturate_first and b is not None:
                limited = saturated(v, add.op, self.plain(a), self.plain(b), self.plain(result))
                result = _Value(limited, limited)
            results.append((add, result, mask))
        if mul.active:
            a = operand(mul.a)
            b = a if mul.a == mul.b else operand(mul.b)
            if plan.rotate is not None:
                a2 = self.rotated(plan, a, mul.a)
                b = a2 if b is a and mul.a == mul.b else self.rotated(plan, b, mul.b)
                a = a2
            result = self.compute(mul, a, b)
            mask = self.condition(mul.cond)
            if plan.flags_from == "mul":
                flags = self.plain(result), self.carry(mul, a, b, self.plain(result)), mask
            if self.latches:
                self.latched[Slot.LATCH_MUL] = self.plain(result)
            results.append((mul, result, mask))
        for half, result, mask in results:
            self.write(half, result, mask)
        if flags is not None:
            self.set_flags(*flags)
        if plan.load is not None:
            self.put(68, self.value(self.units.load(plan.load)))

    def rotated(self, plan: Plan, value: _Value, mux: int) -> _Value:
        v = self.v
        if mux == MUX_B:
            return value
        assert plan.rotate is not None
        x = self.plain(value)
        rotate = sem.rotate_full if mux < 4 else sem.rotate_in_quads
        if plan.rotate == R5_ROTATION:
            amount = v.and_(self.splat(self.b.extract_element(self.plain(self.register(69)), I32(0))), v.const(15))
            moved = rotate(v, x, amount)
        else:
            lanes = range(LANES)
            n = plan.rotate
            index = [(i - n) & 15 for i in lanes] if mux < 4 else [(i & 12) | ((i - n) & 3) for i in lanes]
            moved = self.b.shuffle_vector(x, x, ir.Constant(I32X16, index))
        return _Value(moved, moved)

    def write(self, half: Half, value: _Value, mask: ir.Value | None) -> None:
        """Write-back of one half in the lanes of `mask`."""
        v, dest = self.v, half.dest
        place = dest.place
        if place is Place.NONE:
            return
        if place is Place.IO:
            x = self.plain(value)
            if mask is not None:
                scalar = dest.number in (40, 49, 50, MUTEX)
                holds = self.b.extract_element(mask, I32(0)) if scalar else self.all_lanes(mask)
                self.checks.append(self.b.not_(holds))
            if dest.number in SFU:
                result = SFU[dest.number].sem(v, x)
                self.put(70, _Value(result, result))
            else:
                self.units.write(dest.number, dest.file, x)
            return
        number = {Place.A: 0, Place.B: 32, Place.ACC: 64}.get(place, 64) + (
            5 if place in (Place.R5_ALL, Place.R5_QUADS) else dest.number
        )
        if half.pack is not None and half.pack.code:
            packed = half.pack.sem(v, self.plain(self.register(number)), self.plain(value), half.is_float)
            value = _Value(packed, packed)
        if place in (Place.R5_ALL, Place.R5_QUADS):
            first = [i & 12 if place is Place.R5_QUADS else 0 for i in range(LANES)]
            x = self.plain(value)
            x = self.b.shuffle_vector(x, x, ir.Constant(I32X16, first))
            value = _Value(x, x)
            if mask is not None:
                mask = self.b.shuffle_vector(mask, mask, ir.Constant(I32X16, first))
        if mask is not None:
            x = self.b.select(mask, self.plain(value), self.plain(self.register(number)))
            value = _Value(x, x)
        self.put(number, value)

    def load_immediate(self, plan: Plan, instr: LoadImm) -> None:
        assert plan.add is not None and plan.mul is not None
        loaded = sem.load_immediate(self.v, int(instr.mode), instr.imm)
        value = _Value(loaded, loaded)
        masks = [self.condition(h.cond) for h in (plan.add, plan.mul)]
        for half, mask in zip((plan.add, plan.mul), masks, strict=True):
            if half.cond or half.dest.place is Place.IO:
                self.write(half, value, mask)
        if plan.flags_from:
            self.set_flags(loaded, None, masks[0])

    def branch(self, node: Node, plan: Plan, instr: Branch) -> None:
        assert plan.add is not None and plan.mul is not None
        b = self.b
        row = next(c for c in BRANCH_CONDS if c.code == instr.cond)
        taken: ir.Value = I1(1)
        if row.flag:
            flag = self.flag(row.flag)
            if not row.when:
                flag = self.v.mnot(flag)
            taken = self.all_lanes(flag) if row.every else self.any_lane(flag)
        self.taken = taken
        following = b.add(self.load_scalar(Slot.BASE), I32(8 * node.at + 32))
        if self.graph.target(node.at) == DYNAMIC:
            target: ir.Value = I32(instr.imm)
            if instr.rel:
                target = b.add(target, following)
            if instr.reg:
                register = self.plain(self.register(instr.raddr_a))
                low, high = (b.extract_element(register, I32(n)) for n in (0, 15))
                self.checks.append(b.and_(taken, b.icmp_unsigned("!=", low, high)))
                target = b.add(target, low)
            self.target = target
        links = [h for h in (plan.add, plan.mul) if h.dest.place in _LINKS]
        if links:
            link = self.splat(following)
            zeros = ir.Constant(I32X16, [0] * LANES)
            one = b.insert_element(ir.Constant(I1X16, [0] * LANES), taken, I32(0))
            mask = b.shuffle_vector(one, one, zeros) if row.flag else None
            for half in links:
                self.write(half, _Value(link, link), mask)
