"""Helpers that emit the functions of translated V3D programs: access to tables and to the state block of a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from qpu.emu.engine.llvm_lanes import I8, I32, I64, long
from qpu.emu.v3d.translate_state import Control, Slot

__all__ = ["PTR", "StateFunction", "control_word", "entry", "new_function", "state_pointer"]

PTR = ir.PointerType()


def state_pointer(b: ir.IRBuilder, state: ir.Value, word: ir.Value | int) -> ir.Value:
    """Address of a word of the state block."""
    offset = long(4 * int(word)) if isinstance(word, int) else b.shl(b.zext(word, I64), I64(2))
    return b.gep(state, [offset], source_etype=I8)


def entry(b: ir.IRBuilder, table: ir.Value, index: ir.Value, size: int) -> ir.Value:
    """Address of an entry of a table. size: bytes of an entry."""
    shift = size.bit_length() - 1
    return b.gep(table, [b.shl(index, I64(shift)) if shift else index], source_etype=I8)


def control_word(b: ir.IRBuilder, control: ir.Value, n: Control) -> ir.Value:
    """Address of a word of the `Control` block."""
    return b.gep(control, [I64(8 * n)], source_etype=I8)


def new_function(module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function


class StateFunction:
    """A function under construction: its first argument is the state block of a thread, its result a number."""

    def __init__(self, module: ir.Module, name: str, arguments: list[ir.Type]) -> None:
        self.function = new_function(module, name, I32, arguments)
        self.state: ir.Value = self.function.args[0]
        self.b = ir.IRBuilder(self.block("entry"))
        self.otherwise: ir.Block  # the block that `stay` branches to

    def block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    def at(self, word: ir.Value | int) -> ir.Value:
        return state_pointer(self.b, self.state, word)

    def scalar(self, slot: Slot) -> ir.Value:
        return self.b.load(self.at(slot), typ=I32)

    def put(self, slot: Slot, value: ir.Value) -> None:
        self.b.store(value, self.at(slot))

    def tally(self, slot: Slot, amount: ir.Value) -> None:
        """Add to a 64-bit number of the state."""
        at = self.at(slot)
        self.b.store(self.b.add(self.b.load(at, typ=I64), amount), at)

    def stay(self, condition: ir.Value, name: str, otherwise: ir.Block | None = None) -> None:
        """Continue in a new block if `condition`; else branch to `otherwise` (default: the attribute)."""
        further = self.block(name)
        self.b.cbranch(condition, further, self.otherwise if otherwise is None else otherwise)
        self.b.position_at_end(further)

    @contextmanager
    def loop(self, name: str, count: ir.Value | int) -> Iterator[ir.Value]:
        """Emit a loop over 0 .. count - 1; the body runs at least once."""
        b = self.b
        before, head, after = b.block, self.block(name), self.block(f"{name}_end")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I32)
        i.add_incoming(I32(0), before)
        yield i
        following = b.add(i, I32(1))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_unsigned("<", following, I32(count) if isinstance(count, int) else count), head, after)
        b.position_at_end(after)

    def page(self, address: ir.Value) -> ir.Value:
        return self.b.zext(self.b.lshr(address, I32(12)), I64)

    def begin(self, config: ir.Value) -> None:
        """Count a request, and shift its byte out of the configuration."""
        self.put(Slot.CONFIG, self.b.or_(self.b.lshr(config, I32(8)), I32(0xFF000000)))
        self.tally(Slot.REQUESTS, I64(1))
