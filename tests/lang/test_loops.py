"""Instructions of inner loops: golden numbers, to be committed with what changes them; and the same results as
everywhere else.
"""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.kernels.sgemm import error_bound
from qpu.lang import Grid, In, In2, Out, Out2, bundle, f32, i32, kernel, u8, unroll
from qpu.lang.specialise import specialise
from tests.lang.rig import script

BOARDS = {Isa.V3D71: "pi5", Isa.V3D42: "pi4", Isa.VC4: "pi3"}
SIZES = (1, 15, 16, 17, 63, 64, 65, 257, 640)
RANDOM = np.random.default_rng(29)


_loops = script("benchmarks/_loops.py")
saxpy, polynomial, soft, dot, mandelbrot, prefix, prefix_quads, gemm, binomial = (
    getattr(_loops, n)
    for n in ("saxpy", "polynomial", "soft", "dot", "mandelbrot", "prefix", "prefix_quads", "gemm", "blur")
)


@kernel
def mixed(k: Grid, x: In[f32], z: In[u8], y: Out[f32]) -> None:
    i = k.index(y.size)
    y[i] = x[i] * f32(z[i])


# instructions for 16 items on 7.1, 4.2 and VideoCore IV, of Mandelbrot for a step, with four items a lane for 64
GOLDEN = {
    saxpy: (2.5, 4.25, 5.0),
    polynomial: (6.25, 7.5, 9.125),
    soft: (6.0, 6.5, 6.75),
    dot: (2.75, 3.25, 4.25),
    prefix: (10.75, 9.75, 12.25),
    prefix_quads: (22, 25, 31),
    mandelbrot: (8, 9, 10),
    binomial: (11.5, 14.75, 18.75),
}


@pytest.mark.parametrize("k", GOLDEN, ids=lambda k: k.fn.__name__)
def test_instructions_of_loops(k: qpu.lang.entry.Kernel) -> None:
    found = []
    for isa in BOARDS:
        compiled = k.compile(isa)
        assert compiled.program.check() == []
        depth = 2 if k in (mandelbrot, binomial) else 1
        loop = next(x for x in compiled.report.loops if x.depth == depth)
        found.append(loop.per_16 if k not in (mandelbrot, prefix_quads) else loop.instructions)
    assert tuple(found) == GOLDEN[k]


