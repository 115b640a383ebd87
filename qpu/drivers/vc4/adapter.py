"""Adapter of VideoCore IV: memory, power and launches, by firmware mailbox or by V3D registers."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from math import ceil
from typing import Literal

from qpu.core.isa import Isa
from qpu.drivers.base import Bo, CompletedFence, DeviceInfo, Fence, Job, QpuJob, check_usable
from qpu.drivers.board import Board, kms_owns_v3d
from qpu.drivers.errors_table import HELP, fault, reason_of
from qpu.drivers.port import Port, Run, interrupting, submitted
from qpu.drivers.uapi.mailbox import MAX_PROGRAMS
from qpu.drivers.vc4 import exit_guard
from qpu.drivers.vc4.background import Background
from qpu.drivers.vc4.mailbox import LINUX_LIMIT_MS, Mailbox, check_programs
from qpu.drivers.vc4.mailbox_tags import Clock, UnsupportedTagError
from qpu.drivers.vc4.power import Power, power_of
from qpu.drivers.vc4.registers import Ident, V3dRegisters, block_address
from qpu.drivers.vc4.vcsm import BUS_MASK, GpuMemory, open_memory
from qpu.errors import DriverError, EmuFault, GpuTimeoutError, UsageError, counted

__all__ = ["LAUNCHES", "Vc4Driver", "open_adapter"]

Launch = Literal["mailbox", "registers"]
LAUNCHES: tuple[Launch, ...] = ("mailbox", "registers")

SLICES, QPUS_PER_SLICE, TMUS_PER_SLICE = 3, 4, 2  # of every Pi with VideoCore IV (MANUAL), when IDENT cannot be read
EXIT_PATIENCE_S = 2.0
SETTLE_S = 10.0  # longest wait for jobs before and after counting


class RegisterFence:
    """A job queued through the registers; its completion has to be polled."""

    def __init__(self, driver: Vc4Driver, power: Power, registers: V3dRegisters, count: int) -> None:
        self.owner: object = driver
        self._check = driver.check_open
        self._power = power
        self._registers = registers
        self._count = count
        self.done = False
        self._error: DriverError | EmuFault | None = None
        self.late = False  # a wait has timed out
        self.run: Run | None = None

    def wait(self, timeout_s: float | None = None) -> None:
        """See `qpu.drivers.base.Fence.wait`; GpuResetError when V3D was powered off while the job ran."""
        with self._power.lock:
            if not self.done:
                try:
                    self._registers.wait(self._count, timeout_s, check=self._check)
                    self._finish(None)
                except GpuTimeoutError:
                    self.late = True
                    raise
                except (DriverError, EmuFault) as error:
                    self._finish(error)
            if self._error is not None:
                raise self._error

    def poll(self, timeout_s: float = 0.0) -> bool:
        """See `qpu.drivers.base.Fence.poll`."""
        if self.done:
            return True
        if not self._power.lock.acquire(blocking=False):
            return False  # another thread is waiting for the job
        try:
            if not self.done:
                try:
                    if self._registers.completed(self._count) != self._count:
                        if timeout_s <= 0:
                            return False
                        self._registers.wait(self._count, timeout_s, check=self._check)
                    self._finish(None)
                except GpuTimeoutError:
                    pass
                except (DriverError, EmuFault) as error:
                    self._finish(error)
            return self.done
        finally:
            self._power.lock.release()

    def cancel(self) -> None:
        """Record that the job was lost because V3D was powered off."""
        self._finish(fault("powered-off", "V3D registers"))

    def _finish(self, error: DriverError | EmuFault | None) -> None:
        self._error = error
        self.done = True
        if isinstance(error, EmuFault):
            self._power.lost = True  # the stopped programs never count as completed
        if self._power.running is self:
            self._power.running = None


class Vc4Driver:
    """A VideoCore IV. Implements `qpu.drivers.base.Driver`; open it with `open_adapter`.

    A launch by mailbox blocks `submit`, or with ``background=True`` a thread of the driver. The firmware reports it
    complete when its programs have ended and at least one of them wrote a non-zero value to the host-interrupt
    register. Launches by registers need no host interrupt.
    VideoCore IV has no memory protection: a wrong address can overwrite anything.
    """

    def __init__(self, port: Port, board: Board, *, launch: Launch = "mailbox", memory: str = "auto") -> None:
        """See `open_adapter`."""
        if launch not in LAUNCHES:
            raise UsageError(
                f"no launch path {launch!r} on VideoCore IV; allowed: {', '.join(LAUNCHES)}",
                help="use 'mailbox', or as root 'registers'",
            )
        if board.generation != 4 or board.soc is None:
            raise UsageError(
                f"{board.model} has no VideoCore IV; allowed: a Pi 0-3", help="use the DRM adapter on a Pi 4 or 5"
            )
        if kms_owns_v3d(port):
            raise fault("enable-refused", "VideoCore IV: the device tree assigns V3D to Linux", errno.EBUSY)
        self._port = port
        self._board = board
        self._launch = launch
        self._exclusive = launch == "registers"
        self._process = port.getpid()
        self._power = power_of(port)
        self._live: dict[int, GpuMemory] = {}
        self._powered = False
        self._closed = False
        self._background = Background(port, "qpu mailbox launches")
        self._left = False  # True when closed while views keep some memory
        self.registers: V3dRegisters | None = None  # None when this process may not open /dev/mem
        self._mailbox: Mailbox | None = None
        exit_guard.guard(id(self), partial(self._shut, force=True))
        try:
            self._mailbox = Mailbox(port, check=self.check_open)
            self._provider, self._control = open_memory(port, board.soc, self._mailbox, memory, adopt=self._adopt)
            self._power.switch_on(self._mailbox, exclusive=self._exclusive)
            self._powered = True
            ident = self._open_registers(board.soc)
            # Slices and QPUs are those of IDENT when the registers can be read (root), else those of every Pi 0-3.
            self.info = self._describe(self._mailbox, ident)
        except BaseException:
            self._shut(force=True)
            raise

    # opening

    def _open_registers(self, soc: str) -> Ident | None:
        """Map the registers and read the identity of V3D; None when that fails and launches go by mailbox."""
        try:
            self.registers = V3dRegisters(self._port, block_address(self._port, soc))
            return self.registers.ident()
        except DriverError:
            registers, self.registers = self.registers, None
            if registers is not None:
                registers.close()
            if self._launch == "registers":
                raise
            return None

    def _describe(self, mailbox: Mailbox, ident: Ident | None) -> DeviceInfo:
        try:
            clock = mailbox.clock_max_hz(Clock.V3D)
        except UnsupportedTagError:
            clock = 0
        try:
            firmware = f"firmware of Unix time {mailbox.firmware_revision()}"
        except UnsupportedTagError:
            firmware = "firmware"
        nodes = [mailbox.path, self._provider.node]
        if self._launch == "registers":
            nodes.append("/dev/mem")
        slices, qpus, tmus, revision = SLICES, QPUS_PER_SLICE, TMUS_PER_SLICE, ""
        if ident is not None:
            revision = f"{ident.version}.{ident.revision}"
            if ident.slices and ident.qpus_per_slice:
                slices, qpus, tmus = ident.slices, ident.qpus_per_slice, ident.tmus_per_slice
        return DeviceInfo(
            board=self._board,
            isa=Isa.VC4,
            slices=slices,
            qpus_per_slice=qpus,
            tmus_per_slice=tmus,
            clock_hz=clock or self._board.clock_hz,
            adapter="mailbox" if self._launch == "mailbox" else "v3d_regs",
            node=", ".join(dict.fromkeys(nodes)),
            driver=firmware,
            revision=revision,
            emulated=self._port.emulated,
        )

    # identity

    @property
    def mailbox(self) -> Mailbox:
        """The firmware, for clocks, temperature and throttling."""
        self._usable()
        assert self._mailbox is not None
        return self._mailbox

    def check_open(self) -> None:
        """Raise DriverError when the device was closed meanwhile; called between polls."""
        if self._closed:
            raise DriverError(
                "the device was closed while the programs ran: the results are incomplete"
                f"{HELP}wait for every launch before you close the device"
            )

    def _usable(self) -> None:
        check_usable(self._closed, self._port.getpid() == self._process)

    # memory

    def _adopt(self, bo: GpuMemory) -> None:
        self._live[id(bo)] = bo
        bo.watch(self._gone)

    def _gone(self, bo: GpuMemory) -> None:
        self._live.pop(id(bo), None)
        if self._left and not self._live:
            self._close_nodes()

    def alloc(self, size: int) -> GpuMemory:
        """A zero-filled buffer, page-rounded. Raises: DriverError with cause and help; UsageError for a bad size."""
        self._usable()
        return self._provider.alloc(size, self._adopt)

    # launches

    def submit(
        self, job: Job, timeout_s: float = 10.0, *, background: bool = False, after: Sequence[Fence] = ()
    ) -> Fence:
        """Run a job to its end (mailbox), or queue it when the previous one has ended (registers).

        background: return at once, by mailbox as well; the fence raises the errors below then. Jobs run in the order
        of their submission in either case. timeout_s: by mailbox at most one second, because Linux stops waiting
        then. after: jobs of other devices to wait for first.
        Raises: UsageError before anything is started; GpuTimeoutError, after which V3D has been powered off and on;
        DriverError.
        """
        self._usable()
        entries = self._checked(job, timeout_s)
        assert isinstance(job, QpuJob)
        power = self._power
        if self._launch == "mailbox":

            def execute() -> None:
                _wait_for(after, timeout_s)
                with power.lock:
                    self._usable()
                    self._prepare(timeout_s)
                    self._execute(entries, job.flush, timeout_s)

            if background:
                return self._background.submit(execute)
            self._background.drain(timeout_s)
            execute()
            return CompletedFence(submitted(self._port))
        _wait_for(after, timeout_s)
        with power.lock:
            self._prepare(timeout_s)
            assert self.registers is not None
            fence = RegisterFence(self, power, self.registers, len(entries))
            power.running = fence  # before the start, so that Ctrl-C between the two finds the job recorded
            try:
                self.registers.start(entries, flush=job.flush)
            except DriverError:
                power.running = None
                raise
            fence.run = submitted(self._port)
            return fence

    def _prepare(self, timeout_s: float) -> None:
        if self._power.lost:
            self._recover()
        self._drain(timeout_s)
        if self.registers is not None and not self.registers.powered:
            # A program that does not use the lock of `qpu.drivers.vc4.power` has powered V3D off.
            assert self._mailbox is not None
            self._mailbox.enable_qpu(True)
            self.registers.ident()

    def _checked(self, job: Job, timeout_s: float) -> Sequence[tuple[int, int]]:
        if not isinstance(job, QpuJob):
            raise UsageError(f"{type(job).__name__} is not a job of VideoCore IV", help="submit a QpuJob")
        if not timeout_s > 0:
            raise UsageError(f"timeout_s = {timeout_s}; it must be positive", help="give a time in seconds, such as 10")
        check_programs(len(job.entries), MAX_PROGRAMS)
        for bo in job.bos:
            self._own(bo)
        for n, (uniforms, code) in enumerate(job.entries):
            if uniforms % 4 or code % 8:
                raise UsageError(
                    f"program {n}: uniforms at 0x{uniforms:x}, code at 0x{code:x}; allowed: multiples of 4 and of 8",
                    help="place uniforms at a multiple of 4 bytes in their buffer, and code at a multiple of 8",
                )
            for what, address in (("code", code), ("uniforms", uniforms)):
                if what == "uniforms" and address == 0:
                    continue  # no uniforms
                if not self._covers(address):
                    raise UsageError(
                        f"program {n}: {what} at 0x{address:x} is in no buffer of this device; allowed: open buffers "
                        "only, because VideoCore IV has no memory protection",
                        help="allocate the memory on this device, and keep it open until the launch has ended",
                    )
        return job.entries

    def _own(self, bo: Bo) -> None:
        if id(bo) not in self._live:
            raise UsageError(
                f"{bo!r} is closed or belongs to another device",
                help="allocate it on this device, and keep it open until the launch has ended",
            )

    def _covers(self, address: int) -> bool:
        if not 0 <= address < 1 << 32:
            return False
        at = address & BUS_MASK  # every cache alias of the memory is allowed
        return any(0 <= at - (bo.address & BUS_MASK) < bo.size for bo in list(self._live.values()))

    def _execute(self, entries: Sequence[tuple[int, int]], flush: bool, timeout_s: float) -> None:
        assert self._mailbox is not None
        block = struct.pack(f"<{2 * len(entries)}I", *(word for entry in entries for word in entry))
        self._control.view[: len(block)] = block
        limit = min(ceil(timeout_s * 1000), LINUX_LIMIT_MS)
        try:
            self._mailbox.execute_qpu(len(entries), self._control.address, noflush=not flush, timeout_ms=limit)
        except GpuTimeoutError as error:
            self._power.lost = True
            usable = self._power_cycle()
            state = "V3D was powered off and on and takes jobs again" if usable else "V3D does not answer any more"
            reason, helps = reason_of(error)
            raise GpuTimeoutError(f"{reason}: {state}" + "".join(HELP + m for m in helps), error.errno) from error
        except DriverError as error:
            if error.errno == errno.EINTR or self._closed:  # the call returned while the programs still run
                self._power.lost = True
                self._power_cycle()
            raise
        except EmuFault as stopped:  # the emulated board has stopped the programs
            self._power.lost = stopped.rule == "v3d-off"
            raise
        except BaseException:  # Ctrl-C: stop the programs before their memory can be freed
            self._power.lost = True
            self._power_cycle()
            raise

    def _drain(self, timeout_s: float) -> None:
        """Wait for the previous job; stop one that has already overrun its time by a power cycle of V3D."""
        running = self._power.running
        if running is None:
            return
        if not running.late:
            try:
                running.wait(timeout_s)
                return
            except GpuTimeoutError:
                pass
        elif running.poll():
            return
        self._power.lost = True
        self._recover()

    def _recover(self) -> None:
        if not self._power_cycle():
            raise fault("etimedout-vcio", "VideoCore IV: V3D could not be powered off and on after a stuck job")

    def _power_cycle(self) -> bool:
        assert self._mailbox is not None
        return self._power.cycle(self._mailbox)

    # counters

    @contextmanager
    def counters(self, names: Sequence[str]) -> Iterator[dict[str, int]]:
        """Count events while the block runs: up to 16 of `qpu.drivers.vc4.registers.COUNTERS`, u32 each; needs root.

        The dictionary is filled at the end of the block, which waits for the jobs submitted inside.
        """
        self._usable()
        self._settle()
        if self.registers is None:
            raise fault("strict-devmem", "VideoCore IV: event counters need the V3D registers", errno.EACCES)
        with self.registers.counters(names) as values:
            yield values
            self._settle()

    def _settle(self) -> None:
        """Wait for the jobs submitted so far. Raises: GpuTimeoutError, and the error of a job queued by register."""
        self._background.drain(SETTLE_S)
        running = self._power.running
        if running is not None:
            running.wait(SETTLE_S)

    # closing

    def close(self) -> None:
        """Stop the programs, free the memory, and power V3D off unless another device uses it; idempotent.

        Memory whose views are alive stays valid: Linux frees it with the last view, and firmware memory is
        released with its buffer or at exit.
        """
        if self._port.getpid() == self._process:
            self._shut(force=False)

    def leaving(self) -> AbstractContextManager[None]:
        """See `qpu.drivers.base.Driver.leaving`."""
        return interrupting(self._port, self._background.threads)

    def _shut(self, *, force: bool) -> None:
        self._closed = True  # `check_open` ends the wait of other threads
        self._background.close()
        # At exit a daemon thread may hold the lock for ever; the QPUs are powered off even then.
        with self.leaving():
            locked = self._power.lock.acquire(timeout=EXIT_PATIENCE_S if force else -1)
        try:
            self._give_back(force)
        finally:
            if locked:
                self._power.lock.release()

    def _give_back(self, force: bool) -> None:
        failure: DriverError | None = None
        self._left = False
        self._stop()
        registers, self.registers = self.registers, None
        if registers is not None:
            registers.close()
        for bo in list(self._live.values()):
            try:
                bo.close(force=force or bo.lasting)
            except BufferError:
                pass  # stays in _live and in the exit guard
            except DriverError as error:
                failure = failure or error
        if self._powered and self._mailbox is not None:
            try:
                patience_s = EXIT_PATIENCE_S if force else -1
                self._power.switch_off(self._mailbox, exclusive=self._exclusive, patience_s=patience_s)
                self._powered = False  # not reached at KeyboardInterrupt, so that the next close powers off
            except DriverError as error:
                self._powered = False
                failure = failure or error
        self._left = bool(self._live)
        if not self._left:
            try:
                self._close_nodes()
            except DriverError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _stop(self) -> None:
        """Stop programs of this device that still run, because their memory is freed next."""
        running, registers = self._power.running, self.registers
        if running is not None and running.owner is self:
            ended = running.poll()  # also False while another thread waits for the job
        else:
            # A launch that failed because another program used the queue may still run.
            ended = not self._exclusive or registers is None or not registers.powered or registers.idle
        if not ended:
            self._power.lost = True
            self._power_cycle()

    def _close_nodes(self) -> None:
        provider = getattr(self, "_provider", None)
        with ExitStack() as stack:  # in reverse, each whatever the others do
            stack.callback(exit_guard.unguard, id(self))
            if self._mailbox is not None:
                stack.callback(self._mailbox.close)
            if provider is not None:
                stack.callback(provider.close)

    def __repr__(self) -> str:
        return f"<Vc4Driver by {self._launch}, {'closed' if self._closed else counted(len(self._live), 'buffer')}>"


def _wait_for(fences: Sequence[Fence], timeout_s: float) -> None:
    """Wait until jobs of other devices have ended, with or without an error."""
    for fence in fences:
        try:
            fence.wait(timeout_s)
        except (DriverError, EmuFault):
            if not fence.done:
                raise


def open_adapter(port: Port, board: Board, *, launch: Launch = "mailbox", memory: str = "auto") -> Vc4Driver:
    """Open the GPU of a Pi 0-3.

    launch: ``mailbox`` (the firmware starts the programs; other firmware users wait meanwhile) or ``registers``
    (/dev/mem, root; never while Linux owns V3D, and never together with other users of the QPUs, which this package
    cannot detect in other processes). memory: see `qpu.drivers.vc4.vcsm.open_memory`.
    Raises: UsageError for a bad option or another GPU; DriverError with cause and help. Nothing stays allocated then.
    """
    return Vc4Driver(port, board, launch=launch, memory=memory)
