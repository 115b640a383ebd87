"""The core of `qpu emulate`: runs Python programs that make their own system calls, unmodified, on an emulated board.

In this process, and only for paths of the board, the functions of os, io, fcntl, select, mmap and ctypes that such
programs use are replaced by functions of the emulated board. GPU memory is one memory file, so that maps are real ones.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import fcntl
import glob
import mmap
import os
import resource
import select
import selectors
import struct
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from qpu.drivers.port import Lock
from qpu.emu.boards import BoardProfile, parse_board
from qpu.emu.linux.board import Board
from qpu.emu.linux.core import Linux, fail
from qpu.emu.linux.user_memory import read_user, write_user
from qpu.emu.process.audit import Guard
from qpu.emu.process.files import FilePatches, RealFds
from qpu.emu.process.libc import LibcCalls, is_libc
from qpu.emu.process.maps import make_mmap
from qpu.emu.process.trace_file import TraceFile
from qpu.emu.process.words32 import narrow_words
from qpu.errors import EmuFault, UsageError

if TYPE_CHECKING:
    from qpu.emu.engine.machine import V3dMachine, Vc4Machine

__all__ = ["Emulation", "current"]

SHOWN_WARNINGS = 20
UNWATCHED_S = 0.05  # host time without system calls after which a thread advances queued jobs
UNWATCHED_VC4_S = 0.2  # the same; longer, so that programs queued by register one by one start together on slow hosts
_REAL_IOCTL = fcntl.ioctl
_REAL_FCNTL = fcntl.fcntl
_REAL_FLOCK = fcntl.flock
_REAL_CDLL = ctypes.CDLL
_REAL_OS_OPEN = os.open
_REAL_OS_CLOSE = os.close
_DUPLICATES = (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)
_FLOCKS = {fcntl.LOCK_SH: Lock.SHARED, fcntl.LOCK_EX: Lock.EXCLUSIVE, fcntl.LOCK_UN: Lock.NONE}
_LOCKS = (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW)
# Modules that need the system's functions: those of the emulator, and internal ones of Python.
_KEEP = ("qpu.emu.", "posix", "_", "importlib", "zipimport", "runpy", "pkgutil")
POINTER_SIZE = struct.calcsize("P")
BOARD_VARIABLE = "QPU_EMULATE"  # in the environment of child processes


class BcmHost:
    """The emulated libbcm_host: the functions with which programs find the peripherals (drivers.md 6.1)."""

    _name = "libbcm_host.so"

    def __init__(self, profile: BoardProfile) -> None:
        alias = 0x4000_0000 if profile.soc == "BCM2835" else 0xC000_0000
        facts = {
            "bcm_host_init": 0,
            "bcm_host_deinit": 0,
            "bcm_host_get_peripheral_address": profile.peripheral_base,
            "bcm_host_get_peripheral_size": 0x0180_0000 if profile.soc == "BCM2711" else 0x0100_0000,
            "bcm_host_get_sdram_address": alias,
        }
        self._profile = profile
        for name, value in facts.items():
            setattr(self, name, _Constant(name, value))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise EmuFault(
            "not-modelled",
            f"{name} of libbcm_host is not modelled by the emulated {self._profile.name}",
            help="read /proc/device-tree, or run this program on a real board",
        )

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class _Constant:
    """A C function without arguments. `restype` and `argtypes` may be set, as for a real function."""

    def __init__(self, name: str, value: int) -> None:
        self.__name__ = name
        self.value = value
        self.restype: Any = ctypes.c_int
        self.argtypes: Any = None

    def __call__(self, *args: object) -> int | None:
        if self.restype is None:
            return None
        kind = self.restype
        return int(kind(self.value).value)


def _is_bcm_host(name: object) -> bool:
    return isinstance(name, (str, os.PathLike)) and "libbcm_host" in os.path.basename(os.fspath(name))


class Emulation:
    """The emulation of a board for this process. `install` replaces the functions, `uninstall` restores them.

    board: name or profile. strict: stop at the first fault. machine: makes another machine (tests). trace: record
    executed instructions, with the reference engine.
    Raises: UsageError for a bad board name, a trace that cannot be written, or on a host that is not Linux.
    """

    def __init__(
        self,
        board: str | BoardProfile = "pi5",
        *,
        strict: bool = False,
        engine: str | None = None,
        machine: Callable[[Linux], V3dMachine | Vc4Machine] | None = None,
        trace: TraceFile | None = None,
    ) -> None:
        if not hasattr(os, "memfd_create"):
            raise UsageError("qpu emulate needs Linux (memory files)", help="use an emulated board with open_device()")
        self.profile = parse_board(board) if isinstance(board, str) else board
        self.strict = strict
        self.engine = engine if engine is not None else os.environ.get("QPU_EMU_ENGINE", "auto")
        if trace is not None and self.engine == "compiled":
            raise UsageError("--trace needs the reference engine", help="set QPU_EMU_ENGINE to auto or reference")
        self._trace_file = trace
        self._trace = trace.start() if trace is not None else None
        self._machine = machine
        self._inherited: set[int] = set()
        self._shown: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.files = FilePatches(lambda: self.board, lambda: self._board, self._inherited)
        self._put = self.files.put
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._guard: Guard | None = None
        self.installed = False
        self._retired = False
        self._board: Board | None = self._make()

    def _make(self) -> Board:
        board = Board(
            self.profile,
            strict=self.strict,
            engine=self.engine,
            pointer_size=self.profile.bits // 8 or POINTER_SIZE,
            machine=self._machine,
            trace=self._trace,
            host_clock=True,
            shared_memory=True,
            fds=RealFds(_REAL_OS_OPEN, _REAL_OS_CLOSE),
        )
        board.other_width = board.pointer_size != POINTER_SIZE  # what ctypes computes here has the host's size
        board.subscribers.append(self._warn)
        board.on_work = self._work
        return board

    @property
    def board(self) -> Board:
        """The board; in a child process after a fork, a new one."""
        board = self._board
        if board is None:
            with self._lock:
                if self._board is None:
                    if self._trace_file is not None and self._trace is None:
                        self._trace = self._trace_file.start()
                    self._board = self._make()
                board = self._board
        return board

    # jobs without a wait

    def _work(self) -> None:
        """Start the thread that advances queued jobs while the program makes no system calls."""
        self._wake.set()
        if self._thread is None and self.installed and not self._retired:
            self._thread = threading.Thread(target=self._advance, name="qpu-emulate", daemon=True)
            self._thread.start()

    def _advance(self) -> None:
        while self.installed and not self._retired:
            board = self._board
            if board is None or board.closed:
                return
            patience = UNWATCHED_S if self.profile.is_drm else UNWATCHED_VC4_S
            if time.monotonic() - board.last_call < patience:
                time.sleep(patience / 4)  # the program makes system calls, which advance the jobs
                continue
            self._wake.clear()
            if not board.step():
                self._wake.wait()

    # faults

    def _warn(self, text: str) -> None:
        self._shown[text] += 1
        if self._shown[text] > 1 or len(self._shown) > SHOWN_WARNINGS + 1:
            return
        if len(self._shown) == SHOWN_WARNINGS + 1:
            text = "further faults are counted, not shown"
        print(f"qpu emulate: warning: {text}", file=sys.stderr)

    def summary(self) -> str:
        """A line about what a lenient run met, or a strict one only warned of; empty when there was nothing."""
        faults = self._shown
        if not faults:
            return ""
        rules = Counter[str]()
        for text, count in faults.items():
            rules[text.partition(":")[0]] += count
        found = ", ".join(f"{count} x {rule}" for rule, count in rules.most_common())
        what = "warnings" if self.strict else "faults"
        return f"qpu emulate: {sum(faults.values())} {what} on the emulated {self.profile.name}: {found}"

    def finish_trace(self) -> str:
        """Write the trace, if there is one. Returns: a line about it. Raises: UsageError when it cannot be written."""
        if self._trace_file is None or self._trace is None:
            return ""
        return self._trace_file.finish(self._trace)

    # install and uninstall

    def install(self) -> None:
        """Replace the functions. Only one emulation can be installed."""
        global _current
        if _current is not None:
            text = f"this process already runs on an emulated {_current.profile.name}"
            raise UsageError(text, help="uninstall that emulation first")
        _current = self
        self.installed = True
        self.files.install()
        self._put(fcntl, "ioctl", self.ioctl)
        self._put(fcntl, "fcntl", self.fcntl)
        self._put(mmap, "mmap", make_mmap(self.board_of))
        library = self._library()
        self._put(ctypes, "CDLL", library)
        self._put(ctypes, "cdll", ctypes.LibraryLoader(library))
        find = ctypes.util.find_library
        self._page_size()
        self._waiting()
        if self.profile.bits == 32:
            for where, name, new in narrow_words():
                self._put(where, name, new)
        self._rebind()
        if self._guard is None:
            self._guard = Guard(self.files.owned, lambda: self.files.trusted, self.profile.name, BOARD_VARIABLE)
            sys.addaudithook(self._audit)
        self._put(ctypes.util, "find_library", lambda name: BcmHost._name if name == "bcm_host" else find(name))

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook, which cannot be removed: it does nothing after `uninstall`."""
        if self.installed and not self._retired and self._guard is not None:
            self._guard(event, args)

    def _rebind(self) -> None:
        """Replace the functions also in modules that have imported them under their own names."""
        new = {id(old): getattr(where, name) for where, name, old in self.files.replaced if callable(old)}
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith(_KEEP) or not isinstance(module, types.ModuleType):
                continue
            for name, value in list(vars(module).items()):
                if id(value) in new and value is not new[id(value)]:
                    self._put(module, name, new[id(value)])
        for kind in vars(glob).values():  # from Python 3.13 on: classes with functions of os as attributes
            for name, value in list(vars(kind).items()) if isinstance(kind, type) else ():
                if isinstance(value, staticmethod) and id(value.__func__) in new:
                    self.files.replaced.append((kind, name, value))
                    setattr(kind, name, staticmethod(new[id(value.__func__)]))

    def _page_size(self) -> None:
        """Replace the page size, to which programs round sizes and offsets, if the board's is not smaller."""
        page = self.profile.page_size
        if page < mmap.PAGESIZE:
            return
        real = os.sysconf
        names = ("SC_PAGESIZE", "SC_PAGE_SIZE", os.sysconf_names["SC_PAGESIZE"])
        self._put(mmap, "PAGESIZE", page)
        self._put(mmap, "ALLOCATIONGRANULARITY", page)
        self._put(resource, "getpagesize", lambda: page)
        self._put(os, "sysconf", lambda name: page if name in names else real(name))

    def _waiting(self) -> None:
        """Replace functions that wait for descriptors: they raise EmuFault for devices of the board."""
        refuse = self._refuse
        real_select, real_poll = select.select, select.poll

        def emulated_select(r: Any, w: Any, x: Any, timeout: Any = None) -> Any:
            r, w, x = list(r), list(w), list(x)
            for fd in (*r, *w, *x):
                refuse("select.select", fd)
            return real_select(r, w, x, timeout)

        class Poll:
            """select.poll()"""

            def __init__(self) -> None:
                self._real = real_poll()

            def register(self, fd: Any, *mask: int) -> None:
                """As of select.poll()."""
                refuse("poll", fd)
                self._real.register(fd, *mask)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        self._put(select, "select", emulated_select)
        self._put(select, "poll", Poll)
        register = selectors._BaseSelectorImpl.register

        def checked(selector: Any, fileobj: Any, *args: Any, **named: Any) -> Any:
            refuse("a selector", fileobj)
            return register(selector, fileobj, *args, **named)

        self._put(selectors._BaseSelectorImpl, "register", checked)
        self._put(fcntl, "flock", self.flock)
        self._put(fcntl, "lockf", self._checked("fcntl.lockf", fcntl.lockf))

    def _refuse(self, what: str, fd: Any) -> None:
        number = _descriptor(fd)
        if self.files.known(number):
            raise self.board.not_modelled(f"{what} on {self.board.fds.get(number).path}")

    def _checked(self, what: str, real: Any) -> Any:
        def call(fd: Any, *args: Any, **named: Any) -> Any:
            self._refuse(what, fd)
            return real(fd, *args, **named)

        return call

    def retire(self) -> None:
        """Prepare for the end of the process: jobs advance only inside waits from now on, but calls still work.

        So objects that close their devices during the shutdown of the interpreter find them open, as on a real board.
        """
        self._retired = True
        self._stop_thread()

    def _stop_thread(self) -> None:
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def uninstall(self) -> None:
        """Restore all functions, and power the board off."""
        global _current
        if not self.installed:
            return
        self.installed = False
        _current = None
        self._stop_thread()
        self.files.uninstall()
        if self._board is not None:
            self._board.close()

    def after_fork(self) -> None:
        """In the child after a fork: prepare a new board. Devices that were opened before cannot be used."""
        board, self._board = self._board, None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None
        if self._trace_file is not None:
            self._trace_file = TraceFile.load(self._trace_file.dump(), os.getpid())
            self._trace = None
        if board is not None:
            self._inherited.update(fd for fd, _ in board.fds.open)
            # The memory belongs to the parent too: it must not be freed here.
            board.disown()

    def _library(self) -> type[ctypes.CDLL]:
        profile = self.profile

        calls = LibcCalls(self.files, lambda: self.board, self.ioctl_at)

        class EmulatedCDLL(_REAL_CDLL):
            """ctypes.CDLL with the emulated libbcm_host and the replaced functions of the C library."""

            def __new__(cls, name: Any = None, *args: Any, **named: Any) -> Any:
                if _is_bcm_host(name):
                    if profile.soc == "BCM2712":
                        raise OSError("libbcm_host.so: cannot open shared object file: No such file or directory")
                    return BcmHost(profile)
                return object.__new__(cls)

            def __init__(self, name: Any = None, *args: Any, **named: Any) -> None:
                super().__init__(name, *args, **named)
                self._emulated_libc = is_libc(name)
                self._emulated_errno = bool(named.get("use_errno", args[2] if len(args) > 2 else False))

            def __getitem__(self, name: Any) -> Any:
                function = super().__getitem__(name)
                if isinstance(name, str) and self._emulated_libc:
                    return calls.wrap(name, function, self._emulated_errno)
                return function

        EmulatedCDLL.__name__ = EmulatedCDLL.__qualname__ = "CDLL"
        EmulatedCDLL.__module__ = "ctypes"
        return EmulatedCDLL

    # calls

    def board_of(self, fd: int) -> Board | None:
        return self.board if self.files.known(fd) else None

    def fcntl(self, fd: Any, cmd: int, arg: Any = 0, /) -> Any:
        """fcntl.fcntl"""
        number = _descriptor(fd)
        if cmd in _DUPLICATES and (self.files.known(number) or self.files.paths.directory(number) is not None):
            return self.files.duplicated(number, int(_REAL_FCNTL(fd, cmd, arg)))
        if cmd in _LOCKS:
            self._refuse("fcntl.fcntl of a lock", number)
        return _REAL_FCNTL(fd, cmd, arg)

    def flock(self, fd: Any, operation: int, /) -> None:
        """fcntl.flock"""
        number = _descriptor(fd)
        if not self.files.known(number):
            _REAL_FLOCK(fd, operation)
            return
        board = self.board
        lock = _FLOCKS.get(operation & ~fcntl.LOCK_NB)
        with board.call():
            if lock is None:
                raise fail(errno.EINVAL)
            try:
                board.flock(board.fds.get(number), lock)
            except BlockingIOError:
                if operation & fcntl.LOCK_NB:
                    raise
                path = board.fds.get(number).path
                raise board.not_modelled(f"waiting for a lock of {path} that this process holds") from None

    def ioctl(self, fd: Any, request: int, arg: Any = 0, mutate_flag: bool = True, /) -> Any:
        """fcntl.ioctl"""
        number = _descriptor(fd)
        if not self.files.known(number):
            return _REAL_IOCTL(fd, request, arg, mutate_flag)
        request &= 0xFFFFFFFF  # may be negative: ctypes and old libraries use signed numbers
        board = self.board
        with board.call():
            file = board.fds.get(number)
            if isinstance(arg, int):
                return self._by_pointer(file, request, arg)
            if isinstance(arg, str):
                arg = arg.encode()
            view = memoryview(arg)
            if not view.c_contiguous:
                raise ValueError("ioctl requires a contiguous buffer")
            data = bytearray(view.tobytes())
            size = len(data)

            def peek(n: int) -> bytes:
                return bytes(data[:n]) + bytes(max(0, n - size))

            need = file.argument_size(request, peek)
            data += bytes(max(0, need - size))
            if view.readonly or not mutate_flag:
                file.ioctl(request, data)
                return bytes(data[:size])
            try:
                return file.ioctl(request, data)
            finally:
                if size:
                    ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(arg)), bytes(data[:size]), size)

    def ioctl_at(self, fd: int, request: int, address: int) -> int:
        """ioctl(2) of an emulated device with a pointer."""
        with self.board.call():
            return self._by_pointer(self.board.fds.get(fd), request & 0xFFFFFFFF, address)

    def _by_pointer(self, file: Any, request: int, address: int) -> int:
        """An ioctl whose argument is an address, as a C program passes it."""
        address &= (1 << 8 * POINTER_SIZE) - 1
        need = file.argument_size(request, lambda n: read_user(address, n))
        if need == 0:
            return int(file.ioctl(request, bytearray()))
        data = bytearray(read_user(address, need))
        try:
            return int(file.ioctl(request, data))
        finally:
            write_user(address, data)


def _descriptor(fd: Any) -> int:
    """The number of a descriptor or file object; -1 for other objects, which the system's function rejects."""
    if isinstance(fd, int):
        return fd
    number = fd.fileno() if hasattr(fd, "fileno") else -1
    return number if isinstance(number, int) else -1


_current: Emulation | None = None


def current() -> Emulation | None:
    """The emulation that is installed in this process."""
    return _current


def _after_fork() -> None:
    if _current is not None:
        _current.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
