"""Power control of VideoCore IV: counts the users of the QPUs in this process, and locks out other processes.

Every process that powers the QPUs holds an advisory lock on /dev/vcio meanwhile: shared when the firmware starts its
programs, exclusive when it starts them by register, which nothing else serialises. Linux drops the lock when the
process dies. Programs that do not take the lock (other libraries) show in the status of the queue before a launch.
"""

from __future__ import annotations

import enum
import errno
import threading
from typing import Protocol

from qpu.drivers.board import detect
from qpu.drivers.errors_table import failure, fault, reason_of
from qpu.drivers.port import Interruptions, Lock, Port
from qpu.drivers.vc4.mailbox import NODE, Mailbox, Node, persist
from qpu.drivers.vc4.registers import V3dRegisters, block_address
from qpu.errors import DriverError, UsageError

__all__ = ["Power", "State", "clean_up", "look", "power_of"]

LOCK_WAIT_S = 1.0  # for a lock that another process holds: powering on or off takes milliseconds
LOCK_PAUSE_S = 0.01


class Job(Protocol):
    """A job that was started by register."""

    late: bool
    owner: object

    def wait(self, timeout_s: float | None = None) -> None: ...
    def poll(self, timeout_s: float = 0.0) -> bool: ...
    def cancel(self) -> None: ...


