"""Settings that every test shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["hw.plugin"]  # options and process isolation of `-m hardware`


@pytest.fixture(autouse=True, scope="session")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests look at no device of the machine they run on, and keep translations to themselves."""
    patch = pytest.MonkeyPatch()
    patch.delenv("QPU_DEVICE", raising=False)
    patch.delenv("QPU_SYSROOT", raising=False)
    patch.delenv("QPU_EMU_ENGINE", raising=False)
    patch.delenv("QPU_EMU_STRICT", raising=False)
    cache: Path = tmp_path_factory.mktemp("cache")
    patch.setenv("QPU_CACHE_DIR", str(cache))
    yield
    patch.undo()
