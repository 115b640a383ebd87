"""Code for what surrounds a VideoCore IV QPU: uniforms, direct TMU reads, the VPM and DMA in the usual modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from qpu.emu.engine.llvm_lanes import I1, I8, I32, I32X16, I64, I64X16, LANES
from qpu.emu.vc4.state import BUS_MASK, CLOCKS_PER_INSTRUCTION
from qpu.emu.vc4.tmu import FIFO_DEPTH, SAFE_DEPTH
from qpu.emu.vc4.translate_graph import MUTEX
from qpu.emu.vc4.translate_state import NO_PITCH, Arg, Slot
from qpu.emu.vc4.vpm import LOAD_BUSY, STORE_BUSY
from qpu.emu.vc4.vpm_setup import GENERIC_BITS, LOAD_BITS, PITCH_BITS, STRIDE_BITS
from qpu.vc4.regs import File

__all__ = ["Units"]

_PTR = ir.PointerType()
_ALIGNED = BUS_MASK & ~3


class Units:
    """The units as seen by the chain under construction. `t`: the translator."""

    def __init__(self, translator: Any) -> None:
        self.t = translator
        self.requests = [0, 0]
        module = translator.module
        self.gather = _gather_function(module, translator)
        self.rows = {copy: _rows_function(module, copy) for copy in (False, True)}
        self.columns = {copy: _load_function(module, copy) for copy in (False, True)}

    def begin(self) -> None:
        """A chain starts."""
        self.base: ir.Value | None = None  # uniform pointer; `used` words were read from there
        self.safe: ir.Value | None = None
        self.used = 0
        self.heads: dict[int, ir.Value] = {}
        self.counts: dict[int, ir.Value] = {}
        self.requests = [0, 0]

    # -- uniforms

    def uniform(self) -> ir.Value:
        """The next uniform."""
        t, b = self.t, self.t.b
        if self.base is None:
            self.base = t.load_scalar(Slot.UNIFORM)
        if self.safe is None:
            # A chain reads less than a page; an address too near the end fails the check of `_settle`.
            inside = b.icmp_unsigned("<", b.add(b.zext(self.base, I64), I64(4096)), t.function.args[Arg.SIZE])
            start = b.select(inside, b.zext(self.base, I64), I64(0))
            t.checks.append(b.not_(inside))
            self.safe = b.gep(t.function.args[Arg.MEMORY], [start], source_etype=I8)
        at = b.gep(self.safe, [I64(4 * self.used)], source_etype=I8)
        self.used += 1
        return b.load(at, typ=I32)

    def page(self, address: ir.Value) -> ir.Value:
        """The region number of the page of an address inside the window."""
        t, b = self.t, self.t.b
        index = b.shl(b.zext(b.lshr(address, I32(12)), I64), I64(2))
        return b.load(b.gep(t.function.args[Arg.PAGES], [index], source_etype=I8), typ=I32)

    def _settle(self) -> None:
        """Check the uniforms read from `base` on."""
        if not self.used or self.base is None:
            return
        t, b = self.t, self.t.b
        size = t.function.args[Arg.SIZE]
        inside = b.icmp_unsigned("<", b.add(b.zext(self.base, I64), I64(4096)), size)
        first = b.select(inside, self.base, I32(0))
        for address in (first, b.add(first, I32(4 * self.used - 4))):
            t.checks.append(b.icmp_unsigned("==", self.page(address), I32(0)))
        self.base = b.add(self.base, I32(4 * self.used))
        self.used = 0
        self.safe = None

    # -- output registers

    def write(self, number: int, file: File, value: ir.Value) -> None:
        """A write to an output register."""
        t, b = self.t, self.t.b
        if number in (56, 60):
            self.request((number - 56) >> 2, value)
            return
        if number == 48:
            self.vpm_write(value)
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
                self.read_setup(word)
            else:
                self.setup(word)
        elif file is File.A:
            self.load_block(word)
        else:
            self.store(word)

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
        """A read of one word in each lane, into the queue."""
        t, b, v = self.t, self.t.b, self.t.v
        self.requests[tmu] += 1
        head, count = self.queue(tmu)
        t.checks.append(b.icmp_unsigned(">=", count, I64(SAFE_DEPTH)))
        place = self.place(tmu, b.add(head, count))
        self.counts[tmu] = b.add(count, I64(1))
        address = b.and_(value, v.const(_ALIGNED))
        first = b.extract_element(address, I32(0))
        steps = ir.Constant(I32X16, [4 * i for i in range(LANES)])
        row = t.every(b.icmp_unsigned("==", address, b.add(t.splat(first), steps)))
        last = b.add(b.zext(first, I64), I64(4 * LANES))
        row = b.and_(row, b.icmp_unsigned("<=", last, t.function.args[Arg.SIZE]))
        known = b.select(row, first, I32(0))
        mapped = b.icmp_unsigned("!=", self.page(known), I32(0))
        mapped = b.and_(mapped, b.icmp_unsigned("!=", self.page(b.add(known, I32(4 * LANES - 4))), I32(0)))
        row = b.and_(row, mapped)
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
        """The oldest answer."""
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
        """Store the pointers."""
        t = self.t
        if self.base is not None:
            t.store_scalar(Slot.UNIFORM, self.base)
        if any(self.requests):
            t.store_scalar(Slot.USED, I32(1))
        for tmu, head in self.heads.items():
            t.store_scalar(Slot.HEAD + 2 * tmu, head)
            t.store_scalar(Slot.COUNT + 2 * tmu, self.counts[tmu])

    # -- VPM: each of these ends its chain, so that nothing happens unless everything else was right

    def _require(self, holds: ir.Value) -> None:
        self.t.checks.append(self.t.b.not_(holds))

    def _require_alone(self) -> None:
        """What others see is written when nobody else runs, so that the host's cores decide nothing."""
        self._require(self.t.b.icmp_unsigned("!=", self.t.load_scalar(Slot.ALONE), I32(0)))

    def wait(self, file: File) -> None:
        """A wait for DMA; transfers happen at once."""
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
        """1 while a DMA transfer is under way. A chain ends with what would start or end one."""
        t, b = self.t, self.t.b
        until = t.load_scalar(Slot.LOAD_UNTIL if file is File.A else Slot.STORE_UNTIL, I64)
        return b.zext(b.icmp_signed("<", self._clock(0), until), I32)

    def _touch(self) -> None:
        self.t.store_scalar(Slot.TOUCHED, I32(1))

    def take_mutex(self) -> None:
        """Take the mutex, not before its last release; the reference engine makes QPUs wait for it."""
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
        """Release the mutex this QPU holds. The translator leaves after it."""
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
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.READ), I32(0)))
        self._require(b.icmp_unsigned("!=", left, I32(0)))
        row = b.shl(b.zext(b.and_(at, I32(63)), I64), I64(6))
        value = b.load(b.gep(t.function.args[Arg.VPM], [row], source_etype=I8), typ=I32X16)
        value.align = 4

        def effect() -> None:
            word, queued = t.load_scalar(Slot.READ_WORD), t.load_scalar(Slot.QUEUED_WORD)
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
            at = t.load_scalar(Slot.WRITE_AT)
            row = b.shl(b.zext(b.and_(at, I32(63)), I64), I64(6))
            b.store(value, b.gep(t.function.args[Arg.VPM], [row], source_etype=I8)).align = 4
            step = b.add(at, t.load_scalar(Slot.WRITE_STEP))
            t.store_scalar(Slot.WRITE_AT, b.and_(step, I32(255)))
            self._touch()

        t.effects.append(effect)

    def _fields(self, word: ir.Value) -> tuple[Callable[..., ir.Value], ...]:
        """Functions of a setup word: (shift, bits) -> field; (x, n) -> x equals n; (x, n) -> x, or n for 0;
        (mask) -> no bit outside of the mask is set.
        """
        b = self.t.b

        def field(shift: int, bits: int) -> ir.Value:
            return b.and_(b.lshr(word, I32(shift)), I32((1 << bits) - 1))

        def equal(x: ir.Value, n: int) -> ir.Value:
            return b.icmp_unsigned("==", x, I32(n))

        def full(x: ir.Value, n: int) -> ir.Value:
            return b.select(equal(x, 0), I32(n), x)

        def unused(mask: int) -> ir.Value:
            return equal(b.and_(word, I32(~mask & 0xFFFFFFFF)), 0)

        return field, equal, full, unused

    def read_setup(self, word: ir.Value) -> None:
        """A write to address 49, file A: VPM reads of rows of words, DMA loads of words, their pitch."""
        t, b = self.t, self.t.b
        field, equal, full, unused = self._fields(word)
        vector = b.and_(equal(field(30, 2), 0), b.and_(equal(field(8, 2), 2), equal(field(11, 1), 1)))
        vector = b.and_(vector, b.icmp_unsigned("<", field(0, 8), I32(64)))
        vector = b.and_(vector, unused(GENERIC_BITS))
        left = b.add(t.load_scalar(Slot.READ_LEFT), t.load_scalar(Slot.QUEUED_LEFT))
        vector = b.and_(vector, b.icmp_unsigned("<", left, I32(2)))
        vector = b.and_(vector, equal(t.load_scalar(Slot.READ), 0))
        queue = b.and_(vector, equal(left, 1))
        start = b.and_(vector, equal(left, 0))
        pitch = b.and_(equal(field(28, 4), 9), unused(PITCH_BITS))
        block = b.and_(equal(field(28, 4), 8), unused(LOAD_BITS))
        upright = equal(field(11, 1), 1)
        columns, rows = full(field(20, 4), 16), full(field(16, 4), 16)
        beside = b.sub(columns, I32(1))
        bottom = b.add(field(4, 6), b.mul(b.sub(rows, I32(1)), full(field(12, 4), 16)))
        bottom = b.add(bottom, b.select(upright, beside, I32(0)))
        right = b.add(field(0, 4), b.select(upright, I32(0), beside))
        block = b.and_(block, b.icmp_unsigned("<", bottom, I32(64)))
        block = b.and_(block, b.icmp_unsigned("<", right, I32(16)))
        self._require(b.or_(vector, b.or_(pitch, block)))

        def effect() -> None:
            for slot, when, new in (
                (Slot.READ_WORD, start, word),
                (Slot.READ_AT, start, field(0, 8)),
                (Slot.READ_LEFT, start, full(field(20, 4), 16)),
                (Slot.QUEUED_WORD, queue, word),
                (Slot.QUEUED_LEFT, queue, full(field(20, 4), 16)),
                (Slot.LOAD, block, I32(1)),
                (Slot.LOAD_WORD, block, word),
                (Slot.PITCH, pitch, field(0, 16)),
            ):
                t.store_scalar(slot, b.select(when, new, t.load_scalar(slot)))
            self._touch()

        t.effects.append(effect)

    def load_block(self, address: ir.Value) -> None:
        """A DMA load of words."""
        t, b = self.t, self.t.b
        self._require_alone()
        # 2: the caller wants all VPM accesses left to the reference engine
        self._require(b.icmp_unsigned("!=", t.load_scalar(Slot.WRITE), I32(2)))
        self._require(b.icmp_unsigned("==", t.load_scalar(Slot.LOAD), I32(1)))
        word, extended = t.load_scalar(Slot.LOAD_WORD), t.load_scalar(Slot.PITCH)
        power = b.and_(b.lshr(word, I32(24)), I32(15))
        own = b.icmp_unsigned("==", power, I32(0))
        pitch = b.select(own, extended, b.shl(I32(8), power))
        one = b.icmp_unsigned("==", b.and_(word, I32(15 << 16)), I32(1 << 16))
        pitch = b.select(one, I32(0), pitch)
        self._require(b.icmp_unsigned("!=", pitch, I32(NO_PITCH)))
        self._require(b.icmp_unsigned("==", b.and_(b.or_(address, pitch), I32(3)), I32(0)))
        args = [t.function.args[n] for n in (Arg.MEMORY, Arg.PAGES, Arg.SIZE, Arg.VPM)]
        args += [word, pitch, b.and_(address, I32(BUS_MASK))]
        self._require(b.icmp_unsigned("!=", b.call(self.columns[False], args), I64(0)))
        until = self._clock(LOAD_BUSY)

        def effect() -> None:
            moved = b.call(self.columns[True], args)
            t.store_scalar(Slot.DMA_LOADED, b.add(t.load_scalar(Slot.DMA_LOADED, I64), moved))
            t.store_scalar(Slot.LOAD_UNTIL, until)

        t.effects.append(effect)

    def setup(self, word: ir.Value) -> None:
        """A write to address 49, file B: forms that whole rows of words need."""
        t, b = self.t, self.t.b
        field, equal, full, unused = self._fields(word)
        kind = field(30, 2)
        vector = b.and_(equal(kind, 0), b.and_(equal(field(8, 2), 2), equal(field(11, 1), 1)))
        vector = b.and_(vector, b.icmp_unsigned("<", field(0, 8), I32(64)))
        vector = b.and_(vector, unused(GENERIC_BITS))
        stride = b.and_(equal(kind, 3), unused(STRIDE_BITS))
        rows = b.and_(equal(kind, 2), b.and_(equal(field(0, 3), 0), equal(field(14, 2), 1)))
        bottom = b.add(field(7, 7), full(field(23, 7), 128))
        right = b.add(field(3, 4), full(field(16, 7), 128))
        rows = b.and_(rows, b.icmp_unsigned("<=", bottom, I32(64)))
        rows = b.and_(rows, b.icmp_unsigned("<=", right, I32(16)))
        # 2: the caller wants all VPM accesses left to the reference engine
        vector = b.and_(vector, b.icmp_unsigned("!=", t.load_scalar(Slot.WRITE), I32(2)))
        self._require(b.or_(vector, b.or_(stride, rows)))

        def effect() -> None:
            for slot, when, new in (
                (Slot.WRITE, vector, I32(1)),
                (Slot.WRITE_WORD, vector, word),
                (Slot.WRITE_AT, vector, field(0, 8)),
                (Slot.WRITE_STEP, vector, full(field(12, 6), 64)),
                (Slot.STORE, rows, I32(1)),
                (Slot.STORE_WORD, rows, word),
                (Slot.STRIDE, stride, word),
            ):
                t.store_scalar(slot, b.select(when, new, t.load_scalar(slot)))
            self._touch()

        t.effects.append(effect)

    def store(self, address: ir.Value) -> None:
        """A DMA store of whole rows."""
        t, b = self.t, self.t.b
        self._require_alone()
        known = b.icmp_unsigned("==", t.load_scalar(Slot.STORE), I32(1))
        word, stride = t.load_scalar(Slot.STORE_WORD), t.load_scalar(Slot.STRIDE)
        block = b.icmp_unsigned("!=", b.and_(stride, I32(1 << 16)), I32(0))
        odd = b.icmp_unsigned("!=", b.and_(b.or_(address, stride), I32(3)), I32(0))
        self._require(b.and_(known, b.not_(b.or_(block, odd))))
        args = [t.function.args[n] for n in (Arg.MEMORY, Arg.PAGES, Arg.SIZE, Arg.VPM)]
        args += [word, b.and_(stride, I32(0xFFFF)), b.and_(address, I32(BUS_MASK))]
        self._require(b.icmp_unsigned("!=", b.call(self.rows[False], args), I64(0)))
        until = self._clock(STORE_BUSY)

        def effect() -> None:
            moved = b.call(self.rows[True], args)
            total = b.add(t.load_scalar(Slot.DMA_BYTES, I64), moved)
            t.store_scalar(Slot.DMA_BYTES, total)
            t.store_scalar(Slot.STORE_UNTIL, until)

        t.effects.append(effect)


