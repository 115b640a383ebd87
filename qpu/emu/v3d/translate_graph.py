"""The static search for the instructions of a V3D program, for the translator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from qpu.core.isa import Isa
from qpu.emu.v3d.prepare import prepare
from qpu.emu.v3d.translate_state import NONE
from qpu.v3d.instr import Branch

__all__ = ["Fetch", "explore", "static_target"]

MAX_WORDS = 1 << 17  # words of code that are searched
Fetch: TypeAlias = Callable[[int], "int | None"]


def explore(isa: Isa, fetch: Fetch, starts: Sequence[int]) -> tuple[dict[int, int], set[int]]:
    """The words that may be executed from `starts` on, by instruction, and the targets of branches.

    fetch: gives the word of an instruction; None outside every buffer. The search may run past the end of a program.
    """
    targets = set(starts)
    todo, words = list(targets), dict[int, int]()
    while todo:
        at = todo.pop()
        while at not in words:
            word = fetch(at)
            if word is None:
                break
            words[at] = word
            if not word or len(words) > MAX_WORDS:
                break
            p = prepare(isa, word)
            if p.problem is not None:
                break
            if isinstance(p.instr, Branch):
                target = static_target(at, p.instr)
                if target != NONE:
                    targets.add(target)
                    todo.append(target)
            at += 1
    return words, targets


def static_target(at: int, instr: Branch) -> int:
    """The target of a branch; NONE when it is only known at run time."""
    target = instr.target(at)
    return NONE if target is None or instr.offset % 8 else target
