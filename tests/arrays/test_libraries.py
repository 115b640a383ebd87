"""Tests with libraries that take arrays of the standard: array-api-compat, array-api-strict, SciPy, scikit-learn."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from qpu.errors import UsageError

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]

# What the standard has and `gpu.xp` has not, by reason.
ABSENT = {
    "64 bits": {"float64", "int64", "uint64", "complex128"},
    "an array that is sliced by diff": {"diff"},
    "2024.12 and later": {"nextafter", "take_along_axis", "count_nonzero", "isin", "broadcast_shapes"},
    "about the namespace of array-api-strict itself": {
        "ArrayAPIStrictFlags", "Device", "get_array_api_strict_flags", "reset_array_api_strict_flags",
        "set_array_api_strict_flags", "set_cpu_mode", "DType", "DTypes",
    },
}  # fmt: skip


def test_namespace_of_the_standard(device: Any) -> None:
    strict = pytest.importorskip("array_api_strict")
    compat = pytest.importorskip("array_api_compat")
    gpu = device("pi5")
    xp = gpu.xp
    x = xp.ones((2, 3))
    assert compat.array_namespace(x, x + 1) is xp
    assert compat.is_array_api_obj(x) and compat.device(x) is gpu and compat.size(x) == 6
    absent = set().union(*ABSENT.values())
    names = {n for n in strict.__all__ if not n.startswith("__")} - absent
    assert {n for n in names if not hasattr(xp, n)} == set()
    for name in sorted(names):
        function, ours = getattr(strict, name), getattr(xp, name)
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(ours).parameters
        for p in inspect.signature(function).parameters.values():
            if p.kind is p.KEYWORD_ONLY:
                assert p.name in parameters, f"{name}({p.name}=)"
    info = xp.__array_namespace_info__()
    assert set(info.dtypes()) == set(strict.__array_namespace_info__().dtypes()) - absent
    assert info.default_dtypes()["real floating"] == xp.float32


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
            assert found == want or (found == "TypeError" and want in ABSENT["64 bits"]), (a, b)


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
