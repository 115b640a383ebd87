"""Tests of static bounds of DMA transfers: what is proven does not fault, what is refused does."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.debug.spans import Area, Span, dma_spans, judge, refuse
from qpu.emu.vc4.vpm_setup import LoadSetup, StoreSetup
from tests.debug import faults_vc4
from tests.lang import ten_kernels
from tests.test_bounds import copy16


def transfer(setup: StoreSetup | LoadSetup, step: int, offset: int, moved: bool) -> Any:
    """A program with one transfer. step: stride of a store, pitch of a load. moved: its address goes through registers
    and both ALUs."""

    def build(q: Any) -> None:
        q.nop()
        q.mov(q.ra[0], q.uniform)
        store = isinstance(setup, StoreSetup)
        target = q.vw_setup if store else q.vr_setup
        q.ldi(target, setup.word)
        q.ldi(q.r0, 0xC0000000 | step if store else 0x90000000 | step)
        q.mov(target, q.r0)
        q.ldi(q.r1, offset & 0xFFFFFFFF)
        if moved:
            q.mov(q.r2, q.ra[0])
            q.sub(q.r3, 0, q.r1)
            q.nop()
            q.sub(q.ra[1], q.r2, q.r3)
            q.nop()
            q.mov(q.vw_addr if store else q.vr_addr, q.ra[1])
        else:
            q.add(q.vw_addr if store else q.vr_addr, q.ra[0], q.r1)
        q.wait_dma_store() if store else q.wait_dma_load()
        q.end()

    return build


def test_verdicts_agree_with_execution() -> None:
    """Random sizes, pitches and offsets at the edges of a buffer: refused exactly where the emulated board faults."""
    rng, seen = random.Random(7), set()
    with qpu.open_device("pi3", engine="reference") as gpu:
        for n in range(40):
            size = rng.choice((64, 100, 256))
            x, other = gpu.zeros(size), gpu.zeros(4)
            if n % 2:
                units, depth = rng.randrange(1, 9), rng.randrange(1, 17)
                setup: Any = StoreSetup(4, 0, units, depth, False, True, 0, 0)
                step = 4 * rng.randrange(0, 20)
                length = (units - 1) * (4 * depth + step) + 4 * depth
            else:
                rows, columns, m = rng.randrange(1, 9), rng.randrange(1, 17), rng.choice((0, 3, 4))
                setup, step = LoadSetup(4, 0, m, columns, rows, 1, False, 0, 0), 4 * rng.randrange(16, 32)
                length = (rows - 1) * (8 << m if m else step) + 4 * columns
            offset = rng.choice((0, 4, -4, 4 * size - length, 4 * size - length + 4, -64))
            program = qpu.assemble(transfer(setup, step, offset, n % 3 == 0), isa=gpu.isa, check=False)
            (span,) = dma_spans(program)
            assert span == Span(span.index, bool(n % 2), 0, offset & 0xFFFFFFFF, length, "", True)
            word, why = judge(span, [x.address], [Area(b.address, b.nbytes, b.label) for b in (x, other)])
            try:
                gpu.run(program, [x])
                good = True
            except qpu.EmuFault as fault:
                assert fault.rule == "out-of-bounds", fault
                good = False
            assert word == ("proven" if good else "refused"), (why, setup, step, offset)
            seen.add(word)
            x.close()
            other.close()
    assert seen == {"proven", "refused"}


def test_what_depends_on_more_is_unknown() -> None:
    """Addresses from lanes, set-ups from uniforms, ways that meet, loops; what need not happen is never refused."""

    def program(q: Any) -> None:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.ra[1], q.uniform)
        q.setup_dma_store(nrows=1)
        q.mov(q.r0, q.element_number)
        q.add(q.vw_addr, q.ra[0], q.r0)  # a lane
        q.wait_dma_store()
        q.mov(q.null, q.ra[1], push="z")
        q.b("over", cond="allz")
        q.nops(3)
        q.mov(q.vw_addr, q.ra[0])  # on one of two ways
        q.wait_dma_store()
        q.label("over")
        q.mov(q.vw_setup, q.ra[1])
        q.nop()
        q.mov(q.vw_addr, q.ra[0])  # a set-up from a uniform
        q.wait_dma_store()
        q.end()

    made = qpu.assemble(program, isa="vc4", check=False)
    lane, way, setup = dma_spans(made)
    assert "uniform plus a constant" in lane.why and "set-up words" in setup.why and not way.why and not way.always
    area = [Area(0x1000, 32, "x")]
    assert [judge(s, [0x1000, 0], area).word for s in (lane, way, setup)] == ["unknown"] * 3
    assert "32 bytes past its end" in judge(way, [0x1000, 0], area).why
    assert judge(way, [0x1000, 0], [Area(0xC0001000, 64, "x")]).word == "proven"  # an alias of the bus
    refuse(made, [0x1000, 0], area)
    assert judge(way, [], area).word == "unknown"
    kernel = dma_spans(ten_kernels.saxpy.compile("vc4").program)
    assert kernel and all(s.why for s in kernel)
    assert dma_spans(ten_kernels.saxpy.compile("v3d42").program) == ()


def test_a_refused_launch_is_not_submitted() -> None:
    with qpu.open_device("pi3") as gpu:
        x, y = gpu.array(np.arange(16, dtype=np.uint32)), gpu.zeros(8, np.uint32)
        with pytest.raises(
            qpu.EmuFault, match=r"store of 64 bytes, 0 bytes into uint32\[8\]: 32 bytes past its end"
        ) as caught:
            gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x, y], rehearse=True)
        assert not gpu.port.runs  # type: ignore[attr-defined]
        loc = caught.value.place.loc
        assert loc is not None and "start_dma_store" in loc.source


def test_no_planted_fault_makes_it_wrong() -> None:
    """Every program of the planted faults gets spans; those whose transfers stay in their buffers are not refused."""
    area = [Area(0x1000, 256, "x"), Area(0x2000, 256, "y")]
    for fault in faults_vc4.FAULTS:
        program = qpu.assemble(fault.build, isa="vc4", check=False)
        words = {judge(s, [0x1000, 0x2000, 0], area).word for s in dma_spans(program)}
        assert fault.rule in ("out-of-bounds", "mem") or "refused" not in words, fault.name
