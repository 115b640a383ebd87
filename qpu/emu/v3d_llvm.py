"""V3D programs to LLVM IR: the control-flow graph with delay slots, one function per program.

Every instruction becomes straight-line code over the state block of one QPU thread (`Slot`); operation semantics come
from the rows of `qpu.v3d.ops` through `LlvmLanes`. A node of the graph is an instruction together with what is pending
(a branch in its delay slots, a thread switch in its slots). The function returns to the scheduler at suspension points
with a `Reason`, and goes on at the node it left in the state's `resume`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from llvmlite import ir

from qpu.core.isa import Isa
from qpu.core.optable import Flags, Op
from qpu.emu.llvm_lanes import I1, I1X16, I8, I16, I32, I32X16, I64, I64X16, LANES, LlvmLanes
from qpu.errors import DecodeError
from qpu.v3d.decoder import decode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.ops import FLOAT_ADDS, FLOAT_MULS, PACK, UNPACK
from qpu.v3d.regs import imm_bits

__all__ = [
    "DATA_SLOTS",
    "FIFO_SLOTS",
    "Node",
    "NodeStats",
    "Reason",
    "Slot",
    "Translation",
    "Untranslatable",
    "translate",
]

FIFO_SLOTS = 32  # result vectors a thread can have pending before a request goes to the slow path
DATA_SLOTS = 8


class Reason(enum.IntEnum):
    """Why the function returned."""

    END = 0
    SWITCH = 1
    BARRIER = 2
    BUDGET = 3
    TMU = 4  # a request that the translated code leaves to the host
    EMPTY = 5  # ldtmu with nothing pending
    UNIFORM = 6  # a uniform or unifa word outside all buffers
    JUMP = 7  # a branch to a node that was not translated; `jump` holds the address
    UNSUPPORTED = 8
    YIELD = 10  # others get their turn; nothing else happens
    BAD_CODE = 9  # execution came to a word that is no instruction, or left the program


class Slot(enum.IntEnum):
    """Offsets into the state block of a thread, in 32-bit words."""

    RF = 0
    ACC = 1024  # r0..r5
    RTOP = 1120
    MSF = 1136
    REVF = 1152
    ADDRESS = 1168  # of a request handed to the host
    DATA = 1184  # DATA_SLOTS vectors
    FIFO = 1184 + 16 * DATA_SLOTS
    SCALARS = 1184 + 16 * DATA_SLOTS + 16 * FIFO_SLOTS
    RESUME = SCALARS
    UNIFORM = SCALARS + 1
    UNIFA = SCALARS + 2
    CONFIG = SCALARS + 3
    HEAD = SCALARS + 4  # of the result ring
    COUNT = SCALARS + 5
    PENDING = SCALARS + 6  # data words written
    LINK = SCALARS + 7
    A_LO = SCALARS + 8  # flags: one bit a lane, for each half
    A_HI = SCALARS + 9
    B_LO = SCALARS + 10
    B_HI = SCALARS + 11
    TIDX = SCALARS + 12
    MASK = SCALARS + 13  # live lanes of a request handed to the host
    TAKEN = SCALARS + 14
    TARGET = SCALARS + 15
    JUMP = SCALARS + 16
    SYNC = SCALARS + 17  # a barrier was asked for
    AT = SCALARS + 18  # instruction index of the last suspension
    CODE = SCALARS + 19  # address of instruction 0
    PEAK = SCALARS + 20  # most result words pending
    THEN = SCALARS + 21  # the reason that holds once the host has done a request; GO_ON for none
    UNIFORM_HOST = SCALARS + 22  # 64 bits: host address of the next uniform, 0 = look it up
    UNIFA_HOST = SCALARS + 24
    LEFT = SCALARS + 26  # 64 bits: what remained of the budget
    REQUESTS = SCALARS + 28  # 64 bits each: TMU requests and bytes of the translated code, since the thread started
    READ_BYTES = SCALARS + 30
    WRITE_BYTES = SCALARS + 32
    MARKED = SCALARS + 34  # with JUMP: the last-switch marker was seen
    SAVE = SCALARS + 36  # 64 bits: host function (state, extent) that keeps copies of pages before their first store
    LIMIT = SCALARS + 38  # result words that may be pending before the host looks at it
    WORDS = SCALARS + 48


GO_ON = 0xFF


class Untranslatable(Exception):
    """The program, or a part that was asked for, is left to the reference engine. args[0]: why."""


class _NoInstruction(Exception):
    """There is nothing to execute at an index."""


class Node(NamedTuple):
    """An instruction with what is pending. branch: delay slots left, 0 = none. target: index of a static branch
    target, -1 dynamic. switch: slots left of a thread switch, as a tuple of countdowns. last: the previous
    instruction had thrsw. ends: the next switch ends the program."""

    at: int
    branch: int = 0
    target: int = -1
    switch: tuple[int, ...] = ()
    thrsw_before: bool = False
    marked: bool = False


@dataclass(slots=True)
class NodeStats:
    """Static counts of a basic block; a run multiplies them with the block's execution count."""

    instructions: int = 0
    add_ops: int = 0
    mul_ops: int = 0
    fadds: int = 0
    fmuls: int = 0
    uniforms: int = 0
    sfu_ops: int = 0
    branches: int = 0
    switches: int = 0


@dataclass(slots=True)
class Translation:
    """The IR of a program. stats[i] belongs to counters[i]; entries: node -> number that `resume` takes."""

    ir: str
    stats: list[NodeStats] = field(default_factory=list)
    entries: dict[Node, int] = field(default_factory=dict)
    max_rf: int = 0  # highest register that is named
    reach: int = 0  # highest instruction index that was translated


_PTR = ir.PointerType()
_STATE, _MEMORY, _PAGES, _SAVED, _SNAPSHOT, _COUNTERS, _BUDGET = range(7)
_PUSH = {"pushz": "z", "pushn": "n", "pushc": "c"}
_TMUA, _TMUAU, _TMUD, _TMUC, _UNIFA, _NOP, _R5, _R5REP = 12, 13, 11, 32, 9, 6, 5, 55
_TMU_DATA = {11, 38, 39}  # tmud; tmudref and tmuoff carry data words too (v3d reference 9.2)
_SYNC = {16, 18}
_SFU_MAGIC = {19: "recip", 20: "rsqrt", 21: "exp", 22: "log", 23: "sin", 24: "rsqrt2"}
_FIFO_MASK = FIFO_SLOTS - 1


