"""What expressions of arrays cost beside kernels written by hand, and what their sums are worth.

Examples:
    uv run benchmarks/arrays.py --json
    uv run benchmarks/arrays.py --part python

chain: six functions over float32, `abs((x * y + x) * y - x) * 0.5`, as launches, as bytes beside the minimal ones (two
arrays read, one written), and as instructions beside a kernel that says the same in one line. product: launches of a
matrix product with the functions after it. python: CPU time of a repeated expression up to its launch. sums: the error
as a part of the sum of magnitudes, of numbers of one sign and of both; equal: whether boards and numbers of QPUs give
the same bits.
"""

from __future__ import annotations

import time
from typing import Any

import _common
import numpy as np

import qpu
from qpu.array.memory import DeviceMemory
from qpu.device import Device
from qpu.lang import Grid, In, Out, abs, f32

BOARDS = ("pi3", "pi4", "pi5")
F = np.float32


@qpu.kernel
def by_hand(k: Grid, x: In[f32], y: In[f32], out: Out[f32]) -> None:
    i = k.index()
    out[i] = abs((x[i] * y[i] + x[i]) * y[i] - x[i]) * 0.5


def chain(xp: Any, x: Any, y: Any) -> Any:
    """Six functions."""
    return xp.abs((x * y + x) * y - x) * 0.5


class Counted:
    """Launches of arrays and what they executed, within a block."""

    def __init__(self, gpu: Device) -> None:
        self.gpu, self.launches, self.instructions, self.bytes = gpu, 0, 0, 0

    def __enter__(self) -> Counted:
        self.before = self.gpu.xp._memory.launches
        return self

    def __exit__(self, *_: object) -> None:
        stats: Any = self.gpu.stats
        self.launches = self.gpu.xp._memory.launches - self.before
        self.instructions, self.bytes = stats.instructions, stats.bytes_moved


def of_chain(report: _common.Report, gpu: Device, n: int) -> None:
    """Launches, bytes and instructions of six functions."""
    rng = np.random.default_rng(0)
    x, y = (gpu.xp.asarray(rng.uniform(0.5, 1, n).astype(F)) for _ in range(2))
    out = gpu.empty(n)
    by_hand(x, y, out)
    stats: Any = gpu.stats
    hand = stats.instructions
    with Counted(gpu) as counted:
        found = chain(gpu.xp, x, y).evaluate()
    about: dict[str, Any] = {"board": gpu.info.emulated, "n": n, "equal": bool((found.numpy() == out.numpy()).all())}
    report.add("chain launches", [counted.launches], "launches", **about)
    report.add("chain bytes", [counted.bytes / (12 * n)], "of minimal", **about)
    report.add("chain instructions", [counted.instructions / hand], "of hand-fused", **about)


def of_product(report: _common.Report, gpu: Device, size: int) -> None:
    """Launches of a product alone, and with bias, factor and ReLU."""
    xp = gpu.xp
    rng = np.random.default_rng(0)
    a, b = (xp.asarray(rng.uniform(-1, 1, (size, size)).astype(F)) for _ in range(2))
    bias = xp.asarray(rng.uniform(-1, 1, size).astype(F))
    with Counted(gpu) as alone:
        (a @ b).evaluate()
    with Counted(gpu) as fused:
        xp.maximum(0.5 * (a @ b) + bias, 0.0).evaluate()
    about: dict[str, Any] = {"board": gpu.info.emulated, "size": size}
    report.add("product launches", [alone.launches], "launches", **about)
    report.add("product with epilogue", [fused.launches], "launches", **about)


class Stop(Exception):
    """Instead of a launch."""


def of_python(report: _common.Report, gpu: Device, runs: int) -> None:
    """CPU time of a repeated expression before its launch."""
    xp = gpu.xp
    x, y = xp.ones(100), xp.ones(100)
    chain(xp, x, y).evaluate()
    start = DeviceMemory.start

    def stop(*_: Any) -> Any:
        raise Stop

    rounds, times = 50, []
    DeviceMemory.start = stop  # type: ignore[method-assign]  # everything but the launch
    try:
        for _ in range(20 * runs):
            begin = time.thread_time()
            for _ in range(rounds):
                try:
                    chain(xp, x, y).evaluate()
                except Stop:
                    pass
            times.append((time.thread_time() - begin) / rounds * 1e6)
    finally:
        DeviceMemory.start = start  # type: ignore[method-assign]
    report.add("repeated expression", [min(times)], "us of Python", of="six functions, before the launch")


def of_sums(report: _common.Report, gpu: Device, n: int) -> dict[str, bytes]:
    """Errors of sums; their bits by the kind of numbers."""
    rng = np.random.default_rng(0)
    found = {}
    for signs in ("one", "both"):
        data = rng.uniform(0.5 if signs == "one" else -1, 1, n).astype(F)
        total = gpu.xp.sum(gpu.xp.asarray(data)).numpy()
        exact, size = data.sum(dtype=np.float64), np.abs(data).sum(dtype=np.float64)
        found[signs] = total.tobytes()
        error = float(abs(total - exact) / size)
        report.add("sum error", [error], "of magnitudes", board=gpu.info.emulated, n=n, signs=signs)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = _common.parser(__doc__)
    parser.add_argument("--device", action="append", help="emulated board (may be repeated; default: all)")
    parser.add_argument("--part", choices=("chain", "product", "python", "sums"), help="only these figures")
    parser.add_argument("--n", type=_common.positive, default=10**6, help="elements of the chain (default 10**6)")
    parser.add_argument("--sum", type=_common.positive, default=1 << 24, help="elements of the sums (default 2**24)")
    parser.add_argument("--size", type=_common.positive, default=96, help="m = n = k of the product (default 96)")
    options = parser.parse_args()
    report = _common.Report(options.json)
    part = options.part
    names = options.device or list(BOARDS)
    bits: dict[str, dict[str, bytes]] = {}
    for name in names:
        with qpu.open_device(name) as gpu:
            if part in (None, "chain"):
                of_chain(report, gpu, options.n)
            if part in (None, "product"):
                of_product(report, gpu, options.size)
            if part in (None, "python") and name == names[-1]:
                of_python(report, gpu, options.runs)
            if part in (None, "sums"):
                bits[name] = of_sums(report, gpu, options.sum)
    if {"pi4", "pi5"} <= set(bits):
        with qpu.open_device("pi5,slices=1") as gpu:
            small = of_sums(report, gpu, options.sum)
        same = bits["pi4"] == bits["pi5"] == small
        report.add("sum bits equal", [float(same)], "of 1", boards="pi4, pi5, pi5 with one slice")


if __name__ == "__main__":
    _common.main(main)
