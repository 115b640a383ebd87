"""Launches: handles of submitted jobs, and the arguments that shape them."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from qpu.buffers import Buffer, BufferView
from qpu.core.isa import Isa
from qpu.drivers.base import Bo, Completion, CsdJob, Fence
from qpu.drivers.port import Run
from qpu.errors import DriverError, EmuFault, EmuWarning, GpuResetError, UsageError
from qpu.program import Program

if TYPE_CHECKING:
    from qpu.device import Device
    from qpu.emu.engine.machine import RunStats

__all__ = ["Arguments", "Launch", "Parts", "own", "seconds", "within"]

MAX_GROUPS = 65535  # per dimension (drivers.md section 2)
MAX_GROUP_ITEMS = 256
MAX_SUPERGROUP_ID = 63  # six bits of CFG3
SLICE_S = 0.05  # of host time that an awaiting thread waits before it looks whether it is still wanted


def _caller() -> int:
    """`stacklevel` that names the code outside of this package, for a warning of the calling function."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "qpu":
        level, frame = level + 1, frame.f_back
    return level


class Launch:
    """A submitted job: `wait`, `poll`, or `await` it. Its buffers stay alive until it is done."""

    __slots__ = ("_after", "_device", "_fence", "_keep", "_lock", "_program", "_stats", "error")

    def __init__(
        self, device: Device, program: Program, fence: Fence, keep: Sequence[Bo], after: Sequence[Launch] = ()
    ) -> None:
        self._device = device
        self._program = program
        self._fence: Fence | None = fence
        self._keep = list(keep)
        self._after = tuple(after)
        self._lock = threading.Lock()
        self._stats: RunStats | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """True when the job is known to have ended, well or not."""
        fence = self._fence
        return fence is None or fence.done

    @property
    def device(self) -> Device:
        """The device it was submitted to."""
        return self._device

    @property
    def fence(self) -> Fence | None:
        """What the driver knows the job by (its last part); None once it is done."""
        fence = self._fence
        return fence.fences[-1] if isinstance(fence, Parts) else fence

    @property
    def stats(self) -> RunStats | None:
        """Statistics of the emulation once the job is done; None on a real board."""
        return self._stats

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
                    self.finish(fault)
                raise  # of this job, or of another one that ran meanwhile
            if ended:
                self._settle(0.0)
            return ended

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the end.

        timeout_s: emulated or real seconds, finite; None waits as long as it takes.
        Raises: UsageError for a timeout that is no number, GpuTimeoutError (while `done` is false the job may still
        run: wait again), GpuResetError, EmuFault.
        """
        if timeout_s is not None:
            timeout_s = seconds(timeout_s)
        with self._lock:
            if self._fence is None:
                if self.error is not None:
                    raise self.error
                return
            self._settle(timeout_s)

    def settle_if_done(self) -> None:
        """Give back what the job held, if it is over; an error waits for those who wait for the launch."""
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
                fence.wait(timeout_s)
            except TimeoutError:
                if not fence.done:
                    raise  # not over: buffers stay alive
                fence.wait(0.0)  # it ended meanwhile, or this is how it ended
            for earlier in self._after:  # their results went into this one
                earlier.wait(timeout_s)
        except TimeoutError as error:
            if not fence.done or any(not e.done for e in self._after):
                raise
            self.finish(error)
            raise
        except (DriverError, EmuFault) as error:
            if fence.done:
                self.finish(error)
            raise
        self.finish(None)
        self._warn()

    def _warn(self) -> None:
        """Tell of what an emulated board let pass."""
        for text in () if self._stats is None else self._stats.faults:
            found = re.search(r"\binstruction (\d+)", text)
            loc = None if found is None else self._program.loc(int(found[1]))
            source = "" if loc is None or "source: " in text else f"\n  source: {loc}: {loc.source.strip()}"
            warnings.warn(EmuWarning(text + source), stacklevel=_caller())

    def finish(self, error: BaseException | None) -> None:
        """The job is over: give back what it held."""
        self.error = error
        fences = self._fence.fences if isinstance(self._fence, Parts) else [self._fence]
        self._fence = None
        self._after = ()
        self._stats = _stats_of([fence.run for fence in fences if fence is not None])
        for bo in self._keep:
            self._device.recycle(bo)
        self._keep.clear()
        self._device.retire(self)

    def held(self) -> list[Bo]:
        """Buffers of the device's own that the job uses."""
        return self._keep

    def __await__(self) -> Generator[Any, None, None]:
        return self._awaited().__await__()

    async def _awaited(self) -> None:
        import asyncio

        unwanted = threading.Event()
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._wait_until, unwanted)
        finally:
            unwanted.set()  # cancelled or interrupted: the thread leaves, the launch stays

    def _wait_until(self, unwanted: threading.Event) -> None:
        """Wait in pieces of about SLICE_S of host time, whatever clock the device has."""
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


