"""Tests of placement: constants against the semantics of the operations, and text of this project."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.errors import AsmError
from qpu.vc4 import ops, regs
from qpu.vc4.decode import decode
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu
from qpu.vc4.printer import disassemble
from qpu.vc4.vc4asm import assemble_text, constants, engine


def _meaning(op: int, code: int, *, mul: bool) -> int:
    row = ops.mul_op(op) if mul else ops.ADD_OPS[op]
    assert row is not None
    assert row.sem is not None
    v = NumpyLanes()
    x = v.const(regs.small_imm_value(code))
    return int(np.asarray(row.sem(v, x, x)).flat[0])


@pytest.mark.parametrize("mul", [False, True])
def test_constants_are_what_the_operations_give(mul: bool) -> None:
    """Every way to make a constant, executed with the operations' own meaning."""
    seen = 0
    for value, rows in constants._table(mul).items():
        for row in rows:
            if row.pack == 8:
                continue
            result = _meaning(row.op, row.code, mul=mul)
            packed = constants.pack_constant(result, row.pm, row.pack)
            assert packed == value, (row, hex(result))
            seen += 1
    assert seen > 300


@pytest.mark.parametrize("value", [*range(-16, 16), *(2.0**e for e in range(-8, 8))])
def test_small_immediates_are_moved_as_they_are(value: float) -> None:
    (word,) = assemble_text(f"mov ra0, {value}; fmul r1, r2, r3".replace("e-0", "e-")).words
    ins = decode(word)
    assert isinstance(ins, Alu)
    if value:
        assert (ins.op_add, ins.add_a, ins.add_b) == (21, 7, 7)
        assert assemble_text(f"ldi r0, {value}".replace("e-0", "e-")).words[0] & 0xFFFFFFFF == regs.small_imm_value(
            ins.raddr_b
        )


plain = st.builds(
    Alu,
    sig=st.sampled_from([1, 2, 10, 11]),
    unpack=st.just(0),
    pm=st.just(0),
    pack=st.just(0),
    cond_add=st.integers(1, 7),
    cond_mul=st.integers(1, 7),
    sf=st.integers(0, 1),
    ws=st.integers(0, 1),
    waddr_add=st.integers(0, 31),
    waddr_mul=st.integers(0, 31),
    op_add=st.sampled_from([1, 2, 3, 4, 5, 6, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 30, 31]),
    op_mul=st.integers(1, 7),
    raddr_a=st.integers(0, 31),
    raddr_b=st.integers(0, 31),
    add_a=st.integers(0, 7),
    add_b=st.integers(0, 7),
    mul_a=st.integers(0, 7),
    mul_b=st.integers(0, 7),
)


@settings(max_examples=250, deadline=None)
@given(plain)
def test_our_own_text_assembles_back(ins: Alu) -> None:
    word = encode(ins)
    text = disassemble(word)
    assert f"{assemble_text(text).words[0]:016x}" == f"{word:016x}", text


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 63), st.integers(0, 63), st.integers(0, 1), st.integers(0, (1 << 32) - 1), st.integers(1, 7))
def test_load_immediates_assemble_back(a: int, m: int, ws: int, imm: int, cond: int) -> None:
    both_free = regs.file_free_write(a) and regs.file_free_write(m)
    if 39 in (a, m) or (both_free and ws):
        return
    word = 14 << 60 | cond << 49 | cond << 46 | ws << 44 | a << 38 | m << 32 | imm
    text = disassemble(word)
    assert f"{assemble_text(text).words[0]:016x}" == f"{word:016x}", text


def _operation(draw: random.Random) -> str:
    """An operation, whether it fits or not."""
    reg = ["r0", "r1", "r2", "r4", "ra1", "ra2", "ra3.16a", "ra3.16b", "ra5.8a", "rb1", "rb2", "r4.8c", "unif", "vpm"]
    sources = [*reg, "1", "2", "16", "-16", "2.0", "r0 << 3", "r1 >> r5"]
    dst = draw.choice(["r0", "r1", "r3", "ra1", "ra2.16a", "ra4.8b", "rb1", "rb2", "-", "r2.setf", "ra7.ifz", "vpm"])
    name = draw.choice(["add", "sub", "fadd", "and", "shl", "not", "fmul", "mul24", "v8min", "v8adds", "min", "mov"])
    name += draw.choice(["", "", "", ".setf", ".ifnz", ".unpack16a", ".pack16b", ".pack8a"])
    n = 1 if name.startswith(("not", "mov")) else 2
    return f"{name} {dst}, " + ", ".join(draw.choice(sources) for _ in range(n))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_of_an_operation_is_what_it_becomes_afresh(seed: int) -> None:
    draw = random.Random(seed)
    operations = [_operation(draw) for _ in range(60)] + [
        "ldtmu0",
        "thrsw",
        "nop",
        "mov r1, 0",
        "mov r2, 0x1234",
        "read 5",
        "read rb3",
    ]

    def outcome(line: str) -> object:
        try:
            found = assemble_text(line)
        except AsmError as error:
            return [(d.rule, d.message, d.loc) for d in error.diagnostics]
        return found.words, [(d.rule, d.message, d.loc) for d in found.warnings]

    lines = ["add r0, r1, r2; read 5", "add r0, r1, r2; mul24 r1, r2, r1", "add r0, r1, r2"]
    lines += ["; ".join(draw.choices(operations, k=draw.choice((1, 2, 2, 2, 3)))) for _ in range(400)]
    engine._LINE_CACHE.clear()
    kept = [outcome(line) for line in lines]
    for line, found in zip(lines, kept, strict=True):
        engine._LINE_CACHE.clear()
        engine._OPERATION_CACHE.clear()
        assert outcome(line) == found, line
    assert sum(isinstance(found, tuple) for found in kept) > 40
