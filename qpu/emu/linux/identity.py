"""The identification registers of V3D 4.2 and 7.1, for GET_PARAM and for /dev/mem."""

from __future__ import annotations

from qpu.core.isa import Isa
from qpu.drivers.uapi.drm import Param
from qpu.emu.boards import BoardProfile

__all__ = ["v3d_identity", "v3d_params"]


def v3d_identity(p: BoardProfile) -> dict[int, int]:
    """The identification registers, by parameter number of GET_PARAM."""
    ident = p.slices << 4 | p.qpus_per_slice << 8
    old = p.isa is Isa.V3D42
    # 4.2: values of real boards (drivers.md 1.3); the VPM field and the low bits depend on the chip. 7.1: the upper
    # bits of HUB_IDENT1, UIFCFG, HUB_IDENT2, the VPM field and IDENT2 are ASSUMED.
    return {
        Param.V3D_UIFCFG: 0x45,
        Param.V3D_HUB_IDENT1: 0x000E1124 if old else 0x000E1117,
        Param.V3D_HUB_IDENT2: 0x100,
        Param.V3D_HUB_IDENT3: p.rev << 8,
        Param.V3D_CORE0_IDENT0: 0x04443356 if old else 0x07443356,
        Param.V3D_CORE0_IDENT1: ident | (0x81001002 if old else 1 | p.slices * p.tmus_per_slice << 12),
        Param.V3D_CORE0_IDENT2: 0x40078121,
    }


def v3d_params(p: BoardProfile) -> dict[int, int]:
    """The values of GET_PARAM that never change, by parameter number."""
    found = v3d_identity(p)
    found[Param.SUPPORTS_TFU] = 1
    found[Param.SUPPORTS_CSD] = 1
    if not p.old_linux:
        found |= dict.fromkeys(range(Param.SUPPORTS_CACHE_FLUSH, Param.SUPPORTS_CPU_QUEUE + 1), 1)
        found[Param.MAX_PERF_COUNTERS] = 87 if p.isa is Isa.V3D42 else 93
        found[Param.SUPPORTS_SUPER_PAGES] = 0
    return found