def translate(
    isa: Isa, words: Sequence[int], entries: Sequence[Node], *, single_segment: bool, avx512: bool
) -> Translation:
    """The IR of every node that can be reached from `entries`.

    Raises: Untranslatable for programs that use what only the reference engine models.
    """
    return _Translator(isa, words, single_segment, avx512).run(entries)


def _writes_sync(isa: Isa, word: int) -> bool:
    try:
        instr = decode(isa, word)
    except DecodeError:
        return False
    if not isinstance(instr, Alu):
        return False
    return any(h.dst is not None and h.dst.magic and h.dst.n in _SYNC for h in (instr.add, instr.mul))


class _Translator:
    def __init__(self, isa: Isa, words: Sequence[int], single_segment: bool, avx512: bool) -> None:
        self.isa = isa
        self.seven = isa is Isa.V3D71
        self.words = words
        self.single_segment = single_segment
        self.avx512 = avx512
        self.decoded: dict[int, Instr] = {}
        self.module = ir.Module("qpu")
        self.stats: list[NodeStats] = []
        self.entries: dict[Node, int] = {}
        self.blocks: dict[Node, ir.Block] = {}
        self.todo: list[Node] = []
        self.max_rf = 0
        # Threads that meet at barriers exchange data; some read a neighbour's and overwrite their own without a second
        # barrier (the trap of v3d reference 8.4). So they take turns at every request.
        self.lockstep = any(_writes_sync(isa, w) for w in words)
        self.tmu = _tmu_function(self.module, isa, avx512)
        self.refill = _refill_function(self.module)

    # -- graph

    def run(self, entries: Sequence[Node]) -> Translation:
        types = [_PTR, _PTR, _PTR, _PTR, _PTR, _PTR, I64]
        self.function = ir.Function(self.module, ir.FunctionType(I32, types), "run")
        self.function.args[_STATE].add_attribute("noalias")
        self.function.args[_COUNTERS].add_attribute("noalias")
        start = self.function.append_basic_block("entry")
        self.leave = self.function.append_basic_block("leave")
        self.b = ir.IRBuilder(start)
        self.v = LlvmLanes(self.b, avx512=self.avx512)
        self.budget = self.b.alloca(I64)
        self.reason = self.b.alloca(I32)
        self.b.store(self.function.args[_BUDGET], self.budget)
        resume = self.load_scalar(Slot.RESUME)
        bad = self.function.append_basic_block("bad")
        switch = self.b.switch(resume, bad)
        for node in entries:
            self.entry(node)
        while self.todo:
            self.emit_chain(self.todo.pop())
        for node, number in self.entries.items():
            switch.add_case(I32(number), self.blocks[node])
        self.b.position_at_end(bad)
        self.b.ret(I32(Reason.UNSUPPORTED))
        self.b.position_at_end(self.leave)
        self.b.store(self.b.load(self.budget, typ=I64), self.pointer(int(Slot.LEFT)))
        self.b.ret(self.b.load(self.reason, typ=I32))
        return Translation(str(self.module), self.stats, self.entries, self.max_rf, max(self.decoded, default=0))

    def entry(self, node: Node) -> int:
        number = self.entries.setdefault(node, len(self.entries))
        self.block(node)
        return number

    def block(self, node: Node) -> ir.Block:
        found = self.blocks.get(node)
        if found is None:
            found = self.blocks[node] = self.function.append_basic_block(f"i{node.at}")
            self.todo.append(node)
        return found

    def instr(self, index: int) -> Instr:
        found = self.decoded.get(index)
        if found is None:
            if not 0 <= index < len(self.words):
                raise _NoInstruction
            try:
                found = decode(self.isa, self.words[index])
            except DecodeError as error:
                raise _NoInstruction from error
            self.decoded[index] = found
        return found

    def emit_chain(self, node: Node) -> None:
        """Emit from `node` on until control leaves or meets a block that exists."""
        self.b.position_at_end(self.blocks[node])
        self.count = NodeStats()
        self.counter = len(self.stats)
        self.stats.append(self.count)
        while True:
            try:
                instr = self.instr(node.at)
            except _NoInstruction:
                self.close_chain()
                self.exit(Reason.BAD_CODE, node.at, None)
                return
            self.count.instructions += 1
            after = self.step(node, instr)
            if after is None:
                return
            if after in self.blocks:
                self.close_chain()
                self.b.branch(self.blocks[after])
                return
            node = after
            if self.count.instructions >= 512:
                self.close_chain()
                self.b.branch(self.block(node))
                return

    def close_chain(self) -> None:
        """Account for the instructions of the chain that ends here."""
        at = self.b.gep(self.function.args[_COUNTERS], [I64(8 * self.counter)], source_etype=I8)
        self.b.store(self.b.add(self.b.load(at, typ=I64), I64(1)), at)
        left = self.b.sub(self.b.load(self.budget, typ=I64), I64(self.count.instructions))
        self.b.store(left, self.budget)

    def restart_chain(self) -> None:
        """The chain goes on under a new counter."""
        self.count = NodeStats()
        self.counter = len(self.stats)
        self.stats.append(self.count)

    def exit(self, reason: Reason, index: int, resume: int | None) -> None:
        """Leave the function; the current block ends here."""
        if resume is not None:
            self.store_scalar(Slot.RESUME, I32(resume))
        self.store_scalar(Slot.AT, I32(index))
        self.b.store(I32(reason), self.reason)
        self.b.branch(self.leave)

    # -- one instruction

    def step(self, node: Node, instr: Instr) -> Node | None:
        """Emit the instruction; returns what follows, or None when the block has been ended."""
        index = node.at
        slow: ir.Value | None = None
        thrsw = False
        if isinstance(instr, Branch):
            if node.branch or node.switch:
                raise Untranslatable(f"branch at {index} in delay slots")
            self.count.branches += 1
            target = self.branch(index, instr)
            follow = Node(index + 1, 3, target, (), False, node.marked)
        else:
            slow = self.alu(index, instr)
            thrsw = bool(instr.sig & Sig.THRSW)
            switch = tuple(n - 1 for n in node.switch)
            marked = node.marked
            if thrsw:
                if node.thrsw_before:
                    marked = True  # the second of two in a row only marks the first as the last
                else:
                    switch = (*switch, 2)
            follow = Node(
                index + 1, max(0, node.branch - 1), node.target if node.branch > 1 else -1, switch, thrsw, marked
            )
        return self.settle(node, follow, slow)

    def settle(self, node: Node, follow: Node, slow: ir.Value | None) -> Node | None:
        """What takes effect between `node` and `follow`: a request left to the host, a thread switch, a branch."""
        index = node.at
        if 0 in follow.switch:
            if node.branch == 1 or follow.branch:
                raise Untranslatable(f"thread switch at {index} while a branch is pending")
            if self.ends(node):
                self.close_chain()
                self.suspend(I32(Reason.END), index, None, slow)
                return None
            self.count.switches += 1
            self.close_chain()
            number = self.entry(follow._replace(switch=tuple(n for n in follow.switch if n)))
            self.store_vector(int(Slot.RTOP), self.v.const(0))
            sync = self.b.icmp_unsigned("!=", self.load_scalar(Slot.SYNC), I32(0))
            reason = self.b.select(sync, I32(Reason.BARRIER), I32(Reason.SWITCH))
            self.suspend(reason, index, number, slow)
            return None
        if node.branch == 1:
            self.close_chain()
            self.jump(node, follow, slow)
            return None
        if slow is not None:
            if self.lockstep:
                self.close_chain()
                self.store_scalar(Slot.RESUME, I32(self.entry(follow)))
                self.suspend(self.b.select(slow, I32(Reason.TMU), I32(Reason.YIELD)), index, None, None)
                return None
            with self.b.if_then(slow, likely=False):
                self.close_chain()
                self.suspend(I32(Reason.TMU), index, self.entry(follow), None)
            self.close_chain()
            self.restart_chain()
        return follow

    def suspend(self, reason: ir.Value, index: int, resume: int | None, slow: ir.Value | None) -> None:
        """Leave with `reason`; when `slow`, with TMU first and `reason` once the host has done the request."""
        then: ir.Value = I32(GO_ON)
        if slow is not None:
            then = self.b.select(slow, reason, then)
            reason = self.b.select(slow, I32(Reason.TMU), reason)
        self.store_scalar(Slot.THEN, then)
        if resume is not None:
            self.store_scalar(Slot.RESUME, I32(resume))
        self.store_scalar(Slot.AT, I32(index))
        self.b.store(reason, self.reason)
        self.b.branch(self.leave)

    def ends(self, node: Node) -> bool:
        return self.single_segment or self.end_marked(node)

    def end_marked(self, node: Node) -> bool:
        """The switch that takes effect now came after the last-switch marker. The thrsw stands two earlier."""
        return node.marked and not self.marker_at(node.at - 2)

    def marker_at(self, index: int) -> bool:
        """The thrsw at `index` is the first of a marking pair."""
        try:
            after = self.instr(index + 1)
        except _NoInstruction:
            return False
        return isinstance(after, Alu) and bool(after.sig & Sig.THRSW)

    def conditional(self, node: Node) -> bool:
        """Whether the branch whose last slot is `node` may not be taken."""
        branch = self.instr(node.at - 3)
        return isinstance(branch, Branch) and bool(branch.cond)

    def jump(self, node: Node, follow: Node, slow: ir.Value | None) -> None:
        """The branch whose last slot was `node` takes effect."""
        through = Node(follow.at, marked=follow.marked)
        taken = self.b.icmp_unsigned("!=", self.load_scalar(Slot.TAKEN), I32(0))
        if slow is not None:
            if node.target < 0:
                raise Untranslatable(f"TMU request at {node.at} in the last slot of a computed branch")
            with self.b.if_then(slow, likely=False):
                goal = self.entry(Node(node.target, marked=follow.marked))
                number: ir.Value = I32(goal)
                if self.conditional(node):
                    number = self.b.select(taken, number, I32(self.entry(through)))
                self.store_scalar(Slot.RESUME, number)
                self.suspend(I32(Reason.TMU), node.at, None, None)
        if self.conditional(node):
            here = self.function.append_basic_block("taken")
            self.b.cbranch(taken, here, self.block(through))
            self.b.position_at_end(here)
        if node.target >= 0:
            there = Node(node.target, marked=follow.marked)
            number = self.entry(there)
            if node.target <= node.at:
                spent = self.b.icmp_signed("<=", self.b.load(self.budget, typ=I64), I64(0))
                stop = self.function.append_basic_block("budget")
                self.b.cbranch(spent, stop, self.block(there))
                self.b.position_at_end(stop)
                self.exit(Reason.BUDGET, node.at, number)
            else:
                self.b.branch(self.block(there))
            return
        self.store_scalar(Slot.JUMP, self.load_scalar(Slot.TARGET))
        self.store_scalar(Slot.MARKED, I32(int(follow.marked)))
        self.exit(Reason.JUMP, node.at, None)

    # -- state access

    def pointer(self, word: ir.Value | int) -> ir.Value:
        offset = I64(4 * word) if isinstance(word, int) else self.b.shl(self.b.zext(word, I64), I64(2))
        return self.b.gep(self.function.args[_STATE], [offset], source_etype=I8)

    def load_scalar(self, slot: int) -> ir.Value:
        return self.b.load(self.pointer(int(slot)), typ=I32)

    def store_scalar(self, slot: int, value: ir.Value) -> None:
        self.b.store(value, self.pointer(int(slot)))

    def load_vector(self, word: ir.Value | int) -> ir.Value:
        value = self.b.load(self.pointer(word), typ=I32X16)
        value.align = 64
        return value

    def store_vector(self, word: ir.Value | int, value: ir.Value) -> None:
        self.b.store(value, self.pointer(word)).align = 64

    def flags(self, slot: Slot) -> ir.Value:
        return self.b.bitcast(self.b.trunc(self.load_scalar(slot), I16), I1X16)

    def store_flags(self, slot: Slot, mask: ir.Value) -> None:
        self.store_scalar(slot, self.b.zext(self.b.bitcast(mask, I16), I32))

    def splat(self, scalar: ir.Value) -> ir.Value:
        undefined = ir.Constant(I32X16, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, I32(0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(I32X16, [0] * LANES))

    def register(self, n: int) -> int:
        self.max_rf = max(self.max_rf, n)
        return Slot.RF + 16 * n

    def accumulator(self, n: int) -> int:
        return Slot.ACC + 16 * n

    # -- ALU

    def source(self, instr: Alu, src: Src | None, rotate: Callable[[Src, ir.Value], ir.Value] | None) -> ir.Value:
        assert src is not None
        if src.kind is SrcKind.IMM:
            if src.n >= 48:
                raise Untranslatable("reserved small immediate")
            value = self.v.const(imm_bits(src.n))
        elif src.kind is SrcKind.ACC:
            value = self.load_vector(self.accumulator(src.n))
        else:
            value = self.load_vector(self.register(src.n))
        if rotate is not None:
            value = rotate(src, value)
        return UNPACK[src.mod](self.v, value) if src.mod else value

    def rotation(self, instr: Alu) -> Callable[[Src, ir.Value], ir.Value] | None:
        """How the rot signal of 4.2 moves a mul operand."""
        if not instr.sig & Sig.ROT:
            return None
        v = self.v
        index = instr.raddr_b
        if index == 0:
            amount = self.splat(self.b.extract_element(self.load_vector(self.accumulator(5)), I32(0)))
        elif index < 32:
            amount = v.const(index if index < 16 else index - 32)
        else:
            raise Untranslatable("rotation by a reserved amount")

        def rotate(src: Src, value: ir.Value) -> ir.Value:
            lane = v.lane_id()
            moved = v.and_(v.sub(lane, amount), v.const(15 if src.kind is SrcKind.ACC else 3))
            if src.kind is SrcKind.ACC:
                return v.permute(value, moved)
            return v.permute(value, v.or_(v.and_(lane, v.const(12)), moved))

        return rotate

    def implicit(self, name: str) -> ir.Value:
        v = self.v
        if name in ("flags_a", "flags_b"):
            low, high = (Slot.A_LO, Slot.A_HI) if name == "flags_a" else (Slot.B_LO, Slot.B_HI)
            one, two, zero = v.const(1), v.const(2), v.const(0)
            return v.or_(v.select(self.flags(low), one, zero), v.select(self.flags(high), two, zero))
        if name == "tidx":
            return self.splat(self.load_scalar(Slot.TIDX))
        if name == "link":
            return self.splat(self.load_scalar(Slot.LINK))
        slot = {"rtop": Slot.RTOP, "msf": Slot.MSF, "revf": Slot.REVF}.get(name)
        if slot is None:
            raise Untranslatable(f"implicit operand {name}")
        return self.load_vector(int(slot))

    def store_implicit(self, name: str, value: ir.Value) -> None:
        v = self.v
        if name == "flags_a":
            for slot, bit in ((Slot.A_LO, 1), (Slot.A_HI, 2)):
                self.store_flags(slot, v.mnot(v.eq(v.and_(value, v.const(bit)), v.const(0))))
            return
        slot2 = {"rtop": Slot.RTOP, "msf": Slot.MSF, "revf": Slot.REVF}.get(name)
        if slot2 is None:
            raise Untranslatable(f"implicit result {name}")
        self.store_vector(int(slot2), value)

    def compute(
        self, instr: Alu, half: AluHalf, mul: bool
    ) -> tuple[ir.Value | None, list[ir.Value], list[tuple[str, ir.Value]]]:
        """(result, operands, implicit results) of one half."""
        op = half.op
        if op.machine == "nop" or op.name == "nop":
            return None, [], []
        if op.machine in ("barrierid", "tmuwt"):
            return self.v.const(0), [], []
        if op.sem is None or op.graphics:
            raise Untranslatable(f"operation {op.name}")
        rotate = self.rotation(instr) if mul else None
        operands = [self.source(instr, src, rotate) for src in (half.a, half.b)[: op.arity]]
        extra = [self.implicit(name) for name in op.implicit_reads]
        found = op.sem(self.v, *operands, *extra)
        if op.implicit_writes:
            value, *others = found
            return value, operands, list(zip(op.implicit_writes, others, strict=True))
        return found, operands, []

    def flag(self, op: Op, which: str, operands: list[ir.Value], result: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Z, N or C of a result for the low and high halves."""
        v = self.v
        special = {"z": op.zero, "n": op.negative, "c": op.carry}[which]
        if special is not None:
            mask = special(v, *operands, result)
            return mask, mask
        if which == "c":
            none = v.mconst(False)
            return none, none
        if op.flags is Flags.HALVES:
            if which == "z":
                zero = v.const(0)
                return v.eq(v.and_(result, v.const(0xFFFF)), zero), v.eq(v.shr(result, v.const(16)), zero)
            sign = v.const(0)
            return v.slt(v.shl(result, v.const(16)), sign), v.slt(result, sign)
        mask = v.eq(result, v.const(0)) if which == "z" else v.slt(result, v.const(0))
        return mask, mask

    def condition(self, cond: str) -> tuple[ir.Value, ir.Value] | None:
        if not cond:
            return None
        low, high = (Slot.A_LO, Slot.A_HI) if cond.endswith("a") else (Slot.B_LO, Slot.B_HI)
        masks = self.flags(low), self.flags(high)
        return (self.v.mnot(masks[0]), self.v.mnot(masks[1])) if cond.startswith("ifn") else masks

    def blend(self, masks: tuple[ir.Value, ir.Value] | None, new: ir.Value, old: Callable[[], ir.Value]) -> ir.Value:
        if masks is None:
            return new
        v = self.v
        low = v.select(masks[0], new, old())
        high = v.select(masks[1], new, old())
        return v.or_(v.and_(low, v.const(0xFFFF)), v.and_(high, v.const(0xFFFF0000)))

    def alu(self, index: int, instr: Alu) -> ir.Value | None:
        """Emit an ALU instruction. Returns the condition under which the host must do its TMU request."""
        v, sig = self.v, instr.sig
        if sig & (Sig.LDVARY | Sig.LDTLB | Sig.LDTLBU | Sig.UCB):
            raise Untranslatable("graphics signal")
        halves = []
        for half, mul in ((instr.add, False), (instr.mul, True)):
            result, operands, extra = self.compute(instr, half, mul)
            halves.append((half, result, operands, extra, self.condition(half.cond)))
        self.tally(instr)
        # New flags, from values of this instruction and flags before it.
        pushes: list[tuple[Slot, ir.Value]] = []
        for half, result, operands, _, _ in halves:
            if not (half.push or half.update):
                continue
            value = v.const(0) if result is None else result
            if half.push:
                low, high = self.flag(half.op, _PUSH[half.push], operands, value)
                pushes += [(Slot.B_LO, self.flags(Slot.A_LO)), (Slot.B_HI, self.flags(Slot.A_HI))]
                pushes += [(Slot.A_LO, low), (Slot.A_HI, high)]
            else:
                name = half.update
                negate = len(name) == 5
                low, high = self.flag(half.op, name[-1], operands, value)
                for slot, f in ((Slot.A_LO, low), (Slot.A_HI, high)):
                    f = v.mnot(f) if negate else f
                    old = self.flags(slot)
                    pushes.append((slot, v.mand(old, f) if name.startswith("and") else v.mnot(v.mor(old, f))))
        # Words from the streams: read before any write takes effect.
        word: ir.Value | None = None
        if sig & (Sig.LDUNIF | Sig.LDUNIFRF | Sig.WRTMUC) or any(
            h.dst is not None and h.dst.magic and h.dst.n == _TMUAU for h in (instr.add, instr.mul)
        ):
            word = self.stream(index, Slot.UNIFORM, Slot.UNIFORM_HOST)
        side: ir.Value | None = None
        if sig & (Sig.LDUNIFA | Sig.LDUNIFARF):
            side = self.stream(index, Slot.UNIFA, Slot.UNIFA_HOST)
        loaded: ir.Value | None = None
        if sig & Sig.LDTMU:
            loaded = self.pop(index)
        # Results.
        request: ir.Value | None = None
        writes: list[tuple[Dst, ir.Value, tuple[ir.Value, ir.Value] | None, str]] = []
        for half, result, _, extra, masks in halves:
            for name, value in extra:
                if masks is not None and name in ("msf", "flags_a"):
                    raise Untranslatable(f"conditional {half.op.name}")
                self.store_implicit(name, value)
            if half.dst is not None and result is not None and not (half.dst.magic and half.dst.n == _NOP):
                writes.append((half.dst, result, masks, half.pack))
        if len(writes) == 2 and writes[0][0] == writes[1][0] and not (writes[0][2] and writes[1][2]):
            raise Untranslatable(f"both halves of instruction {index} write the same destination")
        for dst, value, masks, pack in sorted(writes, key=lambda w: w[0].magic and w[0].n in (_TMUA, _TMUAU)):
            slow = self.write(index, dst, value, masks, pack, word)
            request = slow if slow is not None else request
        if request is None and sig & Sig.WRTMUC:
            assert word is not None
            self.store_scalar(Slot.CONFIG, word)
        elif sig & Sig.WRTMUC:
            raise Untranslatable("wrtmuc beside a request")
        for slot, mask in pushes:
            self.store_flags(slot, mask)
        # Signal results.
        if word is not None and sig & (Sig.LDUNIF | Sig.LDUNIFRF):
            implicit = Dst(0) if self.seven else Dst(_R5, True)
            self.write_plain(implicit if sig & Sig.LDUNIF else self.sig_dst(instr), self.splat(word))
        if side is not None:
            implicit = Dst(0) if self.seven else Dst(_R5, True)
            self.write_plain(implicit if sig & Sig.LDUNIFA else self.sig_dst(instr), self.splat(side))
        if loaded is not None:
            self.write_plain(self.sig_dst(instr), loaded)
        return request

    def tally(self, instr: Alu) -> None:
        c = self.count
        c.add_ops += instr.add.op.name != "nop"
        c.mul_ops += instr.mul.op.name != "nop"
        c.fadds += instr.add.op.name in FLOAT_ADDS
        c.fmuls += instr.mul.op.name in FLOAT_MULS
        sfu = {h.dst.n for h in (instr.add, instr.mul) if h.dst is not None and h.dst.magic}
        c.sfu_ops += bool(sfu & set(_SFU_MAGIC)) or instr.add.op.name in {*_SFU_MAGIC.values()}

    def sig_dst(self, instr: Alu) -> Dst:
        assert instr.sig_dst is not None
        return instr.sig_dst

    def write_plain(self, dst: Dst, value: ir.Value) -> None:
        if dst.magic and dst.n == _NOP:
            return
        if dst.magic and (self.seven or dst.n not in range(6)):
            raise Untranslatable(f"signal to magic address {dst.n}")
        if dst.magic and dst.n == _R5:
            self.store_vector(self.accumulator(5), value)  # a signal's word is the same in all lanes
            return
        self.store_vector(self.accumulator(dst.n) if dst.magic else self.register(dst.n), value)

    def write(
        self,
        index: int,
        dst: Dst,
        value: ir.Value,
        masks: tuple[ir.Value, ir.Value] | None,
        pack: str,
        word: ir.Value | None,
    ) -> ir.Value | None:
        """Write a result; returns the slow condition of a TMU request."""
        v = self.v
        if not dst.magic:
            at = self.register(dst.n)
            if pack:
                value = PACK[pack](v, self.load_vector(at), value)
            self.store_vector(at, self.blend(masks, value, lambda: self.load_vector(at)))
            return None
        if pack:
            if self.seven or dst.n > _R5:
                raise Untranslatable(f"packed write to magic address {dst.n}")
            value = PACK[pack](v, self.load_vector(self.accumulator(dst.n)), value)
        quad = [4 * (i // 4) for i in range(LANES)]
        if dst.n <= 4 and not self.seven:
            at = self.accumulator(dst.n)
            self.store_vector(at, self.blend(masks, value, lambda: self.load_vector(at)))
            return None
        if dst.n in (_R5, _R5REP):
            if masks is not None:
                raise Untranslatable("conditional replicating write")
            lanes = quad if dst.n == _R5 else [0] * LANES
            moved = v.permute(value, ir.Constant(I32X16, lanes))
            self.store_vector(self.register(0) if self.seven else self.accumulator(5), moved)
            return None
        if dst.n in _TMU_DATA:
            if masks is not None:
                raise Untranslatable("conditional data word")
            pending = self.load_scalar(Slot.PENDING)
            place = self.b.add(I32(int(Slot.DATA)), self.b.shl(self.b.and_(pending, I32(DATA_SLOTS - 1)), I32(4)))
            self.store_vector(place, value)
            self.store_scalar(Slot.PENDING, self.b.add(pending, I32(1)))
            return None
        if dst.n == _TMUC:
            if masks is not None:
                raise Untranslatable("conditional configuration")
            self.store_scalar(Slot.CONFIG, self.b.extract_element(value, I32(0)))
            return None
        if dst.n == _UNIFA:
            if masks is not None:
                raise Untranslatable("conditional unifa")
            first = self.b.extract_element(value, I32(0))
            self.store_scalar(Slot.UNIFA, self.b.and_(first, I32(0xFFFFFFFC)))
            self.b.store(I64(0), self.pointer(int(Slot.UNIFA_HOST)))
            return None
        if dst.n in _SYNC:
            self.store_scalar(Slot.SYNC, I32(1))
            return None
        if dst.n in (_TMUA, _TMUAU):
            if dst.n == _TMUAU:
                assert word is not None
                self.store_scalar(Slot.CONFIG, word)
            live = v.mnot(v.eq(self.load_vector(int(Slot.MSF)), v.const(0)))
            if masks is not None:
                live = v.mand(live, masks[0])
            mask = self.b.bitcast(live, I16)
            arguments = [self.function.args[i] for i in (_STATE, _MEMORY, _PAGES, _SAVED)]
            code = self.b.call(self.tmu, [*arguments, value, mask])
            return self.b.icmp_unsigned("!=", code, I32(0))
        if dst.n in _SFU_MAGIC and not self.seven:
            raise Untranslatable("SFU register write")  # the result is late: left to the reference engine
        raise Untranslatable(f"magic address {dst.n}")

    # -- streams and FIFO

    def stream(self, index: int, slot: Slot, host: Slot) -> ir.Value:
        """The next word of a stream; the pointer advances."""
        self.count.uniforms += 1
        address = self.load_scalar(slot)
        at = self.b.load(self.pointer(int(host)), typ=I64)
        edge = self.b.icmp_unsigned("==", self.b.and_(address, I32(4095)), I32(0))
        refill = self.b.or_(edge, self.b.icmp_unsigned("==", at, I64(0)))
        with self.b.if_then(refill, likely=False):
            arguments = [self.function.args[i] for i in (_MEMORY, _PAGES, _SNAPSHOT)]
            found = self.b.call(self.refill, [*arguments, address])
            with self.b.if_then(self.b.icmp_unsigned("==", found, I64(0)), likely=False):
                self.store_scalar(Slot.JUMP, address)
                self.close_chain()
                self.exit(Reason.UNIFORM, index, None)
            self.b.store(found, self.pointer(int(host)))
        at = self.b.load(self.pointer(int(host)), typ=I64)
        word = self.b.load(self.b.inttoptr(at, _PTR), typ=I32)
        self.b.store(self.b.add(at, I64(4)), self.pointer(int(host)))
        self.store_scalar(slot, self.b.add(address, I32(4)))
        return word

    def pop(self, index: int) -> ir.Value:
        count = self.load_scalar(Slot.COUNT)
        with self.b.if_then(self.b.icmp_unsigned("==", count, I32(0)), likely=False):
            self.close_chain()
            self.exit(Reason.EMPTY, index, None)
        head = self.load_scalar(Slot.HEAD)
        place = self.b.add(I32(int(Slot.FIFO)), self.b.shl(self.b.and_(head, I32(_FIFO_MASK)), I32(4)))
        value = self.load_vector(place)
        self.store_scalar(Slot.HEAD, self.b.add(head, I32(1)))
        self.store_scalar(Slot.COUNT, self.b.sub(count, I32(1)))
        return value

    # -- branches

    def branch(self, index: int, instr: Branch) -> int:
        """Decide a branch; returns the index of a static target or -1 with the address in `TARGET`."""
        v, b = self.v, self.b
        if instr.cond:
            flags = self.load_scalar(Slot.A_LO)
            if instr.msfign and instr.cond not in ("a0", "na0"):
                live = v.mnot(v.eq(self.load_vector(int(Slot.MSF)), v.const(0)))
                if instr.msfign == "q":
                    raise Untranslatable("branch that ignores dead quads")
                mask = b.zext(b.bitcast(live, I16), I32)
            else:
                mask = I32(0xFFFF)
            some, clear = b.and_(flags, mask), b.and_(b.xor(flags, I32(0xFFFF)), mask)
            zero = I32(0)
            taken = {
                "a0": lambda: b.icmp_unsigned("!=", b.and_(flags, I32(1)), zero),
                "na0": lambda: b.icmp_unsigned("==", b.and_(flags, I32(1)), zero),
                "alla": lambda: b.icmp_unsigned("==", clear, zero),
                "anyna": lambda: b.icmp_unsigned("!=", clear, zero),
                "anya": lambda: b.icmp_unsigned("!=", some, zero),
                "allna": lambda: b.icmp_unsigned("==", some, zero),
            }[instr.cond]()
            taken = b.zext(taken, I32)
        else:
            taken = I32(1)
        target = -1
        if instr.bdi == "rel":
            offset = instr.offset - (1 << 32) if instr.offset >> 31 else instr.offset
            target = index + 4 + offset // 8
            if offset % 8 or not 0 <= target <= len(self.words):
                raise Untranslatable(f"branch at {index} leaves the program")
        elif instr.bdi == "abs":
            self.store_scalar(Slot.TARGET, I32(instr.offset))
        elif instr.bdi == "lri":
            self.store_scalar(Slot.TARGET, self.load_scalar(Slot.LINK))
        else:
            register = self.load_vector(self.register(instr.raddr_a))
            self.store_scalar(Slot.TARGET, b.extract_element(register, I32(0)))
        if instr.ub:
            if instr.bdu == "rf":
                where = b.extract_element(self.load_vector(self.register(instr.raddr_a)), I32(1))
                value = b.and_(where, I32(0xFFFFFFF8))
            elif instr.bdu in ("abs", "rel"):
                word = self.stream(index, Slot.UNIFORM, Slot.UNIFORM_HOST)
                value = word if instr.bdu == "abs" else b.add(self.load_scalar(Slot.UNIFORM), word)
            else:
                raise Untranslatable("uniform branch to the link register")
            hit = b.icmp_unsigned("!=", taken, I32(0))
            self.store_scalar(Slot.UNIFORM, b.select(hit, value, self.load_scalar(Slot.UNIFORM)))
            b.store(I64(0), self.pointer(int(Slot.UNIFORM_HOST)))
        if instr.link:
            address = b.add(self.load_scalar(Slot.CODE), I32(8 * (index + 4)))
            hit = b.icmp_unsigned("!=", taken, I32(0))
            self.store_scalar(Slot.LINK, b.select(hit, address, self.load_scalar(Slot.LINK)))
        self.store_scalar(Slot.TAKEN, taken)
        return target


# -- functions that programs call


def _refill_function(module: ir.Module) -> ir.Function:
    """(memory, pages, snapshot, address) -> host address of a uniform word, or 0 outside all buffers.

    snapshot: 64-bit host address of a page's copy, or 0 where memory is as it was at the start of the dispatch.
    """
    function = ir.Function(module, ir.FunctionType(I64, [_PTR, _PTR, _PTR, I32]), "refill")
    function.linkage = "internal"
    function.attributes.add("noinline")
    memory, pages, snapshot, address = function.args
    b = ir.IRBuilder(function.append_basic_block())
    page = b.zext(b.lshr(address, I32(12)), I64)
    owner = b.load(b.gep(pages, [b.shl(page, I64(2))], source_etype=I8), typ=I32)
    with b.if_then(b.icmp_unsigned("==", owner, I32(0)), likely=False):
        b.ret(I64(0))
    copy = b.load(b.gep(snapshot, [b.shl(page, I64(3))], source_etype=I8), typ=I64)
    inside = b.zext(b.and_(address, I32(4095)), I64)
    live = b.add(b.ptrtoint(memory, I64), b.zext(address, I64))
    b.ret(b.select(b.icmp_unsigned("!=", copy, I64(0)), b.add(copy, inside), live))
    return function


def _tmu_function(module: ir.Module, isa: Isa, avx512: bool) -> ir.Function:
    """(state, memory, pages, saved, addresses, live) -> 0, or 1 when the host must do the request.

    Does 32-bit per-pixel loads and stores of one to four components whose lanes all lie in one buffer; takes the
    configuration byte and the data words in any case, and leaves addresses and lanes in the state for the host.
    """
    function = ir.Function(module, ir.FunctionType(I32, [_PTR, _PTR, _PTR, _PTR, I32X16, I16]), "tmu")
    function.linkage = "internal"
    function.attributes.add("noinline")
    state, memory, pages, saved, address, live = function.args
    state.add_attribute("noalias")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    v = LlvmLanes(b, avx512=avx512)
    slow = function.append_basic_block("slow")

    def at(word: ir.Value | int) -> ir.Value:
        offset = I64(4 * int(word)) if isinstance(word, int) else b.shl(b.zext(word, I64), I64(2))
        return b.gep(state, [offset], source_etype=I8)

    def scalar(slot: int) -> ir.Value:
        return b.load(at(int(slot)), typ=I32)

    def put(slot: int, value: ir.Value) -> None:
        b.store(value, at(int(slot)))

    def splat(value: ir.Value) -> ir.Value:
        undefined = ir.Constant(I32X16, ir.Undefined)
        return b.shuffle_vector(b.insert_element(undefined, value, I32(0)), undefined, ir.Constant(I32X16, [0] * LANES))

    def stay(condition: ir.Value, name: str) -> None:
        """Go to the slow path unless `condition`."""
        further = function.append_basic_block(name)
        b.cbranch(condition, further, slow)
        b.position_at_end(further)

    def owner(a: ir.Value) -> ir.Value:
        page = b.zext(b.lshr(a, I32(12)), I64)
        return b.load(b.gep(pages, [b.shl(page, I64(2))], source_etype=I8), typ=I32)

    mask = b.bitcast(live, I1X16)
    config, pending = scalar(Slot.CONFIG), scalar(Slot.PENDING)
    b.store(address, at(int(Slot.ADDRESS))).align = 64
    put(Slot.MASK, b.zext(live, I32))
    byte = b.and_(config, I32(0xFF))
    stay(b.icmp_unsigned("!=", live, I16(0)), "some")
    # 0xff: one component; 0xfa..0xfc: two to four; all per pixel, regular
    components = b.select(b.icmp_unsigned("==", byte, I32(0xFF)), I32(1), b.sub(byte, I32(0xF8)))
    known = b.and_(b.icmp_unsigned(">=", components, I32(1)), b.icmp_unsigned("<=", components, I32(4)))
    regular = b.or_(b.icmp_unsigned("==", byte, I32(0xFF)), b.icmp_unsigned(">=", byte, I32(0xFA)))
    stay(b.and_(known, regular), "regular")
    load = b.icmp_unsigned("==", pending, I32(0))
    stay(b.or_(load, b.icmp_unsigned("==", pending, components)), "complete")
    count = scalar(Slot.COUNT)
    stay(b.icmp_unsigned("<=", b.add(count, components), scalar(Slot.LIMIT)), "room")
    infinite = v.const(0xFFFFFFFF)
    lowest = v.intrinsic("llvm.vector.reduce.umin.v16i32", I32, [v.select(mask, address, infinite)])
    safe = v.select(mask, address, splat(lowest))
    highest = v.intrinsic("llvm.vector.reduce.umax.v16i32", I32, [safe])
    odd = v.intrinsic("llvm.vector.reduce.or.v16i32", I32, [v.and_(safe, v.const(3))])
    stay(b.icmp_unsigned("==", odd, I32(0)), "aligned")
    extent = b.shl(b.sub(components, I32(1)), I32(2))
    if isa is Isa.V3D42:
        # Vectors wrap inside 16 bytes; those that would are left to the host.
        reach = v.add(v.and_(safe, v.const(15)), splat(extent))
        furthest = v.intrinsic("llvm.vector.reduce.umax.v16i32", I32, [reach])
        stay(b.icmp_unsigned("<", furthest, I32(16)), "unwrapped")
    top = b.add(highest, extent)
    stay(b.icmp_unsigned(">=", top, highest), "below")
    first = owner(lowest)
    stay(b.and_(b.icmp_unsigned("!=", first, I32(0)), b.icmp_unsigned("==", first, owner(top))), "bounded")
    stride = b.shl(components, I32(2))
    dense = v.eq(address, v.add(splat(lowest), v.mul(v.lane_id(), splat(stride))))
    all_dense = b.icmp_unsigned("==", b.bitcast(b.and_(dense, mask), I16), I16(0xFFFF))
    base = b.ptrtoint(memory, I64)
    wide_lanes = b.zext(safe, I64X16)
    lanes = b.zext(v.intrinsic("llvm.ctpop.i16", I16, [live]), I64)
    moved = b.mul(lanes, b.zext(b.shl(components, I32(2)), I64))
    loads, stores = function.append_basic_block("loads"), function.append_basic_block("stores")
    b.cbranch(load, loads, stores)

    def splat64(value: ir.Value) -> ir.Value:
        undefined = ir.Constant(I64X16, ir.Undefined)
        return b.shuffle_vector(b.insert_element(undefined, value, I32(0)), undefined, ir.Constant(I32X16, [0] * LANES))

    pointers = ir.VectorType(_PTR, LANES)

    def places(k: int) -> ir.Value:
        return b.inttoptr(b.add(wide_lanes, splat64(b.add(base, I64(4 * k)))), pointers)

    def reconfigure() -> None:
        put(Slot.CONFIG, b.or_(b.lshr(config, I32(8)), I32(0xFF000000)))

    def tally(slot: Slot, amount: ir.Value) -> None:
        b.store(b.add(b.load(at(int(slot)), typ=I64), amount), at(int(slot)))

    # loads
    b.position_at_end(loads)
    reconfigure()
    tally(Slot.REQUESTS, I64(1))
    tally(Slot.READ_BYTES, moved)
    head = b.add(scalar(Slot.HEAD), count)
    total = b.add(count, components)
    put(Slot.COUNT, total)
    peak = scalar(Slot.PEAK)
    put(Slot.PEAK, b.select(b.icmp_unsigned(">", total, peak), total, peak))

    def push(k: int, value: ir.Value) -> None:
        ring = b.and_(b.add(head, I32(k)), I32(_FIFO_MASK))
        b.store(value, at(b.add(I32(int(Slot.FIFO)), b.shl(ring, I32(4))))).align = 64

    def contiguous(n: int) -> None:
        start = b.gep(memory, [b.zext(lowest, I64)], source_etype=I8)
        parts = []
        for i in range(n):
            part = b.load(b.gep(start, [I64(64 * i)], source_etype=I8), typ=I32X16)
            part.align = 4
            parts.append(part)
        for k in range(n):
            push(k, _deinterleave(b, parts, n, k))
        b.ret(I32(0))

    def scattered(n: int) -> None:
        for k in range(n):
            name = "llvm.masked.gather.v16i32.v16p0"
            push(k, v.intrinsic(name, I32X16, [places(k), I32(4), mask, v.const(0)]))
        b.ret(I32(0))

    either = function.append_basic_block("gathers")
    packed = function.append_basic_block("packed")
    b.cbranch(all_dense, packed, either)
    for block, make in ((packed, contiguous), (either, scattered)):
        b.position_at_end(block)
        cases = b.switch(components, slow)
        for n in (1, 2, 3, 4):
            if make is contiguous and n == 3:
                cases.add_case(I32(n), either)
                continue
            case = function.append_basic_block(f"{block.name}{n}")
            cases.add_case(I32(n), case)
            b.position_at_end(case)
            make(n)

    # stores: every page written must have been saved for the uniform streams before
    b.position_at_end(stores)
    unsaved: ir.Value = I1(0)
    step = b.zext(extent, I64)
    for lane in range(LANES):
        start = b.zext(b.extract_element(safe, I32(lane)), I64)
        for end in (start, b.add(start, step)):
            state_of = b.load(b.gep(saved, [b.lshr(end, I64(12))], source_etype=I8), typ=I8)
            unsaved = b.or_(unsaved, b.icmp_unsigned("==", state_of, I8(0)))
    with b.if_then(unsaved, likely=False):
        keeper = ir.FunctionType(ir.VoidType(), [I64, I32]).as_pointer()
        b.call(b.inttoptr(b.load(at(int(Slot.SAVE)), typ=I64), keeper), [b.ptrtoint(state, I64), extent])
    reconfigure()
    put(Slot.PENDING, I32(0))
    tally(Slot.REQUESTS, I64(1))
    tally(Slot.WRITE_BYTES, moved)

    def data(k: int) -> ir.Value:
        value = b.load(at(int(Slot.DATA) + 16 * k), typ=I32X16)
        value.align = 64
        return value

    cases = b.switch(components, slow)
    for n in (1, 2, 3, 4):
        case = function.append_basic_block(f"store{n}")
        cases.add_case(I32(n), case)
        b.position_at_end(case)
        for k in range(n):
            name = "llvm.masked.scatter.v16i32.v16p0"
            v.intrinsic(name, ir.VoidType(), [data(k), places(k), I32(4), mask])
        b.ret(I32(0))

    b.position_at_end(slow)
    b.ret(I32(1))
    return function


def _deinterleave(b: ir.IRBuilder, parts: list[ir.Value], n: int, k: int) -> ir.Value:
    """Word n * lane + k of consecutive vectors, for every lane; n is 1, 2 or 4."""
    if n == 1:
        return parts[0]
    if n == 2:
        return b.shuffle_vector(parts[0], parts[1], ir.Constant(I32X16, [2 * i + k for i in range(LANES)]))
    pairs = [
        b.shuffle_vector(parts[i], parts[i + 1], ir.Constant(I32X16, [4 * (j % 8) + k for j in range(LANES)]))
        for i in (0, 2)
    ]
    low = [*range(8), *range(16, 24)]
    return b.shuffle_vector(pairs[0], pairs[1], ir.Constant(I32X16, low))
