"""Tests of maps of registers against `mmap.mmap` with the same bytes: the same results, word by word."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qpu.emu.process.maps import RegisterMap

SIZE = 32


class Block:
    """Registers that keep what is written. read: offsets of the words that were read."""

    def __init__(self) -> None:
        self.data = bytearray(range(1, SIZE + 1))
        self.read: list[int] = []

    def read32(self, at: int) -> int:
        assert at % 4 == 0 and 0 <= at < SIZE
        self.read.append(at)
        return int.from_bytes(self.data[at : at + 4], "little")

    def write32(self, at: int, value: int) -> None:
        assert at % 4 == 0 and 0 <= at < SIZE
        self.data[at : at + 4] = value.to_bytes(4, "little")


class Board:
    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        yield


def both() -> tuple[RegisterMap, Block, mmap.mmap]:
    block, real = Block(), mmap.mmap(-1, SIZE)
    real[:] = bytes(block.data)
    return RegisterMap(Board(), block, SIZE), block, real  # type: ignore[arg-type] # as much of both as a map needs


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (IndexError, ValueError) as error:
        return type(error)


@pytest.mark.parametrize("start", [0, 3, 8, SIZE - 5, SIZE - 1, SIZE])
@pytest.mark.parametrize("n", [None, -1, 0, 1, 4, 5, SIZE, SIZE + 1])
def test_reading_from_a_position(start: int, n: int | None) -> None:
    map_, block, real = both()
    map_.seek(start)
    real.seek(start)
    assert map_.read(n) == real.read(n)
    assert map_.tell() == real.tell()
    assert map_.read() == real.read() and map_.tell() == real.tell() == SIZE
    assert outcome(map_.read_byte) is outcome(real.read_byte) is ValueError
    assert sorted(set(block.read)) == list(range(start // 4 * 4, SIZE, 4))


@pytest.mark.parametrize("index", [0, 5, SIZE - 1, SIZE, -1, -SIZE, -SIZE - 1, slice(3, 9), slice(None, None, 5),
                                   slice(9, 3), slice(-3, SIZE + 9), slice(SIZE, None, -7)])  # fmt: skip
def test_items_and_slices(index: Any) -> None:
    map_, _, real = both()
    assert outcome(lambda: map_[index]) == outcome(lambda: real[index])


@pytest.mark.parametrize(("offset", "whence"), [(4, 0), (4, 1), (-4, 2), (0, 2), (1, 2), (-1, 0), (-13, 1), (-12, 1)])
def test_positions(offset: int, whence: int) -> None:
    map_, _, real = both()
    map_.seek(12)
    real.seek(12)
    for one in (map_, real):
        if outcome(lambda one=one: one.seek(offset, whence)) is ValueError:  # type: ignore[misc]
            assert one.tell() == 12
    assert map_.tell() == real.tell()


@pytest.mark.parametrize("start", [0, 4, SIZE - 4])
@pytest.mark.parametrize("words", [1, 2, 8, 9])
def test_writing_at_a_position(start: int, words: int) -> None:
    map_, block, real = both()
    map_.seek(start)
    real.seek(start)
    data = bytes(range(100, 100 + 4 * words))
    assert outcome(lambda: map_.write(data)) == outcome(lambda: real.write(data))
    assert map_.tell() == real.tell() and bytes(block.data) == real[:]
