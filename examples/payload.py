"""Initial state of a program: ids of workgroup, item, QPU and lane.

Examples:
    uv run examples/payload.py --device all
"""

from __future__ import annotations

from typing import Any

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.vc4 import Asm, vpm

GROUPS, SIZE = (3, 2, 2), 16


def payload_v3d(q: Any) -> None:
    """Each item stores its two payload words at out + 8 * (16 * workgroup + lane). Uniforms: out, groups in x and y."""
    rf = q.rf
    xy = rf[0] if q.isa is qpu.Isa.V3D42 else rf[3]
    z, out, across, down, at, lane, y = rf[2], *(rf[i] for i in range(4, 10))
    for register in (out, across, down):
        q.nop(sig=q.ldunifrf(register))
    q.shl(at, z, -16)  # -16 shifts by 16: only the low five bits count
    q.shr(at, at, -16)
    q.nop().umul24(at, at, down)
    q.shr(y, xy, -16)
    q.add(at, at, y)
    q.nop().umul24(at, at, across)
    q.shl(lane, xy, -16)
    q.shr(lane, lane, -16)
    q.add(at, at, lane)
    q.shl(at, at, 4)
    q.eidx(lane)
    q.add(at, at, lane)
    q.shl(at, at, 3)
    q.add(at, at, out)
    q.mov(q.tmud, xy)
    q.mov(q.tmua, at)
    q.add(at, at, 4)
    q.mov(q.tmud, z)
    q.mov(q.tmua, at)
    q.end()


def payload_vc4(q: Asm) -> None:
    """A QPU can read its number and those of its lanes. Uniforms: VPM set-up, DMA set-up, out."""
    q.mov(q.vw_setup, q.uniform)
    q.mov(q.vpm, q.element_number)
    q.mov(q.vpm, q.qpu_number)
    q.mov(q.vw_setup, q.uniform)
    q.setup_dma_store_stride(0)
    q.mov(q.vw_addr, q.uniform)
    q.wait_dma_store()
    q.end()


def work(gpu: Device) -> dict[str, object]:
    """Run, decode and check."""
    if gpu.isa is qpu.Isa.VC4:
        out = gpu.zeros((gpu.qpus, 2, 16), np.uint32)
        program = qpu.assemble(payload_vc4, isa=gpu.isa)
        rows = [[vpm.vpm_write(y=2 * i), vpm.dma_store(2, y=2 * i), out[i]] for i in range(gpu.qpus)]
        seconds = _common.median_time(lambda: gpu.run(program, rows), lambda: out.array.fill(99))
        words = out.numpy()
        lanes, numbers = words[:, 0], words[:, 1]
        # The hardware chooses the QPU for each program; all lanes of a program read the same number.
        expected = np.minimum(np.broadcast_to(numbers[:, :1], numbers.shape), gpu.qpus - 1)
        error, wrong = _common.difference(words, np.stack([np.broadcast_to(np.arange(16), lanes.shape), expected], 1))
        found: dict[str, object] = {"lanes": lanes[0].tolist(), "qpu_numbers": numbers[:, 0].tolist()}
        n = gpu.qpus
    else:
        n = GROUPS[0] * GROUPS[1] * GROUPS[2]
        out = gpu.zeros((n, SIZE, 2), np.uint32)
        program = qpu.assemble(payload_v3d, isa=gpu.isa)
        seconds = _common.median_time(
            lambda: gpu.run(program, [out, *GROUPS[:2]], qpu.v3d.Dispatch(workgroups=GROUPS, workgroup_size=SIZE)),
            lambda: out.array.fill(0xFFFFFFFF),
        )
        words = out.numpy()
        x, y, z = words[:, :, 0] & 0xFFFF, words[:, :, 0] >> 16, words[:, :, 1] & 0xFFFF
        local = words[:, :, 1] >> 26  # six bits for up to 64 items
        number = (z.astype(np.int64) * GROUPS[1] + y) * GROUPS[0] + x
        order = np.broadcast_to(np.arange(n)[:, None], number.shape)
        items = np.broadcast_to(np.arange(SIZE), local.shape)
        error, wrong = _common.difference(np.stack([number, local]), np.stack([order, items]))
        found = {
            "workgroups": [[int(v[i, 0]) for v in (x, y, z)] for i in range(n)],
            "local": local[0].tolist(),
            "registers": ["rf0" if gpu.isa is qpu.Isa.V3D42 else "rf3", "rf2"],
        }
    return _common.result(
        gpu, "payload", n=n, seconds=seconds, **found, max_abs_error=error, wrong=wrong, ok=wrong == 0
    )


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    _common.show(gpu, row)
    for key in ("registers", "workgroups", "local", "lanes", "qpu_numbers"):
        if key in row:
            print(f"  {key:12} {row[key]}")


def run() -> int:
    """The whole example."""
    return _common.on_devices(_common.parser(__doc__).parse_args(), work, show)


if __name__ == "__main__":
    _common.main(run)
