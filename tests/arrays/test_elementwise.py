"""Elementwise functions against NumPy: every function, every dtype, with the special values of floats.

Four functions are computed in one launch. By default a batch runs on one board, the next batch on the next one; the
soak runs all batches on all boards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from qpu.array.array import Array
from qpu.array.dtypes import BY_NAME, kind_of
from qpu.array.operations import OPERATIONS, Operation
from qpu.device import Device
from tests.arrays.exceptions import ABSOLUTE, NO_SPECIAL_VALUES, RELATIVE

F = np.float32
N = 77
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5], F)
DOMAIN = {
    "sqrt": (0, 50), "rsqrt": (0.01, 50), "log": (0.01, 50), "log2": (0.01, 50), "log10": (0.01, 50),
    "log1p": (-0.9, 50), "asin": (-1, 1), "acos": (-1, 1), "acosh": (1, 50), "atanh": (-0.95, 0.95), "exp": (-20, 20),
    "exp2": (-20, 20), "expm1": (-10, 10), "sinh": (-10, 10), "cosh": (-10, 10), "tan": (-1.5, 1.5),
}  # fmt: skip
SHIFTS = ("bitwise_left_shift", "bitwise_right_shift")


def numpy_of(name: str) -> Callable[..., Any]:
    row = OPERATIONS[name]
    special: dict[str, Callable[..., Any]] = {
        "real": np.real,
        "imag": np.imag,
        "erf": lambda x: np.array([__import__("math").erf(v) for v in x.tolist()], F),
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "sign": np.sign,
        "exp2": np.exp2,
    }
    return special.get(name) or getattr(np, row.ufunc or name)


def operands(row: Operation, dtype: Any, gpu: Device, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    kind = kind_of(dtype)
    found = []
    for n in range(row.arity):
        if kind.group == "b":
            x = rng.integers(0, 2, N).astype(bool)
        elif kind.group in "iu":
            info = np.iinfo(dtype)
            x = rng.integers(info.min, info.max, N, dtype=np.int64, endpoint=True).astype(dtype)
            x[:6] = np.array([info.min, info.max, 0, 1, 2, 3], np.int64).astype(dtype)
            if n == 1:
                x = np.roll(x, 3)
                if row.name in SHIFTS:
                    x = (x % (8 * kind.size)).astype(dtype)
                if row.name == "pow":
                    x = (x % 9).astype(dtype)
                if row.name in ("floor_divide", "remainder", "divide"):
                    x[x == 0] = 7
                    x[x == np.array(-1).astype(dtype)] = 3
        else:
            low, high = DOMAIN.get(row.name, (-50, 50))
            x = rng.uniform(low, high, N).astype(F)
            if row.name == "pow" and n == 0:
                x = np.abs(x) + F(0.1)
            if row.name == "pow" and n == 1:
                x = x / F(10)
            if str(gpu.isa) not in NO_SPECIAL_VALUES and kind.group == "f":
                x[: len(SPECIAL)] = np.roll(SPECIAL, n * 5)
            if kind.group == "c":
                x = (x + 1j * rng.uniform(-3, 3, N)).astype(dtype)
            x = x.astype(dtype)
        found.append(x)
    return found


def check(name: str, dtype: Any, gpu: Device, got: np.ndarray[Any, Any], given: Sequence[Any]) -> None:
    row = OPERATIONS[name]
    with np.errstate(all="ignore"):
        wide = [x.astype(F) if x.dtype == np.float16 else x for x in given]
        want = np.asarray(numpy_of(name)(*wide))
        if name == "floor_divide" and want.dtype == F:  # see OTHER_THAN_NUMPY
            endless = np.isinf(wide[0]) & np.isfinite(wide[1])
            want = np.where(endless, np.where(np.signbit(wide[0]) == np.signbit(wide[1]), F(np.inf), F(-np.inf)), want)
    if row.result == "float" and kind_of(dtype).group in "iu":
        want = want.astype(F)
    assert got.shape == want.shape, name
    if row.result == "same" and kind_of(dtype).group != "f":
        assert got.dtype == dtype, name
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want.astype(got.dtype), err_msg=f"{name} {dtype}")
        return
    vc4 = gpu.isa == "vc4"
    if row.exact and not vc4 and dtype != BY_NAME["complex64"]:
        np.testing.assert_array_equal(got, want.astype(got.dtype), err_msg=f"{name} {dtype}")
        return
    tolerance = 4e-6 if vc4 else 1.2e-6  # 8 ulp, 16 and more on VideoCore IV
    if name in RELATIVE:
        tolerance *= 4
    size = np.abs(want[np.isfinite(want)]).max() if dtype.kind == "c" else 1.0
    least = max(2e-6 if name in ABSOLUTE else 0, 1e-6 * size if vc4 or dtype.kind == "c" else 1e-30) * (4 if vc4 else 1)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=least, err_msg=f"{name} {dtype}")


WRAPPING = (
    "add",
    "multiply",
    "negative",
    "abs",
    "bitwise_left_shift",
    "bitwise_right_shift",
    "less",
    "maximum",
    "sign",
)


def batches(every: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Functions by three. every: all of all dtypes; else all of float32, and of others some that wrap or compare."""
    for n, dtype in enumerate(BY_NAME):
        group = kind_of(BY_NAME[dtype]).group
        names = [r.name for r in OPERATIONS.values()
                 if group in r.groups or (r.result == "float" and group in "iu")]  # fmt: skip
        if not every and dtype != "float32":
            names = ([x for x in names if x in WRAPPING] or names)[n % 2 :: 2][:2]
        for n in range(0, len(names), 3):
            yield dtype, names[n : n + 3]


