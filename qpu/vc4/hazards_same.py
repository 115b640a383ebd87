"""Hazard rules of VideoCore IV that concern one instruction, and the neighbourhood of a program end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qpu.vc4 import regs
from qpu.vc4.effects import has_rotation, mul_sources, read_addresses, write_targets
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, Reserved, Semaphore
from qpu.vc4.regs import NOP, File

__all__ = ["PERIPHERALS", "end_rules", "same_rules"]

PERIPHERALS = frozenset({36, *range(40, 64)})
"""Write addresses that act when addressed, whatever the condition (37, 38, 39 are exempt)."""

_TLB_WRITES = frozenset({43, 44, 45, 46, 47})
_COLOUR_WRITES = frozenset({45, 46})
_COLOUR_LOADS = frozenset({8, 9})


def _name(file: File, addr: int) -> str:
    return regs.write_name(file, addr)


def same_rules(i: Instr, *, texture: bool) -> Iterator[tuple[str, str]]:
    """(rule, message) for what is wrong within one instruction. texture: a TMU S write here belongs to a texture."""
    if isinstance(i, Reserved):
        return
    if isinstance(i, Branch) and i.reg and i.raddr_a & 1:
        yield "H24", f"a branch through ra{i.raddr_a} sets the flags: the register number is odd"
    if isinstance(i, Alu):
        yield from _rotation(i)
        yield from _accesses(i)
        yield from _vpm(i)
        yield from _uniform_with_texture(i, texture)
    elif isinstance(i, Semaphore):
        yield from _semaphore(i)
    yield from _results(i)


def _rotation(i: Alu) -> Iterator[tuple[str, str]]:
    if has_rotation(i) and 52 <= i.raddr_b <= 60 and not any(m < 4 for m in mul_sources(i)):
        yield "H7", f"a rotation by {i.raddr_b - 48} needs an operand in r0..r3; others rotate within quads of four"


def _accesses(i: Alu) -> Iterator[tuple[str, str]]:
    """H12: one shared unit per instruction; reading and writing colour is one access."""
    found: list[str] = []
    colour = ""
    for file, addr, _ in write_targets(i):
        name = _name(file, addr)
        if addr >= 56:
            found.append(f"TMU write ({name})")
        elif addr >= 52:
            found.append(f"SFU write ({name})")
        elif addr in _COLOUR_WRITES:
            if colour:
                found.append(f"colour write ({name})")
            colour = f"colour write ({name})"
        elif addr in _TLB_WRITES:
            found.append(f"tile buffer write ({name})")
    signal = regs.SIGNALS[i.sig]
    if i.sig in _COLOUR_LOADS:
        colour = colour or f"colour load ({signal.name})"
    elif signal.loads_r4:
        found.append(f"{'TMU' if signal.loads_r4.startswith('tmu') else 'tile buffer'} load ({signal.name})")
    if colour:
        found.append(colour)
    if any(addr == 51 for _, addr in read_addresses(i)):
        found.append("mutex read")
    if len(found) > 1:
        yield "H12", f"one instruction has {' and '.join(found)}; one such access is allowed"


def _vpm(i: Alu) -> Iterator[tuple[str, str]]:
    written = {(file, addr) for file, addr, _ in write_targets(i)}
    setups = [_name(f, 49) for f in File if (f, 49) in written]
    if len(setups) == 2:
        yield "H16", "VPM read set-up and VPM write set-up are written in one instruction"
    if not setups:
        return
    if any(addr == 48 for _, addr in read_addresses(i)):
        yield "H16", f"the VPM is read while {setups[0]} is written"
    if any(addr == 48 for _, addr in written):
        yield "H16", f"the VPM is written while {setups[0]} is written"


def _uniform_with_texture(i: Alu, texture: bool) -> Iterator[tuple[str, str]]:
    if not any(addr == 32 for _, addr in read_addresses(i)):
        return
    for file, addr, _ in write_targets(i):
        if addr >= 56 and (addr & 3 or texture):
            yield "H23", f"{_name(file, addr)} takes a uniform as texture set-up while a uniform is read"
            return


def _semaphore(i: Semaphore) -> Iterator[tuple[str, str]]:
    for file, addr, _ in write_targets(i):
        if addr in _TLB_WRITES or addr == 36 or addr >= 52:
            yield "H27", f"a semaphore instruction writes {_name(file, addr)}; TMU, SFU and tile buffer are not allowed"


def _results(i: Alu | LoadImm | Semaphore | Branch) -> Iterator[tuple[str, str]]:
    """H13, H14, H15: conditions of the two results."""
    targets = write_targets(i)
    conds = (1, 1) if isinstance(i, Branch) else (i.cond_add, i.cond_mul)
    addrs = (i.waddr_add, i.waddr_mul)
    same = addrs[0] == addrs[1] != NOP and regs.file_free_write(addrs[0])
    complementary = conds[0] == conds[1] ^ 1 and conds[0] > 1
    if same and not complementary and 0 not in conds:
        yield "H13", f"both results go to {_name(*targets[0][:2])} and their conditions can hold together"
    for file, addr, cond in targets:
        if addr in PERIPHERALS and cond != 1 and not (same and complementary):
            how = "never" if not cond else "conditionally"
            yield "H14", f"{_name(file, addr)} is written {how}; it acts whatever the condition says"
    if isinstance(i, Alu | LoadImm) and i.pm and 4 <= i.pack <= 7 and i.waddr_mul in PERIPHERALS:
        name = _name(File(1 - i.ws), i.waddr_mul)
        yield "H15", f"a byte is packed into {name}; peripherals take whole words only"


def end_rules(run: Sequence[Instr], *, quirk: bool = False) -> Iterator[tuple[str, int, str]]:
    """(rule, distance, message) around a program end: `run` is its instruction and the two delay slots, as far as
    the program has them. quirk: the run starts with a last thread switch instead, which vc4asm treats alike (H29).
    """

    def rule(name: str) -> str:
        return "H29" if quirk else name

    where = "last thread switch" if quirk else "program end"
    for distance, i in enumerate(run):
        touched = [(regs.read_name(f, a), a, f) for f, a in read_addresses(i)]
        touched += [(regs.write_name(f, a), a, f) for f, a, _ in write_targets(i)]
        reads = len(read_addresses(i))
        for n, (name, addr, _) in enumerate(touched):
            if 48 <= addr <= 50 or (n < reads and addr in (32, 35)):
                yield rule("H18"), distance, f"{name} is accessed at the {where}"
        for name, addr, _ in touched:
            if addr == 14:
                yield rule("H20"), distance, f"{name} is used at the {where}"
        if not distance:
            for file, addr, cond in write_targets(i):
                if addr < 32 and cond:
                    yield rule("H19"), 0, f"the instruction of the {where} writes {_name(file, addr)}"
        if distance == 2 and not quirk and any(addr == 44 for _, addr, _ in write_targets(i)):
            yield "H21", 2, "the last instruction writes tile buffer Z"