def _gather_function(module: ir.Module, translator: Any) -> ir.Function:
    """(memory, pages, size, addresses, place) -> whether all addresses are legal; then the words are at `place`."""
    from qpu.emu.engine.llvm_lanes import LlvmLanes

    function = ir.Function(module, ir.FunctionType(I1, [_PTR, _PTR, I64, I32X16, _PTR]), "gather")
    function.linkage = "internal"
    function.attributes.add("noinline")
    memory, pages, size, address, place = function.args
    b = ir.IRBuilder(function.append_basic_block())
    v = LlvmLanes(b, avx512=translator.avx512)
    pointers = ir.VectorType(_PTR, LANES)

    def wide(x: ir.Value) -> ir.Value:
        one = b.insert_element(ir.Constant(I64X16, ir.Undefined), x, I32(0))
        return b.shuffle_vector(one, one, ir.Constant(I32X16, [0] * LANES))

    def words(base: ir.Value, offset: ir.Value, mask: ir.Value) -> ir.Value:
        at = b.add(wide(b.ptrtoint(base, I64)), offset)
        where = b.inttoptr(at, pointers)
        name = "llvm.masked.gather.v16i32.v16p0"
        return v.intrinsic(name, I32X16, [where, I32(4), mask, ir.Constant(I32X16, [0] * LANES)])

    offset = b.zext(address, I64X16)
    inside = b.icmp_unsigned("<", offset, wide(size))
    page = b.shl(b.lshr(offset, ir.Constant(I64X16, [12] * LANES)), ir.Constant(I64X16, [2] * LANES))
    legal = b.icmp_unsigned("!=", words(pages, page, inside), v.const(0))
    all_legal = b.icmp_unsigned("==", b.bitcast(legal, ir.IntType(16)), ir.IntType(16)(0xFFFF))
    with b.if_then(all_legal):
        b.store(words(memory, offset, legal), place).align = 64
    b.ret(all_legal)
    return function


