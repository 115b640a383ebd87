"""A Gaussian blur of a photograph in two passes, along the rows and down the columns.

Examples:
    uv run examples/gaussian_blur.py --device all
    uv run examples/gaussian_blur.py --device pi5 --input photo.png --sigma 3 --output soft.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common
import _png
import numpy as np
from _stencil import pixels_of, shifted

import qpu
from qpu.device import Device
from qpu.lang import Const, Grid, In2, Out2, f32, u8, unroll

LARGEST_SIGMA = 3.0
RADIUS = 7


@qpu.kernel
def across(k: Grid, w: Const[tuple[float, ...]], x: In2[u8], y: Out2[f32]) -> None:
    """w[d] times the pixels at distance d in a row, whose edges are repeated: clamp is the nearest pixel there is.

    The weights are known when compiling: each number of taps has a program of its own, without a loop.
    """
    r, c = k.index(*y.shape)
    total = f32(0)
    for d in unroll(range(1 - len(w), len(w))):
        total += w[abs(d)] * x.clamp[r, c + d]
    y[r, c] = total


@qpu.kernel
def down(k: Grid, w: Const[tuple[float, ...]], x: In2[f32], y: Out2[f32]) -> None:
    """The same in a column."""
    r, c = k.index(*y.shape)
    total = f32(0)
    for d in unroll(range(1 - len(w), len(w))):
        total += w[abs(d)] * x.clamp[r + d, c]
    y[r, c] = total


def weights(sigma: float) -> tuple[float, ...]:
    """weights[d] for pixels at distance d, as float32 values; with both sides they add up to 1."""
    radius = min(RADIUS, max(1, round(2.5 * sigma)))
    w = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    w /= w[0] + 2 * w[1:].sum()
    return tuple(float(x) for x in w.astype(np.float32))


def reference(pixels: Any, w: tuple[float, ...]) -> Any:
    """The same in NumPy, float64."""
    grey = pixels.astype(np.float64)
    reach = range(1 - len(w), len(w))
    between = sum(w[abs(d)] * shifted(grey, 0, d) for d in reach)
    return sum(w[abs(d)] * shifted(between, d, 0) for d in reach)


def work(gpu: Device, pixels: Any, sigma: float, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    w = weights(sigma)
    source, between, out = gpu.array(pixels), gpu.zeros(pixels.shape), gpu.zeros(pixels.shape)
    seconds, counts = _common.launched(gpu, lambda: across(w, source, between), lambda: down(w, between, out))
    found = out.numpy()
    error = np.abs(found - reference(pixels, w))
    # Each pass: a rounding per product and sum, which on VideoCore IV may cost a whole unit in the last place.
    bound = 2 * 2 * len(w) * 2.0**-23 * 256
    row = _common.result(
        gpu, "gaussian_blur", n=pixels.size, width=pixels.shape[1], height=pixels.shape[0], sigma=sigma,
        taps=2 * len(w) - 1, seconds=seconds, max_abs_error=float(error.max()), ok=bool(error.max() <= bound), **counts,
    )  # fmt: skip
    if output is not None:
        _png.write(output, np.rint(found).clip(0, 255).astype(np.uint8))
        row["output"] = str(output)
    return row


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--input", metavar="PNG", type=Path, help="the picture (default: the one shipped here)")
    parser.add_argument("--sigma", type=_common.finite, default=2.0, help=f"pixels, 0.3 .. {LARGEST_SIGMA} (default 2)")
    _png.add_output(parser, "gaussian_blur.png")
    options = parser.parse_args()
    _common.within("--sigma", options.sigma, 0.3, LARGEST_SIGMA)
    pixels, output = pixels_of(options.input), _png.output_of(options, "gaussian_blur.png")
    return _common.on_devices(options, lambda gpu: work(gpu, pixels(gpu), options.sigma, output(gpu)), _png.show)


if __name__ == "__main__":
    _common.main(run)
