"""The smallest program that writes memory: the word 0xdeadbeef.

Examples:
    uv run examples/deadbeef.py --device all
"""

from __future__ import annotations

from typing import Any

import _common

import qpu
from qpu.device import Device
from qpu.vc4 import Asm

VALUE = 0xDEADBEEF


def store_v3d(q: Any) -> None:
    """V3D: data, then the address, from two uniforms; the one item of the workgroup is the one lane that stores."""
    q.nop(sig=q.ldunifrf(q.rf[4]))
    q.nop(sig=q.ldunifrf(q.rf[5]))
    q.mov(q.tmud, q.rf[4])
    q.mov(q.tmua, q.rf[5])
    q.end()


def store_vc4(q: Asm) -> None:
    """VideoCore IV: through the VPM; a DMA stores one word of the row. Uniform: the address."""
    q.setup_vpm_write()
    q.ldi(q.vpm, VALUE)
    q.setup_dma_store(1, 1)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def work(gpu: Device) -> dict[str, object]:
    """Store one word; its neighbours must stay zero."""
    memory = gpu.zeros(16, "uint32")
    if gpu.isa is qpu.Isa.VC4:
        program = qpu.assemble(store_vc4, isa=gpu.isa)
        seconds = _common.median_time(lambda: gpu.run(program, [memory]), lambda: memory.array.fill(0))
    else:
        program = qpu.assemble(store_v3d, isa=gpu.isa)
        seconds = _common.median_time(
            lambda: gpu.run(program, [VALUE, memory], qpu.v3d.Dispatch(workgroup_size=1)), lambda: memory.array.fill(0)
        )
    words = memory.numpy()
    error, wrong = _common.difference(words, [VALUE] + [0] * 15)
    return _common.result(
        gpu,
        "deadbeef",
        n=1,
        seconds=seconds,
        word=f"{words[0]:#010x}",
        max_abs_error=error,
        wrong=wrong,
        ok=wrong == 0,
    )


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    _common.show(gpu, row)
    print(f"  memory   {row['word']}")


def run() -> int:
    """The whole example."""
    return _common.on_devices(_common.parser(__doc__).parse_args(), work, show)


if __name__ == "__main__":
    _common.main(run)
