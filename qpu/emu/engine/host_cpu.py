"""The host processor that runs translated programs: its name, its vector features, and the user's limits on them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache

from llvmlite import binding

from qpu.errors import UsageError

__all__ = ["VECTORS", "Host", "host", "is_arm", "is_x86"]

VECTORS = ("auto", "avx512", "avx2", "sse2")
"""Values of QPU_EMU_VECTORS. All but ``auto`` are for x86-64 hosts."""

_CPU = {"avx2": "x86-64-v3", "sse2": "x86-64"}
_X86 = ("x86_64", "amd64", "x64")


@dataclass(frozen=True)
class Host:
    """The target of code generation. cpu, features: as LLVM names them.

    avx512: each instruction can have its own rounding mode. plain: the host has no instructions for half floats and for
    rounding to whole numbers, so code uses integer arithmetic and float additions for both. fma: the host has fused
    multiplication and addition.
    """

    cpu: str
    features: str
    avx512: bool
    plain: bool
    fma: bool = False


def is_x86() -> bool:
    """Whether the host is an x86-64 processor."""
    return platform.machine().lower() in _X86


def is_arm() -> bool:
    """Whether this is a 64-bit Arm processor."""
    return platform.machine().lower() in ("aarch64", "arm64")


def host() -> Host:
    """The host, limited by QPU_EMU_VECTORS (``auto``: not limited). Raises: UsageError for an impossible value."""
    return _host(os.environ.get("QPU_EMU_VECTORS", "").lower() or "auto")


@cache
def _host(vectors: str) -> Host:
    if vectors not in VECTORS:
        raise UsageError(f"QPU_EMU_VECTORS={vectors!r}; allowed: {', '.join(VECTORS)}", help="set one, or unset it")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    try:
        features = binding.get_host_cpu_features().flatten()
    except RuntimeError:
        features = ""  # unknown on this host: generic code
    have = set(features.split(","))
    if vectors != "auto":
        needed = {"avx512": "+avx512f", "avx2": "+avx2", "sse2": ""}[vectors]
        if not is_x86() or (needed and needed not in have):
            raise UsageError(f"QPU_EMU_VECTORS={vectors}, but this host does not have {vectors}", help="use auto")
    if vectors in _CPU:
        return Host(_CPU[vectors], "", False, vectors == "sse2", vectors == "avx2")
    plain = is_x86() and not {"+f16c", "+sse4.1"} <= have
    fma = "+fma" in have if is_x86() else is_arm()
    return Host(binding.get_host_cpu_name(), features, "+avx512f" in have, plain, fma)
