"""V3D 4.2 and 7.1 for the scheduler: units and forms of operations, registers, what one instruction holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from qpu.core.effects import Effects
from qpu.core.hazards import Facts
from qpu.core.isa import Isa, Unit
from qpu.lang.mir import Fixed, Imm, MOp, Operand
from qpu.v3d.effects import half_parts, parts
from qpu.v3d.encode import HalfKey, half_key
from qpu.v3d.hazards import facts_of
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Src, SrcKind
from qpu.v3d.ops import table
from qpu.v3d.pairing import combine, fits, idle
from qpu.v3d.regs import Sig
from qpu.v3d.rules import BRANCH_SLOTS, RULES
from qpu.v3d.single import peripherals, same_instruction

__all__ = ["Bundle", "Form", "V3dTarget"]

_LDTMU: Final = int(Sig.LDTMU)
_NULL: Final = Dst(6, True)
_IGNORED: Final = frozenset({"tmua", "tmud", "tmuc", "tmu", "uniform", "nop", "-"})
_ADD, _MUL = Unit.ADD, Unit.MUL
_SILENT: Final = Facts(0, 0)
Kinds = tuple[object, object, int, int]


class Form:
    """An operation in one of its units. key: for `fits`; after, before: masks of windows; shared: units it needs that
    an instruction has once; kind: what the rules within one instruction look at, beside immediates that exist; every:
    its forms in all units.
    """

    __slots__ = ("after", "before", "every", "half", "key", "kind", "shared", "unit")

    def __init__(self, every: list[Form], unit: Unit, half: AluHalf, key: HalfKey, facts: Facts, shared: int) -> None:
        self.every = every
        self.unit = unit
        self.half = half
        self.key = key
        self.after, self.before, _ = facts
        self.shared = shared
        dst = half.dst
        self.kind = half.op.name, dst.n if dst is not None and dst.magic else -1


class _Made(NamedTuple):
    """What an operation on its places can be, and what it reads and writes, with instructions until a reader may
    follow.
    """

    forms: list[Form]
    affected: tuple[set[object], set[object], int]


class Bundle:
    """An instruction that is being filled. closed: windows that exclude it; barred: windows that it may not open."""

    __slots__ = (
        "add", "after", "barred", "before", "closed", "mul", "ops", "rot", "shared", "sig", "sig_dst",
        "signal",
    )  # fmt: skip

    def __init__(self, closed: int, barred: int) -> None:
        self.add: Form | None = None
        self.mul: Form | None = None
        self.ops: list[MOp] = []
        self.sig = 0
        self.sig_dst: Dst | None = None
        self.rot: int | None = None
        self.shared = 0
        self.closed, self.barred = closed, barred
        self.after = self.before = 0
        self.signal = _SILENT


class V3dTarget:
    """One of the two instruction sets with a colouring. colour: place of each register."""

    def __init__(self, isa: Isa, colour: dict[int, Fixed]) -> None:
        self.isa = isa
        self.colour = colour
        self.table = table(isa)
        self.v42 = isa is Isa.V3D42
        self.nop_add = half_key(isa, _ADD, idle())
        self.nop_mul = half_key(isa, _MUL, idle())
        self.windows = RULES.windows[isa]
        self._known: dict[int, _Made] = {}  # by operation
        self._sources: dict[tuple[Operand, str], Src] = {}
        self._signals: dict[tuple[int, Dst | None], Facts] = {}

    branch_slots: Final = BRANCH_SLOTS
    rotation: Final = 1

    def new(self, closed: int = 0, barred: int = 0) -> Bundle:
        """An empty bundle. closed: windows that exclude it; barred: windows that it may not open."""
        return Bundle(closed, barred)

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
        found = self._sources.get((x, mod))
        if found is None:
            if isinstance(x, Imm):
                found = Src(SrcKind.IMM, x.n, mod)
            else:
                place = self.colour[x] if isinstance(x, int) else x
                found = Src(SrcKind.ACC if place.kind == "acc" else SrcKind.RF, place.n, mod)
            self._sources[x, mod] = found
        return found

    def destination(self, x: Operand | None) -> Dst:
        if x is None:
            return _NULL
        assert not isinstance(x, Imm)
        place = self.colour[x] if isinstance(x, int) else x
        return Dst(place.n, place.kind in ("magic", "acc"))

    # -- forms

    def forms(self, m: MOp) -> list[Form]:
        """The halves that an operation can be. A move on 4.2's add ALU is `or` of the value with itself."""
        return (self._known.get(id(m)) or self._of(m)).forms

    def _of(self, m: MOp) -> _Made:
        found = self._known.get(id(m))
        if found is None:
            places = [self.colour[x] if type(x) is int else x for x in (m.a, m.b, m.dst, m.sig_dst)]
            key = (self.isa, m.op, *places, m.amod, m.bmod, m.pack, m.cond, m.push, m.update, m.rot, m.role)
            found = _MADE.get(key)
            if found is None:
                forms, effects = self._make(m)
                if len(_MADE) >= KEPT:
                    _MADE.clear()
                found = _MADE[key] = _Made(forms, self._affected(m, effects))
            self._known[id(m)] = found
        return found

    def _make(self, m: MOp) -> tuple[list[Form], list[Effects]]:
        if not m.op:
            return [], []
        row = self.table[m.op]
        a, b = self.source(m.a, m.amod), self.source(m.b, m.bmod)
        dst = self.destination(m.dst)
        more = (m.pack, m.cond, m.push, m.update)
        slots = self.slots(m)
        halves = []
        if "add" in slots:
            if m.op == "mov" and self.v42:
                halves.append((_ADD, AluHalf(self.table["or"], dst, a, a, *more)))
            else:
                halves.append((_ADD, AluHalf(row, dst, a, b, *more)))
        if "mul" in slots:
            halves.append((_MUL, AluHalf(row, dst, a, b, *more)))
        if m.op == "mov" and self.v42:  # the mul ALU first
            halves.reverse()
        first: list[Effects] = []
        forms: list[Form] = []
        for unit, half in halves:
            found = half_parts(self.isa, unit, half)
            if m.rot is None:
                facts = self.windows.facts(found)
            else:
                alone = combine(self.isa, None, half, 0, None, m.rot)
                assert isinstance(alone, Alu), alone
                facts = self.windows.facts(parts(alone))
            first = first or found
            shared = peripherals(self.isa, half) or int(any("sfu op" in e.events for e in found))
            forms.append(Form(forms, unit, half, half_key(self.isa, unit, half), facts, shared))
        return forms, first

    def slots(self, m: MOp) -> tuple[str, ...]:
        """The slots an operation may take."""
        if not m.op:
            return _SIGNAL
        return _slots(self.isa, m.op, m.rot is not None, bool(m.amod))

    def least(self, ops: Sequence[MOp]) -> int:
        """Instructions that these operations need at least. What a signal writes is where others have a condition."""
        units = Counter(self.slots(m) for m in ops if m.op)
        shared = sum(bool(self.forms(m)[0].shared) if m.op else self.v42 and bool(m.sig & _LDTMU) for m in ops)
        signals = sum(bool(m.sig) for m in ops)

        pushes = any(m.push or m.update for m in ops)
        signals = max(signals, sum(m.sig_dst is not None for m in ops) + pushes)
        return max(units["add",], units["mul",], (units.total() + 1) // 2, shared, signals)

    # -- bundles

    def put(self, bundle: Bundle, m: MOp) -> bool:
        """Add an operation to an instruction, where it has room; one that is there may move to its other unit."""
        sig, sig_dst, rot, shared, signal = bundle.sig, bundle.sig_dst, bundle.rot, bundle.shared, bundle.signal
        if m.sig:
            if sig or rot is not None:
                return False
            sig = m.sig
            sig_dst = None if m.sig_dst is None else self.destination(m.sig_dst)
            signal = self._signal(sig, sig_dst)
            if signal.before & bundle.closed or signal.after & bundle.barred:
                return False
            if self.v42 and not m.op and sig & _LDTMU:
                shared += 1
        if m.rot is not None:
            if rot is not None or sig:
                return False
            rot = m.rot
        add, mul = bundle.add, bundle.mul
        if m.op:
            if add is not None and mul is not None:
                return False
            forms = self.forms(m)
            shared += forms[0].shared
            if shared > 1:
                return False
            pairs: list[tuple[Form | None, Form | None]] = []
            for f in forms:
                if f.unit is _ADD:
                    if add is None:
                        pairs.append((f, mul))
                elif mul is None:
                    pairs.append((add, f))
            there = add or mul
            if there is not None and len(pairs) < len(forms):
                pairs += [(x, f) if x.unit is _ADD else (f, x) for x in there.every if x.unit is not there.unit
                          for f in forms if f.unit is there.unit]  # fmt: skip
        elif shared > 1:
            return False
        else:
            pairs = [(add, mul)]
        closed, barred = bundle.closed, bundle.barred
        for pair in pairs:
            after, before = signal.after, signal.before
            for form in pair:
                if form is not None:
                    after |= form.after
                    before |= form.before
            if not (before & closed or after & barred) and self._fit(pair[0], pair[1], sig, sig_dst, rot):
                bundle.add, bundle.mul = pair
                bundle.sig, bundle.sig_dst, bundle.rot, bundle.shared, bundle.signal = sig, sig_dst, rot, shared, signal
                bundle.after, bundle.before = after, before
                bundle.ops.append(m)
                return True
        return False

    def _signal(self, sig: int, sig_dst: Dst | None) -> Facts:
        found = self._signals.get((sig, sig_dst))
        if found is None:
            made = parts(Alu(self.isa, idle(), idle(), Sig(sig), sig_dst))
            found = self._signals[sig, sig_dst] = self.windows.facts(made)
        return found

    def _fit(self, add: Form | None, mul: Form | None, sig: int, sig_dst: Dst | None, rot: int | None) -> bool:
        """Whether one instruction may have both and the signals."""
        if not fits(add.key if add else self.nop_add, mul.key if mul else self.nop_mul, sig, sig_dst, rot):
            return False
        kinds: Kinds = (
            add and add.kind, mul and mul.kind, sig, -1 if sig_dst is None or not sig_dst.magic else sig_dst.n
        )  # fmt: skip
        known = _ALLOWED[self.isa]
        allowed = known.get(kinds)
        if allowed is None:
            made = combine(self.isa, _half(add), _half(mul), sig, sig_dst, rot)
            assert isinstance(made, Alu), made
            allowed = known[kinds] = not same_instruction(made)
        return allowed

    def instruction(self, bundle: Bundle) -> Alu:
        """The instruction of a bundle."""
        made = combine(self.isa, _half(bundle.add), _half(bundle.mul), bundle.sig, bundle.sig_dst, bundle.rot)
        assert isinstance(made, Alu), made
        return made

    def effects(self, m: MOp) -> tuple[set[object], set[object], int]:
        """Resources of an operation on real registers, for the dependence graph."""
        return self._of(m).affected

    def _affected(self, m: MOp, effects: Sequence[Effects]) -> tuple[set[object], set[object], int]:
        reads: set[object] = set()
        writes: set[object] = set()
        latency = 1
        for e in effects:
            reads |= e.reads
            reads |= e.partial
            writes |= e.writes
            if "sfu op" in e.events:
                latency = 2
        if m.role == "barrier":  # each in an instruction of its own, in order
            writes.add("barrier")
        if m.sig_dst is not None:
            dst = self.destination(m.sig_dst)
            writes.add(f"{'r' if dst.magic else 'rf'}{dst.n}")
        return reads - _IGNORED, writes - _IGNORED, latency


_ALLOWED: Final[dict[Isa, dict[Kinds, bool]]] = {Isa.V3D42: {}, Isa.V3D71: {}}
"""Whether the rules within one instruction allow these operations together."""
_MADE: Final[dict[tuple[object, ...], _Made]] = {}
"""What operations on their places can be: those of one kernel are those of most others."""
KEPT: Final = 4096  # of those
_SIGNAL: Final = ("signal",)


def _half(form: Form | None) -> AluHalf | None:
    return None if form is None else form.half


@cache
def _slots(isa: Isa, name: str, rotates: bool, modified: bool) -> tuple[str, ...]:
    units = table(isa)[name].units_on(isa)
    if rotates:
        return ("mul",)
    if name == "mov" and isa is Isa.V3D42:
        return ("mul",) if modified else ("add", "mul")
    return tuple(slot for unit, slot in ((_ADD, "add"), (_MUL, "mul")) if unit in units)
