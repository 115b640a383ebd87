"""Picture of the Mandelbrot set, in which lanes take different numbers of steps.

Sixteen neighbouring pixels iterate together until the last of them is decided; those that are decided earlier keep
their values. The kernel says nothing of that: it is written for one pixel.

Examples:
    uv run examples/mandelbrot.py --device all
    uv run examples/mandelbrot.py --device pi5 --width 1024 --height 768 --steps 255 --output set.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common
import _png
import numpy as np

import qpu
from qpu.device import Device
from qpu.lang import Grid, Out2, f32, i32

WIDTH, HEIGHT, STEPS = 512, 384, 64
SLOW_WIDTH, SLOW_HEIGHT = 64, 48  # on an emulated board without the compiled engine
LARGEST = 4096  # pixels along an edge
CENTRE = (-0.7, 0.0)
TOLERATED = 0.02  # part of the pixels whose count may differ: on the border it depends on one rounding


@qpu.kernel
def mandelbrot(k: Grid, left: f32, top: f32, edge: f32, limit: i32, count: Out2[i32]) -> None:
    """Steps z = z * z + c until |z| >= 2, up to a limit; c is the middle of a pixel."""
    y, x = k.index(*count.shape)
    c_re = f32(x) * edge + left
    c_im = f32(y) * edge + top
    re, im, n = 0.0, 0.0, 0
    while n < limit and re * re + im * im < 4.0:
        re, im = re * re - im * im + c_re, 2.0 * re * im + c_im
        n += 1
    count[y, x] = n


def reference(left: float, top: float, edge: float, shape: tuple[int, int], steps: int) -> Any:
    """The counts by NumPy, float32 and in the same order of operations; int32."""
    c_re = np.arange(shape[1]).astype(np.float32) * np.float32(edge) + np.float32(left)
    c_im = (np.arange(shape[0]).astype(np.float32) * np.float32(edge) + np.float32(top))[:, None]
    re, im = (np.zeros(shape, np.float32) for _ in range(2))
    count = np.zeros(shape, np.int32)
    for _ in range(steps):
        re2, im2 = re * re, im * im
        undecided = re2 + im2 < 4
        cross = re * im
        re = np.where(undecided, re2 - im2 + c_re, re)
        im = np.where(undecided, cross + cross + c_im, im)
        count += undecided
    return count


def palette(counts: Any, steps: int) -> Any:
    """Colours for counts: uint8, shape (height, width, 3). The set itself is black."""
    t = np.sqrt(counts / steps)[..., None]
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * (t * [1.0, 1.0, 1.0] + [0.0, 0.1, 0.2]))
    return np.where(counts[..., None] == steps, 0, np.rint(255 * wave)).astype(np.uint8)


def work(gpu: Device, shape: tuple[int, int], steps: int, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    height, width = shape
    edge = float(np.float32(max(3.0 / width, 2.4 / height)))
    left, top = CENTRE[0] - edge * width / 2, CENTRE[1] - edge * height / 2
    out = gpu.zeros(shape, np.int32)
    seconds, executed = _common.launched(gpu, lambda: mandelbrot(left, top, edge, steps, out))
    counts = out.numpy()
    error, wrong = _common.difference(counts, reference(left, top, edge, shape, steps))
    row = _common.result(
        gpu, "mandelbrot", n=width * height, width=width, height=height, steps=steps, seconds=seconds,
        max_abs_error=error, differing=wrong, ok=wrong <= TOLERATED * counts.size, **executed,
    )  # fmt: skip
    if output is not None:
        _png.write(output, palette(counts, steps))
        row["output"] = str(output)
    return row


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    row = {**row, "against": f"NumPy's count of steps; {row['differing']} pixels on the border differ"}
    _png.show(gpu, row)


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    for name, size, small in (("width", WIDTH, SLOW_WIDTH), ("height", HEIGHT, SLOW_HEIGHT)):
        text = f"pixels (default {size}, {small} without the compiled engine)"
        parser.add_argument(f"--{name}", type=int, help=text)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"1 .. 10000 (default {STEPS})")
    _png.add_output(parser, "mandelbrot.png")
    options = parser.parse_args()
    for name in ("width", "height"):
        if getattr(options, name) is not None:
            _common.within(f"--{name}", getattr(options, name), 1, LARGEST)
    _common.within("--steps", options.steps, 1, 10000)
    output = _png.output_of(options, "mandelbrot.png")

    def on(gpu: Device) -> dict[str, object]:
        width, height = (SLOW_WIDTH, SLOW_HEIGHT) if _common.slow(gpu) else (WIDTH, HEIGHT)
        return work(gpu, (options.height or height, options.width or width), options.steps, output(gpu))

    return _common.on_devices(options, on, show)


if __name__ == "__main__":
    _common.main(run)
