"""The kernels of `harder` on the boards, for few and many items, against plain Python; each on one board, in
`pytest -m soak` on all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.device import Device
from tests.lang import harder as ks

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
SIZES = (0, 15, 66)


def arguments(name: str, n: int) -> tuple[list[Any], int | None]:
    """Arguments of a kernel for about n items, and workers of a Team."""
    r = np.random.default_rng(n + 1)

    def i(*shape: int, low: int = -40, high: int = 90, dtype: Any = np.int32) -> np.ndarray:
        return r.integers(low, high, shape).astype(dtype)

    def zero(*shape: int, dtype: Any = np.int32) -> np.ndarray:
        return np.full(shape, 3).astype(dtype)

    def any_(*shape: int, dtype: Any = np.uint32) -> np.ndarray:
        return r.integers(0, 2**32, shape, dtype=np.uint32).view(dtype)

    def f(*shape: int) -> np.ndarray:
        return (r.integers(-64, 64, shape) / 8).astype(np.float32)

    m, team = max(n, 1), min(max(n // 8, 1), 5)
    cases: dict[str, tuple[list[Any], int | None]] = {
        "walks": ([5, i(n), zero(n)], None),
        "two_a_turn": ([i(n, high=900), zero(n), zero(n)], None),
        "crowd": ([5, i(n), zero(n)], None),
        "interleave": ([f(n), f(2 * n)], None),
        "windows": ([i(3 * n + 2), zero(n)], None),
        "narrow": ([i(n, dtype=np.int8), i(n, low=0, high=900, dtype=np.uint16), f(n).astype(np.float16),
                    zero(n, dtype=np.uint8), zero(n, dtype=np.int16), f(n).astype(np.float16)], None),
        "words": ([any_(n), 100, any_(n), zero(n)], None),
        "edges": ([i(4, n), zero(4, n)], None),
        "cube": ([i(3, 2, n), zero(n, 3, 2)], None),
        "lanes": ([i(16 * team), zero(4, 16 * team)], team),
        "passing": ([3, i(16 * team), zero(team)], team),
        "runs": ([f(m), zero(m, dtype=np.float32), zero(team, dtype=np.float32)], team),
        "counts": ([i(n), zero(8), zero(1), zero(2, dtype=np.uint32)], None),
        "turning": ([f(n) + 1j * f(n)[::-1], (f(n) - 1j * f(n)).astype(np.complex64)], None),
        "integers": ([any_(n, dtype=np.int32), any_(n), zero(n), zero(n, dtype=np.uint32)], None),
    }  # fmt: skip
    return cases[name]


NAMES = ("walks", "two_a_turn", "crowd", "interleave", "windows", "narrow", "words", "edges", "cube", "lanes",
         "passing", "runs", "counts", "turning", "integers")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_as_plain_python(gpu: Device, name: str) -> None:
    kernel = getattr(ks, name)
    assert kernel.compile(gpu.isa).program.check() == []
    for n in SIZES:
        args, workers = arguments(name, n)
        args = [a.astype(np.complex64) if isinstance(a, np.ndarray) and a.dtype.kind == "c" else a for a in args]
        buffers = [gpu.array(a) if isinstance(a, np.ndarray) else a for a in args]
        (kernel if workers is None else kernel.on(gpu, workers=workers))(*buffers)
        kernel.python(*args, **({} if workers is None else {"workers": workers}))
        for k, (want, buffer) in enumerate(zip(args, buffers, strict=True)):
            if not isinstance(want, np.ndarray):
                continue
            got = buffer.numpy()
            if want.dtype.kind in "fc":
                np.testing.assert_allclose(got, want, rtol=2e-3 if want.dtype == np.float16 else 1e-5, atol=1e-4)
            else:
                assert np.array_equal(got, want), (n, k, np.flatnonzero((got != want).ravel())[:8], got, want)


@pytest.mark.soak
@pytest.mark.every_board
@pytest.mark.parametrize("name", NAMES)
def test_on_every_board(gpu: Device, name: str) -> None:
    test_as_plain_python(gpu, name)
