"""Picture of the Mandelbrot set, in which lanes take different numbers of steps.

Sixteen neighbouring pixels iterate together until the last of them is decided. Lanes that are decided earlier keep
their values, because every write depends on a flag of the lane.

Examples:
    uv run examples/assembly/mandelbrot.py --device all
    uv run examples/assembly/mandelbrot.py --device pi5 --width 1024 --height 768 --steps 255 --output set.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _above  # noqa: F401  # before what is there
import _common
import _png
import numpy as np
from _rows import LARGEST, Kit, RowProgram, picture

import qpu
from qpu.device import Device

WIDTH, HEIGHT, STEPS = 512, 384, 64
SLOW_WIDTH, SLOW_HEIGHT = 64, 48  # on an emulated board without the compiled engine
CENTRE = (-0.7, 0.0)
TOLERATED = 0.02  # part of the pixels whose count may differ: on the border it depends on one rounding


class Steps:
    """Body that counts steps z = z * z + c until |z| >= 2, up to a limit. Constants: left, top, pixel edge, -limit."""

    def each_row(self, q: Any, k: Kit) -> None:
        """row[0] = imaginary part of c."""
        _, top, edge, _ = k.constants
        w = k.work
        q.itof(w[0], k.y)
        q.fmul(w[0], w[0], edge)
        q.fadd(k.row[0], w[0], top)

    def each_vector(self, q: Any, k: Kit) -> Any:
        """The same instructions on all chips; flags and conditions have other names on VideoCore IV."""
        vc4 = k.isa is qpu.Isa.VC4
        flags = {"push": "z"} if vc4 else {"push": "pushn"}  # flag N, or flag A: the result is negative
        undecided = "ifn" if vc4 else "ifa"
        left, _, edge, minus_steps = k.constants
        re, im, re2, im2 = k.work
        norm, tally = k.row[1:3]  # tally: steps taken, minus the limit
        c_re, cross = k.column[:2]
        q.itof(re, k.x)
        q.fmul(re, re, edge)
        q.fadd(c_re, re, left)
        q.mov(tally, minus_steps)
        q.mov(re, 0)
        q.mov(im, 0)
        with q.loop("steps") as loop:
            q.fmul(re2, re, re)
            q.fmul(im2, im, im)
            q.fadd(norm, re2, im2)
            q.fmul(cross, re, im)
            q.fsub(re2, re2, im2)
            q.fsub(im2, norm, 4.0)
            q.and_(q.null, im2, tally, **flags)  # both negative: |z| < 2, and there are steps left
            q.fadd(im2, cross, cross)
            if vc4:
                q.b(loop.start, cond="anyn")
            else:
                q.b(loop.start, cond="anya")
            q.fadd(re, re2, c_re, cond=undecided)  # the three delay slots of the branch
            q.fadd(im, im2, k.row[0], cond=undecided)
            q.add(tally, tally, 1, cond=undecided)
        q.nop()
        q.sub(re, tally, minus_steps)
        return re


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
    out = picture(gpu, np.zeros(shape, np.int32))
    job = RowProgram(gpu, Steps(), shape, out, constants=[left, top, edge, -steps])
    seconds = _common.median_time(job.launch, lambda: out.array.fill(-1))
    counts = job.result()
    error, wrong = _common.difference(counts, reference(left, top, edge, shape, steps))
    row = _common.result(
        gpu, "mandelbrot", n=width * height, width=width, height=height, steps=steps, seconds=seconds,
        max_abs_error=error, differing=wrong, ok=wrong <= TOLERATED * counts.size,
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
