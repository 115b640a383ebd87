"""Every executable ALU word of the golden vectors against an independent model: all state, all lanes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from v3d_model import DATA, GRAPHICS, NO_CARRY, Model, State, U

from qpu.core.isa import Isa
from qpu.core.optable import Flags
from qpu.emu.lanes import quiet
from qpu.emu.v3d_execute import build
from qpu.emu.v3d_prepare import prepare
from qpu.emu.v3d_state import ACC, Group
from qpu.v3d.ops import ROWS

N = 3
EDGES = np.array(
    [
        0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFF, 0x800000, 0xFFFFFF, 0x1000000,
        0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFFFFF0, 31, 32, 33, 15, 16, 0x3F800000, 0xBF800000,
        0x3F000000, 0xBF000000, 0x40200000, 0x3FC00000, 0xC0490FDB, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF,
        0xFF7FFFFF, 0x00800000, 0x007FFFFF, 0x807FFFFF, 0x4F000000, 0x4EFFFFFF, 0xCF000000, 0x4F7FFFFF, 0x4B800001,
        0x38800000, 0x387FC000, 0x477FE000, 0x477FF000, 0x3C003C00, 0xBC007BFF, 0x03FF8001, 0x7C00FC00, 0x7E003555,
        0x00010400, 0x3BFF3C01, 0x33800000, 0x00018000,
    ],
    U,
)  # fmt: skip


class Services:
    """Stands in for the machine: constant uniforms, remarks collected."""

    def __init__(self, isa: Isa, uniform: int, unifa: int) -> None:
        self.isa = isa
        self._uniform, self._unifa = uniform, unifa
        self.remarks: list[str] = []

    def uniform(self, g: Group) -> int:
        return self._uniform

    def unifa(self, g: Group) -> int:
        return self._unifa

    def supergroup_slots(self, g: Group) -> np.ndarray:
        return np.zeros(g.n, U)

    def request(self, g: Group, address: Any, live: Any) -> None:
        raise AssertionError

    def flush(self, g: Group) -> None:
        raise AssertionError

    def hazard(self, g: Group, rule: str, message: str, row: int = 0, lane: int | None = None) -> None:
        self.remarks.append(rule)

    warn = fault = hazard


def values(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Edge values, random patterns and tame floats."""
    kind = rng.integers(0, 4, shape)
    tame = (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(np.float32).view(U)
    halves = rng.normal(size=(*shape, 2)).astype(np.float16).view(np.uint16).view(U)[..., 0]
    raw = rng.integers(0, 1 << 32, shape, dtype=U)
    return np.choose(kind, [EDGES[rng.integers(0, len(EDGES), shape)], raw, tame, halves]).astype(U)


def make_state(rng: np.random.Generator, *, split: bool = False) -> State:
    def flags() -> np.ndarray:
        if split:
            return rng.integers(0, 4, (N, 16))
        return rng.integers(0, 2, (N, 16)) * 3

    return State(
        rf=values(rng, 64, N, 16),
        acc=values(rng, 6, N, 16),
        a=flags(),
        b=flags(),
        msf=rng.integers(0, 2, (N, 16)).astype(U),
        tidx=rng.integers(0, 64, (N, 1)).astype(U),
        link=rng.integers(0, 1 << 20, N).astype(U) * U(8),
        rtop=rng.integers(0, 1 << 16, (N, 16)).astype(U),
        results=[values(rng, N, 16)],
        uniform=int(rng.integers(0, 1 << 32)),
        unifa=int(rng.integers(0, 1 << 32)),
    )


def make_group(s: State) -> Group:
    g = Group(np.arange(N), 0x1000, 0)
    g.regs = [*(r.copy() for r in s.rf), *(r.copy() for r in s.acc)]
    g.a, g.b = s.a & 1 != 0, s.b & 1 != 0
    g.a_hi, g.b_hi = s.a & 2 != 0, s.b & 2 != 0
    if (g.a == g.a_hi).all():
        g.a_hi = g.a
    if (g.b == g.b_hi).all():
        g.b_hi = g.b
    g.msf, g.live = s.msf.copy(), s.msf != 0
    g.tidx = np.broadcast_to(s.tidx, (N, 16)).copy()
    g.link = s.link.copy()
    g.rtop = s.rtop.copy()
    g.results = [r.copy() for r in s.results]
    g.count = 100
    return g


def executable(f: dict[str, Any], version: int) -> bool:
    """Whether the model covers the instruction."""
    if f["type"] != "alu" or {"ldvary", "ldtlb", "ldtlbu", "wrtmuc"} & set(f["sig"]):
        return False
    places = [(f["sig_addr"], f["sig_magic"])] if "sig_addr" in f else []
    for unit in ("add", "mul"):
        h = f[unit]
        if h["op"] in GRAPHICS:
            return False
        if h["op"] not in ("nop", "tmuwt"):
            places.append((h["waddr"], h["magic_write"]))
    plain = DATA | {5, 6, 55} | (set(range(5)) if version == 42 else set())
    if any(magic and n not in plain for n, magic in places):
        return False
    if "rotate" in f["sig"]:
        muxes = [f[u][o]["mux"] for u in ("add", "mul") for o in "ab" if o in f[u]]
        if f["raddr_b"] >= 32 or "b" in muxes:
            return False
    conds = f["flags"]
    lane_ops = ("bcastf", "ballot", "alleq", "allfeq")
    return not (f["add"]["op"] in lane_ops and conds["ac"] != "none")  # with a condition: not known


def without(word: int, f: dict[str, Any], unit: str, version: int) -> tuple[int, dict[str, Any]] | None:
    """The instruction with one half made a nop and no flags; None when the half's fields are needed otherwise."""
    needed = {"rotate", *(("small_imm_a", "small_imm_b") if unit == "add" else ("small_imm_c", "small_imm_d"))}
    if f["type"] != "alu" or needed & set(f["sig"]) or (version == 42 and "small_imm_b" in f["sig"]):
        return None
    fields = {**f, unit: {"op": "nop", "waddr": 6, "magic_write": True, "output_pack": "none"}}
    if "sig_addr" not in f:
        fields["flags"] = dict.fromkeys(f["flags"], "none")
        word &= ~(0x7F << 46)

    def put(hi: int, lo: int, value: int) -> None:
        nonlocal word
        word = word & ~(((1 << (hi - lo + 1)) - 1) << lo) | value << lo

    if unit == "mul":
        put(43, 38, 6)
        put(45, 45, 1)
        put(63, 58, 15 if version == 42 else 14)
        if version == 42:
            put(23, 18, 4 << 3)
        else:
            put(17, 12, 63)
    else:
        put(37, 32, 6)
        put(44, 44, 1)
        put(31, 24, 187)
        if version == 42:
            put(17, 12, 0)
        else:
            put(11, 0, 0)
    return word, fields


@cache
def load(version: int) -> list[tuple[int, dict[str, Any]]]:
    path = Path(__file__).parents[2] / "vectors" / f"v3d{version}.jsonl.gz"
    with gzip.open(path, "rt") as file:
        rows = [(int(r["word"], 16), r["fields"]) for r in map(json.loads, file)]
    found = []
    for word, f in rows:
        options = [(word, f), without(word, f, "mul", version), without(word, f, "add", version)]
        found += [o for o in options if o is not None and executable(o[1], version)][:1]
    return found


def same(got: np.ndarray, want: np.ndarray, op_float: bool = True) -> np.ndarray:
    """Lanes that agree; NaNs are one class, also in halves."""
    got = np.broadcast_to(got, want.shape)
    nan = ((got & U(0x7FFFFFFF)) > U(0x7F800000)) & ((want & U(0x7FFFFFFF)) > U(0x7F800000))
    equal = (got == want) | nan
    for shift in (0, 16):
        g, w = got >> U(shift) & U(0xFFFF), want >> U(shift) & U(0xFFFF)
        other = U(0xFFFF0000) >> U(shift)
        half_nan = ((g & U(0x7FFF)) > U(0x7C00)) & ((w & U(0x7FFF)) > U(0x7C00))
        equal |= half_nan & ((got & other) == (want & other))
    return equal


def compare(word: int, f: dict[str, Any], isa: Isa, rng: np.random.Generator, *, split: bool = False) -> None:
    s = make_state(rng, split=split)
    g = make_group(s)
    x = Services(isa, s.uniform, s.unifa)
    p = prepare(isa, word)
    assert p.problem is None, p.problem
    with quiet():
        want, effect = Model(42 if isa is Isa.V3D42 else 71).run(f, s)
        build(p)(g, x)
    if "same-destination" in x.remarks:
        return  # which write wins is not known
    for kind, count in (("rf", 64), ("acc", 6 if isa is Isa.V3D42 else 0)):
        for k in range(count):
            got, expected = g.regs[k + (ACC if kind == "acc" else 0)], getattr(want, kind)[k]
            ok = same(got, expected)
            if (kind, k) in effect.doubt:
                ok |= effect.doubt[kind, k]
            if (kind, k) in effect.loose:
                with quiet():
                    a, b = np.broadcast_to(got, expected.shape).copy().view(np.float32), expected.view(np.float32)
                    ok |= np.abs(a - b) <= effect.loose[kind, k] * np.abs(b) + 1e-37
            assert ok.all(), f"{kind}{k}: got {got} want {expected} in {f}"
    open_ = np.zeros((N, 16), bool) if effect.flags_doubt is None else effect.flags_doubt
    for name, lo, hi in (("a", g.a, g.a_hi), ("b", g.b, g.b_hi)):
        got = np.broadcast_to(lo * 1 | hi * 2, (N, 16))
        assert ((got == getattr(want, name)) | (open_ & (name == "a"))).all(), f"flag {name}: {f}"
    assert (np.broadcast_to(g.msf != 0, (N, 16)) == (want.msf != 0)).all()
    rtop = np.zeros((N, 16), U) if g.rtop is None else np.broadcast_to(g.rtop, (N, 16))
    assert (rtop & U(0xFF) == want.rtop & U(0xFF)).all()
    assert len(g.results) == len(want.results)
    assert len(g.data) == len(want.data)
    for got, expected, doubt in zip(g.data, want.data, effect.data_doubt, strict=True):
        assert (same(got, expected) | doubt).all()


def some(rows: list[tuple[int, dict[str, Any]]], most: int) -> list[tuple[int, dict[str, Any]]]:
    """At most `most` instructions of each operation of each unit, modifiers as they come."""
    seen: Counter[tuple[str, str]] = Counter()
    picked = []
    for word, f in rows:
        keys = [(u, f[u]["op"]) for u in ("add", "mul") if f[u]["op"] != "nop"]
        if any(seen[k] < most for k in keys):
            seen.update(keys)
            picked.append((word, f))
    return picked


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_golden_words_against_the_model(isa: Isa) -> None:
    rng = np.random.default_rng(1)
    rows = some(load(42 if isa is Isa.V3D42 else 71), 12)
    assert len(rows) > 300
    for word, f in rows:
        compare(word, f, isa, rng)


@pytest.mark.soak
@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_all_golden_words_against_the_model(isa: Isa) -> None:
    rng = np.random.default_rng(3)
    rows = load(42 if isa is Isa.V3D42 else 71)
    assert len(rows) > 3000
    for word, f in rows:
        for _ in range(3):
            compare(word, f, isa, rng)


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_flags_of_halves_gate_halves(isa: Isa) -> None:
    rng = np.random.default_rng(2)
    rows = some(load(42 if isa is Isa.V3D42 else 71), 3)
    for word, f in rows:
        if f["add"]["op"] in ("flafirst", "flnafirst") or f["add"]["waddr"] in (5, 55) or f["mul"]["waddr"] in (5, 55):
            continue  # what split halves mean there is assumed
        compare(word, f, isa, rng, split=True)


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_the_golden_words_reach_every_executable_operation(isa: Isa) -> None:
    seen = {h["op"] for _, f in load(42 if isa is Isa.V3D42 else 71) for h in (f["add"], f["mul"])}
    wanted = {op.name for op in ROWS if isa in op.code and not op.graphics and op.name not in GRAPHICS}
    assert wanted - seen <= {"flpop"}, wanted - seen  # flpop of 7.1: test_v3d_programs.py


def test_unknown_carries_are_clear() -> None:
    """The rows say what is known; where nothing is, no carry column stands, or it is marked assumed."""
    for op in ROWS:
        if op.name in NO_CARRY and op.carry is not None:
            assert "assumed" in op.doc
        if op.flags is Flags.HALVES:
            assert op.carry is None
