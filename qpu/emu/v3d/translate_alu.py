"""ALU instructions of V3D as IR: operands, results, flags, destinations. Order of effects as in `v3d_execute`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from llvmlite import ir

from qpu.core.isa import Isa
from qpu.core.optable import Flags
from qpu.emu.engine.llvm_lanes import I16, I32, I32X16, LANES, LlvmLanes
from qpu.emu.v3d.prepare import DATA_WRITES, TMUA, TMUAU, TMUC, Prepared
from qpu.emu.v3d.translate_state import DATA_SLOTS, Slot, Untranslatable
from qpu.emu.v3d.translate_values import Values
from qpu.v3d import regs
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import LANE_OPS, PACK, UNPACK, table
from qpu.v3d.regs import imm_bits

__all__ = ["AluEmitter", "Host"]

Pair: TypeAlias = tuple[ir.Value, ir.Value]  # masks of the low and of the high halves

_QUADS = [4 * (i // 4) for i in range(LANES)]
_UNDEFINED_DATA = 0xDEADDA7A  # data words of lanes whose condition failed; as in `v3d_operands`
_IMPLICIT = {"rtop": Slot.RTOP, "msf": Slot.MSF, "revf": Slot.REVF}
R5, UNIFA, SYNCB = 5, 9, 18


class Host(Protocol):
    """What the translator does for an instruction."""

    def rule(self, index: int, rule: str, message: str, condition: ir.Value | None) -> None:
        """Hardware does not define what happens here, if `condition`: the code ends with a report."""
        ...

    def request(self, address: ir.Value, live: ir.Value) -> ir.Value:
        """Start a TMU request; returns the condition under which the host must do it."""
        ...


class _Result(NamedTuple):
    half: AluHalf
    value: ir.Value
    operands: list[ir.Value]
    implicit: list[tuple[str, ir.Value]]
    masks: Pair | None


class AluEmitter:
    """Emits ALU instructions into the chain of `values`."""

    def __init__(self, isa: Isa, values: Values, v: LlvmLanes, host: Host, *, doubtful: bool) -> None:
        self.isa = isa
        self.v42 = isa is Isa.V3D42
        self.values = values
        self.v = v
        self.b = v.b
        self.host = host
        self.doubtful = doubtful  # the program has loads that make rf0 doubtful

    def emit(self, index: int, p: Prepared, instr: Alu) -> ir.Value | None:
        """Emit an instruction. Returns the condition under which the host must do its TMU request, None: no request."""
        values, sig = self.values, instr.sig
        results = [
            self._half(index, instr, half, mul)
            for half, mul in ((instr.add, False), (instr.mul, True))
            if half.op.name not in ("nop", "tmuwt") or half.push or half.update
        ]
        self._overlap(index, p, instr, results)
        # Words and results from outside are read before any write takes effect.
        loads: list[tuple[Dst | None, ir.Value]] = []
        if sig & Sig.LDTMU:
            loads.append((instr.sig_dst, values.result(index)))
        for s, stream, dst in (
            (Sig.LDUNIF, "u", None),
            (Sig.LDUNIFRF, "u", instr.sig_dst),
            (Sig.LDUNIFA, "a", None),
            (Sig.LDUNIFARF, "a", instr.sig_dst),
        ):
            if sig & s:
                loads.append((dst, values.splat(values.word(stream, index))))
        if sig & Sig.WRTMUC:
            values.put_scalar(Slot.CONFIG, values.word("u", index))
        for r in results:
            self._set_flags(r)
        for r in results:
            for name, value in r.implicit:
                self._store_implicit(name, value, r.masks)
        slow: ir.Value | None = None
        for r in sorted(results, key=lambda r: _starts(r.half.dst)):
            half = r.half
            if half.dst is not None and half.op.name not in ("nop", "tmuwt"):
                plain = half is instr.add and half.op.name in LANE_OPS
                slow = self._write(index, half.dst, r.value, r.masks, half.pack, plain, slow)
        implicit = Dst(R5, True) if self.v42 else Dst(0)
        for target, value in loads:
            if target is None:
                self.values.put_vector(self._place(implicit), value)
            else:
                slow = self._write(index, target, value, None, "", False, slow)
        if self.doubtful and p.writes_rf0:
            values.put_scalar(Slot.DOUBTFUL, I32(int(p.doubtful_rf0)))
        return slow

    def _overlap(self, index: int, p: Prepared, instr: Alu, results: list[_Result]) -> None:
        """Both ALUs write one register: allowed where their conditions leave each lane to one of them."""
        for rule, message in p.hazards:
            if rule != "same-destination":
                continue
            masks = [r.masks for r in results]
            if instr.sig_dst is None and len(masks) == 2 and masks[0] is not None and masks[1] is not None:
                both = self.v.mand(self._any_half(masks[0]), self._any_half(masks[1]))
                some = self.b.icmp_unsigned("!=", self.b.bitcast(both, I16), I16(0))
                self.host.rule(index, rule, message, some)
            else:
                raise Untranslatable(f"{rule} at instruction {index}")

    # -- operands

    def _place(self, dst: Dst) -> int:
        """The slot of a register or accumulator."""
        return Slot.ACC + LANES * dst.n if dst.magic else Slot.RF + LANES * dst.n

    def _source(self, src: Src, rotate: Callable[[Src, ir.Value], ir.Value] | None) -> ir.Value:
        if src.kind is SrcKind.IMM:
            value = self.v.const(imm_bits(src.n))
        else:
            value = self.values.vector(self._place(Dst(src.n, src.kind is SrcKind.ACC)))
            if rotate is not None:
                value = rotate(src, value)
        return UNPACK[src.mod](self.v, value) if src.mod else value

    def _rotation(self, instr: Alu) -> Callable[[Src, ir.Value], ir.Value] | None:
        """How the rot signal of 4.2 moves an operand of the multiplier."""
        if not instr.sig & Sig.ROT:
            return None
        v = self.v
        index = instr.raddr_b
        if index:
            amount = v.const(index if index < 16 else index - 32)
        else:
            r5 = self.values.vector(Slot.ACC + LANES * R5)
            amount = self.values.splat(self.b.extract_element(r5, I32(0)))

        def rotate(src: Src, value: ir.Value) -> ir.Value:
            full = src.kind is SrcKind.ACC
            lanes = list(range(LANES))
            if index:
                n = index if index < 16 else index - 32
                order = [(i - n) % 16 if full else (i & ~3) | ((i - n) % 4) for i in lanes]
                return v.permute(value, ir.Constant(I32X16, order))
            lane = v.lane_id()
            moved = v.and_(v.sub(lane, amount), v.const(15 if full else 3))
            return v.permute(value, moved if full else v.or_(v.and_(lane, v.const(12)), moved))

        return rotate

    def _implicit(self, name: str) -> ir.Value:
        v, values = self.v, self.values
        if name in ("flags_a", "flags_b"):
            low, high = (Slot.A_LO, Slot.A_HI) if name == "flags_a" else (Slot.B_LO, Slot.B_HI)
            one, two, zero = v.const(1), v.const(2), v.const(0)
            return v.or_(v.select(values.mask(low), one, zero), v.select(values.mask(high), two, zero))
        if name in ("tidx", "link"):
            return values.splat(values.scalar(Slot.TIDX if name == "tidx" else Slot.LINK))
        if name not in _IMPLICIT:
            raise Untranslatable(f"implicit operand {name}")
        return values.vector(_IMPLICIT[name])

    def _store_implicit(self, name: str, value: ir.Value, masks: Pair | None) -> None:
        """`masks`: lanes that the condition enables. rtop is no lane register: it changes in all of them (assumed)."""
        v = self.v
        if name == "flags_a":
            fresh = [v.mnot(v.eq(v.and_(value, v.const(bit)), v.const(0))) for bit in (1, 2)]
            if masks is not None:
                olds = self.values.mask(Slot.A_LO), self.values.mask(Slot.A_HI)
                fresh = [self.b.select(m, new, old) for m, new, old in zip(masks, fresh, olds, strict=True)]
            for slot, mask in zip((Slot.A_LO, Slot.A_HI), fresh, strict=True):
                self.values.put_mask(slot, mask)
            return
        if name not in _IMPLICIT:
            raise Untranslatable(f"implicit result {name}")
        if masks is not None and name != "rtop":
            value = v.select(self._any_half(masks), value, self.values.vector(_IMPLICIT[name]))
        self.values.put_vector(_IMPLICIT[name], value)

    # -- results

    def _half(self, index: int, instr: Alu, half: AluHalf, mul: bool) -> _Result:
        op, masks = half.op, self._condition(half.cond)
        if op.name in ("nop", "tmuwt"):
            return _Result(half, self.v.const(0), [], [], masks)
        if op.name == "barrierid":
            return _Result(half, self.values.splat(self.values.scalar(Slot.SLOT)), [], [], masks)
        if op.sem is None:
            raise Untranslatable(f"operation {op.name}")
        rotate = self._rotation(instr) if mul else None
        operands = [self._source(src, rotate) for src in (half.a, half.b) if src is not None]
        if masks is not None and op.name in LANE_OPS and len(operands) == 1:
            operands[0] = self._enabled(operands[0], masks, op.name == "ballot")
        found = op.sem(self.v, *operands, *[self._implicit(name) for name in op.implicit_reads])
        if op.implicit_writes:
            value, *others = found
            return _Result(half, value, operands, list(zip(op.implicit_writes, others, strict=True)), masks)
        return _Result(half, found, operands, [], masks)

    def _enabled(self, value: ir.Value, masks: Pair, ballot: bool) -> ir.Value:
        """The operand of a lane operation of which only some lanes take part: others hold 0 or the first one's."""
        v, b = self.v, self.b
        on = self._any_half(masks)
        if ballot:
            return v.select(on, value, v.const(0))
        bits = b.or_(self.values.bits(on), I32(1 << 31))
        first = b.and_(v.intrinsic("llvm.cttz.i32", I32, [bits, ir.IntType(1)(1)]), I32(LANES - 1))
        none = b.icmp_unsigned("==", bits, I32(1 << 31))
        first = b.select(none, I32(0), first)
        return v.select(on, value, self.values.splat(b.extract_element(value, first)))

    def _condition(self, cond: str) -> Pair | None:
        if not cond:
            return None
        low, high = (Slot.A_LO, Slot.A_HI) if cond.endswith("a") else (Slot.B_LO, Slot.B_HI)
        one, two = self.values.mask(low), self.values.mask(high)
        if not cond.startswith("ifn"):
            return one, two
        inverse = self.v.mnot(one)
        return inverse, inverse if one is two else self.v.mnot(two)

    def _any_half(self, masks: Pair) -> ir.Value:
        """Lanes a magic write reaches: one enabled half suffices (assumed)."""
        return masks[0] if masks[0] is masks[1] else self.v.mor(*masks)

    def _flag(self, r: _Result, which: str) -> Pair:
        """Z, N or C of a result for the low and high halves."""
        v, op, result = self.v, r.half.op, r.value
        if op.flags is Flags.HALVES:
            zero = v.const(0)
            if which == "z":
                return v.eq(v.and_(result, v.const(0xFFFF)), zero), v.eq(v.shr(result, v.const(16)), zero)
            if which == "n":
                return v.slt(v.shl(result, v.const(16)), zero), v.slt(result, zero)
            mask = v.mconst(False)
            return mask, mask
        special = {"z": op.zero, "n": op.negative, "c": op.carry}[which]
        if special is not None:
            mask = special(v, *r.operands, result)
        elif which == "z":
            mask = v.eq(result, v.const(0))
        elif which == "n":
            mask = v.slt(result, v.const(0))
        else:
            mask = v.mconst(False)
        return mask, mask

    def _set_flags(self, r: _Result) -> None:
        values, v = self.values, self.v
        push, update = r.half.push, r.half.update
        if not (push or update):
            return
        low, high = self._flag(r, (push or update)[-1])
        if push:
            before = values.mask(Slot.A_LO), values.mask(Slot.A_HI)
            values.put_mask(Slot.B_LO, before[0])
            values.put_mask(Slot.B_HI, before[1])
        else:
            olds = values.mask(Slot.A_LO), values.mask(Slot.A_HI)
            fresh = []
            for f, old in zip((low, high), olds, strict=True):
                f = v.mnot(f) if len(update) == 5 else f
                fresh.append(v.mnot(v.mor(old, f)) if update.startswith("nor") else v.mand(old, f))
            low, high = fresh
        values.put_mask(Slot.A_LO, low)
        values.put_mask(Slot.A_HI, high)

    # -- destinations

    def _blend(self, masks: Pair, new: ir.Value, old: ir.Value) -> ir.Value:
        v = self.v
        low = v.select(masks[0], new, old)
        if masks[0] is masks[1]:
            return low
        high = v.select(masks[1], new, old)
        return v.or_(v.and_(low, v.const(0xFFFF)), v.and_(high, v.const(0xFFFF0000)))

    def _lane(self, value: ir.Value, masks: Pair | None, old: Slot | None, before: ir.Value | None = None) -> ir.Value:
        """Lane 0 as a number; `old` (or `before`) when it is not enabled."""
        b = self.b
        first = b.extract_element(value, I32(0))
        if masks is None:
            return first
        if before is None:
            assert old is not None
            before = self.values.scalar(old)
        return b.select(b.extract_element(self._any_half(masks), I32(0)), first, before)

    def _write(
        self,
        index: int,
        dst: Dst,
        value: ir.Value,
        masks: Pair | None,
        pack: str,
        plain: bool,
        slow: ir.Value | None,
    ) -> ir.Value | None:
        """Write a result. plain: of a lane operation. Returns the slow condition of the request so far."""
        v, b, values = self.v, self.b, self.values
        n = dst.n
        if dst.magic and n == regs.NOP:
            return slow
        if not dst.magic or (self.v42 and n < 5) or n in (R5, regs.R5REP):
            lanes: list[int] | None = None
            if dst.magic and n in (R5, regs.R5REP):
                at = self._place(Dst(R5, True) if self.v42 else Dst(0))
                if self.v42 or not plain:
                    lanes = _QUADS if n == R5 else [0] * LANES
            else:
                at = self._place(dst)
            if pack:
                value = PACK[pack](v, values.vector(at), value)
            if lanes is not None:
                value = v.permute(value, ir.Constant(I32X16, lanes))
            values.put_vector(at, value if masks is None else self._blend(masks, value, values.vector(at)))
            return slow
        if pack:
            value = PACK[pack](v, v.const(0), value)
        if n in DATA_WRITES:
            if masks is not None:
                value = v.select(self._any_half(masks), value, v.const(_UNDEFINED_DATA))
            pending = values.scalar(Slot.PENDING)
            place = b.add(I32(int(Slot.DATA)), b.shl(b.and_(pending, I32(DATA_SLOTS - 1)), I32(4)))
            b.store(value, values.pointer(place)).align = 64
            values.put_scalar(Slot.PENDING, b.add(pending, I32(1)))
        elif n == TMUC:
            values.put_scalar(Slot.CONFIG, self._lane(value, masks, Slot.CONFIG))
        elif n == UNIFA:
            pointer = None if masks is None else values.stream_pointer("a")
            values.move_stream("a", self._lane(value, masks, None, pointer))
        elif n == SYNCB:
            self._sync(index, masks)
        elif n in (TMUA, TMUAU):
            if n == TMUAU:
                values.put_scalar(Slot.CONFIG, values.word("u", index))
            live = values.live()
            if masks is not None:
                live = v.mand(live, self._any_half(masks))
            return self.host.request(value, b.bitcast(live, I16))
        elif self.v42 and n in regs.SFU_WRITES:
            sem = table(self.isa)[regs.SFU_MAGIC[n]].sem
            assert sem is not None
            values.put_vector(Slot.LATE, sem(v, value))
            lanes_late = I32(0xFFFF) if masks is None else values.bits(self._any_half(masks))
            values.put_scalar(Slot.LATE_MASK, lanes_late)
        return slow  # what is left is 16, set-up of the barrier, which is not needed

    def _sync(self, index: int, masks: Pair | None) -> None:
        b, values = self.b, self.values
        here: ir.Value = I32(1)
        pending = b.icmp_unsigned("!=", values.scalar(Slot.COUNT), I32(0))
        here = b.select(pending, I32(1 | (index + 1) << 1), here)
        if masks is not None:
            some = b.icmp_unsigned("!=", values.bits(self._any_half(masks)), I32(0))
            here = b.select(some, here, I32(0))
        values.put_scalar(Slot.SYNC, b.or_(values.scalar(Slot.SYNC), here))


def _starts(dst: Dst | None) -> bool:
    return dst is not None and dst.magic and dst.n in (TMUA, TMUAU)
