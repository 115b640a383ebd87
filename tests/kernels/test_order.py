"""Scans, sorting, searching, moving: against NumPy on the three boards, which take the cases in turn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qpu
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import move, scan, search, sort
from qpu.kernels.common.rounding import bound
from tests.kernels.turns import turns

BOARDS = ("pi3", "pi4", "pi5")
F, N, U, B = np.float32, np.int32, np.uint32, np.uint8
LENGTHS = st.sampled_from((1, 15, 63, 64, 65, 130, 517))


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    opened = {name: qpu.open_device(name, engine="reference") for name in BOARDS}
    yield opened
    for gpu in opened.values():
        gpu.close()


def items(seed: int, n: int, dtype: Any, low: int = -100, high: int = 100) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.uniform(low, high, n).astype(kind)
    if kind.kind == "u":
        low, high = 0, min(high, int(np.iinfo(kind).max))
    return random.integers(low, high, n).astype(kind)


# -- scans


@pytest.mark.parametrize(
    ("board", "op", "dtype"), turns([
        ("pi3", "sum", F), ("pi4", "sum", N), ("pi5", "sum", B),
        ("pi5", "prod", U), ("pi4", "max", F), ("pi3", "min", np.int16),
    ], 0, 4))  # fmt: skip
def test_cumulative(boards: dict[str, Device], board: str, op: str, dtype: Any) -> None:
    gpu = boards[board]
    function = getattr(scan, f"cumulative_{op}")

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(n=LENGTHS, first=st.integers(0, 3), seed=st.integers(0, 99))
    def check(n: int, first: int, seed: int) -> None:
        x = items(seed, n + first, dtype)
        y = gpu.zeros(n, scan.result_type(dtype))
        function(gpu.array(x)[first:], y)
        x = x[first:]
        want = scan.reference(x, op)
        if op == "sum" and dtype is F:
            assert (np.abs(y.numpy() - want) <= bound(gpu.isa, n / 64 + 80, np.abs(x.astype(float)).cumsum())).all()
        else:
            assert np.array_equal(y.numpy(), want)

    check()


def test_scans_of_long_arrays_and_of_infinities(boards: dict[str, Device]) -> None:
    """More items than one worker takes; an infinity reaches everything after it and nothing before."""
    gpu = boards["pi5"]
    x = items(1, 700, F)
    x[650] = np.inf
    y = gpu.zeros(700)
    run = scan.cumulative_sum(gpu.array(x), y)
    assert len(run.launches) == 2
    assert np.isfinite(y.numpy()[:650]).all() and (y.numpy()[650:] == np.inf).all()


@pytest.mark.parametrize(("board", "axis"), turns([("pi3", 0), ("pi4", 1), ("pi5", -1)], 1))
def test_cumulative_along_an_axis(boards: dict[str, Device], board: str, axis: int) -> None:
    x = items(2, 3 * 5 * 18, N).reshape(3, 5, 18)
    y = boards[board].zeros(x.shape, N)
    scan.cumulative_sum(boards[board].array(x), y, axis)
    assert np.array_equal(y.numpy(), x.cumsum(axis))


# -- sorting


@pytest.mark.parametrize(("board", "dtype"), turns([("pi3", F), ("pi4", N), ("pi5", U), ("pi5", np.int8)], 0))
def test_sort(boards: dict[str, Device], board: str, dtype: Any) -> None:
    gpu = boards[board]

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(n=st.sampled_from((1, 33, 64, 200, 300)), seed=st.integers(0, 99), down=st.booleans())
    def check(n: int, seed: int, down: bool) -> None:
        x = items(seed, n, dtype)
        y = gpu.array(x)
        sort.sort(y, y, down)
        assert np.array_equal(y.numpy(), np.sort(x)[:: -1 if down else 1])

    check()


@pytest.mark.parametrize(("board", "n"), turns([("pi3", 70), ("pi4", 513), ("pi5", 130)], 2))
def test_argsort_keeps_the_order_of_equal_items(boards: dict[str, Device], board: str, n: int) -> None:
    gpu = boards[board]
    x = items(n, n, F, -4, 4).round()
    x[n // 2], x[n // 3] = np.nan, -0.0
    at = gpu.zeros(n, N)
    sort.argsort(gpu.array(x), at)
    assert np.array_equal(at.numpy(), np.argsort(x, kind="stable"))
    values, numbers = gpu.zeros(9), gpu.zeros(9, N)
    x[n // 2] = 99
    sort.topk(gpu.array(x), values, numbers)
    want, where = sort.reference_topk(x, 9)
    assert np.array_equal(values.numpy(), want) and np.array_equal(numbers.numpy(), where)


def test_order_of_special_numbers(boards: dict[str, Device]) -> None:
    x = np.array([np.nan, 1, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, -np.nan], F)
    y = boards["pi4"].array(x)
    sort.sort(y, y)
    got = y.numpy()
    assert np.array_equal(got, np.sort(x), equal_nan=True) and np.signbit(got[2:4]).tolist() == [True, False]


@pytest.mark.parametrize(("board", "dtype"), turns([("pi3", N), ("pi4", U), ("pi5", F)], 1))
def test_unique(boards: dict[str, Device], board: str, dtype: Any) -> None:
    gpu = boards[board]
    x = items(5, 90, dtype, -9, 9) if dtype is not F else items(5, 90, dtype, -9, 9).round()
    out = gpu.zeros(90, dtype)
    count = sort.unique(gpu.array(x), out)
    assert np.array_equal(out.numpy()[:count], np.unique(x))


# -- choosing, searching, counting


@pytest.mark.parametrize(("board", "dtype"), turns([("pi3", np.int16), ("pi4", F), ("pi5", U)], 0, 2))
def test_compact_and_nonzero(boards: dict[str, Device], board: str, dtype: Any) -> None:
    gpu = boards[board]
    for n, share in ((1, 1.0), (40, 0.0), (333, 0.3)):
        x, mask = items(n, n, dtype), np.random.default_rng(n).uniform(0, 1, n) < share
        out, at = gpu.zeros(n, dtype), gpu.zeros(n, N)
        count = move.compact(gpu.array(x), gpu.array(mask), out)
        assert np.array_equal(out.numpy()[:count], move.reference_compact(x, mask))
        count = move.nonzero(gpu.array(mask * B(7)), at)
        assert np.array_equal(at.numpy()[:count], np.nonzero(mask)[0])


@pytest.mark.parametrize(
    ("board", "dtype", "side"), turns([("pi3", F, "left"), ("pi4", B, "right"), ("pi5", U, "left")], 1)
)
def test_searchsorted(boards: dict[str, Device], board: str, dtype: Any, side: str) -> None:
    gpu = boards[board]
    for n in (0, 1, 16, 100):
        a, v = np.sort(items(n, n, dtype, -9, 9)), items(7, 45, dtype, -10, 10)
        v[: min(n, 20)] = a[:20]
        out = gpu.zeros(45, N)
        search.searchsorted(gpu.array(a), gpu.array(v), out, side)
        assert np.array_equal(out.numpy(), np.searchsorted(a, v, side))  # type: ignore[call-overload]  # a str


@pytest.mark.parametrize(
    ("board", "dtype", "low"), turns([("pi3", N, -3), ("pi4", B, 0), ("pi5", np.int16, -50)], 0, 2)
)
def test_histogram(boards: dict[str, Device], board: str, dtype: Any, low: int) -> None:
    gpu = boards[board]
    x = items(3, 500, dtype)
    x[:250] = 5
    bins = gpu.zeros(90, N)
    search.histogram(gpu.array(x), bins, low)
    search.histogram(gpu.array(x), bins, low, clear=False)
    assert np.array_equal(bins.numpy(), 2 * search.reference_histogram(x, 90, low))


# -- moving


@pytest.mark.parametrize(("board", "dtype"), turns([("pi3", F), ("pi4", B), ("pi5", np.int16)], 0))
def test_gather_scatter_transpose(boards: dict[str, Device], board: str, dtype: Any) -> None:
    gpu = boards[board]
    x = items(4, 7 * 33, dtype).reshape(7, 33)
    at = np.random.default_rng(4).permutation(33)[:20].astype(N)
    out = gpu.zeros((7, 20), dtype)
    move.gather(gpu.array(x), gpu.array(at), out, axis=1)
    assert np.array_equal(out.numpy(), x[:, at])
    flat = gpu.zeros(20, dtype)
    move.gather(gpu.array(x)[1, ::-1], gpu.array(at), flat)
    assert np.array_equal(flat.numpy(), x[1, ::-1][at])
    x = items(6, 48 * 64, dtype).reshape(48, 64)
    turned = gpu.zeros((64, 48), dtype)
    run = move.transpose(gpu.array(x), turned)
    assert np.array_equal(turned.numpy(), x.T)
    assert run.stats is not None and run.stats.bytes_moved <= 1.05 * 2 * 4 * x.size
    if board != "pi3" or dtype is F:
        spread, want = gpu.zeros(33, F), np.zeros(33, F)
        v = items(8, 20, F)
        move.scatter(gpu.array(v), gpu.array(at), spread)
        want[at] = v
        assert np.array_equal(spread.numpy(), want)


def test_bits_are_moved_as_they_are(boards: dict[str, Device]) -> None:
    """Signalling NaN and denormals, which arithmetic of floats would change."""
    x = np.array([0x7F800001, 0xFFA00000, 1, 0x80000000], U).view(F)
    out = boards["pi3"].zeros(4)
    move.gather(boards["pi3"].array(x), boards["pi3"].array(np.arange(4, dtype=N)), out)
    assert np.array_equal(out.numpy().view(U), x.view(U))


def test_refusals(boards: dict[str, Device]) -> None:
    gpu = boards["pi5"]
    x, i, m = gpu.zeros(8), gpu.zeros(8, N), gpu.array(np.ones(8, bool))
    cases: list[tuple[Any, str]] = [
        (lambda: scan.cumulative_sum(x, i), "out holds int32; allowed: float32"),
        (lambda: scan.cumulative_sum(x, gpu.zeros(7)), "x has the shape"),
        (lambda: scan.cumulative_max(x, gpu.zeros(8), axis=1), "axis = 1"),
        (lambda: sort.sort(x, i), "out holds int32"),
        (lambda: sort.argsort(x, x), "out holds float32"),
        (lambda: sort.topk(x, gpu.zeros(9)), "the 9 largest of 8 items"),
        (lambda: sort.topk(x, i), "values holds int32"),
        (lambda: move.compact(x, m, gpu.zeros(7)), "8 items chosen, and out has 7"),
        (lambda: move.nonzero(i, i), "mask holds int32"),
        (lambda: move.gather(x, i, gpu.zeros(7)), "out has the shape"),
        (lambda: move.gather(gpu.zeros(0), i, x), r"x has the shape \[0\], and at 8 places"),
        (lambda: move.gather(x, i, gpu.zeros(8, N)), "out holds int32 and x float32"),
        (lambda: move.transpose(gpu.zeros((2, 3)), gpu.zeros((2, 3))), "out has the shape"),
        (lambda: move.scatter(x, i, x), "out overlaps x"),
        (lambda: search.searchsorted(x, i, i), "a holds float32 and v int32"),
        (lambda: search.searchsorted(x, x, i, "middle"), "side = 'middle'"),
        (lambda: search.histogram(x, i), "x holds float32"),
        (lambda: search.histogram(i, gpu.zeros(8, N), 2**31 - 7), "low = 2147483641 and 8 bins"),
    ]
    for call, found in cases:
        with pytest.raises(UsageError, match=found) as caught:
            call()
        assert "help: " in str(caught.value) and caught.traceback[1].frame.code.name == "<lambda>"


def test_kernels_of_the_library_give_no_performance_notes() -> None:
    """What costs in them, a caller cannot change."""
    with qpu.open_device("pi3") as gpu, warnings.catch_warnings():
        warnings.simplefilter("error")
        x = gpu.array(np.arange(40, dtype=np.float32).reshape(5, 8))
        out = gpu.empty((5, 8))
        scan.cumulative_sum(x, out, axis=0)
        np.testing.assert_array_equal(out.numpy(), np.cumsum(x.numpy(), 0))
