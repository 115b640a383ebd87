"""The state of a thread while a chain of translated V3D code runs: `qpu.emu.v3d.alu.Thread` of the compiled engine.

Registers that were read or written are held as IR values. A chain has no effect outside the state block before its last
instruction, and its start checks that every result and word that it takes is available. So each register is loaded at
most once, and stored once, after its last change.
"""

from __future__ import annotations

from llvmlite import ir

from qpu.emu.engine.llvm_lanes import I1X16, I8, I16, I32, I32X16, I64, LlvmLanes, splat
from qpu.emu.v3d.translate_function import PTR, state_pointer
from qpu.emu.v3d.translate_state import DATA_SLOTS, FIFO_SLOTS, Slot
from qpu.emu.v3d.translate_tmu import STREAMS

__all__ = ["Values"]


def _flag(low: Slot, high: Slot | None) -> property:
    """Flags of the low halves, or of the high halves, which equal the low ones unless the state is split."""

    def read(self: Values) -> ir.Value:
        return self.mask(low if high is None or not self.split else high)

    def write(self: Values, mask: ir.Value) -> None:
        if high is None:
            self.put_mask(low, mask)
        elif self.split:
            self.put_mask(high, mask)

    return property(read, write)


def _vector(slot: Slot) -> property:
    return property(lambda self: self.vector(slot), lambda self, value: self.put_vector(slot, value))


def _number(slot: Slot) -> property:
    return property(lambda self: self.scalar(slot), lambda self, value: self.put_scalar(slot, value))


