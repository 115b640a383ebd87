"""The queues of GPU jobs: one job runs at a time, while a call waits for it or `Linux.step` advances it.

`V3dQueue` is the scheduler of the DRM driver, `Vc4Gpu` runs the launches of VideoCore IV.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qpu.emu.boards import ZeroCount
from qpu.emu.engine.host_limit import HostLimit
from qpu.emu.engine.machine import Execution, RunStats, Vc4Execution
from qpu.emu.engine.progress import Progress
from qpu.emu.linux.core import NS, Linux, Run
from qpu.errors import EmuFault

__all__ = ["Fence", "V3dQueue", "Vc4Gpu", "Work"]

# Clocks of a slice, after which signals and limits are checked. The number is fixed, because the places where a run
# pauses may decide the order of threads. A fast execution has a larger slice (attribute `slice`).
SLICE = 1 << 18


@dataclass(eq=False, slots=True)
class Fence:
    """A fence, which is signalled when its job ends, successfully or not.

    done_ns: emulated time of the end; None before. fault: the fault of the job; every wait for the fence raises it.
    """

    done_ns: int | None = None
    fault: EmuFault | None = None

    @property
    def done(self) -> bool:
        """Whether the fence is signalled."""
        return self.done_ns is not None

    def signal(self, when_ns: int) -> None:
        """Signal the fence, unless it is signalled already."""
        if self.done_ns is None:
            self.done_ns = when_ns


Observer = Callable[[RunStats, int], None]


@dataclass(eq=False, slots=True)
class Work:
    """A job in the queues of the DRM driver.

    owner: the open file; jobs of one file and `lane` run in order. cfg: CSD registers; None for a job of the CPU
    queue, whose `action` runs at its start. waits: fences to wait for. done: signalled at the end. counted: called
    with statistics and clocks at the end. observed: whether results can be seen after the file is closed.
    """

    owner: object
    lane: str
    done: Fence
    submit_ns: int
    cfg: Sequence[int] | None = None
    action: Callable[[int], None] | None = None
    waits: Sequence[Fence] = ()
    counted: Sequence[Observer] = ()
    observed: Callable[[], bool] = lambda: False
    cleanup: Callable[[], None] = lambda: None
    on_reset: Callable[[], None] = lambda: None
    run: Run = field(default_factory=Run)
    start_ns: int = 0
    now_ns: int = 0
    watch_ns: int = 0
    seen: int = -1
    execution: Execution | None = None
    limit: HostLimit = field(default_factory=lambda: HostLimit(None))
    idle_rounds: int = field(default=0)


def advance(execution: Execution, clocks: int, limit: HostLimit) -> tuple[bool, int]:
    """Run for about `clocks`. Returns: done, clocks that passed. Raises: EmuFault, also above the host limit.

    An execution that is known never to end (attribute `stuck`) does not run; only its emulated time passes.
    """
    if getattr(execution, "stuck", False):
        return execution.done, clocks
    before = execution.clocks
    with limit:
        finished = execution.run(clocks)
    if not finished:
        limit.check(execution.clocks)
    return finished, execution.clocks - before


class V3dQueue:
    """The job scheduler of the DRM driver, which runs jobs on the V3D machine."""

    def __init__(self, linux: Linux) -> None:
        self.linux = linux
        self.queue: list[Work] = []
        self.active: Work | None = None
        self.free_ns = 0  # emulated time from which on the hardware is idle
        self.resets = 0
        self.fault: EmuFault | None = None  # fault of a job that a stepper ran; the next wait raises it
        self._faulty: object = None  # the file of that job
        self._progress = Progress(linux.profile.name, "compute dispatch")
        linux.steppers.append(self.step)
        linux.on_close.append(self.abandon)

    # queueing

    def submit(self, work: Work) -> None:
        """Queue a job. It starts when its fences are signalled and the hardware is idle."""
        self.queue.append(work)
        if work.cfg is not None:
            self.linux.submitted.run = work.run
        self.linux.changed.notify_all()
        self.linux.wake()

    def drop(self, owner: object) -> None:
        """Release an open file: drop its jobs, but first finish jobs due by now whose results can still be seen."""
        if self._faulty is owner:
            self.fault = None  # unreported faults are dropped with their file
        now = self.linux.clock.now_ns
        for work in [w for w in self.queue if w.owner is owner]:
            ready = self._start_ns(work)
            if ready is not None and ready <= now and self._runnable(work) and work.observed():
                self._complete(work, now + NS)
            if not work.done.done:
                self._forget(work)
        active = self.active
        if active is not None and active.owner is owner:
            if active.observed():
                self._complete(active, active.now_ns + NS)
            if not active.done.done:
                self.active = None
                self.free_ns = max(self.free_ns, active.now_ns)
                self._forget(active)

    def _complete(self, work: Work, until_ns: int) -> None:
        try:
            self.run(until_ns, lambda: work.done.done)
        except EmuFault as fault:
            self.linux.warn(str(fault))

    def abandon(self) -> None:
        """Power off: drop all jobs."""
        pending = [*self.queue, *([self.active] if self.active is not None else [])]
        self.active = None
        for work in pending:
            self._forget(work)

    def _forget(self, work: Work, at_ns: int | None = None) -> None:
        if work in self.queue:
            self.queue.remove(work)
        work.done.signal(self.linux.clock.now_ns if at_ns is None else at_ns)
        work.execution = None
        work.cleanup()

    # running

    def _runnable(self, work: Work) -> bool:
        for other in self.queue:
            if other is work:
                return True
            if other.owner is work.owner and other.lane == work.lane:
                return False
        return False

    def _start_ns(self, work: Work) -> int | None:
        at = work.submit_ns if work.lane == "cpu" else max(work.submit_ns, self.free_ns)
        for fence in work.waits:
            if fence.done_ns is None:
                return None
            at = max(at, fence.done_ns)
        return at

    def _next(self, until_ns: int | None) -> Work | None:
        """The first job that can start by `until_ns`; jobs of different files start first in, first out."""
        for work in self.queue:
            if self._runnable(work):
                at = self._start_ns(work)
                if at is not None and (until_ns is None or at <= until_ns):
                    return work
        return None

    def run(self, until_ns: int | None, done: Callable[[], bool]) -> None:
        """Run jobs until `done`, or until `until_ns`, or until no job can start.

        Raises: EmuFault of a job, once; the job has ended then. KeyboardInterrupt leaves a state that can be resumed.
        """
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        with self._progress:
            while not done():
                self.linux.check_interrupted()
                if self.active is None:
                    work = self._next(until_ns)
                    if work is None:
                        return
                    self._begin(work)
                    continue
                if not self._step(self.active, until_ns):
                    return

    def step(self) -> bool:
        """Run one slice although no call waits; False when there is nothing to do."""
        if self.fault is not None:
            return False
        self._faulty = None
        try:
            if self.active is not None:
                self._faulty = self.active.owner
                self._step(self.active, None)
                return True
            work = self._next(None)
            if work is None:
                return False
            self._faulty = work.owner
            self._begin(work)
        except EmuFault as fault:
            self.fault = fault
        return True

    def _begin(self, work: Work) -> None:
        at = self._start_ns(work)
        assert at is not None
        work.start_ns = work.now_ns = at
        if work.cfg is None:
            self.queue.remove(work)
            try:
                if work.action is not None:
                    work.action(at)
            finally:
                self._forget(work, at)
            return
        if self.linux.profile.zero_count == ZeroCount.SKIP and not all(word >> 16 for word in work.cfg[:3]):
            self._forget(work, at)
            return
        work.watch_ns = at + int(self.linux.profile.watchdog_s * NS)
        self._progress.begin()
        try:
            work.limit = HostLimit(self.linux.host_limit_s)
            with work.limit:
                work.execution = self.linux.v3d_machine.dispatch(work.cfg)
        except EmuFault as fault:
            work.done.fault = fault
            self._forget(work, at)
            raise
        self.queue.remove(work)
        self.active = work

    def _step(self, work: Work, until_ns: int | None) -> bool:
        """Run a slice of the active job; False when `until_ns` is reached."""
        execution = work.execution
        assert execution is not None
        hz = self.linux.hz
        stop = work.watch_ns if until_ns is None else min(work.watch_ns, until_ns)
        clocks = min(getattr(execution, "slice", SLICE), ((stop - work.now_ns) * hz + NS - 1) // NS)
        if getattr(execution, "stuck", False):
            clocks = max(clocks, (stop - work.now_ns) * hz // NS)
        if clocks > 0:
            try:
                finished, passed = advance(execution, clocks, work.limit)
            except EmuFault as fault:
                work.done.fault = fault
                self._finish(work)
                raise
            work.now_ns += max(0, passed) * NS // hz
            if not finished and passed <= 0:
                work.idle_rounds += 1
                if work.idle_rounds > 1000:
                    raise RuntimeError("the engine makes no progress")
            else:
                work.idle_rounds = 0
            total = getattr(execution, "batches", None)
            self._progress.update((work.now_ns - work.start_ns) / NS, execution.batches_done, total)
            if finished:
                # Computed from the start, so that rounding errors of the slices do not add up.
                work.now_ns = work.start_ns + execution.clocks * NS // hz
                self._finish(work)
                return True
        if work.now_ns >= work.watch_ns:
            self._watch(work, execution)
            return True
        return until_ns is None or work.now_ns < until_ns

    def _watch(self, work: Work, execution: Execution) -> None:
        """The watchdog: cancel a job that has finished no batches since the last check (drivers.md 1.6)."""
        if execution.batches_done != work.seen:
            work.seen = execution.batches_done
            work.watch_ns += int(self.linux.profile.watchdog_s * NS)
            return
        self.resets += 1
        execution.stats.stopped = execution.standing()
        work.on_reset()
        self._finish(work)

    def _finish(self, work: Work) -> None:
        execution = work.execution
        self.active = None
        self.free_ns = work.now_ns
        work.execution = None
        work.done.signal(work.now_ns)
        if execution is not None:
            for count in work.counted:
                count(execution.stats, execution.clocks)
            work.run.stats = execution.stats
            self.linux.record(execution.stats, execution.clocks)
        work.cleanup()

    # waiting

    def wait(self, fences: Sequence[Fence], deadline_ns: int | None, *, every: bool = True) -> bool:
        """Wait for all fences, or for any. Returns False on timeout. Emulated time advances in both cases.

        deadline_ns: emulated time; None: no timeout. Raises: EmuFault of a fence, at every call.
        """
        enough = all if every else any
        self.run(deadline_ns, lambda: enough(f.done for f in fences))
        fault = next((f.fault for f in fences if f.fault is not None), None)
        if fault is not None:
            raise fault
        clock = self.linux.clock
        if enough(f.done for f in fences):
            times = [f.done_ns for f in fences if f.done_ns is not None]
            if times:
                clock.reach(max(times) if every else min(times))
            return True
        if deadline_ns is not None:
            clock.reach(deadline_ns)
        return False


class Vc4Gpu:
    """The launches of VideoCore IV, which the firmware or the register block starts."""

    def __init__(self, linux: Linux) -> None:
        self.linux = linux
        self.enabled = False
        self.active: Vc4Execution | None = None
        self.start_ns = 0
        self.now_ns = 0
        self.finished: list[Callable[[Vc4Execution], None]] = []  # observers of ended launches
        self.on_power_off: list[Callable[[], None]] = []
        self._run = Run()
        self._limit = HostLimit(None)
        self._progress = Progress(linux.profile.name, "QPU programs")

    def launch(self, entries: Sequence[tuple[int, int]], run: Run) -> Vc4Execution:
        """Start programs on the idle QPUs. entries: (uniforms, code) bus addresses."""
        assert self.active is None
        self.start_ns = self.now_ns = self.linux.clock.now_ns
        self._run = run
        self._limit = HostLimit(self.linux.host_limit_s)
        self._progress.begin()
        self.active = self.linux.vc4_machine.launch(entries)
        return self.active

    def run(self, until_ns: int) -> bool:
        """Run the active launch until `until_ns`; True when no launch is active.

        Raises: EmuFault, which ends the launch.
        """
        with self._progress:
            while self.active is not None and self.now_ns < until_ns:
                self.linux.check_interrupted()
                self._step(self.active, until_ns)
        return self.active is None

    def _step(self, execution: Vc4Execution, until_ns: int) -> None:
        hz = self.linux.hz
        left = ((until_ns - self.now_ns) * hz + NS - 1) // NS
        try:
            clocks = left if getattr(execution, "stuck", False) else min(getattr(execution, "slice", SLICE), left)
            finished, passed = advance(execution, clocks, self._limit)
        except EmuFault:
            self._end()
            raise
        self.now_ns += max(0, passed) * NS // hz + (passed <= 0)
        self._progress.update((self.now_ns - self.start_ns) / NS, execution.batches_done, None)
        if finished:
            self.now_ns = self.start_ns + execution.clocks * NS // hz
            self._end()

    def _end(self) -> None:
        execution = self.active
        if execution is not None:
            self.active = None
            self._run.stats = execution.stats
            self.linux.record(execution.stats, execution.clocks)
            for ended in self.finished:
                ended(execution)

    def abandon(self) -> None:
        """End the active launch, which would never end by itself."""
        self._end()

    def power_off(self) -> None:
        """Power V3D off: end the active launch, reset registers and machine."""
        if self.active is not None:
            self.active.stats.stopped = self.active.standing()
        self._end()
        self.enabled = False
        for forget in self.on_power_off:
            forget()
        reset: Any = getattr(self.linux.vc4_machine, "reset", None) if self.linux.has_machine else None
        if reset is not None:
            reset()
