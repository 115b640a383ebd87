"""Sobel filter: edges of a photograph, with a square root by the SFU and one Newton step.

Examples:
    uv run examples/assembly/sobel.py --device all
    uv run examples/assembly/sobel.py --device pi5 --input photo.png --gain 1 --output edges.png
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

import qpu
from qpu.device import Device

# (down, right) -> weight in the gradient to the right and downwards
WEIGHTS = {
    (-1, -1): (-1, -1), (-1, 0): (0, -2), (-1, 1): (1, -1),
    (0, -1): (-2, 0), (0, 1): (2, 0),
    (1, -1): (-1, 1), (1, 0): (0, 2), (1, 1): (1, 1),
}  # fmt: skip
OFFSETS = list(WEIGHTS)


def start(q: Any, k: Kit) -> None:
    """work[0], work[1]: the two gradients."""
    q.mov(k.work[0], 0)
    q.mov(k.work[1], 0)


def tap(q: Any, k: Kit, i: int, value: Any) -> None:
    """Add a weighted pixel to both gradients; exact, since grey values are whole numbers, also where sums truncate."""
    for gradient, weight in zip(k.work, WEIGHTS[OFFSETS[i]], strict=False):
        for _ in range(abs(weight)):
            (q.fadd if weight > 0 else q.fsub)(gradient, gradient, value)


def finish(q: Any, k: Kit) -> Any:
    """min(gain * sqrt(x * x + y * y), 255) as s * rsqrt(s). Constants: gain, 255, 1.5."""
    x, y, s, r = k.work
    gain, white, three_halves = k.constants
    q.fmul(x, x, x)
    q.fmul(y, y, y)
    q.fadd(s, x, y)
    q.fmax(x, s, 1.0)  # s is a whole number; this keeps 0 * rsqrt(0) from being NaN
    if k.isa is qpu.Isa.VC4:
        q.mov(q.sfu_recipsqrt, x)
        q.nop()
        q.nop()
        q.mov(r, q.r4)
    else:
        q.rsqrt(r, x)
    q.fmul(y, r, r)  # the SFU is approximate: r = r * (1.5 - x / 2 * r * r)
    q.fmul(x, x, 0.5)
    q.fmul(y, y, x)
    q.fsub(y, three_halves, y)
    q.fmul(r, r, y)
    q.fmul(s, s, r)
    q.fmul(s, s, gain)
    q.fmin(s, s, white)
    return s


def reference(pixels: Any, gain: float) -> Any:
    """The same in NumPy, float64."""
    grey = pixels.astype(np.float64)
    x, y = (sum(w[axis] * shifted(grey, *at) for at, w in WEIGHTS.items()) for axis in (0, 1))
    return np.minimum(gain * np.sqrt(x * x + y * y), 255.0)


def work(gpu: Device, pixels: Any, gain: float, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    source = picture(gpu, pixels.astype(np.float32))
    out = picture(gpu, np.zeros(pixels.shape, np.float32))
    body = Taps(OFFSETS, start, tap, finish)
    job = RowProgram(gpu, body, pixels.shape, out, source, [gain, 255.0, 1.5])
    seconds = _common.median_time(job.launch, lambda: out.array.fill(-1))
    found = job.result()
    error = np.abs(found - reference(pixels, gain))
    row = _common.result(
        gpu, "sobel", n=pixels.size, width=pixels.shape[1], height=pixels.shape[0], seconds=seconds,
        max_abs_error=float(error.max()), ok=bool(error.max() <= 0.01),
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
