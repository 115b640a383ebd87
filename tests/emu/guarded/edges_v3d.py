"""Launches of V3D for `edges.py`: TMU requests of every kind, stream reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import qpu
from qpu import v3d
from qpu.core.isa import Isa

CONFIGS = (0xFFFFFFFF, 0xFFFFFFFA, 0xFFFFFFFB, 0xFFFFFFFC, 0xFFFFFF7A, 0xFFFFFF7B, 0xFFFFFF7C)
STRIDES = (4, 4, 8, 16, 16, 0, 1, 2, 12, 64, 256, 4096, 0xFFFFFC, 0xFFFFF0, 0x100000, 0x800000)


def request(q: Any, words: int) -> None:
    """One request with so many data words. Uniforms: address, stride of the lanes, sample mask, configuration."""
    r = q.rf
    for n in (4, 5, 7):
        q.nop(sig=q.ldunifrf(r[n]))
    q.eidx(r[2])
    q.setmsf(q.null, r[7])
    q.nop().smul24(r[3], r[2], r[5])
    q.add(r[6], r[4], r[3])
    for k in range(words):
        q.or_(q.tmud, r[2 + k], r[2 + k])
    q.or_(q.tmuau, r[6], r[6], sig=q.thrsw)
    q.nop()
    q.nop()
    q.end()


def side_stream(q: Any, words: int) -> None:
    """Six words of the unifa stream. Uniform: where it starts."""
    q.nop(sig=q.ldunifrf(q.rf[4]))
    q.or_(q.unifa, q.rf[4], q.rf[4])
    for _ in range(3):
        q.nop()
    for k in range(6):
        q.nop(sig=q.ldunifarf(q.rf[8 + k]))
    q.end()


def programs(isa: Isa) -> list[tuple[str, qpu.Program]]:
    """Requests with none to four data words, and the unifa stream."""
    cases: list[tuple[str, Callable[[Any, int], None], int]] = [(f"request{n}", request, n) for n in range(5)]
    cases.append(("stream", side_stream, 0))
    made = []
    for name, body, words in cases:

        def program(q: Any, body: Callable[[Any, int], None] = body, words: int = words) -> None:
            body(q, words)

        made.append((name, qpu.assemble(program, isa=isa, check=False)))
    return made


def launch(name: str, draw: random.Random, address: Callable[[], int]) -> tuple[list[int], v3d.Dispatch]:
    """Uniforms and shape of a launch."""
    shape = v3d.Dispatch(workgroups=draw.choice((1, 1, 3)), workgroup_size=draw.choice((16, 16, 5)))
    if name == "stream":
        return [address()], shape
    stride = draw.choice((*STRIDES, draw.getrandbits(24)))
    mask = draw.choice((0, 0, 0, 1, 0xFFFFFFFF, draw.getrandbits(16)))
    random_bytes = 0xFFFFFF00 | draw.getrandbits(8), 0xFFFFFF00 | draw.getrandbits(8), draw.getrandbits(32)
    return [address(), stride, mask, draw.choice((*CONFIGS, *random_bytes))], shape
