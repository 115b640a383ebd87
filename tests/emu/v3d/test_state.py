"""Tests of groups of threads that split and join without a change of any thread's result."""

from __future__ import annotations

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import quiet
from qpu.emu.v3d.prepare import prepare
from qpu.emu.v3d.reference import build
from qpu.emu.v3d.state import UNDEFINED, Group, each
from tests.emu.v3d.compare import N, Services, make_group, make_state
from tests.emu.v3d.test_alu import load, some


def state(g: Group) -> list[np.ndarray]:
    vectors = [*g.regs, g.a, g.a_hi, g.b, g.b_hi, g.msf, g.live, g.tidx, *g.data, *g.results]
    vectors.append(np.zeros(16, np.uint32) if g.rtop is None else g.rtop)
    wide = [np.broadcast_to(v, (g.n, 16)) for v in vectors]
    return [*wide, *(each(v, g.n) for v in (g.link, g.unif, g.unifa, g.config)), g.threads, g.supergroups]


def same(a: Group, b: Group) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(state(a), state(b), strict=True))


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_parts_compute_what_the_whole_computes(isa: Isa) -> None:
    rng = np.random.default_rng(7)
    for word, _ in some(load(42 if isa is Isa.V3D42 else 71), 2):
        s = make_state(rng)
        x = Services(isa, s.uniform, s.unifa)
        whole, p = make_group(s), prepare(isa, word)
        parts = [whole.take(np.array(rows)) for rows in ([0, 2], [1])]
        step = build(p)
        with quiet():
            for g in (whole, *parts):
                step(g, x)
        for g in (whole, *parts):
            g.flushed = g.count
        assert same(Group.join(parts), whole), hex(word)


def test_join_restores_thread_order_and_the_youngest_unifa_write() -> None:
    rng = np.random.default_rng(8)
    g = make_group(make_state(rng))
    g.unifa_at, g.count, g.flushed = 90, 100, 100
    late, early = g.take(np.array([1])), g.take(np.array([0, 2]))
    late.unifa_at = 98
    joined = Group.join([late, early])
    assert joined.threads.tolist() == list(range(N))
    assert joined.count - joined.unifa_at == 2
    joined.unifa_at = g.unifa_at
    assert same(joined, g)


def test_undefined_registers_differ() -> None:
    seen = {tuple(UNDEFINED[n].tolist()) for n in range(70)}
    assert len(seen) == 70
