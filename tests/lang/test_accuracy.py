"""The functions of the language: error bounds on each GPU, special values, and the boards equal the interpreter."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import Grid, In, Kernel, Out, f32
from qpu.lang.surface import FUNCTIONS, fast

ROOT = Path(__file__).parent.parent.parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lang_accuracy", ROOT / "benchmarks" / "lang_accuracy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lang_accuracy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


accuracy = _load()
INF, NAN = float("inf"), float("nan")
TWO = ("divide", "fmod", "hypot", "pow", "atan2")
ONE = sorted(n for n in accuracy.ROWS if n not in TWO and not n.startswith("fast."))


@pytest.mark.parametrize("limits", [False, True], ids=["emulated", "limits"])
@pytest.mark.parametrize("isa", ["vc4", "v3d42", "v3d71"])
@pytest.mark.parametrize("name", accuracy.ROWS)
def test_bounds(name: str, isa: str, limits: bool) -> None:
    figure = accuracy.measure(name, isa, 14, seed=7, limits=limits)
    assert figure.part <= 1, figure


def _padded(*values: float) -> np.ndarray:
    made = np.zeros(-(-len(values) // 16) * 16, np.float32)
    made[: len(values)] = values
    return made


SPECIAL = (0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 200.0, -200.0, 1e-44, -1e-44, 3e38)


def _same(got: Any, want: Any) -> Any:
    """Equal with the sign of 0, NaN equal to NaN, numbers near enough."""
    with np.errstate(all="ignore"):
        near = np.isclose(got, want, rtol=1e-5, atol=1e-6) & (np.signbit(got) == np.signbit(want))
    return near | (np.isnan(got) & np.isnan(want))


@pytest.mark.parametrize("name", ONE)
def test_special_values_of_one_argument(name: str) -> None:
    x = _padded(*SPECIAL)
    got = accuracy.evaluate(name, "v3d71", x)
    with np.errstate(all="ignore"):
        want = np.asarray(accuracy.ROWS[name].true(x.astype(np.float64))).astype(np.float32)
    if name in ("sin", "cos", "tan"):  # beyond 2**22 an argument says nothing
        want[np.abs(x) > 2.0**22] = NAN
    assert _same(got, want).all(), list(zip(x, got, want, strict=True))


@pytest.mark.parametrize("name", TWO)
def test_special_values_of_two_arguments(name: str) -> None:
    values = (0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 0.5, 2.5, -3.0, 3.0, -2.0, 1e30, -1e30, 4.0, 7.5)
    x, y = (np.array(v, np.float32).ravel() for v in np.meshgrid(values, values))
    got = accuracy.evaluate(name, "v3d71", x, y)
    with np.errstate(all="ignore"):
        want = np.asarray(accuracy.ROWS[name].true(x.astype(np.float64), y.astype(np.float64))).astype(np.float32)
    wrong = ~_same(got, want)
    assert not wrong.any(), [row for row, bad in zip(zip(x, y, got, want, strict=True), wrong, strict=True) if bad]


def test_special_values_on_videocore_iv() -> None:
    """0 and infinity; it has one zero and no NaN."""
    for name, rows in {
        "recip": [(0.0, INF), (INF, 0.0), (-INF, 0.0)],
        "rsqrt": [(0.0, INF), (INF, 0.0)],
        "sqrt": [(0.0, 0.0), (INF, INF)],
        "exp": [(0.0, 1.0), (200.0, INF), (-200.0, 0.0), (INF, INF), (-INF, 0.0)],
        "exp2": [(0.0, 1.0), (200.0, INF), (-200.0, 0.0), (INF, INF), (-INF, 0.0), (-3.0, 0.125)],
        "expm1": [(0.0, 0.0), (-200.0, -1.0), (INF, INF)],
        "log": [(0.0, -INF), (1.0, 0.0), (INF, INF)],
        "log2": [(0.0, -INF), (1.0, 0.0), (INF, INF), (8.0, 3.0)],
        "log10": [(0.0, -INF), (1.0, 0.0), (INF, INF)],
        "log1p": [(0.0, 0.0), (-1.0, -INF), (INF, INF)],
        "sin": [(0.0, 0.0)],
        "cos": [(0.0, 1.0)],
        "tan": [(0.0, 0.0)],
        "sinh": [(0.0, 0.0), (INF, INF), (-INF, -INF)],
        "cosh": [(0.0, 1.0), (INF, INF), (-INF, INF)],
        "tanh": [(0.0, 0.0), (INF, 1.0), (-INF, -1.0)],
        "erf": [(0.0, 0.0), (INF, 1.0), (-INF, -1.0)],
        "atan": [(0.0, 0.0), (INF, np.pi / 2), (-INF, -np.pi / 2)],
    }.items():
        got = accuracy.evaluate(name, "vc4", _padded(*(x for x, _ in rows)))
        want = np.array([y for _, y in rows], np.float32)
        assert np.allclose(got[: len(rows)], want, rtol=1e-6), (name, got[: len(rows)], want)


TEXT = """from qpu.lang.surface import *
from qpu.lang.surface import FUNCTIONS

