"""Faults of V3D programs: message and help of each rule that only a running program can break.

Rules about instructions and their distances are rows of `qpu.v3d.rules`, which have their own help.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qpu.errors import EmuFault, FaultPlace
from qpu.v3d.rules import RULES

__all__ = ["HELP", "fault", "sentence"]

HELP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "barrier-tmu": "collect every result with ldtmu, and wait for stores with tmuwt, before joining the barrier",
        "branch-misaligned": "branch to a label, or to an address that is a multiple of 8",
        "code-out-of-bounds": "end the program (`q.end()`), and check the targets of its branches",
        "deadlock": "let every thread of a supergroup reach the barrier; do not branch past it",
        "dispatch": "submit registers as the driver of a real board writes them (docs/hardware/v3d.md 10)",
        "graphics": "remove the access: a compute program has no fragments, varyings or tile buffer",
        "interrupted": "launch the program again: an interrupted dispatch cannot be resumed",
        "misaligned": "align the address to the size of the access, or use a narrower type",
        "out-of-bounds": "check the address arithmetic, the lanes that are enabled, and the sizes of the buffers",
        "register-range": "use rf0..rf31, or launch with two threads per QPU: v3d.Dispatch(threads=2)",
        "rotate": "rotate by r5 or by an immediate 1..15 or -16..-1, and read other registers through port A",
        "same-destination": "write different registers, or use complementary conditions (ifa and ifna)",
        "syncu": "join barriers with syncb",
        "texture": "load through tmua; texture lookups are not emulated",
        "tmu-data": "write as many data words as the request takes before its address",
        "tmu-data-overflow": "write at most as many data words before an address as the TMU holds",
        "tmu-empty": "start a load before each ldtmu; a vector load gives one result for each component",
        "tmu-overflow": "collect results with ldtmu before starting more loads",
        "tmu-request": "use a configuration byte that docs/hardware/v3d.md 9.2 lists",
        "tmu-unpopped": "collect every result with ldtmu before the program ends",
        "uniforms-end": "pass as many uniforms as the program takes; see the loop counts",
        "uniforms-from-link": "take the new address of the uniform stream from a uniform or a register",
    }
)
"""Help texts by rule."""

_SENTENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "barrier-tmu": "the barrier is joined while TMU results are outstanding",
        "branch-misaligned": "branch target 0x{:08x} is not a multiple of 8",
        "code-out-of-bounds": "the program counter 0x{:08x} is outside every buffer",
        "register-range": "rf{} does not exist with four threads per QPU; rf0..rf31 exist",
        "tmu-data-overflow": "one request has {} data words; the TMU holds {}",
        "tmu-empty": "ldtmu, but no result is pending; hardware hangs here",
        "tmu-overflow": "{} result words are pending; {} are known to fit, and more than {} are assumed to be lost",
        "tmu-pending": "{} result words are pending; {} are known to fit",
        "tmu-unpopped": "{} TMU result words are pending at the program end",
        "uniforms-from-link": "moving the uniform stream to the link register is not known to work",
    }
)


def sentence(rule: str, *found: object) -> str:
    """The message for a broken rule. found: the numbers in the message, or a message that replaces it."""
    if found and isinstance(found[0], str):
        return found[0]
    return _SENTENCES[rule].format(*found) if rule in _SENTENCES else RULES[rule].summary


def fault(rule: str, message: str, place: FaultPlace | None = None) -> EmuFault:
    """A fault with the help of its rule."""
    found = HELP.get(rule)
    return EmuFault(rule, message, place, help=RULES[rule].help if found is None else found)
