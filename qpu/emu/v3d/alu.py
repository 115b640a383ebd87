"""The semantics of V3D's ALU instructions, written once over `LaneOps` and run by both engines.

`build` makes the step of an instruction out of closures. A step takes the state of a thread and the machine around it.
The reference engine calls the step at each execution, for all threads that run in step; the translator calls it once,
with IR as values. A step performs every effect of the instruction except moving the program counter, in this order:

1. both halves compute their results, with registers and flags as they were before the instruction;
2. TMU results and stream words are read: ldtmu, then the uniform streams, then wrtmuc;
3. flags are pushed or updated, then implicit results (rtop, msf, revf, flag A of flpop) are written;
4. the halves write their destinations, a TMU request last: the request uses the data and the configuration that the
   same instruction writes (assumed);
5. loads write their destinations.

Facts: docs/hardware/v3d.md 3 to 7 and 9; assumed choices are marked where they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from qpu.core.isa import Isa
from qpu.core.optable import Flags, Semantics
from qpu.emu.v3d.prepare import Prepared, broken, requests, rotations
from qpu.v3d import regs
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import PACK, UNPACK, table
from qpu.v3d.regs import SIGNAL_ROWS

__all__ = ["ACC", "Machine", "Mask", "Number", "Pair", "Step", "Thread", "Vec", "any_half", "build"]

# The values that an engine computes with are opaque here, as in `qpu.v3d.sem`.
Lanes: TypeAlias = Any  # a `LaneOps`
Vec: TypeAlias = Any  # its vectors: 16 lanes of 32 bits
Mask: TypeAlias = Any  # its masks: one truth value per lane
Number: TypeAlias = Any  # a 32-bit number of each thread
Pair: TypeAlias = tuple[Mask, Mask]  # of the low and the high halves of the lanes; one object when they are equal

ACC = 64  # index of r0 in `Thread.regs`; rf0..rf63 come first
LANES = 16
R5 = 5
UNDEFINED_DATA = 0xDEADDA7A  # data words of lanes whose condition failed


class Thread(Protocol):
    """State of a thread, or of several that run in step.

    regs: rf0..rf63, r0..r5. a, b: flags of the low halves of the lanes; a_hi, b_hi: of the high halves. data: words
    queued for the TMU. rf0_volatile: see v3d.md 8.2. live: lanes whose sample mask is not 0.
    """

    regs: Any
    a: Mask
    a_hi: Mask
    b: Mask
    b_hi: Mask
    rtop: Vec
    revf: Vec
    link: Number
    config: Number
    unifa: Number
    rf0_volatile: bool
    data: Any

    @property
    def msf(self) -> Vec: ...
    @property
    def live(self) -> Mask: ...
    @property
    def tidx(self) -> Vec: ...
    def set_msf(self, value: Vec) -> None:
        """Change the sample mask, and thus the live lanes."""
        ...

    def splat(self, number: Number) -> Vec:
        """A vector with a number of each thread in all lanes of the thread."""
        ...


class Machine(Protocol):
    """The machine around a thread: streams, FIFOs, reports."""

    def uniform(self, t: Any) -> Number:
        """The next word of the uniform stream; advances the stream."""
        ...

    def unifa_word(self, t: Any) -> Number:
        """The next word of the unifa stream; advances the stream."""
        ...

    def result(self, t: Any) -> Vec:
        """Pop the oldest TMU result."""
        ...

    def lane0(self, t: Any, value: Vec, on: Mask | None = None, old: Number = None) -> Number:
        """Lane 0 as a number; `old` where lane 0 is not in `on`."""
        ...

    def request(self, t: Any, address: Vec, live: Mask) -> None:
        """Start a TMU request with the queued data."""
        ...

    def move_unifa(self, t: Any, pointer: Number) -> None:
        """Continue the unifa stream at another address."""
        ...

    def sfu_result(self, t: Any, value: Vec, on: Mask | None) -> None:
        """4.2: write `value` to r4 after the next instruction."""
        ...

    def join_barrier(self, t: Any, on: Mask | None) -> None:
        """Stop threads with a lane in `on` at their next thread switch, until the supergroup has arrived."""
        ...

    def barrier_slot(self, t: Any) -> Vec:
        """The result of `barrierid`."""
        ...

    def before(self, t: Any) -> Prepared | None:
        """The instruction that was executed before this one, where it is known and matters."""
        ...

    def hazard(self, t: Any, rule: str, message: str) -> None:
        """Report that hardware does not define what happens."""
        ...

    def hazard_in(self, t: Any, rule: str, message: str, lanes: Mask) -> None:
        """As `hazard`, if `lanes` holds a lane."""
        ...


Step: TypeAlias = Callable[[Any, Any], Any]  # (thread, machine) -> None
_Read: TypeAlias = Callable[[Any], Vec]
_Put: TypeAlias = Callable[[Any, Any, Vec, "Pair | None"], None]

_QUADS = [lane & ~3 for lane in range(LANES)]
_FIRST = [0] * LANES
_IDLE = ("nop", "tmuwt")  # no result; the engines perform stores in order, so tmuwt need not wait


def build(p: Prepared, v: Lanes) -> Step:
    """The step of an ALU instruction without a `problem`, over the lanes `v`."""
    i = p.instr
    assert isinstance(i, Alu)
    add = _Half(p, i, i.add, v, mul=False)
    mul = _Half(p, i, i.mul, v, mul=True)
    plain = not (i.sig & (_LOADS | Sig.WRTMUC | Sig.ROT) or p.hazards or (p.isa is Isa.V3D71 and p.writes_rf0))
    if plain and (add.idle or add.plain) and (mul.idle or mul.plain):
        return _plain(add, mul)
    return _general(p, i, [half for half in (add, mul) if not half.idle], v)


def any_half(v: Lanes, mask: Pair) -> Mask:
    """Lanes that are written where the halves are not distinguished: one enabled half suffices (assumed)."""
    return mask[0] if mask[0] is mask[1] else v.mor(*mask)


# -- whole instructions


def _plain(add: _Half, mul: _Half) -> Step:
    """The step of an instruction without conditions, flags and signals whose results replace registers."""
    halves = [half for half in (add, mul) if not half.idle]
    if not halves:
        return lambda t, x: None
    first, to_first = halves[0].value, halves[0].place
    if len(halves) == 1:

        def one(t: Thread, x: Machine) -> None:
            t.regs[to_first] = first(t, x)

        return one
    second, to_second = halves[1].value, halves[1].place

    def both(t: Thread, x: Machine) -> None:
        a = first(t, x)
        m = second(t, x)
        r = t.regs
        r[to_first] = a
        r[to_second] = m

    return both


def _general(p: Prepared, i: Alu, halves: list[_Half], v: Lanes) -> Step:
    loads = _loads(p, i, v)
    wrtmuc = bool(i.sig & Sig.WRTMUC)
    rotates = bool(i.sig & Sig.ROT)
    same = [message for rule, message in p.hazards if rule == "same-destination"]
    # Both ALUs may write one register if their conditions select different lanes.
    select = bool(same and i.add.cond and i.mul.cond and i.sig_dst is None)
    hazards = [h for h in p.hazards if not (select and h[0] == "same-destination")]
    hazards.sort(key=lambda h: h[0] == "same-destination")
    runs = [half.run for half in halves]
    flags = [(k, half.set_flags) for k, half in enumerate(halves) if half.set_flags is not None]
    implied = [(k, name, n) for k, half in enumerate(halves) for n, name in enumerate(half.op.implicit_writes)]
    puts = sorted(((k, half.put) for k, half in enumerate(halves)), key=lambda kp: halves[kp[0]].requests)
    rf0_rule, volatile = p.isa is Isa.V3D71 and p.writes_rf0, p.volatile_rf0
    simple = not (hazards or rotates or select or flags or implied or i.add.cond or i.mul.cond)
    pairs = sorted(((half.value, half.put, half.requests) for half in halves), key=lambda pair: pair[2])

    def common(t: Thread, x: Machine) -> None:
        """The step of most instructions with a signal or a destination that is not a register."""
        found = [value(t, x) for value, _, _ in pairs]
        loaded = [take(t, x) for take, _ in loads]
        if wrtmuc:
            t.config = x.uniform(t)
        for (_, put, _), result in zip(pairs, found, strict=True):
            put(t, x, result, None)
        for (_, put), word in zip(loads, loaded, strict=True):
            put(t, x, word, None)
        if rf0_rule:
            t.rf0_volatile = volatile

    def step(t: Thread, x: Machine) -> None:
        for rule, message in hazards:
            x.hazard(t, rule, message)
        if rotates:
            before = x.before(t)
            for rule, message in broken(p, before.after & rotations(p.isa)) if before is not None else ():
                x.hazard(t, rule, message)
        found = [run(t, x) for run in runs]
        if select:
            one, other = (any_half(v, mask) for _, mask, _, _ in found if mask is not None)
            x.hazard_in(t, "same-destination", same[0], v.mand(one, other))
        loaded = [take(t, x) for take, _ in loads]
        if wrtmuc:
            t.config = x.uniform(t)
        for k, set_flags in flags:
            result, _, operands, _ = found[k]
            set_flags(t, operands, result)
        for k, name, n in implied:
            _, mask, _, more = found[k]
            _SETTERS[name](v, t, more[n], mask)
        for k, put in puts:
            result, mask, _, _ = found[k]
            put(t, x, result, mask)
        for (_, put), value in zip(loads, loaded, strict=True):
            put(t, x, value, None)
        if rf0_rule:
            t.rf0_volatile = volatile

    return common if simple else step


# Signals that load a register from a queue or stream, TMU results first.
_LOAD_ROWS = sorted((row for row in SIGNAL_ROWS if row.stream in ("tmu", "uniform", "unifa")), key=lambda r: r.stream)
_LOADS = Sig(sum(row.bit for row in _LOAD_ROWS))


def _loads(p: Prepared, i: Alu, v: Lanes) -> list[tuple[Callable[[Any, Any], Vec], _Put]]:
    """Reader and writer of each load of an instruction, in order."""

    def result(t: Thread, x: Machine) -> Vec:
        return x.result(t)

    def uniform(t: Thread, x: Machine) -> Vec:
        return t.splat(x.uniform(t))

    def unifa(t: Thread, x: Machine) -> Vec:
        return t.splat(x.unifa_word(t))

    implicit = _register(ACC + R5 if p.isa is Isa.V3D42 else 0, None, "", v)
    addressed = _discard if i.sig_dst is None else _destination(p, i.sig_dst, "", v, lane_op=False)[1]
    take = {"tmu": result, "uniform": uniform, "unifa": unifa}
    rows = [row for row in _LOAD_ROWS if int(i.sig) & row.bit]
    return [(take[row.stream], addressed if row.names_destination else implicit) for row in rows]


# -- one half


class _Half:
    """The closures of one half of an instruction.

    idle: the half has no effect. value: computes the result. plain: the only effect is that the result replaces
    register `place`. run: computes a `_Found`. set_flags: pushes or updates flags; None when the half does neither.
    put: writes a result to the destination. requests: that write starts a TMU request.
    """

    def __init__(self, p: Prepared, i: Alu, half: AluHalf, v: Lanes, *, mul: bool) -> None:
        self.half, self.op, self.v = half, half.op, v
        sources = [s for s in (half.a, half.b) if s is not None]
        rotates = mul and bool(i.sig & Sig.ROT)
        reads = [_source(s, v, _rotation(i, s, v) if rotates else None) for s in sources]
        flagged = bool(half.push or half.update)
        self.idle = half.op.name in _IDLE and not flagged
        self.place, self.requests = -1, False
        self.put: _Put = _discard
        if half.op.name not in _IDLE and half.dst is not None:
            lane_op = not mul and half.op.lane_op
            self.place, self.put, self.requests = _destination(p, half.dst, half.pack, v, lane_op=lane_op)
        self.plain = self.place >= 0 and not (half.cond or flagged or half.op.implicit_writes)
        self.value = self._value(reads)
        self.run = self._run(reads)
        self.set_flags = _flag_setter(half, v) if flagged else None

    def _value(self, reads: list[_Read]) -> Callable[[Any, Any], Any]:
        v, sem = self.v, self.op.sem
        if self.op.name == "barrierid":
            return lambda t, x: x.barrier_slot(t)
        if sem is None:
            zero = v.const(0)
            return lambda t, x: zero
        getters = [_GETTERS[name] for name in self.op.implicit_reads]
        if getters:
            return lambda t, x: sem(v, *[read(t) for read in reads], *[get(v, t) for get in getters])
        if len(reads) == 2:
            first, second = reads
            return lambda t, x: sem(v, first(t), second(t))
        if len(reads) == 1:
            only = reads[0]
            return lambda t, x: sem(v, only(t))
        return lambda t, x: sem(v)

    def _run(self, reads: list[_Read]) -> Callable[[Any, Any], _Found]:
        v, op, value, sem = self.v, self.op, self.value, self.op.sem
        mask = _condition(self.half.cond, v) if self.half.cond else lambda t: None
        if op.implicit_writes:

            def hidden(t: Thread, x: Machine) -> _Found:
                result, *more = value(t, x)
                return result, mask(t), (), more

            return hidden
        enabled = bool(self.half.cond) and op.lane_op and len(reads) == 1
        if sem is None or not (enabled or _special_flag(self.half)):
            if not self.half.cond:
                return lambda t, x: (value(t, x), None, (), ())
            return lambda t, x: (value(t, x), mask(t), (), ())

        def whole(t: Thread, x: Machine) -> _Found:
            on = mask(t)
            operands = [read(t) for read in reads]
            if enabled and on is not None:
                operands = [_enabled(v, operands[0], any_half(v, on), zeros=op.name == "ballot")]
            return sem(v, *operands), on, operands, ()

        return whole


# Result; lanes that the condition enables (None: all); operands, where flags need them; implicit results.
_Found: TypeAlias = "tuple[Vec, Pair | None, Sequence[Vec], Sequence[Vec]]"


def _enabled(v: Lanes, value: Vec, on: Mask, *, zeros: bool) -> Vec:
    """The operand of a lane operation with a condition: only enabled lanes count (assumed)."""
    return v.select(on, value, v.const(0) if zeros else v.permute(value, v.first(on)))


def _special_flag(half: AluHalf) -> Semantics | None:
    """The function in the operation's row for the flag that the half pushes or updates; None if it has none."""
    op = half.op
    return {"": None, "z": op.zero, "n": op.negative, "c": op.carry}[(half.push or half.update)[-1:]]


