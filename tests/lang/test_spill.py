"""Kernels with more values than registers: right on a board of each family (all in `pytest -m soak`), and the error
where even memory does not help.
"""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.lang import spill, tries
from qpu.lang.compile import to_kir
from qpu.lang.entry import Kernel
from qpu.lang.kir import walk
from qpu.lang.legalise import legalise
from qpu.lang.sink import sink
from tests.lang.conftest import BOARDS
from tests.lang.fuzz import case_of

ON_VC4, ON_V3D = (
    [pytest.param(b, marks=() if b == one else pytest.mark.soak) for b in BOARDS] for one in ("pi3", "pi4")
)


def rotated(floats: int, ints: int) -> str:
    """The text of a kernel that holds two lists in registers."""
    return ROTATED.replace("COUNT", str(floats)).replace("INTS", str(ints))


ROTATED = """from qpu.lang.surface import *

def rotated(k: Grid, x: In[f32], y: Out[f32], z: In[i32], w: Out[i32]) -> None:
    i = k.index(y.size)
    a = [f32(0)] * COUNT
    b = [i32(0)] * INTS
    for j in unroll(range(COUNT)):
        a[j] = x[i] * (j + 1)
    for j in unroll(range(INTS)):
        b[j] = z[i] + j * j * 7
    for t in range(z[i] & 3):
        s = a[COUNT - 1]
        for j in unroll(range(COUNT - 1)):
            a[COUNT - 1 - j] = a[COUNT - 2 - j] + 1.0
        a[0] = s
        for j in unroll(range(INTS - 1)):
            b[j] ^= b[j + 1] >> 1
    acc = f32(0)
    for j in unroll(range(COUNT)):
        acc += a[j] * float(j % 3)
    y[i] = acc
    r = i32(0)
    for j in unroll(range(INTS)):
        r = (r ^ b[j]) * 3
    w[i] = r
"""


@pytest.mark.parametrize("gpu", ON_V3D, indirect=True)
def test_more_values_than_registers(gpu: Device) -> None:
    """Two lists of 40 and 16 values that move by one in a loop: some 80 values are live in its middle."""
    kernel = Kernel.from_source(rotated(56, 16), "rotated", coarsen=1)
    n = 35
    x, z = np.arange(n, dtype=np.float32) % 8 - 4, (np.arange(n, dtype=np.int32) * 37) % 100 - 50
    want, ints = np.zeros(n, np.float32), np.zeros(n, np.int32)
    kernel.python(x, want, z, ints)
    compiled = kernel.compile(gpu.isa)
    assert compiled.scratch or compiled.rows > 4
    assert compiled.program.check() == []
    y, w = gpu.zeros(n), gpu.zeros(n, np.int32)
    kernel(gpu.array(x), y, gpu.array(z), w)
    assert np.array_equal(w.numpy(), ints)
    assert np.array_equal(y.numpy(), want)


CARRIED = """from qpu.lang.surface import *

def carried(k: Grid, n: i32, x: In[f32], y: Out[f32]) -> None:
    i = k.index()
    v = [x[i] + f32(j) for j in unroll(range(70))]
    for turn in range(n):
        s = f32(0)
        for j in unroll(range(70)):
            s += v[j]
        for j in unroll(range(70)):
            v[j] = v[j] * 0.5 + s * 0.001
    t = f32(0)
    for j in unroll(range(70)):
        t += v[j]
    y[i] = t
"""


@pytest.mark.parametrize("gpu", ON_VC4, indirect=True)
def test_seventy_values_carried_by_a_loop(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of the list and its new values alternate, on VideoCore IV between the set-ups of stores. As if that had six
    rows to spare: what finds none of those is in memory.
    """
    monkeypatch.setattr(spill.VpmVc4, "rows", 6)
    kernel = Kernel.from_source(CARRIED, "carried", coarsen=1)
    x = np.linspace(-2, 2, 21, dtype=np.float32)
    y = gpu.zeros(21)
    kernel(3, gpu.array(x), y)
    values = [x.astype(float) + j for j in range(70)]
    for _ in range(3):
        total = sum(values)
        values = [v * 0.5 + total * 0.001 for v in values]
    np.testing.assert_allclose(y.numpy(), sum(values), rtol=1e-5)
    compiled = kernel.compile(gpu.isa)
    assert compiled.program.check() == []
    assert compiled.scratch


def test_long_chains_of_operations() -> None:
    """Longer than Python's stack, where what a skipped part needs is computed again."""
    kernel = Kernel.from_source(CARRIED.replace("range(70)", "range(600)"), "carried", coarsen=1)
    region = legalise(to_kir(kernel.source, "vc4", {}, coarsen=1, layout="row").region, "vc4")
    assert sum(1 for _ in walk(sink(region, "vc4", 12))) > 2400


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
@pytest.mark.parametrize("seed", [0, 3, 4, 7, 11, 12])
def test_generated_kernels_with_few_registers(gpu: Device, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were twelve registers: everything that lives long is in memory or made again."""
    reduce = spill.Spiller.reduce
    monkeypatch.setattr(tries, "crossing", lambda function: 999)
    monkeypatch.setattr(spill.Spiller, "reduce", lambda self, limit: reduce(self, 12))
    case = case_of(seed, small=True)
    interpreted = case.interpreted(case.kernel.compile(gpu.isa))
    for want, got in zip(interpreted, case.launched(gpu), strict=True):
        assert np.array_equal(want, got)


def test_too_many_values_are_named_by_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the VPM had four rows to spare."""
    monkeypatch.setattr(spill.VpmVc4, "slots", 4)
    kernel = Kernel.from_source(rotated(70, 4), "rotated", coarsen=1)
    with pytest.raises(qpu.CompileError) as caught:
        kernel.compile("vc4")
    found = caught.value.diagnostics[0]
    assert found.rule == "lang-reg"
    assert "values are live here, there are 62 registers; made in line" in found.message
    assert found.help is not None
