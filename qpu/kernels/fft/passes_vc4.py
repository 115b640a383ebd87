"""The passes of the Fourier transform on VideoCore IV, by hand: radix 4, and 2 at the end, for rows of 64 or more.

They are those of `passes`: p numbers in a run, result j of item i to part j of the row. 16 items, one a lane, are a
group: neighbours of one run where it is long enough, of several runs where it is not. A QPU keeps its places in a run,
and with them the factors, and goes through the runs of all rows; so its addresses of input advance by constants. A
loop transforms a group and requests the next one. Words of a number go to two rows of the VPM, and one DMA transfer
stores 16 numbers: the columns of both rows, one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.instruction_sets import assemble
from qpu.vc4 import vpm

if TYPE_CHECKING:
    from qpu.core.builder import Label
    from qpu.kernels.fft.passes import Pass
    from qpu.program import Program
    from qpu.vc4.builder import AddSlot, Asm
    from qpu.vc4.operands import Dst, ReadWrite

__all__ = ["SHORTEST", "kernel", "program", "streams"]

SHORTEST = 64
"""Numbers in a row: 16 items of radix 4 have one row then."""
LANES = 16
ROWS = 4
"""Rows of the VPM for a QPU, for two results of each item: 12 QPUs use 48 of the 64."""


@cache
def program(radix: int, turned: bool, inverse: bool) -> Program:
    """The assembled kernel."""
    return assemble(kernel, radix, turned, inverse, isa=Isa.VC4)


def kernel(q: Asm, radix: int, turned: bool, inverse: bool) -> None:
    """Emit a pass. Uniforms: constants, then records (see `streams`). turned: with factors, else with a scale."""
    _Emitter(q, radix, turned, inverse).emit()


class _Emitter:
    """Registers of a pass, and its parts.

    Registers are in the file that lets an instruction read both of its operands and that of the MUL slot. r5 holds 4:
    an address is that of a number, of eight bytes, so `v8adds` makes the address of its second word without a carry.
    Counters are in units of that 4, because an instruction with a signal has no small immediate.
    """

    def __init__(self, q: Asm, radix: int, turned: bool, inverse: bool) -> None:
        self.q, self.radix, self.turned, self.inverse = q, radix, turned, inverse
        a, b = iter(q.ra), iter(q.rb)
        self.lanes, self.turned_lanes, self.first, self.near, self.far = (next(a) for _ in range(5))
        self.step, self.full, self.rise, self.store, self.store_other, self.t = (next(a) for _ in range(6))
        self.parts = [next(a) for _ in range(radix - 1)]
        self.ar, self.ai, self.br, self.bi = (next(a) for _ in range(4))
        self.ur, self.ui, self.vr, self.vi = (next(a) for _ in range(4))
        self.wi = [next(a) for _ in range(3)]
        self.at, self.out, self.left, self.count, self.fill = (next(b) for _ in range(5))
        self.sr, self.si, self.tr, self.ti = (next(b) for _ in range(4))
        self.wr = [next(b) for _ in range(3)]

    def emit(self) -> None:
        q = self.q
        self._constants()
        record = q.label("record")
        self._record()
        loop = q.label("items")
        if self.radix == 2:
            self._two(loop)
        else:
            self._four()
            (self._turned if self.turned else self._scaled)(loop)
        for _ in range(self.radix - 2):  # what the last turn has requested
            q.nop(sig=q.ldtmu0)
            q.nop(sig=q.ldtmu1)
        q.mov(q.null, q.uniform, push="z", sig=q.ldtmu0)
        q.b(record, cond="allnz")
        q.nop(sig=q.ldtmu1)
        q.nop(sig=q.ldtmu0)
        q.nop(sig=q.ldtmu1)
        q.wait_dma_store()
        q.end()

    # before the loop

    def _constants(self) -> None:
        q = self.q
        q.mov(q.r5rep, 4)
        q.and_(q.r0, q.element_number, q.uniform)
        if self.turned:
            q.shl(self.turned_lanes, q.r0, 3)
        q.ldi(q.r1, 8 * (self.radix - 1))
        q.shl(q.r2, q.element_number, 2 + self.radix.bit_length()).mul24(q.r0, q.r0, q.r1)
        q.sub(self.lanes, q.r2, q.r0)
        for register in (self.near, self.far, self.step, self.full, self.rise, *self.parts, self.fill):
            q.mov(register, q.uniform)
        q.mov(self.store, q.uniform)
        q.mov(self.store_other, q.uniform)
        q.ldi(q.vw_setup, vpm.dma_store_stride(0))
        if not self.turned:
            q.mov(q.r3, q.uniform)

    def _record(self) -> None:
        """Read a record, fetch its factors, and request the inputs of the first group."""
        q = self.q
        q.add(q.r1, self.lanes, q.uniform)
        if self.turned:
            w = q.r0
            q.add(w, self.turned_lanes, q.uniform)
            for _ in range(3):
                q.mov(q.tmu0_s, w)
                q.add(w, w, self.near).v8adds(q.tmu1_s, w, q.r5)
            q.nop(sig=q.ldtmu0)
            for re, im in zip(self.wr, self.wi, strict=True):
                q.mov(re, q.r4, sig=q.ldtmu1)
                q.mov(im, q.r4, sig=q.ldtmu0 if im is not self.wi[-1] else None)
        q.mov(self.first, q.r1).mov(self.at, q.r1)
        reads: Iterator[Callable[[], object]] = iter((
            lambda: q.mov(self.out, q.uniform),
            lambda: q.mov(self.left, q.uniform),
            lambda: q.mov(self.count, q.uniform, push="z"),
        ))  # fmt: skip
        for number in range(self.radix):
            last = number + 1 == self.radix
            q.mov(q.tmu0_s, self.at if number else q.r1)
            q.add(self.at, self.at, self.far if last else self.near).v8adds(q.tmu1_s, self.at, q.r5)
            if not last:
                next(reads)()  # not between a register's write and read, which follow here otherwise
        for read in reads:
            read()

    # the loop

    def _save(self, *saved: ReadWrite) -> None:
        """Keep the words of the first numbers; place of the outputs of this group, and of the inputs of the next one.

        After the last group of a row the place rises to the next row. The last turn of the loop requests its record's
        first inputs again, because a request cannot be left out.
        """
        q = self.q
        ar, ai, *more = saved
        q.mov(self.at, self.first, cond="ifz", sig=q.ldtmu0)
        q.add(self.out, self.out, self.step, sig=q.ldtmu1).mov(ar, q.r4)
        q.sub(self.left, self.left, q.r5, push="z", sig=q.ldtmu0).mov(ai, q.r4)
        if not more:
            q.add(self.out, self.out, self.rise, cond="ifz")
            q.mov(self.left, self.full, cond="ifz").mov(q.tmu0_s, self.at)
            return
        br, bi = more
        q.add(self.out, self.out, self.rise, cond="ifz", sig=q.ldtmu1).mov(br, q.r4)
        q.mov(self.left, self.full, cond="ifz", sig=q.ldtmu0).mov(bi, q.r4)

    def _four(self) -> None:
        """s = a + c, t = a - c, u = b + d, v = b - d, the requests of the next group, and room in the VPM."""
        q = self.q

        def other_word(distance: ReadWrite) -> None:
            q.add(self.at, self.at, distance).v8adds(q.tmu1_s, self.at, q.r5)

        self._save(self.ar, self.ai, self.br, self.bi)
        q.fadd(self.sr, self.ar, q.r4).mov(q.tmu0_s, self.at)
        other_word(self.near)
        q.fsub(self.tr, self.ar, q.r4, sig=q.ldtmu1)
        q.fadd(self.si, self.ai, q.r4).mov(q.tmu0_s, self.at)
        other_word(self.near)
        q.fsub(self.ti, self.ai, q.r4, sig=q.ldtmu0)
        q.fadd(self.ur, self.br, q.r4).mov(q.tmu0_s, self.at)
        other_word(self.near)
        q.fsub(self.vr, self.br, q.r4, sig=q.ldtmu1).mov(q.null, q.vw_wait)
        q.fadd(self.ui, self.bi, q.r4).mov(q.tmu0_s, self.at)
        other_word(self.far)
        q.fsub(self.vi, self.bi, q.r4).mov(q.vw_setup, self.fill)

    def _odd_re(self, part: int, d: Dst) -> AddSlot:
        """The first word of result 1 or 3: t - i v or t + i v, in the inverse transform the other way round."""
        return (self.q.fsub if (part == 3) is not self.inverse else self.q.fadd)(d, self.tr, self.vi)

    def _odd_im(self, part: int, d: Dst) -> AddSlot:
        """The second word."""
        return (self.q.fadd if (part == 3) is not self.inverse else self.q.fsub)(d, self.ti, self.vr)

    def _turned(self, loop: Label) -> None:
        """Results 0 and 2, then 1 and 3: two rows of the VPM each, and a DMA transfer."""
        q = self.q
        (wr1, wr2, wr3), (wi1, wi2, wi3) = self.wr, self.wi
        q.fadd(q.vpm, self.sr, self.ur)
        q.fadd(q.vpm, self.si, self.ui)
        q.fsub(q.r0, self.sr, self.ur)
        q.fsub(q.r1, self.si, self.ui)
        q.mov(q.vw_setup, self.store).fmul(q.r2, q.r0, wr2)
        q.mov(q.vw_addr, self.out).fmul(q.r3, q.r1, wi2)
        q.fsub(q.vpm, q.r2, q.r3).fmul(q.r2, q.r1, wr2)
        q.read(q.vw_wait).fmul(q.r3, q.r0, wi2)
        q.fadd(q.vpm, q.r2, q.r3)
        self._odd_re(1, q.r0)
        self._odd_im(1, q.r1)
        q.mov(q.vw_setup, self.store_other).fmul(q.r2, q.r0, wr1)
        q.add(q.vw_addr, self.out, self.parts[1])
        q.read(q.vw_wait).fmul(q.r3, q.r1, wi1)
        q.mov(q.vw_setup, self.fill).fmul(self.t, q.r0, wi1)
        q.fsub(q.vpm, q.r2, q.r3).fmul(q.r2, q.r1, wr1)
        q.fadd(q.vpm, q.r2, self.t)
        self._odd_re(3, q.r0)
        self._odd_im(3, q.r1)
        q.mov(q.vw_setup, self.store).fmul(q.r2, q.r0, wr3)
        q.add(q.vw_addr, self.out, self.parts[0])
        q.read(q.vw_wait).fmul(q.r3, q.r1, wi3)
        q.fsub(q.vpm, q.r2, q.r3).fmul(q.r2, q.r1, wr3)
        q.sub(self.count, self.count, q.r5, push="z").fmul(q.r3, q.r0, wi3)
        q.b(loop, cond="allnn")
        q.fadd(q.vpm, q.r2, q.r3)
        q.mov(q.vw_setup, self.store_other)
        q.add(q.vw_addr, self.out, self.parts[2])

    def _scaled(self, loop: Label) -> None:
        """The same with the scale instead of factors."""
        q, scale = self.q, self.q.r3
        q.fadd(q.r0, self.sr, self.ur)
        q.fadd(q.r1, self.si, self.ui).fmul(q.vpm, q.r0, scale)
        q.fsub(q.r0, self.sr, self.ur).fmul(q.vpm, q.r1, scale)
        q.fsub(q.r1, self.si, self.ui).fmul(q.vpm, q.r0, scale)
        self._odd_re(1, q.r0).fmul(q.vpm, q.r1, scale)
        q.mov(q.vw_setup, self.store)
        q.mov(q.vw_addr, self.out)
        self._odd_im(1, q.r1)
        q.read(q.vw_wait)
        q.mov(q.vw_setup, self.store_other)
        q.add(q.vw_addr, self.out, self.parts[1])
        self._odd_re(3, q.r2)
        q.read(q.vw_wait)
        q.mov(q.vw_setup, self.fill)
        self._odd_im(3, q.r0).fmul(q.vpm, q.r0, scale)
        q.sub(self.count, self.count, q.r5, push="z").fmul(q.vpm, q.r1, scale)
        q.nop().fmul(q.vpm, q.r2, scale)
        q.nop().fmul(q.vpm, q.r0, scale)
        q.mov(q.vw_setup, self.store)
        q.add(q.vw_addr, self.out, self.parts[0])
        q.b(loop, cond="allnn")
        q.read(q.vw_wait)
        q.mov(q.vw_setup, self.store_other)
        q.add(q.vw_addr, self.out, self.parts[2])

    def _two(self, loop: Label) -> None:
        """a + b and a - b, times the scale."""
        q, scale = self.q, self.q.r3
        self._save(self.ar, self.ai)
        q.fadd(q.r0, self.ar, q.r4)
        q.fsub(q.r1, self.ar, q.r4, sig=q.ldtmu1).mov(q.null, q.vw_wait)
        q.add(self.at, self.at, self.near).v8adds(q.tmu1_s, self.at, q.r5)
        q.fadd(q.r2, self.ai, q.r4).mov(q.vw_setup, self.fill)
        q.fsub(self.t, self.ai, q.r4).mov(q.tmu0_s, self.at)
        q.add(self.at, self.at, self.far).v8adds(q.tmu1_s, self.at, q.r5)
        q.sub(self.count, self.count, q.r5, push="z").fmul(q.vpm, q.r0, scale)
        q.nop().fmul(q.vpm, q.r2, scale)
        q.nop().fmul(q.vpm, q.r1, scale)
        q.nop().fmul(q.vpm, self.t, scale)
        q.mov(q.vw_setup, self.store)
        q.mov(q.vw_addr, self.out)
        q.b(loop, cond="allnn")
        q.read(q.vw_wait)
        q.mov(q.vw_setup, self.store_other)
        q.add(q.vw_addr, self.out, self.parts[0])


def streams(work: Pass, qpus: int) -> list[NDArray[np.uint32]]:
    """The parameter stream of each QPU that takes part.

    Constants: mask of the places in a run; bytes from input to input of an item, and from the last one to the next
    group; bytes of output from group to group; 4 times the groups of a row; bytes from the end of a row's results to
    the next row; bytes to the further parts of a row; VPM set-up, DMA set-ups; the scale (without factors).
    A record, one for neighbouring groups of the same places: address of input, of factors (if there are any), and of
    output, less a step; 4 times the groups that are left in the row, and 4; 4 times the groups, less 4; 1 if another
    record follows.
    """
    radix, n, p = work.radix, work.n, work.p
    unit = max(p, LANES)
    places, full = max(1, p // LANES), n // radix // unit
    groups = work.rows * full  # for each of the places
    part = 8 * n // radix
    total = places * groups
    qpus = min(qpus, total)
    shares = np.arange(qpus, dtype=np.int64) * total // qpus
    starts = np.union1d(shares, np.arange(places, dtype=np.int64) * groups)
    place, group = np.divmod(starts, groups)
    row, inside = np.divmod(group, full)
    columns = [work.x.address + 128 * place + 8 * radix * unit * group]
    if work.w is not None:
        columns.append(work.w.address + 128 * place)
    columns += [
        work.y.address + 8 * n * row + 128 * place + 8 * unit * (inside - 1),
        4 * (full - inside + 1),
        4 * (np.diff(starts, append=total) - 1),
        np.ones_like(starts),
    ]
    records = np.stack(columns, 1)
    head = [min(p, LANES) - 1, 8 * p, 8 * radix * unit - 8 * p * (radix - 1), 8 * unit, 4 * full, 8 * n - part]
    head += [part * (j + 1) for j in range(radix - 1)]
    scale = [] if work.w is not None else [int(np.float32(work.scale).view(np.uint32))]
    rows = []
    ends = np.searchsorted(starts, [*shares[1:], total])
    for qpu, (first, end) in enumerate(zip(np.searchsorted(starts, shares), ends, strict=True)):
        mine = records[first:end].copy()
        mine[-1, -1] = 0
        y = ROWS * qpu
        stores = [vpm.dma_store(LANES, 2, "32bit vertical", y=y + other) for other in (0, 2)]
        words = np.concatenate([[*head, vpm.vpm_write(y=y), *stores, *scale], mine.reshape(-1)])
        rows.append((words & 0xFFFFFFFF).astype(np.uint32))
    return rows
