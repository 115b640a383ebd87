"""Tests of sgemm against float64 NumPy: shapes, row lengths, transposes, factors, NaN and infinity, both kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpu
from qpu.core.isa import Isa
from qpu.device import Buffer, Device
from qpu.kernels import pack_v3d, pack_vc4, sgemm, sgemm_layout
from qpu.kernels.sgemm import KERNELS, Kernel, Sgemm
from qpu.kernels.tiles import batch

PAGE = 4096
FACTORS = (0.0, 1.0, -1.0, 2.5, -0.75)


class Placed:
    """A matrix that ends with the last word of device memory of its own, NaN before it and between its rows."""

    def __init__(self, gpu: Device, data: np.ndarray, gap: int) -> None:
        rows, columns = data.shape
        self.ld = columns + gap
        words = (rows - 1) * self.ld + columns
        self.buffer: Buffer = gpu.empty(-(-4 * words // PAGE) * PAGE // 4)
        memory = self.buffer.array
        memory[:] = np.nan
        self.start = len(memory) - words
        self.mask = np.zeros(len(memory), bool)
        self.shape = data.shape
        self.rows(memory)[...] = data
        self.rows(self.mask)[...] = True

    def rows(self, memory: np.ndarray) -> np.ndarray:
        size = memory.itemsize
        return np.lib.stride_tricks.as_strided(memory[self.start :], self.shape, (size * self.ld, size))

    @property
    def view(self) -> Any:
        return self.buffer.view(4 * self.start)

    def surroundings_untouched(self) -> bool:
        return bool(np.isnan(self.buffer.numpy()[~self.mask]).all())


def draw(seed: int, *shapes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]


def close(gpu: Device, got: np.ndarray, alpha: float, a: np.ndarray, b: np.ndarray, beta: float, c: np.ndarray) -> None:
    """Within the rounding bound, element by element."""
    error = np.abs(got - sgemm.reference(alpha, a, b, beta, c))
    bound = sgemm.error_bound(gpu.isa, alpha, a, b, beta, c)
    assert (error <= bound).all(), (error.max(), np.argwhere(~(error <= bound))[:5].tolist(), error.shape)


def stored(shape: tuple[int, int], transposed: bool) -> tuple[int, int]:
    return shape[::-1] if transposed else shape


def multiply(
    gpu: Device,
    shape: tuple[int, int, int],
    kernel: Kernel,
    alpha: float = 1.5,
    beta: float = -0.5,
    transa: bool = False,
    transb: bool = False,
    gaps: tuple[int, int, int] = (0, 0, 0),
    seed: int = 0,
) -> Any:
    """Check one multiplication in memory where every stray access is detected; returns the statistics."""
    m, n, k = shape
    a, b, c = draw(seed, stored((m, k), transa), stored((k, n), transb), (m, n))
    unread = np.full_like  # what must not be read is NaN
    places = [
        Placed(gpu, x, gap)
        for x, gap in zip(
            (
                a if alpha else unread(a, np.nan),
                b if alpha else unread(b, np.nan),
                c if beta else unread(c, np.nan),
            ),
            gaps,
            strict=True,
        )
    ]
    pa, pb, pc = places
    with Sgemm(
        gpu, m, n, k, transa=transa, transb=transb, kernel=kernel,
        a=pa.view, b=pb.view, c=pc.view, lda=pa.ld, ldb=pb.ld, ldc=pc.ld,
    ) as job:  # fmt: skip
        job.set(alpha, beta)
        run = job.launch()
        result = job.result()
    left, right = a.T if transa else a, b.T if transb else b
    close(gpu, result, alpha, left, right, beta, c)
    for place in places:
        assert place.surroundings_untouched()
        place.buffer.close()
    return run.stats


LENGTH = st.one_of(st.integers(1, 40), st.sampled_from([11, 12, 13, 16, 17, 24, 25, 32, 33, 48, 63, 64, 65, 80]))
DEPTH = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 130, 133, 257]))
GAP = st.sampled_from([0, 1, 3, 16])


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(LENGTH, LENGTH, DEPTH),
    alpha=st.sampled_from(FACTORS),
    beta=st.sampled_from(FACTORS),
    transa=st.booleans(),
    transb=st.booleans(),
    gaps=st.tuples(GAP, GAP, GAP),
    seed=st.integers(0, 1000),
)
def test_any_problem(gpu: Device, kernel: Kernel, **problem: Any) -> None:
    multiply(gpu, problem.pop("shape"), kernel, **problem)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("transa", [False, True])
@pytest.mark.parametrize("transb", [False, True])
def test_transposes_and_edges(gpu: Device, kernel: Kernel, transa: bool, transb: bool) -> None:
    multiply(gpu, (67, 70, 131), kernel, 1.0, 1.0, transa, transb, (1, 2, 3))


@pytest.mark.parametrize("k", range(1, 10))
def test_short_sums(gpu: Device, k: int) -> None:
    multiply(gpu, (3, 5, k), "rotate" if k % 2 else "uniform", 1.0, 0.0, transa=k % 3 == 0)


def test_rows_of_c_too_far_apart_for_one_dma() -> None:
    with qpu.open_device("pi3", engine="reference") as gpu:
        for kernel in KERNELS:
            multiply(gpu, (6, 20, 3), kernel, beta=2.5 if kernel == "uniform" else 0.0, gaps=(0, 0, 2100))


def test_more_tiles_than_a_dispatch_has_workgroups(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgemm, "GROUPS", 2)
    monkeypatch.setattr(pack_v3d, "CHUNK", 128)
    for kernel in KERNELS:
        multiply(gpu, (75, 200, 300), kernel)


def test_long_sums_and_many_tiles_take_several_launches(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a sum, tile ranges and packing of VideoCore IV: limits that real launches must keep."""
    monkeypatch.setattr(sgemm, "STEPS", 64)
    monkeypatch.setattr(sgemm, "WORK", 1 << 18)
    monkeypatch.setattr(pack_vc4, "PACKED", 1 << 12)
    for kernel in KERNELS:
        for alpha, beta in ((1.5, -0.5), (1.0, 0.0)):
            multiply(gpu, (75, 150, 190), kernel, alpha, beta, transb=True)
    multiply(gpu, (75, 300, 1), "rotate", 0.0, 2.0)
    with Sgemm(gpu, 75, 150, 190) as job:
        job.load(*draw(1, (75, 190), (190, 150), (75, 150)))
        job.set()
        assert len(job.launch().launches) >= 2 + 3 and -(-job.plan.depth // sgemm.STEPS) == 3


def test_shares_of_a_launch() -> None:
    for count in (1, 5, 12, 13, 100, 1024, 99999):
        for work, most in ((1, 1 << 29), (1 << 20, 1 << 29), (1 << 29, 1 << 20)):
            size = batch(count, work, most, 12)
            assert size % 12 == 0 or size >= count or size == count
            assert size * work < most + 24 * work or size <= 12


# -- what is not a number


SPECIAL = (np.nan, np.inf, -np.inf, np.inf)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("transa", "beta"), [(False, 0.0), (True, 1.0)])
def test_nan_and_infinity(interpreted: Device, kernel: Kernel, transa: bool, beta: float) -> None:
    gpu = interpreted
    m, n, k = 30, 70, 7
    a, b, c = (np.ones(s, np.float32) for s in ((m, k), (k, n), (m, n)))
    for i, value in enumerate(SPECIAL):
        a[5 * i, i] = value
        b[i + 2, 11 * i + 3] = value
    c[29, 60] = np.nan
    c[1, 1] = -np.inf
    with Sgemm(gpu, m, n, k, transa=transa, kernel=kernel) as job:
        job.load(np.ascontiguousarray(a.T) if transa else a, b, c, 1.0, beta)
        job.launch()
        result = job.result()
    with np.errstate(invalid="ignore"):
        want = a @ b + (c if beta else 0)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(result[finite], want[finite])
    if gpu.isa is Isa.VC4:  # no NaN there: only that something not finite comes out is known
        assert not np.isfinite(result[~finite]).any()
    else:
        np.testing.assert_array_equal(result, want)


