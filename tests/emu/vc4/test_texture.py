"""Tests of texture lookups: 32-bit texels, nearest, in raster, LT and T storage, against an index model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.errors import EmuFault
from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, store_rows


def place(kind: str, x: int, y: int, width: int) -> int:
    """Byte offset of a texel, following the storage description step by step."""
    if kind == "raster":
        return 4 * (y * width + x)
    micro = lambda: 4 * ((y % 4) * 4 + x % 4)  # noqa: E731
    if kind == "lt":
        return 64 * ((y // 4) * ((width + 3) // 4) + x // 4) + micro()
    tiles = (width + 31) // 32
    row, column = y // 32, x // 32
    if row % 2:
        column = tiles - 1 - column
    order = [(1, 1), (1, 0), (0, 0), (0, 1)] if row % 2 else [(0, 0), (0, 1), (1, 1), (1, 0)]
    sub = order.index((x % 32 // 16, y % 32 // 16))
    inside = (y % 16 // 4) * 4 + x % 16 // 4
    return 4096 * (row * tiles + column) + 1024 * sub + 64 * inside + micro()


def program(q: Asm) -> None:
    q.mov(q.ra[0], q.uniform)
    q.shl(q.r3, q.element_number, 2)
    q.add(q.t0s, q.r3, q.uniform)
    q.add(q.t1s, q.r3, q.uniform)
    q.nop(sig=q.ldtmu0)
    q.mov(q.r0, q.r4)
    q.nop(sig=q.ldtmu1)
    q.mov(q.t0t, q.r4)
    q.mov(q.t0s, q.r0)
    q.nop(sig=q.ldtmu0)
    q.mov(q.r0, q.r4)
    store_rows(q, [q.r0], q.ra[0])
    q.end()


def setup(base: int, kind: int, width: int, height: int, **more: int) -> list[int]:
    one = (base & 0xFFFFF000) | (kind & 15) << 4 | more.get("flip", 0) << 8 | more.get("levels", 0)
    two = (
        (kind >> 4) << 31 | (height & 0x7FF) << 20 | (width & 0x7FF) << 8 | more.get("mag", 1) << 7
        | more.get("min", 1) << 4 | more.get("wrap_t", 0) << 2 | more.get("wrap_s", 0)
    )  # fmt: skip
    return [one, two]


def sample(kind: int, layout: str, width: int, height: int, s: Any, t: Any, **more: int) -> tuple[Any, Any, Rig]:
    rig = Rig()
    rig._data_at += 4096 - rig._data_at % 4096 if rig._data_at % 4096 else 0
    size = 4096 * ((width + 31) // 32) * ((height + 31) // 32)
    base, memory = rig.zeros(size // 4)
    image = np.random.default_rng(width).integers(0, 1 << 32, (height, width), np.uint32)
    for y in range(height):
        for x in range(width):
            memory[place(layout, x, y, width) // 4] = image[y, x]
    a, _ = rig.array(np.asarray(s, np.float32))
    b, _ = rig.array(np.asarray(t, np.float32))
    out, result = rig.zeros(16)
    # T takes the first set-up word, S the second: in write order.
    rig.run(program, [out, a, b, *setup(base, kind, width, height, **more)])
    return result, image, rig


@pytest.mark.parametrize(
    ("kind", "layout", "width", "height"),
    [(16, "raster", 64, 8), (0, "lt", 16, 40), (0, "lt", 40, 12), (0, "t", 64, 64), (0, "t", 96, 70), (1, "t", 40, 33)],
)
def test_nearest_texels(kind: int, layout: str, width: int, height: int) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, width, 16), rng.integers(0, height, 16)
    got, image, rig = sample(kind, layout, width, height, (x + 0.5) / width, (y + 0.5) / height)
    expected = image[y, x] | (0xFF000000 if kind == 1 else 0)
    assert (got == expected).all()
    assert rig.last is not None
    assert rig.last.stats.tmu_requests == 3
    assert rig.last.stats.uniform_bytes == 5 * 4


def test_wrap_modes_and_flip() -> None:
    x = np.arange(16) * 3 - 20
    s, t = (x + 0.5) / 8, np.full(16, 2.5 / 8)
    for mode in range(3):
        got, image, _ = sample(16, "raster", 8, 8, s, t, wrap_s=mode, flip=mode & 1)
        for lane in range(16):
            position = int(x[lane])
            column = [position % 8, min(max(position, 0), 7), min(position % 16, 15 - position % 16)][mode]
            assert got[lane] == image[5 if mode & 1 else 2, column]
    got, image, _ = sample(16, "raster", 8, 8, s, t, wrap_s=3)
    outside = (x < 0) | (x > 7)
    assert (got[outside] == 0).all()
    assert (got[~outside] == image[2, x[~outside]]).all()


@pytest.mark.parametrize(
    ("more", "kind"), [({"mag": 0}, 0), ({"min": 0}, 0), ({"min": 3, "levels": 2}, 0), ({}, 4), ({}, 8), ({}, 17)]
)
def test_what_is_not_emulated_is_named(more: dict[str, int], kind: int) -> None:
    with pytest.raises(EmuFault) as caught:
        sample(kind, "raster", 8, 8, [0.5] * 16, [0.5] * 16, **more)
    assert caught.value.rule == "texture-unsupported"


def test_texture_outside_memory_faults() -> None:
    rig = Rig()
    a, _ = rig.array(np.zeros(16, np.float32))
    with pytest.raises(EmuFault) as caught:
        rig.run(program, [0, a, a, *setup(0x800000, 16, 8, 8)])
    assert (caught.value.rule, caught.value.place.address) == ("out-of-bounds", 0x800000)


def test_uniform_read_beside_a_texture_launch_faults() -> None:
    def both(q: Asm) -> None:
        q.mov(q.t0t, q.r0)
        q.mov(q.t0s, q.uniform)
        q.end()

    rig = Rig()
    with pytest.raises(EmuFault) as caught:
        rig.run(both, [1, 2, 3], check=False)
    assert caught.value.rule == "H23"


@pytest.mark.parametrize("unit", [0, 1])
def test_a_request_that_was_not_launched_ends_with_its_program(unit: int) -> None:
    """The next program on the QPU writes S for a direct read, which takes no uniform."""

    def begin(q: Asm) -> None:
        q.mov(q.t1t if unit else q.t0t, 0)
        q.end()

    def read(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.shl(q.r3, q.element_number, 2)
        q.add(q.t1s if unit else q.t0s, q.r3, q.uniform)
        q.nop(sig=q.ldtmu1 if unit else q.ldtmu0)
        q.mov(q.r0, q.r4)
        store_rows(q, [q.r0], q.ra[0])
        q.end()

    rig = Rig(qpus=1)
    source, words = rig.array(np.arange(16, dtype=np.uint32) + 5)
    out, result = rig.zeros(16)
    execution = rig.launch([(rig.uniforms([7]), rig.program(begin)), (rig.uniforms([out, source]), rig.program(read))])
    assert (result == words).all()
    assert execution.stats.uniform_bytes == 3 * 4
