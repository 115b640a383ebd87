"""An emulated board: the emulated Linux with the devices of a board profile. Every `EmuPort` has one."""

from __future__ import annotations

from qpu.emu.linux.core import Linux
from qpu.emu.linux.devmem import Mem
from qpu.emu.linux.drm import attach_display, attach_v3d
from qpu.emu.linux.drm_objects import DrmDevice
from qpu.emu.linux.gpu_jobs import V3dQueue, Vc4Gpu
from qpu.emu.linux.mailbox import Firmware
from qpu.emu.linux.vcsm import CmaHeap, VcsmDevice

__all__ = ["Board"]


class Board(Linux):
    """A Raspberry Pi behind its system calls; see `qpu.emu.linux.core.Linux`.

    v3d, drm: None unless it is a Pi 4 or 5. vc4: None unless it is a Pi 0 to 3.
    """

    v3d: V3dQueue | None
    vc4: Vc4Gpu | None
    drm: DrmDevice | None

    def _attach(self) -> None:
        self.v3d = self.vc4 = self.drm = None
        if self.profile.is_drm:
            self.v3d = V3dQueue(self)
            self.drm = attach_v3d(self, self.v3d)
        else:
            self.vc4 = Vc4Gpu(self)
        attach_display(self)
        self.firmware = Firmware(self, self.vc4)
        self.cma = CmaHeap(self)
        self.vcsm = VcsmDevice(self, self.firmware.heap)
        self.mem = Mem(self, self.vc4, self.firmware.heap)
