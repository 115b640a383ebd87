"""What a launch knows of indices: refused where an element outside is reached for certain, not one element before."""

from __future__ import annotations

import random

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import Kernel

HEAD = "from qpu.lang import *\n\ndef wanted(k: Grid, n: i32, m: i32, x: In[i32], y: Out2[i32]) -> None:\n"
BODY = "    r, c = k.index(n, m)\n    s = i32(0)\n    for j in range(3, 12):\n        s += x[{}]\n    y[r, c] = s\n"


def kernel_of(index: str, coarsen: int = 1) -> Kernel:
    return Kernel.from_source(HEAD + BODY.format(index), "wanted", coarsen=coarsen)


def extremes(index: str, n: int, m: int) -> tuple[int, int]:
    """Of an index, over all items and turns."""
    names = {"min": min, "max": max, "clamp": lambda x, low, high: min(max(x, low), high), "n": n, "m": m}
    code = compile(index, "index", "eval")
    found = [eval(code, {**names, "r": r, "c": c, "j": j})
             for r in range(n) for c in range(m) for j in range(3, 12)]  # fmt: skip
    return min(found), max(found)


def refused(kernel: Kernel, gpu: Device, n: int, m: int, size: int) -> bool:
    """Whether the launch is; if not, the board may find what is wrong."""
    try:
        kernel(n, m, gpu.zeros(size, np.int32), gpu.zeros((n, m), np.int32))
    except qpu.UsageError as error:
        assert "launch-bounds" in str(error) and "'x'" in str(error)
        return True
    except qpu.EmuFault:
        pass
    return False


EXACT = [
    "c // 4", "c // 3", "(c + 5) // 3", "c >> 1", "(c >> 1) + r", "c % n", "c % 40", "c % 8", "c & 7", "c & 31",
    "min(c, 7)", "max(c, 20)", "clamp(c - 2, 0, 9)", "r * c", "r // 2 * 9 + c // 2", "(c + j) // 2",
    "j % 4 * 8 + r", "c % 5 * 5 + r % 3",
    "min(c, r + 2)", "(r + 3) * (j - 1) + c", "n - 1 - r + (m - 1 - c) // 2", "(c // 2) // 3", "m - c", "j * m + c",
]  # fmt: skip


@pytest.mark.parametrize("index", EXACT)
def test_the_exact_edge(gpu: Device, index: str) -> None:
    """With several items at once, too, which are the same values with numbers added."""
    columns = 17 if len(index) % 3 else 70
    kernel, (low, high) = kernel_of(index, coarsen=1 << len(index) % 3), extremes(index, 5, columns)
    assert low >= 0
    assert refused(kernel, gpu, 5, columns, high)
    kernel(5, columns, gpu.zeros(high + 1, np.int32), gpu.zeros((5, columns), np.int32))


@pytest.mark.parametrize(
    "index", ["c // 4 - 1", "(c - 4) // 4", "r - c // 8", "min(c, r) - 1", "c % 4 - r", "(r - 2) * c"]
)
def test_below_the_first_element(gpu: Device, index: str) -> None:
    assert extremes(index, 5, 17)[0] < 0
    assert refused(kernel_of(index), gpu, 5, 17, 100)


@pytest.mark.parametrize("index", ["c // 2 + c % 2", "(c * 1000003) & 7", "(c << 30) * 4 + 1", "r * r", "(c * 3) % 7"])
def test_what_is_not_certain_is_not_refused(gpu: Device, index: str) -> None:
    """Parts that depend on the same item, and what wraps."""
    assert not refused(kernel_of(index), gpu, 5, 17, 2)


def drawn(r: random.Random, depth: int = 0) -> str:
    """An index as text."""
    if depth > 2 or r.random() < 0.25:
        return r.choice(("r", "c", "j", "r", "c", "n", "m", str(r.randrange(1, 9))))
    a, b = drawn(r, depth + 1), drawn(r, depth + 1)
    number = str(r.randrange(1, 7))
    return r.choice((
        f"({a} + {b})", f"({a} - {b})", f"({a} * {number})", f"({a} // {number})", f"({a} % {number})",
        f"({a} >> {r.randrange(3)})", f"min({a}, {b})", f"max({a}, {b})", f"({a} & 3)", f"({a} * {b})", f"({a} % n)",
    ))  # fmt: skip


def drawn_is_right(seed: int, gpu: Device) -> bool:
    """Whether a launch with too small an array was refused; one that is large enough must not be."""
    r = random.Random(seed)
    index, n, m = f"{drawn(r)} + 0 * c", r.randrange(1, 6), r.randrange(1, 20)
    low, high = extremes(index, n, m)
    kernel = kernel_of(index)
    if low < 0:
        return refused(kernel, gpu, n, m, 1 << 12)
    if high > 1 << 14:
        return False
    assert not refused(kernel, gpu, n, m, high + 1), (seed, index, n, m)
    return high > 0 and refused(kernel, gpu, n, m, high)


def test_drawn_indices(gpu: Device) -> None:
    assert sum(drawn_is_right(seed, gpu) for seed in range(24)) > 12


@pytest.mark.soak
@pytest.mark.every_board
def test_many_drawn_indices(gpu: Device) -> None:
    for seed in range(1000, 2000):
        drawn_is_right(seed, gpu)
