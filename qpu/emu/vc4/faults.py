"""What an emulated VideoCore IV does when a program does something doubtful: record, or stop with an `EmuFault`."""

from __future__ import annotations

import enum

from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.vc4.state import Group
from qpu.errors import EmuFault, FaultPlace
from qpu.vc4.rules import RULES

__all__ = ["Level", "Reporter", "describe_address", "disassemble"]

_KEEP = 1000  # recorded findings of a launch


class Level(enum.Enum):
    """How a finding is treated.

    WARN: hardware is documented to go on, or works in practice: recorded.
    UNKNOWN: the result on hardware is unknown: a fault when strict, else recorded and continued by the best guess.
    STOP: hardware would hang or damage memory, or nothing can be guessed: always a fault.
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
    if distance > 0:
        where = f"{distance} bytes past the end of"
    elif distance < 0:
        where = f"{-distance} bytes before"
    else:
        where = "inside"
    return f"{where} the nearest buffer, {region.name} at 0x{region.address:08x}..0x{region.end - 1:08x}"


class Reporter:
    """Collects findings of one launch."""

    __slots__ = ("_seen", "board", "memory", "stats", "strict")

    def __init__(self, board: str, memory: Memory, stats: RunStats, *, strict: bool) -> None:
        self.board = board
        self.memory = memory
        self.stats = stats
        self.strict = strict
        self._seen: set[tuple[str, int]] = set()

    def place(self, g: Group, i: int, *, lane: int | None = None, address: int | None = None) -> FaultPlace:
        """The current instruction of member `i`."""
        try:
            word = int.from_bytes(self.memory.view(g.pc & 0x3FFFFFFF, 8), "little")
            text = disassemble(word)
        except (IndexError, ValueError):
            text = None
        return FaultPlace(
            board=self.board,
            qpu=g.ids[i],
            thread=0,
            instruction=g.index(i),
            lane=lane,
            address=address,
            disassembly=text,
        )

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
        """A finding at the current instruction of member `i` of `g`.

        Raises: EmuFault when `level` asks for it.
        """
        name = RULES[rule].name if rule in RULES else ""
        if level is not Level.STOP and not (level is Level.UNKNOWN and self.strict):
            key = (rule, g.pc)
            if key not in self._seen and len(self._seen) < _KEEP:
                self._seen.add(key)
                fault = EmuFault(rule, message, self.place(g, i, lane=lane, address=address), name)
                self.stats.faults.append(str(fault))
            return
        raise EmuFault(rule, message, self.place(g, i, lane=lane, address=address), name)

    def out_of_bounds(self, what: str, address: int, g: Group, i: int, *, lane: int | None = None) -> EmuFault:
        """The fault for an access outside every buffer; the caller raises it."""
        message = f"{what} at 0x{address:08x}, which is not GPU memory: {describe_address(self.memory, address)}"
        return EmuFault("out-of-bounds", message, self.place(g, i, lane=lane, address=address))
