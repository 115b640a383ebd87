"""The part of an execution of a V3D dispatch that does not depend on the engine: clocks, time slices, statistics."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from qpu.core.deferred_signals import critical, run_pending
from qpu.core.isa import Isa
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.numpy_lanes import quiet
from qpu.emu.v3d.dispatch import Dispatch, Placement
from qpu.emu.v3d.faults import fault
from qpu.emu.v3d.services import DispatchServices
from qpu.emu.v3d.state import Group
from qpu.errors import EmuFault, FaultPlace

__all__ = ["CLOCKS_PER_INSTRUCTION", "DispatchExecution", "MachineProfile"]

CLOCKS_PER_INSTRUCTION = 4
_LEAST = 16  # instructions of the shortest round; a time slice may exceed its budget by that many


class MachineProfile(Protocol):
    """The properties of a board that the machine needs. exact_batches: CFG4 is the number of batches, not one less."""

    @property
    def name(self) -> str: ...
    @property
    def isa(self) -> Isa: ...
    @property
    def slices(self) -> int: ...
    @property
    def qpus_per_slice(self) -> int: ...
    @property
    def exact_batches(self) -> bool: ...


class DispatchExecution(ABC):
    """A dispatch (`qpu.emu.engine.machine.Execution`). Each engine implements a round.

    segment: instructions of a thread in one round at most. placement: the class that places its batches. arithmetic:
    makes the context of its rounds.
    """

    segment: int
    arithmetic: Callable[[], AbstractContextManager[None]] = staticmethod(quiet)
    placement: type[Placement] = Placement

    def __init__(
        self, profile: MachineProfile, memory: Memory, dispatch: Dispatch, qpus: int, *, engine: str, strict: bool
    ) -> None:
        self.isa = profile.isa
        self.stats = RunStats(profile.isa, engine=engine)
        self._memory = memory
        self._dispatch = dispatch
        self._placement = self.placement(dispatch, qpus)
        self._services = DispatchServices(
            profile.name, profile.isa, memory, dispatch, self._placement, self.stats, strict=strict
        )
        self._failed: BaseException | None = None
        self._stop = critical()  # of the current call of `run`

    @property
    def clocks(self) -> int:
        """Emulated clocks of the busiest QPU, as far as the calls of `run` have come."""
        return self.stats.clocks

    @property
    def done(self) -> bool:
        """Whether all batches have finished."""
        return self._placement.done

    @property
    def batches(self) -> int:
        """Batches of the dispatch."""
        return self._dispatch.batches

    @property
    def batches_done(self) -> int:
        """Finished batches."""
        return self._placement.finished

    @abstractmethod
    def standing(self) -> list[int]:
        """The next instructions of the threads that have begun and not ended."""

    def run(self, clocks: int | None = None) -> bool:
        """Advance by about `clocks` emulated clocks (None: to the end); True when all batches are done.

        Raises: EmuFault; a second call raises it again. KeyboardInterrupt and other exceptions of signal
        handlers; the execution can be continued afterwards.
        """
        target = None if clocks is None else self.clocks + clocks
        while True:
            self._stop = critical()
            try:
                with self._stop:
                    self._run(target)
            finally:
                run_pending()
            if self.done or not self._stop.pending:
                return self.done

    def _run(self, target: int | None) -> None:
        """Run until the clock reaches `target`, or a signal is pending."""
        if self._failed is not None:
            raise self._failed
        if self.done:
            return
        begun = time.perf_counter()
        try:
            with self.arithmetic():
                while not self.done and not self._stop.pending:
                    budget = self.segment
                    if target is not None:
                        left = target - CLOCKS_PER_INSTRUCTION * max(self._services.qpu_instructions.tolist())
                        if left <= 0:
                            break
                        budget = min(budget, max(_LEAST, left // (CLOCKS_PER_INSTRUCTION * self._resident())))
                    self._run_round(budget)
        except BaseException as error:
            stopped = fault("interrupted", "the run was stopped inside an instruction")
            self._failed = error if isinstance(error, EmuFault) else stopped
            raise
        finally:
            self.stats.execute_s += time.perf_counter() - begun
            self._count()
            s = self.stats
            executed = self._services.qpu_instructions.tolist()
            s.instructions = sum(executed)
            s.per_qpu = {q: n for q, n in enumerate(executed) if n}
            s.threads = self._placement.started
            s.clocks = CLOCKS_PER_INSTRUCTION * max(executed)
            if self.done or self._failed is not None:
                self._over()

    def _resident(self) -> int:
        """Threads on the busiest QPU."""
        p = self._placement
        resident = min(p.capacity, len(p.running) + self._dispatch.batches - p.started)
        return max(1, -(-resident // p.qpus))

    @abstractmethod
    def _run_round(self, budget: int) -> None:
        """Run every ready thread to its next suspension point, or `budget` instructions."""

    @abstractmethod
    def _count(self) -> None:
        """Bring the statistics up to date."""

    def _over(self) -> None:
        """Release resources at the end of the execution."""
        self._services.snapshot.release()

    def _deadlocked(self, waiting: Group | None) -> EmuFault:
        """The fault when no thread can run. waiting: threads at a barrier, if there are any."""
        place = FaultPlace(board=self._services.board)
        if waiting is not None:
            place = self._services.at_barrier(waiting)
        return fault("deadlock", self._placement.deadlock(), place)
