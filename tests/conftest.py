"""Settings that every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A machine under load is slow, not wrong: examples have no deadline (see limits.py for everything else).
settings.register_profile("qpu", deadline=None)
settings.load_profile("qpu")

pytest_plugins = ["tests.hw.plugin"]  # options and process isolation of `-m hardware`


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Processes of `-n auto`: none for the hardware tests, which share one GPU; otherwise one a core, eight at most."""
    marks: str = config.option.markexpr
    if "hardware" in marks and "not hardware" not in marks:
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


@pytest.fixture(autouse=True, scope="session")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests look at no device of the machine they run on, and keep translations to themselves."""
    patch = pytest.MonkeyPatch()
    patch.delenv("QPU_DEVICE", raising=False)
    patch.delenv("QPU_SYSROOT", raising=False)
    patch.delenv("QPU_EMU_ENGINE", raising=False)
    patch.delenv("QPU_EMU_STRICT", raising=False)
    patch.delenv("QPU_EMU_VECTORS", raising=False)
    patch.delenv("QPU_EMU_HOST_LIMIT_S", raising=False)
    base = tmp_path_factory.getbasetemp()
    # the processes of one run share what they translate
    cache: Path = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "translations"
    patch.setenv("QPU_CACHE_DIR", str(cache))
    yield
    patch.undo()
