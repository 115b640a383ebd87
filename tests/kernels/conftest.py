"""Boards of the kernel tests, each opened once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import qpu
from qpu.device import Device


@pytest.fixture(scope="session", params=["pi3", "pi4", "pi5"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Device]:
    """An emulated board of each generation; strict, so that an access outside the buffers is an error."""
    with qpu.open_device(request.param) as opened:
        yield opened


@pytest.fixture(scope="session", params=["pi3", "pi4", "pi5"])
def interpreted(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The same on the reference engine, for short programs that would take longer to translate."""
    with qpu.open_device(request.param, engine="reference") as opened:
        yield opened


@pytest.fixture(scope="session")
def boards() -> Iterator[tuple[Device, ...]]:
    """All three on the reference engine, for tests that take them in turn."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(qpu.open_device(name, engine="reference")) for name in ("pi3", "pi4", "pi5"))
