"""Boards for the tests of the language.

`gpu` is one of the three, the next one for each case of a test: what is tested there is the same on all of them, or its
cases are many. A test marked `every_board` runs each of its cases on all three.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

import qpu
from qpu.device import Device

BOARDS = ("pi3", "pi4", "pi5")


class Boards:
    """Emulated boards by name and engine, opened when they are first asked for."""

    def __init__(self) -> None:
        self.devices: dict[tuple[str, str], Device] = {}

    def __call__(self, name: str, engine: str = "reference") -> Device:
        """A board."""
        if (name, engine) not in self.devices:
            self.devices[name, engine] = qpu.open_device(name, engine=engine)
        return self.devices[name, engine]

    def of(self, isa: str, engine: str = "reference") -> Device:
        """The board with an instruction set."""
        return self({"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}[str(isa)], engine)


@pytest.fixture(scope="session")
def boards() -> Iterator[Boards]:
    made = Boards()
    yield made
    for device in made.devices.values():
        device.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All three boards for a test that is marked so."""
    if "gpu" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_board"):
        metafunc.parametrize("gpu", BOARDS, indirect=True)


@pytest.fixture
def gpu(request: pytest.FixtureRequest, boards: Boards) -> Device:
    """A board: the one that the parameter names, else by the case's number in its test."""
    chosen = getattr(request, "param", None)
    if chosen is None:
        call = getattr(request.node, "callspec", None)
        number = sum(call.indices.values()) if call is not None else 0
        chosen = BOARDS[(number + zlib.crc32(request.node.originalname.encode())) % len(BOARDS)]
    return boards(chosen)
