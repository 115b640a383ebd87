"""The MIR interpreter: operations of an instruction set, on virtual registers or on those that colouring gave them.

An oracle for the passes after selection: each worker executes its blocks, 16 lanes at a time, by the semantic functions
of the assembler's rows. Order within a block is that of the operations, so latencies and pairing are not modelled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.optable import Op
from qpu.lang.mir import Block, Fixed, Function, Imm, MOp, Operand
from qpu.lang.space import GARBAGE, Space

__all__ = ["LANES", "Machine", "MirFault", "State", "Vector", "splat", "spread"]

LANES = 16
LIMIT = 2_000_000  # operations of a worker
Vector: TypeAlias = NDArray[np.uint32]
ALL: Final = np.ones(LANES, np.bool_)
NONE: Final = np.zeros(LANES, np.bool_)
NUMBERS: Final = np.arange(LANES, dtype=np.uint32)


class MirFault(AssertionError):
    """A program that does what no program of the compiler may do."""


class State:
    """A worker. registers: by number, or by place where they are coloured; flags: by letter; results: of loads, the
    oldest first; data: to be stored; stream: address of the next word of a stream in memory.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.registers: dict[Operand, Vector] = {}
        self.flags: dict[str, NDArray[np.bool_]] = {}
        self.results: list[Vector] = []
        self.data: list[Vector] = []
        self.stream = 0
        self.config = 0xFFFFFFFF
        self.rtop: Vector = splat(0)
        self.waits = False
        self.done = 0


@lru_cache(maxsize=1024)
def splat(word: int) -> Vector:
    """A word in every lane; nobody may write into it."""
    found = np.full(LANES, word & 0xFFFFFFFF, np.uint32)
    found.flags.writeable = False
    return found


def spread(value: Any) -> Any:
    """A vector of what a semantic function gave, which may be one word or one truth value."""
    return value if getattr(value, "shape", None) == (LANES,) else np.broadcast_to(value, LANES)


class Machine(ABC):
    """A chip that runs a function. numbers: launch values by name; colour: places of registers; rows: of the VPM, for
    each worker.
    """

    def __init__(
        self,
        function: Function,
        numbers: Mapping[str, int],
        workers: int,
        space: Space,
        lanes: Any,
        colour: Mapping[int, Fixed] | None = None,
        rows: int = 4,
    ) -> None:
        self.function, self.numbers, self.workers = function, numbers, workers
        self.space, self.v, self.colour, self.rows = space, lanes, colour, rows

    def run(self) -> None:
        """Execute all workers; those that wait take turns. Raises: MirFault."""
        running = [self._worker(n) for n in range(self.workers)]
        rounds = 0
        with np.errstate(all="ignore"):
            while running:
                running = [g for g in running if next(g, True) is None]
                rounds += 1
                if rounds > LIMIT:
                    raise MirFault("workers wait for each other")

    def _worker(self, n: int) -> Iterator[None]:
        w = self.start(n)
        block: Block | None = self.function.blocks[0]
        while block is not None:
            for m in block.ops:
                self.one(w, m)
                while w.waits:
                    yield None
                    self.resume(w, m)
            w.done += len(block.ops) + 1
            if w.done > LIMIT:
                raise MirFault(f"worker {n} does not end: it is in {block.name}")
            block = self._next(w, block)
        if w.results:
            raise MirFault(f"worker {n} leaves {len(w.results)} results of loads behind")

    def _next(self, w: State, block: Block) -> Block | None:
        if block.branch is not None:
            target, condition = block.branch
            if not condition or self._taken(w, condition):
                return target
        return block.falls

    def _taken(self, w: State, condition: str) -> bool:
        lanes = self.holds(w, condition[3:])
        return bool(lanes.any() if condition.startswith("any") else lanes.all())

    def holds(self, w: State, name: str) -> NDArray[np.bool_]:
        """Lanes in which a flag holds: its letter, with one before it the opposite."""
        found = w.flags.get(name[-1])
        if found is None:
            raise MirFault(f"flag {name[-1]} is asked for before anything sets it")
        return ~found if len(name) == 2 else found

    def fault(self, w: State, m: MOp, what: str) -> MirFault:
        """A fault of an operation."""
        return MirFault(f"worker {w.number}: {m} ({m.loc}): {what}")

    # -- operands

    def place(self, x: Operand) -> Operand:
        """Where a register is kept."""
        return self.colour[x] if isinstance(x, int) and self.colour is not None else x

    def get(self, w: State, m: MOp, x: Operand) -> Vector:
        """The value of an operand."""
        if isinstance(x, Imm):
            return splat(self.immediate(x.n))
        if isinstance(x, Fixed):
            found = self.read(w, m, x)
            if found is not None:
                return found
        found = w.registers.get(self.place(x))
        return splat(GARBAGE) if found is None else found

    def put(self, w: State, x: Operand, value: Vector, mask: NDArray[np.bool_] | None) -> None:
        """Write a register."""
        x = self.place(x)
        if mask is not None:
            value = np.where(mask, value, w.registers.get(x, splat(GARBAGE)))
        w.registers[x] = spread(value)

    def uniform(self, w: State, what: tuple[str, object]) -> Vector:
        """A word of the list of uniforms."""
        kind, name = what
        if kind == "const":
            assert isinstance(name, int)
            return splat(name)
        own = {"worker": w.number, "workers": self.workers, "row": self.rows * w.number % 64}
        if kind in own:
            return splat(own[kind])
        return splat(self.numbers[str(name) if kind == "param" else f"%{kind}"])

    def next_word(self, w: State) -> Vector:
        """The next word of the stream in memory."""
        found = self.space.read(np.array([w.stream]), 4, ALL[:1])
        w.stream += 4
        return splat(int(found[0]))

    def flag_of(self, letter: str, row: Op, operands: list[Vector], result: Vector) -> Any:
        """Zero, negative or carry of a result: z, n, c."""
        sem = {"z": row.zero, "n": row.negative, "c": row.carry}[letter]
        if sem is not None:
            return sem(self.v, *[*operands, *operands][:2], result)
        return result == 0 if letter == "z" else result.view(np.int32) < 0 if letter == "n" else NONE

    # -- of the chip

    @abstractmethod
    def start(self, n: int) -> State:
        """A worker at the start of the program."""

    @abstractmethod
    def one(self, w: State, m: MOp) -> None:
        """Execute an operation. State.waits is set where the worker has to wait for others."""

    @abstractmethod
    def resume(self, w: State, m: MOp) -> None:
        """Other workers have run: wait on, or go on."""

    @abstractmethod
    def immediate(self, n: int) -> int:
        """The bits of a small immediate."""

    @abstractmethod
    def read(self, w: State, m: MOp, x: Fixed) -> Vector | None:
        """A place that the hardware fixes; None where it is a register."""
