"""Control flow that differs between lanes: every nesting of if, while and for to depth 3, with every way to leave, as
plain Python and in the KIR interpreter; on one of the boards to depth 2, and every eighth of depth 3.
"""

from __future__ import annotations

import itertools
from textwrap import dedent, indent

import numpy as np
import pytest

from qpu.lang import Kernel
from tests.lang.conftest import BOARDS, Boards
from tests.lang.rig import interpret

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")

KINDS = ("if", "while", "for")
NESTS = [nest for depth in (1, 2, 3) for nest in itertools.product(KINDS, repeat=depth)]
LEAVES = ("break", "continue", "return")
CASES = [(n, leave) for n in NESTS for leave in LEAVES if leave == "return" or set(n) != {"if"}]


def text_of(nest: tuple[str, ...], leave: str) -> str:
    """A kernel with these constructs inside each other; the innermost is left by some lanes on some turns."""
    lines = ["from qpu.lang.surface import *", "", "def masks(k: Grid, p: In[i32], out: Out[i32]) -> None:",
             "    i = k.index(p.size)", "    a = p[i]", "    s = i32(0)", "    t = i32(1)"]  # fmt: skip
    indent = 1

    def put(text: str) -> None:
        lines.append("    " * indent + text)

    for d, kind in enumerate(nest):
        if kind == "if":
            put(f"if (a >> {d}) & 3:")
        elif kind == "while":
            put(f"w{d} = i32(0)")
            put(f"while w{d} < ((a >> {d}) & 3):")
        else:
            put(f"for j{d} in range((a >> {d + 1}) & 3):")
        indent += 1
        if kind == "while":
            put(f"w{d} += 1")
        put(f"s += {3 + d}")
    put("t = t * 5 + s")
    put("if (a + t) % 3 == 1:")
    indent += 1
    if leave == "return":
        put("out[i] = s * 1000 + t")
    put(leave)
    indent -= 1
    for d in reversed(range(len(nest))):
        put(f"s += {10 ** (d + 1)}")
        put("t ^= s")
        indent -= 1
    put("out[i] = s + t")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{'-'.join(CASES[n][0])}-{CASES[n][1]}")
def test_every_nesting(number: int, boards: Boards) -> None:
    nest, leave = CASES[number]
    coarsen = 1 if number % 5 else 2
    kernel = Kernel.from_source(text_of(nest, leave), "masks", coarsen=coarsen)
    n = 21
    p = (np.arange(n, dtype=np.int32) * 11) % 64
    want, got = np.zeros(n, np.int32), np.zeros(n, np.int32)
    kernel.python(p, want)
    interpret(kernel.fn, {"p": p, "out": got}, coarsen=coarsen)
    assert got.tolist() == want.tolist()
    assert len(set(want.tolist())) > 2
    if len(nest) == 3 and number % 8:
        return
    gpu = boards(BOARDS[number % len(BOARDS)])
    out = gpu.zeros(n, np.int32)
    kernel(gpu.array(p), out)
    assert out.numpy().tolist() == want.tolist()
    assert kernel.compile(gpu.isa).program.check() == []


ALL_LEAVE = """from qpu.lang.surface import *

def masks(k: Grid, p: In[i32], out: Out[i32]) -> None:
    i = k.index(p.size)
    a = p[i]
    s = i32(i)
    for j in range(6):
        if a > 2:
            a -= 1
            s = s * 3 + a
        out[i] = s
        return
    out[i] = a ^ 77
"""


@pytest.mark.parametrize("number", range(3), ids=BOARDS)
def test_all_lanes_leave_in_the_first_turn(number: int, boards: Boards) -> None:
    """Then the mask of lanes that left is a constant behind the turn."""
    kernel = Kernel.from_source(ALL_LEAVE, "masks", coarsen=1)
    p, want = np.arange(-5, 30, dtype=np.int32), np.zeros(35, np.int32)
    kernel.python(p, want)
    gpu = boards(BOARDS[number])
    out = gpu.zeros(35, np.int32)
    kernel(gpu.array(p), out)
    assert out.numpy().tolist() == want.tolist()


