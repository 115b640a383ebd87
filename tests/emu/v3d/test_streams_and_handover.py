"""Tests of uniform streams of the compiled engine across first stores, and of handover to the reference engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa

BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
ENGINES = ["reference", "compiled"]
PAGE = 4096


def move(q: Any, dst: Any, src: Any, **more: Any) -> None:
    q.or_(dst, src, src, **more)


def three_nops(q: Any) -> None:
    for _ in range(3):
        q.nop()


def stream(q: Any, page: Any, dst: Any) -> None:
    """Read the first word of a page through the uniform stream of `unifa`."""
    move(q, q.unifa, page)
    three_nops(q)
    q.nop(sig=q.ldunifarf(dst))


def store_lanes(q: Any, where: Any, value: Any) -> None:
    """A word in each lane; uses rf30 and rf31."""
    q.eidx(q.rf[30])
    q.shl(q.rf[30], q.rf[30], 2)
    q.add(q.rf[31], where, q.rf[30])
    move(q, q.tmud, value)
    move(q, q.tmua, q.rf[31])
    q.tmuwt(q.null)


def launch(isa: Isa, engine: str, program: Any, uniforms: Any, *, strict: bool = True) -> tuple[Any, Any, qpu.RunStats]:
    """Run with 16 KiB that hold 77; uniforms: made of a page in them and of 64 words of output.

    Returns: that page, the output, statistics.
    """
    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    with qpu.open_device(BOARDS[isa], engine=engine, strict=strict) as gpu:
        big = gpu.array(np.full(4 * PAGE // 4, 77, np.uint32))
        out = gpu.zeros(64, np.uint32)
        page = (big.address + 2 * PAGE - 1) & -PAGE
        done = gpu.run(qpu.assemble(program, isa=isa, check=False), uniforms(page, out))
        assert done.stats is not None
        at = (page - big.address) // 4
        return big.numpy()[at : at + PAGE // 4], out.numpy(), done.stats


# Where the last lane writes, counted from the page, and what it changes there: within the page; up to it and beyond,
# so that only the last bytes of the last lane reach it (7.1: on 4.2 lanes are aligned).
STORES = {
    "inside": (1, 0, 4),
    "its last two words": (4, -15 * 16 - 8, 16),
    "its last word": (2, -15 * 8 - 4, 8),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("isa", "store"), [(isa, store) for isa in BOARDS for store in STORES if isa is Isa.V3D71 or store == "inside"]
)
def test_a_stream_that_has_read_a_page_sees_it_as_it_was(isa: Isa, engine: str, store: str) -> None:
    """Translated code then holds a pointer into the page, and the host does the first store to it."""
    components, start, apart = STORES[store]

    def program(q: Any) -> None:
        r = q.rf
        for n in (10, 11, 12, 15):  # page, where lane 0 stores, output, bytes between lanes
            q.nop(sig=q.ldunifrf(r[n]))
        stream(q, r[10], r[20])
        q.eidx(r[13])
        q.nop().smul24(r[14], r[13], r[15])
        q.add(r[14], r[11], r[14])
        for _ in range(components):
            move(q, q.tmud, r[13])
        move(q, q.tmuau, r[14])  # takes its configuration from the uniforms
        q.tmuwt(q.null)
        stream(q, r[10], r[21])
        for n in (20, 21):
            store_lanes(q, r[12], r[n])
            q.sub(r[12], r[12], -16)
            q.sub(r[12], r[12], -16)
            q.sub(r[12], r[12], -16)
            q.sub(r[12], r[12], -16)
        q.end()

    config = 0xFFFFFF00 | {1: 0xFF, 2: 0xFA, 4: 0xFC}[components]
    page, out, stats = launch(isa, engine, program, lambda p, o: [p, p + start, o, apart, config])
    np.testing.assert_array_equal(out[:32], 77)
    assert (page[:2] != 77).any()  # the store itself took place
    assert stats.engine == engine


def breaking(q: Any) -> None:
    """Return from a subroutine to an instruction that breaks a rule: translated code of a lenient run cannot."""
    q.b("sub", link=True)
    three_nops(q)
    q.eidx(q.rf[25]).mov(q.rf[25], q.rf[26])


def sub(q: Any) -> None:
    q.label("sub")
    q.b(q.lri)
    three_nops(q)


@pytest.mark.filterwarnings("ignore::qpu.errors.EmuWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("isa", list(BOARDS))
def test_streams_see_memory_as_it_was_after_a_handover(isa: Isa, engine: str) -> None:
    def program(q: Any) -> None:
        r = q.rf
        for n in (10, 12):
            q.nop(sig=q.ldunifrf(r[n]))
        stream(q, r[10], r[20])
        breaking(q)
        q.eidx(r[13])
        store_lanes(q, r[10], r[13])
        stream(q, r[10], r[21])
        store_lanes(q, r[12], r[21])
        q.end()
        sub(q)

    page, out, stats = launch(isa, engine, program, lambda p, o: [p, o], strict=False)
    np.testing.assert_array_equal(out[:16], 77)
    np.testing.assert_array_equal(page[:16], np.arange(16))
    assert engine == "reference" or any("same-destination" in reason for reason in stats.fallbacks), stats.fallbacks


@pytest.mark.filterwarnings("ignore::qpu.errors.EmuWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("before", [0, 38, 39, 40, 41, 42])
def test_results_of_the_tmu_go_over_in_their_order(isa: Isa, engine: str, before: int) -> None:
    """The queue of translated code is a ring of 42 places; `before` results went through it."""

    def program(q: Any) -> None:
        r = q.rf
        for n in (10, 12):
            q.nop(sig=q.ldunifrf(r[n]))
        q.eidx(r[13])
        q.shl(r[13], r[13], 2)
        q.add(r[14], r[12], r[13])
        for _ in range(before):
            move(q, q.tmua, r[14])
            q.nop(sig=q.ldtmu(r[20]))
        for _ in range(4):
            q.nop(sig=q.ldunifrf(r[15]))
            q.add(q.tmua, r[15], r[13])
        breaking(q)
        for k in range(4):
            q.nop(sig=q.ldtmu(r[20 + k]))
        for k in range(4):
            q.nop(sig=q.ldunifrf(r[15]))
            store_lanes(q, r[15], r[20 + k])
        q.end()
        sub(q)

    values = [3, 5, 7, 9]

    def uniforms(page: int, out: Any) -> list[Any]:
        return [page, out, *(out.address + 64 * k for k in range(4)), *(page + 64 * k for k in range(4))]

    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    with qpu.open_device(BOARDS[isa], engine=engine, strict=False) as gpu:
        source = gpu.array(np.repeat(np.array(values, np.uint32), 16))
        target = gpu.zeros(64, np.uint32)
        done = gpu.run(qpu.assemble(program, isa=isa, check=False), uniforms(target.address, source))
        np.testing.assert_array_equal(target.numpy().reshape(4, 16), np.repeat(values, 16).reshape(4, 16))
        assert done.stats is not None
        assert engine == "reference" or any("same-destination" in reason for reason in done.stats.fallbacks)