def test_zero_factors_read_nothing(interpreted: Device) -> None:
    """As in BLAS: a zero alpha or beta removes even NaN; and nothing is packed or fetched without need."""
    gpu = interpreted
    stats = multiply(gpu, (30, 40, 9), "uniform", 0.0, 0.0)
    assert stats.tmu_read_bytes == stats.dma_read_bytes == 0 and stats.fadds == 0
    assert multiply(gpu, (30, 40, 9), "uniform", 0.0, 2.0).tmu_read_bytes >= 4 * 30 * 40
    without = multiply(gpu, (30, 40, 9), "rotate", 1.0, 0.0).tmu_read_bytes
    assert without + 4 * 30 * 40 <= multiply(gpu, (30, 40, 9), "rotate", 1.0, 1.0).tmu_read_bytes


def test_factors_that_are_not_finite() -> None:
    with qpu.open_device("pi5") as gpu, Sgemm(gpu, 3, 3, 3) as job:
        ones = np.ones((3, 3), np.float32)
        job.load(ones, ones, ones, np.inf, -np.inf)
        job.launch()
        assert np.isnan(job.result()).all()


# -- how well the machine is used


@pytest.mark.parametrize(("kernel", "least"), [("uniform", 0.95), ("rotate", 0.75)])
def test_inner_loop_by_its_code_and_by_statistics(gpu: Device, kernel: Kernel, least: float) -> None:
    length, floats = sgemm.inner_loop(sgemm.program(gpu.isa, kernel))
    assert floats / (2 * length) >= least
    shape = sgemm_layout.SHAPES[gpu.isa is Isa.VC4, kernel]
    found = []
    for k in (4, 44):
        multiply(gpu, (shape.rows, shape.columns, k), kernel)
        found.append(gpu.stats)
    short, long = found
    assert short is not None and long is not None
    assert long.instructions - short.instructions == 10 * length
    assert long.fadds + long.fmuls - short.fadds - short.fmuls == 10 * floats


