"""The emulated VideoCore IV chip: state that outlives a launch, common to the machines of both engines.

The emulated mailbox and register interface (`qpu.emu.linux`) start programs on it.
"""

from __future__ import annotations

from typing import Protocol

from qpu.emu.engine.memory import Memory
from qpu.emu.engine.trace import Trace
from qpu.emu.vc4.sync import Sync
from qpu.emu.vc4.vpm_setup import ROWS, Vpm

__all__ = ["Chip", "Profile"]


class Profile(Protocol):
    """The part of a board profile that the machine reads."""

    @property
    def name(self) -> str:
        """Board name, for messages."""
        ...

    @property
    def qpus(self) -> int:
        """QPUs of the chip: slices x QPUs per slice."""
        ...


class Chip:
    """State that outlives a launch: VPM contents and semaphore counters.

    profile: the board. memory: the GPU's memory by physical address (bits 31:30 of a bus address are ignored).
    strict: findings whose result on hardware is unknown are faults. trace: where executed instructions are recorded.
    vpm_rows: rows that V3D_VPMBASE reserves for user programs, 0..64.
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
        """Power cycle: VPM and semaphores are zero, as after start-up (`Basis.ASSUMED` for the VPM)."""
        self.vpm.words[:] = 0
        self.sync.counters[:] = [0] * len(self.sync.counters)
