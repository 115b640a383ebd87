"""Tests of mistakes that were reported, in today's words: uniforms too few or too many, buffers too small, the classic
mistakes around the VPM, accumulators across a switch, rotations to registers that broadcast."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.runtime.takes import takes_at_most
from tests.debug.test_debugger import count, poly
from tests.test_bounds import copy16

BOARDS = ["pi3", "pi4", "pi5"]


def sums(q: Any) -> None:
    """y[lane] = or of n uniforms; uniforms: y, n, then n words."""
    if q.isa is Isa.VC4:
        q.mov(q.ra[0], q.uniform)
        q.mov(q.r0, q.uniform)
        q.ldi(q.r1, 0)
        with q.loop() as again:
            q.or_(q.r1, q.r1, q.uniform)  # here
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(again.start, cond="anynz")
        q.setup_vpm_write()
        q.mov(q.vpm, q.r1)
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()
        return
    r = q.rf
    q.nop(sig=q.ldunifrf(r[11]))
    q.nop(sig=q.ldunifrf(r[12]))
    q.eidx(r[10])
    q.shl(r[10], r[10], 2)
    q.add(r[11], r[11], r[10])
    q.sub(r[13], r[10], r[10])
    with q.loop() as again:
        q.nop(sig=q.ldunifrf(r[14]))  # here
        q.or_(r[13], r[13], r[14])
        q.sub(r[12], r[12], 1, push="pushz")
        q.b(again.start, cond="anyna")
    q.or_(q.tmud, r[13], r[13])
    q.or_(q.tmua, r[11], r[11])
    q.tmuwt(q.null)
    q.end()


@pytest.mark.parametrize("board", BOARDS)
def test_too_few_uniforms(board: str) -> None:
    """On both engines, whether a few are missing or whole pages of them."""
    for engine, n in (("reference", 3), ("auto", 2000)):
        with qpu.open_device(board, engine=engine) as gpu:
            y = gpu.zeros(16, np.uint32)
            gpu.run(qpu.assemble(sums, isa=gpu.isa), [y, 1, 6])
            assert (y.numpy() == 6).all()
            with pytest.raises(qpu.EmuFault, match="uniform 4 of 3") as caught:
                gpu.run(qpu.assemble(sums, isa=gpu.isa), [y, n, 1])
            assert caught.value.place.loc is not None and "# here" in caught.value.place.loc.source


@pytest.mark.parametrize("board", BOARDS)
def test_too_many_uniforms(board: str) -> None:
    """A warning at the caller's line, where the count is static; kernels never pass more than they take."""
    with qpu.open_device(board) as gpu:
        x, y = gpu.zeros(16, np.uint32), gpu.zeros(16, np.uint32)
        program = qpu.assemble(copy16, isa=gpu.isa)
        with pytest.warns(UserWarning, match="4 uniforms given, but the program takes at most 2") as caught:
            gpu.run(program, [x, y, 1, 2])
        assert caught[0].filename == __file__
        with pytest.warns(UserWarning, match="1 uniform given, but the program takes none"):
            gpu.submit(qpu.assemble(lambda q: q.end(), isa=gpu.isa), [1]).wait()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gpu.run(program, [x, y])
            gpu.run(qpu.assemble(sums, isa=gpu.isa), [y, 1, 6, 7, 8])  # a loop takes them: nobody knows
            poly(2.0, 3, gpu.zeros(20), gpu.zeros(20))
        assert takes_at_most(qpu.assemble(sums, isa=gpu.isa)) is None
        assert takes_at_most(qpu.assemble(count, isa=gpu.isa)) == 1  # its loop takes none


@pytest.mark.parametrize("board", BOARDS)
def test_a_buffer_for_half_of_the_lanes(board: str) -> None:
    for engine in ("reference", "auto"):
        with qpu.open_device(board, engine=engine) as gpu:
            x, y = gpu.zeros(16, np.uint32), gpu.zeros(8, np.uint32)
            with pytest.raises(qpu.EmuFault, match=r"uint32\[8\]") as caught:
                gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x, y])
            place = caught.value.place
            assert caught.value.rule == "out-of-bounds" and place.address == (y.address & 0x3FFFFFFF) + 32
            assert place.loc is not None and place.lane in (None, 8)