RETURN_FROM_UNROLLED = """from qpu.lang.surface import *

def masks(k: Grid, p: In[i32], out: Out[i32]) -> None:
    i = k.index(p.size)
    a, b = p[i], i32(i)
    for j in unroll(range(2)):
        a, b = b, a
        if a > 5:
            out[i] = b
            return
    out[i] = a
"""


def test_lanes_that_return_take_no_further_turn_of_an_unrolled_loop() -> None:
    kernel = Kernel.from_source(RETURN_FROM_UNROLLED, "masks", coarsen=4)
    p = np.arange(20, dtype=np.int32) * 7 % 15
    want, got = np.zeros(20, np.int32), np.zeros(20, np.int32)
    kernel.python(p, want)
    interpret(kernel.fn, {"p": p, "out": got}, coarsen=4)
    assert got.tolist() == want.tolist()


BECOMES_A_VALUE = """from qpu.lang.surface import *

def helper(v, s):
    n = 0
    while n < 9:
        n += 1
        s += n
        if n == 3:
            n += v & 3
        if s > 40:
            return s * 2 + n
    return s

def masks(k: Grid, p: In[i32], out: Out[i32]) -> None:
    i = k.index(p.size)
    a = p[i]
    s, n = i32(i), 0
    §
    out[i] = s * 16 + n
"""
LOOPS = {
    "a value until it is known to be false": """
        c = i32(0)
        while c < 5 and (n == 0 or n == a):
            c += 1
            s += c""",
    "with a number": """
        c = i32(0)
        while c < 3 and n < 9:
            c, n = c + 1, n + 2
            s += a""",
    "through names": """
        x = y = z = 0
        while z < 20:
            x, y, z = x + (a & 7) + 1, x, y
            n += 1""",
    "in the third turn": """
        t = 4
        while n < t:
            n += 1
            if n == 3:
                t = 4 + (a & 7)
            if n == 6 and a > 30:
                continue
            if n == 9:
                break
            s = s * 3 + n""",
    "some lanes leave in the second turn": """
        while n < 6:
            n += 1
            if n == 2:
                if a > 20:
                    break
            s = s * 3 + a
            w = [s, n]
            s += w[1]""",
    "binds names": """
        t, m = 4, 0
        while (n := n + 1) < t and s < 9999:
            m += 1
            if m == 2:
                t += a & 3
            s += m""",
    "binds names that lanes keep as they leave": """
        while (n := n + 1) < 5:
            if a == n:
                break
        m = 0
        while (m := m + 1) < 6:
            if m == 2:
                if a > 30:
                    break
            s += m
        n += m * 8""",
    "leaves the kernel": """
        t = 4
        while n < t:
            n += 1
            if n == 2:
                t = 9
                if a > 40:
                    out[i] = 5
                    return
            if n == 3:
                t = a & 7
            if s + n > 20:
                out[i] = s
                return""",
    "in a function": "s = helper(a, s)",
    "in a loop under a mask": """
        for j in range(a & 3):
            if a > j:
                n, t = 0, 3
                while n < t:
                    n += 1
                    if n == 2:
                        t += (a + j) & 3
                    s += n * j
        n = 1""",
}


@pytest.mark.parametrize("number", range(len(LOOPS)), ids=LOOPS)
def test_a_condition_that_becomes_a_value_after_some_turns(number: int, boards: Boards) -> None:
    """Python runs the turns before that, and the GPU those that follow."""
    body = dedent(list(LOOPS.values())[number]).strip()
    kernel = Kernel.from_source(BECOMES_A_VALUE.replace("§", indent(body, "    ").strip()), "masks", coarsen=1)
    p, want = np.arange(33, dtype=np.int32) * 11 % 63, np.zeros(33, np.int32)
    kernel.python(p, want)
    gpu = boards(BOARDS[number % len(BOARDS)])
    out = gpu.zeros(33, np.int32)
    kernel(gpu.array(p), out)
    assert out.numpy().tolist() == want.tolist()
