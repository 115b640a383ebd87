"""Tests of exact bounds on emulated boards: a buffer of 32 bytes has 32 bytes, a list of 3 uniforms has 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.emu.engine.memory import ID_SHIFT, PAGE, Memory

ENGINES = pytest.mark.parametrize("engine", ["reference", "compiled"])


def copy16(q: Any) -> None:
    """y[lane] = x[lane] for 16 lanes; uniforms: x, y."""
    if q.isa is Isa.VC4:
        q.shl(q.r0, q.element_number, 2)
        q.add(q.tmu0_s, q.uniform, q.r0)
        q.mov(q.ra[0], q.uniform)
        q.nop(sig=q.ldtmu0)
        q.setup_vpm_write()
        q.mov(q.vpm, q.r4)
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
    else:
        q.nop(sig=q.ldunifrf(q.rf[11]))
        q.nop(sig=q.ldunifrf(q.rf[12]))
        q.eidx(q.rf[10])
        q.shl(q.rf[10], q.rf[10], 2)
        q.add(q.tmua, q.rf[11], q.rf[10], sig=q.thrsw)
        q.nop()
        q.nop()
        q.nop(sig=q.ldtmu(q.rf[13]))
        q.or_(q.tmud, q.rf[13], q.rf[13])
        q.add(q.tmua, q.rf[12], q.rf[10])
        q.tmuwt(q.null)
    q.end()


# board, elements of x and y, engine, words of the message (None: no fault). Each row is on one board only, in turn.
CASES: list[tuple[str, int, int, str, str | None]] = [
    ("pi3", 16, 16, "reference", None),
    ("pi4", 16, 16, "compiled", None),
    ("pi5", 1040, 16, "compiled", None),
    ("pi3", 15, 16, "reference", r"uint32\[15\]"),
    ("pi3", 15, 16, "compiled", r"uint32\[15\]"),
    ("pi3", 16, 8, "reference", r"uint32\[8\]"),
    ("pi3", 16, 8, "compiled", r"uint32\[8\]"),
    ("pi4", 15, 16, "reference", r"uint32\[15\].*1 byte past its end"),
    ("pi4", 15, 16, "compiled", r"uint32\[15\].*1 byte past its end"),
    ("pi4", 16, 0, "compiled", r"uint32\[0\]|uint32\[16\]"),
    ("pi5", 16, 8, "reference", r"uint32\[8\].*1 byte past its end"),
    ("pi5", 16, 8, "compiled", r"uint32\[8\].*1 byte past its end"),
]


@pytest.mark.parametrize(("board", "nx", "ny", "engine", "words"), CASES)
def test_buffers_end_where_their_elements_end(board: str, nx: int, ny: int, engine: str, words: str | None) -> None:
    with qpu.open_device(board, engine=engine) as gpu:
        x, y = gpu.array(np.arange(nx, dtype=np.uint32)), gpu.empty(ny, np.uint32)
        program = qpu.assemble(copy16, isa=gpu.isa)
        if words is None:
            gpu.run(program, [x.view(x.nbytes - 64), y])
            assert (y.numpy() == x.numpy()[-16:]).all()
            return
        with pytest.raises(qpu.EmuFault, match=words) as caught:
            gpu.run(program, [x, y])
        assert caught.value.rule == "out-of-bounds"


def test_translated_code_has_the_same_bounds() -> None:
    """Programs of VideoCore IV are interpreted first; what runs often is translated."""
    with qpu.open_device("pi3", engine="compiled") as gpu:
        x, y, program = gpu.zeros(1039, np.uint32), gpu.zeros(16, np.uint32), qpu.assemble(copy16, isa=gpu.isa)
        for _ in range(20):  # more than `compiled_programs.WARM`
            gpu.run(program, [x.view(4 * 1023), y])  # over two pages, to the last element
        for start in (1024, 1030, 1039):
            with pytest.raises(qpu.EmuFault, match=r"uint32\[1039\]"):
                gpu.run(program, [x.view(4 * start), y])


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_memory_of_the_launch_is_not_data(board: str) -> None:
    """Code and uniforms belong to the device: programs cannot load them."""
    with qpu.open_device(board) as gpu:
        program = qpu.assemble(copy16, isa=gpu.isa)
        code = gpu.driver.alloc(4096)
        gpu._pool.bounds.code(code.address)  # type: ignore[union-attr]  # emulated boards have bounds
        with pytest.raises(qpu.EmuFault, match="code of the launch"):
            gpu.run(program, [code.address, gpu.zeros(16)])
        code.close()


@ENGINES
@pytest.mark.parametrize(("board", "words"), [("pi3", 0), ("pi4", 1), ("pi5", 1)])
def test_uniforms_are_counted(board: str, words: int, engine: str) -> None:
    with qpu.open_device(board, engine=engine) as gpu:
        x = gpu.zeros(16)
        with pytest.raises(qpu.EmuFault, match=f"uniform {words + 1} of {words}") as caught:
            gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x][:words])
        assert caught.value.rule == "uniforms-end" and caught.value.place.loc is not None


@ENGINES
@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_streams_in_buffers_end_with_them(board: str, engine: str) -> None:
    with qpu.open_device(board, engine=engine) as gpu:
        x, y, program = gpu.zeros(16), gpu.zeros(16), qpu.assemble(copy16, isa=gpu.isa)
        gpu.run(program, gpu.array(np.array([x.address, y.address], np.uint32)))
        with pytest.raises(qpu.EmuFault, match=r"uint32\[1\]"):
            gpu.run(program, gpu.array(np.array([x.address], np.uint32)))


def test_lenient_devices_have_the_bounds_of_pages() -> None:
    with qpu.open_device("pi5", strict=False) as gpu:
        gpu.run(qpu.assemble(copy16, isa=gpu.isa), [gpu.zeros(8), gpu.zeros(8)])


def test_the_page_table_says_how_much_of_a_page_is_used() -> None:
    memory = Memory(1 << 20)
    region = memory.map(PAGE, 3 * PAGE, "r")
    memory.limit(PAGE, PAGE + 6, "x")
    assert memory.pages[:5].tolist() == [0, region.id << ID_SHIFT | PAGE, region.id << ID_SHIFT | 6, 0, 0]
    assert memory.legal(np.array([2 * PAGE, 2 * PAGE + 4], np.uint32)).tolist() == [True, False]
    assert memory.legal(np.array([2 * PAGE + 4], np.uint32), 2).all() and memory.owns(2 * PAGE - 2, 8)
    assert not memory.owns(2 * PAGE - 2, 9) and not memory.owns(3 * PAGE, 1)
    memory.place_streams(PAGE, [(2 * PAGE - 8, 8)])
    assert memory.fetched(2 * PAGE - 4) and not memory.fetched(2 * PAGE) and not memory.owns(2 * PAGE - 4, 4)
    assert memory.stream_before(2 * PAGE) == (2 * PAGE - 8, 2)
    memory.unmap(region)
    assert not memory.pages.any()
    memory._next = 1 << 19  # all numbers were given out once: those of unmapped regions are given out again
    assert memory.map(0, PAGE, "again").id == region.id
    with pytest.raises(ValueError, match="regions"):
        memory.map(PAGE, PAGE, "one more")
    memory.close()
