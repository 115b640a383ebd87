"""V3D 4.2 and 7.1 for the scheduler: units and forms of operations, registers, what one instruction holds, the frame
of a program.
"""

from __future__ import annotations

from typing import Final

from qpu.core.effects import Effects
from qpu.core.hazards import Facts
from qpu.core.isa import Isa, Unit
from qpu.lang.mir import Fixed, Imm, MOp, Operand
from qpu.v3d.effects import half_effects
from qpu.v3d.encode import HalfKey, half_key
from qpu.v3d.hazards import facts_of
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Src, SrcKind
from qpu.v3d.ops import table
from qpu.v3d.pairing import combine, fits, idle
from qpu.v3d.regs import Sig
from qpu.v3d.rules import BRANCH_SLOTS, RULES
from qpu.v3d.single import peripherals

__all__ = ["Bundle", "Half", "V3dTarget"]

_LDTMU: Final = int(Sig.LDTMU)
_NULL: Final = Dst(6, True)


class Half:
    """An operation in one of its units. key: for `fits`; peripherals: shared units it needs."""

    __slots__ = ("effects", "half", "key", "peripherals", "unit")

    def __init__(self, unit: Unit, half: AluHalf, key: HalfKey, effects: Effects, count: int) -> None:
        self.unit = unit
        self.half = half
        self.key = key
        self.effects = effects
        self.peripherals = count


class Bundle:
    """An instruction that is being filled."""

    __slots__ = ("halves", "ops", "peripherals", "rot", "sig", "sig_dst", "uniform")

    def __init__(self) -> None:
        self.halves: dict[Unit, tuple[MOp, Half]] = {}
        self.ops: list[MOp] = []
        self.sig = 0
        self.sig_dst: Dst | None = None
        self.rot: int | None = None
        self.peripherals = 0
        self.uniform: object = None


