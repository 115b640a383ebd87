"""Tests of ALU instructions on the reference engine against an independent scalar model: all state, all lanes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpu.emu.engine.numpy_lanes import quiet
from qpu.emu.vc4.fetch import step
from qpu.emu.vc4.prepare import plan
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu
from tests.emu.vc4 import model as model
from tests.emu.vc4.chip import ADD_CODES, EDGES, Chip


def random_alu(rng: np.random.Generator, **fixed: int) -> Alu:
    def pick(*choices: int) -> int:
        return int(rng.choice(choices))

    small = int(rng.integers(0, 3)) == 0
    pm = pick(0, 1)
    f: dict[str, Any] = {
        "sig": 13 if small else 1,
        "unpack": int(rng.integers(0, 8)) if rng.integers(0, 2) else 0,
        "pm": pm,
        "pack": pick(0, 0, 3, 4, 5, 6, 7) if pm else int(rng.integers(0, 16)),
        "cond_add": int(rng.integers(0, 8)) if rng.integers(0, 2) else 1,
        "cond_mul": int(rng.integers(0, 8)) if rng.integers(0, 2) else 1,
        "sf": pick(0, 1),
        "ws": pick(0, 1),
        "waddr_add": pick(3, 5, 32, 33, 37, 39),
        "waddr_mul": pick(3, 7, 34, 35, 39),
        "op_mul": int(rng.integers(0, 8)),
        "op_add": pick(0, *ADD_CODES),
        "raddr_a": pick(3, 9, 39),
        "raddr_b": int(rng.integers(0, 64)) if small else pick(5, 11, 39),
        "add_a": int(rng.integers(0, 8)),
        "add_b": int(rng.integers(0, 8)),
        "mul_a": int(rng.integers(0, 8)),
        "mul_b": int(rng.integers(0, 8)),
    }
    f.update(fixed)
    if f["op_add"] == 0:
        f["cond_add"], f["waddr_add"] = 0, 39
    return Alu(**f)


def check(chip: Chip, rng: np.random.Generator, instr: Alu, ids: list[int]) -> None:
    chip.randomise(rng)
    expected = [chip.state(q) for q in range(chip.n)]
    for q in ids:
        model.execute(expected[q], instr)
    with quiet():
        step(encode(instr)).run(chip.group(ids), chip.units)
    for q in range(chip.n):
        assert chip.state(q) == expected[q], (instr, q)


@pytest.mark.parametrize("op", ADD_CODES)
def test_add_operations(op: int) -> None:
    chip, rng = Chip(), np.random.default_rng(op)
    for _ in range(40):
        check(chip, rng, random_alu(rng, op_add=op, cond_add=1, waddr_add=32, pack=0, op_mul=0), [0, 1, 2])


@pytest.mark.parametrize("op", range(8))
def test_mul_operations(op: int) -> None:
    chip, rng = Chip(), np.random.default_rng(100 + op)
    for _ in range(40):
        check(chip, rng, random_alu(rng, op_mul=op, cond_mul=1, waddr_mul=34, op_add=0), [0, 1, 2])


@pytest.mark.parametrize("op", ADD_CODES)
def test_every_pair_of_edge_values_and_flags(op: int) -> None:
    """ADD with flags; the carry too."""
    chip = Chip(1)
    instr = Alu(op_add=op, cond_add=1, waddr_add=34, sf=1, add_a=0, add_b=1)
    ready = step(encode(instr))
    pairs = [(x, y) for x in EDGES for y in EDGES]
    for at in range(0, len(pairs) - 15, 16):
        chunk = pairs[at : at + 16]
        chip.bank.acc[0, 0], chip.bank.acc[1, 0] = ([p[k] for p in chunk] for k in (0, 1))
        with quiet():
            ready.run(chip.group([0]), chip.units)
        for lane, (x, y) in enumerate(chunk):
            want = model.add_op(op, x, y)
            got = int(chip.bank.acc[2, 0, lane])
            assert got == want, f"{op} {x:#x} {y:#x}: {got:#x}, expected {want:#x}"
            flags = (chip.bank.z[0, lane], chip.bank.neg[0, lane], chip.bank.c[0, lane])
            assert flags == (want == 0, want >> 31 == 1, model.add_carry(op, x, y, want)), f"{op} {x:#x} {y:#x}"


@pytest.mark.parametrize("op", range(1, 8))
def test_every_pair_of_edge_values_mul(op: int) -> None:
    chip = Chip(1)
    ready = step(encode(Alu(op_mul=op, cond_mul=1, waddr_mul=34, sf=1, mul_a=0, mul_b=1)))
    pairs = [(x, y) for x in EDGES for y in EDGES]
    for at in range(0, len(pairs) - 15, 16):
        chunk = pairs[at : at + 16]
        chip.bank.acc[0, 0], chip.bank.acc[1, 0] = ([p[k] for p in chunk] for k in (0, 1))
        with quiet():
            ready.run(chip.group([0]), chip.units)
        for lane, (x, y) in enumerate(chunk):
            want = model.mul_op(op, x, y)
            got = int(chip.bank.acc[2, 0, lane])
            assert got == want, f"{op} {x:#x} {y:#x}: {got:#x}, expected {want:#x}"
            assert bool(chip.bank.c[0, lane]) == model.mul_carry(op, x, y)


@pytest.mark.parametrize("mode", range(16))
def test_pack_file_a(mode: int) -> None:
    chip, rng = Chip(), np.random.default_rng(200 + mode)
    for _ in range(25):
        mul = int(rng.integers(0, 2))
        check(chip, rng, random_alu(rng, pm=0, pack=mode, ws=mul, waddr_add=3, waddr_mul=7), [0, 2])
    for op in (1, 8, 12, 13, 21, 7):
        check(chip, rng, random_alu(rng, pm=0, pack=mode, ws=0, waddr_add=3, op_add=op, cond_add=1), [0, 1, 2])


@pytest.mark.parametrize("mode", [0, 3, 4, 5, 6, 7])
def test_pack_mul(mode: int) -> None:
    chip, rng = Chip(), np.random.default_rng(300 + mode)
    for _ in range(25):
        check(chip, rng, random_alu(rng, pm=1, pack=mode, op_mul=int(rng.integers(1, 8))), [1, 2])


@pytest.mark.parametrize("mode", range(8))
@pytest.mark.parametrize("pm", [0, 1])
def test_unpack(mode: int, pm: int) -> None:
    chip, rng = Chip(), np.random.default_rng(400 + mode)
    for op in ADD_CODES:
        check(chip, rng, random_alu(rng, pm=pm, pack=0, unpack=mode, raddr_a=9, add_a=6 - 2 * pm, op_add=op), [0, 1, 2])
    for op in range(1, 8):
        check(chip, rng, random_alu(rng, pm=pm, pack=0, unpack=mode, raddr_a=9, mul_a=6 - 2 * pm, op_mul=op), [0, 1])


@pytest.mark.parametrize("code", range(64))
def test_small_immediates_and_rotations(code: int) -> None:
    chip, rng = Chip(), np.random.default_rng(500 + code)
    for _ in range(6):
        check(chip, rng, random_alu(rng, sig=13, raddr_b=code), [0, 1, 2])


@pytest.mark.parametrize("seed", range(20))
def test_random_instructions(seed: int) -> None:
    """Any fields together, on groups of any shape: members outside the group keep their state."""
    chip, rng = Chip(), np.random.default_rng(1000 + seed)
    for k in range(40):
        check(chip, rng, random_alu(rng), [[0, 1, 2], [1], [0, 2], [1, 2]][k % 4])


def test_r5_quads_and_broadcast() -> None:
    chip = Chip(1)
    for ws, expected in ((0, [x & 12 for x in range(16)]), (1, [0] * 16)):
        chip.bank.acc[0, 0] = np.arange(16)
        step(encode(Alu(op_add=21, cond_add=1, waddr_add=37, ws=ws))).run(chip.group([0]), chip.units)
        assert chip.bank.acc[5, 0].tolist() == expected


def test_every_golden_word_can_be_planned() -> None:
    path = Path(__file__).parents[2] / "vectors" / "vc4.jsonl.gz"
    with gzip.open(path, "rt") as file:
        words = [int(json.loads(line)["word"], 16) for line in file]
    assert len(words) > 6000
    for word in words:
        p = plan(word)
        assert p.word == word
        step(word)
