"""The programs of these tests run on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from v3d_rig import Rig

BOTH = {
    "test_v3d_algorithms",
    "test_v3d_arithmetic",
    "test_v3d_atomics",
    "test_v3d_branches",
    "test_v3d_control",
    "test_v3d_dispatch",
    "test_v3d_exchange",
    "test_v3d_faults",
    "test_v3d_loops",
    "test_v3d_patterns",
    "test_v3d_programs",
    "test_v3d_reports",
    "test_v3d_rules",
    "test_v3d_threads",
    "test_v3d_tmu",
    "test_v3d_vectors",
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
