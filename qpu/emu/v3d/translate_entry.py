"""Entry points of translated V3D code, through which one call of the scheduler runs many threads.

Memory is constant between stores, so threads continue through their switches without waiting for one another. Stores
and atomics happen in thread order: `run` runs threads up to their next store or atomic, `rounds` performs these.
"""

from __future__ import annotations

from llvmlite import ir

from qpu.core.isa import Isa
from qpu.emu.engine.llvm_lanes import I8, I16, I32, I32X16, I64, FloatMode, LlvmLanes
from qpu.emu.v3d.state import CLOBBERED
from qpu.emu.v3d.translate_function import PTR, control_word, state_pointer
from qpu.emu.v3d.translate_state import CONTINUE, Control, Hold, Reason, Slot

__all__ = ["entry_functions"]

_TYPES = [PTR, I64, *[PTR] * 6, I64, PTR]


def entry_functions(module: ir.Module, isa: Isa, thread: ir.Function, tmu: ir.Function, *, lockstep: bool) -> None:
    """Make both functions. They take (states, count, memory, pages, kept, copies, control, counters, limit, reasons).

    run: runs threads one after another, at most `limit` instructions each; `reasons` receives why each stopped. rounds:
    threads that are stopped before a store or atomic perform it and continue; then every thread that can continues.
    This repeats until the host is needed, all threads have ended or used their time slice, or the threads executed
    `limit` instructions between stores (from then on a parallel run is faster). lockstep: every request and every
    switch is a suspension point.
    """
    through = thread if lockstep else _through_switches(module, isa, thread)
    _run(module, through)
    _Rounds(module, isa, thread, tmu, through, lockstep)


def _clobber(b: ir.IRBuilder, state: ir.Value) -> None:
    """Overwrite the accumulators at a switch if other threads of the QPU run."""
    shared = b.icmp_unsigned("!=", b.load(state_pointer(b, state, Slot.SHARED), typ=I32), I32(0))
    with b.if_then(shared):
        for n in range(6):
            place = state_pointer(b, state, int(Slot.ACC) + 16 * n)
            b.store(ir.Constant(I32X16, [CLOBBERED] * 16), place).align = 64


def _through_switches(module: ir.Module, isa: Isa, thread: ir.Function) -> ir.Function:
    """A function that runs a thread and continues through its switches."""
    function = ir.Function(module, thread.function_type, "through")
    function.linkage = "internal"
    function.attributes.add("noinline")
    state, *shared, budget = function.args
    entry, loop, switched, done = (function.append_basic_block(n) for n in ("entry", "loop", "switched", "done"))
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    left = b.phi(I64)
    left.add_incoming(budget, entry)
    reason = b.call(thread, [state, *shared, left])
    b.cbranch(b.icmp_unsigned("==", reason, I32(Reason.SWITCH)), switched, done)
    b.position_at_end(switched)
    if isa is Isa.V3D42:
        _clobber(b, state)
    left.add_incoming(b.load(state_pointer(b, state, Slot.LEFT), typ=I64), b.block)
    b.branch(loop)
    b.position_at_end(done)
    b.ret(reason)
    return function


def _item(b: ir.IRBuilder, table: ir.Value, index: ir.Value, shift: int) -> ir.Value:
    return b.gep(table, [b.shl(index, I64(shift))], source_etype=I8)


def _run(module: ir.Module, through: ir.Function) -> None:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), _TYPES), "run")
    states, count, *fixed, reasons = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    mode = FloatMode(LlvmLanes(b))
    loop, done = function.append_basic_block("loop"), function.append_basic_block("done")
    entry = b.block
    b.branch(loop)
    b.position_at_end(loop)
    at = b.phi(I64)
    at.add_incoming(I64(0), entry)
    state = b.load(_item(b, states, at, 3), typ=PTR)
    b.store(b.call(through, [state, *fixed]), _item(b, reasons, at, 2))
    after = b.add(at, I64(1))
    at.add_incoming(after, loop)
    b.cbranch(b.icmp_unsigned("<", after, count), loop, done)
    b.position_at_end(done)
    mode.restore()
    b.ret_void()


