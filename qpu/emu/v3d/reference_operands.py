"""Where V3D instructions of the reference engine get their operands and put their results.

Facts: v3d reference sections 3 to 7 and 9; assumed choices are marked where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.emu.v3d.prepare import DATA_WRITES, TMUA, TMUAU, TMUC, Prepared
from qpu.emu.v3d.state import ACC, Group, PerThread, each, squeeze
from qpu.v3d import regs
from qpu.v3d.instr import Alu, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import LANE_OPS, PACK, UNPACK, table

__all__ = [
    "FALSE",
    "LANES",
    "U32",
    "ZERO",
    "Mask",
    "Pair",
    "Put",
    "Read",
    "Services",
    "Step",
    "V",
    "Value",
    "any_half",
    "blend",
    "condition",
    "destination_of",
    "discard",
    "implicit_read",
    "implicit_write",
    "lane_number",
    "register_put",
    "rotation_of",
    "source_of",
    "spread",
]

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]
Pair: TypeAlias = tuple[Mask, Mask]  # per lane, for the low and the high half; one object when they agree

V = NumpyLanes()
LANES = 16
ZERO = V.const(0)
FALSE = np.zeros(LANES, np.bool_)
_QUAD_BASE = np.arange(LANES) & ~3
_UNDEFINED_DATA = np.uint32(0xDEADDA7A)  # data words of lanes whose condition failed
_LATE = 2


class Services(Protocol):
    """What the machine does for instructions. `hazard` raises in strict mode; `fault` always does."""

    isa: Isa

    def uniform(self, g: Group) -> PerThread:
        """The next word of the uniform stream of each thread; advances."""
        ...

    def unifa(self, g: Group) -> PerThread:
        """The next word of the unifa stream of each thread; advances."""
        ...

    def request(self, g: Group, address: U32, live: Mask) -> None:
        """Start a TMU request with the queued data."""
        ...

    def flush(self, g: Group) -> None:
        """Account for the instructions the group executed."""
        ...

    def supergroup_slots(self, g: Group) -> U32:
        """Supergroup slot of each thread, shape (n,)."""
        ...

    def hazard(self, g: Group, rule: str, message: str, row: int = 0, lane: int | None = None) -> None: ...
    def warn(self, g: Group, rule: str, message: str, row: int = 0) -> None: ...
    def fault(self, g: Group, rule: str, message: str, row: int = 0) -> None: ...


Step: TypeAlias = Callable[[Group, Services], "list[Group] | None"]
Read: TypeAlias = Callable[[Group], U32]
Value: TypeAlias = Callable[[Group, Services], U32]
Put: TypeAlias = Callable[[Group, Services, U32, "Pair | None"], None]


def spread(value: PerThread, n: int) -> U32:
    """A per-thread number in all lanes."""
    if isinstance(value, int):
        return V.const(value)
    return np.repeat(value, LANES).reshape(n, LANES)


# -- sources


def source_of(src: Src, turn: Callable[[Group, U32], U32] | None) -> Read:
    if src.kind is SrcKind.IMM:
        value = V.const(regs.imm_bits(src.n))

        def read(g: Group) -> U32:
            return value
    else:
        at = src.n + (ACC if src.kind is SrcKind.ACC else 0)

        def read(g: Group) -> U32:
            return g.regs[at]

    turned = read if turn is None else _turned(read, turn)
    if not src.mod:
        return turned
    unpack = UNPACK[src.mod]

    def modified(g: Group) -> U32:
        result: U32 = unpack(V, turned(g))
        return result

    return modified


def _turned(read: Read, turn: Callable[[Group, U32], U32]) -> Read:
    return lambda g: turn(g, read(g))


def rotation_of(i: Alu, src: Src | None) -> Callable[[Group, U32], U32] | None:
    """4.2: result lane j = lane j - n of an accumulator; of a register, inside each quad (measured)."""
    if src is None or not i.sig & Sig.ROT or src.kind is SrcKind.IMM:
        return None
    lane = np.arange(LANES)
    index = i.raddr_b
    full = src.kind is SrcKind.ACC

    def order(n: int) -> NDArray[np.intp]:
        return (lane - n) % 16 if full else (lane & ~3) | ((lane - n) % 4)

    if index:
        fixed = order(index if index < 16 else index - 32)
        return lambda g, a: a[..., fixed]
    orders = [order(n) for n in range(16)]

    def by_r5(g: Group, a: U32) -> U32:
        amount = g.regs[ACC + 5]
        if amount.ndim == 1:
            return a[..., orders[int(amount[0]) & 15]]
        index = np.stack([orders[int(n) & 15] for n in amount[:, 0]])
        return np.take_along_axis(np.broadcast_to(a, (g.n, LANES)), index, axis=1)

    return by_r5


def _flag_bits(lo: Mask, hi: Mask) -> U32:
    if lo is hi:
        return lo * np.uint32(3)
    return lo * np.uint32(1) | hi * np.uint32(2)


def implicit_read(name: str) -> Callable[[Group], U32]:
    if name == "rtop":
        return lambda g: ZERO if g.rtop is None else g.rtop
    if name == "flags_a":
        return lambda g: _flag_bits(g.a, g.a_hi)
    if name == "flags_b":
        return lambda g: _flag_bits(g.b, g.b_hi)
    if name == "tidx":
        return lambda g: g.tidx
    if name == "link":
        return lambda g: spread(g.link, g.n)
    if name == "msf":
        return lambda g: g.msf
    if name == "revf":
        return lambda g: g.revf
    raise KeyError(name)


def implicit_write(g: Group, name: str, value: U32, mask: Pair | None) -> None:
    """`mask`: lanes that the condition enables. rtop is no lane register: it changes in all of them (assumed)."""
    if name == "rtop":
        g.rtop = None if value is ZERO else value
    elif name == "flags_a":
        lo, hi = value & np.uint32(1) != 0, value & np.uint32(2) != 0
        if mask is not None:
            lo, hi = np.where(mask[0], lo, g.a), np.where(mask[1], hi, g.a_hi)
        g.a, g.a_hi = lo, lo if np.array_equal(lo, hi) else hi
    elif name == "msf":
        g.msf = value if mask is None else np.where(any_half(mask), value, g.msf)
        g.live = np.not_equal(g.msf, 0)
    elif name == "revf":
        g.revf = value if mask is None else np.where(any_half(mask), value, g.revf)
    else:
        raise KeyError(name)


# -- conditions


def condition(g: Group, cond: str) -> Pair:
    """Lanes (low halves, high halves) that a condition enables."""
    if cond == "ifa":
        return g.a, g.a_hi
    if cond == "ifb":
        return g.b, g.b_hi
    if cond == "ifna":
        lo = ~g.a
        return lo, lo if g.a_hi is g.a else ~g.a_hi
    lo = ~g.b
    return lo, lo if g.b_hi is g.b else ~g.b_hi


# -- destinations


def discard(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
    pass


def blend(mask: Pair, new: U32, old: U32) -> U32:
    """`new` where enabled, half by half (a 32-bit write with differing halves: assumed)."""
    lo, hi = mask
    if lo is hi:
        return np.where(lo, new, old)
    bits: U32 = lo * np.uint32(0xFFFF) | hi * np.uint32(0xFFFF0000)
    return (new & bits) | (old & ~bits)


def any_half(mask: Pair) -> Mask:
    """Lanes a magic write reaches: one enabled half suffices (assumed)."""
    return mask[0] if mask[0] is mask[1] else mask[0] | mask[1]


def register_put(at: int, lanes: NDArray[np.intp] | None, pack: str) -> Put:
    packer = PACK[pack] if pack else None

    def put(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
        old = g.regs[at]
        if packer is not None:
            value = packer(V, old, value)
        if lanes is not None:
            value = value[..., lanes]
        g.regs[at] = value if mask is None else blend(mask, value, old)

    return put


def destination_of(p: Prepared, dst: Dst | None, pack: str) -> tuple[str, Put]:
    """Kind of the destination (register, data, request, other, none) and its writer."""
    if dst is None or (dst.magic and dst.n == regs.NOP):
        return "none", discard
    v42 = p.isa is Isa.V3D42
    if not dst.magic:
        return ("register" if not pack else "other"), register_put(dst.n, None, pack)
    n = dst.n
    if n < 5 and v42:
        return ("register" if not pack else "other"), register_put(ACC + n, None, pack)
    if n in (5, regs.R5REP):
        # Results of the 7.1 lane operations are not broadcast by these destinations (measured).
        plain = not v42 and isinstance(p.instr, Alu) and p.instr.add.dst == dst and p.instr.add.op.name in LANE_OPS
        lanes = None if plain else _QUAD_BASE if n == 5 else np.zeros(LANES, np.intp)
        return "other", register_put(ACC + 5 if v42 else 0, lanes, pack)
    packer = PACK[pack] if pack else None

    def packed(value: U32) -> U32:
        if packer is None:
            return value
        result: U32 = packer(V, ZERO, value)
        return result

    if n in DATA_WRITES:

        def put_data(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
            value = packed(value)
            g.data.append(value if mask is None else np.where(any_half(mask), value, _UNDEFINED_DATA))

        return "data", put_data
    if n in (TMUA, TMUAU):
        with_config = n == TMUAU

        def put_request(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
            if with_config:
                g.config = x.uniform(g)
            x.request(g, packed(value), g.live if mask is None else g.live & any_half(mask))

        return "request", put_request
    if n == TMUC:

        def put_config(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
            g.config = lane_number(g, packed(value), mask, 0, g.config)

        return "other", put_config
    if n == 9:

        def put_unifa(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
            g.unifa = lane_number(g, packed(value), mask, 0, g.unifa)
            g.unifa_at = g.count

        return "other", put_unifa
    if v42 and n in regs.SFU_WRITES:
        sem = table(p.isa)[regs.SFU_MAGIC[n]].sem
        assert sem is not None
        function = sem

        def put_sfu(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
            g.late = function(V, packed(value)), None if mask is None else any_half(mask)
            g.late_left = _LATE
            g.busy = True

        return "other", put_sfu
    if n == 18:

        def put_sync(g: Group, x: Services, value: U32, mask: Pair | None) -> None:
            here: Mask = np.ones(g.n, np.bool_)
            if mask is not None:
                here = np.asarray(np.broadcast_to(any_half(mask), (g.n, LANES)).any(axis=1))
            g.sync = here if g.sync is None else g.sync | here
            if g.results:
                x.warn(g, "barrier-tmu", "the barrier is joined while TMU results are outstanding")

        return "other", put_sync
    return "other", discard  # sync: set-up, not needed since 4.2


def lane_number(g: Group, value: U32, mask: Pair | None, lane: int, old: PerThread) -> PerThread:
    """One lane of a vector as a number per thread; threads whose lane is not enabled keep `old`."""
    column = value[..., lane]
    if mask is not None:
        on = any_half(mask)[..., lane]
        if not on.all():
            column = np.where(on, column, each(old, g.n))
    return int(column) if column.ndim == 0 else squeeze(column)
