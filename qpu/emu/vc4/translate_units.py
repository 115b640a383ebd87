"""Native code for the units around a VideoCore IV QPU: uniforms, direct TMU reads, VPM and DMA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from llvmlite import ir

from qpu.emu.engine.llvm_lanes import I1, I8, I32, I32X16, I64, LANES
from qpu.emu.engine.memory import LIMIT_MASK, PAGE
from qpu.emu.vc4.state import BUS_MASK, CLOCKS_PER_INSTRUCTION
from qpu.emu.vc4.tmu import FIFO_DEPTH, SAFE_DEPTH
from qpu.emu.vc4.translate_graph import MUTEX
from qpu.emu.vc4.translate_memory import (
    Word,
    broadcast_function,
    gather_function,
    loaded_rows,
    stored_rows,
    transfer_function,
    vector_function,
)
from qpu.emu.vc4.translate_state import NO_PITCH, Arg, Slot
from qpu.emu.vc4.vpm import LOAD_BUSY, STORE_BUSY
from qpu.emu.vc4.vpm_setup import LOAD_BITS, PITCH_BITS, STRIDE_BITS
from qpu.vc4.regs import File

__all__ = ["Units"]

_PTR = ir.PointerType()
_ALIGNED = BUS_MASK & ~3
Functions = dict[bool, ir.Function]  # False: the function that checks; True: the one that moves


class Units:
    """The emitter of unit accesses for the chain under construction. `t`: the translator."""

    def __init__(self, translator: Any) -> None:
        self.t = translator
        self.requests = [0, 0]
        self.functions: dict[str, ir.Function] = {}

    # Functions of the module, made when the first chain needs them

    @cached_property
    def broadcast(self) -> ir.Function:
        return broadcast_function(self.t.module)

    @cached_property
    def gather(self) -> ir.Function:
        return gather_function(self.t.module, self.t)

    @cached_property
    def get_vector(self) -> ir.Function:
        return vector_function(self.t.module, write=False)

    @cached_property
    def put_vector(self) -> ir.Function:
        return vector_function(self.t.module, write=True)

    @cached_property
    def rows(self) -> Functions:
        return {copy: transfer_function(self.t.module, f"store_{copy}", stored_rows, copy) for copy in (False, True)}

    @cached_property
    def columns(self) -> Functions:
        return {copy: transfer_function(self.t.module, f"load_{copy}", loaded_rows, copy) for copy in (False, True)}

    def begin(self) -> None:
        """Start a chain."""
        self.base: ir.Value | None = None  # uniform pointer; `used` words were read from there
        self.safe: ir.Value | None = None
        self.used = 0
        self.heads: dict[int, ir.Value] = {}
        self.counts: dict[int, ir.Value] = {}
        self.requests = [0, 0]

    # -- uniforms

    def uniform(self) -> ir.Value:
        """The next uniform, in all lanes."""
        t, b = self.t, self.t.b
        if self.base is None:
            self.base = t.load_scalar(Slot.UNIFORM)
        if self.safe is None:
            # A chain reads less than a page of uniforms; an address too near the end fails the check of `_settle`.
            inside = b.icmp_unsigned("<", b.add(b.zext(self.base, I64), I64(4096)), t.function.args[Arg.SIZE])
            start = b.select(inside, b.zext(self.base, I64), I64(0))
            self.safe = b.gep(t.function.args[Arg.MEMORY], [start], source_etype=I8)
        self.used += 1
        return b.call(self.broadcast, [self.safe, I64(4 * self.used - 4)])

    def page(self, address: ir.Value) -> ir.Value:
        """The entry of the page table for an address inside the window."""
        t, b = self.t, self.t.b
        index = b.shl(b.zext(b.lshr(address, I32(12)), I64), I64(2))
        return b.load(b.gep(t.function.args[Arg.PAGES], [index], source_etype=I8), typ=I32)

    def _settle(self) -> None:
        """Emit the check of the uniforms that were read from `base` on."""
        if not self.used or self.base is None:
            return
        self._check("uniforms", self._uniforms, self.base, I32(4 * self.used - 4))
        self.base = self.t.b.add(self.base, I32(4 * self.used))
        self.used = 0
        self.safe = None

    def _uniforms(self, base: ir.Value, last: ir.Value) -> None:
        t, b = self.t, self.t.b
        inside = b.icmp_unsigned("<", b.add(b.zext(base, I64), I64(4096)), t.function.args[Arg.SIZE])
        self._require(inside)
        first = b.select(inside, base, I32(0))
        for address in (first, b.add(first, last)):
            entry = self.page(address)
            self._require(b.icmp_unsigned("!=", entry, I32(0)))
            limit = b.and_(entry, I32(LIMIT_MASK))
            usable = b.select(b.icmp_unsigned("==", limit, I32(0)), I32(PAGE), limit)
            self._require(b.icmp_unsigned("<", b.and_(address, I32(PAGE - 1)), usable))

    # -- functions of the module that check and perform what would be long in place

    def _check(self, name: str, emit: Callable[..., None], *arguments: ir.Value) -> None:
        """Emit a call of a function with the checks of `emit` and its immediate actions. If it returns true, the chain
        is undone."""
        t = self.t
        function = self._function(name, emit, arguments, effects=False)
        t.checks.append(t.b.call(function, [*t.function.args, *arguments]))

    def _perform(self, name: str, emit: Callable[..., None], *arguments: ir.Value) -> None:
        """The checks of `emit` by a function now, its effects by another one at the end of the chain."""
        t = self.t
        self._check(name, emit, *arguments)
        effects = self._function(f"{name}_effects", emit, arguments, effects=True)
        t.effects.append(lambda: t.b.call(effects, [*t.function.args, *arguments]))

    def _function(
        self, name: str, emit: Callable[..., None], arguments: Sequence[ir.Value], *, effects: bool
    ) -> ir.Function:
        found = self.functions.get(name)
        if found is not None:
            return found
        t = self.t
        outer = t.b, t.function, t.checks, t.effects
        types = [a.type for a in (*t.function.args, *arguments)]
        function = ir.Function(t.module, ir.FunctionType(ir.VoidType() if effects else I1, types), name)
        function.linkage = "internal"
        t.b, t.function, t.checks, t.effects = ir.IRBuilder(function.append_basic_block()), function, [], []
        emit(*function.args[len(outer[1].args) :])
        if effects:
            for effect in t.effects:
                effect()
            t.b.ret_void()
        else:
            fails = t.checks[0]
            for check in t.checks[1:]:
                fails = t.b.or_(fails, check)
            t.b.ret(fails)
        t.b, t.function, t.checks, t.effects = outer
        self.functions[name] = function
        return function

    # -- output registers

    def write(self, number: int, file: File, value: ir.Value) -> None:
        """A write to an output register."""
        t, b = self.t, self.t.b
        if number in (56, 60):
            self.request((number - 56) >> 2, value)
            return
        if number == 48:
            self._perform("vpm_write", self.vpm_write, value)
            return
        if number == MUTEX:
            self.release_mutex()
            return
        word = b.extract_element(value, I32(0))
        if number == 40:
            self._settle()
            t.checks.append(b.icmp_unsigned("!=", b.and_(word, I32(3)), I32(0)))
            self.base, self.safe = b.and_(word, I32(_ALIGNED)), None
        elif number == 49:
            if file is File.A:
                self._perform("read_setup", self.read_setup, word)
            else:
                self._perform("write_setup", self.setup, word)
        elif file is File.A:
            self._perform("load_block", self.load_block, word, self._clock(LOAD_BUSY))
        else:
            self._perform("store", self.store, word, self._clock(STORE_BUSY))

    # -- TMU

    def queue(self, tmu: int) -> tuple[ir.Value, ir.Value]:
        t = self.t
        if tmu not in self.heads:
            self.heads[tmu] = t.load_scalar(Slot.HEAD + 2 * tmu, I64)
            self.counts[tmu] = t.load_scalar(Slot.COUNT + 2 * tmu, I64)
        return self.heads[tmu], self.counts[tmu]

    def place(self, tmu: int, index: ir.Value) -> ir.Value:
        t, b = self.t, self.t.b
        offset = b.shl(b.and_(index, I64(FIFO_DEPTH - 1)), I64(6))
        return b.gep(t.pointer(Slot.FIFO + 16 * FIFO_DEPTH * tmu), [offset], source_etype=I8)

    def request(self, tmu: int, value: ir.Value) -> None:
        """Read one word for each lane into the queue."""
        t, b = self.t, self.t.b
        self.requests[tmu] += 1
        head, count = self.queue(tmu)
        t.checks.append(b.icmp_unsigned(">=", count, I64(SAFE_DEPTH)))
        place = self.place(tmu, b.add(head, count))
        self.counts[tmu] = b.add(count, I64(1))
        self._check("read_words", self._read_words, value, place)

    def _read_words(self, value: ir.Value, place: ir.Value) -> None:
        t, b = self.t, self.t.b
        address = b.and_(value, ir.Constant(I32X16, [_ALIGNED] * LANES))
        first = b.extract_element(address, I32(0))
        steps = ir.Constant(I32X16, [4 * i for i in range(LANES)])
        row = t.every(b.icmp_unsigned("==", address, b.add(t.splat(first), steps)))
        last = b.add(b.zext(first, I64), I64(4 * LANES))
        row = b.and_(row, b.icmp_unsigned("<=", last, t.function.args[Arg.SIZE]))
        known = b.select(row, first, I32(0))
        end = b.add(known, I32(4 * LANES - 4))  # its word is inside, and all of the page before, if there are two
        one, two = self.page(known), self.page(end)
        inside = b.icmp_unsigned("<", b.and_(end, I32(PAGE - 1)), b.and_(two, I32(LIMIT_MASK)))
        whole = b.icmp_unsigned("==", b.and_(one, I32(LIMIT_MASK)), I32(PAGE))
        row = b.and_(row, b.and_(inside, b.or_(whole, b.icmp_unsigned("==", one, two))))
        here = b.block
        quick, slow, after = (t.function.append_basic_block(n) for n in ("row", "gather", "read"))
        assert here is not None
        b.cbranch(row, quick, slow)
        b.position_at_end(quick)
        data = b.load(b.gep(t.function.args[Arg.MEMORY], [b.zext(first, I64)], source_etype=I8), typ=I32X16)
        data.align = 4
        b.store(data, place).align = 64
        b.branch(after)
        b.position_at_end(slow)
        args = [t.function.args[n] for n in (Arg.MEMORY, Arg.PAGES, Arg.SIZE)]
        legal = b.call(self.gather, [*args, address, place])
        b.branch(after)
        b.position_at_end(after)
        ok = b.phi(I1)
        ok.add_incoming(I1(1), quick)
        ok.add_incoming(legal, slow)
        t.checks.append(b.not_(ok))

    def load(self, tmu: int) -> ir.Value:
        """Pop the oldest result."""
        t, b = self.t, self.t.b
        head, count = self.queue(tmu)
        t.checks.append(b.icmp_unsigned("==", count, I64(0)))
        value = b.load(self.place(tmu, head), typ=I32X16)
        value.align = 64
        self.heads[tmu] = b.and_(b.add(head, I64(1)), I64(FIFO_DEPTH - 1))
        self.counts[tmu] = b.sub(count, I64(1))
        return value

    # -- the end of a chain

    def finish(self) -> None:
        """Add the checks that are still missing."""
        self._settle()

    def commit(self) -> None:
        """Emit the stores of the uniform pointer and the queue positions."""
        t = self.t
        if self.base is not None:
            t.store_scalar(Slot.UNIFORM, self.base)
        if any(self.requests):
            t.store_scalar(Slot.USED, I32(1))
        for tmu, head in self.heads.items():
            t.store_scalar(Slot.HEAD + 2 * tmu, head)
            t.store_scalar(Slot.COUNT + 2 * tmu, self.counts[tmu])

    # -- VPM: each access ends its chain, so that it happens only if all checks of the chain succeed

    def _require(self, holds: ir.Value) -> None:
        self.t.checks.append(self.t.b.not_(holds))

    def _require_alone(self) -> None:
        """Require that no other QPU runs, so that the order of writes does not depend on the host's cores."""
        self._require(self.t.b.icmp_unsigned("!=", self.t.load_scalar(Slot.ALONE), I32(0)))

    def wait(self, file: File) -> None:
        """A wait for DMA. The words move when the transfer starts; only the time until it counts as complete
        is emulated."""
        t = self.t
        slot = Slot.LOAD_UNTIL if file is File.A else Slot.STORE_UNTIL
        t.effects.append(lambda: t.store_scalar(slot, I64(0)))

    def _clock(self, extra: int) -> ir.Value:
        """The emulated clock at the instruction under construction, and `extra` instructions later."""
        t, b = self.t, self.t.b
        before = b.sub(t.function.args[Arg.BUDGET], b.load(t.budget, typ=I64))
        clocks = b.mul(b.add(before, I64(t.tally.instructions - 1 + extra)), I64(CLOCKS_PER_INSTRUCTION))
        return b.add(t.load_scalar(Slot.CLOCK, I64), clocks)

    def busy(self, file: File) -> ir.Value:
        """1 while a DMA transfer is in progress. An instruction that starts or ends a transfer ends its chain."""
        t, b = self.t, self.t.b
        until = t.load_scalar(Slot.LOAD_UNTIL if file is File.A else Slot.STORE_UNTIL, I64)
        return b.zext(b.icmp_signed("<", self._clock(0), until), I32)

    def _touch(self) -> None:
        self.t.store_scalar(Slot.TOUCHED, I32(1))

    def take_mutex(self) -> None:
        """Take the mutex, and advance the clock to its last release. Waiting for it is up to the reference engine."""
        t, b = self.t, self.t.b
        self._require_alone()
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.MUTEX), I32(0)))
        late = b.sub(t.load_scalar(Slot.RELEASED, I64), self._clock(0))
        late = b.select(b.icmp_signed(">", late, I64(0)), late, I64(0))

        def effect() -> None:
            t.store_scalar(Slot.MUTEX, I32(1))
            t.store_scalar(Slot.CLOCK, b.add(t.load_scalar(Slot.CLOCK, I64), late))

        t.effects.append(effect)

    def release_mutex(self) -> None:
        """Release the mutex, which this QPU holds. The function returns after it."""
        t, b = self.t, self.t.b
        self._require_alone()
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.MUTEX), I32(1)))
        now = self._clock(0)

        def effect() -> None:
            t.store_scalar(Slot.MUTEX, I32(0))
            t.store_scalar(Slot.RELEASED, now)
            t.store_scalar(Slot.GAVE, I32(1))

        t.effects.append(effect)

    def vpm_read(self) -> ir.Value:
        """The next vector of a VPM read."""
        t, b = self.t, self.t.b
        at, left = t.load_scalar(Slot.READ_AT), t.load_scalar(Slot.READ_LEFT)
        self._require(b.icmp_unsigned("!=", left, I32(0)))
        value = b.call(self.get_vector, [t.function.args[Arg.VPM], t.load_scalar(Slot.READ_WORD), at])

        def effect() -> None:
            word, queued = t.load_scalar(Slot.READ_WORD), t.load_scalar(Slot.QUEUED_WORD)
            self._narrow(Slot.READ_LESS, word)
            stride = b.and_(b.lshr(word, I32(12)), I32(63))
            step = b.select(b.icmp_unsigned("==", stride, I32(0)), I32(64), stride)
            last = b.icmp_unsigned("==", left, I32(1))
            for slot, more, none in (
                (Slot.READ_WORD, word, queued),
                (Slot.READ_AT, b.and_(b.add(at, step), I32(255)), b.and_(queued, I32(255))),
                (Slot.READ_LEFT, b.sub(left, I32(1)), t.load_scalar(Slot.QUEUED_LEFT)),
                (Slot.QUEUED_LEFT, t.load_scalar(Slot.QUEUED_LEFT), I32(0)),
            ):
                t.store_scalar(slot, b.select(last, none, more))
            self._touch()

        t.effects.append(effect)
        return value

    def vpm_write(self, value: ir.Value) -> None:
        t, b = self.t, self.t.b
        self._require_alone()
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.WRITE), I32(1)))

        def effect() -> None:
            at, word = t.load_scalar(Slot.WRITE_AT), t.load_scalar(Slot.WRITE_WORD)
            b.call(self.put_vector, [t.function.args[Arg.VPM], word, at, value])
            self._narrow(Slot.WRITE_LESS, word)
            step = b.add(at, t.load_scalar(Slot.WRITE_STEP))
            t.store_scalar(Slot.WRITE_AT, b.and_(step, I32(255)))
            self._touch()

        t.effects.append(effect)

    def _narrow(self, slot: int, word: ir.Value) -> None:
        """Count the bytes that an access of narrow elements moves less than one of words."""
        t, b = self.t, self.t.b
        moved = b.shl(I64(LANES), b.zext(Word(b, word).field(8, 2), I64))
        t.store_scalar(slot, b.add(t.load_scalar(slot, I64), b.sub(I64(4 * LANES), moved)))

    def _store_words(self, rows: Sequence[tuple[int, ir.Value, ir.Value]]) -> None:
        """At the end of the chain, store a new value in each slot whose condition holds."""
        t, b = self.t, self.t.b

        def effect() -> None:
            for slot, when, new in rows:
                t.store_scalar(slot, b.select(when, new, t.load_scalar(slot)))
            self._touch()

        t.effects.append(effect)

    def read_setup(self, word: ir.Value) -> None:
        """A write to address 49, file A: sets up VPM reads, DMA loads without an offset in words, or their pitch."""
        t, b, w = self.t, self.t.b, Word(self.t.b, word)
        left = b.add(t.load_scalar(Slot.READ_LEFT), t.load_scalar(Slot.QUEUED_LEFT))
        vector = b.and_(w.vectors, b.icmp_unsigned("<", left, I32(2)))
        queue, start = b.and_(vector, w.equal(left, 1)), b.and_(vector, w.equal(left, 0))
        pitch = b.and_(w.equal(w.field(28, 4), 9), w.only(PITCH_BITS))
        upright = w.equal(w.field(11, 1), 1)
        (per_word, whole), rows, step = w.packed(28), w.count(16, 4), w.count(12, 4)
        beside = b.lshr(b.sub(w.count(20, 4), I32(1)), per_word)
        part = b.and_(step, b.sub(b.shl(I32(1), per_word), I32(1)))  # of a word, from row to row
        bottom = b.add(w.field(4, 6), b.mul(b.sub(rows, I32(1)), b.lshr(step, per_word)))
        bottom = b.add(bottom, b.select(upright, beside, I32(0)))
        right = b.add(w.field(0, 4), b.select(upright, I32(0), beside))
        block = w.every(
            w.equal(w.field(31, 1), 1),
            whole,
            b.or_(w.equal(part, 0), w.equal(rows, 1)),
            w.only(LOAD_BITS),
            b.icmp_unsigned("<", bottom, I32(64)),
            b.icmp_unsigned("<", right, I32(16)),
        )
        self._require(b.or_(vector, b.or_(pitch, block)))
        self._store_words(
            (
                (Slot.READ_WORD, start, word),
                (Slot.READ_AT, start, w.field(0, 8)),
                (Slot.READ_LEFT, start, w.count(20, 4)),
                (Slot.QUEUED_WORD, queue, word),
                (Slot.QUEUED_LEFT, queue, w.count(20, 4)),
                (Slot.LOAD, block, I32(1)),
                (Slot.LOAD_WORD, block, word),
                (Slot.PITCH, pitch, w.field(0, 16)),
            )
        )

    def setup(self, word: ir.Value) -> None:
        """A write to address 49, file B: sets up VPM writes, DMA stores without an offset in words, or their stride."""
        b, w = self.t.b, Word(self.t.b, word)
        kind = w.field(30, 2)
        upright = w.equal(w.field(14, 1), 0)
        (per_word, whole), units = w.packed(0), w.count(23, 7)
        across = b.add(b.lshr(b.sub(w.count(16, 7), I32(1)), per_word), I32(1))
        height, width = b.select(upright, across, units), b.select(upright, units, across)
        stride = b.and_(w.equal(kind, 3), w.only(STRIDE_BITS))
        block = w.every(
            w.equal(kind, 2),
            whole,
            w.equal(w.field(15, 1), 0),
            b.icmp_unsigned("<=", b.add(w.field(7, 7), height), I32(64)),
            b.icmp_unsigned("<=", b.add(w.field(3, 4), width), I32(16)),
        )
        vector = b.and_(w.vectors, self._vpm_is_free())
        self._require(b.or_(vector, b.or_(stride, block)))
        self._store_words(
            (
                (Slot.WRITE, vector, I32(1)),
                (Slot.WRITE_WORD, vector, word),
                (Slot.WRITE_AT, vector, w.field(0, 8)),
                (Slot.WRITE_STEP, vector, w.count(12, 6)),
                (Slot.STORE, block, I32(1)),
                (Slot.STORE_WORD, block, word),
                (Slot.STRIDE, stride, word),
            )
        )

    def _vpm_is_free(self) -> ir.Value:
        """Whether no rows are reserved (`Slot.WRITE` 2). Otherwise the reference engine performs all VPM accesses."""
        return self.t.b.icmp_unsigned("!=", self.t.load_scalar(Slot.WRITE), I32(2))

    def _transfer(
        self,
        functions: Functions,
        word: ir.Value,
        per_word: ir.Value,
        pitch: ir.Value,
        address: ir.Value,
        slots: tuple[int, int],
        clock: ir.Value,
    ) -> None:
        """A DMA transfer: check now, move at the end of the chain. per_word: elements in a word, as binary logarithm.
        slots: bytes moved, end of the transfer."""
        t, b = self.t, self.t.b
        uneven = b.and_(b.or_(address, pitch), b.lshr(I32(3), per_word))
        self._require(b.icmp_unsigned("==", uneven, I32(0)))
        args = [t.function.args[n] for n in (Arg.MEMORY, Arg.PAGES, Arg.SIZE, Arg.VPM)]
        args += [word, pitch, b.and_(address, I32(BUS_MASK))]
        self._require(b.icmp_unsigned("!=", b.call(functions[False], args), I64(0)))

        def effect() -> None:
            size = b.call(functions[True], args)
            t.store_scalar(slots[0], b.add(t.load_scalar(slots[0], I64), size))
            t.store_scalar(slots[1], clock)

        t.effects.append(effect)

    def load_block(self, address: ir.Value, clock: ir.Value) -> None:
        """A DMA load."""
        t, b = self.t, self.t.b
        self._require_alone()
        self._require(self._vpm_is_free())
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.LOAD), I32(1)))
        w = Word(b, t.load_scalar(Slot.LOAD_WORD))
        power = w.field(24, 4)
        pitch = b.select(w.equal(power, 0), t.load_scalar(Slot.PITCH), b.shl(I32(8), power))
        pitch = b.select(w.equal(w.field(16, 4), 1), I32(0), pitch)
        self._require(b.icmp_unsigned("!=", pitch, I32(NO_PITCH)))
        self._transfer(self.columns, w.word, w.packed(28)[0], pitch, address, (Slot.DMA_LOADED, Slot.LOAD_UNTIL), clock)

    def store(self, address: ir.Value, clock: ir.Value) -> None:
        """A DMA store."""
        t, b = self.t, self.t.b
        self._require_alone()
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.STORE), I32(1)))
        w = Word(b, t.load_scalar(Slot.STRIDE))
        self._require(w.equal(w.field(16, 1), 0))  # BLOCKMODE
        word = t.load_scalar(Slot.STORE_WORD)
        per_word, _ = Word(b, word).packed(0)
        self._transfer(self.rows, word, per_word, w.field(0, 16), address, (Slot.DMA_BYTES, Slot.STORE_UNTIL), clock)
