"""The sgemm kernel of V3D 4.2 and 7.1: one tile of 24 x 32 of C a workgroup of 16 items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.core.isa import Isa

if TYPE_CHECKING:
    from qpu.v3d.asm import Asm42, Asm71

__all__ = ["AHEAD", "COLUMNS", "ROWS", "UNROLL", "v3d_kernel"]

ROWS, COLUMNS = 24, 32
UNROLL = 4  # steps of k per loop
AHEAD = 3  # rows of B requested ahead, two words each: 6 of the 8 result slots a thread has (v3d.md 9.5)
BATCH = 4  # rows of C in flight


def v3d_kernel(q: Asm42 | Asm71) -> None:
    """Emit the kernel.

    Uniforms: bytes of an A panel / 64, address of A, address of B, bytes of a row of B and C, bytes of a tile row of
    C / 1024, address of C, loops, alpha, beta, TMU configuration. Dispatch: x = tile across, y = tile down, 16 items,
    2 threads (64 registers). The panel runs through the uniform stream: its words are laid out in `pack_panels`.
    """
    seven = q.isa is Isa.V3D71
    rf = q.rf
    payload = rf[3] if seven else rf[0]
    u = rf[0] if seven else q.r5  # where ldunif puts its word
    t, s = (rf[1], rf[15]) if seven else (q.r0, q.r1)
    c0, c1 = (rf[4], rf[5]) if seven else (q.r2, q.r3)
    b = ((rf[4], rf[5]), (rf[6], rf[7]))
    at, row, count, alpha, beta, c_at, panel, gx, gy, tmp = (rf[n] for n in (8, 9, 10, 11, 12, 13, 14, 16, 17, 18))
    acc = [rf[16 + i] for i in range(2 * ROWS)]
    last = len(acc) - 1

    def request(pointer: object = at) -> None:
        q.add(pointer, pointer, row).mov(q.tmua, pointer)

    # Where this workgroup works. -16 shifts by 16: only the low five bits count.
    q.shr(gy, payload, -16, sig=q.ldunifrf(panel))
    q.shl(gx, payload, -16, sig=q.ldunifrf(tmp))
    q.shr(gx, gx, -16).umul24(panel, panel, gy)
    q.shl(panel, panel, 6, sig=q.ldunifrf(at))
    q.add(panel, panel, tmp, sig=q.ldunifrf(row))
    q.shl(gx, gx, 7, sig=q.ldunifrf(tmp))
    q.eidx(t).umul24(tmp, tmp, gy)
    q.shl(t, t, 3, sig=q.ldunifrf(c_at))
    q.add(gx, gx, t, sig=q.ldunifrf(count))
    q.shl(tmp, tmp, 10, sig=q.ldunifrf(alpha))
    q.add(c_at, c_at, tmp, sig=q.ldunifrf(beta))
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
    with q.loop("k") as loop:
        q.sub(count, count, 1, push="pushz", sig=q.ldunif)
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
                    sig = q.none
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
