"""Multiply matrices on the QPUs: C = alpha * A @ B + beta * C in float32, checked against float64 NumPy.

Examples:
    uv run examples/sgemm.py --device all
    uv run examples/sgemm.py --device pi5 --size 256 --json
    uv run examples/sgemm.py --device hardware --m 1000 --n 500 --k 2000
"""

from __future__ import annotations

import os
import time
from importlib.util import find_spec

import _common
import numpy as np

from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import sgemm

DEFAULT_SIZE, REFERENCE_SIZE = 1024, 128  # the second ends within seconds on the reference engine


def arguments() -> _common.Parser:
    """The command line."""
    parser = _common.parser(__doc__)
    parser.add_argument(
        "--size", type=int, help=f"m = n = k (default {DEFAULT_SIZE}, {REFERENCE_SIZE} without the compiled engine)"
    )
    for name in "mnk":
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--alpha", type=float, default=1.5)
    parser.add_argument("--beta", type=float, default=-0.5)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def default_size() -> int:
    """1024, unless an emulated board would have to do it on the reference engine."""
    chosen = os.environ.get("QPU_EMU_ENGINE", "auto")
    return REFERENCE_SIZE if chosen == "reference" or find_spec("llvmlite") is None else DEFAULT_SIZE


def multiply(gpu: Device, shape: tuple[int, int, int], alpha: float, beta: float, seed: int) -> dict[str, object]:
    """Run, time and check one multiplication; the keys are those of --json, and a few for people."""
    m, n, k = shape
    with sgemm.Sgemm(gpu, m, n, k) as job:  # first: a shape that does not fit is refused before anything is computed
        random = np.random.default_rng(seed)
        a, b, c = (random.uniform(-1, 1, s).astype(np.float32) for s in ((m, k), (k, n), (m, n)))
        job.load(a, b, c, alpha, beta)
        first = job.launch().stats  # warms caches up; what it translated is told below
        seconds = _common.median_time(job.launch, lambda: job.load_c(c))
        result = job.result()
    stats = gpu.stats
    expected = sgemm.reference(alpha, a, b, beta, c)
    error = np.abs(result.astype(np.float64) - expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(error == 0, 0.0, error / np.abs(expected))
    row: dict[str, object] = {
        "example": "sgemm",
        "device": gpu.info.emulated or gpu.info.board.model,
        "isa": str(gpu.isa),
        "emulated": gpu.emulated,
        "m": m,
        "n": n,
        "k": k,
        "seconds": seconds,
        "max_abs_error": float(error.max()),
        "max_rel_error": float(relative.max()),
        "ok": bool((error <= sgemm.error_bound(gpu.isa, alpha, a, b, beta, c)).all()),
    }
    flops = 2 * m * n * k
    if stats is not None:
        row["instructions"] = stats.instructions
        row["float_share"] = stats.float_share
        row["useful_share"] = flops / (32 * stats.instructions)
        row["bytes_per_flop"] = stats.bytes_moved / flops
        row["engine"] = stats.engine
        if first is not None:
            row["translate_seconds"] = first.translate_s
            row["cache_hits"], row["cache_misses"] = first.cache_hits, first.cache_misses
    elif not gpu.emulated:
        row["gflops"] = flops / seconds * 1e-9
    return row


def show(gpu: Device, row: dict[str, object]) -> None:
    """The result for people."""
    print(gpu.info)
    print(f"  shape    {row['m']} x {row['n']} x {row['k']} (m x n x k), float32")
    print(f"  time     {row['seconds']:.4f} s, median of 3 ({_common.label(gpu)})")
    if "gflops" in row:
        print(f"  speed    {row['gflops']:.2f} Gflop/s")
    if "instructions" in row:
        print(
            f"  executed {row['instructions']:,} instructions ({row['engine']} engine); fadd and fmul fill "
            f"{row['float_share']:.1%} of the two-per-instruction peak, {row['useful_share']:.1%} with useful flops"
        )
        if row["engine"] == "compiled":
            print(
                f"  engine   first launch: {row['translate_seconds']:.3f} s translating, "
                f"{row['cache_hits']} translations from the cache, {row['cache_misses']} made"
            )
        print(f"  moved    {row['bytes_per_flop']:.3f} bytes per flop through TMU, uniforms and DMA")
    print(f"  error    {row['max_abs_error']:.3e} absolute, {row['max_rel_error']:.3e} relative, against float64 NumPy")
    print(f"  {'ok' if row['ok'] else 'WRONG: the error exceeds the rounding bound'}", flush=True)


def run() -> int:
    """The whole example."""
    options = arguments().parse_args()
    start = time.perf_counter()
    if options.size is not None and any(getattr(options, x) is not None for x in "mnk"):
        raise UsageError("give --size, or --m, --n and --k, not both")
    size = default_size() if options.size is None else options.size
    m, n, k = (size if getattr(options, x) is None else getattr(options, x) for x in "mnk")
    good = True
    for name in _common.devices(options.device):
        with _common.opened(name) as gpu:
            row = multiply(gpu, (m, n, k), options.alpha, options.beta, options.seed)
            row["total_seconds"] = time.perf_counter() - start
            good = good and bool(row["ok"])
            if options.json:
                _common.emit(row)
            else:
                show(gpu, row)
        start = time.perf_counter()
    return _common.OK if good else _common.FAILED


if __name__ == "__main__":
    _common.main(run)
