"""Findings about programs on an emulated VideoCore IV: recorded, or raised as an `EmuFault`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.vc4.state import BUS_MASK, Group, Qpu
from qpu.errors import EmuFault, FaultPlace, counted
from qpu.vc4.rules import RULES

__all__ = ["HELP", "Level", "Reporter", "describe_address", "disassemble", "fault", "place"]

_KEEP = 1000  # findings that a launch records at most


class Level(enum.Enum):
    """How a finding is treated.

    WARN: hardware is documented to continue, or works in practice: the finding is recorded.
    UNKNOWN: the result on hardware is unknown. Strict runs fault; lenient runs record the finding and continue with an
    assumed result.
    STOP: hardware would hang or damage memory, or no result can be assumed: always a fault.
    """

    WARN = "warn"
    UNKNOWN = "unknown"
    STOP = "stop"


def disassemble(word: int) -> str:
    """Text of an instruction word, for messages."""
    from qpu.vc4.printer import disassemble as text  # only messages and traces need it

    return text(word)


def describe_address(memory: Memory, address: int) -> str:
    """Where an address lies relative to the nearest buffer."""
    found = memory.nearest(address)
    if found is None:
        return "no buffer exists"
    region, distance = found
    if region.private and not distance:
        return f"it holds {region.name} of the launch, which only the GPU's own fetches may read"
    if distance > 0:
        where = f"{counted(distance, 'byte')} past the end of"
    elif distance < 0:
        where = f"{counted(-distance, 'byte')} before"
    else:
        where = "inside"
    return f"{where} the nearest buffer, {region.name} at 0x{region.address:08x}..0x{region.last:08x}"


def place(
    board: str, memory: Memory, qpu: Qpu, pc: int, lane: int | None = None, address: int | None = None
) -> FaultPlace:
    """The fault place of a QPU that executes the instruction at `pc`."""
    try:
        text: str | None = disassemble(int.from_bytes(memory.view(pc & BUS_MASK, 8), "little"))
    except (IndexError, ValueError):
        text = None
    return FaultPlace(board, qpu.number, 0, (pc - qpu.entry) >> 3, lane=lane, address=address, disassembly=text)


HELP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "add-nop-write": "give the nop no destination, or use an operation",
        "branch-lane": "branch through a register that holds one address in all lanes",
        "branch-link": "link to a register of file A or B, or to r0..r3",
        "breakpoint": "end the program (`q.end()`); memory after the program reads as breakpoints",
        "deadlock": "release the mutex on every path, and pair each decrement of a semaphore with an increment",
        "dma-misaligned": "align address and pitch to the size of the elements",
        "endless-loop": "check the loop's condition: nothing in the loop changes the values that it tests",
        "graphics-register": "remove the access: a user program has no pixels, varyings or tile buffer",
        "graphics-signal": "remove the signal: a user program has no tile buffer",
        "mutex-held": "release the mutex before the program ends",
        "mutex-not-held": "release the mutex only where it was acquired",
        "no-uniforms": "give the program its uniforms: gpu.run(program, [...])",
        "out-of-bounds": "check the address arithmetic in all 16 lanes, and the sizes of the buffers",
        "scoreboard": "remove the signal: a user program has no scoreboard",
        "texture-coordinate": "keep coordinates so small that the texel has a number below 2**31",
        "texture-setup": "write t before s, so that the request takes both set-up words",
        "texture-uncertain": "use another size, or read memory without texturing",
        "texture-unsupported": "read memory without texturing: write addresses to t0s or t1s alone",
        "thread-switch": "remove the signal: a user program is the only thread of its QPU",
        "tmu-component-twice": "write each of s, t, r and b once, s last",
        "tmu-depth": "collect results with ldtmu0 or ldtmu1 after at most four requests",
        "tmu-empty": "make a request before each ldtmu0 or ldtmu1",
        "tmu-noswap-busy": "collect every result before writing tmu_noswap",
        "tmu-overflow": "collect results with ldtmu0 or ldtmu1 after at most four requests",
        "tmu-uncollected": "collect every result before the program ends",
        "unaligned-code": "branch to a label, or to an address that is a multiple of 8",
        "unassigned-read": "read one of the registers of docs/hardware/vc4.md 3",
        "uniforms-end": "pass as many uniforms as the program takes; see the loop counts",
        "uniforms-relative": "write the absolute address, through file A",
        "uniforms-unaligned": "give an address that is a multiple of 4",
        "unpack-input": "move the value to a register of file A first, then unpack that register",
        "vpm-dma-column": "keep the block within columns 0..15",
        "vpm-dma-laned": "write 0 to LANED (bit 15)",
        "vpm-dma-offset": "use 32-bit elements, or begin at the first half or byte of a word",
        "vpm-dma-row": "keep the block within rows 0..63",
        "vpm-empty": "read exactly as many vectors as the set-up says",
        "vpm-no-setup": "write the set-up first (`q.setup_vpm_write()`, `q.setup_dma_load()`, ...)",
        "vpm-reserved": "use rows that V3D_VPMBASE reserves for user programs",
        "vpm-row": "use rows 0..63",
        "vpm-setup": "make the word with qpu.vc4.vpm, which checks every field",
    }
)
"""Help of the faults that are not rules of the checker; the rules of the checker have their own."""


def fault(rule: str, message: str, where: FaultPlace) -> EmuFault:
    """A fault with the name and the help of its rule."""
    row = RULES.get(rule)
    return EmuFault(rule, message, where, "" if row is None else row.name, HELP[rule] if row is None else row.help)


class Reporter:
    """Records the findings of one launch, or raises them as faults."""

    __slots__ = ("_seen", "board", "memory", "stats", "strict")

    def __init__(self, board: str, memory: Memory, stats: RunStats, *, strict: bool) -> None:
        self.board = board
        self.memory = memory
        self.stats = stats
        self.strict = strict
        self._seen: set[tuple[str, int]] = set()

    def place(self, g: Group, i: int, *, lane: int | None = None, address: int | None = None) -> FaultPlace:
        """The current instruction of member `i`."""
        return place(self.board, self.memory, g.qpus[i], g.pc, lane, address)

    def report(
        self,
        level: Level,
        rule: str,
        message: str,
        g: Group,
        i: int = 0,
        *,
        lane: int | None = None,
        address: int | None = None,
    ) -> None:
        """Record a finding at the current instruction of member `i` of `g`.

        Raises: EmuFault instead, at level STOP and in strict runs at level UNKNOWN.
        """
        if level is Level.STOP or (level is Level.UNKNOWN and self.strict):
            raise fault(rule, message, self.place(g, i, lane=lane, address=address))
        key = (rule, g.pc)
        if key not in self._seen and len(self._seen) < _KEEP:
            self._seen.add(key)
            self.stats.faults.append(str(fault(rule, message, self.place(g, i, lane=lane, address=address))))

    def out_of_bounds(self, what: str, address: int, g: Group, i: int, *, lane: int | None = None) -> EmuFault:
        """The fault for an access outside every buffer; the caller raises it."""
        message = (
            f"{what} at 0x{address:08x}, which is not GPU memory: {describe_address(self.memory, address & BUS_MASK)}"
        )
        return fault("out-of-bounds", message, self.place(g, i, lane=lane, address=address))
