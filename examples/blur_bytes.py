"""A 5 x 5 blur of bytes with binomial weights, exact, edges repeated.

Examples:
    uv run examples/blur_bytes.py --device all
"""

from __future__ import annotations

from typing import Any

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, In2, Out2, i32, u8, unroll

WEIGHTS = (1, 4, 6, 4, 1)


@qpu.kernel(march="y")
def blur(k: Grid, src: In2[u8], dst: Out2[u8]) -> None:
    """Bytes are i32 values once they are loaded; storing takes the low byte."""
    r, c = k.index(*dst.shape)
    acc = i32(128)
    for dr in unroll(range(5)):
        p, q, s, t, u = [src.clamp[r + dr - 2, c + dc - 2] for dc in range(5)]
        acc += (p + u + (q + t) * WEIGHTS[1] + s * WEIGHTS[2]) * WEIGHTS[dr]
    dst[r, c] = acc >> 8


def reference(pixels: Any) -> Any:
    """The same in NumPy."""
    h, w = pixels.shape
    padded = np.pad(pixels.astype(int), 2, mode="edge")
    taps = [(r, c) for r in range(5) for c in range(5)]
    total = sum(WEIGHTS[r] * WEIGHTS[c] * padded[r : r + h, c : c + w] for r, c in taps)
    return (total + 128) >> 8


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check a picture with n columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, n), dtype=np.uint8)
    src, dst = gpu.array(pixels), gpu.zeros(pixels.shape, np.uint8)
    seconds, counts = _common.launched(gpu, lambda: blur(src, dst))
    error, wrong = _common.difference(dst.numpy(), reference(pixels))
    return _common.result(
        gpu, "blur_bytes", n=n, seconds=seconds, max_abs_error=error, wrong=wrong, ok=wrong == 0, **counts
    )


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 100, 4096))
