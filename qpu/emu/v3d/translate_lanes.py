"""The slow path of TMU requests in translated V3D programs, lane by lane.

It covers 8- and 16-bit loads and stores, whole quads with dead lanes, vectors that wrap, atomics and cache operations.
Configuration bytes are decoded by `qpu.emu.v3d.tmu.decode_request`; all lanes are checked before any of them accesses
memory.
"""

from __future__ import annotations

from llvmlite import ir

from qpu.core.isa import Isa
from qpu.emu.engine.llvm_lanes import I1, I8, I16, I32, I64, LANES, LlvmLanes
from qpu.emu.engine.memory import LIMIT_MASK, PAGE
from qpu.emu.v3d.tmu import ATOMICS, Action, decode_request
from qpu.emu.v3d.translate_function import PTR, StateFunction, control_word, entry
from qpu.emu.v3d.translate_state import FIFO_SLOTS, Control, Hold, Kept, Slot

__all__ = ["DONE", "HOST", "WAITS", "lanes_function"]

DONE, HOST, WAITS = 0, 1, 2  # results of the function
_LOAD, _STORE, _ATOMIC, _CACHE = 1, 2, 3, 4
_KINDS = {Action.LOAD: _LOAD, Action.STORE: _STORE, Action.ATOMIC: _ATOMIC, Action.CACHE: _CACHE}
_DATA = 5  # the table covers requests with 0.._DATA - 1 data words


class _Scalars(LlvmLanes):
    """One lane: `LaneOps` on 32-bit numbers."""

    def const(self, value: int) -> ir.Value:
        return I32(value & 0xFFFFFFFF)


_NAMES = tuple(ATOMICS)


def _entry(byte: int, data: int) -> int:
    """A request as a number: kind, components << 4, bytes << 8, sign << 12, atomic << 16; 0: left to the host."""
    r = decode_request(byte, data)
    if r.problem or data != r.expected:
        return 0
    components = 0 if r.action is Action.CACHE else r.components
    atomic = _NAMES.index(r.name) if r.action is Action.ATOMIC else 0
    return _KINDS[r.action] | components << 4 | r.size << 8 | r.signed << 12 | atomic << 16


def _table(module: ir.Module) -> ir.GlobalVariable:
    """The table of `_entry` for each configuration byte without its highest bit and each number of data words."""
    numbers = [_entry(byte, data) for byte in range(128) for data in range(_DATA)]
    kind = ir.ArrayType(I32, len(numbers))
    table = ir.GlobalVariable(module, kind, "requests")
    table.linkage, table.global_constant = "internal", True
    table.initializer = ir.Constant(kind, numbers)
    return table


def lanes_function(module: ir.Module, isa: Isa, keep: ir.Function) -> ir.Function:
    """(state, memory, pages, kept, copies, control) -> DONE, HOST (the host must do it) or WAITS (stores are on hold).

    The state holds the request: configuration, data, ADDRESS and MASK. keep: `translate_tmu._keep_function`.
    """
    return _Lanes(module, isa, keep).function


