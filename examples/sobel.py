"""Sobel filter: edges of a photograph.

Examples:
    uv run examples/sobel.py --device all
    uv run examples/sobel.py --device pi5 --input photo.png --gain 1 --output edges.png
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
from qpu.lang import Grid, In2, Out2, f32, sqrt, u8

# (down, right) -> weight in the gradient to the right and downwards
WEIGHTS = {
    (-1, -1): (-1, -1), (-1, 0): (0, -2), (-1, 1): (1, -1),
    (0, -1): (-2, 0), (0, 1): (2, 0),
    (1, -1): (-1, 1), (1, 0): (0, 2), (1, 1): (1, 1),
}  # fmt: skip


@qpu.kernel
def edges(k: Grid, gain: f32, x: In2[u8], y: Out2[f32]) -> None:
    """The length of the gradient, at most white. The border repeats the edge of the picture."""
    r, c = k.index(*y.shape)
    right = below = 0
    for (down, across), weights in WEIGHTS.items():
        pixel = x.clamp[r + down, c + across]
        right += weights[0] * pixel
        below += weights[1] * pixel
    y[r, c] = min(gain * sqrt(right * right + below * below), 255.0)


def reference(pixels: Any, gain: float) -> Any:
    """The same in NumPy, float64."""
    grey = pixels.astype(np.float64)
    x, y = (sum(w[axis] * shifted(grey, *at) for at, w in WEIGHTS.items()) for axis in (0, 1))
    return np.minimum(gain * np.sqrt(x * x + y * y), 255.0)


def work(gpu: Device, pixels: Any, gain: float, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    source, out = gpu.array(pixels), gpu.zeros(pixels.shape)
    seconds, counts = _common.launched(gpu, lambda: edges(gain, source, out))
    found = out.numpy()
    error = np.abs(found - reference(pixels, gain))
    row = _common.result(
        gpu, "sobel", n=pixels.size, width=pixels.shape[1], height=pixels.shape[0], seconds=seconds,
        max_abs_error=float(error.max()), ok=bool(error.max() <= 0.01), **counts,
    )  # fmt: skip
    if output is not None:
        _png.write(output, np.rint(found).astype(np.uint8))
        row["output"] = str(output)
    return row


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--input", metavar="PNG", type=Path, help="the picture (default: the one shipped here)")
    parser.add_argument("--gain", type=_common.finite, default=0.5, help="factor of the gradient (default 0.5)")
    _png.add_output(parser, "sobel.png")
    options = parser.parse_args()
    _common.within("--gain", options.gain, 2.0**-10, 2.0**10)
    pixels, output = pixels_of(options.input), _png.output_of(options, "sobel.png")
    return _common.on_devices(options, lambda gpu: work(gpu, pixels(gpu), options.gain, output(gpu)), _png.show)


if __name__ == "__main__":
    _common.main(run)
