"""Hosts with fewer vector instructions than this one, for tests of the compiled engine (needs llvmlite)."""

from __future__ import annotations

import pytest
from llvmlite import binding

from qpu.emu.engine import host_cpu
from qpu.errors import UsageError

NEEDS = {"avx512": "+avx512f", "avx2": "+avx2"}


def lacks(vectors: str) -> bool:
    """Whether this host cannot run code for `vectors`, as LLVM names its features."""
    if vectors == "auto":
        return False
    if not host_cpu.is_x86():
        return True
    return vectors in NEEDS and NEEDS[vectors] not in binding.get_host_cpu_features().flatten().split(",")


def use_vectors(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set QPU_EMU_VECTORS. Skips the test only on a host that lacks them, which the engine has to refuse."""
    monkeypatch.setenv("QPU_EMU_VECTORS", vectors)
    if not lacks(vectors):
        host_cpu.host()
        return
    with pytest.raises(UsageError, match=f"QPU_EMU_VECTORS={vectors}, but this host does not have {vectors}"):
        host_cpu.host()
    pytest.skip(f"this host has no {vectors}")
