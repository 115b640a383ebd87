"""Accesses outside every buffer on a board that is not strict: both engines use the scratch page alike.

Only the first access costs time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.v3d.compiled import V3dCompiledMachine
from qpu.emu.v3d.services import DispatchServices
from tests.emu.v3d.rig import ISAS, Rig, move, word

LOOPS = 50
OUTSIDE = 0xF0000000


def crossing(q: Any) -> None:
    """Store and load where lanes 0..7 are inside a buffer and 8..15 outside all; store what was loaded elsewhere."""
    base, at, left, got, out = (q.rf[n] for n in range(10, 15))
    for register in (base, out, left):
        q.nop(sig=q.ldunif)
        move(q, register, word(q))
    q.eidx(at)
    q.shl(at, at, 2)
    q.add(at, at, base)
    q.eidx(got)
    q.add(out, out, 0)
    q.eidx(q.rf[15])
    q.shl(q.rf[15], q.rf[15], 2)
    q.add(out, out, q.rf[15])
    with q.loop() as again:
        q.add(q.tmud, got, 1)
        move(q, q.tmua, at)
        q.tmuwt(q.null)
        move(q, q.tmua, at)
        q.sub(left, left, 1, push="pushz")
        q.nop()
        q.nop(sig=q.ldtmu(got))
        q.b(again.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    move(q, q.tmud, got)
    move(q, q.tmua, out)
    q.tmuwt(q.null)
    q.end()


def outcome(isa: Isa, engine: str) -> tuple[list[int], list[int], list[str], dict[str, int], int, int]:
    rig = Rig(isa, strict=False)
    if engine == "compiled":
        rig.machine = V3dCompiledMachine(rig.profile, rig.memory, strict=False)
    page = rig.buffer(4096)
    out = rig.buffer(64)
    stats = rig.run(crossing, [page + 4096 - 32, out, LOOPS], check=False).stats
    counts = stats.tmu_requests, stats.tmu_read_bytes + stats.tmu_write_bytes
    return rig.u32(page + 4096 - 32, 8).tolist(), rig.u32(out, 16).tolist(), stats.faults, stats.fallbacks, *counts


@pytest.mark.parametrize("isa", ISAS)
def test_both_engines_use_the_scratch_page(isa: Isa) -> None:
    inside, read, faults, _, *counts = outcome(isa, "reference")
    assert inside == [lane + LOOPS for lane in range(8)]
    assert read == [lane + LOOPS for lane in range(16)]  # the scratch page keeps what was stored
    assert len(faults) == 2  # one for the instruction that stores, one for the one that loads
    for _ in range(2):  # the second run has no first translation
        again = outcome(isa, "compiled")
        assert (again[0], again[1], again[2], [*again[4:]]) == (inside, read, faults, counts)
        assert not again[3]


@pytest.mark.parametrize("isa", ISAS)
def test_the_host_performs_only_the_reported_requests(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    request = DispatchServices.request

    def counted(self: DispatchServices, *args: Any) -> None:
        calls.append(1)
        request(self, *args)

    monkeypatch.setattr(DispatchServices, "request", counted)
    outcome(isa, "compiled")
    assert 2 <= len(calls) <= 8  # of 101


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_is_reported(isa: Isa) -> None:
    """What was reported at one instruction says nothing about another."""

    def many(q: Any) -> None:
        q.nop(sig=q.ldunif)
        move(q, q.rf[20], word(q))
        for _ in range(5):
            move(q, q.tmua, q.rf[20])
            q.nop()
            q.nop(sig=q.ldtmu(q.rf[21]))
        q.end()

    found = []
    for engine in ("reference", "compiled"):
        rig = Rig(isa, strict=False)
        if engine == "compiled":
            rig.machine = V3dCompiledMachine(rig.profile, rig.memory, strict=False)
        found.append(rig.run(many, [OUTSIDE]).stats.faults)
    assert len(found[0]) == 5
    assert found[0] == found[1]
    assert np.all(["out-of-bounds" in text for text in found[0]])
