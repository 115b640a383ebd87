"""Tests of every executable ALU word of the golden vectors against an independent model: all state, all lanes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.core.optable import Flags, OperandType
from qpu.v3d.ops import ROWS
from tests.emu.v3d.compare import compare, make_state
from tests.emu.v3d.model import DATA, GRAPHICS, NO_CARRY


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
        compare(word, f, isa, make_state(rng))


@pytest.mark.soak
@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_all_golden_words_against_the_model(isa: Isa) -> None:
    rng = np.random.default_rng(3)
    rows = load(42 if isa is Isa.V3D42 else 71)
    assert len(rows) > 3000
    for word, f in rows:
        for _ in range(3):
            compare(word, f, isa, make_state(rng))


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_flags_of_halves_gate_halves(isa: Isa) -> None:
    rng = np.random.default_rng(2)
    rows = some(load(42 if isa is Isa.V3D42 else 71), 3)
    for word, f in rows:
        if f["add"]["op"] in ("flafirst", "flnafirst") or f["add"]["waddr"] in (5, 55) or f["mul"]["waddr"] in (5, 55):
            continue  # what split halves mean there is assumed
        compare(word, f, isa, make_state(rng, split=True))


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_the_golden_words_reach_every_executable_operation(isa: Isa) -> None:
    seen = {h["op"] for _, f in load(42 if isa is Isa.V3D42 else 71) for h in (f["add"], f["mul"])}
    wanted = {op.name for op in ROWS if isa in op.code and not op.graphics and op.name not in GRAPHICS}
    assert wanted - seen <= {"flpop"}, wanted - seen  # flpop of 7.1: test_programs.py


def test_flags_of_halves_belong_to_results_of_two_halves() -> None:
    """One rule for all operations: a result of two halves pushes the flags of two halves."""
    for op in ROWS:
        result = op.operand("d")
        two = result is not None and result.type in (OperandType.F16X2, OperandType.I16X2)
        assert (op.flags is Flags.HALVES) == two, op.name


def test_unknown_carries_are_clear() -> None:
    """Rows state known facts; an unknown carry has no column, or is marked assumed."""
    for op in ROWS:
        if op.name in NO_CARRY and op.carry is not None:
            assert "assumed" in op.doc
        if op.flags is Flags.HALVES:
            assert op.carry is None
