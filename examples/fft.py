"""A Fourier transform of n = 2^m complex numbers by passes of radix 2, each a launch; qpu.kernels has a faster one.

Examples:
    uv run examples/fft.py --device all
"""

from __future__ import annotations

import warnings

import _common
import numpy as np

import qpu
from qpu.device import Device
from qpu.errors import UsageError
from qpu.lang import Grid, In, Out, PerformanceNote, c64, i32

warnings.simplefilter("ignore", PerformanceNote)  # VideoCore IV stores these butterflies one lane after another


@qpu.kernel(coarsen=1)
def fft_pass(k: Grid, x: In[c64], twiddle: In[c64], y: Out[c64], m: i32) -> None:
    """One radix-2 pass of Stockham's transform: the items are the n / 2 butterflies, m the length of finished parts."""
    i = k.index(x.size // 2)
    a = x[i]
    b = x[i + x.size // 2]
    first = i // m * m
    y[i + first] = a + b
    y[i + first + m] = (a - b) * twiddle[first]


def work(gpu: Device, n: int) -> dict[str, object]:
    """Run and check one size."""
    if n & (n - 1):
        raise UsageError(f"--n {n}: allowed are powers of two", help="choose one")
    values = np.random.default_rng(0).uniform(-1, 1, (2, n))
    x = (values[0] + 1j * values[1]).astype(np.complex64)
    twiddle = gpu.array(np.exp(-2j * np.pi * np.arange(max(n // 2, 1)) / n).astype(np.complex64))
    start, *between = gpu.array(x), gpu.zeros(n, np.complex64), gpu.zeros(n, np.complex64)
    lengths = [1 << j for j in range(n.bit_length() - 1)]
    buffers = [start, *(between[j % 2] for j in range(len(lengths)))]
    passes = [
        lambda j=j, m=m: fft_pass(buffers[j], twiddle, buffers[j + 1], m)  # type: ignore[misc]  # a lambda's default
        for j, m in enumerate(lengths)
    ]
    seconds, counts = _common.launched(gpu, *passes)
    want = np.fft.fft(x.astype(np.complex128))
    apart = np.abs(buffers[-1].numpy() - want)
    rms = float(np.sqrt((apart**2).mean() / (np.abs(want) ** 2).mean()))
    ok = rms < (1e-6 if gpu.isa is qpu.Isa.VC4 else 5e-7)
    return _common.result(gpu, "fft", n=n, seconds=seconds, max_abs_error=float(apart.max()), rms=rms, ok=ok, **counts)


if __name__ == "__main__":
    _common.main(lambda: _common.sized(__doc__, work, 256, 1 << 20))
