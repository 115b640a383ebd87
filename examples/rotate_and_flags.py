"""Lane rotation and conditions: values move between lanes, and some lanes are written under a condition.

out[0] = lane numbers rotated by 3 places upwards, out[1] = the same, but odd lanes keep their own number.

Examples:
    uv run examples/rotate_and_flags.py --device all
"""

from __future__ import annotations

from typing import Any

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.vc4 import Asm

PLACES = 3


def kernel_v3d(q: Any) -> None:
    """V3D. Uniforms: address of out[0], address of out[1]."""
    rf = q.rf
    lane, moved, mixed, at, odd = (rf[i] for i in range(4, 9))
    q.eidx(lane)
    if q.isa is qpu.Isa.V3D71:
        q.rot(moved, lane, 16 - PLACES)  # lane j gets lane j + amount, opposite to 4.2
    else:
        q.eidx(q.r0)
        q.nop().mov(moved, q.r0, sig=q.rot(PLACES))  # lane j gets lane j - amount; whole vectors in accumulators only
    q.mov(mixed, moved)
    q.and_(odd, lane, 1)
    q.sub(q.null, odd, 0, push="pushz")  # flag A: the result is zero, so the lane is even
    q.mov(mixed, lane, cond="ifna")
    q.shl(lane, lane, 2)
    for value in (moved, mixed):
        q.nop(sig=q.ldunifrf(at))
        q.mov(q.tmud, value)
        q.add(q.tmua, at, lane)
    q.end()


def kernel_vc4(q: Asm) -> None:
    """VideoCore IV. Uniform: address of out[0], which out[1] follows."""
    q.mov(q.r0, q.element_number)
    q.nop()
    q.rotate(q.r1, q.r0, PLACES)  # lane i moves to lane i + amount
    q.setup_vpm_write()
    q.mov(q.vpm, q.r1)
    q.and_(q.null, q.r0, 1, push="z")  # flag Z: the lane is even
    q.mov(q.r1, q.r0, cond="ifnz")
    q.mov(q.vpm, q.r1)
    q.setup_dma_store(2)
    q.setup_dma_store_stride(0)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def work(gpu: Device) -> dict[str, object]:
    """Run and check."""
    out = gpu.zeros((2, 16), np.int32)
    vc4 = gpu.isa is qpu.Isa.VC4
    program = qpu.assemble(kernel_vc4 if vc4 else kernel_v3d, isa=gpu.isa)
    uniforms = [out] if vc4 else [out[0], out[1]]
    seconds = _common.median_time(lambda: gpu.run(program, uniforms), lambda: out.array.fill(-1))
    lanes = np.arange(16)
    rolled = np.roll(lanes, PLACES)
    error = np.abs(out.numpy() - [rolled, np.where(lanes % 2, lanes, rolled)])
    return _common.result(
        gpu,
        "rotate_and_flags",
        n=16,
        seconds=seconds,
        rotated=out.numpy()[0].tolist(),
        mixed=out.numpy()[1].tolist(),
        max_abs_error=float(error.max()),
        ok=not error.any(),
    )


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    _common.show(gpu, row)
    print(f"  rotated  {row['rotated']}\n  mixed    {row['mixed']}")


def run() -> int:
    """The whole example."""
    return _common.on_devices(_common.parser(__doc__).parse_args(), work, show)


if __name__ == "__main__":
    _common.main(run)
