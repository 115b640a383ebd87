"""Tests of the encoding of dispatches as registers, of splitting long dispatches, and of counter names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpu.core.isa import Isa
from qpu.drivers.base import CsdJob
from qpu.drivers.counters import COUNTERS, V3D42_COUNTERS, V3D71_COUNTERS, counter_ids
from qpu.drivers.drm.csd import batch_count, csd_cfg, exact_batches, split_dispatch
from qpu.errors import UsageError


def job(**changes: Any) -> CsdJob:
    return replace(CsdJob(code=0x20000, uniforms=0x30004, bos=(object(),)), **changes)  # type: ignore[arg-type]


def test_the_plain_dispatch() -> None:
    one = 1 << 16
    assert csd_cfg(job(), 71, 7) == (one, one, one, 16 | 1 << 8, 1, 0x20001, 0x30004)
    assert csd_cfg(job(), 42, 14) == (one, one, one, 16 | 1 << 8, 0, 0x20005, 0x30004)


def test_gpgpu_without_workgroups() -> None:
    cfg = csd_cfg(job(workgroups=(48, 1, 1), workgroups_per_supergroup=16), 71, 10)
    assert cfg[0] == 48 << 16
    assert cfg[3] == 16 | 0 << 8 | 15 << 12  # 16 per supergroup is written 0, never spills
    assert cfg[4] == 48


def test_256_items_and_partial_supergroups() -> None:
    cfg = csd_cfg(job(workgroups=(5, 2, 1), workgroup_size=256, workgroups_per_supergroup=4), 71, 7)
    assert cfg[3] & 0xFF == 0
    assert cfg[3] >> 8 & 15 == 4
    assert cfg[3] >> 12 & 0xFF == 63
    assert cfg[4] == 2 * 64 + 2 * 16
    spill = csd_cfg(job(workgroups=(32, 1, 1), workgroup_size=17, workgroups_per_supergroup=16), 71, 7)
    assert spill[3] == 17 | 0 << 8 | 16 << 12
    assert spill[4] == 34
    odd = csd_cfg(job(workgroups=(7, 1, 1), workgroup_size=20, workgroups_per_supergroup=3), 71, 7)
    assert odd[3] >> 12 & 0xFF == 3  # ceil(60 / 16) - 1
    assert odd[4] == 2 * 4 + 2


@pytest.mark.parametrize(
    ("version", "revision", "exact"), [(42, 14, False), (42, 0, False), (71, 5, False), (71, 6, True), (71, 10, True)]
)
def test_batches_minus_one_by_revision(version: int, revision: int, exact: bool) -> None:
    assert exact_batches(version, revision) is exact
    assert csd_cfg(job(workgroups=(10, 1, 1)), version, revision)[4] == (10 if exact else 9)


def test_flags_and_first_ids() -> None:
    assert csd_cfg(job(threads=2, single_segment=True), 71, 7)[5] & 7 == 0b010
    assert csd_cfg(job(propagate_nans=False), 42, 14)[5] & 7 == 0b001
    assert csd_cfg(job(propagate_nans=True), 71, 7)[5] & 4 == 0  # reserved there
    cfg = csd_cfg(job(workgroups=(2, 3, 4), first=(7, 8, 9), max_supergroup_id=63), 71, 7)
    assert cfg[:3] == (2 << 16 | 7, 3 << 16 | 8, 4 << 16 | 9)
    assert cfg[3] >> 20 == 63
    assert csd_cfg(job(batches=5), 71, 7)[4] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": 0x20004}, "code address 0x20004; allowed: multiples of 8"),
        ({"code": 0}, "code address 0x0"),
        ({"uniforms": 0x30002}, "uniforms address 0x30002; allowed: multiples of 4"),
        ({"uniforms": 1 << 32}, "uniforms address"),
        ({"workgroups": (0, 1, 1)}, "workgroups in x = 0; allowed: 1..65535"),
        ({"workgroups": (1, 65536, 1)}, "workgroups in y = 65536"),
        ({"first": (0, 0, 65536)}, "first workgroup id in z = 65536"),
        ({"workgroups": (2, 1, 1), "first": (65535, 0, 0)}, "workgroup ids in x end at 65536"),
        ({"workgroup_size": 0}, "workgroup_size = 0; allowed: 1..256"),
        ({"workgroup_size": 257}, "workgroup_size = 257"),
        ({"workgroups_per_supergroup": 17}, "workgroups_per_supergroup = 17; allowed: 1..16"),
        ({"max_supergroup_id": 64}, "max_supergroup_id = 64; allowed: 0..63"),
        ({"threads": 1}, "threads = 1"),
        ({"threads": 3}, "threads = 3"),
        ({"batches": 0}, "batches = 0"),
        ({"workgroups": (65535, 65535, 2)}, "batches = "),
        ({"bos": ()}, "lists no buffers"),
    ],
)
def test_what_cannot_run_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        csd_cfg(job(**changes), 71, 7)


def ids(part: CsdJob) -> set[tuple[int, int, int]]:
    (x, y, z), (fx, fy, fz) = part.workgroups, part.first
    return {(fx + i, fy + j, fz + k) for i in range(x) for j in range(y) for k in range(z)}


shapes = st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 7))


@given(shapes, st.integers(1, 256), st.integers(1, 16), st.integers(1, 200))
@settings(max_examples=150, deadline=None)
def test_split_is_a_partition_within_the_limit(
    shape: tuple[int, int, int], size: int, per_super: int, limit: int
) -> None:
    whole = job(workgroups=shape, first=(3, 2, 1), workgroup_size=size, workgroups_per_supergroup=per_super)
    parts = split_dispatch(whole, limit)
    assert sum(len(ids(p)) for p in parts) == len(ids(whole))
    assert set().union(*map(ids, parts)) == ids(whole)
    for part in parts:
        assert batch_count(part) <= limit or part.workgroups == (1, 1, 1)
        assert (part.code, part.uniforms, part.workgroup_size) == (whole.code, whole.uniforms, size)


def test_split_keeps_a_short_dispatch_and_cuts_between_supergroups() -> None:
    short = job(workgroups=(10, 1, 1))
    assert split_dispatch(short, 10) == [short]
    parts = split_dispatch(job(workgroups=(32, 1, 1), workgroups_per_supergroup=4), 10)
    assert [p.workgroups[0] for p in parts] == [8, 8, 8, 8]
    assert [p.first[0] for p in parts] == [0, 8, 16, 24]


def test_split_refuses() -> None:
    with pytest.raises(UsageError, match="max_batches = 0"):
        split_dispatch(job(), 0)
    with pytest.raises(UsageError, match="explicit batch count"):
        split_dispatch(job(batches=100), 10)


# -- counters


def test_counter_tables() -> None:
    assert (len(V3D42_COUNTERS), len(V3D71_COUNTERS)) == (87, 93)
    for table in COUNTERS.values():
        assert len(set(table)) == len(table)
    assert (V3D42_COUNTERS[32], V3D71_COUNTERS[0]) == ("cycle-count", "cycle-count")
    assert (V3D42_COUNTERS[86], V3D71_COUNTERS[4]) == ("compute-active-cycles", "compute-active-cycles")
    assert (V3D71_COUNTERS[38], V3D71_COUNTERS[83], V3D71_COUNTERS[92]) == (
        "L2T-stalls-wrightback",
        "QPU-active",
        "QPU-stalls-other",
    )


def test_counters_resolve_by_name() -> None:
    assert counter_ids(["QPU-active", "cycle-count"], COUNTERS[Isa.V3D71], 32) == [83, 0]
    with pytest.raises(
        UsageError, match="unknown counter 'QPU-activ'; this GPU has 93\n  help: did you mean QPU-active"
    ):
        counter_ids(["QPU-activ"], V3D71_COUNTERS, 32)
    with pytest.raises(UsageError, match="unknown counter 'QPU-active'"):
        counter_ids(["QPU-active"], V3D42_COUNTERS, 32)
    with pytest.raises(UsageError, match="no counter named"):
        counter_ids([], V3D71_COUNTERS, 32)
    with pytest.raises(UsageError, match="named twice: cycle-count"):
        counter_ids(["cycle-count", "cycle-count"], V3D71_COUNTERS, 32)
    with pytest.raises(UsageError, match="33 counters; the hardware counts at most 32"):
        counter_ids(V3D71_COUNTERS[:33], V3D71_COUNTERS, 32)


def test_the_last_workgroup_id() -> None:
    for axis in range(3):
        first = tuple(0xFFFE if i == axis else 0 for i in range(3))
        good = job(workgroups=tuple(2 if i == axis else 1 for i in range(3)), first=first)
        assert csd_cfg(good, 71, 6)[axis] == 2 << 16 | 0xFFFE
        with pytest.raises(UsageError, match=f"workgroup ids in {'xyz'[axis]} end at 65536"):
            csd_cfg(job(workgroups=tuple(3 if i == axis else 1 for i in range(3)), first=first), 71, 6)
