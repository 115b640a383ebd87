"""VideoCore IV for the scheduler: units and forms of operations, what one instruction holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from qpu.core.effects import Effects
from qpu.core.hazards import Facts, Windows
from qpu.core.isa import Isa, Unit
from qpu.lang.mir import UNPACKS, Fixed, Imm, MOp, Operand
from qpu.vc4.effects import parts
from qpu.vc4.hazards import facts_of
from qpu.vc4.hazards_same import same_instruction
from qpu.vc4.instr import NO_DST, Alu, Branch, Dst, Half, Instr, LoadImm, Port, Semaphore, Src
from qpu.vc4.ops import TABLE
from qpu.vc4.pairing import IDLE_ADD, IDLE_MUL, combine, fits
from qpu.vc4.regs import NOP, SIG_ALU, File, branch_cond, cond
from qpu.vc4.rules import BRANCH_SLOTS, RULES

__all__ = ["Form", "Vc4Bundle", "Vc4Target"]

_ADD, _MUL = Unit.ADD, Unit.MUL
_ALONE: Final = ("ldi", "sema")  # operations that fill an instruction
_SILENT: Final = Facts(0, 0)
Kinds = tuple[object, object, int]


class Form:
    """An operation in one of its units. after, before: masks of windows; kind: what the rules within one instruction
    look at; every: its forms in all units.
    """

    __slots__ = ("after", "before", "every", "half", "kind", "unit")

    def __init__(self, every: list[Form], half: Half, facts: Facts) -> None:
        self.every = every
        self.unit = half.unit
        self.half = half
        self.after, self.before, _ = facts
        dst = half.dst.n if half.dst.n >= 32 else -1
        inputs = tuple(s.n for s in (half.a, half.b) if s is not None and s.n >= 32 and s.port is not Port.IMM)
        rotation = (half.rotate, half.whole) if half.rotate else ()
        self.kind = dst, half.cond, inputs, half.packs, rotation, half.unpacks if half.modes else ()


class _Made(NamedTuple):
    """What an operation on its places can be. effects: its parts'; affected: what it reads and writes, and instructions
    until a reader may follow.
    """

    forms: Sequence[Form]
    effects: Sequence[Effects]
    affected: tuple[set[object], set[object], int]


class Vc4Bundle:
    """An instruction that is being filled. closed: windows that exclude it; barred: windows that it may not open."""

    __slots__ = ("add", "after", "barred", "before", "closed", "load", "mul", "ops", "sig", "signal")

    def __init__(self, closed: int, barred: int) -> None:
        self.add: Form | None = None
        self.mul: Form | None = None
        self.ops: list[MOp] = []
        self.sig = SIG_ALU
        self.load: LoadImm | Semaphore | None = None
        self.closed, self.barred = closed, barred
        self.after = self.before = 0
        self.signal = _SILENT


class Vc4Target:
    """VideoCore IV with a colouring."""

    isa = Isa.VC4
    branch_slots: Final = BRANCH_SLOTS
    rotation: Final = 2
    windows: Windows = RULES.windows[Isa.VC4]

    def __init__(self, colour: dict[int, Fixed]) -> None:
        self.colour = colour
        self._known: dict[int, _Made] = {}  # by operation

    def new(self, closed: int = 0, barred: int = 0) -> Vc4Bundle:
        """An empty bundle. closed: windows that exclude it; barred: windows that it may not open."""
        return Vc4Bundle(closed, barred)

    def facts(self, instr: Instr) -> Facts:
        return facts_of(instr)

    def branch(self, condition: str) -> Instr:
        row = branch_cond(condition)
        assert row is not None, condition
        return Branch(cond=row.code, rel=1)

    # -- places

    def place(self, x: Operand) -> Fixed:
        assert not isinstance(x, Imm)
        return self.colour[x] if isinstance(x, int) else x

    def source(self, x: Operand | None) -> Src | None:
        if x is None:
            return None
        if isinstance(x, Imm):
            return Src(Port.IMM, x.n)
        kind, n = self.place(x)
        port = {"acc": Port.ACC, "a": Port.A, "b": Port.B, "io": Port.ANY, "io_a": Port.A, "io_b": Port.B}[kind]
        return Src(port, n)

    def destination(self, x: Operand | None) -> Dst:
        if x is None or x == Fixed("io", NOP):
            return NO_DST
        kind, n = self.place(x)
        if kind == "acc":
            return Dst(32 + n)
        return Dst(n, {"a": File.A, "io_a": File.A, "b": File.B, "io_b": File.B, "io": None}[kind])

    # -- forms

    def _of(self, m: MOp) -> _Made:
        """What an operation can be."""
        found = self._known.get(id(m))
        if found is None:
            places = [self.colour[x] if type(x) is int else x for x in (m.a, m.b, m.dst)]
            key = (m.op, *places, m.cond, m.push, m.amod, m.rot, m.role, m.sig, m.byte if m.op in _ALONE else 0)
            found = _MADE.get(key)
            if found is None:
                forms, effects = self._make(m)
                if len(_MADE) >= KEPT:
                    _MADE.clear()
                found = _MADE[key] = _Made(forms, effects, self._affected(m, effects))
            self._known[id(m)] = found
        return found

    def _make(self, m: MOp) -> tuple[list[Form], list[Effects]]:
        if not m.op or m.op in _ALONE:
            return [], parts(self._load(m)) if m.op else []
        a, b, dst = self.source(m.a), self.source(m.b), self.destination(m.dst)
        if m.amod and a is not None:
            a = a._replace(unpack=4 + UNPACKS.index(m.amod))
        row = cond(m.cond) if m.cond else None
        code = None if row is None else row.code
        push = bool(m.push)
        if m.op == "mov":
            rotate = 0 if m.rot is None else 48 if m.rot < 0 else 48 + m.rot
            halves = [Half(_MUL, 4, dst, a, a, cond=code, push=push, rotate=rotate)]
            if m.rot is None:
                halves.append(Half(_ADD, 21, dst, a, a, cond=code, push=push))
        elif m.role == "lanes":
            halves = [Half(_ADD, _code(m.op, _ADD), dst, a, b, cond=code, push=push),
                      Half(_MUL, _code("v8min", _MUL), dst, a, b, cond=code, push=push)]  # fmt: skip
        else:
            halves = [Half(unit, _code(m.op, unit), dst, a, b, cond=code, push=push) for unit in _units(m.op)]
        half = halves[0]
        alone = combine(half, None) if half.unit is _ADD else combine(None, half)
        assert isinstance(alone, Alu), (m, alone)
        found = parts(alone)  # of either unit
        facts = self.windows.facts(found)
        forms: list[Form] = []
        forms += [Form(forms, half, facts) for half in halves]
        return forms, found

    def slots(self, m: MOp) -> tuple[str, ...]:
        """For ordering: the slots an operation may take."""
        if not m.op:
            return _SIGNAL
        if m.op == "mov":
            return ("mul",) if m.rot is not None else ("add", "mul")
        if m.op in _ALONE:
            return ("add",)
        return ("add", "mul") if m.role == "lanes" else _slots(m.op)

    def _load(self, m: MOp) -> LoadImm | Semaphore:
        if m.op == "sema":
            return Semaphore(imm=m.byte)
        dst = self.destination(m.dst)
        return LoadImm(cond_add=1, waddr_add=dst.n, ws=int(dst.file is File.B), imm=m.byte)

    def least(self, ops: Sequence[MOp]) -> int:
        """Instructions that these operations need at least. A signal and a request exclude each other."""
        units = Counter(self.slots(m) for m in ops if m.op and m.op not in _ALONE)
        alone = sum(m.op in _ALONE for m in ops)
        memory = sum(bool(m.sig) or m.role == "request" for m in ops)
        return alone + max(units["add",], units["mul",], (units.total() + 1) // 2, memory)

    # -- bundles

    def put(self, bundle: Vc4Bundle, m: MOp) -> bool:
        """Add an operation to an instruction, where it has room; one that is there may move to its other unit."""
        if bundle.load is not None:
            return False
        closed, barred = bundle.closed, bundle.barred
        if m.op in _ALONE:
            if bundle.ops:
                return False
            facts = self.windows.facts(self._of(m).effects)
            if facts.before & closed or facts.after & barred:
                return False
            bundle.load = self._load(m)
            bundle.after, bundle.before, _ = facts
            bundle.ops.append(m)
            return True
        sig, signal = bundle.sig, bundle.signal
        if m.sig:
            if sig != SIG_ALU:
                return False
            sig, signal = m.sig, _signal(m.sig)
        add, mul = bundle.add, bundle.mul
        pairs: list[tuple[Form | None, Form | None]]
        if m.op:
            if add is not None and mul is not None:
                return False
            made = self._known.get(id(m)) or self._of(m)
            forms = made.forms
            pairs = []
            for f in forms:
                if f.unit is _ADD:
                    if add is None:
                        pairs.append((f, mul))
                elif mul is None:
                    pairs.append((add, f))
            there = add or mul
            if there is not None and len(pairs) < len(forms) and not (there.half.push or m.push):
                pairs += [(x, f) if x.unit is _ADD else (f, x) for x in there.every if x.unit is not there.unit
                          for f in forms if f.unit is there.unit]  # fmt: skip
        else:
            pairs = [(add, mul)]
        for pair in pairs:
            after, before = signal.after, signal.before
            for form in pair:
                if form is not None:
                    after |= form.after
                    before |= form.before
            if not (before & closed or after & barred) and self._fit(pair[0], pair[1], sig):
                bundle.add, bundle.mul = pair
                bundle.sig, bundle.signal = sig, signal
                bundle.after, bundle.before = after, before
                bundle.ops.append(m)
                return True
        return False

    def _fit(self, add: Form | None, mul: Form | None, sig: int) -> bool:
        """Whether one instruction may have both and the signal."""
        one, two = add.half if add else IDLE_ADD, mul.half if mul else IDLE_MUL
        if not fits(one, two, sig):
            return False
        if add is None and mul is None:
            return True
        kinds: Kinds = add and add.kind, mul and mul.kind, sig
        same = one.dst.n == two.dst.n and one.dst.n >= 32  # what both compute matters, too
        allowed = None if same else _ALLOWED.get(kinds)
        if allowed is None:
            made = combine(_half(add), _half(mul), sig)
            assert isinstance(made, Alu), made
            allowed = not same_instruction(made)
            if not same:
                _ALLOWED[kinds] = allowed
        return allowed

    def instruction(self, bundle: Vc4Bundle) -> Instr:
        """The instruction of a bundle."""
        if bundle.load is not None:
            return bundle.load
        made = combine(_half(bundle.add), _half(bundle.mul), bundle.sig)
        assert isinstance(made, Alu), made
        return made

    def effects(self, m: MOp) -> tuple[set[object], set[object], int]:
        """Resources of an operation on real registers, for the dependence graph."""
        return self._of(m).affected

    @staticmethod
    def _affected(m: MOp, effects: Sequence[Effects]) -> tuple[set[object], set[object], int]:
        reads: set[object] = set()
        writes: set[object] = set()
        for e in effects:
            reads |= e.reads
            reads |= e.partial
            writes |= e.writes
        if m.sig:
            e = parts(Alu(sig=m.sig))[0]
            reads |= e.reads
            writes |= e.writes
        reads -= _IGNORED
        writes -= _IGNORED
        latency = 1
        if m.role == "sfu":
            writes.add("r4")
            latency = 3
        elif m.role == "pop":
            writes.add("r4")
        elif m.role == "r5":
            writes.add("r5")
        elif any(str(w).startswith(("ra", "rb")) for w in writes):
            latency = 2
        if m.rot is not None and m.rot < 0:
            reads.add("r5")
        if m.role == "vpm":
            writes.add("vpm")
            reads.add("vpm")
        if m.cond and m.push:
            reads.add("flags")
        return reads, writes, latency


_ALLOWED: Final[dict[Kinds, bool]] = {}
"""Whether the rules within one instruction allow these operations together."""
_MADE: Final[dict[tuple[object, ...], _Made]] = {}
"""What operations on their places can be: those of one kernel are those of most others."""
KEPT: Final = 4096  # of those
_SIGNAL: Final = ("signal",)


def _half(form: Form | None) -> Half | None:
    return None if form is None else form.half


@cache
def _signal(sig: int) -> Facts:
    return facts_of(Alu(sig=sig))


@cache
def _units(name: str) -> tuple[Unit, ...]:
    return tuple(unit for unit in (_ADD, _MUL) if unit in TABLE[name].units_on(Isa.VC4))


@cache
def _code(name: str, unit: Unit) -> int:
    return TABLE[name].code[Isa.VC4][unit].op


@cache
def _slots(name: str) -> tuple[str, ...]:
    return tuple(slot for unit, slot in ((_ADD, "add"), (_MUL, "mul")) if unit in _units(name))


_IGNORED: Final = frozenset({"uniform", "tmu0_s", "tmu0_result", "sfu", "nop", "-", "vpm_write", "vw_setup", "vw_addr"})
