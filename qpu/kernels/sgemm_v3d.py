"""The sgemm kernel of V3D 4.2 and 7.1: one tile of 24 x 32 of C a workgroup of 16 items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from qpu.v3d.asm import Asm42, Asm71

__all__ = ["AHEAD", "COLUMNS", "ROWS", "UNROLL", "kernel_42", "kernel_71"]

ROWS, COLUMNS = 24, 32
UNROLL = 4  # steps of k per loop
AHEAD = 3  # rows of B requested ahead, two words each: 6 of the 8 result slots a thread has (v3d.md 9.5)
BATCH = 4  # rows of C in flight


def kernel_42(q: Asm42) -> None:
    """Emit the kernel for V3D 4.2. Uniforms and dispatch: see `_emit`."""
    _emit(q, _Names(payload=q.rf[0], word=q.r5, product=q.r0, spare=q.r1, loaded=(q.r2, q.r3)))


def kernel_71(q: Asm71) -> None:
    """Emit the kernel for V3D 7.1. Uniforms and dispatch: see `_emit`."""
    rf = q.rf
    _emit(q, _Names(payload=rf[3], word=rf[0], product=rf[1], spare=rf[15], loaded=(rf[4], rf[5])))


class _Names(NamedTuple):
    payload: Any  # workgroup ids: x in the low half, y in the high half
    word: Any  # where ldunif puts its word
    product: Any
    spare: Any
    loaded: tuple[Any, Any]  # a row of C


def _emit(q: Any, names: _Names) -> None:  # Any: the builders of 4.2 and 7.1 share these names, not their types
    """Emit the kernel.

    Uniforms: bytes of an A panel / 64, address of A, bytes of a row of B and C, address of C, loops, alpha, beta,
    address of B, bytes of a tile row of C / 1024, TMU configuration. Dispatch: x = tile across, y = tile down,
    16 items, 2 threads (64 registers). The panel runs through the uniform stream: its words are laid out in
    `pack_panels`.
    """
    payload, u, t, s, (c0, c1) = names
    rf = q.rf
    b = ((rf[4], rf[5]), (rf[6], rf[7]))
    at, row, count, alpha, beta, c_at, panel, gx, gy, tmp = (rf[n] for n in (8, 9, 10, 11, 12, 13, 14, 16, 17, 18))
    acc = [rf[16 + i] for i in range(2 * ROWS)]
    last = len(acc) - 1

    def request(pointer: Any = at) -> None:
        q.add(pointer, pointer, row).mov(q.tmua, pointer)

    # Where this workgroup works. -16 shifts by 16: only the low five bits count.
    for register in (panel, at, row, c_at, count, alpha, beta):
        q.nop(sig=q.ldunifrf(register))
    q.shr(gy, payload, -16)
    q.shl(gx, payload, -16)
    q.shr(gx, gx, -16)
    q.nop().umul24(panel, panel, gy)
    q.shl(panel, panel, 6)
    q.add(panel, panel, at, sig=q.ldunifrf(at))
    q.shl(gx, gx, 7)
    q.eidx(t)
    q.shl(t, t, 3)
    q.add(gx, gx, t)
    q.nop(sig=q.ldunifrf(tmp))
    q.nop().umul24(tmp, tmp, gy)
    q.shl(tmp, tmp, 10)
    q.add(c_at, c_at, tmp)
    q.add(c_at, c_at, gx)
    # One switch, marked as the last: from here on the thread keeps the TMU pipelined without switching.
    q.add(at, at, gx, sig=q.thrsw)
    q.nop(sig=q.thrsw)
    q.nop()
    q.nop(sig=q.wrtmuc)
    for _ in range(AHEAD):
        request()
    q.b(0, unif=panel)
    q.sub(t, t, t)
    q.nop()
    q.nop()
    for i in range(0, len(acc), 2):
        q.sub(acc[i], t, t).sub(acc[i + 1], t, t)
    q.nop(sig=q.ldtmu(b[0][0]))
    q.nop(sig=q.ldtmu(b[0][1]))

    # Slot i multiplies for accumulator i and adds the product of the slot before. Uniforms stay out of the delay slots.
    q.add(s, t, 1)
    with q.loop("k") as loop:
        q.sub(count, count, s, push="pushz", sig=q.ldunif)
        for step in range(UNROLL):
            final = step == UNROLL - 1
            for i in range(len(acc)):
                if i % 2 == 1 and not (final and i == last):
                    sig = q.ldunif
                elif i == 0 and step == 0:
                    sig = q.wrtmuc
                elif i in (40, 42):
                    sig = q.ldtmu(b[(step + 1) % 2][i // 2 % 2])
                else:
                    sig = None
                if final and i == last - 1:
                    q.b(loop.start, cond="na0")
                q.fadd(acc[i - 1], acc[i - 1], t, sig=sig).fmul(t, u, b[step % 2][i % 2])
                if i == 20 and not final:
                    request()
        request()
    q.fadd(acc[last], acc[last], t)
    for _ in range(2 * (AHEAD - 1)):
        q.nop(sig=q.ldtmu(q.null))

    # C = alpha * tile + beta * C, four rows at a time.
    q.add(at, c_at, 0)
    for first in range(0, ROWS, BATCH):
        q.nop(sig=q.wrtmuc)
        for _ in range(BATCH):
            request()
        q.nop(sig=q.wrtmuc)
        for r in range(first, first + BATCH):
            q.nop(sig=q.ldtmu(c0))
            q.nop(sig=q.ldtmu(c1)).fmul(t, c0, beta)
            q.nop().fmul(s, acc[2 * r], alpha)
            q.fadd(q.tmud, t, s).fmul(t, c1, beta)
            q.nop().fmul(s, acc[2 * r + 1], alpha)
            q.fadd(q.tmud, t, s)
            request(c_at)
    q.nop(sig=q.thrsw)
    q.nop()
    q.nop()