class Power:
    """State of the QPUs of one GPU in this process.

    lock: held during launches and changes of power. users: open drivers. running: the job queued by register. lost:
    programs may hang; V3D needs a power cycle before the next launch.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        self.process = port.getpid()
        self.lock = threading.RLock()
        self.users = 0
        self.running: Job | None = None
        self.lost = False
        self._exclusive = 0  # users that launch by register
        self._node: Node | None = None  # holds the lock among processes

    def switch_on(self, mailbox: Mailbox, *, exclusive: bool) -> None:
        """Add a user; the first one powers the QPUs on.

        exclusive: no other process may use them. Raises: DriverError EBUSY when another process does; other errors of
        the firmware. The lock is not held then.
        """
        with self.lock:
            first = self._node is None
            if first:
                self._node = Node("lock of VideoCore IV", self.port, NODE, {}, read_only=True)
            try:
                if first or (exclusive and not self._exclusive):
                    self._take(Lock.EXCLUSIVE if exclusive else Lock.SHARED)
                if first:
                    mailbox.enable_qpu(True)
            except BaseException as error:
                if first:
                    # A time-out or an interrupt may have come after the firmware had powered the QPUs on.
                    off = not isinstance(error, DriverError) or isinstance(error, TimeoutError)
                    try:
                        if off and self._alone():
                            mailbox.enable_qpu(False)
                    except DriverError:
                        pass  # the first error is raised
                    self._unlock()
                elif not self._exclusive:
                    self._take(Lock.SHARED)  # a failed conversion may have dropped it
                raise
            self.users += 1
            self._exclusive += exclusive

    def switch_off(self, mailbox: Mailbox, *, exclusive: bool, patience_s: float = -1) -> None:
        """Remove a user; the last one powers the QPUs off, unless another process uses them.

        patience_s: longest wait for threads that hold the lock, after which it is not taken; -1 is no limit.

        Raises: DriverError when the firmware refuses three times; the user is removed even then. KeyboardInterrupt
        changes nothing.
        """
        failed: DriverError | None = None
        locked = self.lock.acquire(timeout=patience_s)
        try:
            if self.users == 1 and self._node is not None:
                try:
                    if self._alone():
                        persist(lambda: mailbox.enable_qpu(False))
                except DriverError as error:
                    failed = fault("still-powered", reason_of(error)[0])
                    failed.errno, failed.__cause__ = error.errno, error
                self._unlock()
            elif exclusive and self._exclusive == 1:
                self._take(Lock.SHARED)
            self.users -= 1
            self._exclusive -= exclusive
        finally:
            if locked:
                self.lock.release()
        if self.users == 0:
            _forget(self)
        if failed is not None:
            raise failed

    def cycle(self, mailbox: Mailbox) -> bool:
        """Power V3D off and on, which stops all programs; True when the firmware did both."""
        if self.running is not None:
            self.running.cancel()
        try:
            mailbox.enable_qpu(False)
            mailbox.enable_qpu(True)
        except DriverError:
            self.lost = True
            return False
        self.lost = False
        return True

    def _take(self, lock: Lock) -> None:
        """Take the lock against other processes. Raises: DriverError EBUSY after LOCK_WAIT_S."""
        assert self._node is not None
        deadline: float | None = None
        interruptions = Interruptions(self.port)
        while True:
            try:
                self.port.flock(self._node.fd, lock)
                return
            except OSError as error:
                if error.errno == errno.EINTR and interruptions.again():
                    continue
                now = self.port.monotonic()
                deadline = now + LOCK_WAIT_S if deadline is None else deadline
                if error.errno != errno.EAGAIN or now >= deadline:
                    raise _refused(error) from error
            self.port.sleep(LOCK_PAUSE_S)

    def _alone(self) -> bool:
        """True when no other process holds the lock, which is then exclusive; else this process may have lost it."""
        assert self._node is not None
        fd = self._node.fd
        try:
            persist(lambda: self.port.flock(fd, Lock.EXCLUSIVE))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            raise _refused(error) from error
        return True

    def _unlock(self) -> None:
        node = self._node
        if node is not None:
            try:
                self.port.flock(node.fd, Lock.NONE)  # closing is not enough when a forked child also has the file open
            except OSError:
                pass
            self._node = None
            try:
                node.close()
            except DriverError:
                pass  # the descriptor is freed, and with it the lock


def _refused(error: OSError) -> DriverError:
    what = f"VideoCore IV: lock of {NODE}"
    return fault("qpus-busy", what, errno.EBUSY) if error.errno == errno.EAGAIN else failure(what, error, {})


_known: dict[int | None, Power] = {}
_known_lock = threading.Lock()


def power_of(port: Port) -> Power:
    """The state of the GPU that a port reaches. All ports of the real machine reach the same GPU."""
    key = None if port.emulated is None else id(port)
    with _known_lock:
        found = _known.get(key)
        if found is None or found.process != port.getpid():
            found = _known[key] = Power(port)
        return found


def _forget(power: Power) -> None:
    with _known_lock:
        for key, known in list(_known.items()):
            if known is power and power.users == 0:
                del _known[key]


class State(enum.Enum):
    """Result of `look`."""

    OFF = "off"
    USED = "another process uses them"
    LEFT = "powered and left"
    FREE = "not in use; only root can see whether they are powered"


def look(port: Port, soc: str) -> State:
    """Whether the QPUs are powered and used, as far as this process can see; changes nothing."""
    try:
        with Mailbox(port) as mailbox:
            port.flock(mailbox.fd, Lock.EXCLUSIVE)  # dropped with the descriptor
            registers = V3dRegisters(port, block_address(port, soc))
            try:
                return State.LEFT if registers.powered else State.OFF
            finally:
                registers.close()
    except DriverError:
        return State.FREE
    except OSError as error:
        return State.USED if error.errno == errno.EAGAIN else State.FREE


def clean_up(port: Port) -> None:
    """Power the QPUs off when a process was killed while it used them.

    Raises: UsageError on other boards; DriverError EBUSY while a living process uses them; errors of the firmware.
    """
    found = detect(port)
    if found.generation not in (None, 4):
        raise UsageError(
            f"{found.model}: there is nothing to clean up; allowed: a Pi 0-3",
            help="leave out --clean: Linux releases everything when a process ends",
        )
    with Mailbox(port) as mailbox:
        try:
            port.flock(mailbox.fd, Lock.EXCLUSIVE)
        except OSError as error:
            raise _refused(error) from error
        persist(lambda: mailbox.enable_qpu(False))