def _rows_function(module: ir.Module, copy: bool) -> ir.Function:
    """(memory, pages, size, vpm, setup word, gap, address) -> bytes of a DMA store, 0 when a row is not legal.

    copy: do it; else only look.
    """
    types = [_PTR, _PTR, I64, _PTR, I32, I32, I32]
    function = ir.Function(module, ir.FunctionType(I64, types), "copy_rows" if copy else "check_rows")
    function.linkage = "internal"
    function.attributes.add("noinline")
    memory, pages, size, vpm, word, gap, address = function.args
    b = ir.IRBuilder(function.append_basic_block("start"))

    def field(shift: int, bits: int) -> ir.Value:
        return b.zext(b.and_(b.lshr(word, I32(shift)), I32((1 << bits) - 1)), I64)

    units, depth = (b.select(b.icmp_unsigned("==", f, I64(0)), I64(128), f) for f in (field(23, 7), field(16, 7)))
    length = b.shl(depth, I64(2))
    source = b.add(b.shl(field(7, 6), I64(6)), b.shl(field(3, 4), I64(2)))
    pitch = b.add(length, b.zext(gap, I64))
    start = b.zext(address, I64)
    total = b.mul(length, units)
    entry = b.block
    loop, body, done = (function.append_basic_block(n) for n in ("loop", "body", "done"))
    assert entry is not None
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    i.add_incoming(I64(0), entry)
    b.cbranch(b.icmp_unsigned("<", i, units), body, done)
    b.position_at_end(body)
    at = b.add(start, b.mul(i, pitch))
    if copy:
        here = b.gep(memory, [at], source_etype=I8)
        there = b.gep(vpm, [b.add(source, b.shl(i, I64(6)))], source_etype=I8)
        kind = ir.FunctionType(ir.VoidType(), [_PTR, _PTR, I64, I1])
        move = module.globals.get("llvm.memcpy.p0.p0.i64") or ir.Function(module, kind, "llvm.memcpy.p0.p0.i64")
        full = b.icmp_unsigned("==", length, I64(64))
        with b.if_else(full) as (whole, part):
            with whole:
                row = b.load(there, typ=I32X16)
                row.align = 4
                b.store(row, here).align = 4
            with part:
                b.call(move, [here, there, length, I1(0)])
    else:
        last = b.add(at, b.sub(length, I64(1)))
        with b.if_then(b.icmp_unsigned(">=", last, size), likely=False):
            b.ret(I64(0))
        owners = [
            b.load(b.gep(pages, [b.shl(b.lshr(x, I64(12)), I64(2))], source_etype=I8), typ=I32) for x in (at, last)
        ]
        legal = b.and_(b.icmp_unsigned("!=", owners[0], I32(0)), b.icmp_unsigned("==", owners[0], owners[1]))
        with b.if_then(b.not_(legal), likely=False):
            b.ret(I64(0))
    i.add_incoming(b.add(i, I64(1)), b.block)
    b.branch(loop)
    b.position_at_end(done)
    b.ret(total)
    return function


