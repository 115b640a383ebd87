"""Comparison of one instruction in the reference engine and in the model of `model.py`: all state."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.core.isa import Isa
from qpu.emu.engine.numpy_lanes import quiet
from qpu.emu.v3d.prepare import prepare
from qpu.emu.v3d.reference import build
from qpu.emu.v3d.state import ACC, Group
from tests.emu.v3d.model import Model, State, U

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
    """Replacement of the machine: constant uniforms, and collected warnings."""

    def __init__(self, isa: Isa, uniform: int, unifa: int) -> None:
        self.isa = isa
        self._uniform, self._unifa = uniform, unifa
        self.warnings: list[str] = []

    def uniform(self, g: Group) -> int:
        return self._uniform

    def unifa_word(self, g: Group) -> int:
        return self._unifa

    def result(self, g: Group) -> np.ndarray:
        return g.results.pop(0)

    def barrier_slot(self, g: Group) -> np.ndarray:
        return np.zeros(16, U)

    def before(self, g: Group) -> None:
        return None

    def lane0(self, g: Group, value: Any, on: Any = None, old: Any = 0) -> Any:
        raise AssertionError

    def request(self, g: Group, address: Any, live: Any) -> None:
        raise AssertionError

    def flush(self, g: Group) -> None:
        raise AssertionError

    def hazard(self, g: Group, rule: str, message: str, row: int = 0, lane: int | None = None) -> None:
        self.warnings.append(rule)

    def hazard_in(self, g: Group, rule: str, message: str, lanes: np.ndarray) -> None:
        if lanes.any():
            self.warnings.append(rule)

    warn = fault = hazard


def values(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Edge values, random patterns and tame floats."""
    kind = rng.integers(0, 4, shape)
    tame = (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(np.float32).view(U)
    halves = rng.normal(size=(*shape, 2)).astype(np.float16).view(np.uint16).view(U)[..., 0]
    raw = rng.integers(0, 1 << 32, shape, dtype=U)
    return np.choose(kind, [EDGES[rng.integers(0, len(EDGES), shape)], raw, tame, halves]).astype(U)


def make_state(rng: np.random.Generator, *, n: int = N, split: bool = False) -> State:
    """n threads with edge values, random patterns, tame floats and halves in all registers."""

    def flags() -> np.ndarray:
        if split:
            return rng.integers(0, 4, (n, 16))
        return rng.integers(0, 2, (n, 16)) * 3

    return State(
        rf=values(rng, 64, n, 16),
        acc=values(rng, 6, n, 16),
        a=flags(),
        b=flags(),
        msf=rng.integers(0, 2, (n, 16)).astype(U),
        revf=rng.integers(0, 2, (n, 16)).astype(U),
        tidx=rng.integers(0, 64, (n, 1)).astype(U),
        link=rng.integers(0, 1 << 20, n).astype(U) * U(8),
        rtop=rng.integers(0, 1 << 16, (n, 16)).astype(U),
        results=[values(rng, n, 16)],
        uniform=int(rng.integers(0, 1 << 32)),
        unifa=int(rng.integers(0, 1 << 32)),
    )


def make_group(s: State) -> Group:
    """The same state as the engine keeps it."""
    n = len(s.tidx)
    g = Group(np.arange(n), 0x1000, 0)
    g.regs = [*(r.copy() for r in s.rf), *(r.copy() for r in s.acc)]
    g.a, g.b = s.a & 1 != 0, s.b & 1 != 0
    g.a_hi, g.b_hi = s.a & 2 != 0, s.b & 2 != 0
    if (g.a == g.a_hi).all():
        g.a_hi = g.a
    if (g.b == g.b_hi).all():
        g.b_hi = g.b
    g.msf, g.revf, g.live = s.msf.copy(), s.revf.copy(), s.msf != 0
    g.tidx = np.broadcast_to(s.tidx, (n, 16)).copy()
    g.link = s.link.copy()
    g.rtop = s.rtop.copy()
    g.results = [r.copy() for r in s.results]
    g.count = 100
    return g


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


def compare(word: int, f: dict[str, Any], isa: Isa, s: State) -> None:
    """word, and the same instruction as the fields of the golden vectors."""
    n = len(s.tidx)
    g = make_group(s)
    x = Services(isa, s.uniform, s.unifa)
    p = prepare(isa, word)
    assert p.problem is None, p.problem
    with quiet():
        want, effect = Model(42 if isa is Isa.V3D42 else 71).run(f, s)
        build(p)(g, x)
    if "same-destination" in x.warnings:
        return  # which write wins is not known
    for kind, count in (("rf", 64), ("acc", 6 if isa is Isa.V3D42 else 0)):
        for k in range(count):
            got, expected = g.regs[k + (ACC if kind == "acc" else 0)], getattr(want, kind)[k]
            if got.shape == expected.shape and (got == expected).all():
                continue
            ok = same(got, expected)
            if (kind, k) in effect.doubt:
                ok |= effect.doubt[kind, k]
            if (kind, k) in effect.loose:
                with quiet():
                    a, b = np.broadcast_to(got, expected.shape).copy().view(np.float32), expected.view(np.float32)
                    ok |= np.abs(a - b) <= effect.loose[kind, k] * np.abs(b) + 1e-37
            assert ok.all(), f"{kind}{k}: got {got} want {expected} in {f}"
    open_ = np.zeros((n, 16), bool) if effect.flags_doubt is None else effect.flags_doubt
    for name, lo, hi in (("a", g.a, g.a_hi), ("b", g.b, g.b_hi)):
        got = np.broadcast_to(lo * 1 | hi * 2, (n, 16))
        assert ((got == getattr(want, name)) | (open_ & (name == "a"))).all(), f"flag {name}: {f}"
    assert (np.broadcast_to(g.msf, (n, 16)) == want.msf).all()
    assert (np.broadcast_to(g.live, (n, 16)) == (want.msf != 0)).all()
    assert (np.broadcast_to(g.revf, (n, 16)) == want.revf).all()
    rtop = np.broadcast_to(g.rtop, (n, 16))
    assert (rtop & U(0xFF) == want.rtop & U(0xFF)).all()
    assert len(g.results) == len(want.results)
    assert len(g.data) == len(want.data)
    for got, expected, doubt in zip(g.data, want.data, effect.data_doubt, strict=True):
        assert (same(got, expected) | doubt).all()
