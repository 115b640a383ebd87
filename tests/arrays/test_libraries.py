"""Tests with libraries that take arrays of the standard: array-api-compat, array-api-strict, SciPy, scikit-learn."""

from __future__ import annotations

import array
import inspect
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from qpu.errors import UsageError
from tests.arrays.exceptions import ABSENT, PROMOTIONS

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def wrong_parameters(name: str, ours: Any, theirs: Any) -> list[str]:
    """Where a signature is not the standard's: names, kinds and defaults of parameters."""
    p = inspect.Parameter
    mine = {x.name: x for x in parameters(ours)}
    found = []
    for place, x in enumerate(parameters(theirs)):
        if x.kind is p.KEYWORD_ONLY:
            mate = mine.get(x.name)
            allowed: tuple[Any, ...] = (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        else:
            mate = parameters(ours)[place] if place < len(mine) else None
            allowed = (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) if x.kind is p.POSITIONAL_ONLY else (x.kind,)
        if mate is None or mate.kind not in allowed or (x.kind is not p.POSITIONAL_ONLY and mate.name != x.name):
            found.append(f"{name}: {x} is {mate}")
        elif mate.default != x.default and "UNDEF" not in str(x.default) and (name, x.name) not in NAMED_BOTH_WAYS:
            found.append(f"{name}: {x} has the default {mate.default}")
    return found


NAMED_BOTH_WAYS = {("expand_dims", "axis")}  # with a default in 2023.12, without one later


def test_namespace_of_the_standard(device: Any) -> None:
    strict = pytest.importorskip("array_api_strict")
    compat = pytest.importorskip("array_api_compat")
    gpu = device("pi5")
    xp = gpu.xp
    x = xp.ones((2, 3))
    assert compat.array_namespace(x, x + 1) is xp
    assert compat.is_array_api_obj(x) and compat.device(x) is gpu and compat.size(x) == 6
    names = {n for n in strict.__all__ if not n.startswith("__")} - set(ABSENT)
    assert {n for n in names if not hasattr(xp, n)} == set()
    wrong = []
    for space, theirs, ours in (("", strict, xp), ("linalg.", strict.linalg, xp.linalg), ("fft.", strict.fft, xp.fft)):
        for name in sorted(n for n in theirs.__all__ if inspect.isfunction(getattr(theirs, n)) and n not in ABSENT):
            wrong += wrong_parameters(space + name, getattr(ours, name), getattr(theirs, name))
    other = type(strict.ones(1))
    for name in sorted(vars(other)):
        method = vars(other)[name]
        if inspect.isfunction(method) and (not name.startswith("_") or name.strip("_") in DUNDERS):
            mine = getattr(type(x), name)
            kept = inspect.Signature([p for p in parameters(method) if p.name != "stream"])
            method.__signature__ = kept
            try:
                wrong += wrong_parameters(name, mine, method)
            finally:
                del method.__signature__
    assert not wrong, "\n".join(wrong)
    info = xp.__array_namespace_info__()
    assert set(info.dtypes()) == set(strict.__array_namespace_info__().dtypes()) - set(ABSENT)
    assert info.default_dtypes()["real floating"] == xp.float32
    with pytest.raises(UsageError, match="help:"):
        x.__array_namespace__(api_version="2020.01")


DUNDERS = frozenset(
    "abs add and array_namespace bool complex dlpack dlpack_device eq float floordiv ge getitem gt index int invert le "
    "lshift lt matmul mod mul ne neg or pos pow rshift setitem sub truediv xor radd iadd rmatmul imatmul".split()
)


def test_promotion_is_the_standards(device: Any) -> None:
    strict = pytest.importorskip("array_api_strict")
    xp = device("pi5").xp
    names = list(xp.__array_namespace_info__().dtypes())
    for a in names:
        for b in names:
            try:
                want = str(strict.result_type(getattr(strict, a), getattr(strict, b))).rpartition(".")[2]
            except TypeError:
                want = "TypeError"
            try:
                found = xp.result_type(getattr(xp, a), getattr(xp, b)).name
            except UsageError:
                found = "TypeError"
            assert found == want or (found == "TypeError" and want in ABSENT), (a, b, PROMOTIONS)


PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, qpu
import scipy.special as special, scipy.stats as stats, scipy.integrate as integrate, scipy.signal as signal
import sklearn
from sklearn import metrics, preprocessing

sklearn.set_config(array_api_dispatch=True)
FUNCTIONS = {
    "softmax": lambda x: special.softmax(x, axis=1),
    "logsumexp": lambda x: special.logsumexp(x, axis=1),
    "log_softmax": lambda x: special.log_softmax(x, axis=1),
    "zscore": lambda x: stats.zscore(x),
    "sem": lambda x: stats.sem(x),
    "moment": lambda x: stats.moment(x, 2),
    "tmean": lambda x: stats.tmean(x),
    "kstat": lambda x: stats.kstat(x),
    "trapezoid": lambda x: integrate.trapezoid(x, axis=0),
    "detrend": lambda x: signal.detrend(x, axis=0, type="constant"),
    "MaxAbsScaler": lambda x: preprocessing.MaxAbsScaler().fit(x).transform(x),
    "MinMaxScaler": lambda x: preprocessing.MinMaxScaler().fit(x).transform(x),
    "normalize": lambda x: preprocessing.normalize(x),
    "linear_kernel": lambda x: metrics.pairwise.linear_kernel(x, x),
}
data = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
found = {}
with qpu.open_device(sys.argv[1]) as gpu:
    x = gpu.xp.asarray(data)
    for name, f in FUNCTIONS.items():
        result = f(x)
        kind = type(result).__name__
        good = np.allclose(np.asarray(result), f(data), rtol=1e-3, atol=1e-4)
        found[name] = [kind, bool(good)]
print(json.dumps(found))
"""


def test_scipy_and_scikit_learn(device: Any) -> None:
    """Their functions as they are, in a process where SciPy's use of the standard is switched on."""
    pytest.importorskip("scipy")
    pytest.importorskip("sklearn")
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, "pi5"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert {n: v for n, v in json.loads(done.stdout).items() if v != ["Array", True]} == {}


def test_images(device: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    xp = device("pi4").xp
    picture = image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    x = xp.asarray(picture)
    assert x.dtype == xp.uint8 and x.shape == (4, 4, 3)
    dark = image.fromarray(np.asarray(x // 2))
    assert dark.getpixel((3, 3)) == (22, 23, 23)


def test_opencv(device: Any) -> None:
    cv2 = pytest.importorskip("cv2")
    xp = device("pi3").xp
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    x = xp.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert x.dtype == xp.uint8 and x.shape == (4, 4, 3)
    back = cv2.cvtColor(np.from_dlpack(x), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(back, picture)


def test_pytorch(device: Any) -> None:
    torch = pytest.importorskip("torch")
    xp = device("pi5").xp
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    x = xp.from_dlpack(tensor)
    assert (x * 2.0).numpy().tolist() == [[0, 2, 4], [6, 8, 10]]
    shared = torch.from_dlpack(x)
    x[0, 0] = 9.0
    assert shared[0, 0] == 9


def test_buffers(device: Any) -> None:
    """Anything with the buffer protocol is data."""
    xp = device("pi4").xp
    for data in (bytearray(b"abc"), memoryview(b"abc"), array.array("B", b"abc")):
        x = xp.asarray(data)
        assert x.dtype == xp.uint8 and x.numpy().tolist() == [97, 98, 99]
