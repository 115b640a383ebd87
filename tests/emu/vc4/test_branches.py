"""Tests of branches, loops and calls in whole programs; plain Python predicts every result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.vc4.builder import Asm
from tests.emu.vc4.rig import Rig, addresses, store_rows

U = np.uint32


BRANCHES = [
    ("allz", "z", all, True), ("allnz", "z", all, False), ("anyz", "z", any, True), ("anynz", "z", any, False),
    ("alln", "n", all, True), ("allnn", "n", all, False), ("anyn", "n", any, True), ("anynn", "n", any, False),
    ("allc", "c", all, True), ("allcc", "c", all, False), ("anyc", "c", any, True), ("anycc", "c", any, False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "flag", "every", "when"), BRANCHES)
@pytest.mark.parametrize("lanes", [0, 1, 0x8000, 0x7FFF, 0xFFFF])
def test_branch_conditions(name: Any, flag: str, every: Any, when: bool, lanes: int) -> None:
    """The flag under test is set in `lanes`; delay slots run in both cases."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, 0)
        q.shr(q.r1, q.uniform, q.element_number)
        q.and_(q.r1, q.r1, 1)
        if flag == "z":
            q.xor(q.null, q.r1, 1, push="z")
        elif flag == "n":
            q.sub(q.null, 0, q.r1, push="z")
        else:
            q.shr(q.null, q.r1, 1, push="z")
        q.b("there", cond=name)
        q.add(q.r0, q.r0, 1)
        q.add(q.r0, q.r0, 2)
        q.add(q.r0, q.r0, 4)
        q.add(q.r0, q.r0, 8)
        q.label("there")
        store_rows(q, [q.r0], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    execution = rig.run(program, [out, lanes])
    taken = every(bool(lanes >> e & 1) == when for e in range(16))
    assert y.tolist() == [7 if taken else 15] * 16
    assert execution.stats.branches == 1


@pytest.mark.parametrize(("name", "flag", "every", "when"), BRANCHES)
def test_loops_with_every_branch_condition(name: Any, flag: str, every: Any, when: bool) -> None:
    """Lane e counts down from its own start; the loop repeats while the condition holds on z, n or c of the counter."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.r1, 0)
        addresses(q, q.t0s, q.uniform)
        q.nop(sig=q.ldtmu0)
        q.mov(q.r0, q.r4)
        with q.loop() as loop:
            q.add(q.r1, q.r1, 1)
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(loop.start, cond=name)
            q.nops(3)
        store_rows(q, [q.r1], q.r2)
        q.end()

    starts = {
        True: [1] * 16 if flag == "z" else [0x80000003] * 16 if flag == "n" else [0] * 16,
        False: [5] * 16 if every is any and flag != "n" else [5 + e for e in range(16)],
    }[when]
    counter, rounds = list(starts), 0
    while True:
        rounds += 1
        borrow = [c == 0 for c in counter]
        counter = [(c - 1) & 0xFFFFFFFF for c in counter]
        values = {"z": [c == 0 for c in counter], "n": [c >> 31 == 1 for c in counter], "c": borrow}[flag]
        if not every(v == when for v in values):
            break
    rig = Rig()
    out, y = rig.zeros(16)
    source, _ = rig.array(starts, U)
    execution = rig.run(program, [out, source])
    assert y.tolist() == [rounds] * 16
    assert execution.stats.branches == rounds


def test_link_and_return() -> None:
    def program(q: Asm) -> None:
        q.mov(q.ra[1], q.uniform)
        q.ldi(q.r0, 5)
        q.b("triple", link=q.ra[30])
        q.nops(3)
        q.mov(q.ra[2], q.r0)
        q.b("triple", link=q.rb[3], link2=q.ra[30])
        q.nops(3)
        q.mov(q.r1, q.rb[3])
        q.sub(q.r1, q.r1, q.ra[30])
        store_rows(q, [q.ra[2], q.r0, q.r1], q.ra[1])
        q.end()
        q.label("triple")
        q.shl(q.r1, q.r0, 1)
        q.b(q.ra[30])
        q.add(q.r0, q.r0, q.r1)
        q.nops(2)

    rig = Rig()
    out, y = rig.zeros((3, 16))
    rig.run(program, [out])
    assert y[:, 0].tolist() == [15, 45, 0]


def test_link_value_is_the_bus_address_and_only_written_when_taken() -> None:
    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.ra[2], 77)
        q.mov(q.null, 1, push="z")
        q.b("on", link=q.ra[2], cond="allz")
        q.nops(3)
        q.b("on", link=q.rb[2])
        q.nops(3)
        q.label("on")
        store_rows(q, [q.ra[2], q.rb[2]], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros((2, 16))
    code = rig.program(program)
    rig.launch([(rig.uniforms([out]), code)])
    assert y[:, 0].tolist() == [77, code + 8 * (7 + 4)]
    assert code >> 30 == 1  # the alias stays visible


def test_jump_table_through_register_and_immediate() -> None:
    """Each QPU enters a ladder of additions at its own rung."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.shl(q.ra[0], q.uniform, 3)
        q.ldi(q.r0, 0)
        q.b(0, reg=q.ra[0])
        q.nops(3)
        for n in range(12):
            q.add(q.r0, q.r0, 1 << n if n < 4 else 15)
        q.mutex_acquire()
        store_rows(q, [q.r0], q.r2)
        q.mutex_release()
        q.end()

    rig = Rig()
    out, y = rig.zeros((12, 16))
    rig.run(program, *[[out + 64 * i, i] for i in range(12)])
    steps = [1, 2, 4, 8] + [15] * 8
    assert y[:, 3].tolist() == [sum(steps[i:]) for i in range(12)]


def test_absolute_branch_to_a_uniform_address() -> None:
    def target(q: Asm) -> None:
        store_rows(q, [q.r0], q.r2)
        q.end()

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.mov(q.ra[4], q.uniform)
        q.ldi(q.r0, 123)
        q.b(q.ra[4])
        q.nops(3)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    rig.run(program, [out, rig.program(target)])
    assert y[5] == 123


def test_branch_in_the_third_delay_slot() -> None:
    """It takes effect after the first jump has happened: its delay slots are fetched at the first one's target."""

    def program(q: Asm) -> None:
        q.mov(q.r2, q.uniform)
        q.ldi(q.r0, 0)
        q.b("first")
        q.nops(2)
        q.b("second")
        q.add(q.r0, q.r0, 1)
        q.label("first")
        q.add(q.r0, q.r0, 2)
        q.add(q.r0, q.r0, 4)
        q.add(q.r0, q.r0, 8)
        q.add(q.r0, q.r0, 15)
        q.label("second")
        store_rows(q, [q.r0], q.r2)
        q.end()

    rig = Rig()
    out, y = rig.zeros(16)
    rig.run(program, [out])
    assert y[0] == 2 + 4 + 8
