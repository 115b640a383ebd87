"""Functions that translated V3D programs call: TMU requests, copies of pages for the uniform streams, stream refills.

They do not depend on the program: `library` is compiled once for a host, and its code is linked to every program.
Requests that they do not support are left to the host, which performs them one thread after another.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from qpu.core.isa import Isa
from qpu.emu.engine.llvm_lanes import I1, I1X16, I8, I16, I32, I32X16, I64, I64X16, LANES, LlvmLanes, splat
from qpu.emu.engine.memory import ID_SHIFT, LIMIT_MASK, PAGE
from qpu.emu.v3d.translate_function import PTR, StateFunction, control_word, entry, new_function, state_pointer
from qpu.emu.v3d.translate_lanes import DONE, WAITS, lanes_function
from qpu.emu.v3d.translate_state import FIFO_SLOTS, Control, Hold, Kept, Slot

__all__ = ["declarations", "library"]

_FIFO_MASK = FIFO_SLOTS - 1
_AHEAD = 4  # prefetch distance, in steps of a thread's loads
_SPAN = 16  # most pages of a contiguous piece of a stream


_REQUEST: list[ir.Type] = [*[PTR] * 6, I32X16, I16]  # arguments of the functions that perform requests
_REFILL: list[ir.Type] = [PTR] * 5

STREAMS = {
    "u": (Slot.UNIFORM, Slot.UNIFORM_HOST, Slot.UNIFORM_LEFT),
    "a": (Slot.UNIFA, Slot.UNIFA_HOST, Slot.UNIFA_LEFT),
}
"""Pointer, host address and words that can be read, of each stream."""


class Shared(NamedTuple):
    """Functions of the library, as a program declares them. refills: by stream."""

    tmu: ir.Function
    refills: dict[str, ir.Function]


def library(isa: Isa, avx512: bool) -> ir.Module:
    """The module with the functions that do not depend on the program."""
    module = ir.Module("library")
    _Loads(module, isa, avx512)
    for name, slots in STREAMS.items():
        _refill_function(module, f"refill_{name}", *slots)
    return module


def declarations(module: ir.Module) -> Shared:
    """Declare the functions of the library in a program."""
    tmu = ir.Function(module, ir.FunctionType(I32, _REQUEST), "tmu")
    refill = ir.FunctionType(ir.VoidType(), _REFILL)
    return Shared(tmu, {name: ir.Function(module, refill, f"refill_{name}") for name in STREAMS})


def _owner(b: ir.IRBuilder, pages: ir.Value, page: ir.Value) -> ir.Value:
    return b.load(entry(b, pages, page, 4), typ=I32)


def _saturated(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """x - y, or 0 where that is negative."""
    return b.select(b.icmp_unsigned(">", x, y), b.sub(x, y), I64(0))


# -- copies of pages


def _keep_function(module: ir.Module) -> ir.Function:
    """(memory, kept, copies, control, page) -> 1 if the page may be stored to, 0 if the host must perform the store.

    Only one host thread at a time performs stores, see `Control.HOLD`.
    """
    function = new_function(module, "keep", I1, [PTR, PTR, PTR, PTR, I64])
    memory, kept, copies, control, page = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    free, good, bad, copy = (function.append_basic_block(n) for n in ("free", "good", "bad", "copy"))
    state = entry(b, kept, page, 1)
    cases = b.switch(b.load(state, typ=I8), bad)
    cases.add_case(I8(Kept.FREE), free)
    cases.add_case(I8(Kept.NEVER), good)
    cases.add_case(I8(Kept.COPIED), good)
    b.position_at_end(free)

    def word(n: Control) -> ir.Value:
        return control_word(b, control, n)

    number = b.load(word(Control.USED), typ=I64)
    b.cbranch(b.icmp_unsigned("<", number, b.load(word(Control.ROOM), typ=I64)), copy, bad)
    b.position_at_end(copy)
    b.store(b.add(number, I64(1)), word(Control.USED))
    target = b.add(b.load(word(Control.POOL), typ=I64), b.shl(number, I64(12)))
    source = b.gep(memory, [b.shl(page, I64(12))], source_etype=I8)
    goal = b.inttoptr(target, PTR)
    loop, done = function.append_basic_block("loop"), function.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    at = b.phi(I64)
    at.add_incoming(I64(0), copy)
    part = b.load(b.gep(source, [at], source_etype=I8), typ=I32X16)
    part.align = 4
    b.store(part, b.gep(goal, [at], source_etype=I8)).align = 4
    after = b.add(at, I64(64))
    at.add_incoming(after, loop)
    b.cbranch(b.icmp_unsigned("<", after, I64(4096)), loop, done)
    b.position_at_end(done)
    b.store(target, entry(b, copies, page, 8))
    listed = b.inttoptr(b.load(word(Control.PAGES), typ=I64), PTR)
    b.store(b.trunc(page, I32), entry(b, listed, number, 4))
    b.store(I8(Kept.COPIED), state)
    b.branch(good)
    b.position_at_end(good)
    b.ret(I1(1))
    b.position_at_end(bad)
    b.ret(I1(0))
    return function


def _refill_function(module: ir.Module, name: str, pointer: Slot, host: Slot, left: Slot) -> None:
    """(state, memory, pages, kept, copies): find the host address of a stream, and the number of words from there on.

    The number is 0 where the pointer is not aligned, or outside every buffer.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), _REFILL), name)
    state, memory, pages, kept, copies = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loop, look, more, copied, done = (
        function.append_basic_block(n) for n in ("loop", "look", "more", "copied", "done")
    )
    address = b.load(state_pointer(b, state, int(pointer)), typ=I32)
    inside = b.zext(b.and_(address, I32(4095)), I64)
    first = b.zext(b.lshr(address, I32(12)), I64)
    home = b.add(b.ptrtoint(memory, I64), b.zext(address, I64))
    b.store(home, state_pointer(b, state, int(host)))
    start = b.block
    odd = b.icmp_unsigned("!=", b.and_(address, I32(3)), I32(0))
    b.cbranch(odd, done, loop)
    b.position_at_end(loop)
    count = b.phi(I64)
    count.add_incoming(I64(0), start)
    page = b.and_(b.add(first, count), I64(0xFFFFF))
    owner = _owner(b, pages, page)
    mapped = b.icmp_unsigned("!=", owner, I32(0))
    limit = b.and_(owner, I32(LIMIT_MASK))
    usable = b.zext(b.select(b.icmp_unsigned("==", limit, I32(0)), I32(PAGE), limit), I64)
    before = b.shl(count, I64(12))
    after = b.add(before, usable)
    stop = function.append_basic_block("stop")
    b.cbranch(mapped, look, stop)
    b.position_at_end(look)
    place = entry(b, kept, page, 1)
    claim = function.append_basic_block("claim")
    cases = b.switch(b.load(place, typ=I8), more)
    cases.add_case(I8(Kept.FREE), claim)
    cases.add_case(I8(Kept.COPIED), copied)
    b.position_at_end(claim)
    b.store(I8(Kept.STREAM), place)
    b.branch(more)
    b.position_at_end(more)
    following = b.add(count, I64(1))
    count.add_incoming(following, more)
    whole = b.icmp_unsigned("==", usable, I64(PAGE))
    b.cbranch(b.and_(whole, b.icmp_unsigned("<", following, I64(_SPAN))), loop, stop)
    b.position_at_end(stop)
    end = b.phi(I64)
    for value, source in ((before, loop), (after, more), (before, copied)):
        end.add_incoming(value, source)
    words = b.lshr(_saturated(b, end, inside), I64(2))
    b.branch(done)
    b.position_at_end(copied)
    # A copy holds one page only; a run of uncopied pages ends before it.
    alone = function.append_basic_block("alone")
    b.cbranch(b.icmp_unsigned("==", count, I64(0)), alone, stop)
    b.position_at_end(alone)
    copy = b.load(entry(b, copies, first, 8), typ=I64)
    b.store(b.add(copy, inside), state_pointer(b, state, int(host)))
    rest = b.lshr(_saturated(b, usable, inside), I64(2))
    b.branch(done)
    b.position_at_end(done)
    found = b.phi(I64)
    found.add_incoming(I64(0), start)
    found.add_incoming(words, stop)
    found.add_incoming(rest, alone)
    b.store(b.trunc(found, I32), state_pointer(b, state, int(left)))
    b.ret_void()


