"""What the functions of the library cost: instructions and bytes that an emulated board counts, beside a floor.

A row is a function, run with two sizes: the difference is what further items cost. The floor counts what no program can
do without: requests, configuration words and results of the memory units (on 7.1 results ride with other accesses),
words that are stored, a branch for a turn; or its additions, whichever is more. Nothing here is a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import library_families
import numpy as np

from qpu.core.isa import Isa
from qpu.device import Device
from qpu.kernels import blas1, blas2, fft, gemm, igemm, sgemm

BOARDS = {Isa.V3D71: "pi5", Isa.V3D42: "pi4", Isa.VC4: "pi3"}
F, C = np.float32, np.complex64
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "library-costs.md"


@dataclass(frozen=True)
class Row:
    """One function. run: launches it for a size; items: how many a size has.

    floor, target: instructions for 16 items on 7.1, 4.2 and VC4.
    """

    name: str
    item: str
    run: Callable[[Device, int], object]
    sizes: tuple[int, int]
    items: Callable[[int], float]
    floor: tuple[float, ...] | None = None
    target: tuple[float, ...] | None = None


def vectors(gpu: Device, n: int, count: int) -> list[Any]:
    """Buffers of small numbers."""
    return [gpu.array(np.linspace(-1, 1, n, dtype=F)) for _ in range(count)]


def matrix(gpu: Device, m: int, n: int, dtype: Any = F) -> Any:
    """A buffer of zeros."""
    return gpu.zeros((m, n), dtype)


def gemv(gpu: Device, n: int, trans: bool) -> object:
    """A matrix of 256 rows, or of 256 columns transposed, and n of the others."""
    a, b = vectors(gpu, n, 1)[0], vectors(gpu, 256, 1)[0]
    if trans:
        return blas2.gemv(1.0, matrix(gpu, n, 256), a, 0.0, b, trans=True)
    return blas2.gemv(1.0, matrix(gpu, 256, n), a, 0.0, b)


def rows_fft(gpu: Device, rows: int, n: int = 1024) -> object:
    """Complex transforms of rows."""
    return fft.fft(matrix(gpu, rows, n, C), matrix(gpu, rows, n, C))


def one_fft(gpu: Device, log: int) -> object:
    """One complex transform."""
    return fft.fft(gpu.zeros(1 << log, C), gpu.zeros(1 << log, C))


STEP = 64 * 64  # items: a chunk of four vectors for each of up to 64 workers
LINE = (2 * STEP, 10 * STEP)

ROWS: list[Row] = [
    Row(
        "blas1.copy",
        "element",
        lambda g, n: blas1.copy(*vectors(g, n, 2)),
        LINE,
        float,
        (2, 3, 2.25),
        (2.25, 3.25, 3.5),
    ),
    Row("blas1.swap", "element", lambda g, n: blas1.swap(*vectors(g, n, 2)), LINE, float, (3.5, 5.5, 4.25)),
    Row("blas1.scal", "element", lambda g, n: blas1.scal(2.0, *vectors(g, n, 1)), LINE, float, (2, 3, 2.25)),
    Row(
        "blas1.axpy",
        "element",
        lambda g, n: blas1.axpy(2.0, *vectors(g, n, 2)),
        LINE,
        float,
        (2.25, 4.25, 4.25),
        (3, 4.5, 5.25),
    ),
    Row("blas1.rot", "element", lambda g, n: blas1.rot(*vectors(g, n, 2), 0.6, 0.8), LINE, float, (3.5, 5.5, 4.25)),
    Row(
        "blas1.dot",
        "element",
        lambda g, n: blas1.dot(*vectors(g, n, 2)),
        LINE,
        float,
        (2.25, 3, 4.25),
        (3.25, 3.75, 4.5),
    ),
    Row("blas1.nrm2", "element", lambda g, n: blas1.nrm2(*vectors(g, n, 1)), LINE, float, (2.25, 2.25, 2.25)),
    Row("blas1.asum", "element", lambda g, n: blas1.asum(*vectors(g, n, 1)), LINE, float, (1.25, 2, 2.25)),
    Row("blas1.iamax", "element", lambda g, n: blas1.iamax(*vectors(g, n, 1)), LINE, float, (3.25, 3.25, 3.25)),
    Row(
        "blas2.gemv",
        "multiplication",
        lambda g, n: gemv(g, n, False),
        (512, 2560),
        lambda n: 256.0 * n,
        (1.31, 1.75, 2.56),
        (2.5, 3, 4),
    ),
    Row(
        "blas2.gemv, transposed",
        "multiplication",
        lambda g, n: gemv(g, n, True),
        (64, 320),
        lambda n: 256.0 * n,
        (1.31, 1.75, 2.56),
        (2.5, 3, 4),
    ),
    Row(
        "blas2.ger",
        "element",
        lambda g, n: blas2.ger(2.0, *vectors(g, 64, 1), *vectors(g, n, 1), matrix(g, 64, n)),
        (256, 1280),
        lambda n: 64.0 * n,
        (2.25, 4.25, 4.25),
    ),
    Row(
        "gemm, batch of 24 x 64 x 32",
        "multiplication",
        lambda g, n: gemm.gemm(*(g.zeros((n, *s)) for s in ((24, 32), (32, 64), (24, 64)))),
        (8, 24),
        lambda n: 24.0 * 64 * 32 * n,
        (1, 1, 1),
    ),
    Row(
        "gemm.syrk, 96 rows",
        "multiplication",
        lambda g, n: gemm.syrk(matrix(g, 96, n), matrix(g, 96, 96)),
        (64, 192),
        lambda n: 96.0 * 97 / 2 * n,
        (1, 1, 1),
    ),
    Row(
        "gemm.trsm, 64 rows",
        "multiplication",
        lambda g, n: gemm.trsm(matrix(g, 64, 64), matrix(g, 64, n)),
        (256, 512),
        lambda n: 64.0 * 65 / 2 * n,
        (1, 1, 1),
    ),
    Row(
        "igemm.requantise",
        "element",
        lambda g, n: igemm.requantise(matrix(g, 64, n, np.int32), 0.1, matrix(g, 64, n, np.int8)),
        (256, 1280),
        lambda n: 64.0 * n,
    ),
    Row("fft, rows of 1024", "number", rows_fft, (64, 128), lambda n: 1024.0 * n, (26, 27, 36), (44.7, 52.3, 66.3)),
    Row(
        "rfft, rows of 1024",
        "number",
        lambda g, n: fft.rfft(matrix(g, n, 1024), matrix(g, n, 513, C)),
        (64, 128),
        lambda n: 1024.0 * n,
    ),
]
ROWS += library_families.rows(Row)
"""For gemv, a batch and transforms the floor is that of the method: 4 x 4 vectors a turn; one addition and one
multiplication; passes of radix 4."""


@dataclass
class Cost:
    """Instructions and bytes of memory traffic."""

    instructions: float = 0.0
    bytes: float = 0.0
    launches: list[Any] = field(default_factory=list)


@contextmanager
def counted(gpu: Device) -> Iterator[Cost]:
    """What the launches inside cost."""
    cost = Cost()

    def recorded(start: Any) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            cost.launches.append(start(*arguments, **options))
            return cost.launches[-1]

        return called

    gpu.run, gpu.submit = recorded(gpu.run), recorded(gpu.submit)  # type: ignore[method-assign]
    try:
        yield cost
    finally:
        del gpu.run, gpu.submit  # the methods again
    for launch in dict.fromkeys(cost.launches):
        launch.wait()
        cost.instructions += launch.stats.instructions
        cost.bytes += launch.stats.bytes_moved


def cost_of(gpu: Device, work: Callable[[], object]) -> Cost:
    """What `work` costs."""
    with counted(gpu) as cost:
        work()
    return cost


def measured(gpu: Device, row: Row) -> tuple[float, float]:
    """Instructions for 16 items more, and bytes for one."""
    small, large = (cost_of(gpu, lambda n=n: row.run(gpu, n)) for n in row.sizes)  # type: ignore[misc]  # run here
    items = row.items(row.sizes[1]) - row.items(row.sizes[0])
    return 16 * (large.instructions - small.instructions) / items, (large.bytes - small.bytes) / items


def products(gpu: Device, n: int) -> list[tuple[str, float, float]]:
    """(name, percent of the issue peak, bytes of a multiplication) of products of n x n, and of their inner loops."""
    found = []
    for whole in (False, True):
        length, work = sgemm.inner_loop(sgemm.program(gpu.isa, "uniform", whole=whole))
        found.append((f"{'igemm' if whole else 'gemm'}, inner loop", 50 * work / length, 0.0))
    for name, dtype, out in (("gemm", F, F), ("igemm int8", np.int8, np.int32), ("igemm int16", np.int16, np.int32)):
        a, b, c = (matrix(gpu, n, n, d) for d in (dtype, dtype, out))
        call = gemm.gemm if dtype is F else igemm.igemm
        cost = cost_of(gpu, lambda f=call, x=a, y=b, z=c: f(x, y, z))  # type: ignore[misc]  # run here
        found.append((f"{name}, {n} x {n} x {n}", 100 * n**3 / 16 / cost.instructions, cost.bytes / n**3))
    a, b, c = (matrix(gpu, n, n, np.int8) for _ in "abc")
    cost = cost_of(gpu, lambda: igemm.igemm(a, b, c, scale=0.01, relu=True))
    found.append((f"igemm int8 to int8, {n} x {n} x {n}", 100 * n**3 / 16 / cost.instructions, cost.bytes / n**3))
    return found


LOOPS = {"gemm, inner loop": (91, 88, 90), "igemm, inner loop": (85, 80, 65)}
"""What is to be reached, percent; convolutions by `gemm` have these loops."""
PEERS = {"igemm int16, 256 x 256 x 256": {"qpu-xla, of 12 QPUs": 24.0, "qpu-xla, of 16": 18.0}}
GPU_FFT = {10: (0.070e-3, "1k"), 17: (16e-3, "128k"), 20: (190e-3, "1M")}
"""Seconds that GPU_FFT publishes for a Pi 1, whose 12 QPUs issue 62.5 million instructions a second each."""
SLOTS = 12 * 62.5e6


def text(values: list[float], digits: int = 2) -> str:
    """Figures of the three chips in a cell."""
    return " / ".join(f"{v:.{digits}f}".rstrip("0").rstrip(".") for v in values)


def page(lengths: tuple[int, ...] = (10, 16), size: int = 256, names: list[str] | None = None) -> str:
    """The page of the guide. names: only these functions are measured again, the others stay as the page has them."""
    import qpu

    before = PAGE.read_text().splitlines() if names else []
    kept = {line.split("`")[1]: line for line in before if line.startswith("| `")}

    lines = [
        "<!-- Written by benchmarks/kernels.py --part library --page; not by hand. -->",
        "# Costs of the library",
        "",
        "Counted on emulated boards: V3D 7.1 / V3D 4.2 / VideoCore IV. Instructions are those of one QPU for 16 items",
        "more; bytes are requested for one item more, on V3D 7.1. No time is measured, and none follows: these figures",
        "do not say how far the memory of a real board keeps up. Floor: what no program can do without, see",
        "`benchmarks/library.py`.",
        "",
        "| function | item | instructions for 16 | floor | bytes |",
        "|---|---|---|---|---|",
    ]
    gpus = [qpu.open_device(name, engine="compiled") for name in BOARDS.values()]
    for row in ROWS:
        if names and row.name not in names and row.name in kept:
            lines.append(kept[row.name])
            continue
        found = [measured(gpu, row) for gpu in gpus]
        floor = "" if row.floor is None else text(list(row.floor))
        lines.append(f"| `{row.name}` | {row.item} | {text([a for a, _ in found])} | {floor} | {found[0][1]:.1f} |")
    if names:
        return "\n".join([*lines, *before[before.index("## Products of matrices") - 1 :], ""])
    lines += [
        "",
        "## Products of matrices",
        "",
        "Share of the issue peak (an addition and a multiplication an instruction), in percent; packing and widening",
        "included, except in the inner loops. Peers: the inner loops of py-videocore (95.5, VideoCore IV), qmkl (51),",
        "py-videocore6 (34.0, V3D 4.2), qmkl6 (29) and py-videocore7 (47.4, V3D 7.1), counted in their assembled code;",
        "products of 1024 x 1024 x 1024 execute 198 million instructions with py-videocore6 (34 %), and 142 million",
        "with py-videocore7 (47 %). qpu-xla publishes 21.67 GOPS for int16 on a Pi 5: 24 % of what 12 QPUs at 960 MHz",
        "issue, 18 % with 16. Convolutions by `gemm` have the same inner loops. For other functions no",
        "count of another library is known here.",
        "",
        "| product | share | bytes a multiplication (V3D 7.1) |",
        "|---|---|---|",
    ]
    for group in zip(*(products(gpu, size) for gpu in gpus), strict=True):
        moved = f"{group[0][2]:.2f}" if group[0][2] else ""
        lines.append(f"| {group[0][0]} | {text([share for _, share, _ in group], 1)} | {moved} |")
    lines += [
        "",
        "## Complex transforms by length",
        "",
        "Instructions of all launches. GPU_FFT publishes times for a Pi 1: 0.070 ms for 2^10 numbers, 16 ms for 2^17,",
        "190 ms for 2^20. The 12 QPUs there have 52,500, 12 million and 142 million issue slots in these times.",
        "",
        "| n | instructions | instructions for 16 numbers |",
        "|---|---|---|",
    ]
    for log in lengths:
        counts = [cost_of(gpu, lambda g=gpu, n=log: one_fft(g, n)).instructions for gpu in gpus]  # type: ignore[misc]  # run here
        each = text([16 * c / (1 << log) for c in counts], 1)
        lines.append(f"| 2^{log} | {' / '.join(f'{int(c):,}' for c in counts)} | {each} |")
    for gpu in gpus:
        gpu.close()
    return "\n".join([*lines, ""])


def figures(add: Callable[..., None], gpu: Device, names: list[str] | None = None) -> None:
    """All rows of one board as figures. add: of `kernels.Figures`; names: only these."""
    which = list(BOARDS).index(gpu.isa)
    for row in ROWS:
        if names and row.name not in names:
            continue
        instructions, moved = measured(gpu, row)
        extra = {"floor": None if row.floor is None else row.floor[which], "target": row.target and row.target[which]}
        add(f"library {row.name}", [instructions], f"instructions for 16 {row.item}s", **extra)
        add(f"library {row.name} bytes", [moved], f"B/{row.item}")
    if names:
        return
    for name, share, moved in products(gpu, 256):
        target = LOOPS[name][which] if name in LOOPS else None
        add(f"library {name}", [share], "% of the issue peak", bytes=moved, target=target, peers=PEERS.get(name, {}))
    for log in (10, 16):
        cost = cost_of(gpu, lambda n=log: one_fft(gpu, n))  # type: ignore[misc]  # run here
        seconds = GPU_FFT.get(log)
        peer = {"GPU_FFT, issue slots in its time": seconds[0] * SLOTS} if seconds and gpu.isa is Isa.VC4 else {}
        add(f"library fft 2^{log}", [cost.instructions], "instructions", bytes=cost.bytes, peers=peer)
