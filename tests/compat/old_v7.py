# ruff: noqa
# mypy: ignore-errors
# Programs in the dialect of py-videocore7, written for these tests.
import numpy as np

from qpu.compat.videocore7.assembler import *
from qpu.compat.videocore7.assembler import Assembly, Register, qpu
from qpu.compat.videocore7.driver import Array, Driver


@qpu
def qpu_exit(asm: Assembly) -> None:
    nop(sig=thrsw)
    nop(sig=thrsw)
    nop()
    nop()
    nop(sig=thrsw)
    nop()
    nop()
    nop()


@qpu
def saxpy(asm: Assembly, reg_a: Register = rf10) -> None:
    # uniforms: vectors a thread, a, x, y; a thread works on its part
    tidx(rf1, sig=ldunifrf(rf2))
    shr(rf1, rf1, 2)
    band(rf1, rf1, 0b1111)
    umul24(rf1, rf1, rf2, sig=ldunifrf(reg_a))
    shl(rf1, rf1, 4)
    eidx(rf3)
    add(rf1, rf1, rf3, sig=ldunifrf(rf4))
    shl(rf1, rf1, 2)
    nop(sig=ldunifrf(rf5))
    add(rf4, rf4, rf1)
    add(rf5, rf5, rf1)
    mov(rf6, 4)
    shl(rf6, rf6, 4)
    with loop as l:
        mov(tmua, rf4).add(rf4, rf4, rf6)
        mov(tmua, rf5, sig=thrsw)
        nop()
        sub(rf2, rf2, 1, cond="pushz")
        nop(sig=ldtmu(rf7))
        fmul(rf7, rf7, reg_a, sig=ldtmu(rf8))
        fadd(tmud, rf7, rf8)
        mov(tmua, rf5).add(rf5, rf5, rf6)
        tmuwt()
        l.b(cond="anyna")
        nop()
        nop()
        nop()
    qpu_exit(asm)


@qpu
def words(asm: Assembly) -> None:
    # rotation, replication, special function, half floats, conditions
    eidx(rf1, sig=ldunifrf(rf9))
    itof(rf2, rf1)
    shl(rf1, rf1, 2)
    add(rf9, rf9, rf1)
    rotate(rf3, rf2, 1)
    mov(rep, rf3)
    fadd(rf4, rf2, 1.0)
    recip(rf5, rf4)
    nop()
    nop()
    fmul(rf5, rf5, rf4)
    vfpack(rf6, rf2, rf5)
    fadd(rf6, rf6.unpack("l"), rf6.unpack("h"))
    mov(tmud, rf6)
    mov(tmua, rf9)
    tmuwt()
    qpu_exit(asm)


def main() -> None:
    with Driver() as drv:
        threads, vectors = 16, 3
        X: Array = drv.alloc(threads * vectors * 16, dtype=np.float32)
        Y: Array = drv.alloc(threads * vectors * 16, dtype=np.float32)
        X[:] = np.arange(X.size)
        Y[:] = 1
        unif = drv.alloc(4, dtype=np.uint32)
        unif[0], unif[2], unif[3] = vectors, X.addresses().item(0), Y.addresses().item(0)
        unif[1] = np.float32(0.5).view(np.uint32)
        drv.execute(drv.program(saxpy), uniforms=unif.addresses().item(0), thread=threads)
        assert (Y == 0.5 * np.arange(X.size) + 1).all(), Y

        Z = drv.alloc(16, dtype=np.float32)
        unif[0] = Z.addresses().item(0)
        drv.execute(drv.program(words), uniforms=unif.addresses().item(0))
        assert np.allclose(Z, np.arange(16) + 1, rtol=1e-3), Z
    print("ok")


if __name__ == "__main__":
    main()
