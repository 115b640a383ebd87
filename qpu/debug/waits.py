"""Waits of QPUs for one another in the model of a profile: mutex and semaphores of VideoCore IV, barriers of V3D.

A wait ends at the clock, in the model, of what it waited for: the release of the mutex, the operation that changed the
semaphore, the last thread to join the barrier. Who comes first is as the emulated board decides it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from qpu.core.isa import Isa
from qpu.v3d.decode import decode as v3d_decode
from qpu.v3d.effects import effects as v3d_effects
from qpu.vc4.decode import decode as vc4_decode
from qpu.vc4.effects import effects as vc4_effects
from qpu.vc4.instr import Semaphore

__all__ = ["CAUSES", "Barriers", "Order", "Sync", "Thread", "sync_of"]

Thread: TypeAlias = tuple[int, int]
"""QPU and hardware thread."""

CAUSES: Final = {Isa.VC4: ("mutex", "semaphore"), Isa.V3D42: ("barrier",), Isa.V3D71: ("barrier",)}
_MOST: Final = 15  # of a semaphore; vc4.md 15


class Sync(NamedTuple):
    """What an instruction does with others. takes, gives: the mutex; semaphore: its number; up: it increments it;
    joins: a barrier.
    """

    takes: bool = False
    gives: bool = False
    semaphore: int | None = None
    up: bool = False
    joins: bool = False

    @property
    def cause(self) -> str:
        """What a QPU waits for that cannot execute it yet; empty for what waits for no other QPU of VideoCore IV."""
        if self.semaphore is not None:
            return "semaphore"
        return "mutex" if self.takes or self.gives else ""


@lru_cache(1 << 14)
def sync_of(isa: Isa, word: int) -> Sync:
    """What an instruction does with mutex, semaphores and barriers. A condition of a join is not evaluated: such a
    barrier has no waits.
    """
    if isa is not Isa.VC4:
        effects = v3d_effects(v3d_decode(isa, word))
        return Sync(joins=True) if "syncb" in effects.writes and "flags_a" not in effects.reads else Sync()
    instr = vc4_decode(word)
    if isinstance(instr, Semaphore):
        return Sync(semaphore=instr.number, up=not instr.acquire)
    found = vc4_effects(word)
    return Sync("mutex_acquire" in found.reads, "mutex_release" in found.writes)


class Order:
    """Mutex and semaphores during a launch. counters: of the semaphores after the board has counted `first`, the first
    such instruction, for some threads.
    """

    def __init__(self, counters: Sequence[int], first: Sync, threads: int) -> None:
        change = threads if first.up else -threads
        counters = [n - change * (i == first.semaphore) for i, n in enumerate(counters)]
        self._given = 0  # when the mutex was released
        self._ups = [deque[int]([0] * n) for n in counters]  # when each increment was that no decrement has used
        self._downs = [deque[int]([0] * (_MOST - n)) for n in counters]  # when room for an increment was made

    def ready(self, sync: Sync) -> int:
        """From which clock on an instruction can be executed, which is the next one of its kind that the board
        executes.
        """
        if sync.semaphore is None:
            return self._given if sync.takes else 0
        return (self._downs if sync.up else self._ups)[sync.semaphore].popleft()

    def done(self, sync: Sync, clock: int) -> None:
        """That instruction has been executed, at a clock."""
        if sync.semaphore is not None:
            (self._ups if sync.up else self._downs)[sync.semaphore].append(clock)
        if sync.gives:
            self._given = clock


class Barriers:
    """Barriers during a dispatch."""

    def __init__(self) -> None:
        self._joined: dict[int, list[tuple[Thread, int, int]]] = {}  # supergroup -> thread, index, clock

    def join(self, supergroup: int, size: int, thread: Thread, index: int, clock: int) -> dict[Thread, tuple[int, int]]:
        """A thread of a supergroup of that many threads joins with an instruction, at a clock. Returns (instruction,
        when the barrier was complete) of all threads that joined, if it is complete now.
        """
        joined = self._joined.setdefault(supergroup, [])
        joined.append((thread, index, clock))
        if len(joined) < size:
            return {}
        del self._joined[supergroup]
        last = max(clock for *_, clock in joined)
        return {thread: (index, last) for thread, index, _ in joined}
