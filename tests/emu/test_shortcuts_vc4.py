"""Every shortcut of a VideoCore IV operation against its row's semantic function, on stratified operands.

Shortcuts: the reference engine's `reference_shortcuts`, `LlvmLanes.fadd_rz` on hosts without AVX-512, and the raw sums
and products of the compiled engine's fast variant. The oracle is `op.sem` over NumPy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from qpu.core.optable import Op
from qpu.emu.engine.numpy_lanes import NumpyLanes, quiet
from qpu.emu.vc4.reference_shortcuts import SHORTCUTS
from qpu.vc4 import sem
from qpu.vc4.ops import TABLE, is_move

N = NumpyLanes()
FLOATS = ("fadd", "fsub", "fmul")
SUITE, SOAK = 10**6, 10**8  # operand pairs per operation
ROUND = 1 << 16  # vectors of a round
# One range of exponents for a, one for b: everything, ordinary numbers, both ends and both sides of them.
STRATA = (
    ((0, 256), (0, 256)),
    ((100, 150), (100, 150)),
    ((120, 135), (120, 135)),
    ((1, 30), (1, 30)),
    ((0, 3), (0, 3)),
    ((0, 3), (125, 129)),
    ((60, 66), (60, 66)),
    ((190, 194), (190, 194)),
    ((225, 255), (225, 255)),
    ((250, 256), (254, 256)),
)
MANTISSAS = np.array([0, 1, 2, 0x400000, 0x3FFFFF, 0x7FFFFF, 0x7FFFFE, 0x7FFFF0, 0x2AAAAA, 0x555555], np.uint32)


def operands(pairs: int, seed: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors of 16 lanes, `pairs` lanes in all, a stratum and a way to draw mantissas after the other."""
    random = np.random.default_rng(seed)
    rest = -(-pairs // 16)
    turn = 0
    while rest > 0:
        count = min(rest, ROUND // (4 * len(STRATA)))
        shape = (count, 16)
        drawn = []
        for low, high in STRATA[turn % len(STRATA)]:
            mantissa = random.integers(0, 1 << 23, shape, np.uint32)
            if turn // len(STRATA) % 2:
                mantissa = np.where(random.random(shape) < 0.7, random.choice(MANTISSAS, shape), mantissa)
            exponent = random.integers(low, high, shape, np.uint32) << np.uint32(23)
            sign = random.integers(0, 2, shape, np.uint32) << np.uint32(31)
            drawn.append(mantissa | exponent | sign)
        a, b = drawn
        if turn // len(STRATA) % 4 > 1:  # operands of like size and other sign: cancellation, ties
            b = np.where(random.random(shape) < 0.6, a ^ random.integers(0, 1 << 12, shape, np.uint32) ^ 1 << 31, b)
        yield a.astype(np.uint32), b.astype(np.uint32)
        rest -= count
        turn += 1


def agree(name: str, got: np.ndarray, want: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    bad = np.argwhere(got != want)
    if len(bad):
        at = tuple(bad[0])
        text = f"{name} {a[at]:08x} {b[at]:08x}: {got[at]:08x} instead of {want[at]:08x}"
        raise AssertionError(f"{len(bad)} of {got.size} lanes differ, first {text}")


def alike(a: np.ndarray, b: np.ndarray, want: np.ndarray) -> list[np.ndarray]:
    """Indices of lanes in small groups of like results: a shortcut that falls back does so for all lanes of a call."""
    magnitude = np.uint32(0x7FFFFFFF)
    denormal = np.minimum(a & magnitude, b & magnitude) < np.uint32(0x00800000)
    order = np.lexsort(((want & magnitude).ravel(), denormal.ravel()))
    return [order[i : i + 256].reshape(-1, 16) for i in range(0, len(order), 256)]


def compare_reference(pairs: int, seed: int) -> None:
    with quiet():
        for a, b in operands(pairs, seed):
            for name in FLOATS:
                op = TABLE[name]
                assert op.sem is not None
                fast = SHORTCUTS[op.sem]
                want = op.sem(N, a, b)
                agree(name, fast(N, a, b), want, a, b)
                for lanes in alike(a, b, want):
                    x, y, w = (z.ravel()[lanes] for z in (a, b, want))
                    agree(name, fast(N, x, y), w, x, y)


@pytest.mark.parametrize(
    ("a", "b", "want"), [(0x7D6C0EF8, 0xFF7FFFFF, 0xFF713F0F), (0xFECA9AFB, 0x7F7FFFFF, 0x7F1AB281)]
)
def test_sums_near_the_top_of_the_range(a: int, b: int, want: int) -> None:
    x, y = (np.full((1, 16), word, np.uint32) for word in (a, b))
    fast = SHORTCUTS[sem.fadd]
    with quiet():
        assert (fast(N, x, y) == want).all() and (fast(N, y, x) == want).all()


def test_reference_shortcuts() -> None:
    compare_reference(SUITE, 1)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_reference_shortcuts_for_long(part: int) -> None:
    compare_reference(SOAK // 10, 100 + part)


def test_every_reference_shortcut_is_compared() -> None:
    assert {TABLE[name].sem for name in FLOATS} == set(SHORTCUTS)


def test_moves_return_their_operand() -> None:
    moves = [op for op in TABLE if is_move(op)]
    assert len(moves) > 5
    for op in moves:
        assert op.sem is not None
        for a, _ in operands(1000):
            assert (op.sem(N, a, a) == a).all()


class Native:
    """A float operation as machine code over whole arrays. raw: as the compiled engine's fast variant does it."""

    def __init__(self, op: Op, *, raw: bool) -> None:
        llvm_lanes = pytest.importorskip("qpu.emu.engine.llvm_lanes", reason="llvmlite is not installed")
        from llvmlite import binding, ir

        from qpu.emu.engine.host_cpu import host
        from qpu.emu.vc4.translate import raw_result

        i64, vector = llvm_lanes.I64, llvm_lanes.I32X16
        pointer, module = ir.PointerType(), ir.Module("t")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 3 + [i64]), "f")
        b = ir.IRBuilder(function.append_basic_block())
        v = llvm_lanes.LlvmLanes(b, avx512=host().avx512)
        mode = llvm_lanes.FloatMode(v, zero_denormals=raw)
        start, loop, done = b.block, function.append_basic_block(), function.append_basic_block()
        b.branch(loop)
        b.position_at_end(loop)
        at = b.phi(i64)
        at.add_incoming(i64(0), start)
        places = [b.gep(p, [b.shl(at, i64(6))], source_etype=ir.IntType(8)) for p in function.args[:3]]
        x, y = (b.load(p, typ=vector) for p in places[:2])
        x.align = y.align = 4
        assert op.sem is not None
        result = sem.flush(v, raw_result(v, op, x, y)) if raw else op.sem(v, x, y)
        b.store(result, places[2]).align = 4
        after = b.add(at, i64(1))
        at.add_incoming(after, b.block)
        b.cbranch(b.icmp_unsigned("<", after, function.args[3]), loop, done)
        b.position_at_end(done)
        mode.restore()
        b.ret_void()
        machine = binding.Target.from_default_triple().create_target_machine(
            opt=2, cpu=host().cpu, features=host().features
        )
        self.engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
        self.engine.finalize_object()
        kind: Callable[..., Any] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
        self.call = kind(self.engine.get_function_address("f"))

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        out = np.zeros_like(a)
        self.call(a.ctypes.data, b.ctypes.data, out.ctypes.data, len(a))
        return out


def compare_native(pairs: int, seed: int, vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    from tests.emu.hosts import use_vectors

    raw = vectors == "raw"
    use_vectors("avx512" if raw else vectors, monkeypatch)
    natives = {name: Native(TABLE[name], raw=raw) for name in FLOATS}
    with quiet():
        for a, b in operands(pairs, seed):
            for name, native in natives.items():
                op = TABLE[name]
                assert op.sem is not None
                got, want = native(a, b), op.sem(N, a, b)
                if raw:  # the compiled engine undoes what met a NaN
                    got = np.where(np.isnan(got.view(np.float32)), want, got)
                agree(f"{name} ({vectors})", got, want, a, b)


@pytest.mark.parametrize("vectors", ["raw", "avx512", "avx2", "sse2"])
def test_native_sums_and_products(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_native(SUITE, 1, vectors, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("vectors", ["raw", "avx512", "avx2", "sse2"])
def test_native_sums_and_products_for_long(vectors: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_native(SOAK // 10, 100 + part, vectors, monkeypatch)