# -- requests


class _Requests(StateFunction):
    """Common part of the functions that perform requests."""

    def __init__(self, module: ir.Module, name: str, isa: Isa, avx512: bool) -> None:
        super().__init__(module, name, _REQUEST)
        self.isa = isa
        _, self.memory, self.pages, self.kept, self.copies, self.control, self.address, self.live = self.function.args
        self.state.add_attribute("noalias")
        self.v = LlvmLanes(self.b, avx512=avx512)
        self.head: ir.Value  # of the result ring: where the first result goes

    def push(self, k: ir.Value | int, value: ir.Value) -> None:
        ring = self.b.and_(self.b.add(self.head, I32(k) if isinstance(k, int) else k), I32(_FIFO_MASK))
        place = self.at(self.b.add(I32(int(Slot.FIFO)), self.b.shl(ring, I32(4))))
        self.b.store(value, place).align = 64

    def consecutive(self, first: ir.Value, step: ir.Value) -> ir.Value:
        """Whether all lanes are `step` after lane 0."""
        alike = self.v.eq(self.address, self.v.add(splat(self.b, first), step))
        return self.b.icmp_unsigned("==", self.b.bitcast(alike, I16), I16(0xFFFF))

    def bounded(self, lowest: ir.Value, top: ir.Value) -> None:
        """Branch to `otherwise` unless the words at both addresses lie in one buffer."""
        b = self.b
        self.stay(b.icmp_unsigned(">=", top, lowest), "below")
        first, last = (_owner(b, self.pages, self.page(x)) for x in (lowest, top))
        self.stay(b.icmp_unsigned("<", b.xor(first, last), I32(1 << ID_SHIFT)), "owned")
        inside = b.add(b.and_(top, I32(PAGE - 1)), I32(4))
        self.stay(b.icmp_unsigned("<=", inside, b.and_(last, I32(LIMIT_MASK))), "inside")

    def begin_load(self, config: ir.Value, moved: ir.Value, total: ir.Value) -> None:
        self.begin(config)
        self.tally(Slot.READ_BYTES, moved)
        self.put(Slot.COUNT, total)


