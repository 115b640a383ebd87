"""Building blocks of test programs for both V3D instruction sets, and the list of these programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from tests.emu.v3d.rig import ISAS, Rig, move, payload, store_lanes

LANE = np.arange(16)
PROGRAMS: dict[Isa, set[str]] = {isa: set() for isa in ISAS}  # names of the tests that `program` marks


def program(*isas: Isa) -> Callable[[Any], Any]:
    """Marks a test that runs a program of its own; it takes `isa`. No arguments: on both instruction sets."""

    def mark(function: Any) -> Any:
        for isa in isas or ISAS:
            PROGRAMS[isa].add(function.__name__)
        return pytest.mark.parametrize("isa", isas or ISAS)(function)

    return mark


def config(op: int, type_: int = 7, *, pixel: bool = True) -> int:
    """A configuration word for one request."""
    return 0xFFFFFF00 | pixel << 7 | op << 3 | type_


ADD, SUB, XCHG, CMPXCHG, UMIN, UMAX, SMIN, SMAX, AND, OR, XOR = (config(k) for k in range(11))
VEC2, VEC3, VEC4 = config(15, 2), config(15, 3), config(15, 4)
INT8, INT16, UINT8, UINT16 = config(15, 0), config(15, 1), config(15, 5), config(15, 6)
ALWAYS = 1 << 20  # clocks that suffice for spinning programs


def take(q: Any, *registers: Any) -> None:
    """The next uniforms, one a register."""
    for r in registers:
        q.nop(sig=q.ldunifrf(r))


def jump(q: Any, target: Any, cond: str | None = None, **more: Any) -> None:
    """A branch with empty delay slots."""
    q.b(target, cond=cond, **more)
    for _ in range(3):
        q.nop()


def switch(q: Any) -> None:
    """A thread switch."""
    q.nop(sig=q.thrsw)
    q.nop()
    q.nop()


def barrier(q: Any) -> None:
    """All threads of the supergroup meet."""
    q.barrierid(q.syncb, sig=q.thrsw)
    q.nop()
    q.nop()


def group_x(q: Any, d: Any) -> None:
    """The workgroup number in x."""
    q.shl(d, payload(q), -16)
    q.shr(d, d, -16)


def lane_address(q: Any, d: Any, base: Any, shift: int = 2) -> None:
    """base + (lane << shift)."""
    q.eidx(d)
    q.shl(d, d, shift)
    q.add(d, d, base)


def row_address(q: Any, d: Any, base: Any, row: Any) -> None:
    """base + 64 * row + 4 * lane; `d` is none of the sources."""
    q.shl(d, row, 4)
    q.eidx(q.rf[31])
    q.add(d, d, q.rf[31])
    q.shl(d, d, 2)
    q.add(d, d, base)


def load(q: Any, d: Any, at: Any) -> None:
    """One word a lane."""
    move(q, q.tmua, at)
    q.nop(sig=q.ldtmu(d))


def store(q: Any, value: Any, at: Any, **more: Any) -> None:
    """One word a lane, finished when this returns."""
    move(q, q.tmud, value)
    move(q, q.tmua, at, **more)
    q.tmuwt(q.null)


def draw(q: Any, d: Any, cell: Any, data: Any, word: Any) -> None:
    """An atomic with one data word; `word` holds its configuration."""
    move(q, q.tmuc, word)
    move(q, q.tmud, data)
    move(q, q.tmua, cell)
    q.nop(sig=q.ldtmu(d))


def first_lane(q: Any, d: Any) -> None:
    """1 in lane 0, 0 elsewhere; A: lane 0."""
    q.eidx(d)
    move(q, q.null, d, push="pushz")
    move(q, d, 0)
    move(q, d, 1, cond="ifa")


@contextmanager
def rounds(q: Any, counter: Any) -> Iterator[Any]:
    """A loop that counts a register down to zero."""
    with q.loop() as loop:
        yield loop
        q.sub(counter, counter, 1, push="pushz")
        jump(q, loop.start, "na0")


def lanes_of(rig: Rig, body: Callable[[Any], Any], uniforms: tuple[Any, ...] = (), **options: Any) -> np.ndarray:
    """Run a body that returns the register whose lanes are stored; rf1 holds the base, rf9 is scratch."""
    out = rig.buffer(64)

    def whole(q: Any) -> None:
        take(q, q.rf[1])
        value = body(q)
        store_lanes(q, value, q.rf[1], q.rf[9])
        q.end()

    rig.run(whole, [out, *uniforms], **options)
    return rig.u32(out, 16)


def rows_of(rig: Rig, n: int, body: Callable[[Any], Any], uniforms: tuple[Any, ...] = (), **options: Any) -> np.ndarray:
    """As `lanes_of` on n workgroups of 16, one supergroup: shape (n, 16). rf4 holds the workgroup number."""
    out = rig.buffer(64 * n)

    def whole(q: Any) -> None:
        group_x(q, q.rf[4])
        take(q, q.rf[1])
        value = body(q)
        row_address(q, q.rf[9], q.rf[1], q.rf[4])
        store(q, value, q.rf[9])
        q.end()

    options = {"per_supergroup": min(n, 16), "batches_per_supergroup": n, **options}
    rig.run(whole, [out, *uniforms], workgroups=(n, 1, 1), **options)
    return rig.u32(out, 16 * n).reshape(n, 16)
