"""Matrix multiplication: C = alpha * op(A) @ op(B) + beta * C in float32, checked against float64 NumPy.

Examples:
    uv run examples/sgemm.py --device all
    uv run examples/sgemm.py --device pi5 --size 256 --kernel rotate --json
    uv run examples/sgemm.py --device pi3 --m 100 --n 50 --k 200 --transa --beta 0
    uv run examples/sgemm.py --device hardware
"""

from __future__ import annotations

import argparse
import os
import time
from importlib.util import find_spec
from typing import Any

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
    for name, what in (("m", "rows of C"), ("n", "columns of C"), ("k", "length of the sums")):
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--transa", action="store_true", help="A is stored transposed, as k x m")
    parser.add_argument("--transb", action="store_true", help="B is stored transposed, as n x k")
    parser.add_argument("--alpha", type=_common.finite, default=1.5, help="factor of the product (default 1.5)")
    parser.add_argument("--beta", type=_common.finite, default=-0.5, help="factor of C as it was (default -0.5)")
    parser.add_argument(
        "--kernel",
        choices=("auto", *sgemm.KERNELS),
        default="auto",
        help="auto (default): uniform on emulated boards, on real ones the faster, measured once",
    )
    parser.add_argument("--seed", type=_common.word, default=0, help="of the random matrices (default 0)")
    return parser


def default_size() -> int:
    """1024, or a smaller size when an emulated board would use the reference engine."""
    chosen = os.environ.get("QPU_EMU_ENGINE", "auto")
    return REFERENCE_SIZE if chosen == "reference" or find_spec("llvmlite") is None else DEFAULT_SIZE


def start(gpu: Device, good: bool) -> None:
    """What people see as soon as there is a result: the device, and whether the product is right."""
    seconds = time.perf_counter() - _common.process_start()
    print(gpu.info)
    state = "right" if good else "WRONG"
    print(f"  first    product {state}, {seconds:.1f} s after the start of Python; now timing", flush=True)


def multiply(gpu: Device, shape: tuple[int, int, int], options: argparse.Namespace) -> dict[str, Any]:
    """Run, time and check one multiplication; the keys are those of --json."""
    m, n, k = shape
    alpha, beta, transa, transb = options.alpha, options.beta, options.transa, options.transb
    # This comes first, so that a shape that does not fit is refused before any computation.
    with sgemm.Sgemm(gpu, m, n, k, transa=transa, transb=transb, kernel=options.kernel) as job:
        random = np.random.default_rng(options.seed)
        shapes = (job.plan.a_shape, job.plan.b_shape, job.plan.c_shape)
        a, b, c = (random.uniform(-1, 1, s).astype(np.float32) for s in shapes)
        job.load(a, b, c, alpha, beta)
        first = job.launch().stats  # warms up the caches; its translations are reported below
        a, b = a.T if transa else a, b.T if transb else b
        expected = sgemm.reference(alpha, a, b, beta, c)
        bound = sgemm.error_bound(gpu.isa, alpha, a, b, beta, c)
        if not options.json:
            good = bool((np.abs(job.result().astype(np.float64) - expected) <= bound).all())
            start(gpu, good)
        runs: list[Any] = []
        seconds = _common.median_time(lambda: runs.append(job.launch()), lambda: job.load_c(c))
        result = job.result()
        choice = job.choice
    stats = runs[-1].stats
    error = np.abs(result.astype(np.float64) - expected)
    share = np.divide(error, bound, out=np.where(error == 0, 0.0, np.inf), where=bound > 0)
    row: dict[str, Any] = _common.result(
        gpu,
        "sgemm",
        m=m,
        n=n,
        k=k,
        transa=transa,
        transb=transb,
        kernel=choice.kernel,
        kernel_choice=choice.reason,
        seconds=seconds,
        max_abs_error=float(error.max()),
        error_share_of_bound=float(share.max()),
        ok=bool((error <= bound).all()),
    )
    if choice.seconds:
        row["probe_seconds"] = choice.seconds
    flops = 2 * m * n * k
    row["flops"] = flops
    if stats is not None and first is not None:
        row |= {
            "launches": len(runs[-1].launches),
            "instructions": stats.instructions,
            "add_ops": stats.add_ops,
            "mul_ops": stats.mul_ops,
            "float_adds": stats.fadds,
            "float_muls": stats.fmuls,
            "float_share": stats.float_share,
            "useful_share": flops / (32 * stats.instructions),
            "tmu_bytes": stats.tmu_read_bytes + stats.tmu_write_bytes,
            "uniform_bytes": stats.uniform_bytes,
            "dma_bytes": stats.dma_read_bytes + stats.dma_write_bytes,
            "bytes_per_flop": stats.bytes_moved / flops,
            "engine": stats.engine,
            "translate_seconds": first.translate_s,
            "execute_seconds": stats.execute_s,
            "cache_hits": first.cache_hits,
            "cache_misses": first.cache_misses,
        }
    elif not gpu.emulated:
        row["gflops"] = flops / seconds * 1e-9
    return row


