"""Interface of the adapters: devices, buffers, jobs and fences. Adapters do not depend on an instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from qpu.core.isa import Isa
from qpu.drivers.port import Bounds, Run
from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.drivers.board import Board

__all__ = ["Bo", "Bounds", "CompletedFence", "Completion", "CsdJob", "DeviceInfo", "Driver", "Fence", "Job", "QpuJob"]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Description of a device: its board, its GPU, and the node that it was opened through.

    clock_hz: nominal clock in Hz, None when unknown. node: path of the device node or nodes. driver: Linux driver or
    firmware interface as it names itself. emulated: name of the emulated board, None on a real one.
    """

    board: Board
    isa: Isa
    slices: int
    qpus_per_slice: int
    tmus_per_slice: int
    clock_hz: int | None
    adapter: str
    node: str
    driver: str
    revision: str = ""
    emulated: str | None = None

    @property
    def qpus(self) -> int:
        """Number of QPUs."""
        return self.slices * self.qpus_per_slice

    def __str__(self) -> str:
        clock = "clock unknown" if self.clock_hz is None else f"{self.clock_hz / 1e6:.0f} MHz"
        real = "real board" if self.emulated is None else f"EMULATED ({self.emulated})"
        return (
            f"{self.board.model}: {self.isa.label}, {self.slices} x {self.qpus_per_slice} QPUs, {clock}, "
            f"{self.adapter} on {self.node}, {real}"
        )


class Bo(Protocol):
    """A buffer object: memory that both CPU and GPU access."""

    @property
    def size(self) -> int:
        """Bytes, as rounded by Linux."""
        ...

    @property
    def address(self) -> int:
        """GPU address (VideoCore IV: bus address), u32."""
        ...

    @property
    def view(self) -> memoryview:
        """The bytes. Reads may be slow (write-combined memory): copy in bulk."""
        ...

    def close(self) -> None:
        """Free the memory; idempotent. Raises: BufferError while views are alive."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A word that the program writes when all its work is done: the proof of that where Linux does not report resets.

    offset: bytes into `bo`. value: u32 that the word has after the program, and does not have before it.
    """

    bo: Bo
    offset: int
    value: int

    def missing(self) -> str:
        """Why the program counts as unfinished; empty when the word has its value, or can no longer be read."""
        try:
            found = int.from_bytes(self.bo.view[self.offset : self.offset + 4], "little")
        except UsageError:
            return ""  # its buffer is closed
        return "" if found == self.value else f"completion word {found:#x} instead of {self.value:#x}"


@dataclass(frozen=True, slots=True)
class CsdJob:
    """A compute dispatch of V3D; the adapter encodes it for the revision of its GPU.

    code, uniforms: GPU addresses (8- and 4-byte aligned). workgroups: counts in x, y, z. first: first ids in x, y, z.
    workgroup_size: items, 1..256. workgroups_per_supergroup: 1..16. threads: 2 or 4 per QPU. bos: every buffer that
    the job touches, code and uniforms included. batches: overrides the count derived from the shape. completion: word
    that is checked when the job has ended; its buffer is one of `bos`.
    """

    code: int
    uniforms: int
    bos: Sequence[Bo]
    workgroups: tuple[int, int, int] = (1, 1, 1)
    first: tuple[int, int, int] = (0, 0, 0)
    workgroup_size: int = 16
    workgroups_per_supergroup: int = 1
    max_supergroup_id: int = 0
    threads: int = 4
    single_segment: bool = False
    propagate_nans: bool = True
    batches: int | None = None
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class QpuJob:
    """A VideoCore IV launch: one (uniforms, code) pair of bus addresses per program, 1..12 of them.

    flush: let the firmware flush the caches on the VideoCore side first.
    """

    entries: Sequence[tuple[int, int]]
    bos: Sequence[Bo] = ()
    flush: bool = True


Job: TypeAlias = CsdJob | QpuJob


def check_usable(closed: bool, mine: bool) -> None:
    """Raise UsageError for a device that is closed. mine: this process has opened it."""
    if closed:
        raise UsageError("this device is closed", help="open it again")
    if not mine:
        help = "open it in the child, or use the start method 'spawn' of multiprocessing"
        raise UsageError("this device was opened before fork()", help=help)


class Fence(Protocol):
    """A submitted job."""

    @property
    def run(self) -> Run | None:
        """Identity of the job on an emulated board; None on a real one, and before a background launch has begun."""
        ...

    @property
    def done(self) -> bool:
        """True once the job is known to have ended, with or without an error; makes no system call."""
        ...

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for completion.

        Raises: GpuTimeoutError after timeout_s seconds (`done` is still false), and when the driver has abandoned the
        job (`done` is true); GpuResetError when the job was cancelled by a reset.
        """
        ...

    def poll(self, timeout_s: float = 0.0) -> bool:
        """True when the job is done. timeout_s: longest wait; the call may return earlier."""
        ...


class CompletedFence:
    """The fence of a job that ended during `submit`."""

    __slots__ = ("run",)
    done = True

    def __init__(self, run: Run | None = None) -> None:
        self.run = run

    def wait(self, timeout_s: float | None = None) -> None:
        """Returns at once."""

    def poll(self, timeout_s: float = 0.0) -> bool:
        """True."""
        return True


class Driver(Protocol):
    """An adapter: one way to run QPU programs."""

    @property
    def info(self) -> DeviceInfo: ...

    def alloc(self, size: int) -> Bo:
        """A zero-filled buffer of at least `size` bytes. Raises DriverError with cause and help."""
        ...

    def submit(
        self, job: Job, timeout_s: float = 10.0, *, background: bool = False, after: Sequence[Fence] = ()
    ) -> Fence:
        """Start a job. timeout_s: bounds the wait until it can start. after: jobs that must end first, with or
        without an error; earlier jobs of this driver do so anyway.

        background: return at once. Without it an adapter whose Linux interface blocks runs the job to its end in the
        caller's thread, and timeout_s bounds that as well.
        """
        ...

    def leaving(self) -> AbstractContextManager[None]:
        """Interrupt other threads inside system calls of this driver while the block runs, where the port can."""
        ...

    def close(self) -> None:
        """Release everything; idempotent."""
        ...
