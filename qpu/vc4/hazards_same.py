"""Hazard rules within one VideoCore IV instruction: shared units, VPM set-up, conditions and packs of I/O writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qpu.core.hazards import Breach
from qpu.vc4 import regs
from qpu.vc4.decode import reserved
from qpu.vc4.effects import has_rotation, mul_sources, read_addresses, write_targets
from qpu.vc4.instr import Alu, Branch, Half, Instr, LoadImm, Reserved, Semaphore
from qpu.vc4.ops import ADD_OPS, MUL_OPS, is_move
from qpu.vc4.regs import File, Register

__all__ = ["PERIPHERALS", "peripherals", "same_instruction"]

PERIPHERALS: Final = frozenset({36, *range(40, 64)})
"""Write addresses for which the condition has no effect (37, 38, 39 are exempt)."""

_HOST: Final = 38
_ACCESS: Final = {"tmu": "TMU write", "sfu": "SFU write", "tlb": "tile buffer write", "colour": "colour write"}
_VPM, _SETUP, _UNIFORM = 48, 49, 32


def same_instruction(i: Instr, *, texture: bool = False) -> list[Breach]:
    """The violations within an instruction. texture: its TMU S write belongs to a texture request."""
    why = reserved(i)
    found = [] if why is None else [Breach("decode", why)]
    return found + [Breach(rule, message) for rule, message in _rules(i, texture)]


def peripherals(half: Half) -> int:
    """How many of the shared units (H12) one half uses by its destination and its sources."""
    file = File.A if half.dst.file is None else half.dst.file
    row = regs.writer(file, half.dst.n)
    used = int(row is not None and row.unit in _ACCESS)
    sources = {s.n for s in (half.a, half.b, *half.reads) if s is not None}
    return used + int(any(row.unit == "mutex" and row.addr in sources for row in regs.READS))


def _rules(i: Instr, texture: bool) -> Iterator[tuple[str, str]]:
    if isinstance(i, Reserved):
        return
    if isinstance(i, Branch) and i.reg and i.raddr_a & 1:
        yield "H24", f"a branch through ra{i.raddr_a} sets the flags: the register number is odd"
    targets = write_targets(i)
    writes = [(file, addr, cond, regs.writer(file, addr)) for file, addr, cond in targets if addr >= 32]
    if isinstance(i, Alu):
        if i.sig == regs.SIG_SMALL_IMM and i.raddr_b >= 48:
            yield from _rotation(i)
        rows = [row for _, _, _, row in writes if row is not None]
        reads = {addr for _, addr in read_addresses(i)} if rows or i.sig > 6 else set()
        if rows or i.sig > 6:
            yield from _accesses(i, rows, reads)
        if rows:
            yield from _vpm(rows, reads)
            yield from _uniform_with_texture(rows, reads, texture)
    elif isinstance(i, Semaphore):
        for _, addr, _, row in writes:
            if row is not None and (row.unit or addr == 36):
                yield "H27", f"a semaphore instruction writes {row.name}; TMU, SFU and tile buffer are not allowed"
    if writes:
        yield from _results(i, targets)


def _rotation(i: Alu) -> Iterator[tuple[str, str]]:
    if has_rotation(i) and 52 <= i.raddr_b <= 60 and not any(m < 4 for m in mul_sources(i)):
        yield "H7", f"a rotation by {i.raddr_b - 48} needs an operand in r0..r3; others rotate within quads of four"


def _accesses(i: Alu, rows: list[Register], reads: set[int]) -> Iterator[tuple[str, str]]:
    """H12: one shared unit per instruction; reading and writing colour is one access."""
    signal = regs.SIGNALS[i.sig]
    found = [f"{_ACCESS[row.unit]} ({row.name})" for row in rows if row.unit in _ACCESS]
    colour = any(row.unit == "colour" for row in rows)
    if signal.loads_r4 and not (signal.colour and colour):
        kind = "colour" if signal.colour else "TMU" if signal.loads_r4.startswith("tmu") else "tile buffer"
        found.append(f"{kind} load ({signal.name})")
    if any(row.unit == "mutex" and row.addr in reads for row in regs.READS):
        found.append("mutex read")
    if len(found) > 1:
        yield "H12", f"one instruction has {' and '.join(found)}; one such access is allowed"


def _vpm(rows: list[Register], reads: set[int]) -> Iterator[tuple[str, str]]:
    setups = [row.name for row in rows if row.addr == _SETUP]
    if len(setups) == 2 and setups[0] != setups[1]:
        yield "H16", "VPM read set-up and VPM write set-up are written in one instruction"
    if not setups:
        return
    if _VPM in reads:
        yield "H16", f"the VPM is read while {setups[0]} is written"
    if any(row.addr == _VPM for row in rows):
        yield "H16", f"the VPM is written while {setups[0]} is written"


def _uniform_with_texture(rows: list[Register], reads: set[int], texture: bool) -> Iterator[tuple[str, str]]:
    if _UNIFORM not in reads:
        return
    for row in rows:
        if row.unit == "tmu" and (texture or not row.effect.endswith("_s")):
            yield "H23", f"{row.name} takes a uniform as texture set-up while a uniform is read"
            return


def _results(
    i: Alu | LoadImm | Semaphore | Branch, targets: Sequence[tuple[File, int, int]]
) -> Iterator[tuple[str, str]]:
    """H13, H14, H15: conditions of the two results."""
    same = len(targets) == 2 and targets[0][1] == targets[1][1] and regs.file_free_write(targets[0][1])
    conds = tuple(cond for _, _, cond in targets)
    complementary = same and conds[0] == conds[1] ^ 1 and conds[0] > 1
    if same and not complementary and 0 not in conds and not _identical(i, targets[0][1]):
        name = regs.write_name(*targets[0][:2])
        yield "H13", f"both results go to {name} and their conditions can hold together"
    for file, addr, cond in targets:
        if addr in PERIPHERALS and cond != 1 and not complementary:
            how = "never" if not cond else "conditionally"
            yield "H14", f"{regs.write_name(file, addr)} is written {how}; the condition has no effect on it"
    if isinstance(i, Alu | LoadImm) and i.pm and 4 <= i.pack <= 7 and i.waddr_mul in PERIPHERALS:
        name = regs.write_name(File(1 - i.ws), i.waddr_mul)
        yield "H15", f"a byte is packed into {name}; peripherals take whole words only"


def _identical(i: Alu | LoadImm | Semaphore | Branch, addr: int) -> bool:
    """True when both results are the same value and writing it twice is harmless (vc4.md 19, H13)."""
    if addr == _HOST:
        return True
    if addr in PERIPHERALS:
        return False
    if not isinstance(i, Alu):
        return isinstance(i, Branch) or not (i.pm and i.pack)
    add, mul = ADD_OPS[i.op_add], MUL_OPS[i.op_mul]
    if add is None or mul is None or i.pack:
        return False
    moves = is_move(add) and is_move(mul) and i.add_a == i.add_b == i.mul_a == i.mul_b
    return moves and not i.unpack and not has_rotation(i)