def show(gpu: Device, row: dict[str, Any]) -> None:
    """The result for people, after `start`."""
    stored = " and ".join(x for x, flag in (("A", row["transa"]), ("B", row["transb"])) if flag)
    print(
        f"  shape    {row['m']} x {row['n']} x {row['k']} (m x n x k), float32"
        + (f", {stored} stored transposed" if stored else "")
    )
    probes = ", ".join(f"{name} {took:.4f} s" for name, took in row.get("probe_seconds", {}).items())
    print(f"  kernel   {row['kernel']} ({row['kernel_choice']}{': ' + probes if probes else ''})")
    print(f"  time     {row['seconds']:.4f} s, median of 3 runs of all launches ({_common.label(gpu)})")
    if "gflops" in row:
        print(f"  speed    {row['gflops']:.2f} Gflop/s")
    if "instructions" in row:
        print(
            f"  executed {row['instructions']:,} instructions in {row['launches']} launches ({row['engine']} engine), "
            f"packing included; fadd and fmul fill {row['float_share']:.1%} of the two-per-instruction peak, "
            f"{row['useful_share']:.1%} with useful flops"
        )
        print(
            f"  units    {row['add_ops']:,} add operations ({row['float_adds']:,} on floats), "
            f"{row['mul_ops']:,} mul operations ({row['float_muls']:,} on floats)"
        )
        print(
            f"  moved    {row['bytes_per_flop']:.3f} bytes per flop: TMU {row['tmu_bytes'] / 1e6:.2f} MB, "
            f"uniforms {row['uniform_bytes'] / 1e6:.2f} MB, DMA {row['dma_bytes'] / 1e6:.2f} MB "
            f"for {row['flops']:,} flops"
        )
        if row["engine"] == "compiled":
            print(
                f"  engine   first run: {row['translate_seconds']:.3f} s translating, {row['cache_hits']} translations "
                f"from the cache, {row['cache_misses']} made; last run: {row['execute_seconds']:.3f} s executing"
            )
    print(
        f"  error    {row['error_share_of_bound']:.1%} of what rounding of float32 sums may cost, at the worst element "
        f"({row['max_abs_error']:.1e} absolute, against NumPy in float64)"
    )
    print(f"  {'ok' if row['ok'] else 'WRONG: the error exceeds the rounding bound'}", flush=True)


def run() -> int:
    """The whole example."""
    options = arguments().parse_args()
    if options.size is not None and any(getattr(options, x) is not None for x in "mnk"):
        raise UsageError("both --size and one of --m, --n, --k; allowed: one of the two forms", help="leave out --size")
    size = default_size() if options.size is None else options.size
    m, n, k = (size if getattr(options, x) is None else getattr(options, x) for x in "mnk")
    return _common.on_devices(options, lambda gpu: multiply(gpu, (m, n, k), options), show)


if __name__ == "__main__":
    _common.main(run)
