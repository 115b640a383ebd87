"""Mutex and semaphores of VideoCore IV, shared by all QPUs of the chip."""

from __future__ import annotations

from qpu.emu.vc4.state import Qpu, Status

__all__ = ["SEMAPHORES", "SEMAPHORE_MAX", "Sync"]

SEMAPHORES = 16
SEMAPHORE_MAX = 15


class Sync:
    """One mutex and 16 semaphore counters 0..15. The counters persist across launches.

    A QPU that cannot proceed is blocked; every change of the resource makes all its waiters try again, in the
    scheduler's order. `Qpu.clock` of a waiter advances to the clock of the QPU that released it. A QPU that takes the
    mutex always advances to its last release, so that critical sections follow one another in emulated time too.
    Source: VideoCore IV 3D architecture guide; that the counters persist is measured (vc4.md 15).
    """

    __slots__ = ("counters", "holder", "released", "semaphore_clock", "waiters")

    def __init__(self) -> None:
        self.counters = [0] * SEMAPHORES
        self.semaphore_clock = [0] * SEMAPHORES
        self.holder: Qpu | None = None
        self.released = 0  # clock of the mutex's last release
        self.waiters: dict[str, list[Qpu]] = {}

    def begin(self) -> None:
        """Start a launch: the mutex is free (`Basis.ASSUMED`), and the counters keep their values."""
        self.holder = None
        self.released = 0
        self.semaphore_clock = [0] * SEMAPHORES
        self.waiters.clear()

    def acquire_mutex(self, qpu: Qpu, clock: int) -> bool:
        """Take the mutex if it is free; else block `qpu`."""
        if self.holder is not None:
            return self._block(qpu, "mutex")
        self.holder = qpu
        qpu.waiting = False
        qpu.clock += max(0, self.released - clock)
        return True

    def release_mutex(self, clock: int) -> None:
        """Release the mutex, whichever QPU holds it."""
        self.holder = None
        self.released = clock
        self._wake("mutex")

    def semaphore(self, qpu: Qpu, number: int, acquire: bool, clock: int) -> bool:
        """Decrement (acquire) or increment one counter if that is possible now; else block `qpu`."""
        value = self.counters[number]
        name = f"semaphore {number}"
        if acquire:
            if value == 0:
                return self._block(qpu, f"{name}, which is 0, to be incremented", name)
            self.counters[number] = value - 1
        else:
            if value == SEMAPHORE_MAX:
                return self._block(qpu, f"{name}, which is {SEMAPHORE_MAX}, to be decremented", name)
            self.counters[number] = value + 1
        self._resume(qpu, clock, self.semaphore_clock[number])
        self.semaphore_clock[number] = max(qpu.clock, clock)
        self._wake(name)
        return True

    def _block(self, qpu: Qpu, reason: str, resource: str = "") -> bool:
        qpu.status = Status.BLOCKED
        qpu.waiting = True
        qpu.blocked_on = reason
        self.waiters.setdefault(resource or reason, []).append(qpu)
        return False

    @staticmethod
    def _resume(qpu: Qpu, clock: int, freed: int) -> None:
        if qpu.waiting:
            qpu.waiting = False
            qpu.clock += max(0, freed - clock)

    def _wake(self, resource: str) -> None:
        for qpu in self.waiters.pop(resource, ()):
            qpu.status = Status.READY
            qpu.blocked_on = ""