class _Loads(_Requests):
    """(state, memory, pages, kept, copies, control, addresses, live) -> 0, or 1 if the host must perform the request.

    For the host, the function stores addresses and lanes in the state. Loads of one, two or four components in all
    lanes, which are consecutive in memory and inside one buffer, are performed here: most requests of fast programs.
    """

    def __init__(self, module: ir.Module, isa: Isa, avx512: bool) -> None:
        others = _Others(module, isa, avx512).function
        super().__init__(module, "tmu", isa, avx512)
        self.function.linkage = "external"
        self.otherwise = self.block("others")
        b = self.b
        config = self.scalar(Slot.CONFIG)
        self.stay(b.icmp_unsigned("==", self.live, I16(0xFFFF)), "everyone")
        self.stay(b.icmp_unsigned("==", self.scalar(Slot.PENDING), I32(0)), "load")
        # With bit 7 clear whole quads load, which makes no difference without dead lanes.
        kinds = b.switch(b.or_(b.trunc(config, I8), I8(0x80)), self.otherwise)
        for n, byte in ((1, 0xFF), (2, 0xFA), (4, 0xFC)):
            case = self.block(f"load{n}")
            kinds.add_case(I8(byte), case)
            b.position_at_end(case)
            self.case(n, config)
        b.position_at_end(self.otherwise)
        code = b.call(others, list(self.function.args), tail=True)
        b.ret(code)

    def case(self, n: int, config: ir.Value) -> None:
        b = self.b
        count = self.scalar(Slot.COUNT)
        total = b.add(count, I32(n))
        self.stay(b.icmp_unsigned("<=", total, self.scalar(Slot.LIMIT)), "room")
        first = b.extract_element(self.address, I32(0))
        even = 4 * n if self.isa is Isa.V3D42 else 4  # on 4.2 vectors wrap inside 16 bytes
        self.stay(b.icmp_unsigned("==", b.and_(first, I32(even - 1)), I32(0)), "aligned")
        self.stay(self.consecutive(first, _steps(n)), "dense")
        self.bounded(first, b.add(first, I32(4 * LANES * n - 4)))
        self.fetch_ahead(first, n)
        self.begin_load(config, I64(4 * LANES * n), total)
        start = b.gep(self.memory, [b.zext(first, I64)], source_etype=I8)
        parts = []
        for i in range(n):
            part = b.load(b.gep(start, [I64(64 * i)], source_etype=I8), typ=I32X16)
            part.align = 4
            parts.append(part)
        self.head = b.add(self.scalar(Slot.HEAD), count)
        for k in range(n):
            self.push(k, _deinterleave(b, parts, n, k))
        b.ret(I32(0))

    def fetch_ahead(self, first: ir.Value, n: int) -> None:
        """Prefetch into the host's cache: programs usually load with a constant step."""
        b = self.b
        step = b.sub(first, self.scalar(Slot.LAST))
        self.put(Slot.LAST, first)
        coming = b.zext(b.add(first, b.mul(step, I32(_AHEAD))), I64)
        for line in range(0, 64 * max(n, 2), 64):
            place = b.gep(self.memory, [b.add(coming, I64(line))], source_etype=I8)
            self.v.intrinsic("llvm.prefetch.p0", ir.VoidType(), [place, I32(0), I32(3), I32(1)])


