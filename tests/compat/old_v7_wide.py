# ruff: noqa
# mypy: ignore-errors
# A wide program in the dialect of py-videocore7, written for these tests: every kind of operation, generated code,
# labels in namespaces, subroutines, reductions between batches.
from itertools import count, product

import numpy as np

from qpu.compat.videocore7.assembler import *
from qpu.compat.videocore7.assembler import Assembly, Register, qpu
from qpu.compat.videocore7.driver import Array, Driver

BINARY = {
    "int32": {
        "add": np.add, "sub": np.subtract, "imin": np.minimum, "imax": np.maximum, "band": np.bitwise_and,
        "bor": np.bitwise_or, "bxor": np.bitwise_xor,
    },
    "uint32": {
        "umin": np.minimum, "umax": np.maximum,
        "shl": lambda a, b: a << (b & 31), "shr": lambda a, b: a >> (b & 31),
        "asr": lambda a, b: (a.view("int32") >> (b & 31).astype("int32")).view("uint32"),
        "ror": lambda a, b: (a >> (b & 31)) | (a << (-b & 31)),
        "umul24": lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    },
    "float32": {
        "fadd": np.add, "fsub": np.subtract, "fmul": np.multiply, "fmin": np.minimum, "fmax": np.maximum,
        "faddnf": np.add,
    },
}  # fmt: skip
UNARY = {
    "int32": {"bnot": np.invert, "neg": np.negative, "itof": lambda a: a.astype("float32").view("int32")},
    "float32": {
        "fround": np.rint, "ffloor": np.floor, "fceil": np.ceil, "ftrunc": np.trunc, "fmov": lambda a: a,
        "ftoin": lambda a: np.rint(a).astype("int32").view("float32"),
        "ftoiz": lambda a: a.astype("int32").view("float32"),
    },
}  # fmt: skip


@qpu
def qpu_end(asm: Assembly) -> None:
    nop(sig=thrsw)
    nop(sig=thrsw)
    nop()
    nop()
    nop(sig=thrsw)
    nop()
    nop()
    nop()


@qpu
def operations(asm: Assembly, binary: list[str], unary: list[str]) -> None:
    g = globals()
    eidx(rf0, sig=ldunifrf(rf1))
    shl(rf0, rf0, 2)
    nop(sig=ldunifrf(rf2))
    add(rf1, rf1, rf0, sig=ldunifrf(rf3))
    add(rf2, rf2, rf0).mov(rf4, rf3)
    mov(tmua, rf1, sig=thrsw).add(rf4, rf4, rf0)
    mov(rf5, 4)
    shl(rf5, rf5, 4)
    nop(sig=ldtmu(rf10))
    mov(tmua, rf2, sig=thrsw)
    nop()
    nop()
    nop(sig=ldtmu(rf11))
    for name in binary:
        g[name](rf12, rf10, rf11)
        mov(tmud, rf12)
        mov(tmua, rf4)
        tmuwt()
        add(rf4, rf4, rf5)
    for name in unary:
        g[name](rf12, rf10)
        mov(tmud, rf12)
        mov(tmua, rf4).add(rf4, rf4, rf5)
        tmuwt()
    qpu_end(asm)


@qpu
def halves(asm: Assembly) -> None:
    # one float in both halves of a word, then products of all combinations of halves and signs
    eidx(rf0, sig=ldunifrf(rf1))
    shl(rf0, rf0, 2)
    nop(sig=ldunifrf(rf2))
    add(tmua, rf1, rf0, sig=thrsw)
    mov(rf5, 4)
    mov(rf6, 1.0)
    nop(sig=ldtmu(rf10))
    shl(rf5, rf5, 4).fmul(rf10, rf10, rf6)
    add(rf2, rf2, rf0)
    fadd(rf12.pack("l"), rf10, 0.5)
    fmul(rf12.pack("h"), rf10, 2.0)
    for a, b in product("lh", "lh"):
        fadd(rf13, rf12.unpack(a), rf12.unpack(b)).fmul(rf14, rf12.unpack(a), rf12.unpack(b))
        fsub(rf13, rf14, rf13)
        mov(tmud, rf13)
        mov(tmua, rf2).add(rf2, rf2, rf5)
        tmuwt()
    fadd(rf13, rf10.unpack("abs"), rf12.unpack("l"))
    mov(tmud, rf13)
    mov(tmua, rf2)
    tmuwt()
    qpu_end(asm)


@qpu
def conditions(asm: Assembly) -> None:
    # a lane is written where its number is below a uniform and even, another value where it is not
    eidx(rf0, sig=ldunifrf(rf1))
    shl(rf2, rf0, 2)
    add(rf1, rf1, rf2, sig=ldunifrf(rf3))
    band(null, rf0, 1, cond="pushz")
    sub(null, rf0, rf3, cond="andn")
    mov(rf4, 3, cond="ifa")
    mov(rf4, 5, cond="ifna")
    sub(null, rf0, 4, cond="pushn")
    add(rf4, rf4, 8, cond="ifa").fmul(rf5, rf4, rf4, cond="ifa")
    mov(tmud, rf4)
    mov(tmua, rf1)
    tmuwt()
    qpu_end(asm)


