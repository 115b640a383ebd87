"""What of a thread's registers was written: bits of registers that are written in all lanes, lanes of the others.

Undefined values may be copied and computed with; a finding comes where one matters: an address, stored data, a branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Defined", "Origin"]

Lanes: TypeAlias = NDArray[np.bool_]
Origin: TypeAlias = tuple[str, int]  # register that was read without a value, instruction

_LANES = 16


class Defined:
    """The registers of `threads` threads, by number below `registers`; flags are registers, too."""

    def __init__(self, threads: int, registers: int) -> None:
        self.full = [0] * threads  # bits of registers with a value in all lanes
        self._lanes: dict[int, Lanes] = {}  # register -> lanes with a value, (threads, 16), where `full` says no
        self._threads = threads
        self.origins: dict[int, Origin] = {}
        self.registers = registers

    def start(self, thread: int, written: int) -> None:
        """A program starts: only the registers of the bits `written` have a value."""
        self.full[thread] = written
        for lanes in self._lanes.values():
            lanes[thread] = False

    def lose(self, threads: Iterable[int], bits: int, why: Origin) -> None:
        """Registers lose their values."""
        for t in threads:
            self.full[t] &= ~bits
        for n, lanes in self._lanes.items():
            if bits >> n & 1:
                lanes[list(threads)] = False
        for n in range(self.registers):
            if bits >> n & 1:
                self.origins[n] = why

    def common(self, threads: Sequence[int]) -> int:
        """Bits of the registers that have a value in all lanes of all these threads."""
        known = -1
        for t in threads:
            known &= self.full[t]
        return known

    def add(self, threads: Sequence[int], bits: int) -> None:
        """Registers get a value in all lanes."""
        full = self.full
        for t in threads:
            full[t] |= bits

    def lanes(self, threads: Sequence[int], register: int) -> Lanes:
        """The lanes of a register that have a value, (threads, 16)."""
        rows = self._lanes.get(register)
        if rows is None:
            found = np.zeros((len(threads), _LANES), np.bool_)
        else:
            found = rows[list(threads)]
        bit = 1 << register
        for row, t in enumerate(threads):
            if self.full[t] & bit:
                found[row] = True
        return found

    def put(self, threads: Sequence[int], register: int, lanes: Lanes) -> None:
        """A register has a value in `lanes` only."""
        rows = self._lanes.get(register)
        if rows is None:
            rows = self._lanes[register] = np.zeros((self._threads, _LANES), np.bool_)
        rows[list(threads)] = lanes
        bit, whole = 1 << register, np.asarray(lanes.all(axis=1))
        for row, t in enumerate(threads):
            self.full[t] = self.full[t] | bit if whole[row] else self.full[t] & ~bit
