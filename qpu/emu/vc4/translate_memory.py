"""Functions of a translated VideoCore IV program that access memory: a word for all lanes, gathers, rows of a DMA
transfer; and the fields of set-up words, as code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from qpu.emu.engine.llvm_lanes import I1, I8, I32, I32X16, I64, I64X16, LANES, LlvmLanes, splat
from qpu.emu.engine.memory import ID_SHIFT, LIMIT_MASK, PAGE
from qpu.emu.vc4.vpm_setup import GENERIC_BITS

__all__ = [
    "Word",
    "broadcast_function",
    "gather_function",
    "loaded_rows",
    "stored_rows",
    "transfer_function",
    "vector_function",
]

_PTR = ir.PointerType()
Row = Callable[[ir.Value, ir.Value], None]  # code that moves row i from or to a memory address


class Word:
    """A set-up word and its fields, as code."""

    def __init__(self, b: ir.IRBuilder, word: ir.Value) -> None:
        self.b = b
        self.word = word

    def field(self, shift: int, bits: int) -> ir.Value:
        return self.b.and_(self.b.lshr(self.word, I32(shift)), I32((1 << bits) - 1))

    def count(self, shift: int, bits: int) -> ir.Value:
        """A field in which 0 means one more than the largest number."""
        found = self.field(shift, bits)
        return self.b.select(self.equal(found, 0), I32(1 << bits), found)

    def equal(self, x: ir.Value, n: int) -> ir.Value:
        return self.b.icmp_unsigned("==", x, I32(n))

    def only(self, mask: int) -> ir.Value:
        """Whether no bit outside `mask` is set."""
        return self.equal(self.b.and_(self.word, I32(~mask & 0xFFFFFFFF)), 0)

    def every(self, first: ir.Value, *more: ir.Value) -> ir.Value:
        for x in more:
            first = self.b.and_(first, x)
        return first

    @property
    def vectors(self) -> ir.Value:
        """Whether it is a set-up of VPM accesses by the QPU, in any mode, that starts inside the VPM."""
        b, size = self.b, self.field(8, 2)
        inside = b.icmp_unsigned("<", self.field(0, 8), b.lshr(I32(256), size))
        known = b.icmp_unsigned("!=", size, I32(3))
        return self.every(self.equal(self.field(30, 2), 0), known, inside, self.only(GENERIC_BITS))

    def packed(self, shift: int) -> tuple[ir.Value, ir.Value]:
        """A MODEW field: binary logarithm of the elements in a word, and whether the set-up names no offset."""
        mode = self.field(shift, 3)
        per_word = self.b.lshr(mode, I32(1))
        known = self.b.and_(self.equal(self.field(shift, 1), 0), self.b.icmp_unsigned("<", per_word, I32(3)))
        return per_word, known


def broadcast_function(module: ir.Module) -> ir.Function:
    """(address, offset) -> the word there, in all lanes."""
    function = ir.Function(module, ir.FunctionType(I32X16, [_PTR, I64]), "broadcast")
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    b = ir.IRBuilder(function.append_basic_block())
    b.ret(splat(b, b.load(b.gep(function.args[0], [function.args[1]], source_etype=I8), typ=I32)))
    return function


def gather_function(module: ir.Module, translator: Any) -> ir.Function:
    """(memory, pages, size, addresses, place) -> whether all addresses are legal; then the words are at `place`."""
    function = ir.Function(module, ir.FunctionType(I1, [_PTR, _PTR, I64, I32X16, _PTR]), "gather")
    function.linkage = "internal"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    if translator.avx512:
        _gather_at_once(b, *function.args)
    else:
        _gather_by_lane(b, *function.args)
    return function


def _gather_by_lane(
    b: ir.IRBuilder, memory: ir.Value, pages: ir.Value, size: ir.Value, address: ir.Value, place: ir.Value
) -> None:
    """The body without the gathers of AVX-512: LLVM would make a branch for each lane of a masked one."""

    def word(base: ir.Value, offset: ir.Value) -> ir.Value:
        return b.load(b.gep(base, [offset], source_etype=I8), typ=I32)

    lanes = b.alloca(I32X16)
    lanes.align = 64
    b.store(address, lanes).align = 64
    offsets, all_legal = [], I1(1)
    for lane in range(LANES):
        here = word(lanes, I64(4 * lane))
        offset = b.zext(here, I64)
        inside = b.icmp_unsigned("<", offset, size)
        known = b.select(inside, offset, I64(0))
        limit = b.and_(word(pages, b.shl(b.lshr(known, I64(12)), I64(2))), I32(LIMIT_MASK))
        end = b.add(b.and_(here, I32(PAGE - 1)), I32(4))
        all_legal = b.and_(all_legal, b.and_(inside, b.icmp_unsigned("<=", end, limit)))
        offsets.append(offset)
    with b.if_then(all_legal):
        for lane, offset in enumerate(offsets):
            b.store(word(memory, offset), b.gep(place, [I64(4 * lane)], source_etype=I8)).align = 4
    b.ret(all_legal)


def _gather_at_once(
    b: ir.IRBuilder, memory: ir.Value, pages: ir.Value, size: ir.Value, address: ir.Value, place: ir.Value
) -> None:
    v = LlvmLanes(b, avx512=True)
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
    limit = v.and_(words(pages, page, inside), v.const(LIMIT_MASK))
    end = v.add(v.and_(address, v.const(PAGE - 1)), v.const(4))
    legal = b.icmp_unsigned("<=", end, limit)
    all_legal = b.icmp_unsigned("==", b.bitcast(legal, ir.IntType(16)), ir.IntType(16)(0xFFFF))
    with b.if_then(all_legal):
        b.store(words(memory, offset, legal), place).align = 64
    b.ret(all_legal)


def vector_function(module: ir.Module, *, write: bool) -> ir.Function:
    """(vpm, set-up word, position[, vector]) -> one VPM access of a QPU in any mode; a read returns the vector.

    See `qpu.emu.vc4.vpm_setup.generic_cells` for where the lanes lie.
    """
    result: ir.Type = ir.VoidType() if write else I32X16
    types = [_PTR, I32, I32, *([I32X16] if write else [])]
    function = ir.Function(module, ir.FunctionType(result, types), "put_vector" if write else "get_vector")
    function.linkage = "internal"
    function.attributes.add("noinline")
    vpm, word, at = function.args[:3]
    start, quick, slow, lanes, done = (
        function.append_basic_block(n) for n in ("start", "row", "mode", "lanes", "done")
    )
    b = ir.IRBuilder(start)
    w = Word(b, word)
    size = w.field(8, 2)
    upright, laned = w.equal(w.field(11, 1), 0), w.equal(w.field(10, 1), 1)
    room = b.alloca(I32, size=LANES)
    room.align = 64
    vector = b.bitcast(room, I32X16.as_pointer())
    b.cbranch(b.and_(w.equal(size, 2), b.not_(upright)), quick, slow)
    b.position_at_end(quick)
    row = b.gep(vpm, [b.shl(b.zext(b.and_(at, I32(63)), I64), I64(6))], source_etype=I8)
    if write:
        b.store(function.args[3], row).align = 4
        b.ret_void()
    else:
        whole = b.load(row, typ=I32X16)
        whole.align = 4
        b.ret(whole)
    b.position_at_end(slow)
    if write:
        b.store(function.args[3], vector).align = 64
    per_word = b.sub(I32(2), size)  # binary logarithm
    low = b.sub(b.shl(I32(1), per_word), I32(1))
    part, place = b.and_(at, low), b.and_(b.lshr(at, per_word), I32(63))
    first = b.shl(part, b.sub(I32(4), per_word))
    mask = b.lshr(I32(0xFFFFFFFF), b.sub(I32(32), b.shl(I32(8), size)))
    b.branch(lanes)
    b.position_at_end(lanes)
    lane = b.phi(I32)
    lane.add_incoming(I32(0), slow)
    along = b.select(laned, lane, b.add(first, b.lshr(lane, per_word)))
    inner = b.select(laned, part, b.and_(lane, low))
    y = b.select(upright, b.add(b.and_(place, I32(48)), along), place)
    x = b.select(upright, b.and_(place, I32(15)), along)
    cell = b.gep(vpm, [b.zext(b.add(b.shl(y, I32(6)), b.shl(x, I32(2))), I64)], source_etype=I8)
    shift = b.shl(inner, b.add(size, I32(3)))
    mine = b.gep(room, [lane])
    old = b.load(cell, typ=I32)
    if write:
        new = b.shl(b.and_(b.load(mine), mask), shift)
        b.store(b.or_(b.and_(old, b.not_(b.shl(mask, shift))), new), cell)
    else:
        b.store(b.and_(b.lshr(old, shift), mask), mine)
    after = b.add(lane, I32(1))
    lane.add_incoming(after, lanes)
    b.cbranch(b.icmp_unsigned("<", after, I32(LANES)), lanes, done)
    b.position_at_end(done)
    if write:
        b.ret_void()
    else:
        b.ret(b.load(vector))
    return function


def transfer_function(
    module: ir.Module, name: str, make: Callable[[_Transfer], tuple[ir.Value, ir.Value, ir.Value, Row]], copy: bool
) -> ir.Function:
    """(memory, pages, size, vpm, setup word, pitch, address) -> bytes of a DMA transfer, 0 when a row is not legal.

    make: returns the rows, bytes of a row, bytes from row to row in memory, and how a row is moved. copy: move the
    rows; otherwise only check the addresses.
    """
    function = ir.Function(module, ir.FunctionType(I64, [_PTR, _PTR, I64, _PTR, I32, I32, I32]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    t = _Transfer(function)
    b = t.b
    rows, length, pitch, move = make(t)
    start = b.zext(function.args[6], I64)

    def row(i: ir.Value) -> None:
        at = b.add(start, b.mul(i, pitch))
        if copy:
            move(i, b.gep(t.memory, [at], source_etype=I8))
        else:
            t.check(at, length)

    t.each(rows, row)
    b.ret(b.mul(length, rows))
    return function


class _Transfer:
    """The body of a transfer function under construction."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.memory, self.pages, self.size, self.vpm, self.word, self.pitch, _ = function.args
        self.b = ir.IRBuilder(function.append_basic_block("start"))
        self.w = Word(self.b, self.word)

    def wide(self, x: ir.Value) -> ir.Value:
        return self.b.zext(x, I64)

    def line(self, source: ir.Value, target: ir.Value) -> None:
        """Move a whole row of 16 words."""
        value = self.b.load(source, typ=I32X16)
        value.align = 1  # bytes may lie anywhere in memory
        self.b.store(value, target).align = 1

    def each(self, count: ir.Value, body: Callable[[ir.Value], None]) -> None:
        """A loop over 0..count-1; count is not 0."""
        b, entry = self.b, self.b.block
        loop, done = (self.function.append_basic_block(n) for n in ("loop", "done"))
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(I64)
        i.add_incoming(I64(0), entry)
        body(i)
        after = b.add(i, I64(1))
        i.add_incoming(after, b.block)
        b.cbranch(b.icmp_unsigned("<", after, count), loop, done)
        b.position_at_end(done)

    def check(self, at: ir.Value, length: ir.Value) -> None:
        """Return 0 unless all bytes from `at` on lie in one region."""
        b = self.b
        last = b.add(at, b.sub(length, I64(1)))
        with b.if_then(b.icmp_unsigned(">=", last, self.size), likely=False):
            b.ret(I64(0))
        one, two = (
            b.load(b.gep(self.pages, [b.shl(b.lshr(x, I64(12)), I64(2))], source_etype=I8), typ=I32) for x in (at, last)
        )
        same = b.icmp_unsigned("<", b.xor(one, two), I32(1 << ID_SHIFT))
        inside = b.icmp_unsigned("<", b.and_(b.trunc(last, I32), I32(PAGE - 1)), b.and_(two, I32(LIMIT_MASK)))
        with b.if_then(b.not_(b.and_(same, inside)), likely=False):
            b.ret(I64(0))

    def bytes(self, vpm: ir.Value, memory: ir.Value, count: ir.Value, *, upright: ir.Value, load: bool) -> None:
        """Move `count` bytes between VPM and memory. upright: the words in the VPM lie below each other."""
        b = self.b
        line = b.and_(b.icmp_unsigned("==", count, I64(64)), b.not_(upright))

        def one(at: ir.Value, kind: ir.Type) -> None:
            below = b.add(b.shl(b.and_(at, I64(~3)), I64(4)), b.and_(at, I64(3)))
            here = b.gep(vpm, [b.select(upright, below, at)], source_etype=I8)
            there = b.gep(memory, [at], source_etype=I8)
            source, target = (there, here) if load else (here, there)
            value = b.load(source, typ=kind)
            value.align = 1
            b.store(value, target).align = 1

        with b.if_else(line) as (whole, part):
            with whole:
                self.line(*((memory, vpm) if load else (vpm, memory)))
            with part, b.if_else(b.icmp_unsigned("==", b.and_(count, I64(3)), I64(0))) as (words, odd):
                with words:
                    self.each(b.lshr(count, I64(2)), lambda k: one(b.shl(k, I64(2)), I32))
                with odd:
                    self.each(count, lambda k: one(k, I8))