class _Rounds:
    def __init__(
        self, module: ir.Module, isa: Isa, thread: ir.Function, tmu: ir.Function, through: ir.Function, lockstep: bool
    ) -> None:
        self.isa = isa
        self.thread = thread
        self.tmu = tmu
        self.through = through
        self.lockstep = lockstep
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), _TYPES), "rounds")
        self.states, self.count, *self.shared, self.limit, self.reasons = self.function.args
        self.control = self.shared[4]
        self.b = b = ir.IRBuilder(self.block("entry"))
        mode = FloatMode(LlvmLanes(b))
        self.used = b.alloca(I64)  # instructions between stores
        self.host = b.alloca(I32)  # not 0: a thread needs the host
        self.active = b.alloca(I32)  # not 0: a thread can continue without the host
        begin, further, done = (self.block(n) for n in ("begin", "further", "done"))
        b.store(I64(0), self.used)
        b.branch(begin)
        b.position_at_end(begin)
        b.store(I32(0), self.host)
        b.store(I32(0), self.active)
        self.each("store", self.store)
        much = b.icmp_unsigned(">=", b.load(self.used, typ=I64), self.limit)
        over = b.icmp_unsigned("!=", b.load(self.host, typ=I32), I32(0))
        idle = b.icmp_unsigned("==", b.load(self.active, typ=I32), I32(0))
        b.cbranch(b.or_(b.or_(much, over), idle), done, further)
        b.position_at_end(further)
        self.wait(Hold.STORES)
        b.store(I64(0), self.used)
        self.each("go", self.resume)
        b.branch(begin)
        b.position_at_end(done)
        self.wait(Hold.NOTHING)
        mode.restore()
        b.ret_void()

    def block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    def wait(self, which: Hold) -> None:
        self.b.store(I64(which), control_word(self.b, self.control, Control.HOLD))

    def each(self, name: str, do: object) -> None:
        """Call `do` for each thread with its state, its reason and the address of the reason."""
        assert callable(do)
        b = self.b
        before, loop, after = b.block, self.block(name), self.block(f"{name}_end")
        b.branch(loop)
        b.position_at_end(loop)
        at = b.phi(I64)
        at.add_incoming(I64(0), before)
        place = _item(b, self.reasons, at, 2)
        do(b.load(_item(b, self.states, at, 3), typ=PTR), b.load(place, typ=I32), place)
        following = b.add(at, I64(1))
        at.add_incoming(following, b.block)
        b.cbranch(b.icmp_unsigned("<", following, self.count), loop, after)
        b.position_at_end(after)

    def left(self, state: ir.Value) -> ir.Value:
        return self.b.load(state_pointer(self.b, state, Slot.LEFT), typ=I64)

    def waiting(self, state: ir.Value, reason: ir.Value) -> ir.Value:
        """Whether the thread is stopped before a store or atomic."""
        b = self.b
        held = b.icmp_unsigned("!=", b.load(state_pointer(b, state, Slot.HELD), typ=I32), I32(0))
        return b.and_(b.icmp_unsigned("==", reason, I32(Reason.TMU)), held)

    def resumes(self, reason: ir.Value) -> ir.Value:
        """Whether the thread can continue without the host."""
        b = self.b
        found = b.icmp_unsigned("==", reason, I32(Reason.SWITCH))
        return b.or_(found, b.icmp_unsigned("==", reason, I32(Reason.YIELD))) if self.lockstep else found

    def store(self, state: ir.Value, reason: ir.Value, place: ir.Value) -> None:
        """Perform the request of a stopped thread and run it to its next atomic or suspension point."""
        b = self.b
        with b.if_then(self.waiting(state, reason)):
            b.store(I32(Reason.TMU), place)
            self.wait(Hold.NOTHING)
            address = b.load(state_pointer(b, state, Slot.ADDRESS), typ=I32X16)
            address.align = 64
            live = b.trunc(b.load(state_pointer(b, state, Slot.MASK), typ=I32), I16)
            refused = b.call(self.tmu, [state, *self.shared[:5], address, live])
            self.wait(Hold.ATOMICS)
            with b.if_then(b.icmp_unsigned("==", refused, I32(0))):
                then = b.load(state_pointer(b, state, Slot.THEN), typ=I32)
                b.store(then, place)
                with b.if_then(b.icmp_unsigned("==", then, I32(CONTINUE))):
                    b.store(b.call(self.thread, [state, *self.shared, self.left(state)]), place)
        now = b.load(place, typ=I32)
        with b.if_else(b.or_(self.resumes(now), self.waiting(state, now))) as (continues, stops):
            with continues:
                b.store(I32(1), self.active)
            with stops:
                # Threads that have ended or used their time slice wait for the others.
                ended = b.icmp_unsigned("==", now, I32(Reason.END))
                out = b.or_(ended, b.icmp_unsigned("==", now, I32(Reason.BUDGET)))
                with b.if_then(b.not_(out)):
                    b.store(I32(1), self.host)

    def resume(self, state: ir.Value, reason: ir.Value, place: ir.Value) -> None:
        """Run threads that stopped at a switch up to their next store."""
        b = self.b
        with b.if_then(self.resumes(reason)):
            if self.isa is Isa.V3D42:
                with b.if_then(b.icmp_unsigned("==", reason, I32(Reason.SWITCH))):
                    _clobber(b, state)
            before = self.left(state)
            b.store(b.call(self.through, [state, *self.shared, before]), place)
            spent = b.sub(before, self.left(state))
            b.store(b.add(b.load(self.used, typ=I64), spent), self.used)
