"""Blocking launches made by a thread of their own, so that the caller gets a handle at once."""

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

LOOK_S = 0.05  # of host time, between looks at the board's clock


class Task:
    """A launch that the thread makes. Implements `qpu.drivers.base.Fence`."""

    __slots__ = ("_call", "_ended", "_error", "_port", "run")

    def __init__(self, port: Port, call: Callable[[], None]) -> None:
        self._port = port
        self._call = call
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.run: Run | None = None

    @property
    def done(self) -> bool:
        """True once it is over, well or not."""
        return self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> None:
        """See `qpu.drivers.base.Fence.wait`. timeout_s: on the board's clock."""
        if timeout_s is None:
            self._ended.wait()
        else:
            deadline = self._port.monotonic() + timeout_s
            # Reading an emulated clock moves it: look only when the host's clock says so, or no two runs were alike.
            step = timeout_s
            while not self._ended.wait(step):
                step = LOOK_S
                if self._port.monotonic() >= deadline and not self._ended.is_set():
                    raise GpuTimeoutError(
                        f"the launch did not end within {timeout_s:g} s; it may still run, or wait for others"
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
        except BaseException as error:  # whoever waits for the launch gets it
            self._error = error
        self.run = submitted(self._port)
        self._ended.set()

    def cancel(self, error: BaseException) -> None:
        """It will not be made."""
        self._error = error
        self._ended.set()


class Background:
    """Makes calls one after another, in the order they were handed in. The thread starts with the first."""

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
        """Identifier of the thread, when there is one."""
        ident = None if self._thread is None else self._thread.ident
        return frozenset() if ident is None else frozenset((ident,))

    def submit(self, call: Callable[[], None]) -> Task:
        """Let the thread make a call."""
        task = Task(self._port, call)
        with critical(), self._changed:
            if self._thread is None:
                # A daemon: at exit the guard stops the device first; the thread is not needed any more.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()  # first: Ctrl-C between the two would leave a task without a handle
            self._tasks.append(task)
            self._last = task
        return task

    def drain(self, timeout_s: float) -> None:
        """Wait until everything handed in before is over, well or not. Raises: GpuTimeoutError."""
        last = self._last
        if last is None or last.done:
            return
        try:
            last.wait(timeout_s)
        except BaseException:
            if not last.done:
                raise

    def close(self) -> None:
        """Drop what has not begun. The call that is being made ends by itself."""
        with critical(), self._changed:
            self._closed = True
            dropped = list(self._tasks)
            self._tasks.clear()
            self._changed.notify()
        for task in dropped:
            task.cancel(DriverError("the device was closed before the launch had begun"))

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