def _flag(half: AluHalf, v: Lanes) -> Callable[[Sequence[Vec], Vec], Pair]:
    """The function that computes the flag of a result, before the result is packed or written."""
    name, zero = (half.push or half.update)[-1], v.const(0)
    if half.op.flags is Flags.HALVES:
        if name == "z":
            return lambda operands, r: (v.eq(v.and_(r, v.const(0xFFFF)), zero), v.eq(v.shr(r, v.const(16)), zero))
        if name == "n":
            return lambda operands, r: (v.slt(v.shl(r, v.const(16)), zero), v.slt(r, zero))
        return lambda operands, r: (v.mconst(False),) * 2
    special = _special_flag(half)

    def word(operands: Sequence[Vec], r: Vec) -> Pair:
        if special is not None:
            mask = special(v, *operands, r)
        elif name == "z":
            mask = v.eq(r, zero)
        else:
            mask = v.slt(r, zero) if name == "n" else v.mconst(False)
        return mask, mask

    return word


def _flag_setter(half: AluHalf, v: Lanes) -> Callable[[Any, Sequence[Vec], Vec], None]:
    flag = _flag(half, v)

    def push(t: Thread, operands: Sequence[Vec], result: Vec) -> None:
        new = flag(operands, result)
        t.b, t.b_hi = t.a, t.a_hi
        t.a, t.a_hi = new

    nor, negated = half.update.startswith("nor"), len(half.update) == 5  # andnz, nornz, ...

    def fresh(old: Mask, f: Mask) -> Mask:
        f = v.mnot(f) if negated else f
        return v.mnot(v.mor(old, f)) if nor else v.mand(old, f)

    def update(t: Thread, operands: Sequence[Vec], result: Vec) -> None:
        lo, hi = flag(operands, result)
        together = t.a is t.a_hi and lo is hi
        new = fresh(t.a, lo)
        t.a, t.a_hi = new, new if together else fresh(t.a_hi, hi)

    return push if half.push else update


