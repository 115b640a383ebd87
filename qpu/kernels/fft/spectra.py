"""Windows, overlapping frames and spectrograms: what users of radio and sound put around a transform."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.core.arguments import within
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, separate
from qpu.kernels.fft.transforms import rfft
from qpu.lang import Grid, In, In2, Out2, c64, f32, kernel
from qpu.launch import Run

__all__ = ["WINDOWS", "frames", "reference_spectrogram", "spectrogram", "window"]

F = np.float32

WINDOWS: Final[dict[str, tuple[float, ...]]] = {
    "rectangle": (1.0,),
    "hann": (0.5, 0.5),
    "hamming": (0.54, 0.46),
    "blackman": (0.42, 0.5, 0.08),
    "blackman-harris": (0.35875, 0.48829, 0.14128, 0.01168),
    "flat-top": (0.21557895, 0.41663158, 0.277263158, 0.083578947, 0.006947368),
}
"""Windows by name: the factors a[m] of the sum of (-1)**m a[m] cos(2 pi m j / n)."""


@kernel
def _windowed(k: Grid, x: In2[f32], w: In[f32], y: Out2[f32]) -> None:
    r, j = k.index(*y.shape)
    y[r, j] = x[r, j] * w[j]


@kernel
def _powers(k: Grid, x: In2[c64], scale: f32, y: Out2[f32]) -> None:
    r, j = k.index(*y.shape)
    v = x[r, j]
    y[r, j] = scale * (v.real * v.real + v.imag * v.imag)


def window(name: str, n: int) -> NDArray[np.float32]:
    """A window of n numbers, float32, periodic (n + 1 numbers would end as they begin). Raises: UsageError.

    name: one of `WINDOWS`.
    """
    if name not in WINDOWS:
        raise UsageError(f"window {name!r}; allowed: {', '.join(WINDOWS)}", help="pass one of them")
    angle = 2 * np.pi / within("n", n, 1, 1 << 24) * np.arange(n)
    return np.asarray(sum((-1) ** m * a * np.cos(m * angle) for m, a in enumerate(WINDOWS[name])), F)


def frames(x: Memory, n: int, hop: int) -> BufferView:
    """Rows of n numbers of x, each `hop` numbers after the one before. Nothing is copied. Raises: UsageError.

    x: float32, one axis, its elements next to each other.
    """
    a = operand("x", x, F, 1)
    within("n", n, 1, max(a.shape[0], 1))
    within("hop", hop, 1, 1 << 24)
    if a.shape[0] < n:
        raise UsageError(f"x has {a.shape[0]} numbers; allowed: {n} or more", help="a frame has to fit into x")
    step = a.strides[0]
    return BufferView(a.buffer, a.offset, ((a.shape[0] - n) // hop + 1, n), F, (hop * step, step))


@entry
def spectrogram(x: Memory, w: Memory, out: Memory, hop: int) -> Run:
    """out[i, k] = the power at frequency k of frame i: the square of the transform, divided by the sum of w squared.

    x: float32, one axis; w: a window of n float32 on the device; out: float32 (frames, n // 2 + 1), with a frame for
    each `hop` numbers from which n are left. Raises: UsageError.
    """
    factors, target = operand("w", w, F, 1), operand("out", out, F, 2, "out")
    n = factors.shape[0]
    pieces = frames(x, n, hop)
    wanted = (pieces.shape[0], n // 2 + 1)
    if target.shape != wanted:
        raise UsageError(
            f"out has the shape {list(target.shape)}; allowed: {list(wanted)}", help="a row a frame, n // 2 + 1 powers"
        )
    gpu = device(x=pieces, w=factors, out=target)
    separate("out", target, x=pieces, w=factors)
    total = float(np.square(factors.numpy(), dtype=np.float64).sum())
    with Jobs(gpu) as jobs:
        cut, found = jobs.scratch(pieces.shape), jobs.scratch(wanted, np.complex64)
        jobs.add(_windowed, pieces, factors, cut)
        jobs.take(rfft(cut, found))
        jobs.add(_powers, found, 1 / total if total else 0.0, target)
        return jobs.run()


def reference_spectrogram(x: NDArray[Any], w: NDArray[Any], hop: int) -> NDArray[np.float64]:
    """The powers of `spectrogram`, by NumPy; the transforms are those of `numpy.fft`, by name."""
    pieces = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), len(w))[::hop]
    return np.asarray(np.abs(np.fft.rfft(pieces * w)) ** 2 / np.square(w, dtype=np.float64).sum())
