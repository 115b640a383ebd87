"""Devices of the test bodies that run on emulated boards and on a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import qpu
from qpu.device import Device

EMULATED = ("pi3", "pi4", "pi5")


@pytest.fixture(params=[*EMULATED, pytest.param("hardware", marks=pytest.mark.hardware)])
def board(request: pytest.FixtureRequest) -> str:
    """Name of the device: emulated boards in the normal run, the real one with ``-m hardware``."""
    name: str = request.param
    return request.config.getoption("hardware_device") if name == "hardware" else name


@pytest.fixture
def gpu(board: str) -> Iterator[Device]:
    """The open device."""
    with qpu.open_device(board) as device:
        yield device
