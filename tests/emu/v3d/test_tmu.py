"""Tests of general memory access of the TMU: every type, address rule, atomic, mask and configuration route."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.emu.v3d.tmu import Action, component_address, decode_request
from qpu.errors import EmuFault
from tests.emu.v3d.rig import ISAS, Rig, move, payload

LANE = np.arange(16)
M32 = 0xFFFFFFFF
both = pytest.mark.parametrize("isa", ISAS)
PIXEL = 0x80
TYPES = {"int8": 0, "int16": 1, "vec2": 2, "vec3": 3, "vec4": 4, "uint8": 5, "uint16": 6, "uint32": 7}


def config(op: int, type_: str, pixel: int = PIXEL) -> int:
    return 0xFFFFFF00 | pixel | op << 3 | TYPES[type_]


def load_lanes(rig: Rig, address: np.ndarray, words: int, byte: int, **options: Any) -> np.ndarray:
    """Lanes load from per-lane addresses; returns (words, 16)."""
    at = rig.buffer(address.astype(np.uint32))
    out = rig.buffer(64 * words)

    def program(q: Any) -> None:
        r = q.rf
        for k in (1, 2):
            q.nop(sig=q.ldunifrf(r[k]))
        q.eidx(r[4])
        q.shl(r[4], r[4], 2)
        q.add(q.tmua, r[4], r[1])
        q.nop(sig=q.ldtmu(r[5]))
        q.nop(sig=q.wrtmuc)
        move(q, q.tmua, r[5])
        for k in range(words):
            q.nop(sig=q.ldtmu(r[10 + k]))
        q.add(r[4], r[4], r[2])
        move(q, r[6], 1)
        q.shl(r[6], r[6], 6)
        for k in range(words):
            move(q, q.tmud, r[10 + k])
            move(q, q.tmua, r[4])
            q.add(r[4], r[4], r[6])
        q.tmuwt(q.null)
        q.end()

    rig.run(program, [at, out, byte], **options)
    return rig.u32(out, 16 * words).reshape(words, 16)


def store_lanes(rig: Rig, address: np.ndarray, data: np.ndarray, byte: int) -> None:
    """Lanes store data (words, 16) to per-lane addresses in one request."""
    at, src = rig.buffer(address.astype(np.uint32)), rig.buffer(data.astype(np.uint32))
    words = len(data)

    def program(q: Any) -> None:
        r = q.rf
        for k in (1, 2):
            q.nop(sig=q.ldunifrf(r[k]))
        q.eidx(r[4])
        q.shl(r[4], r[4], 2)
        q.add(q.tmua, r[4], r[1])
        q.nop(sig=q.ldtmu(r[5]))
        q.add(r[4], r[4], r[2])
        move(q, r[6], 1)
        q.shl(r[6], r[6], 6)
        for k in range(words):
            move(q, q.tmua, r[4])
            q.nop(sig=q.ldtmu(r[10 + k]))
            q.add(r[4], r[4], r[6])
        for k in range(words):
            move(q, q.tmud, r[10 + k])
        move(q, q.tmuau, r[5])
        q.tmuwt(q.null)
        q.end()

    rig.run(program, [at, src, byte])


def vector_address(isa: Isa, a: np.ndarray, k: int) -> np.ndarray:
    if isa is Isa.V3D42:
        return (a // 16) * 16 + (a + 4 * k) % 16
    return a + 4 * k


@both
@pytest.mark.parametrize("words", [2, 3, 4])
def test_vectors_load_by_the_address_rule_of_the_chip(isa: Isa, words: int) -> None:
    rig = Rig(isa)
    data = np.arange(512, dtype=np.uint32) * 3 + 1
    src = rig.buffer(data)
    offset = (LANE * 36 + 8) % 1024 // 4 * 4
    got = load_lanes(rig, src + offset, words, config(15, f"vec{words}"))
    for k in range(words):
        assert (got[k] == data[vector_address(isa, src + offset, k) - src >> 2]).all()


@both
@pytest.mark.parametrize("words", [2, 3, 4])
def test_vectors_store_by_the_address_rule_of_the_chip(isa: Isa, words: int) -> None:
    rig = Rig(isa)
    dst = rig.buffer(2048)
    offset = LANE * 32 + 12
    data = np.arange(16 * words).reshape(words, 16) + 100
    store_lanes(rig, dst + offset, data, config(15, f"vec{words}"))
    want = np.zeros(512, np.uint32)
    for k in range(words):
        want[vector_address(isa, dst + offset, k) - dst >> 2] = data[k]
    assert (rig.u32(dst, 512) == want).all()


@both
@pytest.mark.parametrize("type_", ["int8", "uint8", "int16", "uint16"])
def test_small_types(isa: Isa, type_: str) -> None:
    rig = Rig(isa)
    rng = np.random.default_rng(1)
    size = int(type_.removeprefix("u").removeprefix("int")) // 8
    raw = rng.integers(0, 256, 256).astype(np.uint8)
    src = rig.buffer(raw)
    offset = (LANE * 7 % 64) * size
    got = load_lanes(rig, src + offset, 1, config(15, type_))[0]
    typed = raw.view(np.dtype(type_))[offset // size]
    assert (got == typed.astype(np.int64).astype(np.uint32)).all()

    dst = rig.buffer(np.full(256, 0xEE, np.uint8))
    data = rng.integers(0, 1 << 32, (1, 16), dtype=np.uint32)
    store_lanes(rig, dst + LANE * 2 * size, data, config(15, type_))
    want = np.full(256, 0xEE, np.uint8)
    unsigned = want.view(f"uint{8 * size}")
    unsigned[LANE * 2] = data[0].astype(unsigned.dtype)
    assert (np.asarray(rig.memory.view(dst, 256)) == want).all()


def s32(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


ATOMICS = {
    "add": (0, lambda m, a, b: m + a),
    "sub": (1, lambda m, a, b: m - a),
    "xchg": (2, lambda m, a, b: a),
    "cmpxchg": (3, lambda m, a, b: b if m == a else m),
    "umin": (4, lambda m, a, b: min(m, a)),
    "umax": (5, lambda m, a, b: max(m, a)),
    "smin": (6, lambda m, a, b: min(s32(m), s32(a))),
    "smax": (7, lambda m, a, b: max(s32(m), s32(a))),
    "and": (8, lambda m, a, b: m & a),
    "or": (9, lambda m, a, b: m | a),
    "xor": (10, lambda m, a, b: m ^ a),
    "inc": (8, lambda m, a, b: m + 1),
    "dec": (9, lambda m, a, b: m - 1),
    "not": (10, lambda m, a, b: ~m),
}


@both
@pytest.mark.parametrize("name", ATOMICS)
@pytest.mark.parametrize("spread", [1, 0])
def test_atomics(isa: Isa, name: str, spread: int) -> None:
    """Each lane its own word, or all lanes one word; the old value comes back."""
    rig = Rig(isa)
    rng = np.random.default_rng(2)
    edge = np.array([0, 1, M32, 0x80000000, 0x7FFFFFFF, 5, 6, 7], np.uint32)
    memory = np.concatenate([edge, rng.integers(0, 1 << 32, 8, dtype=np.uint32)])
    a = rng.permutation(memory)
    a[::3] = memory[::3]
    b = rng.integers(0, 1 << 32, 16, dtype=np.uint32)
    cells, at_a, at_b, out = rig.buffer(memory), rig.buffer(a), rig.buffer(b), rig.buffer(64)
    op, f = ATOMICS[name]
    data = 0 if name in ("inc", "dec", "not") else 2 if name == "cmpxchg" else 1
    byte = config(op, "vec2" if name == "cmpxchg" and spread else "uint32")

    def program(q: Any) -> None:
        r = q.rf
        for k in (1, 2, 3, 5):
            q.nop(sig=q.ldunifrf(r[k]))
        q.eidx(r[4])
        q.shl(r[4], r[4], 2)
        q.add(q.tmua, r[4], r[2])
        q.nop(sig=q.ldtmu(r[10]))
        q.add(q.tmua, r[4], r[3])
        q.nop(sig=q.ldtmu(r[11]))
        for k in range(data):
            # hardware tests use other data registers too
            move(q, (q.tmudref, q.tmuoff)[k] if spread else q.tmud, r[10 + k])
        if spread:
            q.add(r[6], r[4], r[1])
        else:
            move(q, r[6], r[1])
        move(q, q.tmuau, r[6])
        q.nop(sig=q.ldtmu(r[12]))
        q.add(r[4], r[4], r[5])
        move(q, q.tmud, r[12])
        move(q, q.tmua, r[4])
        q.end()

    rig.run(program, [cells, at_a, at_b, out, byte])
    cell = [int(x) for x in memory]
    old = []
    for lane in range(16):
        where = lane * spread
        old.append(cell[where])
        cell[where] = f(cell[where], int(a[lane]), int(b[lane])) & M32
    assert rig.u32(cells, 16).tolist() == cell
    assert rig.u32(out, 16).tolist() == old


@both
def test_configuration_shifts_through_four_requests(isa: Isa) -> None:
    """One word holds four bytes, first request in the low one; afterwards bytes are 0xff."""
    rig = Rig(isa)
    src, dst = rig.buffer(np.arange(64, dtype=np.uint32) + 7), rig.buffer(256 * 4)

    def program(q: Any) -> None:
        r = q.rf
        for k in (1, 2, 3):
            q.nop(sig=q.ldunifrf(r[k]))
        q.eidx(r[4])
        q.shl(r[5], r[4], 4)
        q.add(r[6], r[5], r[1])
        q.add(r[7], r[5], r[2])
        move(q, q.tmuc, r[3])
        move(q, q.tmua, r[6])  # vec2
        q.nop(sig=q.ldtmu(r[10]))
        q.nop(sig=q.ldtmu(r[11]))
        move(q, q.tmud, r[10])
        move(q, q.tmua, r[7])  # store of uint32
        move(q, q.tmua, r[6])  # uint8
        q.nop(sig=q.ldtmu(r[12]))
        q.add(r[7], r[7], 4)
        move(q, q.tmud, r[11])
        move(q, q.tmud, r[12])
        move(q, q.tmua, r[7])  # store of vec2
        q.add(r[7], r[7], 8)
        move(q, q.tmua, r[6])  # exhausted: uint32 again
        q.nop(sig=q.ldtmu(r[13]))
        move(q, q.tmud, r[13])
        move(q, q.tmua, r[7])
        q.end()

    word = 0xFA | 0xFF << 8 | 0xFD << 16 | 0xFA << 24
    rig.run(program, [src, dst, word])
    got = rig.u32(dst, 64).reshape(16, 4)
    data = (np.arange(64) + 7).reshape(16, 4)
    assert (got[:, 0] == data[:, 0]).all()
    assert (got[:, 3] == data[:, 0]).all()
    assert (got[:, 1] == data[:, 1]).all()
    assert (got[:, 2] == data[:, 0] & 255).all()


@both
def test_prefetch_and_cache_operations_return_nothing_and_never_fault(isa: Isa) -> None:
    rig = Rig(isa)
    src = rig.buffer(np.arange(16, dtype=np.uint32))

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.nop(sig=q.ldunifrf(r[2]))
        move(q, q.tmuc, r[2])
        q.sub(r[3], r[3], r[3])
        for _ in range(4):
            move(q, q.tmua, r[3])  # address 0 is in no buffer
        move(q, q.tmua, r[1])
        q.nop(sig=q.ldtmu(r[4]))
        q.end()

    run = rig.run(program, [src, 0x80 | 0x88 << 8 | 0x90 << 16 | 0xA0 << 24])
    assert run.stats.tmu_requests == 5
    assert run.stats.tmu_read_bytes == 64


@both
def test_conditional_requests_mask_lanes(isa: Isa) -> None:
    rig = Rig(isa)
    src, dst = rig.buffer(np.arange(16, dtype=np.uint32) + 50), rig.buffer(np.full(16, 9, np.uint32))

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.nop(sig=q.ldunifrf(r[2]))
        q.eidx(r[3])
        q.shl(r[4], r[3], 2)
        q.sub(q.null, r[3], 6, push="pushn")  # A: lane < 6
        move(q, r[5], -1)
        q.shl(r[5], r[5], 12)
        q.add(r[6], r[4], r[1])
        move(q, r[6], r[5], cond="ifna")  # an address outside of everything, in masked lanes
        move(q, q.tmua, r[6], cond="ifa")
        q.nop(sig=q.ldtmu(r[7]))
        q.add(r[8], r[4], r[2])
        move(q, r[8], r[5], cond="ifna")
        move(q, q.tmud, r[7])
        move(q, q.tmua, r[8], cond="ifa")
        q.end()

    run = rig.run(program, [src, dst])
    assert (rig.u32(dst, 16) == np.where(LANE < 6, LANE + 50, 9)).all()
    assert run.stats.tmu_read_bytes == 24
    assert run.stats.tmu_write_bytes == 24


@both
@pytest.mark.parametrize("pixel", [0, PIXEL])
def test_per_quad_requests_with_an_empty_mask_never_fault(isa: Isa, pixel: int) -> None:
    rig = Rig(isa)
    dst = rig.buffer(np.full(16, 9, np.uint32))

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.eidx(r[3])
        q.sub(r[5], r[3], r[3])
        q.sub(q.null, r[3], 9, push="pushz")
        move(q, r[5], r[1], cond="ifa")  # lane 9 alone has an address
        q.nop(sig=q.wrtmuc)
        move(q, q.tmua, r[5], cond="ifa")
        q.nop(sig=q.ldtmu(r[6]))
        q.nop(sig=q.wrtmuc)
        q.sub(q.null, r[3], -1, push="pushz")  # nowhere
        move(q, q.tmua, r[5], cond="ifa")
        q.nop(sig=q.ldtmu(r[6]))
        move(q, q.tmud, r[6])
        move(q, q.tmua, r[5], cond="ifa")
        q.end()

    byte = config(15, "uint32", pixel)
    rig.run(program, [dst, byte, byte])
    assert (rig.u32(dst, 16) == 9).all()


@both
def test_threads_with_different_configurations_part(isa: Isa) -> None:
    """Two threads take their configuration from memory: one loads bytes, the other words."""
    rig = Rig(isa)
    src = rig.buffer(np.arange(32, dtype=np.uint32) * 0x01010101)
    table = rig.buffer(np.array([config(15, "uint8"), config(15, "vec2")], np.uint32))
    out = rig.buffer(128)

    def program(q: Any) -> None:
        r = q.rf
        q.shl(r[3], payload(q), -16)
        q.shr(r[3], r[3], -16, push="pushz")
        for k in (1, 4, 6):
            q.nop(sig=q.ldunifrf(r[k]))
        q.shl(r[5], r[3], 2)
        q.add(q.tmua, r[5], r[4])
        q.nop(sig=q.ldtmu(r[5]))
        q.eidx(r[7])
        q.shl(r[7], r[7], 2)
        move(q, q.tmuc, r[5])
        q.add(q.tmua, r[7], r[1])
        q.nop(sig=q.ldtmu(r[8]))
        q.b("words", cond="na0")
        q.nop()
        q.nop()
        q.nop()
        q.b("done")
        q.nop()
        q.nop()
        q.nop()
        q.label("words")
        q.nop(sig=q.ldtmu(r[9]))
        q.label("done")
        q.shl(r[10], r[3], 6)
        q.add(r[10], r[10], r[6])
        q.add(r[10], r[10], r[7])
        move(q, q.tmud, r[8])
        move(q, q.tmua, r[10])
        q.end()

    rig.run(program, [src, table, out], workgroups=(2, 1, 1), per_supergroup=2)
    got = rig.u32(out, 32)
    assert (got[:16] == LANE).all()
    assert (got[16:] == LANE * 0x01010101).all()


@both
def test_results_come_in_order_of_requests(isa: Isa) -> None:
    rig = Rig(isa)
    src = rig.buffer(np.arange(16 * 6, dtype=np.uint32))
    out = rig.buffer(64 * 6)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        q.nop(sig=q.ldunifrf(r[2]))
        q.eidx(r[4])
        q.shl(r[4], r[4], 2)
        q.add(r[1], r[1], r[4])
        q.add(r[2], r[2], r[4])
        move(q, r[5], 1)
        q.shl(r[5], r[5], 6)
        for _ in range(6):
            move(q, q.tmua, r[1])
            q.add(r[1], r[1], r[5])
        for _ in range(6):
            q.nop(sig=q.ldtmu(r[6]))
            move(q, q.tmud, r[6])
            move(q, q.tmua, r[2])
            q.add(r[2], r[2], r[5])
        q.end()

    rig.run(program, [src, out])
    assert (rig.u32(out, 96) == np.arange(96)).all()


@both
def test_more_pending_words_than_known_to_fit_is_a_warning(isa: Isa) -> None:
    rig = Rig(isa)
    src = rig.buffer(64)

    def program(q: Any) -> None:
        r = q.rf
        q.nop(sig=q.ldunifrf(r[1]))
        for _ in range(10):
            move(q, q.tmua, r[1])
        for _ in range(10):
            q.nop(sig=q.ldtmu(r[6]))
        q.end()

    run = rig.run(program, [src])
    assert len(run.stats.faults) == 2
    assert all(f.startswith("tmu-pending") for f in run.stats.faults)


@both
def test_missing_store_words_are_a_warning(isa: Isa) -> None:
    rig = Rig(isa)
    dst = rig.buffer(256)
    store_lanes(rig, dst + LANE * 16, np.array([LANE + 1]), config(15, "vec4"))
    assert (rig.u32(dst, 64).reshape(16, 4)[:, 0] == LANE + 1).all()
    assert (rig.u32(dst, 64).reshape(16, 4)[:, 1:] == 0).all()


@both
@pytest.mark.parametrize("byte", [config(11, "uint32"), config(5, "uint32"), config(0, "uint8")])
def test_undefined_requests_fault(isa: Isa, byte: int) -> None:
    rig = Rig(isa)
    dst = rig.buffer(64)
    with pytest.raises(EmuFault) as caught:
        if byte == config(5, "uint32"):
            load_lanes(rig, dst + LANE * 4, 1, byte)
        else:
            store_lanes(rig, dst + LANE * 4, np.array([LANE]), byte)
    assert caught.value.rule == "tmu-request"


def test_every_configuration_byte_is_decoded() -> None:
    for byte in range(256):
        for data in range(5):
            r = decode_request(byte, data)
            assert r.action is not Action.LOAD or data == 0
            assert r.action is not Action.STORE or data > 0
            assert r.per_pixel == bool(byte & 0x80)


def test_component_addresses() -> None:
    a = np.array([0x100, 0x104, 0x108, 0x10C], np.uint32)
    assert component_address(Isa.V3D42, a, 1, 4).tolist() == [0x104, 0x108, 0x10C, 0x100]
    assert component_address(Isa.V3D71, a, 1, 4).tolist() == [0x104, 0x108, 0x10C, 0x110]
    assert component_address(Isa.V3D42, a, 0, 1).tolist() == a.tolist()


@both
@pytest.mark.parametrize(("type_", "size"), [("uint16", 2), ("uint32", 4)])
def test_lenient_misaligned_accesses_are_those_of_the_address_rounded_down(isa: Isa, type_: str, size: int) -> None:
    rig = Rig(isa, strict=False)
    data = np.random.default_rng(1).integers(0, 256, 64, np.uint8)
    at = rig.buffer(data)
    got = load_lanes(rig, at + LANE, 1, config(15, type_))
    assert (got[0] == data.view(f"<u{size}")[LANE // size]).all()
    place = rig.buffer(64)
    store_lanes(rig, place + 5 * np.arange(16) % 64, np.arange(1, 17)[None, :], config(15, type_))
    expected = np.zeros(64 // size, f"<u{size}")
    expected[5 * np.arange(16) % 64 // size] = np.arange(1, 17)
    assert (np.array(rig.memory.view(place, 64)).view(f"<u{size}") == expected).all()