class _Registers:
    """rf0..rf63, r0..r5, as `qpu.emu.v3d.alu` numbers them."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __getitem__(self, n: int) -> ir.Value:
        return self._values.vector(Slot.RF + 16 * n)

    def __setitem__(self, n: int, value: ir.Value) -> None:
        self._values.put_vector(Slot.RF + 16 * n, value)


class Values:
    """Cached registers, flags and numbers of the state block, for the chain under construction.

    split: the halves of a lane have separate flags. volatile: the program has loads that make rf0 volatile.
    """

    a = _flag(Slot.A_LO, None)
    a_hi = _flag(Slot.A_LO, Slot.A_HI)
    b = _flag(Slot.B_LO, None)
    b_hi = _flag(Slot.B_LO, Slot.B_HI)
    rtop = _vector(Slot.RTOP)
    msf = _vector(Slot.MSF)
    revf = _vector(Slot.REVF)
    link = _number(Slot.LINK)
    config = _number(Slot.CONFIG)

    def __init__(self, b: ir.IRBuilder, v: LlvmLanes, state: ir.Value, *, split: bool, volatile: bool) -> None:
        self.builder = b
        self.v = v
        self.state = state
        self.split = split
        self.volatile = volatile
        self.regs = _Registers(self)
        self.data = self  # its `append` is below
        self._pointers: dict[int, ir.Value] = {}  # addresses of words, in the block under construction
        self._block: ir.Block | None = None
        self.begin()

    def begin(self) -> None:
        """Start a chain: nothing is cached."""
        self._vectors: dict[int, ir.Value] = {}
        self._scalars: dict[int, ir.Value] = {}
        self._masks: dict[int, ir.Value] = {}
        self._stores: dict[int, tuple[ir.Block, ir.Instruction]] = {}
        self._hosts: dict[str, ir.Value] = {}
        self._live: ir.Value | None = None
        self.needs: list[tuple[str, int]] = []
        self.taken = {"r": 0, "u": 0, "a": 0}

    def pointer(self, word: ir.Value | int) -> ir.Value:
        """Address of a word of the state."""
        if not isinstance(word, int):
            return state_pointer(self.builder, self.state, word)
        if self._block is not self.builder.block:
            self._block = self.builder.block
            self._pointers.clear()
        found = self._pointers.get(word)
        if found is None:
            found = self._pointers[word] = state_pointer(self.builder, self.state, word)
        return found

    def splat(self, number: ir.Value) -> ir.Value:
        """A number in all lanes."""
        return splat(self.builder, number)

    @property
    def tidx(self) -> ir.Value:
        """Thread and QPU number."""
        return self.splat(self.scalar(Slot.TIDX))

    @property
    def unifa(self) -> ir.Value:
        """GPU address of the next word of the unifa stream."""
        return self.stream_pointer("a")

    @property
    def rf0_volatile(self) -> ir.Value:
        """Not 0: a switch in an instruction whose signal writes a register loses rf0 (v3d.md 8.2)."""
        return self.scalar(Slot.VOLATILE)

    @rf0_volatile.setter
    def rf0_volatile(self, value: bool) -> None:
        if self.volatile:
            self.put_scalar(Slot.VOLATILE, I32(int(value)))

    def set_msf(self, value: ir.Value) -> None:
        """Change the sample mask, and thus the live lanes."""
        self.msf = value
        self._live = None

    def append(self, value: ir.Value) -> None:
        """Queue a data word for the TMU."""
        pending = self.scalar(Slot.PENDING)
        place = self.builder.add(
            I32(int(Slot.DATA)), self.builder.shl(self.builder.and_(pending, I32(DATA_SLOTS - 1)), I32(4))
        )
        self.builder.store(value, self.pointer(place)).align = 64
        self.put_scalar(Slot.PENDING, self.builder.add(pending, I32(1)))

    def _store(self, slot: int, value: ir.Value, align: int) -> None:
        """Emit a store, and remove an earlier store of the chain to the same slot."""
        former = self._stores.pop(slot, None)
        if former is not None:
            block, instruction = former
            block.instructions.remove(instruction)
        made = self.builder.store(value, self.pointer(slot))
        made.align = align
        self._stores[slot] = self.builder.block, made

    # -- vectors

    def vector(self, slot: int) -> ir.Value:
        """A register."""
        found = self._vectors.get(slot)
        if found is None:
            found = self.builder.load(self.pointer(slot), typ=I32X16)
            found.align = 64
            self._vectors[slot] = found
        return found

    def put_vector(self, slot: int, value: ir.Value) -> None:
        """Write a register."""
        self._vectors[slot] = value
        self._store(slot, value, 64)

    @property
    def live(self) -> ir.Value:
        """Lanes whose sample mask is not 0."""
        if self._live is None:
            self._live = self.builder.icmp_unsigned("!=", self.vector(Slot.MSF), self.v.const(0))
        return self._live

    # -- numbers

    def scalar(self, slot: int) -> ir.Value:
        """A 32-bit number."""
        found = self._scalars.get(slot)
        if found is None:
            found = self._scalars[slot] = self.builder.load(self.pointer(slot), typ=I32)
        return found

    def put_scalar(self, slot: int, value: ir.Value) -> None:
        """Write a 32-bit number."""
        self._scalars[slot] = value
        self._store(slot, value, 4)

    # -- flags

    def mask(self, slot: Slot) -> ir.Value:
        """The flags of all lanes, low (A_LO, B_LO) or high halves."""
        found = self._masks.get(slot)
        if found is None:
            word = self.builder.load(self.pointer(slot), typ=I32)
            found = self._masks[slot] = self.builder.bitcast(self.builder.trunc(word, I16), I1X16)
        return found

    def put_mask(self, slot: Slot, mask: ir.Value) -> None:
        """Write flags."""
        self._masks[slot] = mask
        self._store(slot, self.bits(mask), 4)

    def bits(self, mask: ir.Value) -> ir.Value:
        """A mask as a number with one bit for each lane."""
        return self.builder.zext(self.builder.bitcast(mask, I16), I32)

    # -- results and streams

    def result(self, index: int) -> ir.Value:
        """Pop the oldest TMU result. The start of the chain checks that there is one."""
        b = self.builder
        self.needs.append(("r", index))
        self.taken["r"] += 1
        head, count = self.scalar(Slot.HEAD), self.scalar(Slot.COUNT)
        place = b.add(I32(int(Slot.FIFO)), b.shl(b.and_(head, I32(FIFO_SLOTS - 1)), I32(4)))
        value = b.load(self.pointer(place), typ=I32X16)
        value.align = 64
        self.put_scalar(Slot.HEAD, b.add(head, I32(1)))
        self.put_scalar(Slot.COUNT, b.sub(count, I32(1)))
        return value

    def word(self, stream: str, index: int) -> ir.Value:
        """The next word of a stream. The start of the chain checks that it can be read."""
        b = self.builder
        host = self._hosts.get(stream)
        if host is None:
            host = b.load(self.pointer(STREAMS[stream][1]), typ=I64)
            self._hosts[stream] = host
        at = self.taken[stream]
        self.needs.append((stream, index))
        self.taken[stream] = at + 1
        return b.load(b.gep(b.inttoptr(host, PTR), [I64(4 * at)], source_etype=I8), typ=I32)

    def stream_pointer(self, stream: str) -> ir.Value:
        """GPU address of the next word of a stream."""
        start = self.scalar(STREAMS[stream][0])
        taken = self.taken[stream]
        return self.builder.add(start, I32(4 * taken)) if taken else start

    def move_stream(self, stream: str, address: ir.Value, hit: ir.Value | None = None) -> None:
        """Continue the stream at `address`, if `hit`. The chain must not take words from it afterwards."""
        b = self.builder
        here, host, left = STREAMS[stream]
        rest: ir.Value = I32(0)
        if hit is not None:
            address = b.select(hit, address, self.stream_pointer(stream))
            now = b.sub(b.load(self.pointer(left), typ=I32), I32(self.taken[stream]))
            rest = b.select(hit, I32(0), now)
            self._advance_host(stream, host)
        self._store(here, address, 4)
        self._store(left, rest, 4)
        self.taken[stream] = 0

    def _advance_host(self, stream: str, host: Slot) -> None:
        if self.taken[stream]:
            after = self.builder.add(self._hosts[stream], I64(4 * self.taken[stream]))
            self.builder.store(after, self.pointer(host))

    def finish(self) -> None:
        """End the chain: advance the streams past the words that it took."""
        for stream, (here, host, left) in STREAMS.items():
            taken = self.taken[stream]
            if not taken:
                continue
            self._advance_host(stream, host)
            pointer = self.stream_pointer(stream)
            rest = self.builder.sub(self.builder.load(self.pointer(left), typ=I32), I32(taken))
            self._store(here, pointer, 4)
            self._store(left, rest, 4)
