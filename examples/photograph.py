"""A photograph before and after functions of the library: noise and its removal, smoothing, edges, brightness, a turn.

Each picture is made on the GPU and compared with NumPy. The result is one PNG: above, the photograph at half its size,
that with specks, without them, and smoothed; below, edges, dark parts spread, two of its levels, and turned.

Examples:
    uv run examples/photograph.py --device all
    uv run examples/photograph.py --device pi5 --input photo.png --output sheet.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common
import _png
import numpy as np
from _stencil import pixels_of

from qpu.device import Device
from qpu.kernels import image
from qpu.kernels.image import colour, filters, ranks, sizes

SIGMA, LEVEL, SPECKS = 1.5, 100, 0.05
SMOOTH = np.array((1, 4, 6, 4, 1)) / 16
TOLERATED = 0.51  # of a level, before rounding to bytes
SLOPED = 1.5  # the same where a place between pixels is rounded, too


def turned(shape: tuple[int, ...]) -> Any:
    """The matrix that turns a picture of that shape by a tenth of a right angle around its centre."""
    angle, (y, x) = np.pi / 20, ((n - 1) / 2 for n in shape)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y]])


def specked(pixels: Any) -> Any:
    """Some pixels black, some white."""
    chance = np.random.default_rng(5).random(pixels.shape)
    return np.where(chance < SPECKS, 0, np.where(chance > 1 - SPECKS, 255, pixels)).astype(np.uint8)


def work(gpu: Device, pixels: Any, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    half = tuple((n + 1) // 2 for n in pixels.shape)
    source, out = gpu.array(pixels), [gpu.zeros(half, np.uint8) for _ in range(7)]
    small, clean, smooth, edges, spread, two, turn = out
    specks = gpu.array(specked(np.zeros(half, np.uint8)))
    matrix = turned(half)

    def all_of_them() -> None:
        image.pyramid_down(source, small)
        specks.array[:] = specked(small.numpy())
        image.median(specks, clean)
        image.gaussian(small, smooth, SIGMA)
        image.sobel(small, edges, scale=0.5)
        image.equalise(small, spread)
        image.threshold(small, two, LEVEL)
        image.warp(small, turn, matrix, "reflect")

    seconds = _common.median_time(all_of_them, lambda: [v.array.fill(9) for v in out])
    found, x = [v.numpy() for v in out], small.numpy()
    weights = filters.weights_of(SIGMA)
    wanted = [
        filters.reference_filter2d(pixels, np.outer(SMOOTH, SMOOTH))[::2, ::2],
        ranks.reference_rank(specks.numpy(), 3, 3, "median"),
        filters.reference_filter2d(x, np.outer(weights, weights)),
        np.minimum(filters.reference_sobel(x) / 2, 255),
        colour.levels(np.bincount(x.ravel(), minlength=256))[x],
        np.where(x > LEVEL, 255, 0),
        sizes.reference_warp(x, half, matrix, "reflect"),
    ]
    errors = [float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)]
    sheet = [[x, specks.numpy(), *found[1:3]], found[3:]]
    row = _common.result(
        gpu, "photograph", n=pixels.size, seconds=seconds, max_abs_error=max(errors), width=4 * half[1],
        height=2 * half[0], ok=max(errors[:-1]) <= TOLERATED and errors[-1] <= SLOPED,
    )  # fmt: skip
    if output is not None:
        _png.write(output, np.vstack([np.hstack(line) for line in sheet]))
        row["output"] = str(output)
    return row


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--input", type=Path, help="grey or RGB PNG (default images/camera.png)")
    _png.add_output(parser, "photograph.png")
    options = parser.parse_args()
    pixels, output = pixels_of(options.input), _png.output_of(options, "photograph.png")
    return _common.on_devices(options, lambda gpu: work(gpu, pixels(gpu), output(gpu)), _png.show)


if __name__ == "__main__":
    _common.main(run)
