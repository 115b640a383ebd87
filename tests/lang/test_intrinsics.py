"""Operations of one instruction set inside kernels: intrinsics and `k.asm`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.errors import CompileError
from qpu.lang import Grid, In, Out, f32, i32, kernel, u32
from qpu.lang.entry import Kernel
from qpu.lang.inline_asm import letter, rows

BOARDS = {"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}
ALL = [(isa, name) for isa in BOARDS for name in rows(isa)]
NUMPY = {"f": np.float32, "i": np.int32, "u": np.uint32}
NAME = {"f": "f32", "i": "i32", "u": "u32"}
WORDS = [0, 1, 2, 5, 127, 128, 255, 0x12345678, 0x80FF7F01, 0x7FFFFFFF, 1 << 31, 0xFFFFFFFF, 0xFFFFFFF0, 31, 32, 100]
FLOATS = [0.0, 1.0, -1.0, 0.5, 2.0, -3.25, 100.0, 1e-3, 65504.0, -7.5, 3.0, 0.25, 10.0, -0.125, 8.0, 1.5]


def operands(kind: str, shift: int, mask: int = 0xFFFFFFFF) -> np.ndarray:
    if kind == "f":
        return np.roll(np.array(FLOATS, np.float32), shift)
    return np.roll(np.array(WORDS, np.uint32) & mask, shift).view(NUMPY[kind])


@pytest.mark.parametrize(("isa", "name"), ALL, ids=[f"{i}-{n}" for i, n in ALL])
def test_every_intrinsic_is_its_row(isa: str, name: str) -> None:
    row = rows(isa)[name]
    kinds = [letter(o.type) for o in row.parsed]
    views = ", ".join(f"x{n}: In[{NAME[k]}]" for n, k in enumerate(kinds[1:]))
    values = ", ".join(f"x{n}[i]" for n in range(row.arity))
    text = (
        "from qpu.lang import *\n"
        f"def one(k: Grid, {views}, y: Out[{NAME[kinds[0]]}]) -> None:\n"
        "    i = k.index()\n"
        f"    y[i] = k.{'vc4' if isa == 'vc4' else 'v3d'}.{name}({values})\n"
    )
    k = Kernel.from_source(text, coarsen=1)
    mask = 0x7BFF7BFF if "f16x2" in row.operands else 0xFFFFFFFF  # no NaN in the halves
    given = [operands(kind, 3 * n, mask) for n, kind in enumerate(kinds[1:])]
    want = np.zeros(16, NUMPY[kinds[0]])
    k.python(*given, want, isa=isa)
    other = np.zeros(16, NUMPY[kinds[0]])
    k.interpret(*given, other, isa=isa)
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        y = gpu.zeros(16, NUMPY[kinds[0]])
        k(*(gpu.array(x) for x in given), y)
        got = y.numpy()
    assert k.compile(isa).program.check() == []
    for found in (got, other):
        same = (found.view(np.uint32) == want.view(np.uint32)) | (np.isnan(found) & np.isnan(want))
        assert same.all(), (found, want)


def test_there_are_many() -> None:
    assert {"v8adds", "v8subs", "v8muld", "fmaxabs"} <= set(rows("vc4"))
    assert {"fadd", "vfmin", "clz"} <= set(rows("v3d71"))
    assert not {"eidx", "tidx", "thrsw", "rot", "nop"} & set(rows("v3d71"))


# -- assembly


def smaller_first(q: Any, a: Any, b: Any) -> Any:
    low, high = q.temp(), q.temp()
    q.min(low, a, b).max(high, a, b)
    return low, high


def clipped(q: Any, x: Any) -> Any:
    """x, but 7 where it is negative."""
    r = q.temp()
    if q.isa == "vc4":
        q.add(r, x, 0, push="z")
        q.min(r, 7, 7, cond="ifn")
    else:
        q.add(r, x, 0, push="pushn")
        q.mov(r, 7, cond="ifa")
    return r


@kernel(coarsen=1)
def ordered(k: Grid, x: In[i32], y: In[i32], low: Out[i32], high: Out[i32]) -> None:
    i = k.index()
    a, b = k.asm(smaller_first, x[i], y[i], out=(i32, i32))
    low[i] = a
    high[i] = b * 2


@kernel(coarsen=1)
def clip(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    v = k.asm(clipped, x[i], out=i32)
    if v > 3:
        v = k.asm(clipped, v - 10, out=i32) + 1
    y[i] = v


@pytest.mark.parametrize("isa", BOARDS)
def test_assembly_is_scheduled_like_the_rest(isa: str) -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.integers(-20, 20, 40).astype(np.int32) for _ in "ab")
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        low, high = gpu.zeros(40, np.int32), gpu.zeros(40, np.int32)
        ordered(gpu.array(x), gpu.array(y), low, high)
        assert np.array_equal(low.numpy(), np.minimum(x, y)) and np.array_equal(high.numpy(), 2 * np.maximum(x, y))
        out = gpu.zeros(40, np.int32)
        clip(gpu.array(x), out)
        v = np.where(x < 0, 7, x)
        want = np.where(v > 3, np.where(v - 10 < 0, 7, v - 10) + 1, v)
        assert np.array_equal(out.numpy(), want)
    plain, other = np.zeros(40, np.int32), np.zeros(40, np.int32)
    clip.python(x, plain, isa=isa)
    clip.interpret(x, other, isa=isa)
    assert np.array_equal(plain, want) and np.array_equal(other, want)
    assert ordered.compile(isa).program.check() == [] and clip.compile(isa).program.check() == []


def test_by_instruction_set() -> None:
    @kernel
    def k(k: Grid, x: In[u32], y: Out[u32]) -> None:
        i = k.index()
        if k.isa == "vc4":
            y[i] = k.vc4.v8adds(x[i], 0x01010101)
        else:
            y[i] = u32(k.v3d.add(x[i], 0x01010101))

    for isa in BOARDS:
        k.compile(isa)


def no_output(q: Any, a: Any) -> Any:
    return a + 1


def signal(q: Any, a: Any) -> Any:
    r = q.temp()
    q.fadd(r, a, a, sig=3)
    return r


def unread(q: Any, a: Any) -> Any:
    r, s = q.temp(), q.temp()
    q.fadd(r, a, s)
    return r


def to_input(q: Any, a: Any) -> Any:
    q.fadd(a, a, a)
    return a


def three(q: Any, a: Any) -> Any:
    r = q.temp()
    q.fadd(r, a)
    return r


WRONG = [
    ("k.v3d.fad(1.0, 2.0)", "lang-name", "did you mean"),
    ("k.vc4.v8adds(1, 2)", "lang-name", "k.vc4 in a kernel for v3d71"),
    ("k.v3d.eidx()", "lang-name", "depends on its operands alone"),
    ("k.v3d.fadd(1.0)", "lang-call", "takes 2 operand"),
    ("k.v3d.fadd(i > 3, 1.0)", "lang-type", None),
    ("k.v3d.add(x[i], 1)", "lang-type", "f32 where the operation reads"),
    ("k.asm(no_output, x[i], out=f32)", "lang-asm", "unsupported operand"),
    ("k.asm(signal, x[i], out=f32)", "lang-asm", "sig= is not possible"),
    ("k.asm(unread, x[i], out=f32)", "lang-asm", "before it is written"),
    ("k.asm(to_input, x[i], out=f32)", "lang-asm", "inputs are read only"),
    ("k.asm(three, x[i], out=f32)", "lang-asm", "takes 2 operand"),
    ("k.asm(three, x[i])", "lang-call", "needs out="),
    ("k.asm(lambda q, a: a, x[i], out=f32)", "lang-call", "defined outside"),
]


@pytest.mark.parametrize(("expression", "rule", "words"), WRONG, ids=[w[0][:24] for w in WRONG])
def test_refusals(expression: str, rule: str, words: str | None) -> None:
    text = (
        "from qpu.lang import *\nfrom tests.lang.test_intrinsics import *\n"
        "from tests.lang.test_intrinsics import no_output, signal, three, to_input, unread\n"
        f"def k(k: Grid, x: In[f32], y: Out[f32]) -> None:\n    i = k.index()\n    y[i] = {expression}\n"
    )
    with pytest.raises(CompileError) as caught:
        Kernel.from_source(text, "k").compile("v3d71")
    (finding,) = caught.value.diagnostics
    if words is not None:
        assert finding.rule == rule and words in str(caught.value), caught.value
    assert finding.help or finding.allowed
    assert finding.loc is not None
    assert finding.loc.file.endswith("test_intrinsics.py" if rule == "lang-asm" else ">")


_ = (f32,)
