"""Instructions of V3D as prepared closures over `Group`: the reference engine's instruction semantics.

`build` turns a `Prepared` into ``step(group, services)``. A step performs every effect of the instruction except
moving the program counter; it returns None, or the groups a diverging branch leaves behind.
Facts: v3d reference sections 3 to 9; assumed choices are marked where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.core.optable import Flags
from qpu.emu.v3d.prepare import Prepared
from qpu.emu.v3d.reference_operands import (
    FALSE,
    LANES,
    U32,
    ZERO,
    Mask,
    Pair,
    Put,
    Services,
    Step,
    V,
    Value,
    any_half,
    condition,
    destination_of,
    discard,
    implicit_read,
    implicit_write,
    lane_number,
    register_put,
    rotation_of,
    source_of,
    spread,
)
from qpu.emu.v3d.state import ACC, Group, PerThread, each, squeeze
from qpu.v3d.instr import Alu, AluHalf, Branch, Sig, SrcKind
from qpu.v3d.ops import LANE_OPS

__all__ = ["build"]


@lru_cache(maxsize=1 << 14)
def build(p: Prepared) -> Step:
    """The step of a prepared instruction without `problem`."""
    return _branch(p.instr) if isinstance(p.instr, Branch) else _alu(p, p.instr)


# -- one half of an ALU instruction


class _Half:
    """A half, taken apart: how to compute it, its flags, its condition and where the result goes."""

    def __init__(self, p: Prepared, half: AluHalf, rotating: bool) -> None:
        self.half = half
        self.op = half.op
        i = p.instr
        assert isinstance(i, Alu)
        sources = [s for s in (half.a, half.b) if s is not None]
        self.reads = [source_of(s, rotation_of(i, s) if rotating else None) for s in sources]
        self.cond = half.cond
        self.flag = half.push or half.update
        self.kind, self.put = destination_of(p, half.dst, half.pack)
        if self.op.name in ("nop", "tmuwt"):
            self.kind, self.put = "none", discard
        self.writes = self.op.implicit_writes
        self.value = self._value()

    @property
    def idle(self) -> bool:
        return self.op.name in ("nop", "tmuwt") and not self.flag

    @property
    def fast(self) -> bool:
        """A plain result into a plain register."""
        return self.kind == "register" and not (self.cond or self.flag or self.writes)

    def operands(self, g: Group) -> list[U32]:
        found = [r(g) for r in self.reads]
        if self.cond and self.op.name in LANE_OPS and len(found) == 1:
            # With a condition only enabled lanes take part (assumed).
            lo, hi = condition(g, self.cond)
            on = np.broadcast_to(lo | hi, (g.n, LANES))
            a = np.broadcast_to(found[0], (g.n, LANES))
            first = np.take_along_axis(a, on.argmax(axis=1)[:, None], axis=1)
            found[0] = np.where(on, a, ZERO if self.op.name == "ballot" else first)
        return found

    def _value(self) -> Value:
        sem, reads = self.op.sem, self.reads
        if self.op.name in ("nop", "tmuwt"):
            return lambda g, x: ZERO
        if self.op.name == "barrierid":
            return lambda g, x: spread(squeeze(x.supergroup_slots(g)), g.n)
        assert sem is not None, self.op.name
        function = sem
        if self.op.implicit_reads or (self.cond and self.op.name in LANE_OPS):
            extra = [implicit_read(n) for n in self.op.implicit_reads]
            operands = self.operands
            return lambda g, x: function(V, *operands(g), *[e(g) for e in extra])
        if len(reads) == 2:
            first, second = reads
            return lambda g, x: function(V, first(g), second(g))
        if len(reads) == 1:
            only = reads[0]
            return lambda g, x: function(V, only(g))
        return lambda g, x: function(V)

    def flags(self, g: Group, result: U32) -> Pair:
        """The named flag (z, n or c) of a result, before any destination handling."""
        name = (self.half.push or self.half.update)[-1]
        op = self.op
        if op.flags is Flags.HALVES:
            low, high = result & np.uint32(0xFFFF), result >> np.uint32(16)
            if name == "z":
                return np.equal(low, 0), np.equal(high, 0)
            if name == "n":
                return low >= np.uint32(0x8000), high >= np.uint32(0x8000)
            return FALSE, FALSE
        special = {"z": op.zero, "n": op.negative, "c": op.carry}[name]
        if special is not None:
            m: Mask = special(V, *self.operands(g), result)
        elif name == "z":
            m = np.equal(result, 0)
        elif name == "n":
            m = result >= np.uint32(0x80000000)
        else:
            m = FALSE
        return m, m


def _apply_flags(g: Group, push: str, update: str, flag: Pair) -> None:
    lo, hi = flag
    if push:
        g.b, g.b_hi = g.a, g.a_hi
        g.a, g.a_hi = lo, hi
        return
    nor = update.startswith("nor")
    if len(update) == 5:  # andnz, nornz, ...: the flag is negated
        same = lo is hi
        lo = ~lo
        hi = lo if same else ~hi
    together = g.a is g.a_hi and lo is hi
    new = ~(g.a | lo) if nor else g.a & lo
    new_hi = new if together else (~(g.a_hi | hi) if nor else g.a_hi & hi)
    g.a, g.a_hi = new, new_hi


# -- whole instructions


def _signal(p: Prepared, i: Alu) -> list[tuple[Value, Put]]:
    """The loads of an instruction in order: where the value comes from, where it goes."""
    found: list[tuple[Value, Put]] = []
    implicit = register_put(ACC + 5 if p.isa is Isa.V3D42 else 0, None, "")
    addressed = destination_of(p, i.sig_dst, "")[1] if i.sig_dst is not None else discard

    def uniform(g: Group, x: Services) -> U32:
        return spread(x.uniform(g), g.n)

    def unifa(g: Group, x: Services) -> U32:
        return spread(x.unifa(g), g.n)

    def ldtmu(g: Group, x: Services) -> U32:
        if not g.results:
            x.fault(g, "tmu-empty", "ldtmu finds no result pending; hardware hangs here")
        return g.results.pop(0)

    if i.sig & Sig.LDTMU:
        found.append((ldtmu, addressed))
    if i.sig & Sig.LDUNIF:
        found.append((uniform, implicit))
    if i.sig & Sig.LDUNIFRF:
        found.append((uniform, addressed))
    if i.sig & Sig.LDUNIFA:
        found.append((unifa, implicit))
    if i.sig & Sig.LDUNIFARF:
        found.append((unifa, addressed))
    return found


def _alu(p: Prepared, i: Alu) -> Step:
    add = _Half(p, i.add, False)
    mul = _Half(p, i.mul, bool(i.sig & Sig.ROT))
    loads = _signal(p, i)
    wrtmuc = bool(i.sig & Sig.WRTMUC)
    if not loads and not wrtmuc and not p.hazards and not i.sig & Sig.ROT and not p.writes_rf0:
        fast = _fast(add, mul)
        if fast is not None:
            return fast
    return _general(p, i, add, mul, loads, wrtmuc)


def _fast(add: _Half, mul: _Half) -> Step | None:
    """Steps without conditions, flags and signals, whose results go to plain registers."""
    if add.idle and mul.idle:
        return lambda g, x: None
    if not ((add.idle or add.fast) and (mul.idle or mul.fast)):
        return None

    def place(half: _Half) -> int:
        dst = half.half.dst
        assert dst is not None
        return dst.n + (ACC if dst.magic else 0)

    first, second = add.value, mul.value
    if mul.idle or add.idle:
        at, value = (place(add), first) if mul.idle else (place(mul), second)

        def one(g: Group, x: Services) -> None:
            g.regs[at] = value(g, x)

        return one
    to_add, to_mul = place(add), place(mul)

    def both(g: Group, x: Services) -> None:
        a = first(g, x)
        m = second(g, x)
        r = g.regs
        r[to_add] = a
        r[to_mul] = m

    return both


def _general(p: Prepared, i: Alu, add: _Half, mul: _Half, loads: list[tuple[Value, Put]], wrtmuc: bool) -> Step:
    halves = [h for h in (add, mul) if not h.idle]
    # A request sees the data and the configuration written by the same instruction (assumed).
    late_first = sorted(range(len(halves)), key=lambda k: halves[k].kind == "request")
    same = [message for rule, message in p.hazards if rule == "same-destination"]
    others = [(rule, message) for rule, message in p.hazards if rule != "same-destination"]
    conditional = bool(same and add.cond and mul.cond and not i.sig_dst)
    rotates = bool(i.sig & Sig.ROT)
    rf0_rule = p.isa is Isa.V3D71 and p.writes_rf0
    doubtful = p.doubtful_rf0

    def step(g: Group, x: Services) -> None:
        for rule, message in others:
            x.hazard(g, rule, message)
        if same and not conditional:
            x.hazard(g, "same-destination", same[0])
        if rotates:
            _check_rotation(g, x, i)
        results: list[U32] = []
        flags: list[tuple[AluHalf, Pair]] = []
        masks: list[Pair | None] = []
        implicit: list[tuple[str, U32, Pair | None]] = []
        for h in halves:
            masks.append(condition(g, h.cond) if h.cond else None)
            result: Any = h.value(g, x)
            if h.writes:
                result, *more = result
                implicit += [(name, new, masks[-1]) for name, new in zip(h.writes, more, strict=True)]
            results.append(result)
            if h.flag:
                flags.append((h.half, h.flags(g, result)))
        if (
            conditional
            and masks[0] is not None
            and masks[1] is not None
            and (any_half(masks[0]) & any_half(masks[1])).any()
        ):
            x.hazard(g, "same-destination", same[0])
        loaded = [value(g, x) for value, _ in loads]
        if wrtmuc:
            g.config = x.uniform(g)
        for half, flag in flags:
            _apply_flags(g, half.push, half.update, flag)
        for name, new, mask in implicit:
            implicit_write(g, name, new, mask)
        for k in late_first:
            halves[k].put(g, x, results[k], masks[k])
        for (_, put), value in zip(loads, loaded, strict=True):
            put(g, x, value, None)
        if rf0_rule:
            g.rf0_doubtful = doubtful

    return step


def _check_rotation(g: Group, x: Services, i: Alu) -> None:
    before = g.previous
    if not isinstance(before, Prepared):
        return
    for src in (i.mul.a, i.mul.b):
        if src is not None and src.kind is not SrcKind.IMM:
            name = ("r" if src.kind is SrcKind.ACC else "rf", src.n)
            if before.loaded == name:
                x.hazard(
                    g, "rotate-early", f"{name[0]}{name[1]} was written by ldtmu one instruction before its rotation"
                )
    if not i.raddr_b and (("r", 5) in before.writes or before.loaded == ("r", 5)):
        x.hazard(g, "rotate-early", "r5 was written one instruction before it is used as the rotation amount")


# -- branches


def _taken(b: Branch) -> Callable[[Group], Any]:
    """Per thread whether the branch is taken: a truth value or an array of shape (n,)."""
    name, ignore = b.cond, b.msfign
    if not name:
        return lambda g: True

    def lanes(g: Group) -> Mask | None:
        """Lanes that count, None for all."""
        if not ignore or g.live.all():
            return None
        if ignore == "p":
            return g.live
        quads = g.live.reshape(*g.live.shape[:-1], 4, 4).any(axis=-1)
        return np.repeat(quads, 4, axis=-1)

    if name == "a0":
        return lambda g: g.a[..., 0]
    if name == "na0":
        return lambda g: ~g.a[..., 0]

    def anya(g: Group, flag: Mask) -> Any:
        counted = lanes(g)
        return (flag if counted is None else flag & counted).any(axis=-1)

    if name == "anya":
        return lambda g: anya(g, g.a)
    if name == "anyna":
        return lambda g: anya(g, ~g.a)
    if name == "alla":
        return lambda g: ~np.asarray(anya(g, ~g.a))
    return lambda g: ~np.asarray(anya(g, g.a))


def _pick(value: PerThread, rows: NDArray[np.intp]) -> PerThread:
    return value if isinstance(value, int) else squeeze(value[rows])


def _branch(b: Branch) -> Step:
    taken = _taken(b)
    takes_word = b.ub and b.bdu in ("abs", "rel")

    def destination(g: Group) -> PerThread:
        if b.bdi == "abs":
            return b.offset
        if b.bdi == "rel":
            return (g.pc + 32 + b.offset) & 0xFFFFFFFF
        if b.bdi == "lri":
            return g.link
        return lane_number(g, g.regs[b.raddr_a], None, 0, 0)  # lane 0 (inferred)

    def jump(g: Group, x: Services, target: int, word: PerThread | None) -> None:
        if target & 7:
            x.fault(g, "branch-target", f"branch target 0x{target:08x} is no multiple of 8")
        link = g.link
        if b.link:
            g.link = (g.pc + 32) & 0xFFFFFFFF  # untaken branches leave it alone (assumed)
        if b.ub:
            _move_uniforms(g, x, b, word, link)
        g.target = target
        g.branch_left = 4
        g.busy = True

    def step(g: Group, x: Services) -> list[Group] | None:
        word = x.uniform(g) if takes_word else None  # consumed whether or not the branch is taken
        go = taken(g)
        if isinstance(go, np.ndarray) and go.ndim:
            count = int(np.count_nonzero(go))
            go = count == g.n if count in (0, g.n) else go
        if not isinstance(go, np.ndarray) or not go.ndim:
            if not go:
                return None
            targets = destination(g)
            if isinstance(targets, int):
                jump(g, x, targets, word)
                return None
            go = np.ones(g.n, np.bool_)
        else:
            targets = destination(g)
        x.flush(g)
        parts: list[Group] = []
        stay = np.flatnonzero(~go)
        if stay.size:
            parts.append(g.take(stay))
        for target in np.unique(each(targets, g.n)[go]).tolist():
            rows = np.flatnonzero(go & (each(targets, g.n) == np.uint32(target)))
            part = g.take(rows)
            jump(part, x, target, None if word is None else _pick(word, rows))
            parts.append(part)
        return parts

    return step


def _move_uniforms(g: Group, x: Services, b: Branch, word: PerThread | None, link: PerThread) -> None:
    if b.bdu == "abs":
        assert word is not None
        g.unif = word
    elif b.bdu == "rel":
        assert word is not None
        if isinstance(word, int) and isinstance(g.unif, int):
            g.unif = (g.unif + word) & 0xFFFFFFFF
        else:
            g.unif = squeeze(each(g.unif, g.n) + each(word, g.n))
    elif b.bdu == "rf":
        # Lane 1 with the low three bits cleared: inferred from test_unifa.py and test_branch.py.
        start = lane_number(g, g.regs[b.raddr_a], None, 1, 0)
        g.unif = start & ~7 if isinstance(start, int) else start & np.uint32(0xFFFFFFF8)
    else:
        x.warn(g, "uniforms-from-link", "moving the uniform stream to the link register is not known to work")
        g.unif = link