@qpu
def collatz(asm: Assembly, steps: Register = rf20) -> None:
    # steps of 3n + 1 until 1 in every lane: a loop in a subroutine, branches both ways
    eidx(rf0, sig=ldunifrf(rf1))
    nop(sig=ldunifrf(rf2))
    shl(rf3, rf0, 2)
    add(tmua, rf1, rf3, sig=thrsw)
    add(rf2, rf2, rf3)
    mov(steps, 0)
    nop(sig=ldtmu(rf4))
    b(R.count, cond="always", set_link=True)
    nop()
    nop()
    nop()
    mov(tmud, steps)
    mov(tmua, rf2)
    tmuwt()
    b(R.done, cond="always")
    nop()
    nop()
    nop()

    L.count
    with namespace("count"):
        L.again
        sub(null, rf4, 1, cond="pushz")
        b(R.leave, cond="alla")
        nop()
        nop()
        nop()
        add(steps, steps, 1, cond="ifna")
        add(rf5, rf4, rf4)
        add(rf5, rf5, rf4)
        add(rf5, rf5, 1).mov(rf6, rf4)
        shr(rf6, rf6, 1)
        sub(null, rf4, 1, cond="pushz")
        mov(rf7, rf4, cond="ifa")
        mov(rf7, rf6, cond="ifna")
        band(null, rf4, 1, cond="pushz")
        mov(rf8, rf5)
        mov(rf8, rf7, cond="ifa")
        sub(null, rf4, 1, cond="pushz")
        mov(rf4, rf8, cond="ifna")
        b(R.again, cond="always")
        nop()
        nop()
        nop()
        L.leave
    b(link, cond="always")
    nop()
    nop()
    nop()

    L.done
    qpu_end(asm)


@qpu
def unrolled(asm: Assembly, rows: int) -> None:
    # a sum of many rows: addresses ahead, uniforms at an address, a rotation tree; about 6 instructions a row
    eidx(rf0, sig=ldunifrf(rf1))
    shl(rf0, rf0, 2)
    nop(sig=ldunifrf(rf2))
    add(rf1, rf1, rf0, sig=ldunifrf(rf3))
    mov(unifa, rf3).add(rf2, rf2, rf0)
    mov(rf5, 4)
    shl(rf5, rf5, 4)
    mov(rf6, 0)
    mov(rf7, 0)
    for row in range(rows):
        mov(tmua, rf1, sig=thrsw).add(rf1, rf1, rf5)
        nop(sig=ldunifarf(rf8))
        nop()
        nop(sig=ldtmu(rf9))
        fmul(rf10, rf9, rf8)
        fadd(rf6 if row % 2 else rf7, rf6 if row % 2 else rf7, rf10)
    fadd(rf6, rf6, rf7)
    for n in (1, 2, 4, 8):
        rotate(rf7, rf6, n)
        fadd(rf6, rf6, rf7)
    mov(tmud, rf6)
    mov(tmua, rf2)
    tmuwt()
    qpu_end(asm)


def run(drv: Driver, code: Array, *values, **named) -> None:
    unif = drv.alloc(len(values), dtype=np.uint32)
    unif[:] = [v.addresses().ravel()[0] if isinstance(v, np.ndarray) else v for v in values]
    drv.execute(code, unif.addresses()[0], **named)


def main() -> None:
    random = np.random.default_rng(7)
    with Driver() as drv:
        for dtype, table in BINARY.items():
            X, Y = drv.alloc(16, dtype=dtype), drv.alloc(16, dtype=dtype)
            if dtype == "float32":
                X[:], Y[:] = random.uniform(-100, 100, (2, 16)).astype(dtype)
            else:
                X[:], Y[:] = random.integers(0, 2**31, (2, 16)).astype(dtype)
                X[::2] = np.invert(X[::2])
            unary = UNARY.get(dtype, {})
            Z = drv.alloc((len(table) + len(unary), 16), dtype=dtype)
            code = drv.program(operations, list(table), list(unary))
            run(drv, code, X, Y, Z)
            for row, (name, f) in zip(count(), table.items()):
                assert (Z[row].view("uint32") == f(np.array(X), np.array(Y)).view("uint32")).all(), (name, Z[row])
            for row, (name, f) in zip(count(len(table)), unary.items()):
                assert (Z[row] == f(np.array(X))).all() or (
                    Z[row].view("uint32") == f(np.array(X)).view("uint32")
                ).all(), (name, Z[row])

        X, Z = drv.alloc(16, dtype=np.float32), drv.alloc((5, 16), dtype=np.float32)
        X[:] = np.arange(-8, 8) / 4
        run(drv, drv.program(halves), X, Z)
        half = {"l": np.array(X) + 0.5, "h": np.array(X) * 2}
        for row, (a, b) in enumerate(product("lh", "lh")):
            assert (Z[row] == half[a] * half[b] - (half[a] + half[b])).all(), (a, b, Z[row])
        assert (Z[4] == abs(np.array(X)) + half["l"]).all(), Z[4]

        I = drv.alloc(16, dtype=np.int32)
        run(drv, drv.program(conditions), I, 10)
        lanes = np.arange(16)
        assert (I == np.where((lanes % 2 == 0) & (lanes < 10), 3, 5) + np.where(lanes < 4, 8, 0)).all(), I

        N, S = drv.alloc(16, dtype=np.uint32), drv.alloc(16, dtype=np.uint32)
        N[:] = np.arange(1, 17)
        run(drv, drv.program(collatz), N, S)
        assert S.tolist() == [0, 1, 7, 2, 5, 8, 16, 3, 19, 6, 14, 9, 9, 17, 17, 4], S

        rows = 150
        A, F, T = (
            drv.alloc((rows, 16), dtype=np.float32),
            drv.alloc(rows, dtype=np.float32),
            drv.alloc(16, dtype=np.float32),
        )
        A[:], F[:] = random.uniform(-1, 1, (rows, 16)), random.uniform(-1, 1, rows)
        code = drv.program(unrolled, rows)
        assert len(code) > 900
        run(drv, code, A, T, F)
        assert np.allclose(T, (np.array(A) * np.array(F)[:, None]).sum(), atol=1e-3), T
    print("ok")


if __name__ == "__main__":
    main()
