"""Every operation of KIR alone, compiled for every instruction set, against what its row means; folding, likewise; and
that the analysis of what is the same in all lanes is right.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.lang import passes
from qpu.lang.backend_v3d import compile_v3d
from qpu.lang.backend_vc4 import compile_vc4
from qpu.lang.compile import KernelIR, Parameter, to_kir
from qpu.lang.fold import fold
from qpu.lang.interp import Interpreter
from qpu.lang.kir import COMPARE, ROWS, Access, Builder, Value
from qpu.lang.meaning import meanings
from qpu.lang.watch import watching
from qpu.program import Program
from tests.lang.fuzz import case_of
from tests.lang.generate import WORKERS as FUZZED
from tests.lang.rig import launch_values

WORKERS = 3
N = 16 * WORKERS
LANES = NumpyLanes()
DTYPE = {"f": "f32", "i": "i32", "u": "u32"}
LANE = np.tile(np.arange(16), WORKERS)
FIRST = np.repeat(np.arange(WORKERS) * 16, 16)

OPERATIONS = [
    (name, type_)
    for name, row in ROWS.items()
    if row.sem is not None or name in COMPARE or name in ("div", "mod", "rot", "rotv", "bcast", "shuffle", "any", "all")
    for type_ in (
        "f" if name == "bitcast" else "fiu" if "x" in row.args else "iu" if "n" in row.args else row.args[:1] or "i"
    )
]


def operands(name: str, type_: str) -> list[NDArray[np.uint32]]:
    """Edges and random numbers for each operand, as patterns."""
    r = np.random.default_rng(sum(name.encode()))
    found = []
    for k, letter in enumerate(ROWS[name].args):
        kind = type_ if letter in "xn" else letter
        if kind == "f":
            edges = [0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 100.25, 1e-3, 255.0, -7.0, 0.25, 3.0]
            x = np.concatenate([edges, r.uniform(-40, 40, N - len(edges))]).astype(np.float32)
            if name in ("ftou", "rsqrt", "log2"):
                x = np.abs(x) + np.float32(0.5)
            if name == "sinpi":
                x = x / np.float32(256)
            if name == "f2h":
                x = x.astype(np.float16).astype(np.float32)
            bits = x.view(np.uint32)
        elif name == "h2f":
            bits = np.arange(N, dtype=np.float16).view(np.uint16).astype(np.uint32)
        elif k == 1 and name in ("shl", "shr", "asr", "ror", "rotv", "bcast", "shuffle"):
            bits = r.integers(0, 34, N).astype(np.uint32)
            if name in ("rotv", "bcast"):
                bits = np.repeat(bits[::16] % 16, 16).astype(np.uint32)
        else:
            edges = [0, 1, 2, 3, 31, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x00FFFFFF, 0x01000000]
            bits = np.concatenate([edges, r.integers(0, 2**32, N - len(edges))]).astype(np.uint32)
            if name in ("div", "mod") and k:
                bits = np.maximum(bits >> r.integers(0, 31, N).astype(np.uint32), 1)
        found.append(np.roll(bits, 5 * k) if name not in ("rotv", "bcast") or not k else bits)
    return found


def meant(name: str, type_: str, isa: Isa, given_: list[NDArray[np.uint32]]) -> NDArray[Any]:
    """The result by the row, or for lanes and quotients by NumPy."""
    a, b = given_[0], given_[-1]
    if name in COMPARE:
        sem = meanings(isa).get(f"{name}.{type_}") or COMPARE[name][type_]
        return np.asarray(sem(LANES, a.reshape(-1, 16), b.reshape(-1, 16))).ravel()
    if name in ("any", "all"):
        rows = (a.reshape(WORKERS, 16) & 1).astype(bool)
        return np.repeat(rows.any(1) if name == "any" else rows.all(1), 16)
    at = {"rot": (LANE + 5) % 16, "rotv": (LANE + b) % 16, "bcast": b[FIRST] % 16, "shuffle": b % 16}
    if name in at:
        return a[FIRST + at[name]]
    if name in ("div", "mod"):
        wide = [(x.view(np.int32) if type_ == "i" else x).astype(np.int64) for x in (a, b)]
        wide[1][wide[1] == 0] = 1
        return (wide[0] // wide[1] if name == "div" else wide[0] % wide[1]).astype(np.uint64).astype(np.uint32)
    given_ = [x.reshape(-1, 16) for x in given_]
    given_ = [(x & 1).astype(bool) if ROWS[name].args[k] == "b" else x for k, x in enumerate(given_)]
    with np.errstate(all="ignore"):
        found = (meanings(isa).get(name) or ROWS[name].sem)(LANES, *given_)  # type: ignore[misc]  # it has one
    found = np.broadcast_to(np.asarray(found), (WORKERS, 16)).ravel()
    if isa is Isa.VC4 and ROWS[name].result == "f":
        if name == "utof":  # toward zero
            near = found.view(np.float32)
            found = np.where(near.astype(float) > a, np.nextafter(near, np.float32(0)), near).view(np.uint32)
        return np.where(found == 0x80000000, 0, found)  # it has one zero
    return found


def alone(name: str, type_: str) -> KernelIR:
    """A kernel of one operation."""
    row, q = ROWS[name], Builder(fold)
    base = [q.emit("param", type_="u", attr=f"x{k}.base") for k in range(len(row.args))]
    out = q.emit("param", type_="u", attr="y.base")
    item = q.emit("add", q.emit("shl", q.emit("worker"), q.const("u", 4)), q.emit("lane"))
    offset = q.emit("shl", item, q.const("u", 2))
    args: list[Value] = []
    types = [type_ if letter in "xn" else letter for letter in row.args]
    for k, t in enumerate(types):
        kind = "i" if t == "b" else t
        v = q.append("load", (base[k], offset), kind, Access(k, 0, DTYPE[kind]), varying=True)
        args.append(
            q.emit("ne", q.emit("and", v, q.const("i", 1)), q.const("i", 0), type_="b", attr="i") if t == "b" else v
        )
    if name in ("rotv", "bcast"):
        args[1] = q.emit("bcast", args[1], q.const("i", 0))
    attr = type_ if name in COMPARE else 5 if name == "rot" else None
    made = q.emit(name, *args, type_="u" if name == "bitcast" else "", attr=attr)
    if made.type == "b":
        made = q.emit("select", made, q.const("i", 1), q.const("i", 0))
    q.append("store", (out, offset, made), "", Access(len(args), 0, DTYPE[made.type]))
    rows = [Parameter("k", "kernel")]
    rows += [Parameter(f"x{k}", "array", DTYPE["i" if t == "b" else t], "in", 1) for k, t in enumerate(types)]
    rows.append(Parameter("y", "array", DTYPE[made.type], "out", 1))
    return KernelIR(name, q.top, rows, [], "row", 1, False)


@pytest.mark.parametrize("isa", list(Isa))
@pytest.mark.parametrize(("name", "type_"), OPERATIONS, ids=[f"{n}-{t}" for n, t in OPERATIONS])
def test_alone(name: str, type_: str, isa: Isa) -> None:
    """After every pass, and in a program that breaks no rule."""
    if isa is Isa.VC4 and name == "sinpi":
        pytest.skip("the chip has no unit for it, and functions do not use it there")
    ir, given_ = alone(name, type_), operands(name, type_)
    want = meant(name, type_, isa, given_).astype(np.uint32)
    made: list[passes.Stage] = []
    with watching(lambda *stage: made.append(passes.Stage(*stage))):
        laid = compile_vc4(ir) if isa is Isa.VC4 else compile_v3d(ir, isa)
    assert Program.of(laid.code).check() == []
    arrays = [(f"x{k}", x.view(np.uint8), 0) for k, x in enumerate(given_)]
    arrays.append(("y", np.zeros(4 * N, np.uint8), 0))
    stage = made[-1]
    assert stage.name == "colour"
    found = passes.outcome(stage, isa, passes.Arrays(arrays, {}), WORKERS, lanes=LANES)[-1].view(np.uint32)
    assert np.array_equal(found, want), list(zip(*given_, found, want, strict=True))


# -- folding

_BINARY = ("add", "sub", "mul", "and", "or", "xor", "shl", "shr", "asr", "ror", "min", "max", "umin", "umax", "umul24")
_UNARY = ("not", "clz", "sext8", "sext16", "bitcast")
_FLOATS = ("fadd", "fsub", "fmul", "fmin", "fmax", "fneg", "fabs")
_NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 31, 32, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]), st.integers(0, 2**32 - 1)
)


@settings(max_examples=60)
@given(st.lists(_NUMBERS, min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_folded_is_interpreted(numbers: list[int], r: random.Random) -> None:
    """The same random expressions, of constants with folding and of loaded values without it."""
    steps = []
    for _ in range(12):
        name = r.choice((*_BINARY, *_UNARY, *_FLOATS, "lt", "le", "eq", "ne", "select"))
        steps.append((name, [r.randrange(1 << 16) for _ in range(3)], r.choice("iuf")))
    folded, plain = (execute(steps, numbers, known) for known in (True, False))
    for a, b in zip(folded, plain, strict=True):
        nan = np.isnan(a.view(np.float32)) & np.isnan(b.view(np.float32))
        assert (nan | (a == b)).all(), (steps, numbers)


def execute(steps: list[tuple[str, list[int], str]], numbers: list[int], known: bool) -> list[NDArray[np.uint32]]:
    """The results of an expression's steps, each of which takes some before it. known: numbers are constants."""
    q = Builder(fold if known else lambda *row: None)
    base, zero = q.emit("param", type_="u", attr="x.base"), q.const("i", 0)
    values: list[Value] = []
    for k, n in enumerate(numbers):
        if known and k % 2:
            values.append(q.const("u", n))
        else:
            values.append(q.append("load", (base, zero), "u", Access(0, 4 * k, "u32"), varying=True))
    masks = [q.emit("lt", values[0], values[1], type_="b", attr="u")]

    def pick(at: int, type_: str) -> Value:
        v = values[at % len(values)]
        return v if v.type == type_ else q.emit("bitcast", v, type_=type_)

    for name, at, type_ in steps:
        args = ROWS[name].args
        if name in COMPARE:
            masks.append(q.emit(name, pick(at[0], type_), pick(at[1], type_), type_="b", attr=type_))
        elif name == "select":
            mask = masks[at[0] % len(masks)]
            values.append(q.emit("select", mask, pick(at[1], type_), pick(at[2], type_)))
        elif name == "bitcast":
            values.append(pick(at[0], type_))
        else:
            own = "u" if type_ == "f" else type_
            kinds = [own if letter == "n" else letter for letter in args]
            operands_ = [pick(n, kind) for n, kind in zip(at, kinds, strict=False)]
            if name in ("fmin", "fmax"):  # never zeros, of which either is the smaller one (v3d.md 6.6: uncertain)
                odd = [q.emit("or", q.emit("bitcast", v, type_="u"), q.const("u", 1)) for v in operands_]
                operands_ = [q.emit("bitcast", v, type_="f") for v in odd]
            values.append(q.emit(name, *operands_))
    memory = np.array(numbers, np.uint32).view(np.uint8)
    run = Interpreter(q.top, {"x.base": 0}, [memory], 1, LANES)
    run.run()
    return [np.ascontiguousarray(run.values[id(v)]) for v in values]


# -- analysis


class Watched(Interpreter):
    """Finds values that differ between lanes although the analysis says that they do not."""

    wrong: list[Value]
    seen = 0

    def _one(self, v: Value, live: NDArray[np.bool_]) -> Any:
        found = super()._one(v, live)
        if found is not None and not v.varying and v.op not in ("pop", "fetch"):
            self.seen += 1
            if (found != found[:, :1])[live].any():
                self.wrong.append(v)
        return found


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
def test_what_is_uniform_is_the_same_in_all_lanes() -> None:
    seen = 0
    for seed in range(300, 340):
        case = case_of(seed, small=seed % 4 != 0)
        values = case.fresh()
        ir = to_kir(case.kernel.source, "v3d71", {}, coarsen=1 + seed % 2, layout="row")
        params, memory, names = launch_values(ir, values)
        run = Watched(ir.region, params, memory, max(FUZZED, ir.coarsen), LANES, names=names)
        run.wrong = []
        run.run()
        assert not run.wrong, (seed, run.wrong, case.text)
        seen += run.seen
    assert seen > 1000
