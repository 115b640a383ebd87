"""Legalised integer division against Python's, on edges and random numbers, by values and by constants."""

from __future__ import annotations

import numpy as np
import pytest

from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.lang.fold import fold
from qpu.lang.interp import Interpreter
from qpu.lang.kir import Access, Builder
from qpu.lang.legalise import legalise
from qpu.lang.verify import verify_kir

EDGES = [0, 1, 2, 3, 7, 9, 10, 100, 255, 256, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFFFFFE,
         12345678, 0x00FFFFFF, 0x01000001]  # fmt: skip
CONSTANTS = (1, 2, 3, 5, 7, 10, 25, 60, 641, 1000, 65537, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x80000001)


def run(op: str, type_: str, a: np.ndarray, b: np.ndarray, constant: int | None = None) -> np.ndarray:
    q = Builder(fold)
    name = "i32" if type_ == "i" else "u32"
    base = q.emit("param", type_="u", attr="b")
    item = q.emit("add", q.emit("shl", q.emit("worker"), q.const("u", 4)), q.emit("lane"))
    offset = q.emit("shl", item, q.const("u", 2))
    x = q.append("load", (base, offset), type_, Access(0, 0, name))
    y = q.append("load", (base, offset), type_, Access(1, 0, name)) if constant is None else q.const(type_, constant)
    q.append("store", (base, offset, q.emit(op, x, y)), "", Access(2, 0, name))
    top = legalise(q.top, "v3d71")
    verify_kir(top)
    out = np.zeros_like(a)
    Interpreter(top, {"b": 0}, [v.view(np.uint8) for v in (a, b, out)], len(a) // 16, NumpyLanes()).run()
    return out.view(np.uint32)


def inputs() -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(1)
    a, b = (x.ravel() for x in np.meshgrid(np.array(EDGES, np.uint32), np.array(EDGES, np.uint32)))
    more = 4000
    a = np.concatenate([a, r.integers(0, 2**32, more, dtype=np.uint32)])
    b = np.concatenate([b, r.integers(0, 2**32, more, dtype=np.uint32) >> r.integers(0, 32, more, dtype=np.uint32)])
    return a, b


@pytest.mark.parametrize("type_", ["u", "i"])
@pytest.mark.parametrize("op", ["div", "mod"])
def test_division(op: str, type_: str) -> None:
    a, b = (v.view(np.int32 if type_ == "i" else np.uint32) for v in inputs())
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    defined = wide_b != 0
    safe = np.where(defined, wide_b, 1)
    want = (wide_a // safe if op == "div" else wide_a % safe) & 0xFFFFFFFF
    assert np.array_equal(run(op, type_, a, b)[defined], want[defined])
    for constant in CONSTANTS:
        n = constant - (1 << 32) if type_ == "i" and constant >> 31 else constant
        want = (wide_a // n if op == "div" else wide_a % n) & 0xFFFFFFFF
        assert np.array_equal(run(op, type_, a, b, constant), want), constant
