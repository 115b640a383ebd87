"""`return` and `break` inside loops on the GPU, against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.lang import Grid, In, InOut, Kernel, Out, Team, f32, i32, kernel, unroll
from tests.lang.rig import interpret


def find(x: Any, start: Any, n: Any, wanted: Any) -> Any:
    for j in range(n):
        if x[start + j] == wanted:
            return j
    return -1


def first_pair(n: Any, total: Any) -> Any:
    for a in range(n):
        for b in range(n):
            if a * b == total:
                return a * 100 + b
        if a > 20:
            return -2
    return -1


def half(v: Any) -> Any:
    n = 0
    while v > 1.0:
        if n == 6:
            return v
        v = v * 0.5
        n += 1
    return v + 100.0


@kernel(coarsen=1)
def search(k: Grid, n: i32, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    y[i] = find(x, 0, n, i) + 1000 * find(x, 0, n, i + 1)


@kernel(coarsen=1)
def pairs(k: Grid, n: i32, y: Out[i32]) -> None:
    i = k.index()
    y[i] = first_pair(n, i)


@kernel(coarsen=1)
def halves(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    y[i] = half(x[i])


@kernel(coarsen=1)
def early(k: Grid, n: i32, x: In[i32], y: InOut[i32]) -> None:
    i = k.index()
    if x[i] == 3:
        return
    for j in range(n):
        y[i] = y[i] + 1
        for u in unroll(range(3)):
            if x[i] + u == j:
                return
        if j == 5:
            return
    y[i] = y[i] + 1000


@kernel(coarsen=2)
def early_by_two(k: Grid, n: i32, x: In[i32], y: InOut[i32]) -> None:
    i = k.index()
    for j in range(n):
        if x[i] == j:
            return
        y[i] = y[i] + 1
    y[i] = y[i] + 1000


@kernel
def leaving(k: Team, x: In[i32], out: InOut[i32]) -> None:
    s = 0
    for i in k.items(x.size):
        if x[i] > 20:
            break
        s += x[i]
    out[16 * k.worker + k.lane] = s


@kernel(coarsen=1)
def counted_before(k: Grid, x: In[i32], y: Out[i32]) -> None:
    """The count is a number until the first lanes have left."""
    i = k.index()
    n = 0
    while n < 9:
        n += 1
        if x[i] < 3 * n:
            break
    y[i] = n


@kernel
def stopping(k: Team, n: i32, x: In[i32], out: InOut[i32]) -> None:
    for i in k.items(x.size):
        for j in range(n):
            if x[i] == j:
                return
        out[16 * k.worker + k.lane] = i
    out[16 * k.worker + k.lane] = -1


def args(k: Any, n: int) -> list[Any]:
    rng = np.random.default_rng(n)
    given: list[Any] = []
    for row in k.parameters:
        if row.kind == "scalar":
            given.append(7)
        elif row.type == "f32":
            given.append(rng.uniform(0, 300, n).astype(np.float32))
        elif k.team and row.mode != "in":
            given.append(np.zeros(16 * 3, np.int32))
        else:
            given.append(rng.integers(0, 24, n).astype(np.int32))
    return given


@pytest.mark.parametrize(
    "k", [search, pairs, halves, early, early_by_two, leaving, counted_before, stopping], ids=lambda k: k.__name__
)
@pytest.mark.parametrize("n", [7, 16, 33, 90])
def test_lanes_leave(k: Any, n: int) -> None:
    got, want = args(k, n), args(k, n)
    names = [row.name for row in k.parameters]
    interpret(k.fn, dict(zip(names, got, strict=True)), coarsen=k.schedule.coarsen or 1, workers=3)
    k.python(*want, workers=3)
    for name, a, b in zip(names, got, want, strict=True):
        if isinstance(a, np.ndarray):
            assert np.array_equal(a, b), name


OPERANDS = """from qpu.lang.surface import *


def sure(a, isa):
    if isa == "vc4":
        return a
    if isa == "v3d71":
        if a > 3:
            return a
        elif a > 1:
            return -a
        return 7


def operands(k: Grid, x: In[i32], z: In[i32], y: Out2[i32]) -> None:
    i = k.index(x.size)
    y[0, i] = x[i] or 3
    y[1, i] = x[i] and 7
    y[2, i] = x[i] and z[i] or 9
    n = z[i] or x[i]
    y[3, i] = n if n and x[i] > 1 else 4
    y[4, i] = 0 or sure(x[i], k.isa)
    y[5, i] = i32(not (x[i] or z[i]))
"""


def test_and_or_of_numbers_give_one_of_them() -> None:
    """As in Python; and a function returns what the path that it takes returns."""
    k = Kernel.from_source(OPERANDS, "operands")
    x, z = np.arange(20, dtype=np.int32) % 5, np.arange(20, dtype=np.int32) % 3
    want, got = np.zeros((6, 20), np.int32), np.zeros((6, 20), np.int32)
    k.python(x, z, want)
    k.interpret(x, z, got)
    assert got.tolist() == want.tolist()
    assert want[0].tolist() == [a or 3 for a in x.tolist()]


LISTS = """from qpu.lang.surface import *


def add(st, v):
    for q in range(9):
        if v > q:
            st[0] = st[0] + v


def deep(st, v):
    add(st, v)


def lists(k: Grid, n: i32, x: In[i32], y: Out2[i32]) -> None:
    i = k.index(x.size)
    a, b, c, d = [x[i], x[i]], [i32(0)], [i32(0)], [i32(1)]
    t, box = b, (c, 1)
    def inner(v):
        d[0] = d[0] + v
    for j in range(n):
        if x[i] > j:
            deep(a, j)
        t[0] += x[i]
        box[0][0] += j
        inner(x[i])
    y[0, i] = a[0]
    y[1, i] = b[0]
    y[2, i] = c[0]
    y[3, i] = d[0]
"""


def test_lists_change_through_other_names_and_functions() -> None:
    k = Kernel.from_source(LISTS, "lists")
    x, want, got = np.arange(20, dtype=np.int32) % 5, np.zeros((4, 20), np.int32), np.zeros((4, 20), np.int32)
    k.python(7, x, want)
    k.interpret(7, x, got)
    assert got.tolist() == want.tolist()


PARTED = """from qpu.lang.surface import *


def parted(k: Grid, n: i32, x: In[i32], y: Out[i32]) -> None:
    i = k.index()
    a = [x[i]]
    b = a
    for j in range(n):
        a = [a[0] + j]
    y[i] = a[0] * 100 + b[0]
"""


def test_a_list_that_a_loop_binds_anew_parts_from_its_other_name() -> None:
    k = Kernel.from_source(PARTED, "parted")
    x, want, got = np.arange(20, dtype=np.int32), np.zeros(20, np.int32), np.zeros(20, np.int32)
    k.python(7, x, want)
    k.interpret(7, x, got)
    assert got.tolist() == want.tolist()


UNROLLED = """from qpu.lang.surface import *


def unrolled(k: Grid, x: In[i32], y: Out[i32]) -> None:
    i = k.index(x.size)
    a = i32(i)
    if x[i] > 0:
        for j in range(a & 7):
            for turn in unroll(range(3)):
                y[i] = a
                return
            a = a + 1
    y[i] = a ^ 5
"""


def test_all_lanes_return_in_a_repeated_loop_inside_a_loop() -> None:
    k = Kernel.from_source(UNROLLED, "unrolled")
    x, want, got = np.arange(20, dtype=np.int32) % 7 - 3, np.zeros(20, np.int32), np.zeros(20, np.int32)
    k.python(x, want)
    k.interpret(x, got)
    assert got.tolist() == want.tolist()