def _stats_of(runs: Sequence[Run | None]) -> RunStats | None:
    """Statistics of jobs on an emulated board together; None unless all of them ran there."""
    known = [cast("RunStats", run.stats) for run in runs if run is not None and run.stats is not None]
    if not known or len(known) < len(runs):
        return None
    return known[0] if len(known) == 1 else known[0].total(known)


class Parts:
    """The fence of a dispatch that was cut into parts, which run one after another."""

    def __init__(self, device: Device, fences: Sequence[Fence]) -> None:
        self._device = device
        self.fences = list(fences)
        self.count = len(self.fences)
        self._cut: list[tuple[int, GpuResetError]] = []
        self._fault: EmuFault | None = None
        self._over = 0

    @property
    def run(self) -> Run | None:
        """None: each part is a job of its own."""
        return None

    @property
    def done(self) -> bool:
        """True once every part is over."""
        return self._over == self.count

    def wait(self, timeout_s: float | None = None) -> None:
        """See `qpu.drivers.base.Fence.wait`; parts behind one that was reset are waited for, too."""
        deadline = None if timeout_s is None else self._device.now() + timeout_s
        while self._over < self.count:
            left = None if deadline is None else max(0.0, deadline - self._device.now())
            self._pass(left)
        if self._fault is not None:
            raise self._fault
        if self._cut:
            part, error = self._cut[0]
            more = f", and {len(self._cut) - 1} more" if len(self._cut) > 1 else ""
            raise GpuResetError(f"part {part} of {self.count}{more}: {error}", error.errno)

    def poll(self, timeout_s: float = 0.0) -> bool:
        """See `qpu.drivers.base.Fence.poll`."""
        while self._over < self.count:
            fence = self.fences[self._over]
            try:
                if not fence.poll(timeout_s):
                    return False
            except EmuFault:
                if not fence.done:
                    raise
            self._pass(0.0)
        return True

    def _pass(self, timeout_s: float | None) -> None:
        fence = self.fences[self._over]
        try:
            fence.wait(timeout_s)
        except GpuResetError as error:
            self._cut.append((self._over + 1, error))
        except EmuFault as fault:
            if not fence.done:
                raise  # of another launch
            self._fault = self._fault or fault
        self._over += 1


# -- arguments


