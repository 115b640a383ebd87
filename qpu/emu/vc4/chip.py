"""The emulated VideoCore IV: the machine that the firmware's and the register interface's programs run on."""

from __future__ import annotations

from typing import Protocol

from qpu.emu.engine.memory import Memory
from qpu.emu.engine.trace import Trace
from qpu.emu.vc4.sync import Sync
from qpu.emu.vc4.vpm_setup import ROWS, Vpm

__all__ = ["Chip", "Profile"]


class Profile(Protocol):
    """What the machine asks of a board profile."""

    @property
    def name(self) -> str:
        """Board name, for messages."""
        ...

    @property
    def qpus(self) -> int:
        """QPUs of the chip: slices x QPUs per slice."""
        ...


class Chip:
    """What outlives a launch: VPM contents and semaphore counters.

    profile: the board. memory: what GPU addresses reach, by physical address (bits 31:30 of a bus address are
    ignored). strict: stop at findings whose result on hardware is unknown. trace: record executed instructions.
    vpm_rows: rows V3D_VPMBASE reserves for user programs, 0..64.
    """

    def __init__(
        self, profile: Profile, memory: Memory, *, strict: bool = True, trace: Trace | None = None, vpm_rows: int = ROWS
    ) -> None:
        self.profile = profile
        self.memory = memory
        self.strict = strict
        self.trace = trace
        self.vpm = Vpm(vpm_rows)
        self.sync = Sync()

    @property
    def semaphores(self) -> tuple[int, ...]:
        """The 16 counters, 0..15 each."""
        return tuple(self.sync.counters)

    def reset(self) -> None:
        """Power cycle: VPM and semaphores as after start-up (zero; `Basis.ASSUMED` for the VPM)."""
        self.vpm.words[:] = 0
        self.sync.counters[:] = [0] * len(self.sync.counters)
