"""The functions through which the scheduler enters translated V3D code: many threads with one call."""

from __future__ import annotations

from llvmlite import ir

from qpu.emu.llvm_lanes import I8, I16, I32, I32X16, I64, FloatMode, LlvmLanes
from qpu.emu.v3d_llvm_state import GO_ON, Reason, Slot
from qpu.emu.v3d_llvm_tmu import PTR, state_pointer

__all__ = ["stores_function", "threads_function"]


def threads_function(module: ir.Module, thread: ir.Function) -> None:
    """run(states, count, memory, pages, kept, copies, keeper, counters, budget, reasons): threads one after another."""
    types = [PTR, I64, *[PTR] * 6, I64, PTR]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), "run")
    states, count, *fixed, reasons = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    mode = FloatMode(LlvmLanes(b))
    loop, done = function.append_basic_block("loop"), function.append_basic_block("done")
    entry = b.block
    b.branch(loop)
    b.position_at_end(loop)
    at = b.phi(I64)
    at.add_incoming(I64(0), entry)
    state = b.load(b.gep(states, [b.shl(at, I64(3))], source_etype=I8), typ=PTR)
    reason = b.call(thread, [state, *fixed])
    b.store(reason, b.gep(reasons, [b.shl(at, I64(2))], source_etype=I8))
    after = b.add(at, I64(1))
    at.add_incoming(after, loop)
    b.cbranch(b.icmp_unsigned("<", after, count), loop, done)
    b.position_at_end(done)
    mode.restore()
    b.ret_void()


def stores_function(module: ir.Module, thread: ir.Function, tmu: ir.Function) -> None:
    """stores(...), as run: threads that stopped before a store (`Keeper.FROZEN`) do it and go on."""
    types = [PTR, I64, *[PTR] * 6, I64, PTR]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), "stores")
    states, count, memory, pages, kept, copies, keeper, counters, _, reasons = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    mode = FloatMode(LlvmLanes(b))
    names = ("loop", "done", "fine", "on", "next")
    loop, done, fine, on, following = (function.append_basic_block(n) for n in names)
    entry = b.block
    b.branch(loop)
    b.position_at_end(loop)
    at = b.phi(I64)
    at.add_incoming(I64(0), entry)
    state = b.load(b.gep(states, [b.shl(at, I64(3))], source_etype=I8), typ=PTR)
    address = b.load(state_pointer(b, state, Slot.ADDRESS), typ=I32X16)
    address.align = 64
    live = b.trunc(b.load(state_pointer(b, state, Slot.MASK), typ=I32), I16)
    shared = [memory, pages, kept, copies, keeper]
    refused = b.icmp_unsigned("!=", b.call(tmu, [state, *shared, address, live]), I32(0))
    b.cbranch(refused, following, fine)
    b.position_at_end(fine)
    then = b.load(state_pointer(b, state, Slot.THEN), typ=I32)
    b.cbranch(b.icmp_unsigned("==", then, I32(GO_ON)), on, following)
    b.position_at_end(on)
    left = b.load(state_pointer(b, state, Slot.LEFT), typ=I64)
    later = b.call(thread, [state, *shared, counters, left])
    b.branch(following)
    b.position_at_end(following)
    reason = b.phi(I32)
    reason.add_incoming(I32(Reason.TMU), loop)
    reason.add_incoming(then, fine)
    reason.add_incoming(later, on)
    b.store(reason, b.gep(reasons, [b.shl(at, I64(2))], source_etype=I8))
    after = b.add(at, I64(1))
    at.add_incoming(after, following)
    b.cbranch(b.icmp_unsigned("<", after, count), loop, done)
    b.position_at_end(done)
    mode.restore()
    b.ret_void()