class _Lanes(StateFunction):
    def __init__(self, module: ir.Module, isa: Isa, keep: ir.Function) -> None:
        self.isa = isa
        self.keep = keep
        self.table = _table(module)
        super().__init__(module, "lanes", [PTR] * 6)
        _, self.memory, self.pages, self.kept, self.copies, self.control = self.function.args
        self.otherwise = host = self.block("host")
        self.emit()
        self.b.position_at_end(host)
        self.b.ret(I32(HOST))

    # -- pieces

    def bit(self, mask: ir.Value, lane: ir.Value) -> ir.Value:
        return self.b.trunc(self.b.lshr(mask, lane), I1)

    def word(self, base: Slot, vector: ir.Value, lane: ir.Value) -> ir.Value:
        """Address of a lane of a vector; vectors are numbered from `base` on."""
        b = self.b
        index = b.add(b.add(b.shl(vector, I32(4)), lane), I32(int(base)))
        return self.at(index)

    def address(self, lane: ir.Value, k: ir.Value) -> ir.Value:
        """Address of component k, as `tmu.component_address`."""
        b = self.b
        start = b.load(self.word(Slot.ADDRESS, I32(0), lane), typ=I32)
        step = b.add(start, b.shl(k, I32(2)))
        if self.isa is Isa.V3D42:
            wrapped = b.or_(b.and_(start, I32(0xFFFFFFF0)), b.and_(step, I32(15)))
            return b.select(b.icmp_unsigned("==", self.components, I32(1)), start, wrapped)
        return step

    def mapped(self, address: ir.Value) -> ir.Value:
        """Whether the component at an aligned address is inside a buffer."""
        b = self.b
        owner = b.load(entry(b, self.pages, self.page(address), 4), typ=I32)
        end = b.add(b.and_(address, I32(PAGE - 1)), self.size)
        return b.icmp_unsigned("<=", end, b.and_(owner, I32(LIMIT_MASK)))

    def result(self, k: ir.Value, lane: ir.Value) -> ir.Value:
        """Address of a lane of result k."""
        b = self.b
        ring = b.and_(b.add(b.add(self.scalar(Slot.HEAD), self.count), k), I32(FIFO_SLOTS - 1))
        return self.word(Slot.FIFO, ring, lane)

    def lanes_of(self, mask: ir.Value) -> ir.Value:
        """Number of lanes in a mask, 64 bits."""
        ctpop = self.function.module.declare_intrinsic("llvm.ctpop", [I32])
        return self.b.zext(self.b.call(ctpop, [mask]), I64)

    # -- the function

    def emit(self) -> None:
        b = self.b
        config, pending = self.scalar(Slot.CONFIG), self.scalar(Slot.PENDING)
        self.live = live = self.scalar(Slot.MASK)
        self.stay(b.icmp_unsigned("<", pending, I32(_DATA)), "known")
        row = b.add(b.mul(b.and_(config, I32(127)), I32(_DATA)), pending)
        found = b.load(entry(b, self.table, b.zext(row, I64), 4), typ=I32)
        self.stay(b.icmp_unsigned("!=", found, I32(0)), "regular")
        kind = b.and_(found, I32(7))
        self.components = b.and_(b.lshr(found, I32(4)), I32(7))
        self.size = b.and_(b.lshr(found, I32(8)), I32(7))
        self.signed = b.icmp_unsigned("!=", b.and_(found, I32(1 << 12)), I32(0))
        self.step = b.lshr(found, I32(16))
        self.count = self.scalar(Slot.COUNT)
        store, atomic, cache = (b.icmp_unsigned("==", kind, I32(n)) for n in (_STORE, _ATOMIC, _CACHE))
        writes = b.or_(store, atomic)
        results = b.select(b.or_(store, cache), I32(0), self.components)
        total = b.add(self.count, results)
        self.stay(b.icmp_unsigned("<=", total, self.scalar(Slot.LIMIT)), "room")
        # Stores wait for earlier threads. Atomics wait also in a thread that has just performed a store.
        held = b.load(control_word(b, self.control, Control.HOLD), typ=I64)
        waits = b.or_(
            b.and_(writes, b.icmp_unsigned("==", held, I64(Hold.STORES))),
            b.and_(atomic, b.icmp_unsigned("!=", held, I64(Hold.NOTHING))),
        )
        with b.if_then(waits):
            b.ret(I32(WAITS))
        pairs = b.or_(live, b.lshr(live, I32(1)))
        quads = b.mul(b.and_(b.or_(pairs, b.lshr(pairs, I32(2))), I32(0x1111)), I32(15))
        alone = b.or_(b.icmp_unsigned("!=", b.and_(config, I32(128)), I32(0)), writes)
        self.wanted = b.select(alone, live, quads)
        self.check(writes, cache)
        self.begin(config)
        self.put(Slot.PENDING, I32(0))
        amount = b.zext(b.mul(self.size, self.components), I64)
        read = b.mul(self.lanes_of(self.wanted), amount)
        self.tally(Slot.READ_BYTES, b.select(b.or_(store, cache), I64(0), read))
        self.tally(Slot.WRITE_BYTES, b.select(writes, b.mul(self.lanes_of(live), amount), I64(0)))
        self.put(Slot.COUNT, total)
        done = self.block("done")
        switch = b.switch(kind, done)
        for number, make in ((_LOAD, self.load), (_STORE, self.store), (_ATOMIC, self.atomic)):
            case = self.block(make.__name__)
            switch.add_case(I32(number), case)
            b.position_at_end(case)
            make()
            b.branch(done)
        b.position_at_end(done)
        b.ret(I32(DONE))

    def check(self, writes: ir.Value, cache: ir.Value) -> None:
        """Leave the request to the host unless all live lanes access aligned memory that may be stored to.

        Accesses outside every buffer are left to the host until it has reported one of this instruction.
        """
        b = self.b
        low = b.sub(self.size, I32(1))
        with b.if_then(b.not_(cache)), self.loop("check", b.shl(self.components, I32(4))) as i:
            lane = b.and_(i, I32(15))
            with b.if_then(self.bit(self.live, lane)):
                address = self.address(lane, b.lshr(i, I32(4)))
                self.stay(b.icmp_unsigned("==", b.and_(address, low), I32(0)), "aligned")
                inside = self.mapped(address)
                with b.if_then(b.not_(inside), likely=False):
                    self.reported()
                with b.if_then(b.and_(writes, inside)):
                    page = self.page(address)
                    state = b.load(entry(b, self.kept, page, 1), typ=I8)
                    with b.if_then(b.icmp_unsigned(">=", state, I8(Kept.FREE))):
                        shared = [self.memory, self.kept, self.copies, self.control, page]
                        self.stay(b.call(self.keep, shared), "kept")

    def reported(self) -> None:
        """Leave the request to the host unless it has reported an access outside every buffer here before."""
        b = self.b
        at = b.zext(self.scalar(Slot.AT), I64)
        count = b.load(control_word(b, self.control, Control.INSTRUCTIONS), typ=I64)
        self.stay(b.icmp_unsigned("<", at, count), "listed")
        table = b.inttoptr(b.load(control_word(b, self.control, Control.REPORTED), typ=I64), PTR)
        self.stay(b.icmp_unsigned("!=", b.load(entry(b, table, at, 1), typ=I8), I8(0)), "reported")

    def place(self, address: ir.Value) -> ir.Value:
        """Where an access goes: into memory, or, outside every buffer, into the scratch page."""
        b = self.b
        scratch = b.inttoptr(b.load(control_word(b, self.control, Control.SCRATCH), typ=I64), PTR)
        inside = self.mapped(address)
        offset = b.select(inside, address, b.and_(address, I32(4095)))
        return b.gep(b.select(inside, self.memory, scratch), [b.zext(offset, I64)], source_etype=I8)

    def load(self) -> None:
        """Load. Dead lanes of a loaded quad: 0 outside every buffer, otherwise the aligned component."""
        b, live = self.b, self.live
        with self.loop("load", b.shl(self.components, I32(4))) as i:
            lane, k = b.and_(i, I32(15)), b.lshr(i, I32(4))
            target = self.result(k, lane)
            b.store(I32(0), target)
            address = self.address(lane, k)
            usable = b.or_(self.mapped(address), self.bit(live, lane))
            with b.if_then(b.and_(self.bit(self.wanted, lane), usable)):
                word = b.load(self.place(b.and_(address, I32(0xFFFFFFFC))), typ=I32)
                inside = b.and_(address, b.and_(b.sub(I32(0), self.size), I32(3)))
                up = b.sub(I32(32), b.shl(self.size, I32(3)))
                high = b.shl(b.lshr(word, b.shl(inside, I32(3))), up)
                b.store(b.select(self.signed, b.ashr(high, up), b.lshr(high, up)), target)

    def store(self) -> None:
        """Store component by component, then lane by lane: the last one wins."""
        b = self.b
        with self.loop("store", b.shl(self.components, I32(4))) as i:
            lane, k = b.and_(i, I32(15)), b.lshr(i, I32(4))
            with b.if_then(self.bit(self.live, lane)):
                value = b.load(self.word(Slot.DATA, k, lane), typ=I32)
                target, stored = self.place(self.address(lane, k)), self.block("stored")
                switch = b.switch(self.size, stored)
                for size, kind in ((1, I8), (2, I16), (4, I32)):
                    case = self.block(f"store{8 * size}")
                    switch.add_case(I32(size), case)
                    b.position_at_end(case)
                    b.store(value if kind is I32 else b.trunc(value, kind), target)
                    b.branch(stored)
                b.position_at_end(stored)

    def atomic(self) -> None:
        """Perform the atomic lane by lane; the results are the old values."""
        b = self.b
        with self.loop("atomic", LANES) as lane:
            target = self.result(I32(0), lane)
            b.store(I32(0), target)
            with b.if_then(self.bit(self.live, lane)):
                cell = self.place(b.load(self.word(Slot.ADDRESS, I32(0), lane), typ=I32))
                old = b.load(cell, typ=I32)
                x, y = (b.load(self.word(Slot.DATA, I32(k), lane), typ=I32) for k in (0, 1))
                b.store(old, target)
                stepped = self.block("stepped")
                head = b.block
                switch = b.switch(self.step, stepped)
                news = []
                for number, name in enumerate(_NAMES):
                    case = self.block(name)
                    switch.add_case(I32(number), case)
                    b.position_at_end(case)
                    news.append((ATOMICS[name](_Scalars(b), old, x, y), case))
                    b.branch(stepped)
                b.position_at_end(stepped)
                new = b.phi(I32)
                new.add_incoming(old, head)
                for value, case in news:
                    new.add_incoming(value, case)
                b.store(new, cell)
