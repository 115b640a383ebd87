# ruff: noqa
# mypy: ignore-errors
# Programs in the dialect of PyVideoCore, written for these tests.
import struct

import numpy as np

from qpu.compat.videocore.assembler import assemble, get_label_position, qpu
from qpu.compat.videocore.driver import Driver, DriverError


def mask(*lanes):
    values = [1] * 16
    for lane in lanes:
        values[lane] = 0
    return values


@qpu
def hello_world(asm):
    setup_dma_load(nrows=2)
    start_dma_load(uniform)
    wait_dma_load()
    setup_vpm_read(nrows=2)
    setup_vpm_write()
    mov(r0, vpm)
    mov(r1, vpm)
    fadd(vpm, r0, r1)
    setup_dma_store(nrows=1)
    start_dma_store(uniform)
    wait_dma_store()
    exit()


@qpu
def load_row(asm, address, step):
    mov(tmu0_s, address)
    nop(sig="load tmu0")
    iadd(address, address, step)


@qpu
def sgemm(asm, rows):
    # C[rows, 16] = alpha A[rows, k] B[k, 16]; A by the uniform stream, B by the TMU
    K, B, STEP, C, ALPHA = ra0, ra1, rb2, rb3, rb4
    # scalars, one a lane of r2
    for lane in range(2):
        ldi(null, mask(lane), set_flags=True)
        mov(r2, uniform, cond="zs", set_flags=False)
    rotate(broadcast, r2, 0)
    mov(K, r5, set_flags=False)
    rotate(broadcast, r2, -1)
    mov(rb5, r5)
    mov(C, uniform)
    mov(ALPHA, uniform)
    ldi(STEP, 64)
    mutex_acquire()  # all QPUs use the same rows of the VPM
    setup_vpm_write(mode="32bit horizontal", Y=0)
    ldi(ra2, rows)

    L.row
    mov(r3, 0)
    shl(r1, element_number, 2)
    iadd(B, r1, rb5)
    mov(ra3, K)

    L.k
    load_row(asm, B, STEP)
    fmul(r0, r4, uniform)
    isub(ra3, ra3, 1)
    jzc(L.k)
    fadd(r3, r3, r0, set_flags=False)
    nop()
    nop()

    fmul(vpm, r3, ALPHA)
    isub(ra2, ra2, 1)
    jzc_any(L.row)
    nop()
    nop()
    nop()

    setup_dma_store(mode="32bit horizontal", Y=0, nrows=rows)
    mov(r1, 0)
    setup_dma_store_stride(r1, tmp_reg=r2)
    start_dma_store(C)
    wait_dma_store()
    mutex_release()
    exit()


@qpu
def packs(asm):
    # bytes of a word as floats, halves joined, a per-lane condition
    mov(ra0, uniform)
    nop()
    fmax(r0, ra0.unpack("8a"), ra0.unpack("8a"))
    ldi(ra1, 0)
    nop()
    fadd(ra1.pack("16b"), r0, 0.0)
    imin(r1, element_number, 3)
    bxor(r1, r1, 3)
    setup_vpm_write()
    mov(r2, -1, cond="zs", set_flags=False)
    bnot(r2, r2, cond="zs", set_flags=False)
    mov(r2, ra1, cond="zc", set_flags=False)
    mov(vpm, r2)
    setup_dma_store(nrows=1)
    start_dma_store(uniform)
    wait_dma_store()
    exit(interrupt=True)


@qpu
def endless(asm):
    L.here
    jmp(L.here)
    nop()
    nop()
    nop()
    exit()


def main():
    rng = np.random.default_rng(1)
    with Driver(data_area_size=1 << 20) as drv:
        a, b = rng.random((2, 16)).astype("float32")
        inp, out = drv.copy(np.r_[a, b]), drv.alloc(16, "float32")
        drv.execute(n_threads=1, program=drv.program(hello_world), uniforms=[inp.address, out.address])
        np.testing.assert_allclose(out, a + b, rtol=1e-6)

        k, rows, threads = 9, 4, 3
        A = rng.random((threads, rows, k)).astype("float32")
        B = drv.copy(rng.random((k, 16)).astype("float32"))
        C = drv.alloc((threads, rows, 16), "float32")
        alpha = struct.unpack("I", struct.pack("f", 2.0))[0]
        uniforms = drv.alloc((threads, 4 + rows * k), "uint32")
        uniforms[:, 0], uniforms[:, 1], uniforms[:, 3] = k, B.address, alpha
        uniforms[:, 2] = C.addresses()[:, 0, 0]
        uniforms[:, 4:] = A.reshape(threads, -1).view("uint32")
        drv.execute(n_threads=threads, program=drv.program(sgemm, rows), uniforms=uniforms, timeout=1000)
        np.testing.assert_allclose(C, 2 * A @ np.array(B), rtol=1e-5)

        out = drv.alloc(16, "uint32")
        drv.execute(1, drv.program(assemble(packs)), [0x000000FF, out.address])
        assert list(out) == [0x3C000000] * 3 + [0] * 13, [hex(w) for w in out]
        assert get_label_position(endless, "here") == 0
        try:
            drv.execute(1, drv.program(endless), timeout=10)
        except DriverError as error:
            assert "timeout" in str(error)
        try:
            drv.alloc(1 << 20, "float32")
        except DriverError as error:
            assert "data_area_size" in str(error)
    print("ok")


if __name__ == "__main__":
    main()
