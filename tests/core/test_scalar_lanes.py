"""Tests of ScalarLanes against NumpyLanes, and with the semantic functions of the V3D and VideoCore IV rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpu.core.isa import Isa
from qpu.core.scalar_lanes import ScalarLanes, float_bits, float_of
from qpu.emu.engine.numpy_lanes import NumpyLanes, quiet
from qpu.v3d import ops as v3d_ops
from qpu.vc4 import ops as vc4_ops

S, N = ScalarLanes(), NumpyLanes()
EDGES = [0, 1, 0x80000000, 0x80000001, 0x7FFFFFFF, 0x007FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x7F7FFFFF,
         0xFF7FFFFF, 0x33800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x4F000000, 0xCF000000, 0x477FF000]  # fmt: skip
words = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from(EDGES))
BINARY = "add sub mul umulh and_ or_ xor fadd fsub fmul fadd_rz".split()
SHIFTS = "shl shr asr".split()
UNARY = "not_ clz ffloor fceil ftrunc fround itof utof itof_rz ftoi ftou h2f f2h".split()
COMPARE = "eq ult slt feq flt fle".split()
FLOATS = {"fadd", "fsub", "fmul", "fadd_rz", "ffloor", "fceil", "ftrunc", "fround", "h2f"}


def vec(x: int) -> np.ndarray:
    return np.full(16, x, np.uint32)


def same(name: str, got: int, want: int) -> bool:
    """Equality in which all NaNs are equal."""
    if name in FLOATS and float_of(want) != float_of(want):
        return float_of(got) != float_of(got)
    if name == "f2h" and want & 0x7FFF > 0x7C00:
        return got & 0x7FFF > 0x7C00
    return got == want


@given(words, words)
def test_like_numpy(a: int, b: int) -> None:
    with quiet():
        for name in BINARY:
            assert same(name, getattr(S, name)(a, b), int(getattr(N, name)(vec(a), vec(b))[0])), name
        for name in SHIFTS:
            assert getattr(S, name)(a, b & 31) == int(getattr(N, name)(vec(a), vec(b & 31))[0]), name
        for name in UNARY:
            assert same(name, getattr(S, name)(a), int(getattr(N, name)(vec(a))[0])), name
        for name in COMPARE:
            assert getattr(S, name)(a, b) == bool(getattr(N, name)(vec(a), vec(b))[0]), name
        assert S.udiv(a, 255) == int(N.udiv(vec(a), 255)[0])


def is_nan(x: int) -> bool:
    return float_of(x) != float_of(x)


def half_nan(x: int) -> bool:
    """Either half is a binary16 NaN."""
    return any(half & 0x7FFF > 0x7C00 for half in (x & 0xFFFF, x >> 16))


ROWS = [
    pytest.param(op, id=f"{isa}-{op.name}")
    for isa, table in ((Isa.V3D71, v3d_ops.table(Isa.V3D71)), (Isa.V3D42, v3d_ops.table(Isa.V3D42)))
    for op in table
    if op.sem is not None and op.arity == 2 and not op.implicit_reads and not op.implicit_writes
]


@pytest.mark.parametrize("op", ROWS)
def test_rows_of_v3d(op: v3d_ops.Op) -> None:
    assert op.sem is not None
    with quiet():
        for a in EDGES:
            for b in EDGES[:8]:
                want = int(op.sem(N, vec(a), vec(b))[0])
                got = op.sem(S, a, b)
                either_nan = (is_nan(got) and is_nan(want)) or (half_nan(got) and half_nan(want))
                assert got == want or either_nan, f"{op.name} {a:#x} {b:#x}: {got:#x}, {want:#x}"


def test_rows_of_videocore_iv() -> None:
    count = 0
    with quiet():
        for op in {row for row in (*vc4_ops.ADD_OPS, *vc4_ops.MUL_OPS) if row is not None and row.sem is not None}:
            for a in EDGES:
                for b in EDGES:
                    assert op.sem(S, a, b) == int(op.sem(N, vec(a), vec(b))[0]), f"{op.name} {a:#x} {b:#x}"
                    count += 1
    assert count > 5000


def test_patterns_of_values() -> None:
    assert float_bits(1.0) == 0x3F800000 and float_bits(1e300) == 0x7F800000 and float_bits(-1e300) == 0xFF800000
    assert float_bits(2.0**-149) == 1 and float_of(0xC0000000) == -2.0
