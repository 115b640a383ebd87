# ruff: noqa
# mypy: ignore-errors
# Programs in the dialect of py-videocore6, written for these tests.
import numpy as np

from qpu.compat.videocore6 import pack_unpack
from qpu.compat.videocore6.assembler import *
from qpu.compat.videocore6.driver import Driver


@qpu
def exit_qpu(asm):
    nop(sig=thrsw)
    nop(sig=thrsw)
    nop()
    nop()
    nop(sig=thrsw)
    nop()
    nop()
    nop()


@qpu
def addresses(asm, reg):
    eidx(r0, sig=ldunifrf(reg))
    shl(r0, r0, 2)
    add(reg, reg, r0)


@qpu
def scopy(asm):
    # rf1: vectors left, rf2: source, rf3: destination
    nop(sig=ldunifrf(rf1))
    addresses(asm, rf2)
    addresses(asm, rf3)
    nop(sig=ldunifrf(rf4))  # bytes of a step
    with loop as l:
        mov(tmua, rf2, sig=thrsw).add(rf2, rf2, rf4)
        nop()
        nop()
        nop(sig=ldtmu(r1))
        mov(tmud, r1)
        mov(tmua, rf3).add(rf3, rf3, rf4)
        tmuwt().sub(rf1, rf1, 1)
        mov(null, rf1, cond="pushz")
        l.b(cond="anyna")
        nop()
        nop()
        nop()
    exit_qpu(asm)


@qpu
def flow(asm):
    # a subroutine reached by a linking branch, a rotation, packs, conditions, a namespace
    addresses(asm, rf3)
    eidx(r0)
    itof(r1, r0)
    b(R.double, cond="always", set_link=True)
    nop()
    nop()
    nop()
    with namespace("tail"):
        b(R.out, cond="always")
        nop()
        nop()
        nop()
        L.skipped
        mov(r1, 0)
        L.out
    nop().rotate(r2, r1, 2)
    nop().mov(r2, r2, sig=rot(-1))
    fmov(r3.pack("l"), r2)
    fadd(r3, r3.unpack("l"), 1.0)
    band(null, r0, 1, cond="pushz")
    mov(r3, r1, cond="ifa")
    mov(tmud, r3)
    mov(tmua, rf3)
    tmuwt()
    exit_qpu(asm)
    L.double
    fadd(r1, r1, r1)
    b(link, cond="always")
    nop()
    nop()
    nop()


@qpu
def thread_numbers(asm):
    tidx(r0, sig=ldunifrf(rf3))
    shr(r0, r0, 2)
    mov(r1, 0b1111)
    band(r0, r0, r1)  # QPU
    shl(r2, r0, 4)
    eidx(r1)
    add(r1, r1, r2)
    shl(r1, r1, 2)
    add(rf3, rf3, r1)
    mov(tmud, r0)
    mov(tmua, rf3)
    tmuwt()
    exit_qpu(asm)


@qpu
def jump_of_uniforms(asm):
    addresses(asm, rf3)
    b(R.there, cond="always").unif_addr(absolute=True)
    nop()
    nop()
    nop()
    L.there
    nop(sig=ldunifrf(rf5))
    mov(tmud, rf5)
    mov(tmua, rf3)
    tmuwt()
    exit_qpu(asm)


def uniforms(drv, *values):
    unif = drv.alloc(len(values), dtype="uint32")
    unif[:] = values
    return unif.addresses()[0]


def main():
    with Driver() as drv:
        n = 5
        X = drv.alloc(n * 16, dtype="float32")
        Y = drv.alloc(n * 16, dtype="float32")
        X[:] = np.arange(n * 16)
        Y[:] = 0
        code = drv.program(scopy)
        drv.execute(code, uniforms(drv, n, X.addresses()[0], Y.addresses()[0], 64))
        assert (X == Y).all()

        Z = drv.alloc((2, 16), dtype="float32")
        Z[:] = 0
        drv.execute(drv.program(flow), uniforms=uniforms(drv, Z[1].addresses()[0]))
        lanes = np.arange(16)
        expected = np.where(lanes % 2, np.roll(2.0 * lanes, 1) + 1, 2 * lanes)
        assert (Z[0] == 0).all() and (Z[1] == expected).all(), Z

        T = drv.alloc((8, 16), dtype="uint32")
        T[:] = 99
        drv.execute(drv.program(thread_numbers), uniforms(drv, T.addresses()[0, 0]), thread=8)
        assert (T == np.arange(8)[:, None]).all(), T

        far = drv.alloc(1, dtype="float32")
        far[:] = 2.5
        drv.execute(drv.program(jump_of_uniforms), uniforms(drv, Y.addresses()[0], far.addresses()[0]))
        assert (Y[:16] == 2.5).all()
        assert pack_unpack("f", "I", [1.0]) == [0x3F800000]
        with drv.compute_shader_dispatcher() as csd:
            csd.dispatch(code, uniforms(drv, n, Y.addresses()[0], X.addresses()[0], 64))
        assert (X == Y).all()
    print("ok")


if __name__ == "__main__":
    main()
