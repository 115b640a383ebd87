"""Memory for the interpreters of programs: the arguments' bytes at addresses of their own, with room between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GARBAGE", "Space"]

GARBAGE = 0xDEADBEEF  # what is read where nothing is
GAP = 64
START = 4096


class Space:
    """One flat memory. data: its bytes, from address 0 on; inside: which of them belong to something."""

    def __init__(self) -> None:
        self.data: NDArray[np.uint8] = np.zeros(START, np.uint8)
        self.inside: NDArray[np.bool_] = np.zeros(START, np.bool_)

    def add(self, content: NDArray[np.uint8], phase: int = 0) -> int:
        """The address of a copy of these bytes. phase: its last four bits."""
        address = -(-(len(self.data) + GAP) // 16) * 16 + phase % 16
        size = -(-(address + len(content) + GAP) // 4) * 4
        data, inside = np.zeros(size, np.uint8), np.zeros(size, np.bool_)
        data[: len(self.data)], inside[: len(self.inside)] = self.data, self.inside
        data[address : address + len(content)], inside[address : address + len(content)] = content, True
        self.data, self.inside = data, inside
        return address

    def copy(self) -> Space:
        """Another memory with the same content."""
        made = Space()
        made.data, made.inside = self.data.copy(), self.inside
        return made

    def read(self, at: NDArray[np.int64], size: int, wanted: NDArray[np.bool_]) -> NDArray[np.uint32]:
        """Elements of 1, 2 or 4 bytes, zero-extended; garbage where nothing is."""
        at = at // size * size
        good = wanted & (at >= 0) & (at + size <= len(self.data))
        good &= self.inside[np.where(good, at, 0)]
        elements: NDArray[Any] = self.data[: len(self.data) // size * size].view(f"u{size}")
        found: NDArray[np.uint32] = np.where(good, elements[np.where(good, at, 0) // size], GARBAGE).astype(np.uint32)
        return found

    def write(
        self, at: NDArray[np.int64], size: int, words: NDArray[np.uint32], wanted: NDArray[np.bool_]
    ) -> str | None:
        """The low bytes of each word. Returns: what is wrong with an address."""
        at = at // size * size
        bad = wanted & ((at < 0) | (at + size > len(self.data)))
        bad |= wanted & ~self.inside[np.where(bad, 0, np.clip(at, 0, len(self.data) - 1))]
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            return f"lane {lane} stores to address {int(at[lane]):#x}, where nothing is"
        elements: NDArray[Any] = self.data[: len(self.data) // size * size].view(f"u{size}")
        elements[at[wanted] // size] = words[wanted].astype(elements.dtype)
        return None