@dataclass(frozen=True, slots=True)
class Arguments:
    """What shapes a launch, as given; None where nothing was. See `qpu.device.Device.submit`."""

    workgroups: int | tuple[int, int, int] | None
    workgroup_size: int | None
    workgroups_per_supergroup: int | None
    max_supergroup_id: int | None
    threads: int | None
    single_segment: bool | None
    max_batches: int | None
    completion: tuple[Buffer | BufferView, int] | None
    qpus: int | None
    streams: Sequence[Buffer | BufferView] | None

    def fit(self, isa: Isa) -> None:
        """Raise UsageError for an argument of the other family."""
        family, names = ("VideoCore IV", VC4_ONLY) if isa is not Isa.VC4 else ("V3D", V3D_ONLY)
        for name in names:
            if getattr(self, name) is not None:
                raise UsageError(f"{name} is a launch argument of {family}; this device is {isa.label}")

    def shape(self) -> CsdJob:
        """A dispatch of that shape, with defaults filled in. Raises: UsageError for what the registers cannot do."""
        groups = _triple(self.workgroups)
        size = 16 if self.workgroup_size is None else self.workgroup_size
        per_super = 1 if self.workgroups_per_supergroup is None else self.workgroups_per_supergroup
        top = MAX_SUPERGROUP_ID if self.max_supergroup_id is None else self.max_supergroup_id
        threads = 4 if self.threads is None else self.threads
        within("workgroup_size", size, 1, MAX_GROUP_ITEMS)
        within("workgroups_per_supergroup", per_super, 1, 16)
        within("max_supergroup_id", top, 0, MAX_SUPERGROUP_ID)
        if threads not in (2, 4):
            raise UsageError(f"threads = {threads}; V3D runs 2 or 4 threads per QPU")
        if self.max_batches is not None:
            within("max_batches", self.max_batches, 1, 0xFFFF_FFFF)
        return CsdJob(
            code=0,
            uniforms=0,
            bos=(),
            workgroups=groups,
            workgroup_size=size,
            workgroups_per_supergroup=per_super,
            max_supergroup_id=top,
            threads=threads,
            single_segment=bool(self.single_segment),
        )

    def proof(self, device: Device) -> Completion | None:
        """The completion word, checked. Raises: UsageError."""
        if self.completion is None:
            return None
        if not isinstance(self.completion, tuple) or len(self.completion) != 2:
            raise UsageError(f"completion = {self.completion!r}; give a word in device memory and its value: (word, 1)")
        place, value = self.completion
        own(place, device)
        buffer, offset = (place, 0) if isinstance(place, Buffer) else (place.buffer, place.offset)
        if offset % 4 or offset + 4 > buffer.nbytes:
            raise UsageError(f"completion word at byte {offset} of {buffer.nbytes}; allowed: a whole u32 in the buffer")
        within("completion value", value, 1, 0xFFFF_FFFF)
        return Completion(buffer.bo, offset, int(value))


V3D_ONLY = (
    "workgroups",
    "workgroup_size",
    "workgroups_per_supergroup",
    "max_supergroup_id",
    "threads",
    "single_segment",
    "max_batches",
    "completion",
)
VC4_ONLY = ("qpus", "streams")


def own(part: Buffer | BufferView, device: Device) -> None:
    """Raise UsageError for a buffer of another device, and for what is none."""
    if not isinstance(part, (Buffer, BufferView)):
        raise UsageError(f"{part!r} is a {type(part).__name__}; give device memory (gpu.array), or a part of it")
    owner = part if isinstance(part, Buffer) else part.buffer
    if owner.device is not device:
        raise UsageError("the buffer belongs to another device; allocate it on this one")


def within(name: str, value: int, low: int, high: int) -> None:
    """Raise UsageError unless `value` is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise UsageError(f"{name} = {value!r}; allowed: {low}..{high}")


def seconds(timeout_s: float) -> float:
    """`timeout_s` as a finite number. Raises: UsageError."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float, np.integer, np.floating)):
        raise UsageError(f"timeout_s = {timeout_s!r}; give a number of seconds")
    if not math.isfinite(timeout_s):
        raise UsageError(f"timeout_s = {timeout_s!r}; give a finite number of seconds")
    return float(timeout_s)


def _triple(groups: int | tuple[int, int, int] | None) -> tuple[int, int, int]:
    if groups is None:
        return (1, 1, 1)
    triple = tuple(groups) if isinstance(groups, (tuple, list, np.ndarray)) else (groups, 1, 1)
    if len(triple) != 3:
        raise UsageError(f"workgroups = {groups!r}; give one count, or three for x, y, z")
    for axis, n in zip("xyz", triple, strict=True):
        within(f"workgroups in {axis}", n, 1, MAX_GROUPS)
    return (int(triple[0]), int(triple[1]), int(triple[2]))
