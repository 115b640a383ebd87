"""Code for what surrounds a VideoCore IV QPU: uniforms, direct TMU reads, VPM writes and DMA stores of whole rows."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qpu.emu.llvm_lanes import I1, I8, I32, I32X16, I64, I64X16, LANES
from qpu.emu.vc4_llvm_state import Arg, Slot
from qpu.emu.vc4_state import BUS_MASK, CLOCKS_PER_INSTRUCTION
from qpu.emu.vc4_tmu import FIFO_DEPTH, SAFE_DEPTH
from qpu.emu.vc4_vpm import STORE_BUSY
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

    def write(self, number: int, value: ir.Value) -> None:
        """A write to an output register."""
        t, b = self.t, self.t.b
        if number in (56, 60):
            self.request((number - 56) >> 2, value)
            return
        if number == 48:
            self.vpm_write(value)
            return
        word = b.extract_element(value, I32(0))
        if number == 40:
            self._settle()
            t.checks.append(b.icmp_unsigned("!=", b.and_(word, I32(3)), I32(0)))
            self.base, self.safe = b.and_(word, I32(_ALIGNED)), None
        elif number == 49:
            self.setup(word)
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
        row = t.all_lanes(b.icmp_unsigned("==", address, b.add(t.splat(first), steps)))
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
        if file is File.B:
            t.effects.append(lambda: t.store_scalar(Slot.STORE_UNTIL, I64(0)))

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

        t.effects.append(effect)

    def setup(self, word: ir.Value) -> None:
        """A write to address 49, file B: forms that whole rows of words need."""
        t, b = self.t, self.t.b

        def field(shift: int, bits: int) -> ir.Value:
            return b.and_(b.lshr(word, I32(shift)), I32((1 << bits) - 1))

        def equal(x: ir.Value, n: int) -> ir.Value:
            return b.icmp_unsigned("==", x, I32(n))

        def full(x: ir.Value, n: int) -> ir.Value:
            return b.select(equal(x, 0), I32(n), x)

        kind = field(30, 2)
        vector = b.and_(equal(kind, 0), b.and_(equal(field(8, 2), 2), equal(field(11, 1), 1)))
        vector = b.and_(vector, b.icmp_unsigned("<", field(0, 8), I32(64)))
        stride = equal(kind, 3)
        rows = b.and_(equal(kind, 2), b.and_(equal(field(0, 3), 0), equal(field(14, 2), 1)))
        bottom = b.add(field(7, 6), full(field(23, 7), 128))
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
        done = t.tally.instructions - 1

        def effect() -> None:
            moved = b.call(self.rows[True], args)
            total = b.add(t.load_scalar(Slot.DMA_BYTES, I64), moved)
            t.store_scalar(Slot.DMA_BYTES, total)
            before = b.sub(t.function.args[Arg.BUDGET], b.load(t.budget, typ=I64))
            clocks = b.mul(b.add(before, I64(done + STORE_BUSY)), I64(CLOCKS_PER_INSTRUCTION))
            t.store_scalar(Slot.STORE_UNTIL, b.add(t.load_scalar(Slot.CLOCK, I64), clocks))

        t.effects.append(effect)


def _gather_function(module: ir.Module, translator: Any) -> ir.Function:
    """(memory, pages, size, addresses, place) -> whether all addresses are legal; then the words are at `place`."""
    from qpu.emu.llvm_lanes import LlvmLanes

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
