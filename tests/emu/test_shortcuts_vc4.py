"""Tests of every shortcut of a VideoCore IV operation against its row's semantic function, on stratified operands.

Shortcuts: the reference engine's `reference_shortcuts`, `LlvmLanes.fadd_rz` on hosts without AVX-512, and the sums,
products and conversions of the compiled engine's fast strategies (`Sums`). The oracle is `op.sem` over NumPy.
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
    """A float operation as machine code over whole arrays, in a strategy of the compiled engine; and whether the host
    says after each vector that a result was too large or too small."""

    def __init__(self, op: Op, floats: str) -> None:
        from llvmlite import binding, ir

        from qpu.emu.engine.directed import Floats, Sums
        from qpu.emu.engine.host_cpu import host
        from qpu.emu.engine.llvm_lanes import F32X16, I8, I32X16, I64, FloatMode, LlvmLanes

        pointer, module = ir.PointerType(), ir.Module("t")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 4), "f")
        directed = floats == "directed"
        if directed:
            set.add(function.attributes, "strictfp")
        b = ir.IRBuilder(function.append_basic_block())
        v = LlvmLanes(b, avx512=host().avx512)
        sums = None if floats == "exact" else Sums(v, Floats(floats))
        mode = FloatMode(v, zero_denormals=floats == "embedded", directed=directed)
        bits = [b.load(p, typ=I32X16) for p in function.args[:2]]
        for x in bits:
            x.align = 4
        assert op.sem is not None
        if sums is None:
            result = op.sem(v, *bits)
        else:
            x, y = (b.bitcast(x, F32X16) for x in bits)
            made = {"fadd": sums.add, "fsub": sums.sub, "fmul": sums.mul}
            if op.name in made:
                result = b.bitcast(sums.plain(made[op.name](x, y)), I32X16)
            else:
                result = sums.from_int(bits[0])
        b.store(result, function.args[2]).align = 4
        b.store(b.zext(mode.exceeded(), I8) if directed else I8(0), function.args[3])
        mode.restore()
        b.ret_void()
        loop = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 4 + [I64]), "loop")
        b = ir.IRBuilder(loop.append_basic_block())
        start, body, done = b.block, loop.append_basic_block(), loop.append_basic_block()
        b.branch(body)
        b.position_at_end(body)
        at = b.phi(I64)
        at.add_incoming(I64(0), start)
        steps = [b.shl(at, I64(6))] * 3 + [at]
        b.call(function, [b.gep(p, [n], source_etype=I8) for p, n in zip(loop.args[:4], steps, strict=True)])
        after = b.add(at, I64(1))
        at.add_incoming(after, b.block)
        b.cbranch(b.icmp_unsigned("<", after, loop.args[4]), body, done)
        b.position_at_end(done)
        b.ret_void()
        machine = binding.Target.from_default_triple().create_target_machine(
            opt=2, cpu=host().cpu, features=host().features
        )
        code = binding.parse_assembly(str(module))
        passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=1))
        passes.getModulePassManager().run(code, passes)
        self.engine = binding.create_mcjit_compiler(code, machine)
        self.engine.finalize_object()
        kind: Callable[..., Any] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
        self.call = kind(self.engine.get_function_address("loop"))

    def __call__(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        out, exceeded = np.zeros_like(a), np.zeros((len(a), 1), np.uint8)
        self.call(a.ctypes.data, b.ctypes.data, out.ctypes.data, exceeded.ctypes.data, len(a))
        return out, exceeded != 0


HOSTS = {"avx512": ("exact", "embedded", "directed"), "avx2": ("exact", "directed"), "sse2": ("exact",)}
CASES = [(vectors, floats) for vectors, several in HOSTS.items() for floats in several]


def natives(vectors: str, floats: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Native]:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    from tests.emu.hosts import use_vectors

    use_vectors(vectors, monkeypatch)
    return {name: Native(TABLE[name], floats) for name in (*FLOATS, *(("itof",) if floats != "embedded" else ()))}


def compare_native(pairs: int, seed: int, vectors: str, floats: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = 0
    made = natives(vectors, floats, monkeypatch)
    with quiet():
        for a, b in operands(pairs, seed):
            for name, native in made.items():
                op = TABLE[name]
                assert op.sem is not None
                want = op.sem(N, a, b)
                for lanes in (None, np.concatenate(alike(a, b, want))) if floats == "directed" else (None,):
                    x, y, w = (z if lanes is None else z.ravel()[lanes] for z in (a, b, want))
                    got, exceeded = native(x, y)
                    if floats != "exact":  # the compiled engine undoes these
                        undone = exceeded | np.isnan(got.view(np.float32))
                        got = np.where(undone, w, got)
                        used += got.size - np.count_nonzero(undone)
                    agree(f"{name} ({vectors}, {floats})", got, w, x, y)
    assert floats == "exact" or used > pairs


@pytest.mark.parametrize(("vectors", "floats"), CASES)
def test_native_sums_and_products(vectors: str, floats: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_native(SUITE, 1, vectors, floats, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize(("vectors", "floats"), CASES)
def test_native_sums_and_products_for_long(
    vectors: str, floats: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare_native(SOAK // 10, 100 + part, vectors, floats, monkeypatch)


@pytest.mark.parametrize(("vectors", "floats"), CASES)
@pytest.mark.parametrize(
    ("name", "a", "b", "want", "undone"),
    [
        ("fadd", 0x7D6C0EF8, 0xFF7FFFFF, 0xFF713F0F, False),
        ("fadd", 0xFECA9AFB, 0x7F7FFFFF, 0x7F1AB281, False),
        ("fmul", 0x3F800001, 0x3F800001, 0x3F800002, False),
        ("fmul", 0x3FC00000, 0x3F800001, 0x3FC00002, False),  # a tie: 1.5 ulp above, to even
        ("fmul", 0x3FC00000, 0x3F800003, 0x3FC00004, False),
        ("fmul", 0x7F000000, 0x40000000, 0x7F800000, True),  # overflow: infinity
        ("fmul", 0x00800000, 0x3F7FFFFF, 0x00800000, True),  # rounds up to the smallest number
        ("fmul", 0x00FFFFFF, 0x3F000000, 0x00800000, True),
        ("fmul", 0x0C000001, 0x3F800001, 0x0C000002, True),  # the error is too small to be seen
        ("fmul", 0x00400000, 0x7F000000, 0, False),  # a denormal operand
    ],
)
def test_native_special_cases(
    vectors: str, floats: str, name: str, a: int, b: int, want: int, undone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (np.full((1, 16), word, np.uint32) for word in (a, b))
    got, exceeded = natives(vectors, floats, monkeypatch)[name](x, y)
    assert exceeded.all() == exceeded.any() == (undone and floats == "directed")
    if not exceeded.any():
        assert (got == want).all()
    with quiet():
        op = TABLE[name]
        assert op.sem is not None
        assert (op.sem(N, x, y) == want).all()
