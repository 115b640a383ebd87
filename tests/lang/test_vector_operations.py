"""Vector operations as kernels of one line: every operation of VideoCore IV's two ALUs and its four special functions
on three boards; with vectors and scalars, and expressions of up to four variables, on the boards in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import Kernel

RANDOM = np.random.default_rng(17)
N = 67
TEXT = """from qpu.lang.surface import *
from qpu.lang.surface import FUNCTIONS
clamp, clz, maximum, minimum, mul24, ror, sqrt = (
    FUNCTIONS[n] for n in ("clamp", "clz", "maximum", "minimum", "mul24", "ror", "sqrt"))


def eights(f, a, b):
    return u8x4(f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3]))


def one(k: Grid, {parameters}, out: Out[{result}]) -> None:
    i = k.index()
    out[i] = {expression}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """An operation. types: of the operands x, y, z, w; result; expression: in these names; true: in NumPy; roundings:
    half units in the last place of the magnitude that V3D may be off, whole ones VideoCore IV; 0: exact everywhere.
    """

    expression: str
    types: str
    result: str
    true: Callable[..., Any]
    roundings: float = 0


def _eights(f: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def true(a: Any, b: Any) -> Any:
        wide = f(a.view(np.uint8).astype(int), b.view(np.uint8).astype(int))
        return wide.astype(np.uint8).view(np.uint32)

    return true


def _rotated(a: Any, n: Any) -> Any:
    n = n % 32
    return (a >> n) | (a << (32 - n) % 32)


F, I, U, B = "f32", "i32", "u32", "u8x4"  # noqa: E741  # as in the assembler's tables
BINARY = {
    "fadd": Row("x + y", F, F, lambda x, y: x + y, 1),
    "fsub": Row("x - y", F, F, lambda x, y: x - y, 1),
    "fmul": Row("x * y", F, F, lambda x, y: x * y, 1),
    "fmin": Row("minimum(x, y)", F, F, np.minimum),
    "fmax": Row("maximum(x, y)", F, F, np.maximum),
    "fminabs": Row("minimum(abs(x), abs(y))", F, F, lambda x, y: np.minimum(np.abs(x), np.abs(y))),
    "fmaxabs": Row("maximum(abs(x), abs(y))", F, F, lambda x, y: np.maximum(np.abs(x), np.abs(y))),
    "fdiv": Row("x / y", F, F, lambda x, y: x / y, 6),
    "add": Row("x + y", I, I, lambda x, y: x + y),
    "sub": Row("x - y", I, I, lambda x, y: x - y),
    "min": Row("minimum(x, y)", I, I, np.minimum),
    "max": Row("maximum(x, y)", I, I, np.maximum),
    "mul": Row("x * y", I, I, lambda x, y: x * y),
    "and": Row("x & y", U, U, lambda x, y: x & y),
    "or": Row("x | y", U, U, lambda x, y: x | y),
    "xor": Row("x ^ y", U, U, lambda x, y: x ^ y),
    "shl": Row("x << y", U, U, lambda x, y: x << (y & 31)),
    "shr": Row("x >> y", U, U, lambda x, y: x >> (y & 31)),
    "asr": Row("x >> y", I, I, lambda x, y: x >> (y & 31)),
    "ror": Row("ror(x, y)", U, U, _rotated),
    "mul24": Row("mul24(x, y)", U, U, lambda x, y: (x & 0xFFFFFF) * (y & 0xFFFFFF)),
    "v8adds": Row("eights(lambda a, b: u8.sat(a + b), x, y)", B, B, _eights(lambda a, b: np.minimum(a + b, 255))),
    "v8subs": Row("eights(lambda a, b: u8.sat(a - b), x, y)", B, B, _eights(lambda a, b: np.maximum(a - b, 0))),
    "v8min": Row("eights(minimum, x, y)", B, B, _eights(np.minimum)),
    "v8max": Row("eights(maximum, x, y)", B, B, _eights(np.maximum)),
    "v8muld": Row("eights(lambda a, b: (a * b + 127) // 255, x, y)", B, B, _eights(lambda a, b: (a * b + 127) // 255)),
}
UNARY = {
    "itof": Row("f32(x)", I, F, lambda x: x.astype(np.float64), 1),
    "ftoi": Row("i32(x * 1000.0)", F, I, lambda x: np.trunc(np.float32(1000) * x).astype(np.int32)),
    "not": Row("~x", U, U, lambda x: ~x),
    "clz": Row("clz(x)", U, I, lambda x: np.array([32 - int(v).bit_length() for v in x], np.int32)),
    "mov": Row("x", F, F, lambda x: x),
    "neg": Row("-x", I, I, lambda x: -x),
    "recip": Row("fast.recip(x)", F, F, lambda x: 1 / x, 2),
    "recipsqrt": Row("fast.rsqrt(x * x)", F, F, lambda x: 1 / np.sqrt(x * x), 4),
    "exp": Row("fast.exp2(x)", F, F, np.exp2, 2),
    "log": Row("fast.log2(x * x + 2.0)", F, F, lambda x: np.log2(x * x + 2), 4),
    "sqrt": Row("sqrt(x * x)", F, F, np.abs, 6),
}
MANY = {
    "axpy": Row("x * y + z", F, F, lambda x, y, z: x * y + z, 3),
    "weighted": Row("x * y + z * w", F, F, lambda x, y, z, w: x * y + z * w, 5),
    "lerp": Row("x + (y - x) * z", F, F, lambda x, y, z: x + (y - x) * z, 8),
    "clamped": Row("clamp(x, minimum(y, z), maximum(y, z))", F, F,
                   lambda x, y, z: np.minimum(np.maximum(x, np.minimum(y, z)), np.maximum(y, z))),
    "blend": Row("(x & y) | (z & ~y) ^ w", U, U, lambda x, y, z, w: (x & y) | (z & ~y) ^ w),
    "mixed": Row("(x + y) * (z - w)", I, I, lambda x, y, z, w: (x + y) * (z - w)),
    "choose": Row("where(x > y, z, w)", F, F, lambda x, y, z, w: np.where(x > y, z, w)),
}  # fmt: skip


def draw(type_: str, n: int) -> np.ndarray:
    if type_ == F:
        return (RANDOM.uniform(0.1, 8, n) * RANDOM.choice([-1, 1], n)).astype(np.float32)
    return RANDOM.integers(0, 2**32, n, dtype=np.uint32).view(np.int32 if type_ == I else np.uint32)


def check(gpu: Device, row: Row, names: str, scalars: str = "") -> None:
    """An operation with some of its operands scalars."""
    values: dict[str, Any] = {n: draw(row.types, 1)[0] if n in scalars else draw(row.types, N) for n in names}
    types = {n: row.types if n in scalars else f"In[{row.types}]" for n in names}
    expression = row.expression
    for n in names:
        if n not in scalars:
            expression = _in_array(expression, n)
    parameters = ", ".join(f"{n}: {t}" for n, t in types.items())
    text = TEXT.format(parameters=parameters, result=row.result, expression=expression)
    kernel = Kernel.from_source(text, "one", coarsen=1)
    assert kernel.compile(gpu.isa).program.check() == []
    out = gpu.zeros(N, np.float32 if row.result == F else np.int32 if row.result == I else np.uint32)
    kernel(*(v.item() if n in scalars else gpu.array(v) for n, v in values.items()), out)
    with np.errstate(all="ignore"):
        wide = [v.astype(np.float64) if row.types == F and row.roundings else v for v in values.values()]
        full = [np.full(N, v) if n in scalars else v for n, v in zip(names, wide, strict=True)]
        want = row.true(*full)
    got = out.numpy()
    if not row.roundings:
        assert np.array_equal(got, want), (got, want)
        return
    unit = 2.0**-23 if gpu.isa is qpu.Isa.VC4 else 2.0**-24
    magnitude = np.maximum(np.abs(want), sum(np.abs(v) for v in full) if row.types == F and len(full) > 1 else 0)
    assert (np.abs(got - want) <= row.roundings * unit * magnitude * 2).all(), (got, want)


def _in_array(expression: str, name: str) -> str:
    """The name with an index, where it stands alone."""
    return re.sub(rf"\b{name}\b(?!4)", f"{name}[i]", expression)


@pytest.mark.every_board
@pytest.mark.parametrize("name", BINARY)
def test_two_vectors(gpu: Device, name: str) -> None:
    check(gpu, BINARY[name], "xy")


@pytest.mark.parametrize("scalars", ["x", "y"])
@pytest.mark.parametrize("name", [n for n in BINARY if not n.startswith("v8")])
def test_vector_and_scalar(gpu: Device, name: str, scalars: str) -> None:
    check(gpu, BINARY[name], "xy", scalars)


@pytest.mark.every_board
@pytest.mark.parametrize("name", UNARY)
def test_one_vector(gpu: Device, name: str) -> None:
    check(gpu, UNARY[name], "x")


@pytest.mark.parametrize("name", MANY)
def test_more_variables(gpu: Device, name: str) -> None:
    row = MANY[name]
    names = "xyzw"[: row.true.__code__.co_argcount]
    check(gpu, row, names)
    check(gpu, row, names, "y")
    check(gpu, row, names, "xz")
