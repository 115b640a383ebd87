"""Products of matrices by tiles that stay in registers: float32, and 16-bit by 8-bit integers in 32 bits.

examples/sgemm.py is faster: it is hand-written, and packs its operands.

Examples:
    uv run examples/matrix_tiles.py --device all
"""

from __future__ import annotations

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Const, In2, Out2, Team, f32, i8, i16, i32, unroll


@qpu.kernel
def gemm_tile(k: Team, a: In2[f32], b: In2[f32], c: Out2[f32], rows: Const[int] = 4, cols: Const[int] = 32) -> None:
    """c = a b. A list of lists of values is registers; its indices are known when compiling."""
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], rows, cols):
        acc = [[f32(0) for _ in range(cols // 16)] for _ in range(rows)]
        for p in range(a.shape[1]):
            right = [b.get(p, j0 + 16 * j + k.lane, 0.0) for j in range(cols // 16)]
            for i in unroll(range(rows)):
                left = a.get(i0 + i, p, 0.0)
                for j in unroll(range(cols // 16)):
                    acc[i][j] += left * right[j]
        k.store_tile(c, i0, j0, acc)


@qpu.kernel
def gemm_narrow(k: Team, a: In2[i16], b: In2[i8], c: Out2[i32], rows: Const[int] = 4, cols: Const[int] = 16) -> None:
    """c = a b of 16-bit and 8-bit integers in 32 bits."""
    for i0, j0 in k.tiles(c.shape[0], c.shape[1], rows, cols):
        acc = [[i32(0) for _ in range(cols // 16)] for _ in range(rows)]
        for p in range(a.shape[1]):
            right = [b.get(p, j0 + 16 * j + k.lane, 0) for j in range(cols // 16)]
            for i in unroll(range(rows)):
                left = a.get(i0 + i, p, 0)
                for j in unroll(range(cols // 16)):
                    acc[i][j] += left * right[j]
        k.store_tile(c, i0, j0, acc)


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check products of n x n matrices."""
    random = np.random.default_rng(0)
    a, b = random.uniform(-1, 1, (2, n, n)).astype(np.float32)
    p = random.integers(-(2**15), 2**15, (n, n)).astype(np.int16)
    q = random.integers(-128, 128, (n, n)).astype(np.int8)
    operands, c = [gpu.array(x) for x in (a, b, p, q)], gpu.zeros((n, n))
    d = gpu.zeros((n, n), np.int32)
    seconds, counts = _common.launched(gpu, lambda: gemm_tile(*operands[:2], c), lambda: gemm_narrow(*operands[2:], d))
    error = np.abs(c.numpy() - a.astype(np.float64) @ b)
    unit = 2.0**-23 if gpu.isa is qpu.Isa.VC4 else 2.0**-24
    exact = np.array_equal(d.numpy(), p.astype(np.int32) @ q.astype(np.int32))
    ok = bool((error <= unit * (n + 2) * (np.abs(a) @ np.abs(b))).all()) and exact
    return _common.result(
        gpu, "matrix_tiles", n=n, seconds=seconds, max_abs_error=float(error.max()), exact=exact, ok=ok, **counts
    )


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 50, 2048))