class _Others(_Requests):
    """Stores, and loads of any addresses in any lanes.

    32-bit accesses of one to four components inside one buffer use vectors of the host; other requests run lane by
    lane.
    """

    def __init__(self, module: ir.Module, isa: Isa, avx512: bool) -> None:
        self.keep = _keep_function(module)
        lanes = lanes_function(module, isa, self.keep)
        super().__init__(module, "others", isa, avx512)
        b = self.b
        self.otherwise = self.slow = self.block("slow")
        self.held, leave = self.block("held"), self.block("leave")
        self.emit()
        b.position_at_end(self.slow)
        self.save()
        code = b.call(lanes, list(self.function.args[:6]))
        done = self.block("done")
        b.cbranch(b.icmp_unsigned("==", code, I32(DONE)), done, leave)
        b.position_at_end(done)
        b.ret(I32(0))
        b.position_at_end(leave)
        self.put(Slot.HELD, b.zext(b.icmp_unsigned("==", code, I32(WAITS)), I32))
        b.ret(I32(1))
        b.position_at_end(self.held)
        self.put(Slot.HELD, I32(1))
        self.save()
        b.ret(I32(1))

    # -- pieces

    def save(self) -> None:
        """Store the request in the state, for the host."""
        self.b.store(self.address, self.at(Slot.ADDRESS)).align = 64
        self.b.store(self.b.zext(self.live, I32), self.at(Slot.MASK))

    def data(self, k: ir.Value | int) -> ir.Value:
        word = int(Slot.DATA) + LANES * k if isinstance(k, int) else self.b.add(I32(Slot.DATA), self.b.shl(k, I32(4)))
        value = self.b.load(self.at(word), typ=I32X16)
        value.align = 64
        return value

    # -- the function

    def emit(self) -> None:
        b = self.b
        self.config, pending = self.scalar(Slot.CONFIG), self.scalar(Slot.PENDING)
        self.stay(b.icmp_unsigned("!=", self.live, I16(0)), "some")
        everyone = b.icmp_unsigned("==", self.live, I16(0xFFFF))
        byte = b.and_(self.config, I32(0xFF))
        # With bit 7 clear whole quads load, which makes no difference without dead lanes.
        byte = b.select(everyone, b.or_(byte, I32(0x80)), byte)
        # 0xff: one component; 0xfa..0xfc: two to four
        single = b.icmp_unsigned("==", byte, I32(0xFF))
        self.components = components = b.select(single, I32(1), b.sub(byte, I32(0xF8)))
        several = b.icmp_unsigned("<", b.sub(byte, I32(0xFA)), I32(3))
        self.stay(b.or_(single, several), "regular")
        self.load = b.icmp_unsigned("==", pending, I32(0))
        self.stay(b.or_(self.load, b.icmp_unsigned("==", pending, components)), "complete")
        self.count = self.scalar(Slot.COUNT)
        self.stay(b.icmp_unsigned("<=", b.add(self.count, components), self.scalar(Slot.LIMIT)), "room")
        held = b.load(control_word(b, self.control, Control.HOLD), typ=I64)
        waits = b.icmp_unsigned("==", held, I64(Hold.STORES))
        self.stay(b.or_(self.load, b.not_(waits)), "awake", self.held)
        self.head = b.add(self.scalar(Slot.HEAD), self.count)
        self.stride = b.shl(components, I32(2))
        self.extent = b.sub(self.stride, I32(4))
        dense, scattered = self.block("dense"), self.block("scattered")
        first = b.extract_element(self.address, I32(0))
        step = b.select(single, _steps(1), b.select(b.icmp_unsigned("==", components, I32(2)), _steps(2), _steps(4)))
        aligned = b.icmp_unsigned("==", b.and_(first, I32(3)), I32(0))
        if self.isa is Isa.V3D42:
            even = b.icmp_unsigned("==", b.and_(first, self.extent), I32(0))  # vectors wrap inside 16 bytes
            aligned = b.and_(aligned, even)
        whole = b.and_(self.consecutive(first, step), b.and_(everyone, aligned))
        known = b.icmp_unsigned("!=", components, I32(3))
        b.cbranch(b.and_(b.and_(whole, known), b.not_(self.load)), dense, scattered)
        b.position_at_end(dense)
        self.dense(first, scattered)
        b.position_at_end(scattered)
        self.scattered()

    def kept_already(self, page: ir.Value) -> ir.Value:
        state = self.b.load(entry(self.b, self.kept, page, 1), typ=I8)
        return self.b.icmp_unsigned("<", state, I8(Kept.FREE))

    def keep_page(self, page: ir.Value) -> None:
        """Ensure that the page may be stored to; otherwise take the slow path."""
        done = self.block("kept")
        new = self.block("new")
        self.b.cbranch(self.kept_already(page), done, new)
        self.b.position_at_end(new)
        fine = self.b.call(self.keep, [self.memory, self.kept, self.copies, self.control, page])
        self.b.cbranch(fine, done, self.slow)
        self.b.position_at_end(done)

    def begin_store(self, moved: ir.Value) -> None:
        self.begin(self.config)
        self.put(Slot.PENDING, I32(0))
        self.tally(Slot.WRITE_BYTES, moved)

    def dense(self, first: ir.Value, scattered: ir.Block) -> None:
        """Emit the stores where all lanes are live and their vectors are consecutive in memory."""
        b = self.b
        moved = b.shl(b.zext(self.stride, I64), I64(4))
        top = b.add(first, b.sub(b.trunc(moved, I32), I32(4)))
        self.otherwise = scattered
        self.bounded(first, top)
        self.otherwise = self.slow
        start = b.gep(self.memory, [b.zext(first, I64)], source_etype=I8)
        self.keep_page(self.page(first))
        self.keep_page(self.page(top))
        self.begin_store(moved)
        switch = b.switch(self.components, self.slow)
        for n in (1, 2, 4):
            case = self.block(f"store{n}")
            switch.add_case(I32(n), case)
            b.position_at_end(case)
            data = [self.data(k) for k in range(n)]
            for i in range(n):
                b.store(_interleave(b, data, i), b.gep(start, [I64(64 * i)], source_etype=I8)).align = 4
            b.ret(I32(0))

    def scattered(self) -> None:
        """Emit the accesses for any addresses and any live lanes."""
        b, v = self.b, self.v
        mask = b.bitcast(self.live, I1X16)
        infinite = v.const(0xFFFFFFFF)
        lowest = v.intrinsic("llvm.vector.reduce.umin.v16i32", I32, [v.select(mask, self.address, infinite)])
        safe = v.select(mask, self.address, splat(b, lowest))
        highest = v.intrinsic("llvm.vector.reduce.umax.v16i32", I32, [safe])
        odd = v.intrinsic("llvm.vector.reduce.or.v16i32", I32, [v.and_(safe, v.const(3))])
        self.stay(b.icmp_unsigned("==", odd, I32(0)), "aligned")
        if self.isa is Isa.V3D42:
            # Vectors that wrap inside 16 bytes take the slow path.
            reach = v.add(v.and_(safe, v.const(15)), splat(b, self.extent))
            furthest = v.intrinsic("llvm.vector.reduce.umax.v16i32", I32, [reach])
            self.stay(b.icmp_unsigned("<", furthest, I32(16)), "unwrapped")
        top = b.add(highest, self.extent)
        self.stay(b.icmp_unsigned(">=", top, highest), "ordered")
        self.bounded(lowest, top)
        lanes = b.zext(v.intrinsic("llvm.ctpop.i16", I16, [self.live]), I64)
        moved = b.mul(lanes, b.zext(self.stride, I64))
        base = b.ptrtoint(self.memory, I64)
        wide = b.zext(safe, I64X16)
        loads, stores = self.block("gathers"), self.block("scatters")
        b.cbranch(self.load, loads, stores)

        def places(k: ir.Value) -> ir.Value:
            offset = b.add(base, b.zext(b.shl(k, I32(2)), I64))
            return b.inttoptr(b.add(wide, splat(b, offset)), ir.VectorType(PTR, LANES))

        b.position_at_end(loads)
        self.begin_load(self.config, moved, b.add(self.count, self.components))
        with self.loop("gather", self.components) as k:
            name = "llvm.masked.gather.v16i32.v16p0"
            self.push(k, v.intrinsic(name, I32X16, [places(k), I32(4), mask, v.const(0)]))
        b.ret(I32(0))
        b.position_at_end(stores)
        self.keep_lanes(safe)
        self.begin_store(moved)
        with self.loop("scatter", self.components) as k:
            name = "llvm.masked.scatter.v16i32.v16p0"
            v.intrinsic(name, ir.VoidType(), [self.data(k), places(k), I32(4), mask])
        b.ret(I32(0))

    def keep_lanes(self, safe: ir.Value) -> None:
        """Ensure that all pages of the lanes may be stored to; otherwise take the slow path."""
        b = self.b
        fine: ir.Value = I1(1)
        ends = [safe, self.v.add(safe, splat(b, self.extent))]
        found = []
        for lane in range(LANES):
            for end in ends:
                page = self.page(b.extract_element(end, I32(lane)))
                found.append(page)
                fine = b.and_(fine, self.kept_already(page))
        done, new = self.block("all_kept"), self.block("some_new")
        b.cbranch(fine, done, new)
        b.position_at_end(new)
        fine = I1(1)
        for page in found:
            fine = b.and_(fine, b.call(self.keep, [self.memory, self.kept, self.copies, self.control, page]))
        b.cbranch(fine, done, self.slow)
        b.position_at_end(done)