def _begin(q: Any) -> None:
    q.mov(q.ra[0], q.uniform)
    q.mov(q.ra[1], q.uniform)
    q.setup_vpm_write()


def reuse(q: Any) -> None:
    _begin(q)
    q.mov(q.vpm, q.element_number)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[1])
    q.setup_vpm_write()
    q.ldi(q.vpm, 99)  # here
    q.wait_dma_store()
    q.end()


def no_wait(q: Any) -> None:
    _begin(q)
    q.mov(q.vpm, q.element_number)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[1])
    q.end()  # here


def early(q: Any) -> None:
    _begin(q)
    q.setup_dma_load(nrows=1)
    q.start_dma_load(q.ra[0])
    q.setup_vpm_read(1)  # here
    q.nops(3)
    q.mov(q.r0, q.vpm)
    q.wait_dma_load()
    q.end()


def second(q: Any) -> None:
    _begin(q)
    q.mov(q.vpm, q.element_number)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[1])
    q.start_dma_store(q.ra[1])  # here
    q.wait_dma_store()
    q.end()


def shared(q: Any) -> None:
    _begin(q)
    q.mov(q.vpm, q.ra[0])  # here
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[1])
    q.wait_dma_store()
    q.end()


@pytest.mark.parametrize(
    ("build", "rule"),
    [(reuse, "dma-race"), (no_wait, "dma-end"), (early, "dma-race"), (second, "dma-twice"), (shared, "race")],
)
def test_mistakes_around_the_vpm(build: Any, rule: str) -> None:
    """Right by chance on an emulated board, found by the sanitizer at their line."""
    with qpu.open_device("pi3") as gpu:
        x, y = gpu.array(np.arange(16, dtype=np.uint32)), gpu.zeros((2, 16), np.uint32)
        program = qpu.assemble(build, isa=gpu.isa, check=False)
        rows: Any = [[7, y[0]], [8, y[1]]] if build is shared else [x, y]
        gpu.run(program, rows)
        with qpu.sanitize(), pytest.raises(qpu.EmuFault) as caught:
            gpu.run(program, rows)
        assert (caught.value.rule, caught.value.other is not None) == (rule, True), caught.value
        places = [place.loc.source for place in (caught.value.place, caught.value.other) if place and place.loc]
        assert any("# here" in source for source in places) or build is shared, caught.value


@pytest.mark.parametrize("register", ["rep", "quad"])
def test_a_rotation_to_a_register_that_broadcasts(register: str) -> None:
    """It does not broadcast: the checker says so, and both engines agree with it."""

    def rotated(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[11]))
        q.eidx(q.rf[10])
        q.shl(q.rf[12], q.rf[10], 2)
        q.add(q.rf[11], q.rf[11], q.rf[12])
        q.rot(getattr(q, register), q.rf[10], 3)  # here
        q.nop()
        q.mov(q.tmud, q.rf[0])
        q.mov(q.tmua, q.rf[11])
        q.tmuwt(q.null)
        q.end()

    program = qpu.assemble(rotated, isa="v3d71")
    (found,) = program.check()
    loc = program.loc(found.index or 0)
    assert found.rule == "lane-op-broadcast" and loc is not None and "# here" in loc.source
    for engine in ("reference", "auto"):
        with qpu.open_device("pi5", engine=engine) as gpu:
            y = gpu.zeros(16, np.uint32)
            gpu.run(program, [y])
            assert (y.numpy() == (np.arange(16) + 3) % 16).all()


@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_an_unaligned_address_on_videocore_iv_is_that_of_its_word(engine: str) -> None:
    """The references define it, and kernels that read bytes use it: no fault, no warning, not for the sanitizer."""
    with qpu.open_device("pi3", engine=engine) as gpu:
        x, y = gpu.array(np.arange(17, dtype=np.uint32)), gpu.zeros(16, np.uint32)
        program = qpu.assemble(copy16, isa=gpu.isa)
        with warnings.catch_warnings(), qpu.sanitize() if engine == "reference" else nullcontext():
            warnings.simplefilter("error")
            for shift in range(4):
                gpu.run(program, [x.address + shift, y])
                assert (y.numpy() == np.arange(16)).all()
