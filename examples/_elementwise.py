"""Loop of programs over long vectors, on every instruction set: `Elementwise`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from _common import within

import qpu
from qpu.device import Buffer, Device
from qpu.errors import UsageError
from qpu.vc4 import vpm

ROWS = 4  # vectors of 16 words that a QPU of VideoCore IV stores at once: 12 QPUs use 48 of the 64 rows of the VPM
BLOCK = 16 * ROWS
INPUTS, SCALARS = 2, 4  # limits of the registers of both loops
LARGEST = {  # elements
    qpu.Isa.VC4: (1 << 28) - BLOCK,  # a buffer has less than 1 GiB
    qpu.Isa.V3D42: 1 << 28,  # byte offsets stay below 2**32, also one round of all threads past the end
    qpu.Isa.V3D71: 1 << 28,
}

Body = Callable[..., None]  # body(q, inputs, scalars, out): see `Elementwise`


def _loop_v3d(q: Any, inputs: int, scalars: int, body: Body) -> None:
    """Uniforms: n, elements per round of all threads, addresses of inputs and output, scalars."""
    rf = q.rf
    group = rf[0] if q.isa is qpu.Isa.V3D42 else rf[3]  # workgroup id: x low, y high; y is 0 here
    index, count, step, offset = (rf[i] for i in range(4, 8))
    at = [rf[8 + i] for i in range(inputs + 1)]
    constants = [rf[12 + i] for i in range(scalars)]
    data = [rf[16 + i] for i in range(inputs)]
    for register in (count, step, *at, *constants):
        q.nop(sig=q.ldunifrf(register))
    q.shl(index, group, 4)
    q.eidx(offset)
    q.add(index, index, offset)
    q.sub(q.null, index, count, push="pushc")  # flag A: there was a borrow, so this lane has an element
    with q.loop() as loop:
        q.shl(offset, index, 2)
        for pointer in at[:-1]:
            q.add(q.tmua, pointer, offset, cond="ifa")
        if inputs:
            q.nop(sig=q.thrsw)  # another thread runs while memory answers, after two more instructions
            q.nop()
            q.nop()
        for register in data:
            q.nop(sig=q.ldtmu(register))
        body(q, data, constants, q.tmud)
        q.add(q.tmua, at[-1], offset, cond="ifa")
        q.add(index, index, step)
        q.sub(q.null, index, count, push="pushc")
        q.b(loop.start, cond="anya")
        q.nop()
        q.nop()
        q.nop()
    q.end()


def _loop_vc4(q: Any, inputs: int, scalars: int, body: Body) -> None:
    """Uniforms: blocks, addresses of inputs and output, scalars, and the VPM set-ups of this QPU."""
    at = [q.r1, q.r2][:inputs]
    count, out, fill, store = q.ra[0], q.rb[1], q.ra[2], q.rb[2]
    constants = [q.rb[4 + i] for i in range(scalars)]
    q.mov(count, q.uniform)
    q.shl(q.r0, q.element_number, 2)
    for pointer in at:
        q.add(pointer, q.r0, q.uniform)
    for register in (out, *constants, fill, store):
        q.mov(register, q.uniform)
    q.ldi(q.r3, 64)
    q.ldi(q.ra[3], 4 * BLOCK)
    q.setup_dma_store_stride(0)
    with q.loop() as loop:
        for pointer, request in zip(at, (q.tmu0_s, q.tmu1_s), strict=False):
            for _ in range(ROWS):  # a TMU holds four requests safely
                q.add(pointer, pointer, q.r3).mov(request, pointer)
        q.wait_dma_store()  # of the previous block, which is still in these rows
        q.mov(q.vw_setup, fill)
        for _ in range(ROWS):
            if inputs:
                q.nop(sig=q.ldtmu0)
                q.mov(q.r0, q.r4, sig=q.ldtmu1 if inputs == 2 else None)
            body(q, [q.r0, q.r4][:inputs], constants, q.vpm)
        q.mov(q.vw_setup, store)
        q.mov(q.vw_addr, out)
        q.sub(count, count, 1, push="z")
        q.b(loop.start, cond="anynz")
        q.add(out, out, q.ra[3])
        q.nop()
        q.nop()
    q.wait_dma_store()
    q.end()


def check_length(gpu: Device, n: int) -> None:
    """Refuse a length before anything is computed. Raises: UsageError."""
    within(f"--n on {gpu.isa.label} of", n, 1, LARGEST[gpu.isa])


class Elementwise:
    """out[i] = body of in0[i], in1[i] and scalars, 32-bit elements, on all QPUs of any board.

    body(q, inputs, scalars, out) emits the instructions for one vector. `inputs` are registers it may overwrite,
    `scalars` registers with the same value in all lanes, `out` takes the result, once.
    V3D: every thread takes each W-th vector; lanes beyond n neither load nor store. VideoCore IV: every QPU takes
    neighbouring blocks of 64, and memory is padded to whole blocks, because DMA stores and TMU loads have no mask.
    """

    def __init__(
        self, gpu: Device, body: Body, inputs: Sequence[Any], scalars: Sequence[int | float], out: Any
    ) -> None:
        """Copy `inputs` to the device. inputs, out: one-dimensional, n elements of 32 bits each; `out` is the content
        of the output before the first launch. Raises: UsageError for more inputs, scalars or elements than the loop
        takes.
        """
        self.gpu = gpu
        self.n = len(out)
        check_length(gpu, self.n)
        within("the number of inputs", len(inputs), 0, INPUTS)
        within("the number of scalars", len(scalars), 0, SCALARS)
        for data in (*inputs, out):
            if data.shape != (self.n,) or data.dtype.itemsize != 4:
                raise UsageError(
                    f"an input of {data.dtype} of shape {data.shape}; allowed: {self.n} elements of 32 bits",
                    help="convert it to float32 or uint32, with as many elements as the output",
                )
        self.inputs = [self._padded(x) for x in inputs]
        self.out = self._padded(out)
        self.scalars = list(scalars)
        kernel = _loop_vc4 if gpu.isa is qpu.Isa.VC4 else _loop_v3d
        self.program = qpu.assemble(kernel, len(inputs), len(self.scalars), body, isa=gpu.isa)

    def _padded(self, data: Any) -> Buffer:
        buffer = self.gpu.zeros(-(-self.n // BLOCK) * BLOCK, data.dtype)
        buffer.array[: self.n] = data
        return buffer

    def launch(self) -> None:
        """Run once."""
        if self.gpu.isa is qpu.Isa.VC4:
            blocks = -(-self.n // BLOCK)
            qpus = min(self.gpu.qpus, blocks)
            rows = [self._row(i, blocks * i // qpus, blocks * (i + 1) // qpus) for i in range(qpus)]
            self.gpu.run(self.program, rows, timeout_s=600.0)
        else:
            groups = min(4 * self.gpu.qpus, -(-self.n // 16))
            uniforms = [self.n, 16 * groups, *self.inputs, self.out, *self.scalars]
            self.gpu.run(self.program, uniforms, qpu.v3d.Dispatch(workgroups=groups), timeout_s=600.0)

    def _row(self, qpu: int, first: int, last: int) -> list[Any]:
        y = ROWS * qpu
        buffers = [b.view(4 * BLOCK * first) for b in (*self.inputs, self.out)]
        return [last - first, *buffers, *self.scalars, vpm.vpm_write(y=y), vpm.dma_store(ROWS, y=y)]

    def result(self) -> Any:
        """The n results."""
        return self.out.numpy()[: self.n]
