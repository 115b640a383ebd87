"""Execution of single instructions on the reference engine's registers, without a scheduler, against the model."""

from __future__ import annotations

import numpy as np

from qpu.emu.vc4.state import Bank, Group, Qpu
from qpu.emu.vc4.units import Units
from tests.emu.vc4 import model as model
from tests.emu.vc4.rig import Rig

EDGES = [
    0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000, 0x7FFFFFFF, 0x80000000,
    0x80000001, 0xFFFFFFFF, 0xFFFFFFFE, 31, 32, 33, 0x3F800000, 0xBF800000, 0x3F000000, 0x40490FDB, 0x7F800000,
    0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x80800000, 0x007FFFFF, 0x00000001,
    0x807FFFFF, 0x4EFFFFFF, 0x4F000000, 0xCF000000, 0xCF000001, 0x4B7FFFFF, 0x33800000, 0x3F7FFFFF, 0x38800000,
    0x387FFFFF, 0x477FE000, 0x477FF000, 0x47800000, 0x3C003C00, 0x7C007BFF, 0x03FF8001, 0x3B808081, 0x01020304,
    0x80FF7F00,
]  # fmt: skip

ADD_CODES = [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 30, 31]


class Chip:
    """A bank and a group without a scheduler, so that single steps can be compared with the model."""

    def __init__(self, n: int = 3) -> None:
        self.rig = Rig(strict=False)
        execution = self.rig.machine.launch([])
        self.bank = Bank(n)
        self.qpus = [Qpu(q) for q in range(n)]
        self.units: Units = execution._units
        self.n = n

    def group(self, ids: list[int]) -> Group:
        return Group(ids, self.qpus, self.bank)

    def randomise(self, rng: np.random.Generator) -> None:
        bank = self.bank
        edges = np.array(EDGES, np.uint32)
        for array in (bank.a, bank.b, bank.acc, bank.latch_a, bank.latch_b, bank.latch_mul):
            raw = rng.integers(0, 1 << 32, array.shape, np.uint32)
            near = (raw & np.uint32(0x80FFFFFF)) | rng.integers(60, 70, array.shape, np.uint32) << np.uint32(24)
            pick = rng.integers(0, 4, array.shape)
            array[...] = np.where(pick == 0, raw, np.where(pick == 1, near, rng.choice(edges, array.shape)))
        for flag in (bank.z, bank.neg, bank.c):
            flag[...] = rng.integers(0, 2, flag.shape).astype(bool)

    def state(self, q: int) -> model.State:
        b = self.bank
        return model.State(
            b.a[:, q].tolist(), b.b[:, q].tolist(), b.acc[:, q].tolist(),
            b.z[q].tolist(), b.neg[q].tolist(), b.c[q].tolist(),
            b.latch_a[q].tolist(), b.latch_b[q].tolist(), b.latch_mul[q].tolist(),
        )  # fmt: skip
