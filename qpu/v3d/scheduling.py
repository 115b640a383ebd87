"""What Mesa's scheduler avoids beyond what its validator enforces: rules 7, 15, 19 and 20 of the V3D reference.

All of them are warnings. Much hand-written code breaks some of them knowingly: hardware accepts most instructions in
the slots of a thread switch, and every retail Pi 4 has a stepping that pairs uniform and unifa loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qpu.core.hazards import Finding
from qpu.core.isa import Isa
from qpu.errors import DecodeError, Severity
from qpu.v3d.codes import SIGNALS
from qpu.v3d.instr import Sig
from qpu.v3d.single import known_42, known_71

__all__ = ["RULES", "scheduling_findings"]

RULES: Final[dict[str, str]] = {
    "uniform-unifa-adjacent": "4.2 before stepping 4.2.14: a uniform load next to a unifa load",
    "thrsw-slot": "an instruction in the slots of a thread switch that the scheduler does not move there",
    "tlb-early": "fragment shaders: a TLB access before the first thread switch, that is before the scoreboard wait",
    "tlb-msf": "fragment shaders: the sample mask is used after a TLB access",
    "tmu-pending": "more TMU results pending than a thread of two is known to have room for",
}
"""Rule identifiers and what they are about."""

PENDING: Final = 8  # result words a thread has with two threads per QPU (v3d reference 9.5)
_UNIF: Final = Sig.LDUNIF | Sig.LDUNIFRF
_UNIFA: Final = Sig.LDUNIFA | Sig.LDUNIFARF
_TLB: Final = Sig.LDTLB | Sig.LDTLBU
_WATCHED: Final = _UNIF | _UNIFA | _TLB | Sig.THRSW | Sig.LDTMU


def scheduling_findings(isa: Isa, words: Sequence[int]) -> list[Finding]:
    """Warnings of one walk in order. Words that are no instructions are passed over."""
    know = known_42 if isa is Isa.V3D42 else known_71
    signals = [0 if s is None else int(s) for s in SIGNALS[isa]]
    watched = [bool(s & _WATCHED) for s in signals]
    found: list[Finding] = []

    def warn(rule: str, index: int, message: str, other: int | None = None) -> None:
        distance = None if other is None else index - other
        found.append(Finding(rule, Severity.WARNING, index, message, other, distance))

    stream = -2  # last instruction that loads a uniform or unifa word
    stream_kind = 0
    switch = -9
    switched = False
    tlb: int | None = None
    pending, data, told = 0, False, False
    for i, word in enumerate(words):
        in_slot = switch < i <= switch + 2
        magic = word >> 44 & 3
        if not 0 <= word < 1 << 64 or not (in_slot or magic or watched[word >> 53 & 31]) or word >> 58 == 0:
            continue
        destinations = ({word >> 32 & 63} if magic & 1 else set()) | ({word >> 38 & 63} if magic & 2 else set())
        sig = signals[word >> 53 & 31]
        if destinations <= {6} and not (in_slot or tlb is not None) and not sig & _WATCHED:
            continue
        try:
            events = know(word).effects
        except (DecodeError, ValueError):
            continue
        if isa is Isa.V3D42 and sig & (_UNIF | _UNIFA):
            kind = 1 if sig & _UNIF else 2
            if stream == i - 1 and stream_kind != kind:
                warn(
                    "uniform-unifa-adjacent",
                    i,
                    "uniform and unifa loads in adjacent instructions; steppings before 4.2.14 get them wrong",
                    i - 1,
                )
            stream, stream_kind = i, kind
        if in_slot:
            names = _unmovable(isa, events.writes, events.events, destinations, sig)
            if names:
                warn("thrsw-slot", i, f"{', '.join(names)} in a delay slot of a thread switch", switch)
        if destinations & {7, 8} or sig & _TLB:
            if not switched:
                warn("tlb-early", i, "a TLB access before any thread switch has waited for the scoreboard")
            tlb = i if tlb is None else tlb
        elif tlb is not None and (events.events & {"setmsf", "msf_branch"} or "msf" in events.reads):
            warn("tlb-msf", i, "the sample mask is used or set after a TLB access", tlb)
        if sig & Sig.LDTMU:
            pending = max(0, pending - 1)
        if "tmu_data" in events.events:
            data = True
        if "tmua_write" in events.events:
            # How many words come back depends on the configuration: at least one.
            pending += not data
            data = False
            if pending > PENDING and not told:
                told = True
                warn("tmu-pending", i, f"at least {pending} TMU results are pending; {PENDING} are known to fit")
        if sig & Sig.THRSW and i != switch + 1:
            switch, switched = i, True
    return found


def _unmovable(isa: Isa, writes: frozenset[str], events: frozenset[str], destinations: set[int], sig: int) -> list[str]:
    names = []
    if destinations & {7, 8} or sig & _TLB:
        names.append("a TLB access")
    if events & {"tmu_write", "tmua_write", "tmu_data"} or sig & Sig.WRTMUC:
        names.append("a TMU write")
    if sig & Sig.LDTMU or "tmuwt" in events:
        names.append("a wait for the TMU")
    if isa is Isa.V3D42 and any(f"r{n}" in writes for n in range(6)):
        names.append("an accumulator write")
    if "rtop" in writes:
        names.append("multop")
    if "flags_a" in writes or "flags_b" in writes:
        names.append("a flag write")
    if destinations & {16, 17, 18}:
        names.append("a barrier")
    return names
