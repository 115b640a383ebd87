"""A Gaussian blur of a photograph in two passes, along the rows and down the columns.

Examples:
    uv run examples/assembly/gaussian_blur.py --device all
    uv run examples/assembly/gaussian_blur.py --device pi4 --sigma 1 --input photo.png --output soft.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _above  # noqa: F401  # before what is there
import _common
import _png
import numpy as np
from _rows import Kit, RowProgram, picture
from _stencil import Taps, pixels_of, shifted

from qpu.device import Device

LARGEST_SIGMA = 3.0
RADIUS = 7  # 15 taps: as many rows or columns as a filter may have, less one


def weights(sigma: float) -> list[float]:
    """weights[d] for pixels at distance d, as float32 values; with both sides they add up to 1."""
    radius = min(RADIUS, max(1, round(2.5 * sigma)))
    w = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    w /= w[0] + 2 * w[1:].sum()
    return [float(x) for x in w.astype(np.float32)]


def body(radius: int, *, down: bool) -> Taps:
    """One pass. Constants: the weights by distance."""
    distances = range(-radius, radius + 1)

    def start(q: Any, k: Kit) -> None:
        q.mov(k.work[0], 0)

    def tap(q: Any, k: Kit, i: int, value: Any) -> None:
        q.fmul(k.work[1], value, k.constants[abs(distances[i])])
        q.fadd(k.work[0], k.work[0], k.work[1])

    return Taps([(d, 0) if down else (0, d) for d in distances], start, tap, lambda q, k: k.work[0])


def reference(pixels: Any, w: list[float]) -> Any:
    """The same in NumPy, float64."""
    grey = pixels.astype(np.float64)
    reach = range(1 - len(w), len(w))
    across = sum(w[abs(d)] * shifted(grey, 0, d) for d in reach)
    return sum(w[abs(d)] * shifted(across, d, 0) for d in reach)


def work(gpu: Device, pixels: Any, sigma: float, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    w = weights(sigma)
    radius = len(w) - 1
    source = picture(gpu, pixels.astype(np.float32))
    between, out = (picture(gpu, np.zeros(pixels.shape, np.float32)) for _ in range(2))
    across = RowProgram(gpu, body(radius, down=False), pixels.shape, between, source, w)
    down = RowProgram(gpu, body(radius, down=True), pixels.shape, out, between, w)
    instructions = 0

    def launch() -> None:
        nonlocal instructions
        instructions = across.launch() + down.launch()

    seconds = _common.median_time(launch, lambda: out.array.fill(-1))
    found = down.result()
    error = np.abs(found - reference(pixels, w))
    # Each pass: a rounding per product and sum, which on VideoCore IV may cost a whole unit in the last place.
    bound = 2 * (2 * radius + 2) * 2.0**-23 * 256
    row = _common.result(
        gpu, "gaussian_blur", n=pixels.size, width=pixels.shape[1], height=pixels.shape[0], sigma=sigma,
        taps=2 * radius + 1, seconds=seconds, max_abs_error=float(error.max()), ok=bool(error.max() <= bound),
    )  # fmt: skip
    if gpu.emulated:
        row["instructions"] = instructions  # of both passes
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
