"""Identity of a V3D as GET_PARAM reports it (drivers.md 1.3)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import cache

from qpu.core.isa import Isa
from qpu.drivers.errors_table import HELP, errno_rows, failure, fault
from qpu.drivers.port import Port, retrying
from qpu.drivers.uapi import drm
from qpu.drivers.uapi.drm import Param
from qpu.drivers.uapi.layout import Layout
from qpu.errors import DriverError

__all__ = ["ISAS", "Identity", "get_param", "identify"]

ISAS = {42: Isa.V3D42, 71: Isa.V3D71}
_GET_PARAM = drm.ioctl("V3D_GET_PARAM")
MAGIC = 0x443356  # "V3D" in the low bytes of IDENT0
ALWAYS = Param.V3D_CORE0_IDENT2  # parameters up to this one exist on every version of Linux


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of the GPU. version: 42 or 71; revision: IPREV; vpm_bytes: size of the VPM.

    params: every GET_PARAM value that this Linux knows; the others belong to newer versions of Linux.
    """

    version: int
    revision: int
    slices: int
    qpus_per_slice: int
    tmus_per_slice: int
    semaphores: int
    vpm_bytes: int
    cores: int
    params: dict[Param, int]

    @classmethod
    def decode(cls, params: dict[Param, int]) -> Identity:
        """From the identity registers (drivers.md 1.3, GET_PARAM).

        Whether the TMU field counts per slice on 7.1 is uncertain; the value is not converted.
        """
        ident0, ident1 = params[Param.V3D_CORE0_IDENT0], params[Param.V3D_CORE0_IDENT1]
        return cls(
            version=(ident0 >> 24 & 0xFF) * 10 + (ident1 & 15),
            revision=params.get(Param.V3D_HUB_IDENT3, 0) >> 8 & 0xFF,
            slices=ident1 >> 4 & 15,
            qpus_per_slice=ident1 >> 8 & 15,
            tmus_per_slice=ident1 >> 12 & 15,
            semaphores=ident1 >> 16 & 0xFF,
            vpm_bytes=(ident1 >> 28 & 15) * 8192,
            cores=params.get(Param.V3D_HUB_IDENT1, 0) >> 8 & 15,
            params=params,
        )

    @property
    def label(self) -> str:
        """Version and revision, such as ``7.1.7``."""
        return f"{self.version // 10}.{self.version % 10}.{self.revision}"


@cache
def _get_param(pointer_size: int) -> tuple[int, Layout]:
    return _GET_PARAM.request(pointer_size), _GET_PARAM.layout(pointer_size)


def get_param(port: Port, fd: int, what: str, param: Param) -> int | None:
    """One GET_PARAM value; None when this Linux does not know the parameter. Raises: DriverError."""
    request, layout = _get_param(port.pointer_size)
    arg = layout.pack(param=int(param))  # the value must be 0 on entry
    try:
        retrying(port, fd, request, arg)
    except OSError as error:
        if error.errno == errno.EINVAL and param > ALWAYS:
            return None
        rows = errno_rows("wrong-card: EINVAL, enodev: ENODEV, enotty: ENOTTY")
        raise failure(f"{what}: GET_PARAM {param.name}", error, rows) from error
    return layout.number(arg, "value")


def identify(port: Port, fd: int, what: str) -> Identity:
    """Read every parameter and decode the identity.

    what: the node, for messages. Raises: DriverError for a version that this package does not know, and for a GPU
    without compute dispatch.
    """
    params: dict[Param, int] = {}
    for param in Param:
        value = get_param(port, fd, what, param)
        if value is not None:
            params[param] = value
    found = Identity.decode(params)
    if params[Param.V3D_CORE0_IDENT0] & 0xFFFFFF != MAGIC or found.version not in ISAS:
        ident = f"IDENT0 {params[Param.V3D_CORE0_IDENT0]:#010x}, IDENT1 {params[Param.V3D_CORE0_IDENT1]:#010x}"
        raise DriverError(
            f"{what}: a V3D of unknown version ({ident}); known: 4.2, 7.1"
            f"{HELP}use a newer version of this package, or an emulated board"
        )
    if not params.get(Param.SUPPORTS_CSD):
        raise fault("no-csd", f"{what}: GET_PARAM SUPPORTS_CSD")
    return found
