"""Tests of run statistics."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

from qpu.core.isa import Isa
from qpu.emu.engine.machine import RunStats


def test_a_total_covers_every_field() -> None:
    runs = []
    for k in (1, 10):
        run = RunStats(Isa.V3D71, "compiled")
        for n, each in enumerate(fields(RunStats)):
            now = getattr(run, each.name)
            if isinstance(now, (int, float)):
                setattr(run, each.name, k * (n + 1))
            elif isinstance(now, Counter):
                now["why"] = k
            elif isinstance(now, dict):
                now.update({3: k, 10 + k: 1})
            elif isinstance(now, list):
                now.append(k)
        runs.append(run)
    whole = RunStats.total(runs)
    for n, each in enumerate(fields(RunStats)):
        value = getattr(whole, each.name)
        if isinstance(value, (int, float)):
            assert value == 11 * (n + 1), each.name
    assert whole.per_qpu == {3: 11, 11: 1, 20: 1}
    assert whole.fallbacks == {"why": 11}
    assert whole.faults == [1, 10] and whole.stopped == [1, 10]
    assert whole.isa is Isa.V3D71 and whole.engine == "compiled"
    assert runs[0].per_qpu == {3: 1, 11: 1} and runs[0].faults == [1]
