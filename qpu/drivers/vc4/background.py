"""Background thread for blocking launches, so that the caller gets a fence at once."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable

from qpu.core.deferred_signals import critical
from qpu.drivers.errors_table import HELP
from qpu.drivers.port import Port, Run, submitted
from qpu.errors import DriverError, GpuTimeoutError

__all__ = ["Background", "Task"]

LOOK_S = 0.05  # host time between reads of the board's clock


class Task:
    """A launch made by the thread. Implements `qpu.drivers.base.Fence`."""

    __slots__ = ("_call", "_ended", "_error", "_port", "run")

    def __init__(self, port: Port, call: Callable[[], None]) -> None:
        self._port = port
        self._call = call
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.run: Run | None = None

    @property
    def done(self) -> bool:
        """True once the launch has ended, with or without an error."""
        return self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> None:
        """See `qpu.drivers.base.Fence.wait`. timeout_s: on the board's clock."""
        if timeout_s is None:
            self._ended.wait()
        else:
            deadline = self._port.monotonic() + timeout_s
            # Each read advances an emulated clock, so the clock is read after a wait in host time only. Otherwise no
            # two runs would be alike.
            step = timeout_s
            while not self._ended.wait(step):
                step = LOOK_S
                if self._port.monotonic() >= deadline and not self._ended.is_set():
                    raise GpuTimeoutError(
                        f"the launch did not end within {timeout_s:g} s; it may still run, or wait for earlier launches"
                        f"{HELP}wait again on the same launch, or give a longer timeout_s",
                        errno.ETIMEDOUT,
                    )
        if self._error is not None:
            raise self._error

    def poll(self, timeout_s: float = 0.0) -> bool:
        """See `qpu.drivers.base.Fence.poll`. timeout_s: on the host's clock."""
        return self._ended.wait(timeout_s) if timeout_s > 0 else self._ended.is_set()

    def make(self) -> None:
        """Make the call; called by the thread."""
        try:
            self._call()
        except BaseException as error:  # `wait` raises it
            self._error = error
        self.run = submitted(self._port)
        self._ended.set()

    def cancel(self, error: BaseException) -> None:
        """Record that the launch will not be made."""
        self._error = error
        self._ended.set()


class Background:
    """A thread that makes calls one after another, in the order of their submission. The first call starts it."""

    def __init__(self, port: Port, name: str) -> None:
        self._port = port
        self._name = name
        self._changed = threading.Condition()
        self._tasks: deque[Task] = deque()
        self._thread: threading.Thread | None = None
        self._last: Task | None = None
        self._closed = False

    @property
    def threads(self) -> frozenset[int]:
        """Identifier of the thread; empty before the first call."""
        ident = None if self._thread is None else self._thread.ident
        return frozenset() if ident is None else frozenset((ident,))

    def submit(self, call: Callable[[], None]) -> Task:
        """Let the thread make a call."""
        task = Task(self._port, call)
        with critical(), self._changed:
            if self._thread is None:
                # A daemon thread: at exit the guard stops the device, and the thread is not needed any more.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()  # before the append: Ctrl-C between the two must not leave a task without a fence
            self._tasks.append(task)
            self._last = task
        return task

    def drain(self, timeout_s: float) -> None:
        """Wait until all calls submitted so far have ended, with or without an error. Raises: GpuTimeoutError."""
        last = self._last
        if last is None or last.done:
            return
        try:
            last.wait(timeout_s)
        except BaseException:
            if not last.done:
                raise

    def close(self) -> None:
        """Cancel calls that have not begun. A call in progress ends by itself."""
        with critical(), self._changed:
            self._closed = True
            dropped = list(self._tasks)
            self._tasks.clear()
            self._changed.notify()
        for task in dropped:
            text = "the device was closed before the launch had begun"
            task.cancel(DriverError(f"{text}{HELP}wait for every launch before you close the device"))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._closed:
                    self._changed.wait()
                if not self._tasks:
                    return
                task = self._tasks.popleft()
            task.make()
            del task
