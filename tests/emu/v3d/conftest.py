"""Settings of the V3D tests: programs run on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.emu.v3d.rig import Rig

BOTH = {
    "test_algorithms",
    "test_arithmetic",
    "test_atomics",
    "test_branches",
    "test_control",
    "test_dispatch",
    "test_exchange",
    "test_faults",
    "test_loops",
    "test_patterns",
    "test_programs",
    "test_reports",
    "test_rules",
    "test_threads",
    "test_tmu",
    "test_vectors",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH:
        engines = ["reference", *(["compiled"] if find_spec("llvmlite") is not None else [])]
        metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which engine `Rig` uses."""
    Rig.engine = getattr(request, "param", "reference")
    yield Rig.engine
    Rig.engine = "reference"
