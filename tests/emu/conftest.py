"""Settings of the emulator tests: programs are translated before they run, although most are short."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def translate_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native code of VideoCore IV from the first instruction on."""
    if find_spec("llvmlite") is not None:
        monkeypatch.setattr("qpu.emu.vc4.compiled_programs.WARM", 0)