def test_a_whole_launch_with_packing(gpu: Device) -> None:
    size = 768
    a, b, c = draw(1, *3 * [(size, size)])
    with Sgemm(gpu, size, size, size) as job:
        job.load(a, b, c, 1.5, -0.5)
        stats = job.launch().stats
        result = job.result()
    assert (
        np.abs(result - sgemm.reference(1.5, a, b, -0.5, c)) <= sgemm.error_bound(gpu.isa, 1.5, a, b, -0.5, c)
    ).all()
    assert stats is not None and stats.engine == "compiled"
    assert 2 * size**3 / (32 * stats.instructions) >= 0.90
    assert stats.bytes_moved / (2 * size**3) <= 0.2
    assert len(stats.per_qpu) == gpu.qpus


# -- the ways in


def test_views_and_the_function(gpu: Device) -> None:
    """Row strides, column strides and reversed rows of host arrays; C is updated in place, its neighbours not."""
    big_a, big_b, big_c = draw(3, (40, 60), (70, 90), (50, 80))
    a, b, c = big_a[3:33, 5:25], big_b[60:20:-2, 10:90:3], big_c[10:40, 20:47]
    before = big_c.copy()
    got = sgemm.sgemm(gpu, a, b, c, alpha=2.0, beta=0.5)
    assert got is c
    kept = before[10:40, 20:47]
    close(gpu, c, 2.0, a, b, 0.5, kept)
    before[10:40, 20:47] = c
    np.testing.assert_array_equal(big_c, before)
    other = sgemm.sgemm(gpu, a.T, b.T, transa=True, transb=True)
    close(gpu, other, 1.0, a, b, 0.0, np.zeros_like(kept))