def _steps(n: int) -> ir.Constant:
    """Distances in bytes of the lanes' vectors of `n` words from lane 0, when they are consecutive."""
    return ir.Constant(I32X16, [4 * n * lane for lane in range(LANES)])


def _shuffled(b: ir.IRBuilder, x: ir.Value, y: ir.Value, order: list[int]) -> ir.Value:
    return b.shuffle_vector(x, y, ir.Constant(I32X16, order))


def _deinterleave(b: ir.IRBuilder, parts: list[ir.Value], n: int, k: int) -> ir.Value:
    """Word n * lane + k of consecutive vectors, for all lanes; n is 1, 2 or 4."""
    if n == 1:
        return parts[0]
    if n == 2:
        return _shuffled(b, parts[0], parts[1], [2 * i + k for i in range(LANES)])
    pairs = [_shuffled(b, parts[i], parts[i + 1], [4 * (j % 8) + k for j in range(LANES)]) for i in (0, 2)]
    return _shuffled(b, pairs[0], pairs[1], [*range(8), *range(16, 24)])


def _interleave(b: ir.IRBuilder, data: list[ir.Value], i: int) -> ir.Value:
    """Vector i of memory in which word k of a lane holds data[k] of the lane."""
    n = len(data)
    if n == 1:
        return data[0]
    if n == 2:
        return _shuffled(b, data[0], data[1], [8 * i + j // 2 + LANES * (j % 2) for j in range(LANES)])
    pairs = [
        _shuffled(b, data[k], data[k + 1], [4 * i + j // 2 % 4 + LANES * (j % 2) for j in range(LANES)]) for k in (0, 2)
    ]
    # pairs hold (k, k + 1) of the four lanes in their first eight words
    order = [2 * (j // 4) + j % 2 + LANES * (j % 4 // 2) for j in range(LANES)]
    return _shuffled(b, pairs[0], pairs[1], order)
