"""Identification registers of V3D 4.2 and 7.1, which GET_PARAM and /dev/mem both show."""

from __future__ import annotations

from qpu.core.isa import Isa
from qpu.drivers.uapi.drm import Param
from qpu.emu.boards import BoardProfile

__all__ = ["v3d_identity"]


def v3d_identity(p: BoardProfile) -> dict[int, int]:
    """Identification registers by number of GET_PARAM."""
    ident = p.slices << 4 | p.qpus_per_slice << 8
    old = p.isa is Isa.V3D42
    # 4.2: printed by boards (drivers.md 1.3); the VPM field and the low bits belong to the chip. 7.1: the upper bits of
    # HUB_IDENT1, UIFCFG, HUB_IDENT2, the VPM field and IDENT2 are ASSUMED.
    return {
        Param.V3D_UIFCFG: 0x45,
        Param.V3D_HUB_IDENT1: 0x000E1124 if old else 0x000E1117,
        Param.V3D_HUB_IDENT2: 0x100,
        Param.V3D_HUB_IDENT3: p.rev << 8,
        Param.V3D_CORE0_IDENT0: 0x04443356 if old else 0x07443356,
        Param.V3D_CORE0_IDENT1: ident | (0x81001002 if old else 1 | p.slices * p.tmus_per_slice << 12),
        Param.V3D_CORE0_IDENT2: 0x40078121,
    }