def test_the_result_of_one_is_the_operand_of_the_next(gpu: Device) -> None:
    """Device memory, with C in the place of A: operands are packed before C is written."""
    a, b = draw(4, (33, 33), (33, 33))
    memory = gpu.array(a)
    with Sgemm(gpu, 33, 33, 33, a=memory, c=memory) as job:
        job.load(None, b)
        job.launch()
        job.launch()
    once = a.astype(np.float64) @ b
    assert np.abs(memory.numpy() - once @ b).max() < 1e-4
    memory.close()


def test_one_job_with_other_factors(gpu: Device) -> None:
    a, b, c = draw(5, (20, 30), (30, 10), (20, 10))
    with Sgemm(gpu, 20, 10, 30) as job:
        for alpha, beta in ((1.0, 0.0), (0.0, 3.0), (-1.0, 1.0)):
            job.load(a, b, c, alpha, beta)
            job.launch()
            close(gpu, job.result(), alpha, a, b, beta, c)


def test_choice_of_the_kernel(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sgemm.choose(gpu).kernel == "uniform" and sgemm.choose(gpu).reason == "emulated board"
    assert sgemm.choose(gpu, "rotate").reason == "asked for"
    monkeypatch.setattr(sgemm, "PROBE", 8)
    sgemm._measured.pop(gpu, None)
    measured = sgemm.choose(gpu, measure=True)
    assert measured.reason == "measured" and set(measured.seconds) == set(KERNELS)
    assert measured.seconds[measured.kernel] == min(measured.seconds.values())
    monkeypatch.setattr(sgemm, "_probe", None)
    assert sgemm.choose(gpu, measure=True) is measured, "measured once"
    sgemm._measured.pop(gpu)
    with Sgemm(gpu, 1, 1, 1) as job:
        assert job.kernel == "uniform" and job.choice.seconds == {}


def test_on_a_real_board_the_kernel_is_measured(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not called emulated: both kernels are tried once, and launches are sent without waiting."""
    monkeypatch.setattr(sgemm, "PROBE", 8)
    monkeypatch.setattr(Device, "emulated", property(lambda self: False))
    a, b, c = draw(6, (20, 30), (30, 10), (20, 10))
    try:
        for _ in range(2):
            with Sgemm(gpu, 20, 10, 30) as job:
                job.load(a, b, c, 1.5, -0.5)
                job.launch()
                close(gpu, job.result(), 1.5, a, b, -0.5, c)
                assert job.choice.reason == "measured" and job.choice is sgemm.choose(gpu)
    finally:
        sgemm._measured.pop(gpu, None)


@pytest.mark.parametrize(("faster", "slower"), [("uniform", "rotate"), ("rotate", "uniform")])
def test_the_faster_kernel_is_taken(faster: Kernel, slower: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgemm, "_probe", lambda gpu, kernel: {faster: 1.0, slower: 2.0}[kernel])
    with qpu.open_device("pi5") as gpu:
        assert sgemm.choose(gpu, measure=True).kernel == faster


def test_a_kernel_that_computes_something_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgemm, "PROBE", 8)
    with qpu.open_device("pi5") as gpu:
        healthy = sgemm_layout.reference
        monkeypatch.setattr(sgemm, "reference", lambda *arguments: healthy(*arguments) + 1)
        with pytest.raises(qpu.DriverError, match="uniform and rotate compute something wrong"):
            sgemm.choose(gpu, measure=True)
        monkeypatch.setattr(sgemm, "_probe", lambda gpu, kernel: None if kernel == "uniform" else 1.0)
        choice = sgemm.choose(gpu, measure=True)
        assert (choice.kernel, choice.reason) == ("rotate", "measured; uniform computed something wrong")


# -- refused before any launch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"m": 0}, "m = 0"),
        ({"n": -2}, "at least one"),
        ({"k": 1.5}, "whole number"),
        ({"m": True}, "whole number"),
        ({"k": 1 << 24}, "16777215"),
        ({"m": 1 << 20, "n": 1 << 20}, "2147483648"),
        ({"lda": 3}, "lda = 3"),
        ({"ldb": 4, "transb": True}, "row length, 5"),
        ({"ldc": "9"}, "ldc = '9'"),
        ({"ldc": 1 << 24}, "16777215"),
        ({"kernel": "fast"}, "auto, uniform, rotate"),
        ({"a": np.zeros((4, 5), np.float32)}, "device memory"),
    ],
)
def test_bad_problems(arguments: dict[str, Any], message: str) -> None:
    with qpu.open_device("pi5") as gpu, pytest.raises(qpu.UsageError, match=message):
        Sgemm(gpu, **{"m": 4, "n": 6, "k": 5, **arguments})


def test_bad_memory() -> None:
    with qpu.open_device("pi5") as gpu, qpu.open_device("pi4") as other:
        good, short, words = gpu.zeros(30), gpu.zeros(29), gpu.zeros(30, np.uint32)
        for a, message in (
            (short, "to byte 120"),
            (good.view(4), "to byte 124"),
            (good.view(2), "multiple of 4"),
            (words, "uint32"),
            (other.zeros(30), "another device"),
        ):
            with pytest.raises(qpu.UsageError, match=message):
                Sgemm(gpu, 6, 5, 5, a=a)


def test_bad_operands() -> None:
    a, b, c = (np.ones(s, np.float32) for s in ((4, 5), (5, 6), (4, 6)))
    with qpu.open_device("pi5") as gpu:
        for arguments, message in (
            ({"a": a.astype(np.float64)}, "float64"),
            ({"a": a[0]}, "matrix of float32"),
            ({"transa": True}, "5 x 4"),
            ({"c": c[:3]}, "3 x 6"),
            ({"beta": 1.0}, "without c"),
            ({"alpha": 1e300}, "beyond float32"),
            *(({"alpha": x}, "real number") for x in (None, "2", 1j, True)),
            ({"a": [[1.0] * 5] * 4}, "a is a list"),
            ({"b": gpu.array(b)}, "b is a Buffer"),
            ({"b": None}, "b is a NoneType"),
            ({"c": np.broadcast_to(c[0], c.shape)}, "read-only"),
        ):
            with pytest.raises(qpu.UsageError, match=message):
                sgemm.sgemm(gpu, **{"a": a, "b": b, **arguments})
        with Sgemm(gpu, 4, 6, 5) as job:
            with pytest.raises(qpu.UsageError, match="load"):
                job.launch()
            with pytest.raises(qpu.UsageError, match=r"b is float32\[6, 5\]"):
                job.load(a, b.T, c)
            with pytest.raises(qpu.UsageError, match="c is a list"):
                job.load(a, b, [1.0])  # type: ignore[arg-type] # wrong on purpose
            with pytest.raises(qpu.UsageError, match=r"c is float32\[1, 6\]"):
                job.load_c(c[:1])
        assert gpu.stats is None, "nothing was launched"


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_panels_that_fill_their_pages_are_not_read_beyond(board: str, kernel: Kernel) -> None:
    """The page after each panel is unmapped: a request too far is a fault."""
    m, n, k = 48, 64, 1024
    with qpu.open_device(board) as gpu, Sgemm(gpu, m, n, k, kernel=kernel) as job:
        panels = job.plan.panel_words[0] * job.plan.tiles[0], job.plan.panel_words[1] * job.plan.tiles[1]
        assert panels[0] % 1024 == 0  # of A: whole pages
        job.load(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
        job.launch()
        assert (job.result() == k).all()


def test_a_buffer_of_the_limit_is_refused() -> None:
    """C of 2**31 bytes, and one column less."""
    with pytest.raises(qpu.UsageError, match="C takes 2147483648 bytes "):
        sgemm_layout.layout(Isa.V3D71, 1 << 14, 1 << 15, 1)
    assert sgemm_layout.layout(Isa.V3D71, 1 << 14, (1 << 15) - 1, 1).c_shape == (1 << 14, (1 << 15) - 1)
