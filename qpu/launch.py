"""Handles of submitted jobs: `Launch` for one launch, `Run` for finished launches that belong together."""

from __future__ import annotations

import re
import sys
import threading
import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from qpu.core.arguments import seconds
from qpu.core.code import Code
from qpu.errors import (
    DriverError,
    EmuFault,
    EmuWarning,
    FaultPlace,
    GpuResetError,
    GpuTimeoutError,
    UsageError,
    brief,
    counted,
)
from qpu.runtime.fences import Parts
from qpu.runtime.loops import located

if TYPE_CHECKING:
    from qpu.drivers.base import Bo, Fence
    from qpu.emu.engine.machine import RunStats
    from qpu.runtime.pool import MemoryPool

__all__ = ["Launch", "Run", "caller"]

SLICE_S = 0.05  # of host time, between checks whether a cancelled `await` no longer needs its waiting thread


def caller() -> int:
    """`stacklevel` that names the code outside of this package, for a warning of the calling function."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "qpu":
        level, frame = level + 1, frame.f_back
    return level


class Launch:
    """A submitted job: `wait`, `poll`, or `await` it. Its buffers stay alive until it is done."""

    __slots__ = (
        "__weakref__",
        "_after",
        "_fence",
        "_lock",
        "_pool",
        "_profile",
        "_program",
        "_scratch",
        "_stats",
        "error",
    )

    def __init__(
        self, pool: MemoryPool, program: Code, fence: Fence, scratch: Sequence[Bo], after: Sequence[Launch] = ()
    ) -> None:
        self._pool = pool
        self._program = program
        self._fence: Fence | None = fence
        self._scratch = list(scratch)
        self._after = tuple(after)
        self._lock = threading.Lock()
        self._stats: RunStats | None = None
        self._profile: Any = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """True when the job is known to have ended, well or not."""
        fence = self._fence
        return fence is None or fence.done

    @property
    def pool(self) -> MemoryPool:
        """The memory pool of the device it was submitted to."""
        return self._pool

    @property
    def fence(self) -> Fence | None:
        """The driver's fence of the job (of its last part); None once the launch has finished."""
        fence = self._fence
        return fence.fences[-1] if isinstance(fence, Parts) else fence

    @property
    def stats(self) -> RunStats | None:
        """Statistics of the emulation once the job is done; None on a real board."""
        return self._stats

    @brief
    def profile(self) -> Any:
        """What the launch did, as a `qpu.debug.profile.Profile`: instructions, waiting and bytes by source line.

        Waits for its end. Raises: UsageError unless it was launched inside `qpu.profile()`; what `wait` raises.
        """
        self.wait()
        if self._profile is None:
            raise UsageError("this launch was not profiled", help="launch it inside `with qpu.profile():`")
        self._profile.runs = [] if self._stats is None else [self._stats]
        return self._profile

    def profiled(self, profile: Any) -> None:
        """Keep a profile, which fills while the launch runs."""
        self._profile = profile

    @brief
    def poll(self) -> bool:
        """True when the job has ended; never blocks for long. Raises: what `wait` raises, when it ended badly."""
        return self._poll(0.0)

    def _poll(self, timeout_s: float) -> bool:
        with self._lock:
            if self._fence is None:
                if self.error is not None:
                    raise self.error
                return True
            try:
                ended = self._fence.poll(timeout_s)
            except EmuFault as fault:
                if self._fence.done:
                    raise self.finish(fault) from None
                if not self._is_of_another_launch(fault):
                    raise
                return False
            if ended:
                self._settle(0.0)
            return ended

    @brief
    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the end.

        timeout_s: emulated or real seconds, finite; None waits as long as it takes.
        Raises: UsageError for a timeout that is not a number, GpuTimeoutError (while `done` is false the job may still
        run: wait again), GpuResetError, OverrunError (with canary pages), EmuFault.
        """
        if timeout_s is not None:
            timeout_s = seconds("timeout_s", timeout_s)
        with self._lock:
            if self._fence is None:
                if self.error is not None:
                    raise self.error
                return
            self._settle(timeout_s)

    def settle_if_done(self) -> None:
        """Retire the launch if it has finished; `wait` raises its error later."""
        if self.done and self._lock.acquire(blocking=False):
            try:
                if self._fence is not None:
                    self._settle(0.0)
            except (DriverError, EmuFault):
                pass  # kept in `error`
            finally:
                self._lock.release()

    def _settle(self, timeout_s: float | None) -> None:
        fence = self._fence
        assert fence is not None
        try:
            try:
                self._wait_for(fence, timeout_s)
            except TimeoutError:
                if not fence.done:
                    raise  # still running: its buffers stay alive
                fence.wait(0.0)  # it finished meanwhile, or the driver abandoned it
            for earlier in self._after:  # this launch used their results
                earlier.wait(timeout_s)
        except TimeoutError as error:
            if not fence.done or any(not e.done for e in self._after):
                raise
            raise self.finish(error) from None
        except (DriverError, EmuFault) as error:
            if not fence.done:
                raise
            raise self.finish(error) from None
        self._retire()
        try:
            self._pool.check_canaries()
        except DriverError as error:
            self.error = error
            raise
        self._warn()

    def _wait_for(self, fence: Fence, timeout_s: float | None) -> None:
        while True:
            try:
                return fence.wait(timeout_s)
            except EmuFault as fault:
                if fence.done or not self._is_of_another_launch(fault):
                    raise

    def _is_of_another_launch(self, fault: EmuFault) -> bool:
        """Whether a fault raised while our job is not done belongs to another launch, whose `wait` raises it."""
        others = [launch for launch in self._pool.running if launch is not self]
        for launch in others:
            launch.settle_if_done()
        return any(isinstance(e.error, EmuFault) and e.error.message == fault.message for e in others)

    def _warn(self) -> None:
        """Issue the warnings of an emulated run, each with its source line."""
        for text in () if self._stats is None else self._stats.faults:
            found = re.search(r"\binstruction (\d+)", text)
            loc = None if found is None else self._program.loc(int(found[1]))
            source = "" if loc is None else f"\n  source: {loc}: {loc.source.strip()}"
            warnings.warn(EmuWarning(text + source), stacklevel=caller())

    def finish(self, error: Exception) -> Exception:
        """Retire a failed launch. Returns the error; a fault gets its source line."""
        if isinstance(error, EmuFault):
            place = error.place
            if error.rule == "breakpoint" and place.instruction is not None and place.instruction >= len(self._program):
                message = f"ran past the end of the program, which has {counted(len(self._program), 'instruction')}"
                error = EmuFault(error.rule, message, place, error.name, help=error.help)
            place, other = self._located(error.place), error.other and self._located(error.other)
            if place is not error.place or other is not error.other:
                error = error.at(place, other)
        self._retire()
        if isinstance(error, GpuTimeoutError | GpuResetError):
            error = located(error, self._program, [] if self._stats is None else self._stats.stopped)
        self.error = error
        return error

    def _located(self, place: FaultPlace) -> FaultPlace:
        """The place with its source line, if that is known."""
        loc = None if place.instruction is None or place.loc is not None else self._program.loc(place.instruction)
        return place if loc is None else replace(place, loc=loc)

    def _retire(self) -> None:
        fence, self._fence = self._fence, None
        self._after = ()
        self._stats = _stats_of(fence.fences if isinstance(fence, Parts) else [fence])
        scratch, self._scratch = self._scratch, []
        self._pool.end(self, scratch)

    def __await__(self) -> Generator[Any, None, None]:
        return self._awaited().__await__()

    async def _awaited(self) -> None:
        import asyncio

        unwanted = threading.Event()
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._wait_until, unwanted)
        finally:
            unwanted.set()  # cancelled or interrupted: the thread ends, the launch continues

    def _wait_until(self, unwanted: threading.Event) -> None:
        """Wait in slices of about SLICE_S of host time, whatever clock the device has."""
        piece = 1e-3
        while not unwanted.is_set():
            begun = time.monotonic()
            if self._poll(piece):
                return
            took = time.monotonic() - begun
            if took < SLICE_S:
                piece = min(2 * piece, SLICE_S)
            elif took > 4 * SLICE_S:
                piece /= 2

    def __repr__(self) -> str:
        return f"<Launch of {self._program!r}, {'done' if self.done else 'running'}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<div>{escape(repr(self))}</div>{'' if self._stats is None else self._stats._repr_html_()}"


def _stats_of(fences: Sequence[Fence | None]) -> RunStats | None:
    """Total statistics of jobs on an emulated board; None unless all of them ran there."""
    runs = [None if fence is None or fence.run is None else fence.run.stats for fence in fences]
    known = [cast("RunStats", stats) for stats in runs if stats is not None]
    if not known or len(known) < len(runs):
        return None
    return known[0] if len(known) == 1 else known[0].total(known)


@dataclass(frozen=True, slots=True)
class Run:
    """Launches that belong together, in order, such as packing and multiplying: `wait` for all of them, or `await`."""

    launches: tuple[Launch, ...]

    @brief
    def wait(self, timeout_s: float | None = None) -> Run:
        """Wait for the end of each; again is fine. Returns itself. Arguments and errors: see `Launch.wait`."""
        for launch in self.launches:
            launch.wait(timeout_s)
        return self

    def profile(self) -> Any:
        """What they did together: see `Launch.profile`; lines are those of the last program."""
        found = [launch.profile() for launch in self.launches]
        if not found:
            raise UsageError("nothing was launched", help="an empty launch has no profile")
        return found[0].total(found)

    def __await__(self) -> Generator[Any, None, Run]:
        for launch in self.launches:
            yield from launch.__await__()
        return self

    @property
    def stats(self) -> RunStats | None:
        """Statistics of all of them together on an emulated board; None on a real one."""
        known = [launch.stats for launch in self.launches if launch.stats is not None]
        return known[0].total(known) if known and len(known) == len(self.launches) else None

    def _repr_html_(self) -> str:
        stats = self.stats
        return f"<div>{counted(len(self.launches), 'launch')}</div>{'' if stats is None else stats._repr_html_()}"