# -- operands


def _source(src: Src, v: Lanes, move: Callable[[Any, Vec], Vec] | None) -> _Read:
    if src.kind is SrcKind.IMM:
        value = v.const(regs.imm_bits(src.n))

        def read(t: Thread) -> Vec:
            return value
    else:
        at = src.n + (ACC if src.kind is SrcKind.ACC else 0)

        def read(t: Thread) -> Vec:
            return t.regs[at]

    moved: _Read = read if move is None else lambda t: move(t, read(t))
    if not src.mod:
        return moved
    unpack = UNPACK[src.mod]
    return lambda t: unpack(v, moved(t))


def _rotation(i: Alu, src: Src, v: Lanes) -> Callable[[Any, Vec], Vec] | None:
    """The rotation of an operand on 4.2; None for immediates.

    Lane j of the result is lane j - n of an accumulator; registers rotate inside each quad (measured).
    """
    if src.kind is SrcKind.IMM:
        return None
    full = src.kind is SrcKind.ACC
    if i.raddr_b:
        n = i.raddr_b if i.raddr_b < 16 else i.raddr_b - 32
        order = [(j - n) % 16 if full else (j & ~3) | (j - n) % 4 for j in range(LANES)]
        fixed = v.mover(order)
        return lambda t, value: fixed(value)
    first = v.mover(_FIRST)  # the amount: lane 0 of r5 (presumed; in all known code its lanes are equal)

    def by_r5(t: Thread, value: Vec) -> Vec:
        lane = v.lane_id()
        within = v.and_(v.sub(lane, first(t.regs[ACC + R5])), v.const(15 if full else 3))
        return v.permute(value, within if full else v.or_(v.and_(lane, v.const(12)), within))

    return by_r5