def stored_rows(t: _Transfer) -> tuple[ir.Value, ir.Value, ir.Value, Row]:
    """A store of rows or columns; `pitch` is the gap between two rows in memory."""
    b, w = t.b, t.w
    per_word, _ = w.packed(0)
    upright = w.equal(w.field(14, 1), 0)
    rows, length = t.wide(w.count(23, 7)), b.shl(t.wide(w.count(16, 7)), t.wide(b.sub(I32(2), per_word)))
    source = b.add(b.shl(t.wide(w.field(7, 6)), I64(6)), b.shl(t.wide(w.field(3, 4)), I64(2)))
    step = b.select(upright, I64(4), I64(64))

    def move(i: ir.Value, here: ir.Value) -> None:
        there = b.gep(t.vpm, [b.add(source, b.mul(i, step))], source_etype=I8)
        t.bytes(there, here, length, upright=upright, load=False)

    return rows, length, b.add(length, t.wide(t.pitch)), move


def loaded_rows(t: _Transfer) -> tuple[ir.Value, ir.Value, ir.Value, Row]:
    """A load into rows or columns inside the VPM; `pitch` leads from row start to row start in memory."""
    b, w = t.b, t.w
    per_word, _ = w.packed(28)
    rows, step = t.wide(w.count(16, 4)), t.wide(b.lshr(w.count(12, 4), per_word))
    length = b.shl(t.wide(w.count(20, 4)), t.wide(b.sub(I32(2), per_word)))
    upright = w.equal(w.field(11, 1), 1)
    target = b.add(b.shl(t.wide(w.field(4, 6)), I64(6)), b.shl(t.wide(w.field(0, 4)), I64(2)))

    def move(i: ir.Value, here: ir.Value) -> None:
        there = b.gep(t.vpm, [b.add(target, b.shl(b.mul(i, step), I64(6)))], source_etype=I8)
        t.bytes(there, here, length, upright=upright, load=True)

    return rows, length, t.wide(t.pitch), move
