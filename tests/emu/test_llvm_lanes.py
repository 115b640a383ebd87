"""Tests of LlvmLanes against NumpyLanes, operation by operation, bit for bit (NaN as a class)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from llvmlite import binding, ir

from qpu.emu.engine.host_cpu import VECTORS, host
from qpu.emu.engine.llvm_lanes import I32X16, LlvmLanes
from qpu.emu.engine.numpy_lanes import NumpyLanes, quiet
from tests.emu.hosts import use_vectors

N = NumpyLanes()
EDGES = np.array(
    [0, 1, 2, 3, 15, 16, 31, 32, 0x80000000, 0x80000001, 0x7FFFFFFF, 0xFFFFFFFF, 0x007FFFFF, 0x00800000, 0x807FFFFF]
    + [0x3F800000, 0xBF800000, 0x3F000000, 0x3FC00000, 0x40200000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000]
    + [0x7FC00000, 0xFFC00001, 0x33800000, 0x4F000000, 0xCF000000, 0x4F800000, 0x43000000, 0x3C00, 0x7BFF, 0x0001],
    np.uint32,
)
UNARY = "not_ clz ffloor fceil ftrunc fround itof utof itof_rz ftoi ftou h2f f2h recip rsqrt exp2 log2 sinpi".split()
BINARY = "add sub mul umulh and_ or_ xor fadd fsub fmul fadd_rz permute".split()
SHIFTS = "shl shr asr".split()
COMPARE = "eq ult slt feq flt fle".split()


def compiled(
    emit: Callable[[LlvmLanes, Any, Any], Any],
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    processor = host()
    module = ir.Module("t")
    pointer = I32X16.as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 3), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    lanes = LlvmLanes(builder, avx512=processor.avx512)
    a, b = (builder.load(p, align=4) for p in function.args[:2])
    builder.store(emit(lanes, a, b), function.args[2], align=4)
    builder.ret_void()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(opt=2, cpu=processor.cpu, features=processor.features)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(engine.get_function_address("f"))

    def run(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = np.zeros((len(x), 16), np.uint32)
        for i in range(len(x)):
            call(x[i].ctypes.data, y[i].ctypes.data, out[i].ctypes.data)
        return out

    run.engine = engine  # type: ignore[attr-defined]  # keeps the code alive
    return run


def samples(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    a = random.integers(0, 2**32, (count, 16), np.uint32)
    b = random.integers(0, 2**32, (count, 16), np.uint32)
    near = random.random((count, 16)) < 0.4  # operands of like size: cancellation, ties
    b = np.where(near, a ^ random.integers(0, 2**12, (count, 16), np.uint32) ^ np.uint32(0x80000000), b)
    pairs = np.array(np.meshgrid(EDGES, EDGES)).reshape(2, -1)
    pairs = pairs[:, : pairs.shape[1] // 16 * 16].reshape(2, -1, 16)
    return (
        np.ascontiguousarray(np.concatenate([a, pairs[0]]).astype(np.uint32)),
        np.ascontiguousarray(np.concatenate([b, pairs[1]]).astype(np.uint32)),
    )


def same(got: np.ndarray, want: np.ndarray, floats: bool, half: bool = False) -> None:
    if floats:
        nan = [np.isnan(v.view(np.float32)) for v in (got, want)]
        assert (nan[0] == nan[1]).all()
        got, want = (np.where(nan[0], 0, v) for v in (got, want))
    if half:
        nan = [((v & 0x7C00) == 0x7C00) & ((v & 0x3FF) != 0) for v in (got, want)]
        assert (nan[0] == nan[1]).all()
        got, want = (np.where(nan[0], 0, v) for v in (got, want))
    bad = np.argwhere(got != want)
    assert not len(bad), (
        f"{len(bad)} lanes differ, first {bad[0]}: {got[tuple(bad[0])]:08x} not {want[tuple(bad[0])]:08x}"
    )


@pytest.fixture(params=VECTORS)
def vectors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Code for this host, and for lesser ones."""
    use_vectors(request.param, monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("name", UNARY + BINARY + SHIFTS + COMPARE)
def test_agrees_with_numpy(name: str, vectors: str) -> None:
    a, b = samples()
    if name in SHIFTS:
        b &= np.uint32(31)
    with quiet():
        if name in UNARY:
            run = compiled(lambda v, x, y: getattr(v, name)(x))
            expected = getattr(N, name)(a)
        elif name in COMPARE:
            run = compiled(lambda v, x, y: v.select(getattr(v, name)(x, y), v.const(1), v.const(0)))
            expected = np.where(getattr(N, name)(a, b), np.uint32(1), np.uint32(0))
        else:
            run = compiled(lambda v, x, y: getattr(v, name)(x, y))
            expected = getattr(N, name)(a, b)
    floats = name in ("fadd fsub fmul fadd_rz ffloor fceil ftrunc fround h2f recip rsqrt exp2 log2 sinpi").split()
    same(run(a, b), expected, floats, half=name == "f2h")


def test_masks_and_constants(vectors: str) -> None:
    a, b = samples(50)

    def emit(v: Any, x: Any, y: Any) -> Any:
        m = v.mor(v.mand(v.ult(x, y), v.mnot(v.slt(x, y))), v.eq(v.and_(x, v.const(3)), v.const(1)))
        m = v.mand(m, v.mconst(True))
        return v.select(m, v.permute(v.lane_id(), v.const(5)), v.udiv(v.add(x, v.lane_id()), 255))

    same(compiled(emit)(a, b), emit(N, a, b), False)