f = FUNCTIONS.get({name!r}) or (lambda x, y: x / y)

def one(k: Grid, x: In[f32], y: In[f32], out: Out[f32]) -> None:
    i = k.index()
    out[i] = f({arguments})
"""


def test_the_page_lists_every_function() -> None:
    page = (ROOT / "docs" / "reference" / "lang-accuracy.md").read_text()
    for name in accuracy.ROWS:
        assert f"| `{'x / y' if name == 'divide' else name}` |" in page, name
    every = {*FUNCTIONS, *(f"fast.{name}" for name, f in vars(fast).items() if hasattr(f, "arity"))}
    assert every == {*accuracy.ROWS, *accuracy.EXACT.split(), "fma"} - {"divide"}


def test_plain_python_is_within_the_bound() -> None:
    """Plain Python lanes compute by the C library: within a unit in the last place of the true value."""
    values = np.array([0.0, -0.0, INF, -INF, NAN, 1.0, -1.5, 0.75, 100.0], np.float32)
    for name in ONE:
        kernel = Kernel.from_source(TEXT.format(name=name, arguments="x[i]"), "one", coarsen=1)
        out = np.zeros(len(values), np.float32)
        kernel.python(values, values, out)
        with np.errstate(all="ignore"):
            want = np.asarray(accuracy.ROWS[name].true(values.astype(np.float64))).astype(np.float32)
        assert _same(out, want).all(), (name, out, want)


INTERPRETED = """from qpu.lang.surface import *
from qpu.lang.surface import FUNCTIONS

exp, sqrt, sin = FUNCTIONS["exp"], FUNCTIONS["sqrt"], FUNCTIONS["sin"]

def one(k: Grid, x: In[f32], y: In[f32], out: Out[f32]) -> None:
    i = k.index()
    out[i] = exp(x[i]) / y[i] + sqrt(abs(y[i])) * sin(x[i])
    if x[i] > 0.0:
        out[i] = x[i] + y[i]
"""


@pytest.mark.every_board
def test_kernels_in_the_interpreter_equal_the_boards(gpu: Device) -> None:
    x, y = np.random.default_rng(2).uniform(-3, 3, (2, 37)).astype(np.float32)
    kernel = Kernel.from_source(INTERPRETED, "one", coarsen=1)
    out, want = gpu.zeros(37), np.zeros(37, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel(gpu.array(x), gpu.array(y), out)
    kernel.interpret(x, y, want, isa=str(gpu.isa))
    assert np.array_equal(out.numpy().view(np.uint32), want.view(np.uint32))


EQUAL = """from qpu.lang.surface import *

def one(k: Grid, x: In[f32], y: In[f32], out: Out[i32]) -> None:
    i = k.index()
    a, b = x[i], y[i]
    out[i] = where(a == b, 1, 0) + where(a != b, 2, 0) + where(a == 0.0, 4, 0) + where(a != 1.5, 8, 0)
