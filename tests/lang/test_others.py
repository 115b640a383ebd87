"""The kernels of `others`, each on one of the boards, in `pytest -m soak` on all, against plain Python."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from qpu.device import Device
from tests.lang import others as ks

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
SIZES = (0, 1, 17, 65)


def arguments(name: str, n: int) -> tuple[list[Any], int | None]:
    """Arguments of a kernel for about n items, and workers of a Team."""
    r = np.random.default_rng(n)
    m = max(n, 1)

    def i(*shape: int, low: int = -20, high: int = 50) -> np.ndarray:
        return r.integers(low, high, shape).astype(np.int32)

    def f(*shape: int) -> np.ndarray:
        return r.uniform(-2, 2, shape).astype(np.float32)

    zi, zf = np.zeros(m, np.int32), np.zeros(m, np.float32)
    u = r.integers(0, 2**32, m, dtype=np.uint32)
    cases: dict[str, tuple[list[Any], int | None]] = {
        "collatz": ([r.integers(1, 1000, m).astype(np.uint32), zi], None),
        "nested": ([i(m), zi], None),
        "many_live": ([f(m), zf], None),
        "shifted": ([n, f(m + 1), zf], None),
        "every_third": ([f(3 * m + 2), zf], None),
        "laplace": ([f(min(m, 9), m), np.zeros((min(m, 9), m), np.float32)], None),
        "interior": ([i(12, m + 2), np.zeros((12, m + 2), np.int32)], None),
        "grey": ([r.integers(0, 256, (3, m, 3), dtype=np.uint8), np.zeros((3, m), np.uint8)], None),
        "bits": ([u, zi, np.zeros(m, np.uint32)], None),
        "helpers": ([i(m), i(m), zi], None),
        "mean_rows": ([np.round(f(7, m) * 8), np.zeros(7, np.float32)], 3),
        "argmax": ([f(m), np.zeros(3, np.float32), np.zeros(3, np.int32)], 3),
        "distance": ([f(m), f(13), zf], None),
        "bisect": ([np.sort(f(33)), f(m), zi], None),
        "early": ([i(m), zi], None),
        "narrow_mix": ([i(m, high=100).astype(np.int8), (u & 0xFFFF).astype(np.uint16), (u >> 16).astype(np.int16),
                        np.zeros(m, np.int16), np.zeros(m, np.float16)], None),
        "clampy": ([np.round(f(m) * 8), 3, zf], None),
        "swap": ([i(m), i(m)], None),
        "tree": ([i(m, low=-3), zi], None),
        "in_place_scan": ([i(m)], 3),
        "medians": ([np.round(f(m + 2) * 8), zf, zi], None),
        "named": ([i(m), zi], None),
        "skipping": ([i(m), zi], 2),
        "skipping_runs": ([i(m), zi], 2),
        "either_loop": ([i(m), zi, n % 3], 2),
    }  # fmt: skip
    return cases[name]


NAMES = ("argmax", "bisect", "bits", "clampy", "collatz", "distance", "early", "either_loop", "every_third", "grey",
         "helpers", "in_place_scan", "interior", "laplace", "many_live", "mean_rows", "medians", "named", "narrow_mix",
         "nested", "shifted", "skipping", "skipping_runs", "swap", "tree")  # fmt: skip


@cache
def plain(name: str, n: int) -> list[Any]:
    """The arguments after the kernel ran as plain Python."""
    args, workers = arguments(name, n)
    getattr(ks, name).python(*args, **({} if workers is None else {"workers": workers}))
    return args


@pytest.mark.soak
@pytest.mark.every_board
@pytest.mark.parametrize("name", NAMES)
def test_on_every_board(gpu: Device, name: str) -> None:
    test_as_plain_python(gpu, name)


@pytest.mark.parametrize("name", NAMES)
def test_as_plain_python(gpu: Device, name: str) -> None:
    kernel = getattr(ks, name)
    assert kernel.compile(gpu.isa).program.check() == []
    for n in SIZES:
        args, workers = arguments(name, n)
        buffers = [gpu.array(a) if isinstance(a, np.ndarray) else a for a in args]
        (kernel if workers is None else kernel.on(gpu, workers=workers))(*buffers)
        for want, buffer in zip(plain(name, n), buffers, strict=True):
            if not isinstance(want, np.ndarray):
                continue
            got = buffer.numpy()
            if want.dtype.kind != "f":
                assert np.array_equal(got, want), (n, got, want)
            else:  # VideoCore IV truncates sums
                exact = want.dtype == np.float16
                np.testing.assert_allclose(
                    got.astype(float), want.astype(float), rtol=2e-3 if exact else 2e-5, atol=1e-4
                )