def _load_function(module: ir.Module, copy: bool) -> ir.Function:
    """(memory, pages, size, vpm, setup word, pitch, address) -> bytes of a DMA load, 0 when a row is not legal.

    copy: do it; else only look. The block lies inside the VPM.
    """
    types = [_PTR, _PTR, I64, _PTR, I32, I32, I32]
    function = ir.Function(module, ir.FunctionType(I64, types), "load_rows" if copy else "check_load")
    function.linkage = "internal"
    function.attributes.add("noinline")
    memory, pages, size, vpm, word, pitch, address = function.args
    b = ir.IRBuilder(function.append_basic_block("start"))

    def field(shift: int, bits: int) -> ir.Value:
        return b.zext(b.and_(b.lshr(word, I32(shift)), I32((1 << bits) - 1)), I64)

    columns, rows, vpitch = (
        b.select(b.icmp_unsigned("==", f, I64(0)), I64(16), f) for f in (field(20, 4), field(16, 4), field(12, 4))
    )
    upright = b.icmp_unsigned("!=", field(11, 1), I64(0))
    target = b.add(b.shl(field(4, 6), I64(6)), b.shl(field(0, 4), I64(2)))
    beside = b.select(upright, I64(64), I64(4))
    length = b.shl(columns, I64(2))
    start, pitch = b.zext(address, I64), b.zext(pitch, I64)
    whole = b.and_(b.icmp_unsigned("==", columns, I64(16)), b.not_(upright))

    def each(count: ir.Value, body: Callable[[ir.Value], None]) -> None:
        entry = b.block
        loop, inside, done = (function.append_basic_block(n) for n in ("loop", "body", "done"))
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(I64)
        i.add_incoming(I64(0), entry)
        b.cbranch(b.icmp_unsigned("<", i, count), inside, done)
        b.position_at_end(inside)
        body(i)
        i.add_incoming(b.add(i, I64(1)), b.block)
        b.branch(loop)
        b.position_at_end(done)

    def move(row: ir.Value) -> None:
        here = b.gep(memory, [b.add(start, b.mul(row, pitch))], source_etype=I8)
        there = b.gep(vpm, [b.add(target, b.mul(row, b.shl(vpitch, I64(6))))], source_etype=I8)

        def element(k: ir.Value) -> None:
            value = b.load(b.gep(here, [b.shl(k, I64(2))], source_etype=I8), typ=I32)
            b.store(value, b.gep(there, [b.mul(k, beside)], source_etype=I8))

        with b.if_else(whole) as (line, single):
            with line:
                value = b.load(here, typ=I32X16)
                value.align = 4
                b.store(value, there).align = 4
            with single:
                each(columns, element)

    def look(row: ir.Value) -> None:
        at = b.add(start, b.mul(row, pitch))
        last = b.add(at, b.sub(length, I64(1)))
        with b.if_then(b.icmp_unsigned(">=", last, size), likely=False):
            b.ret(I64(0))
        owners = [
            b.load(b.gep(pages, [b.shl(b.lshr(x, I64(12)), I64(2))], source_etype=I8), typ=I32) for x in (at, last)
        ]
        legal = b.and_(b.icmp_unsigned("!=", owners[0], I32(0)), b.icmp_unsigned("==", owners[0], owners[1]))
        with b.if_then(b.not_(legal), likely=False):
            b.ret(I64(0))

    each(rows, move if copy else look)
    b.ret(b.mul(length, rows))
    return function