def _bits(v: Lanes, lo: Mask, hi: Mask) -> Vec:
    """Flags as two bits for each lane."""
    zero = v.const(0)
    if lo is hi:
        return v.select(lo, v.const(3), zero)
    return v.or_(v.select(lo, v.const(1), zero), v.select(hi, v.const(2), zero))


_GETTERS: dict[str, Callable[[Lanes, Any], Vec]] = {
    "rtop": lambda v, t: t.rtop,
    "msf": lambda v, t: t.msf,
    "revf": lambda v, t: t.revf,
    "tidx": lambda v, t: t.tidx,
    "link": lambda v, t: t.splat(t.link),
    "flags_a": lambda v, t: _bits(v, t.a, t.a_hi),
    "flags_b": lambda v, t: _bits(v, t.b, t.b_hi),
}


# -- results


def _condition(cond: str, v: Lanes) -> Callable[[Any], Pair | None]:
    """Lanes (low halves, high halves) that a condition enables."""
    if cond == "ifa":
        return lambda t: (t.a, t.a_hi)
    if cond == "ifb":
        return lambda t: (t.b, t.b_hi)

    def inverse(lo: Mask, hi: Mask) -> Pair:
        new = v.mnot(lo)
        return new, new if lo is hi else v.mnot(hi)

    if cond == "ifna":
        return lambda t: inverse(t.a, t.a_hi)
    return lambda t: inverse(t.b, t.b_hi)