def test_turns_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a turn in front of the loop and half a one behind it, however many turns there are."""
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    for isa, board in BOARDS.items():
        made = dot.compile(isa)
        with qpu.open_device(board, engine="reference") as gpu:
            for n in (1, 17, 64, 128, 192, 257):
                x = RANDOM.integers(-9, 9, n).astype(np.float32)
                part = gpu.zeros(1)
                dot.on(gpu, workers=1)(gpu.array(x), gpu.array(x), part)
                assert part.numpy()[0] == np.dot(x, x)
        monkeypatch.setattr(bundle, "overlap", lambda *_: None)
        plain = specialise(dot.source, dot.team, dot.special(isa))
        monkeypatch.undo()
        assert made.report.loops[0].instructions < plain.report.loops[0].instructions
        assert len(made.program) > len(plain.program)


TILES = {Isa.V3D71: (24, 32), Isa.V3D42: (24, 32), Isa.VC4: (48, 16)}
CORE = {Isa.V3D71: 52, Isa.V3D42: 54, Isa.VC4: 53}  # 96 additions and products by two ALUs: 48 at least


@pytest.mark.parametrize("isa", BOARDS, ids=str)
def test_core_of_matrix_products(isa: Isa) -> None:
    rows, cols = TILES[isa]
    compiled = gemm.compile(isa, rows=rows, cols=cols)
    assert compiled.program.check() == []
    assert [x.instructions for x in compiled.report.loops if x.depth == 2] == [CORE[isa]]
    m, n, depth = 2 * rows, 2 * cols, 5
    a, b = (RANDOM.uniform(-1, 1, shape).astype(np.float32) for shape in ((m, depth), (depth, n)))
    panels = np.ascontiguousarray(a.reshape(m // rows, rows, depth).transpose(0, 2, 1).reshape(m // rows, -1))
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        c = gpu.zeros((m, n))
        gemm.on(gpu, workers=3)(gpu.array(panels), gpu.array(b), c, rows=rows, cols=cols)
        found = c.numpy()
    assert (np.abs(found - a.astype(np.float64) @ b) <= error_bound(isa, 1.0, a, b, 0.0, found)).all()


@pytest.mark.parametrize("isa", BOARDS, ids=str)
@pytest.mark.parametrize("workers", [1, 3])
def test_runs_of_several_vectors_a_turn(isa: Isa, workers: int) -> None:
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        for n in (1, 16, 63, 64, 65, 200, 515):
            x = RANDOM.integers(-1000, 1000, n).astype(np.int32)
            y, plain = gpu.zeros(n, np.int32), np.zeros(n, np.int32)
            prefix.on(gpu, workers=workers)(gpu.array(x), y)
            prefix.python(x, plain, workers=workers)
            assert np.array_equal(y.numpy(), plain)


@pytest.mark.parametrize("isa", BOARDS, ids=str)
def test_loads_ahead_read_nothing_behind_the_last_turn(isa: Isa) -> None:
    """Arrays that end where a buffer ends: emulated boards refuse what lies behind."""
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        for n in (1, 63, 64, 65, 128, 640, 64 * 48 + 7):
            x = RANDOM.uniform(-2, 2, n).astype(np.float32)
            y, again = gpu.zeros(n), np.zeros(n, np.float32)
            polynomial(1.0, 2.0, 3.0, -4.0, 5.0, 6.0, gpu.array(x), y)
            polynomial.python(1.0, 2.0, 3.0, -4.0, 5.0, 6.0, x, again)
            if isa is Isa.VC4:  # sums truncate
                np.testing.assert_allclose(y.numpy(), again, rtol=1e-5, atol=1e-4)
            else:
                assert np.array_equal(y.numpy(), again)


@pytest.mark.parametrize("isa", BOARDS, ids=str)
def test_wide_and_narrow_loads_beside_each_other(isa: Isa) -> None:
    """Results come in the order of the requests."""
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        x, z = np.arange(150, dtype=np.float32), RANDOM.integers(0, 256, 150).astype(np.uint8)
        y = gpu.zeros(150)
        mixed(gpu.array(x), gpu.array(z), y)
        assert np.array_equal(y.numpy(), x * z)


@pytest.mark.parametrize("isa", BOARDS, ids=str)
def test_a_launch_executes_what_the_report_says(isa: Isa) -> None:
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        counts = []
        for n in (2, 10):
            x, y = gpu.zeros(n * 4096), gpu.zeros(n * 4096)
            stats = saxpy(2.0, x, y).stats
            assert stats is not None
            counts.append(stats.instructions)
        assert (counts[1] - counts[0]) * 16 == 8 * 4096 * GOLDEN[saxpy][list(BOARDS).index(isa)]


@pytest.mark.parametrize("isa", BOARDS, ids=str)
@pytest.mark.parametrize("workers", [1, 3])
def test_items_of_a_team_are_the_same_everywhere(isa: Isa, workers: int) -> None:
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        for n in SIZES:
            for m in {n, max(n - 20, 1)} if n % 2 else {n, n + 5}:
                x, y = (RANDOM.uniform(-2, 2, s).astype(np.float32) for s in (n, m))
                part, again, plain = (np.zeros(workers, np.float32) for _ in range(3))
                found = gpu.array(part)
                dot.on(gpu, workers=workers)(gpu.array(x), gpu.array(y), found)
                if isa is Isa.VC4:
                    bound = 1e-5 * max(n, 1)
                    assert abs(found.numpy().sum() - np.dot(x[:m], y[:n])) < bound
                    continue
                dot.interpret(x, y, again, workers=workers, isa=str(isa))
                dot.python(x, y, plain, workers=workers)
                assert np.array_equal(found.numpy(), again) and np.array_equal(again, plain)


@kernel
def gather(k: Grid, at: In[i32], x: In[f32], y: Out[f32]) -> None:
    i = k.index(y.size)
    y[i] = x[at[i]] + x[at[i] + 1]


@pytest.mark.parametrize("isa", BOARDS, ids=str)
def test_loads_at_places_that_were_loaded(isa: Isa) -> None:
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        x, at = np.arange(100, dtype=np.float32), RANDOM.integers(0, 99, 150).astype(np.int32)
        y = gpu.zeros(150)
        gather(gpu.array(at), gpu.array(x), y)
        assert np.array_equal(y.numpy(), x[at] + x[at + 1])


@kernel
def blur(k: Grid, src: In2[u8], dst: Out2[u8]) -> None:
    r, c = k.index(*dst.shape)
    acc = i32(0)
    for dr, wr in unroll(zip(range(5), (1, 4, 6, 4, 1), strict=True)):
        for dc, wc in unroll(zip(range(5), (1, 4, 6, 4, 1), strict=True)):
            acc += src.clamp[r + dr - 2, c + dc - 2] * (wr * wc)
    dst[r, c] = (acc + 128) >> 8


@pytest.mark.parametrize("isa", [pytest.param(i, marks=() if i is Isa.V3D42 else pytest.mark.soak) for i in BOARDS])
def test_blur_of_bytes_with_few_registers(isa: Isa) -> None:
    """Four items a turn on V3D: constants are taken out of packed registers, the TMU's configuration among them."""
    w, source = np.array([1, 4, 6, 4, 1]), RANDOM.integers(0, 256, (5, 150)).astype(np.uint8)
    with qpu.open_device(BOARDS[isa], engine="reference") as gpu:
        target = gpu.zeros((5, 150), np.uint8)
        blur(gpu.array(source), target)
        padded = np.pad(source.astype(int), 2, mode="edge")
        want = sum(w[a] * w[b] * padded[a : a + 5, b : b + 150] for a in range(5) for b in range(5))
        assert np.array_equal(target.numpy(), (want + 128) >> 8)