"""


@pytest.mark.every_board
def test_equality_of_zeros_and_infinities(gpu: Device) -> None:
    values = np.array([0.0, -0.0, 1.5, -1.5, INF, -INF, 3e38, 1.5000001], np.float32)
    x, y = (v.ravel() for v in np.meshgrid(values, values))
    out = gpu.zeros(len(x), np.int32)
    Kernel.from_source(EQUAL, "one", coarsen=1)(gpu.array(x), gpu.array(y), out)
    want = 1 * (x == y) + 2 * (x != y) + 4 * (x == 0) + 8 * (x != 1.5)
    assert np.array_equal(out.numpy(), want)


FAST = """from qpu.lang.surface import *

def one(k: Grid, x: In[f32], out: Out[f32]) -> None:
    i = k.index()
    v = x[i]
    out[i] = fast.recip(v) + fast.rsqrt(v) + fast.exp2(v) + fast.log2(v) + fast.sin(v)
"""


@pytest.mark.every_board
def test_the_units_alone(gpu: Device) -> None:
    x = np.linspace(0.1, 0.5, 32, dtype=np.float32)
    out = gpu.zeros(32)
    Kernel.from_source(FAST, "one", coarsen=1)(gpu.array(x), out)
    want = 1 / x + 1 / np.sqrt(x) + np.exp2(x) + np.log2(x) + np.sin(np.pi * x)
    np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("gpu", "name"),
    [(b, n) for i, n in enumerate((*ONE, *TWO)) for b in ("pi3", ("pi4", "pi5")[i % 2])],
    indirect=["gpu"],
)
def test_boards_equal_the_interpreter(gpu: Device, name: str) -> None:
    random = np.random.default_rng(3)
    x = (random.uniform(0, 1, 48) * np.exp2(random.integers(-20, 5, 48))).astype(np.float32)
    y = random.uniform(-3, 3, 48).astype(np.float32)
    x[::3] *= -1 if name not in ("pow", "log", "log2", "log10", "rsqrt", "sqrt") else 1
    arguments = "x[i], y[i]" if name in TWO else "x[i]"
    kernel = Kernel.from_source(TEXT.format(name=name, arguments=arguments), "one", coarsen=1)
    assert kernel.compile(gpu.isa).program.check() == []
    out = gpu.zeros(48)
    kernel(gpu.array(x), gpu.array(y), out)
    want = accuracy.evaluate(name, str(gpu.isa), x, *([y] if name in TWO else []))
    assert np.array_equal(out.numpy().view(np.uint32), want.view(np.uint32)), (out.numpy(), want)


@qpu.kernel
def _divided(k: Grid, x: In[f32], y: In[f32], quotient: Out[f32], rest: Out[f32]) -> None:
    i = k.index()
    quotient[i] = x[i] // y[i]
    rest[i] = x[i] % y[i]


def test_division_rounded_down(gpu: Device) -> None:
    """As NumPy; VideoCore IV truncates the sum where signs differ, and has no infinity to divide by."""
    rng = np.random.default_rng(5)
    x = np.concatenate([[7.5, 1e6, -7.5, 6, -6, 0, 5], rng.normal(0, 50, 40)]).astype(np.float32)
    y = np.concatenate([[0.3, 0.3, 0.3, -3, -3, 2, -0.7], rng.normal(0, 3, 40)]).astype(np.float32)
    if gpu.isa is not qpu.Isa.VC4:
        x, y = np.append(x, np.float32([-1, 1])), np.append(y, np.float32([np.inf, np.inf]))
    out = gpu.zeros(x.size), gpu.zeros(x.size)
    plain = np.zeros_like(x), np.zeros_like(x)
    _divided(gpu.array(x), gpu.array(y), *out)
    _divided.python(x, y, *plain)
    for got in (out[0].numpy(), plain[0]):
        assert np.array_equal(got, x // y)
    assert np.array_equal(plain[1], x % y)
    assert np.allclose(out[1].numpy(), x % y, rtol=2e-7 if gpu.isa is qpu.Isa.VC4 else 0, atol=0)
