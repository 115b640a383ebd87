"""VideoCore IV for the scheduler: units and forms of operations, files and accumulators, what one instruction holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from qpu.core.hazards import Facts, Windows
from qpu.core.isa import Isa, Unit
from qpu.lang.colour import simplified
from qpu.lang.liveness import bits, conflicts, liveness
from qpu.lang.mir import Fixed, Function, Imm, MOp, Operand, OutOfRegisters
from qpu.vc4.effects import effects
from qpu.vc4.hazards import facts_of
from qpu.vc4.instr import NO_DST, Alu, Branch, Dst, Half, Instr, LoadImm, Port, Semaphore, Src
from qpu.vc4.ops import TABLE
from qpu.vc4.pairing import IDLE_ADD, IDLE_MUL, combine, fits
from qpu.vc4.regs import NOP, SIG_ALU, File, branch_cond, cond
from qpu.vc4.rules import BRANCH_SLOTS, RULES

__all__ = ["Vc4Bundle", "Vc4Target", "colour_vc4", "repair"]

REPAIR = Fixed("acc", 3)
"""The accumulator that moves repair a conflict with."""


class Vc4Bundle:
    """An instruction that is being filled."""

    __slots__ = ("halves", "load", "ops", "sig")

    def __init__(self) -> None:
        self.halves: dict[Unit, tuple[MOp, Half]] = {}
        self.ops: list[MOp] = []
        self.sig = SIG_ALU
        self.load: LoadImm | Semaphore | None = None


class Vc4Target:
    """VideoCore IV with a colouring."""

    isa = Isa.VC4
    branch_slots: Final = BRANCH_SLOTS
    windows: Windows = RULES.windows[Isa.VC4]

    def __init__(self, colour: dict[int, Fixed]) -> None:
        self.colour = colour
        self._forms: dict[int, dict[Unit, Half]] = {}
        self._effects: dict[int, tuple[set[object], set[object], int]] = {}

    def new(self) -> Vc4Bundle:
        return Vc4Bundle()

    def save(self, bundle: Vc4Bundle) -> Vc4Bundle:
        kept = Vc4Bundle()
        self.restore(kept, bundle)
        return kept

    def restore(self, bundle: Vc4Bundle, saved: Vc4Bundle) -> None:
        bundle.halves, bundle.ops, bundle.sig, bundle.load = saved.halves, list(saved.ops), saved.sig, saved.load

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

    def forms(self, m: MOp) -> dict[Unit, Half]:
        found = self._forms.get(id(m))
        if found is None:
            found = self._forms[id(m)] = self._make(m)
        return found

    def _make(self, m: MOp) -> dict[Unit, Half]:
        if not m.op or m.op in ("ldi", "sema"):
            return {}
        a, b, dst = self.source(m.a), self.source(m.b), self.destination(m.dst)
        row = cond(m.cond) if m.cond else None
        code = None if row is None else row.code
        push = bool(m.push)
        if m.op == "mov":
            rotate = 0 if m.rot is None else 48 if m.rot < 0 else 48 + m.rot
            found = {Unit.MUL: Half(Unit.MUL, 4, dst, a, a, cond=code, push=push, rotate=rotate)}
            if m.rot is None:
                found[Unit.ADD] = Half(Unit.ADD, 21, dst, a, a, cond=code, push=push)
            return found
        op = TABLE[m.op]
        return {
            unit: Half(unit, op.code[Isa.VC4][unit].op, dst, a, b, cond=code, push=push)
            for unit in op.units_on(Isa.VC4)
        }

    def slots(self, m: MOp) -> tuple[str, ...]:
        if not m.op:
            return ("signal",)
        if m.op == "mov":
            return ("mul",) if m.rot is not None else ("add", "mul")
        if m.op in ("ldi", "sema"):
            return ("add",)
        units = TABLE[m.op].units_on(Isa.VC4)
        return tuple(s for u, s in ((Unit.ADD, "add"), (Unit.MUL, "mul")) if u in units)

    # -- bundles

    def put(self, bundle: Vc4Bundle, m: MOp) -> bool:
        if bundle.load is not None:
            return False
        if m.op in ("ldi", "sema"):
            if bundle.ops:
                return False
            if m.op == "sema":
                bundle.load = Semaphore(imm=m.byte)
                bundle.ops.append(m)
                return True
            dst = self.destination(m.dst)
            ws = 1 if dst.file is File.B else 0
            bundle.load = LoadImm(cond_add=1, waddr_add=dst.n, ws=ws, imm=m.byte)
            bundle.ops.append(m)
            return True
        sig = bundle.sig
        if m.sig:
            if sig != SIG_ALU:
                return False
            sig = m.sig
        forms = self.forms(m)
        choices = [bundle.halves] if not m.op else [
            {**bundle.halves, unit: (m, half)} for unit, half in forms.items() if unit not in bundle.halves
        ]  # fmt: skip
        for halves in choices:
            add, mul = halves.get(Unit.ADD), halves.get(Unit.MUL)
            if fits(add[1] if add else IDLE_ADD, mul[1] if mul else IDLE_MUL, sig):
                bundle.halves, bundle.sig = halves, sig
                bundle.ops.append(m)
                return True
        return False

    def put_moving(self, bundle: Vc4Bundle, m: MOp) -> bool:
        if len(bundle.halves) != 1 or bundle.load is not None:
            return False
        ((unit, (there, _)),) = bundle.halves.items()
        other = Unit.MUL if unit is Unit.ADD else Unit.ADD
        if other not in self.forms(there) or unit not in self.forms(m):
            return False
        if there.push or m.push:  # flags come from the ADD operation where there is one
            return False
        kept = bundle.halves
        bundle.halves = {other: (there, self.forms(there)[other])}
        if self.put(bundle, m):
            return True
        bundle.halves = kept
        return False

    def instruction(self, bundle: Vc4Bundle) -> Instr:
        if bundle.load is not None:
            return bundle.load
        add, mul = bundle.halves.get(Unit.ADD), bundle.halves.get(Unit.MUL)
        made = combine(add and add[1], mul and mul[1], bundle.sig)
        assert isinstance(made, Alu), made
        return made

    def effects(self, m: MOp) -> tuple[set[object], set[object], int]:
        found = self._effects.get(id(m))
        if found is not None:
            return found
        bundle = Vc4Bundle()
        ok = self.put(bundle, m)
        assert ok, m
        e = effects(self.instruction(bundle))
        reads = {r for r in e.needs if r not in _IGNORED}
        writes = {w for w in e.writes if w not in _IGNORED}
        latency = 1
        if m.role == "sfu":
            writes.add("r4")
            latency = 3
        elif m.role == "pop":
            writes.add("r4")
        elif m.role == "r5":
            writes.add("r5")
            latency = 2
        elif any(w.startswith(("ra", "rb")) for w in writes):
            latency = 2
        if m.rot is not None and m.rot < 0:
            reads.add("r5")
        if m.role == "vpm":
            writes.add("vpm")
            reads.add("vpm")
        if (m.cond or m.push) and m.cond and m.push:
            reads.add("flags")
        found = self._effects[id(m)] = (set(reads), set(writes), latency)
        return found


_IGNORED: Final = frozenset({"uniform", "tmu0_s", "tmu0_result", "sfu", "nop", "-", "vpm_write", "vw_setup", "vw_addr"})


def colour_vc4(
    function: Function, *, briggs: bool = False, cost: Mapping[int, float] | None = None, count: int = 31
) -> dict[int, Fixed]:
    """Accumulators for rotated operands and values of one block, files for the others; `repair` comes next.

    briggs: files in the order of `simplified`, with that cost; count: registers of a file. Raises: OutOfRegisters.
    """
    into, out = liveness(function)
    across = 0
    for block in function.blocks:
        across |= into[block] | out[block]
    _copy_rotated(function, across)
    clash = conflicts(function)
    spans: dict[int, list[int]] = {}
    uses: dict[int, int] = {}
    counts: dict[int, int] = {}
    rotated: set[int] = set()
    partners: dict[int, dict[int, int]] = {}
    wants_a: dict[int, int] = {}
    leans: dict[int, int] = {}  # above 0: of operations of the mul ALU, which beside additions read the other file
    for block in function.blocks:
        weight = 8 ** min(block.depth, 6)
        for i, m in enumerate(block.ops):
            sources = m.sources()
            if m.rot is not None and isinstance(m.a, int):
                rotated.add(m.a)
            for r in (*m.writes(), *sources):
                spans.setdefault(r, [i, i])[1] = i
            units = () if m.op in ("", "mov", "ldi", "sema") else TABLE[m.op].units_on(Isa.VC4)
            lean = 0 if len(units) != 1 else weight if Unit.MUL in units else -weight
            for r in sources:
                uses[r] = uses.get(r, 0) + weight
                counts[r] = counts.get(r, 0) + 1
                leans[r] = leans.get(r, 0) + lean
            if len(set(sources)) == 2:
                x, y = sources
                partners.setdefault(x, {})[y] = partners.setdefault(x, {}).get(y, 0) + weight
                partners.setdefault(y, {})[x] = partners.setdefault(y, {}).get(x, 0) + weight
            elif len(sources) == 1 and any(isinstance(z, Imm) for z in (m.a, m.b)):
                wants_a[sources[0]] = wants_a.get(sources[0], 0) + weight
    found: dict[int, Fixed] = {}
    failed: list[int] = []
    local = [r for r in spans if not across >> r & 1]
    often = {r for r in local if counts.get(r, 0) >= OFTEN}
    order = sorted(
        local, key=lambda r: (r not in rotated, r not in often, spans[r][1] - spans[r][0] > 8, -uses.get(r, 0))
    )
    start = 0
    for r in order:
        taken = {found[x] for x in bits(clash[r]) if x in found}
        for k in range(3):
            place = Fixed("acc", (start + k) % 3)
            if place not in taken:
                found[r] = place
                start = (place.n + 1) % 3
                break
        else:
            if r in rotated:
                failed.append(r)
    needs = _Needs(partners, wants_a, leans, clash, count)
    rest = [r for r in spans if r not in found and r not in rotated]
    if briggs:
        orders = [simplified(clash, rest, 2 * count - 2, cost)]
    else:  # the order of appearance needs fewer, but pairs operands worse
        orders = [sorted(rest, key=lambda r: -uses.get(r, 0)), rest]
    for order in orders:
        places, without = _files(order, found, needs)
        if not without:
            break
    if without or failed:
        raise OutOfRegisters(failed + without)
    return places


class _Needs(NamedTuple):
    """What decides the file of a value. partners: how often each pair is read by one operation; wants_a: how often
    beside an immediate; leans: above 0 how often by the mul ALU alone, below by the add ALU; clash: live together;
    most: registers of a file.
    """

    partners: dict[int, dict[int, int]]
    wants_a: dict[int, int]
    leans: dict[int, int]
    clash: list[int]
    most: int


def _files(order: Iterable[int], done: dict[int, Fixed], needs: _Needs) -> tuple[dict[int, Fixed], list[int]]:
    """A place in a file for each value, those with accumulators in `done` besides; and values that found none."""
    found = dict(done)
    failed: list[int] = []
    count = needs.most
    turn = {"a": 0, "b": 0}
    for r in order:
        taken = {found[x] for x in bits(needs.clash[r]) if x in found}
        lean = needs.leans.get(r, 0)
        cost = {"a": max(lean, 0), "b": _CONFLICT * needs.wants_a.get(r, 0) + max(-lean, 0)}
        for other, weight in needs.partners.get(r, {}).items():
            place_of = found.get(other)
            if place_of is not None and place_of.kind in cost:
                cost[place_of.kind] += _CONFLICT * weight
        for kind in sorted(cost, key=lambda k: (cost[k], turn[k])):
            free = next(
                (n for k in range(count) if Fixed(kind, n := (turn[kind] + k) % count) not in taken and n != 14), None
            )
            if free is not None:
                found[r] = Fixed(kind, free)
                turn[kind] = free + 1
                break
        else:
            failed.append(r)
    return found, failed


OFTEN: Final = 8  # reads of a value of one block that is worth an accumulator before shorter ones

_CONFLICT: Final = 4
"""What a move costs beside two operations that cannot be one instruction."""


def _copy_rotated(function: Function, across: int) -> None:
    """A copy in front of each rotation of a value that other blocks need as well: only accumulators rotate."""
    for block in function.blocks:
        ops: list[MOp] = []
        for m in block.ops:
            if m.rot is not None and isinstance(m.a, int) and across >> m.a & 1:
                copy = function.registers
                function.registers += 1
                ops.append(MOp("mov", copy, m.a, loc=m.loc))
                m.a = copy
            ops.append(m)
        block.ops = ops


def repair(function: Function, colour: dict[int, Fixed]) -> None:
    """Moves into the reserved accumulator for operands that one instruction cannot read together."""
    for block in function.blocks:
        ops: list[MOp] = []
        for m in block.ops:
            places = [colour[x] if isinstance(x, int) else x for x in (m.a, m.b)]
            kinds = ["b" if isinstance(p, Imm) else p.kind if isinstance(p, Fixed) else "" for p in places]
            kinds = [{"io_a": "a", "io_b": "b"}.get(k, k) for k in kinds]
            clash = kinds[0] == kinds[1] and kinds[0] in ("a", "b") and places[0] != places[1]
            if clash:
                first = isinstance(m.a, int)
                moved = m.a if first else m.b
                ops.append(MOp("mov", REPAIR, moved, loc=m.loc))
                if first:
                    m.a = REPAIR
                else:
                    m.b = REPAIR
            ops.append(m)
        block.ops = ops