def run(gpu: Device, dtype: str, names: Sequence[str]) -> None:
    xp, kind = gpu.xp, BY_NAME[dtype]
    given = {name: operands(OPERATIONS[name], kind, gpu, n) for n, name in enumerate(names)}
    if all(
        name not in DOMAIN and name not in (*SHIFTS, "pow", "floor_divide", "remainder", "divide") for name in names
    ):
        two = (
            operands(OPERATIONS["add"], kind, gpu, 9)
            if kind.kind != "b"
            else operands(OPERATIONS["equal"], kind, gpu, 9)
        )
        given = {name: two[: OPERATIONS[name].arity] for name in names}
    arrays: dict[int, Any] = {}

    def array(x: Any) -> Any:
        return arrays.setdefault(id(x), xp.asarray(x))

    found = {name: getattr(xp, name)(*(array(x) for x in given[name])) for name in names}
    if len(names) > 1:
        together(xp, list(found.values()))
    for name in names:
        assert isinstance(found[name], Array)
        check(name, kind, gpu, found[name].numpy(), given[name])


def together(xp: Any, arrays: Sequence[Any]) -> None:
    """Compute arrays that something else needs, too, in one launch with the last one."""
    used = [xp.logical_not(x) if x.dtype == xp.bool else xp.positive(x) for x in arrays]
    total = arrays[-1]
    for x in arrays[:-1]:
        total = xp.where(xp.astype(x, xp.float32) == 7 if x.dtype.kind != "c" else xp.abs(x) == 7, total, total)
    before = xp._memory.launches
    total.evaluate()
    assert xp._memory.launches == before + 1 and len(used) == len(arrays)


@pytest.mark.parametrize(("number", "dtype", "names"), [(n, d, x) for n, (d, x) in enumerate(batches())],
                         ids=lambda v: "-".join(v) if isinstance(v, list) else str(v))  # fmt: skip
def test_functions(device: Any, number: int, dtype: str, names: list[str]) -> None:
    run(device(("pi5", "pi4", "pi3")[number % 3]), dtype, names)


def test_special_values_of_the_standard(device: Any) -> None:
    """Denormal divisors, quotients of infinities, angles of any size."""
    xp = device("pi5").xp
    inf, small = F(np.inf), F(2.0**-140)
    rows = [
        ("divide", 3 * small, small, 3), ("divide", 0, small, 0), ("remainder", 7 * small / 4, small, 3 * small / 4),
        ("floor_divide", 5, -inf, -1), ("floor_divide", -5, -inf, 0), ("floor_divide", -inf, 3, -inf),
        ("remainder", 5, -inf, -inf), ("remainder", -5, -inf, -5), ("atan2", small, -small, 2.3561945),
    ]  # fmt: skip
    for name in ("divide", "remainder", "floor_divide", "atan2"):
        mine = [r[1:] for r in rows if r[0] == name]
        x, y, want = (np.array(v, F) for v in zip(*mine, strict=True))
        found = getattr(xp, name)(xp.asarray(x), xp.asarray(y)).numpy()
        np.testing.assert_allclose(found, want, rtol=1e-6, err_msg=name)
    angles = np.concatenate([np.float32(1.7) ** np.arange(20, 166), np.array([inf, np.nan], F)]).astype(F)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(xp.sin(xp.asarray(-angles)).numpy(), np.sin(-angles), rtol=0, atol=5e-7)


@pytest.mark.parametrize(("board", "kind"), [("pi3", "int16"), ("pi4", "uint8"), ("pi5", "int32"), ("pi5", "uint32")])
def test_integers_divided_by_zero_are_as_documented(device: Any, board: str, kind: str) -> None:
    xp, limits = device(board).xp, np.iinfo(kind)
    x = np.array([limits.min, 0, 1, limits.max], kind)
    zero = xp.zeros(4, dtype=x.dtype)
    np.testing.assert_array_equal((xp.asarray(x) % zero).numpy(), x)
    quotient = (xp.asarray(x) // zero).numpy()
    if board != "pi3":
        np.testing.assert_array_equal(quotient, np.where(x > 0, np.array(-2).astype(kind), np.array(1, kind)))


def test_functions_of_complex_numbers(gpu: Device) -> None:
    """Also where the product of the two roots would leave the range."""
    run(gpu, "complex64", ["asin"])
    far = np.array([3e38 + 3e38j], np.complex64)
    np.testing.assert_allclose(gpu.xp.asin(gpu.xp.asarray(far)).numpy(), np.arcsin(far), rtol=1e-5)


def test_values_that_die_before_they_could_be_saved(device: Any) -> None:
    """So many at a time are spilled, and one of them shared its place in memory with a result."""
    run(device("pi5"), "complex64", ["acosh", "atanh", "reciprocal"])


@pytest.mark.soak
@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_all_functions_on_all_boards(device: Any, board: str) -> None:
    for dtype, names in batches(every=True):
        run(device(board), dtype, names)
