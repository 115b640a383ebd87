"""Spectrogram of a radio-like signal: a chirp, a carrier with dots and dashes, a warbling tone, and noise.

Frames of the signal overlap; each is multiplied by a window and transformed by the library. Time runs to the right,
frequency upwards, a pixel's brightness is the power in decibels.

Examples:
    uv run examples/spectrogram.py --device all
    uv run examples/spectrogram.py --device pi5 --n 131072 --size 512 --window blackman-harris --output spectrum.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common
import _png
import numpy as np

from qpu.device import Device
from qpu.kernels import fft

N, SLOW_N, SIZE = 16384, 2048, 128
FLOOR_DB = 60.0  # below the strongest, black
TOLERATED = 1e-4  # of the strongest power


def signal(n: int) -> Any:
    """n samples, float32. Frequencies are parts of the sampling rate."""
    t = np.arange(n)
    sweep = np.sin(2 * np.pi * (0.05 * t + 0.15 * t * t / n))
    keyed = np.sin(2 * np.pi * 0.42 * t) * (np.sin(2 * np.pi * 9 * t / n) > -0.3)
    warble = np.sin(2 * np.pi * 0.25 * t + 0.02 * n / 8 * np.sin(2 * np.pi * 8 * t / n))
    noise = np.random.default_rng(7).normal(size=n)
    return (sweep + 0.5 * keyed + 0.3 * warble + 0.05 * noise).astype(np.float32)


def reference(x: Any, window: Any, hop: int) -> Any:
    """The powers by NumPy, float64."""
    pieces = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), len(window))[::hop]
    return np.abs(np.fft.rfft(pieces * window)) ** 2 / np.sum(np.square(window, dtype=np.float64))


def picture(powers: Any) -> Any:
    """Powers (time, frequency) as pixels, uint8 (height, width, 3): from black over blue and pink to white."""
    decibels = 10 * np.log10(np.maximum(powers, powers.max() * 10 ** (-FLOOR_DB / 10)) / powers.max())
    level = (1 + decibels / FLOOR_DB).T[::-1, :, None]
    return np.rint(255 * np.clip(level * [2.2, 1.6, 1.4] - [0.6, 0.6, 0.0], 0, 1) ** [1.0, 1.0, 0.8]).astype(np.uint8)


def work(gpu: Device, n: int, size: int, name: str, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    x, window, hop = signal(n), fft.window(name, size), size // 4
    samples, factors = gpu.array(x), gpu.array(window)
    out = gpu.zeros(((n - size) // hop + 1, size // 2 + 1))
    seconds = _common.median_time(lambda: fft.spectrogram(samples, factors, out, hop), lambda: out.array.fill(-1))
    powers = out.numpy()
    wanted = reference(x, window, hop)
    error = float(np.abs(powers - wanted).max())
    row = _common.result(
        gpu, "spectrogram", n=n, window=name, frames=len(powers), seconds=seconds, max_abs_error=error,
        width=powers.shape[0], height=powers.shape[1], ok=bool(error <= TOLERATED * wanted.max()),
    )  # fmt: skip
    if output is not None:
        _png.write(output, picture(powers))
        row["output"] = str(output)
    return row


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--n", type=int, help=f"samples (default {N}, {SLOW_N} without the compiled engine)")
    parser.add_argument("--size", type=int, default=SIZE, help=f"of a frame (default {SIZE})")
    parser.add_argument("--window", choices=tuple(fft.WINDOWS), default="hann", help="(default hann)")
    _png.add_output(parser, "spectrogram.png")
    options = parser.parse_args()
    _common.within("--size", options.size, 4, 4096)
    if options.n is not None:
        _common.within("--n", options.n, options.size, 1 << 22)
    output = _png.output_of(options, "spectrogram.png")

    def on(gpu: Device) -> dict[str, object]:
        n = options.n or max(SLOW_N if _common.slow(gpu) else N, options.size)
        return work(gpu, n, options.size, options.window, output(gpu))

    return _common.on_devices(options, on, _png.show)


if __name__ == "__main__":
    _common.main(run)
