"""Launches of VideoCore IV for `edges.py`: DMA, VPM accesses, TMU rows, textures and uniforms with edge set-ups."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import qpu
from qpu import vc4
from qpu.core.isa import Isa


def store(q: Any) -> None:
    """Three vectors to the VPM, then a DMA store. Uniforms: two write set-ups, two of the store, an address."""
    for _ in range(3):
        q.mov(q.vw_setup, q.uniform)
    for _ in range(3):
        q.mov(q.vpm, q.element_number)
    q.mov(q.vw_setup, q.uniform)
    q.mov(q.vw_addr, q.uniform)
    q.wait_dma_store()


def load(q: Any) -> None:
    """A DMA load, then a VPM read. Uniforms: two set-ups of the load, an address, a read set-up."""
    q.mov(q.vr_setup, q.uniform)
    q.mov(q.vr_setup, q.uniform)
    q.mov(q.vr_addr, q.uniform)
    q.wait_dma_load()
    q.mov(q.vr_setup, q.uniform)
    q.nops(3)
    q.mov(q.r0, q.vpm)


def vpm_write(q: Any) -> None:
    q.mov(q.vw_setup, q.uniform)
    for _ in range(6):
        q.mov(q.vpm, q.element_number)


def vpm_read(q: Any) -> None:
    q.mov(q.vr_setup, q.uniform)
    q.nops(3)
    for _ in range(4):
        q.mov(q.r0, q.vpm)


def tmu(q: Any) -> None:
    """Requests of both TMUs. Uniforms: stride of the lanes, address."""
    q.mov(q.r1, q.uniform)
    q.mul24(q.r1, q.r1, q.element_number)
    q.mov(q.r0, q.uniform)
    q.add(q.t0s, q.r0, q.r1)
    q.nop(sig=q.ldtmu0)
    q.add(q.t1s, q.r4, q.r1)
    q.nop(sig=q.ldtmu1)


def texture(q: Any) -> None:
    """A texture request. Uniforms: coordinates and set-up words."""
    q.mov(q.r1, q.uniform)
    q.mov(q.t0t, q.r1)
    q.mov(q.r1, q.uniform)
    q.mov(q.t0s, q.r1)
    q.nop(sig=q.ldtmu0)


def stream(q: Any) -> None:
    """Uniforms from elsewhere. Uniform: the address."""
    q.mov(q.uniforms_address, q.uniform)
    q.nops(2)
    for n in range(3):
        q.mov(getattr(q, f"r{n}"), q.uniform)


BODIES: dict[str, Callable[[Any], None]] = {
    "store": store, "load": load, "vpm_write": vpm_write, "vpm_read": vpm_read, "tmu": tmu, "texture": texture,
    "stream": stream,
}  # fmt: skip


def programs(isa: Isa) -> list[tuple[str, qpu.Program]]:
    """Every body; DMA twice as often. They are translated before they run."""
    if find_spec("llvmlite") is not None:
        from qpu.emu.vc4 import compiled_programs

        compiled_programs.WARM = 0
    made = []
    for name, body in BODIES.items():

        def program(q: Any, body: Callable[[Any], None] = body) -> None:
            body(q)
            q.end()

        made.append((name, qpu.assemble(program, isa=isa, check=False)))
    return made[:2] + made


def store_words(draw: random.Random) -> list[int]:
    """Stride and block of a store: any, or at the edges of what native code takes."""
    if draw.random() < 0.25:
        stride = draw.choice((0, 64, 0x1FFF, 0xFFFF, draw.getrandbits(17)))
        rows, columns = draw.randrange(128), draw.choice((0, 16, draw.randrange(128)))
        y, x, mode = draw.randrange(64), draw.choice((0, draw.randrange(16))), draw.choice((0, 0, 0, draw.randrange(8)))
    else:
        stride = draw.choice((0, 0, 4, 64, 4096, 0xFFFC))
        rows, columns = draw.choice((1, 1, 2, 3, 8)), draw.choice((1, 2, 8, 15, 16, 16, 17))
        y = min(draw.choice((0, 64 - rows, 65 - rows, 63)), 63)
        x = min(draw.choice((0, 0, max(0, 16 - columns), max(0, 17 - columns))), 15)
        mode = 0
    return [3 << 30 | stride, 2 << 30 | rows << 23 | columns << 16 | 1 << 14 | y << 7 | x << 3 | mode]


def load_words(draw: random.Random) -> list[int]:
    """Pitch and block of a load, likewise."""
    pitch = draw.choice((0, 4, 64, 4096, 0x1FFC, 0x1FFF, draw.getrandbits(16)))
    columns, rows, step = (draw.choice((1, 1, 2, 3, 8, 15, 16, 16)) for _ in range(3))
    upright = draw.choice((0, 0, 1))
    y = draw.choice((0, 64 - rows, 65 - rows, 63, 64 - columns, 65 - columns))
    x = draw.choice((0, 0, 16 - columns, 17 - columns, 16 - rows, 17 - rows))
    if draw.random() < 0.25:
        y, x = draw.randrange(64), draw.randrange(16)
    counts = (columns & 15) << 20 | (rows & 15) << 16 | (step & 15) << 12
    where = upright << 11 | max(0, min(y, 63)) << 4 | max(0, min(x, 15))
    return [9 << 28 | pitch, 1 << 31 | draw.choice((0, 0, 0, 3, 9)) << 24 | counts | where]


def generic(draw: random.Random) -> int:
    """Set-up of a VPM access."""
    size = draw.choice((0xA00, 0xA00, draw.randrange(16) << 8))
    return draw.randrange(16) << 20 | draw.randrange(64) << 12 | size | draw.randrange(256)


def launch(name: str, draw: random.Random, address: Callable[[], int]) -> tuple[Any, vc4.Programs]:
    """Uniforms and shape of a launch."""

    def bus() -> int:
        return address() & 0x3FFFFFFF | draw.randrange(4) << 30

    row = draw.randrange(64) << 12 | 0xA00 | draw.randrange(64)
    uniforms: list[int]
    if name == "store":
        stride, block = store_words(draw)
        uniforms = [row, row, stride, block if draw.random() < 0.95 else draw.getrandbits(32), bus()]
    elif name == "load":
        pitch, block = load_words(draw)
        block = block if draw.random() < 0.9 else draw.getrandbits(32)
        uniforms = [pitch, block, bus(), draw.choice((row | draw.randrange(16) << 20, generic(draw)))]
    elif name == "tmu":
        uniforms = [draw.choice((4, 4, 0, 1, 64, 4096, 0xFFFFFC, draw.getrandbits(24))), bus()]
    elif name == "texture":
        words = [draw.getrandbits(32) for _ in range(4)]
        uniforms = [words[0], bus() & ~0xFFF | draw.getrandbits(12), words[1], words[2], words[3]]
    elif name == "stream":
        uniforms = [bus(), 1, 2, 3]
    else:
        uniforms = [generic(draw)]
    return uniforms, vc4.Programs(draw.choice((1, 1, 3)))