class V3dTarget:
    """One of the two instruction sets with a colouring. colour: place of each register."""

    def __init__(self, isa: Isa, colour: dict[int, Fixed]) -> None:
        self.isa = isa
        self.colour = colour
        self.table = table(isa)
        self.v42 = isa is Isa.V3D42
        self.nop_add = half_key(isa, Unit.ADD, idle())
        self.nop_mul = half_key(isa, Unit.MUL, idle())
        self.windows = RULES.windows[isa]
        self._forms: dict[int, dict[Unit, Half]] = {}

    branch_slots: Final = BRANCH_SLOTS

    def new(self) -> Bundle:
        """An empty bundle."""
        return Bundle()

    def save(self, bundle: Bundle) -> Bundle:
        """What `restore` brings back."""
        kept = Bundle()
        self.restore(kept, bundle)
        return kept

    def restore(self, bundle: Bundle, saved: Bundle) -> None:
        """The bundle as it was."""
        bundle.halves, bundle.ops = saved.halves, list(saved.ops)
        bundle.sig, bundle.sig_dst, bundle.rot = saved.sig, saved.sig_dst, saved.rot
        bundle.peripherals = saved.peripherals

    def facts(self, instr: Alu | Branch) -> Facts:
        """What the hazard rules need to know of an instruction."""
        return facts_of(instr)

    def branch(self, condition: str) -> Branch:
        """A branch whose offset is filled in later."""
        return Branch(self.isa, cond=condition, bdi="rel")

    # -- places

    def source(self, x: Operand | None, mod: str) -> Src | None:
        if x is None:
            return None
        if isinstance(x, Imm):
            return Src(SrcKind.IMM, x.n, mod)
        place = self.colour[x] if isinstance(x, int) else x
        return Src(SrcKind.ACC if place.kind == "acc" else SrcKind.RF, place.n, mod)

    def destination(self, x: Operand | None) -> Dst:
        if x is None:
            return _NULL
        assert not isinstance(x, Imm)
        place = self.colour[x] if isinstance(x, int) else x
        return Dst(place.n, place.kind in ("magic", "acc"))

    # -- forms

    def forms(self, m: MOp) -> dict[Unit, Half]:
        """The halves that an operation can be. A move on 4.2's add ALU is `or` of the value with itself."""
        found = self._forms.get(id(m))
        if found is not None:
            return found
        found = {}
        if m.op:
            row = self.table[m.op]
            a, b = self.source(m.a, m.amod), self.source(m.b, m.bmod)
            dst = self.destination(m.dst)
            more = (m.pack, m.cond, m.push, m.update)
            units = row.units_on(self.isa)
            for unit in (Unit.ADD, Unit.MUL):
                if unit in units and (m.rot is None or unit is Unit.MUL):
                    found[unit] = self._half(unit, AluHalf(row, dst, a, b, *more))
            if m.op == "mov" and Unit.ADD not in found and m.rot is None and not m.amod:
                found[Unit.ADD] = self._half(Unit.ADD, AluHalf(self.table["or"], dst, a, a, *more))
        self._forms[id(m)] = found
        return found

    def _half(self, unit: Unit, half: AluHalf) -> Half:
        isa = self.isa
        return Half(unit, half, half_key(isa, unit, half), half_effects(isa, unit, half), peripherals(isa, half))

    def slots(self, m: MOp) -> tuple[str, ...]:
        """For ordering: the slots an operation may take."""
        if not m.op:
            return ("signal",)
        units = self.table[m.op].units_on(self.isa)
        if m.rot is not None:
            return ("mul",)
        if m.op == "mov" or (Unit.ADD in units and Unit.MUL in units):
            return ("add", "mul")
        return ("add",) if Unit.ADD in units else ("mul",)

    # -- bundles

    def put(self, bundle: Bundle, m: MOp) -> bool:
        """Add an operation to an instruction, where it has room; one that is there may move to its other unit."""
        if m.sig and (bundle.sig or bundle.rot is not None):
            return False
        if m.rot is not None and (bundle.rot is not None or bundle.sig):
            return False
        sig = m.sig or bundle.sig
        sig_dst = self.destination(m.sig_dst) if m.sig_dst is not None else bundle.sig_dst
        rot = m.rot if m.rot is not None else bundle.rot
        forms = self.forms(m)
        count = bundle.peripherals + self._shared(m, forms)
        if count > 1:
            return False
        for halves in self._choices(bundle, m, forms):
            add, mul = halves.get(Unit.ADD), halves.get(Unit.MUL)
            if fits(
                add[1].key if add else self.nop_add,
                mul[1].key if mul else self.nop_mul,
                sig,
                sig_dst,
                self._amount(rot),
            ):
                bundle.halves = halves
                bundle.sig, bundle.sig_dst, bundle.rot = sig, sig_dst, rot
                bundle.peripherals = count
                bundle.ops.append(m)
                return True
        return False

    @staticmethod
    def _amount(rot: int | None) -> int | None:
        return rot

    def _shared(self, m: MOp, forms: dict[Unit, Half]) -> int:
        """Units that one instruction has once: TMU, SFU, and on 4.2 the loading of results."""
        if not m.op:
            return int(self.v42 and bool(m.sig & _LDTMU))
        half = next(iter(forms.values()))
        if half.peripherals:
            return half.peripherals
        sfu = "sfu op" in half.effects.events
        return int(sfu)

    @staticmethod
    def _choices(bundle: Bundle, m: MOp, forms: dict[Unit, Half]) -> list[dict[Unit, tuple[MOp, Half]]]:
        if not m.op:
            return [bundle.halves]
        found = []
        for unit, half in forms.items():
            if unit not in bundle.halves:
                found.append({**bundle.halves, unit: (m, half)})
        return found

    def put_moving(self, bundle: Bundle, m: MOp) -> bool:
        """As `put`, with the operation that is there moved to the other unit first."""
        if len(bundle.halves) != 1:
            return False
        ((unit, (there, _)),) = bundle.halves.items()
        other = Unit.MUL if unit is Unit.ADD else Unit.ADD
        alternatives = self.forms(there)
        if other not in alternatives or unit not in self.forms(m):
            return False
        kept = bundle.halves
        bundle.halves = {other: (there, alternatives[other])}
        if self.put(bundle, m):
            return True
        bundle.halves = kept
        return False

    def instruction(self, bundle: Bundle) -> Alu:
        """The instruction of a bundle."""
        add, mul = bundle.halves.get(Unit.ADD), bundle.halves.get(Unit.MUL)
        made = combine(
            self.isa, add and add[1].half, mul and mul[1].half, bundle.sig, bundle.sig_dst, self._amount(bundle.rot)
        )
        assert isinstance(made, Alu), made
        return made

    def effects(self, m: MOp) -> tuple[set[object], set[object], int]:
        """Resources of an operation on real registers, for the dependence graph."""
        reads: set[object] = set()
        writes: set[object] = set()
        latency = 1
        forms = self.forms(m)
        if forms:
            e = next(iter(forms.values())).effects
            reads |= e.needs
            writes |= e.writes
            if "sfu op" in e.events:
                latency = 2
        if m.role == "barrier":  # each in an instruction of its own, in order
            writes.add("barrier")
        if m.sig_dst is not None:
            dst = self.destination(m.sig_dst)
            writes.add(f"{'r' if dst.magic else 'rf'}{dst.n}")
        ignored = {"tmua", "tmud", "tmuc", "tmu", "uniform", "nop", "-"}
        return reads - ignored, writes - ignored, latency
