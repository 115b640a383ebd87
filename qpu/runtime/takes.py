"""Static counts of uniforms: how many words of its stream a program takes at most, where no loop reads any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.errors import QpuError
from qpu.v3d import instr as v3d
from qpu.v3d.decode import decode as decode_v3d
from qpu.v3d.effects import effects as effects_v3d
from qpu.vc4 import instr as vc4
from qpu.vc4.decode import decode as decode_vc4
from qpu.vc4.effects import effects as effects_vc4

__all__ = ["takes_at_most"]

_KNOWN: WeakKeyDictionary[Code, int | None] = WeakKeyDictionary()
_SLOTS = 3  # instructions after a branch that are executed before it is taken


def takes_at_most(program: Code) -> int | None:
    """Words of the uniform stream that a program can take; None where that depends on values: uniforms that are read
    in a loop, a stream that is moved, branches through registers, texture requests, words that are no instructions."""
    try:
        return _KNOWN[program]
    except KeyError:
        pass
    try:
        found = _count(program)
    except QpuError:  # a word that is no instruction
        found = None
    _KNOWN[program] = found
    return found


def _count(program: Code) -> int | None:
    old = program.isa is Isa.VC4
    decode: Callable[[int], Any] = decode_vc4 if old else lambda word: decode_v3d(program.isa, word)
    reads, loops = [], []
    for n, word in enumerate(program.code):
        i = decode(word)
        found = effects_vc4(word) if old else effects_v3d(i)
        if isinstance(i, vc4.Branch | v3d.Branch):
            target = i.target(n)
            if target is None or "uniform" in found.writes:
                return None
            if target <= n + _SLOTS:
                loops.append((target, n + _SLOTS))
        if "unif_addr" in found.writes or any(name.startswith("tmu") and name[-2:] in ("_t", "_r", "_b")
                                              for name in found.writes):  # fmt: skip
            return None
        if "uniform" in found.reads:
            if not old and not isinstance(i, v3d.Branch) and len(found.events & {"uniform load", "wrtmuc"}) != 1:
                return None
            reads.append(n)
    if any(first <= n <= last for n in reads for first, last in loops):
        return None
    return len(reads)
