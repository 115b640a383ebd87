"""Programs of the hardware tests, one for each family."""

from __future__ import annotations

from typing import Any

import qpu
from qpu.core.isa import Isa

INT_OPS = {
    Isa.VC4: ("add", "sub", "and_", "or_", "xor", "shl", "shr", "asr", "ror", "min", "max"),
    Isa.V3D42: ("add", "sub", "and_", "or_", "xor", "shl", "shr", "asr", "ror", "min", "max", "umin", "umax"),
    Isa.V3D71: ("add", "sub", "and_", "or_", "xor", "shl", "shr", "asr", "ror", "min", "max", "umin", "umax"),
}


def _binary_v3d(q: Any, op: str) -> None:
    for n in (11, 12, 13):
        q.nop(sig=q.ldunifrf(q.rf[n]))
    q.eidx(q.rf[10])
    q.shl(q.rf[10], q.rf[10], 2)
    q.add(q.tmua, q.rf[11], q.rf[10])
    q.nop(sig=q.ldtmu(q.rf[14]))
    q.add(q.tmua, q.rf[12], q.rf[10])
    q.nop(sig=q.ldtmu(q.rf[15]))
    getattr(q, op)(q.tmud, q.rf[14], q.rf[15])
    q.add(q.tmua, q.rf[13], q.rf[10])
    q.tmuwt(q.null)
    q.end()


def _binary_vc4(q: Any, op: str) -> None:
    q.shl(q.r0, q.element_number, 2)
    q.add(q.tmu0_s, q.r0, q.uniform)
    q.nop(sig=q.ldtmu0)
    q.mov(q.r1, q.r4)
    q.add(q.tmu0_s, q.r0, q.uniform)
    q.setup_vpm_write()
    q.nop(sig=q.ldtmu0)
    getattr(q, op)(q.vpm, q.r1, q.r4)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def binary(isa: Isa, op: str) -> qpu.Program:
    """out[lane] = op(a[lane], b[lane]); uniforms: a, b, out, 16 words each."""
    return qpu.assemble(_binary_vc4 if isa is Isa.VC4 else _binary_v3d, op, isa=isa)


def endless(isa: Isa) -> qpu.Program:
    """A program that never ends."""
    if isa is Isa.VC4:
        return qpu.assemble(":l\nbrr -, :l\nnop\nnop\nnop\n", isa=isa)
    return qpu.assemble("l: b l\nnop\nnop\nnop\nnop ; nop ; thrsw\nnop\nnop\n", isa=isa)


def _long_v3d(q: Any) -> None:
    q.nop(sig=q.ldunifrf(q.rf[10]))
    with q.loop() as body:
        q.sub(q.rf[10], q.rf[10], 1, push="pushz")
        q.b(body.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.end()


def long(isa: Isa) -> qpu.Program:
    """A program that counts down from its uniform: 5 or 6 instructions a round, with state changes in each."""
    if isa is Isa.VC4:
        text = (
            "mov r0, unif\nnop\n:l\nsub.setf r0, r0, 1\nbrr.anyz -, :e\nnop\nnop\nnop\nbrr -, :l\nnop\nnop\nnop\n:e\n"
        )
        return qpu.assemble(text + "mov interrupt, 1\nnop; thrend\nnop\nnop\n", isa=isa)
    return qpu.assemble(_long_v3d, isa=isa)
