"""The front end: generated kernels in the KIR interpreter and as plain Python; mistakes at their line."""

from __future__ import annotations

import random

import numpy as np
import pytest

from qpu.errors import CompileError
from qpu.lang import Kernel
from tests.lang.generate import kernel_source
from tests.lang.rig import interpret, kernel_of, plain

COUNT = 60


def arguments(seed: int) -> dict[str, object]:
    r = random.Random(seed)
    n = r.choice([0, 1, 5, 15, 16, 17, 33, 70])
    return {
        "n0": r.randrange(-2, 7),
        "s0": float(np.float32(r.uniform(-3, 3))),
        "p": np.array([r.randrange(-50, 300) for _ in range(n)], np.int32),
        "q": np.array([r.choice([0.0, 1.5, -3.25, r.uniform(-9, 9)]) for _ in range(n)], np.float32),
        "n": n,
        "far": np.array([r.randrange(-99, 99) for _ in range(3 * n + 2)], np.int32),
        "packed": np.array([r.randrange(2**32) for _ in range(n)], np.uint32),
        "oi": np.zeros(n, np.int32),
        "of": np.zeros(n, np.float32),
    }


def compare(seed: int, *, small: bool = False) -> bool:
    """Whether the kernel was one of the language's; its results are compared."""
    fn = kernel_of(kernel_source(seed, small=small))
    r = random.Random(seed)
    got, want = arguments(seed), arguments(seed)
    knobs = {"coarsen": r.choice([1, 2, 4]), "layout": r.choice(["row", "quad"]), "workers": r.choice([4, 5, 7])}
    try:
        interpret(fn, got, **knobs)
    except CompileError as error:  # numbers known when compiling that do not fit 32 bits
        assert {d.rule for d in error.diagnostics} <= {"lang-type"}
        return False
    plain(fn, want)
    assert np.array_equal(got["oi"], want["oi"]), seed
    a, b = np.asarray(got["of"]), np.asarray(want["of"])
    same = (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
    assert same.all(), seed
    return True


def test_generated_kernels() -> None:
    assert sum(compare(seed, small=True) for seed in range(COUNT)) > COUNT * 3 // 4


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(20))
def test_many_generated_kernels(shard: int) -> None:
    for seed in range(1000 + 250 * shard, 1000 + 250 * (shard + 1)):
        compare(seed)


HEAD = "from qpu.lang import *\nfrom qpu.lang import unroll, where, static_assert\n\n\n"
WRONG = [
    ("k: Grid, x: In[f32], y: Out[f32]", "i = k.index()\ny[i] = x[i] + z", "lang-name", 2, 19),
    ("k: Grid, x: In[f32], y: Out[f32]", "i = k.index()\nx[i] = 1.0", "lang-write-in", 2, 5),
    ("k: Grid, x: In[f32], y: Out[f32]", "i = k.index()\ny[i] = y[i]", "lang-write-in", 2, 12),
    ("k: Grid, n: u32, y: Out[i32]", "i = k.index()\ny[i] = i + n", "lang-type", 2, 12),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\nwith n:\n    pass\ny[i] = n", "lang-syntax", 2, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[i] = (n > 1) + 1", "lang-bool", 2, 12),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[i] = 1.5", "lang-type", 2, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\nif y.size > i:\n    t = 1\ny[i] = t", "lang-name", 4, 12),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\nfor j in range(n):\n    t = j\ny[i] = t", "lang-name", 4, 12),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[-1] = 1", "lang-type", 2, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[i] = k.lane", "lang-team", 2, 12),
    ("k: Grid, n: i32, y: Out[i32]", "y[n] = 1", "lang-call", 1, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\nassert n > 0\ny[i] = n", "lang-bool", 2, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\nstatic_assert(1 > 2)\ny[i] = n", "lang-assert", 2, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\na = [1, 2]\ny[i] = a[i]", "lang-varying", 3, 12),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[i] = n ** n", "lang-type", 2, 12),
    ("k: Team, n: i32, y: Out[i32]", "if k.lane > 3:\n    k.barrier()\ny[k.lane] = 1", "lang-barrier", 2, 9),
    (
        "k: Grid, n: i32, y: Out[i32]",
        "i = k.index()\ns = i32(0)\nfor j in range(n):\n    s = s + 0.5\ny[i] = 1",
        "lang-carried",
        3,
        5,
    ),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[i, 0] = 1", "lang-type", 2, 5),
    ("k: Grid, n: i32, y: Out[i32]", "i = k.index()\ny[i] = print", "lang-type", 2, 5),
]


@pytest.mark.parametrize("row", WRONG, ids=[f"{n}-{r[2]}" for n, r in enumerate(WRONG)])
def test_mistakes_at_their_place(row: tuple[str, str, str, int, int]) -> None:
    parameters, body, rule, line, column = row
    text = HEAD + f"def wrong({parameters}) -> None:\n" + "".join(f"    {x}\n" for x in body.split("\n"))
    fn = kernel_of(text, "wrong")
    args = {"n": 3, "x": np.zeros(4, np.float32), "y": np.zeros(4, np.int32)}
    with pytest.raises(CompileError) as caught:
        interpret(fn, args)
    found = caught.value.diagnostics
    assert [d.rule for d in found] == [rule], caught.value
    loc = found[0].loc
    assert loc is not None
    first = text[: text.index("def wrong")].count("\n") + 1
    assert (loc.line - first, loc.column) == (line, column), caught.value
    assert found[0].help or found[0].allowed


def test_one_wrong_line_hides_no_other() -> None:
    text = HEAD + (
        "def wrong(k: Grid, n: i32, y: Out[i32]) -> None:\n"
        "    i = k.index()\n"
        "    a = n + missing\n"
        "    b = a * 2\n"
        "    y[i] = b + other\n"
        "    y[i] = 2.5\n"
    )
    with pytest.raises(CompileError) as caught:
        interpret(kernel_of(text, "wrong"), {"n": 1, "y": np.zeros(4, np.int32)})
    assert [d.rule for d in caught.value.diagnostics] == ["lang-name", "lang-name", "lang-type"]


IMPORTS = "from qpu.lang import *\n"


def test_functions_that_call_themselves() -> None:
    source = "def f(n):\n    if n < 2:\n        return 1\n    return n * f(n - 1)\n"
    body = "@kernel\ndef m(k: Grid, x: In[i32], q: Out[i32]) -> None:\n    i = k.index()\n    q[i] = f({})\n"
    with pytest.raises(CompileError) as caught:
        Kernel.from_source(IMPORTS + source + body.format("x[i]")).compile("v3d71")
    finding = caught.value.diagnostics[0]
    assert (finding.rule, finding.loc and finding.loc.line) == ("lang-syntax", 5)
    assert finding.help
    Kernel.from_source(IMPORTS + source + body.format("5")).compile("v3d71")


def test_deep_expressions() -> None:
    """Deeper than Python recurses by default."""
    body = "    for t in range(9):\n        for j in unroll(range(180)):\n            s = s * 3 + j\n"
    head = "@kernel\ndef m(k: Grid, x: In[i32], q: Out[i32]) -> None:\n    i = k.index()\n    s = x[i]\n"
    Kernel.from_source(IMPORTS + head + body + "    q[i] = s\n").compile("v3d71")
