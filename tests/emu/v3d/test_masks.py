"""Tests of hidden bits of a lane, set under a condition, and of flags of halves: the same values on both engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa

ISAS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
LANE = np.arange(16)


def move(q: Any, dst: Any, src: Any, **more: str) -> None:
    q.or_(dst, src, src, **more) if q.isa is Isa.V3D42 else q.mov(dst, src, **more)


def outcome(isa: Isa, engine: str, body: Any) -> np.ndarray:
    """The words a program leaves in rf15. body(q): may use rf11 (lane number), rf13 (0 in lanes 0..7, else 1), rf14."""

    def program(q: Any) -> None:
        q.nop(sig=q.ldunifrf(q.rf[10]))
        q.eidx(q.rf[11])
        q.shl(q.rf[12], q.rf[11], 2)
        q.add(q.rf[10], q.rf[10], q.rf[12])
        q.shr(q.rf[13], q.rf[11], 3)
        body(q)
        q.sub(q.rf[14], q.rf[11], q.rf[11])
        q.sub(q.rf[14], q.rf[14], 1)
        q.setmsf(q.null, q.rf[14])  # all lanes store
        q.nop()
        move(q, q.tmud, q.rf[15])
        move(q, q.tmua, q.rf[10])
        q.tmuwt(q.null)
        q.end()

    if engine == "compiled":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")
    with qpu.open_device(ISAS[isa], engine=engine) as gpu:
        y = gpu.array(np.full(16, 7, np.uint32))
        gpu.run(qpu.assemble(program, isa=isa), uniforms=[y])
        assert gpu.stats is not None and gpu.stats.engine == engine
        return y.numpy()


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("isa", list(ISAS))
@pytest.mark.parametrize(("name", "start"), [("msf", 1), ("revf", 0)])
@pytest.mark.parametrize(
    ("cond", "reached"), [("", LANE >= 0), ("ifa", LANE < 8), ("ifna", LANE >= 8), ("ifb", LANE == 5)]
)
def test_a_condition_gates_the_bit_lane_by_lane(
    isa: Isa, engine: str, name: str, start: int, cond: str, reached: np.ndarray
) -> None:
    def body(q: Any) -> None:
        q.sub(q.rf[14], q.rf[11], 5)
        move(q, q.null, q.rf[14], push="pushz")  # becomes flag B
        move(q, q.null, q.rf[13], push="pushz")
        q.sub(q.rf[14], q.rf[11], q.rf[11])
        if name == "revf":
            q.sub(q.rf[14], q.rf[14], 1)
        getattr(q, "set" + name)(q.null, q.rf[14], **({"cond": cond} if cond else {}))
        q.nop()
        getattr(q, name)(q.rf[15])

    got = outcome(isa, engine, body)
    np.testing.assert_array_equal(got, np.where(reached, 1 - start, start))


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("isa", list(ISAS))
def test_a_condition_gates_a_popped_flag(isa: Isa, engine: str) -> None:
    """flpop.ifa does not change flag A where it was clear (assumed: as setmsf)."""

    def body(q: Any) -> None:
        move(q, q.null, q.rf[13], push="pushz")  # A: lanes 0..7
        q.flpop(q.null, q.rf[11], cond="ifa")
        q.vfla(q.rf[15])

    low, high = LANE & 1, LANE >> 1 & 1
    want = np.where(LANE < 8, low | high << 16, 0)
    np.testing.assert_array_equal(outcome(isa, engine, body), want)


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("name", ["vftounorm8", "vftosnorm8", "vftounorm10lo", "vftounorm10hi"])
@pytest.mark.parametrize("push", ["pushz", "pushn"])
def test_normalised_halves_push_the_flags_of_halves(engine: str, name: str, push: str) -> None:
    """Low half 0, high half 1.0: Z holds in the low halves alone; no result has bit 15 of a half."""

    def body(q: Any) -> None:
        q.mov(q.rf[14], 15)
        q.shl(q.rf[14], q.rf[14], 13)
        q.shl(q.rf[14], q.rf[14], 13)  # 0x3c000000
        getattr(q.nop(), name)(q.rf[15], q.rf[14], push=push)
        q.vfla(q.rf[15])

    want = 0x00000001 if push == "pushz" else 0
    np.testing.assert_array_equal(outcome(Isa.V3D71, engine, body), np.full(16, want))
