"""Instruction fetch of an emulated VideoCore IV: turns instruction words into the steps and blocks of the engines."""

from __future__ import annotations

from itertools import accumulate

from qpu.emu.engine.memory import Memory
from qpu.emu.vc4.alu import BRANCH_SLOTS, END_SLOTS
from qpu.emu.vc4.faults import Level
from qpu.emu.vc4.prepare import COUNTS, plan
from qpu.emu.vc4.reference_execute import Step
from qpu.emu.vc4.state import BUS_MASK
from qpu.vc4.instr import Branch

__all__ = ["Block", "Code", "step"]

_LONGEST = 64  # instructions of a block at most
_KEEP = 1 << 16
_KEEP_BLOCKS = 1 << 10
_steps: dict[int, Step] = {}

Totals = tuple[int, ...]


def step(word: int) -> Step:
    """The executable form of an instruction word; prepared once in a process."""
    found = _steps.get(word)
    if found is None:
        if len(_steps) >= _KEEP:
            _steps.clear()
        found = _steps[word] = Step(plan(word))
    return found


def _plus(total: Totals, more: Totals) -> Totals:
    return tuple(x + y for x, y in zip(total, more, strict=True))


class Block:
    """Consecutive instructions. A branch ends the block after its three delay slots, a program end after its two.

    totals[k]: statistics of the first k instructions, in the order of `COUNTS`.
    """

    __slots__ = ("steps", "totals")

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.totals: list[Totals] = list(
            accumulate((tuple(s.plan.counts) for s in steps), _plus, initial=(0,) * len(COUNTS))
        )


_blocks: dict[bytes, Block] = {}


def _block(data: bytes) -> Block:
    """The block at the start of some code; made once in a process."""
    found = _blocks.get(data)
    if found is None:
        if len(_blocks) >= _KEEP_BLOCKS:
            _blocks.clear()
        found = _blocks[data] = Block(Code.steps(data))
    return found


class Code:
    """The blocks of one launch; each is read from memory once."""

    __slots__ = ("_blocks", "_memory")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._blocks: dict[int, Block] = {}

    def block(self, address: int) -> Block | None:
        """The block that starts at bus address `address`; None outside GPU memory, or when it is not aligned."""
        address &= BUS_MASK
        found = self._blocks.get(address)
        if found is None:
            region = self._memory.region_at(address)
            if region is None or address % 8:
                return None
            size = min(region.end - address, 8 * _LONGEST) & ~7
            found = self._blocks[address] = _block(bytes(self._memory.view(address, size)))
        return found

    @staticmethod
    def steps(data: bytes) -> list[Step]:
        """The instructions of the block at the start of some code."""
        steps: list[Step] = []
        left = _LONGEST
        for at in range(0, len(data), 8):
            s = step(int.from_bytes(data[at : at + 8], "little"))
            steps.append(s)
            left -= 1
            if left <= 0 or any(issue.level is Level.STOP for issue in s.plan.issues):
                break
            if isinstance(s.plan.instr, Branch):
                left = min(left, BRANCH_SLOTS)
            elif s.plan.ends:
                left = min(left, END_SLOTS)
        return steps
