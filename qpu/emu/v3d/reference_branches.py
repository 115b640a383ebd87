"""Branches of V3D on the reference engine: decision, link, uniform streams, and the split of diverging groups.

Facts: docs/hardware/v3d.md 8.1; assumed choices are marked where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.emu.v3d.services import DispatchServices
from qpu.emu.v3d.state import Group, PerThread, each, squeeze, take_number
from qpu.v3d.instr import Branch
from qpu.v3d.rules import BRANCH_SLOTS

__all__ = ["branch_step"]

Mask: TypeAlias = NDArray[np.bool_]
BranchStep: TypeAlias = Callable[[Group, DispatchServices], "list[Group] | None"]

_AFTER_SLOTS = 8 * (1 + BRANCH_SLOTS)  # bytes from a branch to the first instruction after its delay slots


def _taken(b: Branch) -> Callable[[Group], Any]:
    """A function that returns for each thread whether the branch is taken: a truth value or an array of shape (n,)."""
    name, ignore = b.cond, b.msfign
    if not name:
        return lambda g: True

    def lanes(g: Group) -> Mask | None:
        """Lanes that the condition covers; None for all."""
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


def branch_step(b: Branch) -> BranchStep:
    """The step of a branch: (group, services) -> None, or the groups into which it splits the group."""
    taken = _taken(b)
    takes_word = b.ub and b.bdu in ("abs", "rel")

    def destination(g: Group) -> PerThread:
        if b.bdi == "abs":
            return b.offset
        if b.bdi == "rel":
            return (g.pc + _AFTER_SLOTS + b.offset) & 0xFFFFFFFF
        if b.bdi == "lri":
            return g.link
        return g.lane(g.regs[b.raddr_a], 0)  # lane 0 (inferred)

    def jump(g: Group, x: DispatchServices, target: int, word: PerThread | None) -> None:
        if target & 7:
            x.fault(g, "branch-misaligned", target)
        link = g.link
        if b.link:
            g.link = (g.pc + _AFTER_SLOTS) & 0xFFFFFFFF  # branches that are not taken do not change it (assumed)
        if b.ub:
            _move_uniforms(g, x, b, word, link)
        g.target = target
        g.branch_left = BRANCH_SLOTS + 1
        g.busy = True

    def step(g: Group, x: DispatchServices) -> list[Group] | None:
        word = x.uniform(g) if takes_word else None  # read whether or not the branch is taken
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
            jump(part, x, target, None if word is None else take_number(word, rows))
            parts.append(part)
        return parts

    return step


def _move_uniforms(g: Group, x: DispatchServices, b: Branch, word: PerThread | None, link: PerThread) -> None:
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
        start = g.lane(g.regs[b.raddr_a], 1)
        g.unif = start & ~7 if isinstance(start, int) else start & np.uint32(0xFFFFFFF8)
    else:
        x.warn(g, "uniforms-from-link")
        g.unif = link