def _blend(v: Lanes, mask: Pair, new: Vec, old: Vec) -> Vec:
    """`new` where the mask is set, half by half; `old` elsewhere (32-bit writes with differing halves: assumed)."""
    lo, hi = mask
    low = v.select(lo, new, old)
    if lo is hi:
        return low
    return v.or_(v.and_(low, v.const(0xFFFF)), v.and_(v.select(hi, new, old), v.const(0xFFFF0000)))


def _enabled_bits(v: Lanes, mask: Pair | None, new: Vec, old: Callable[[], Vec]) -> Vec:
    return new if mask is None else v.select(any_half(v, mask), new, old())


def _set_rtop(v: Lanes, t: Thread, value: Vec, mask: Pair | None) -> None:
    t.rtop = value  # a register of the multiplier: conditions have no effect (assumed)


def _set_msf(v: Lanes, t: Thread, value: Vec, mask: Pair | None) -> None:
    t.set_msf(_enabled_bits(v, mask, value, lambda: t.msf))


def _set_revf(v: Lanes, t: Thread, value: Vec, mask: Pair | None) -> None:
    t.revf = _enabled_bits(v, mask, value, lambda: t.revf)


def _set_flags_a(v: Lanes, t: Thread, value: Vec, mask: Pair | None) -> None:
    zero = v.const(0)
    pair = [v.mnot(v.eq(v.and_(value, v.const(bit)), zero)) for bit in (1, 2)]
    if mask is not None:
        olds = (t.a, t.a_hi)
        pair = [v.mor(v.mand(on, f), v.mand(v.mnot(on), o)) for on, f, o in zip(mask, pair, olds, strict=True)]
    t.a, t.a_hi = pair


