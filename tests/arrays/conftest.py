"""Devices for the tests of arrays: each board is opened once; tests without a board of their own take turns."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import pytest

import qpu
from qpu.device import Device

BOARDS = ("pi3", "pi4", "pi5")


@pytest.fixture(scope="session")
def device() -> Iterator[Callable[[str], Device]]:
    """device(board): the emulated board, opened when it is first wanted."""
    opened: dict[str, Device] = {}

    def of(board: str) -> Device:
        if board not in opened:
            opened[board] = qpu.open_device(board)
        return opened[board]

    yield of
    for gpu in opened.values():
        gpu.close()


@pytest.fixture
def gpu(request: pytest.FixtureRequest, device: Callable[[str], Device]) -> Device:
    """A board by the test's name: every test runs on one, and together they run on all."""
    return device(BOARDS[zlib.crc32(request.node.nodeid.encode()) % 3])
