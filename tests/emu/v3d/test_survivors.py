"""Tests of small mistakes in the compiled engine that other tests do not find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu import v3d
from qpu.core.isa import Isa

BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
LANE = np.arange(16, dtype=np.uint32)
LOST = 0xACC0DEAD  # accumulators after another thread of the QPU ran
ENGINES = ["reference", "compiled"]


def run(board: str, engine: str, program: Any, uniforms: list[Any], shape: v3d.Dispatch | None = None) -> None:
    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    gpu = uniforms[0]
    gpu.run(qpu.assemble(program, isa=gpu.isa), uniforms[1:], shape or v3d.Dispatch())
    assert gpu.stats is not None and gpu.stats.engine == engine, gpu.stats and gpu.stats.fallbacks


def move(q: Any, dst: Any, src: Any, **more: Any) -> None:
    q.or_(dst, src, src, **more)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("store_first", [False, True], ids=["no store before", "store before"])
@pytest.mark.parametrize("batches", [8, 16])
def test_accumulators_are_lost_where_threads_of_a_qpu_take_turns(engine: str, store_first: bool, batches: int) -> None:
    """Two switches in a row without the host in between; 8 threads have a QPU each, and keep theirs."""

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[10]))
        q.tidx(r[11])
        q.eidx(r[12])
        q.shl(r[13], r[11], 8)
        q.shl(r[14], r[12], 2)
        q.add(r[10], r[10], r[13])
        q.add(r[10], r[10], r[14])
        q.add(r[15], r[12], 1)
        if store_first:
            move(q, q.tmud, r[15])
            move(q, q.tmua, r[10])
        for k, acc in enumerate((q.r0, q.r3)):
            q.add(acc, r[12], k + 1)
            q.nop(sig=q.thrsw)
            q.nop()
            q.nop()
            move(q, r[16 + k], acc)
        for k in (0, 1):
            move(q, r[13], 1)
            q.shl(r[13], r[13], 6 + k)
            q.add(r[14], r[10], r[13])
            move(q, q.tmud, r[16 + k])
            move(q, q.tmua, r[14])
        q.tmuwt(q.null)
        q.end()

    with qpu.open_device("pi4", engine=engine) as gpu:
        out = gpu.zeros(32 * 64, np.uint32)
        run("pi4", engine, program, [gpu, out], v3d.Dispatch(workgroups=batches))
        rows = out.numpy().reshape(32, 4, 16)
    used = [t for t in range(32) if rows[t, 1].any()]
    assert len(used) == batches
    for t in used:
        for k in (0, 1):
            want = np.full(16, LOST, np.uint32) if batches == 16 else LANE + k + 1
            np.testing.assert_array_equal(rows[t, 1 + k], want)


def store_then_read(isa: Isa, engine: str, components: int, stride: int, start: int) -> tuple[np.ndarray, np.ndarray]:
    """A store of lanes `stride` bytes apart; unifa then reads the first word of a page.

    start: where lane 0 stores, counted from that page. Returns what unifa read, and 64 words around the start of the
    page. The page held 77 in every word.
    """

    def program(q: Any) -> None:
        r = q.rf
        for n in (10, 11, 15, 16):  # where lane 0 stores, the page, the stride, the result
            q.nop(sig=q.ldunifrf(r[n]))
        q.eidx(r[12])
        q.nop().smul24(r[13], r[12], r[15])
        q.add(r[10], r[10], r[13])
        for _ in range(components):
            move(q, q.tmud, r[12])
        move(q, q.tmuau, r[10])
        q.tmuwt(q.null)
        move(q, q.unifa, r[11])
        for _ in range(3):
            q.nop()
        q.nop(sig=q.ldunifarf(r[14]))
        q.shl(r[13], r[12], 2)
        q.add(r[16], r[16], r[13])
        move(q, q.tmud, r[14])
        move(q, q.tmua, r[16])
        q.tmuwt(q.null)
        q.end()

    with qpu.open_device(BOARDS[isa], engine=engine) as gpu:
        big = gpu.array(np.full(4096, 77, np.uint32))
        out = gpu.zeros(16, np.uint32)
        page = (big.address + 8191) & ~4095
        config = 0xFFFFFF00 | {1: 0xFF, 2: 0xFA, 4: 0xFC}[components]
        run(BOARDS[isa], engine, program, [gpu, page + start, page, stride & 0xFFFFFF, out, config])
        at = (page - big.address) // 4
        return out.numpy(), big.numpy()[at - 32 : at + 32]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("isa", list(BOARDS))
@pytest.mark.parametrize("components", [1, 2, 4])
@pytest.mark.parametrize("part", [2, 4])
def test_a_stream_sees_the_second_page_of_a_store_as_it_was(isa: Isa, engine: str, components: int, part: int) -> None:
    """Consecutive lanes; half or a quarter of the bytes go to the second page."""
    size = 64 * components
    read, around = store_then_read(isa, engine, components, 4 * components, size // part - size)
    np.testing.assert_array_equal(read, 77)
    assert (around[30:34] != 77).all()  # the store itself took place


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_sees_the_page_of_a_last_component_as_it_was(engine: str) -> None:
    """7.1: of lanes apart from one another only the first lane's last two words go to the second page."""
    read, around = store_then_read(Isa.V3D71, engine, 4, -64, -8)
    np.testing.assert_array_equal(read, 77)
    assert (around[30:34] == 0).all() and around[34] == 77


def test_the_key_of_a_translation_names_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each property of the program and of the host, `plain` among them, changes the identity by itself."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    from qpu.emu.engine import native
    from qpu.emu.engine.host_cpu import Host
    from qpu.emu.v3d import compiled_programs as programs

    seen: list[bytes] = []

    def build(identity: bytes, make: Any, **more: Any) -> Any:
        seen.append(identity)
        raise programs.Untranslatable("only the identity is wanted")

    monkeypatch.setattr(native, "build", build)
    host = {"cpu": "x86-64", "features": "", "avx512": False, "plain": False}
    kind = {"isa": Isa.V3D42, "single_segment": False, "strict": True, "registers": 64, "host": Host(**host)}
    kinds = [kind, {**kind, "isa": Isa.V3D71}, {**kind, "single_segment": True}, {**kind, "strict": False}]
    kinds.append({**kind, "registers": 32})
    for name, value in (("cpu", "x86-64-v3"), ("features", "+avx"), ("avx512", True), ("plain", True)):
        kinds.append({**kind, "host": Host(**{**host, name: value})})
    end = qpu.assemble(lambda q: q.end(), isa=Isa.V3D42).code
    for n, one in enumerate([*kinds, kind]):
        words = [*end, *end[:1]] if n == len(kinds) else end
        programs.Program(programs._Kind(**one), lambda i, w=words: int(w[i]) if i < len(w) else None)
    assert len(seen) == len(set(seen)) == len(kinds) + 1