_SETTERS: dict[str, Callable[[Lanes, Any, Vec, Pair | None], None]] = {
    "rtop": _set_rtop,
    "msf": _set_msf,
    "revf": _set_revf,
    "flags_a": _set_flags_a,
}


# -- destinations


def _discard(t: Any, x: Any, value: Vec, mask: Pair | None) -> None:
    pass


def _register(at: int, order: list[int] | None, pack: str, v: Lanes) -> _Put:
    packer = PACK[pack] if pack else None
    spread = None if order is None else v.mover(order)

    def put(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        old = t.regs[at] if packer is not None or mask is not None else None
        if packer is not None:
            value = packer(v, old, value)
        if spread is not None:
            value = spread(value)
        t.regs[at] = value if mask is None else _blend(v, mask, value, old)

    return put


def _destination(p: Prepared, dst: Dst, pack: str, v: Lanes, *, lane_op: bool) -> tuple[int, _Put, bool]:
    """Register that a result replaces (-1: none, or only a part), writer, and whether a write starts a TMU request."""
    v42, n = p.isa is Isa.V3D42, dst.n
    if not dst.magic or (v42 and n < R5):
        at = n + ACC if dst.magic else n
        return -1 if pack else at, _register(at, None, pack, v), False
    if n in (R5, regs.R5REP):
        # Results of the 7.1 lane operations are not broadcast by these destinations (measured).
        order = None if lane_op and not v42 else _QUADS if n == R5 else _FIRST
        return -1, _register(ACC + R5 if v42 else 0, order, pack, v), False
    put, starts = _magic(p, n, v), requests(p.isa, dst)
    if pack and put is not _discard:
        packer, zero = PACK[pack], v.const(0)
        return -1, (lambda t, x, value, mask: put(t, x, packer(v, zero, value), mask)), starts
    return -1, put, starts


def _magic(p: Prepared, n: int, v: Lanes) -> _Put:
    """The writer of a magic address that is not a register."""
    row = regs.magic(p.isa, n)
    assert row is not None
    words, function = row.uniform_words, table(p.isa)[row.name].sem if row.kind == "sfu" else None

    def on(mask: Pair | None) -> Mask | None:
        return None if mask is None else any_half(v, mask)

    def data(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        t.data.append(value if mask is None else v.select(on(mask), value, v.const(UNDEFINED_DATA)))

    def request(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        if words:
            t.config = x.uniform(t)
        x.request(t, value, t.live if mask is None else v.mand(t.live, on(mask)))

    def config(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        t.config = x.lane0(t, value) if mask is None else x.lane0(t, value, on(mask), t.config)

    def unifa(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        x.move_unifa(t, x.lane0(t, value) if mask is None else x.lane0(t, value, on(mask), t.unifa))

    def sfu(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        assert function is not None
        x.sfu_result(t, function(v, value), on(mask))

    def syncb(t: Thread, x: Machine, value: Vec, mask: Pair | None) -> None:
        x.join_barrier(t, on(mask))

    if row.name == "sync":
        return _discard  # the set-up of the barrier, which 4.2 and later do not need
    kinds = {"tmu_data": data, "tmu_start": request, "tmu_config": config, "unifa": unifa, "sync": syncb, "sfu": sfu}
    return kinds.get(row.kind, _discard)
