"""Settings of the VideoCore IV tests: programs run on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.emu.vc4.rig import Rig

ALONE = {"test_alu", "test_coverage"}  # drive parts of the reference engine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] not in ALONE:
        engines = ["reference", *(["compiled"] if find_spec("llvmlite") is not None else [])]
        metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which engine `Rig` uses."""
    Rig.engine = getattr(request, "param", "reference")
    yield Rig.engine
    Rig.engine = "reference"
