"""Memory of VideoCore IV that the Arm can map: rpi-vcsm, VCSM-CMA, VCSM, or firmware memory through /dev/mem."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Rows
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from qpu.drivers.errors_table import HELP, errno_rows, failure, fault, meminfo, reason_of
from qpu.drivers.port import Mapping, Port, retrying
from qpu.drivers.uapi import dma_buf, vcsm
from qpu.drivers.uapi.vcsm import Cache
from qpu.drivers.vc4.mailbox import Mailbox, Node, persist
from qpu.drivers.vc4.mailbox_tags import MemoryFlag
from qpu.errors import DriverError, UsageError

__all__ = [
    "BUS_MASK", "PROVIDERS", "GpuMemory", "MailboxMemory", "MemoryProvider", "RpiVcsmMemory", "VcsmCmaMemory",
    "VcsmMemory", "mailbox_flags", "open_memory", "vcsm_cache",
]  # fmt: skip

BUS_MASK = 0x3FFFFFFF  # a bus address without its cache alias: the Arm's physical address (drivers.md 5.3)
NAME = b"qpu"
CMA_NODE = "/dev/vcsm-cma"
VCSM_NODE = "/dev/vcsm"
MEM_NODE = "/dev/mem"
_ZEROS = bytes(1 << 16)

_CMA_ROWS = errno_rows(
    "no-vcsm: ENOENT, eacces-open: EACCES, enomem-cma: ENOMEM, enotty: ENOTTY, enodev: ENODEV ENXIO, emfile: EMFILE"
)
_OPEN_ROWS = _CMA_ROWS | errno_rows("eacces-open: EPERM")
_CALL_ROWS = _CMA_ROWS | errno_rows("no-vcsm: EPERM")  # the firmware's memory service is not up
_VCSM_ROWS = _CALL_ROWS | errno_rows("enotty-vcsm: ENOTTY, enomem-vc4: ENOMEM")
MEM_ROWS = errno_rows("strict-devmem: EACCES EPERM, ebusy: EBUSY, emfile: EMFILE")


def mailbox_flags(soc: str) -> MemoryFlag:
    """Flags of ALLOCATE_MEMORY that keep the Arm and the QPUs coherent.

    On BCM2835 the Arm reaches memory through the VideoCore's L2 cache, so the QPUs must use it as well; on later chips
    both bypass it (drivers.md 4.3).
    """
    return MemoryFlag.L1_NONALLOCATING if soc == "BCM2835" else MemoryFlag.DIRECT


def vcsm_cache(soc: str) -> Cache:
    """Cache mode of VCSM for the same reason as `mailbox_flags`; never cached on the Arm's side.

    VC on BCM2835 is ASSUMED to give the L2-cached alias there; no source confirms it.
    """
    return Cache.VC if soc == "BCM2835" else Cache.NONE


class GpuMemory:
    """A buffer object of VideoCore IV; `address` is a bus address."""

    def __init__(
        self,
        size: int,
        address: int,
        view: Callable[[], memoryview],
        undo: list[Callable[[], None]],
        *,
        lasting: bool = False,
    ) -> None:
        """view: makes a view of the bytes. No view is stored, because it would block the unmap.

        undo: functions that release everything, in order; the first may raise BufferError while views are alive.
        lasting: views stay valid when everything but the map is released.
        """
        if not 0 < address < 1 << 32:
            raise DriverError(
                f"the driver gave the bus address 0x{address:x}; allowed: 1..0xffffffff"
                f"{HELP}please report this message and the output of: qpu doctor",
                errno.EIO,
            )
        self.size = size  # bytes, a multiple of the page size
        self.address = address  # bus address, u32
        self._view: Callable[[], memoryview] | None = view
        self._undo = undo
        self.lasting = lasting
        self._watcher: Callable[[GpuMemory], None] | None = None

    @property
    def view(self) -> memoryview:
        """The bytes, writable. Not cached on the Arm's side: copy in bulk."""
        if self._view is None:
            raise UsageError("this buffer is closed", help="keep it open while you use it, or allocate a new one")
        return self._view()

    @property
    def closed(self) -> bool:
        """True once `close` has released everything."""
        return not self._undo

    def watch(self, watcher: Callable[[GpuMemory], None] | None) -> None:
        """Call `watcher` with this buffer once it is released."""
        self._watcher = watcher

    def close(self, *, force: bool = False) -> None:
        """Release the memory; idempotent.

        force: release everything but the map even while views are alive: for `lasting` memory, and at exit.
        Raises: BufferError while views are alive, and releases nothing then; DriverError when Linux refuses, after
        everything else has been released.
        """
        failure: OSError | None = None
        while self._undo:
            try:
                persist(self._undo[0])
            except BufferError:
                if not force:
                    raise
            except OSError as error:
                failure = failure or error
            self._undo.pop(0)
            self._view = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher(self)
        if failure is not None:
            raise failure

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.size} bytes at 0x{self.address:08x}"
        return f"<GpuMemory, {state}>"


Adopt: TypeAlias = Callable[[GpuMemory], None]


class MemoryProvider(Protocol):
    """One source of memory."""

    @property
    def name(self) -> str:
        """Its name in `PROVIDERS`."""
        ...

    @property
    def node(self) -> str:
        """The device nodes it uses."""
        ...

    def alloc(self, size: int, adopt: Adopt | None = None) -> GpuMemory:
        """Zero-filled memory of at least `size` bytes.

        adopt: called with the buffer before an interrupt can be raised. Raises: DriverError with cause and help;
        nothing stays allocated then.
        """
        ...

    def close(self) -> None:
        """Close the nodes; idempotent. The buffers must be closed first."""
        ...


def _rounded(size: int, page: int) -> int:
    if not 0 < size <= BUS_MASK:
        raise UsageError(
            f"a buffer of {size} bytes; VideoCore IV allows 1..0x{BUS_MASK:x}",
            help="split larger data into several buffers",
        )
    return (size + page - 1) // page * page


def _zero(view: memoryview) -> None:
    try:
        for at in range(0, len(view), len(_ZEROS)):
            view[at : at + len(_ZEROS)] = _ZEROS[: len(view) - at]
    finally:
        del view  # otherwise the traceback of an interrupt would keep the view and its map alive


def _given(memory: GpuMemory, adopt: Adopt | None) -> GpuMemory:
    if adopt is not None:
        adopt(memory)
    return memory


@contextmanager
def _undoing(*first: Callable[[], None]) -> Iterator[list[Callable[[], None]]]:
    """A list of functions that release what the block has acquired, in order; called when the block fails."""
    undo = list(first)
    try:
        yield undo
    except BaseException:
        while undo:
            try:
                persist(undo[0])
            except (OSError, BufferError):
                pass  # the first error is raised
            undo.pop(0)
        raise


class _Node(Node):
    """A device node with the calls that VCSM and VCSM-CMA have in common."""

    def __init__(self, port: Port, path: str, label: str, rows: Rows[int, str]) -> None:
        super().__init__(label, port, path, _OPEN_ROWS)
        self.rows = rows

    def ioctl(self, name: str, arg: bytearray) -> None:
        """One ioctl, repeated at EINTR (drivers.md 5.1); KeyboardInterrupt is raised between attempts."""
        try:
            self._raw(name, arg)
        except OSError as error:
            raise failure(f"{self.label}: {name} on {self.path}", error, self.rows) from error

    def _raw(self, name: str, arg: bytearray) -> None:
        retrying(self.port, self.fd, vcsm.ioctl(name).request(self.port.pointer_size), arg)

    def allocate(self, name: str, arg: bytearray, size: int, free: Callable[[int], None]) -> None:
        """The ioctl that allocates. free: frees a handle; used to find the largest piece after a failure."""
        try:
            self._raw(name, arg)
        except OSError as error:
            detail = self._room(size, self._largest(name, size, free) if error.errno == errno.ENOMEM else None)
            raise failure(f"{self.label}: {name} on {self.path}", error, self.rows, detail) from error

    def _largest(self, name: str, size: int, free: Callable[[int], None]) -> int:
        """Bytes of the largest piece that is free, found by halves; 0 when there is none of a page."""
        layout = vcsm.ioctl(name).layout(self.port.pointer_size)
        size //= 2
        while size >= self.port.page_size:
            size = size // self.port.page_size * self.port.page_size
            arg = layout.pack(size=size, num=1, cached=Cache.NONE, name=NAME)
            try:
                self._raw(name, arg)
                free(layout.number(arg, "handle"))
                return size
            except (OSError, DriverError):
                size //= 2
        return 0

    def _room(self, size: int, largest: int | None) -> str:
        """Size asked for, size of the pool, largest free piece, and the setting that would hold it."""
        cma = self.path == CMA_NODE
        found = meminfo(self.port) if cma else {}
        free, total = found.get("CmaFree"), found.get("CmaTotal")
        known = free is not None and total is not None
        parts = [f"{size} bytes asked for"] + ([f"CMA has {free} of {total} bytes free"] if known else [])
        if largest is not None:
            parts.append(f"the largest free piece found has {largest} bytes" if largest else "no page is free")
            used = total - free if free is not None and total is not None else 0
            megabytes = max(128, -(-(used + size) // (64 << 20)) * 64)
            parts.append(f"{'cma' if cma else 'gpu_mem'}={megabytes}{'M' if cma else ''} would hold it")
        return ", ".join(parts)

    def mmap(self, fd: int, size: int, offset: int) -> Mapping:
        try:
            return self.port.mmap(fd, size, offset)
        except OSError as error:
            raise failure(f"{self.label}: mmap of {size} bytes", error, self.rows) from error


class VcsmCmaMemory:
    """Contiguous Linux memory through /dev/vcsm-cma; handles are dma-buf descriptors (drivers.md 5.2)."""

    name = "vcsm-cma"
    node = CMA_NODE

    def __init__(self, port: Port) -> None:
        """Open the node. Raises: DriverError with cause and help."""
        self._port = port
        self._node = _Node(port, CMA_NODE, "VCSM-CMA", _CALL_ROWS)

    def alloc(self, size: int, adopt: Adopt | None = None) -> GpuMemory:
        """See `MemoryProvider.alloc`."""
        port = self._port
        size = _rounded(size, port.page_size)
        layout = vcsm.layout("vc_sm_cma_ioctl_alloc", port.pointer_size)
        arg = layout.pack(size=size, num=1, cached=Cache.NONE, name=NAME)

        def drop() -> None:
            fd = layout.number(arg, "handle")
            if fd > 0:
                layout.put(arg, "handle", 0)
                port.close(fd)

        with _undoing(drop) as undo:  # before the call, so that an interrupt right after it leaks nothing
            self._node.allocate("VC_SM_CMA_IOCTL_MEM_ALLOC", arg, size, port.close)
            fd = layout.number(arg, "handle")
            mapping = self._node.mmap(fd, size, 0)
            undo.insert(0, mapping.close)
            self._sync(fd, dma_buf.SYNC_RW | dma_buf.SYNC_START)
            undo.insert(1, lambda: self._sync(fd, dma_buf.SYNC_RW | dma_buf.SYNC_END))
            _zero(mapping.view)
            return _given(
                GpuMemory(size, layout.number(arg, "dma_addr"), lambda: mapping.view, undo, lasting=True), adopt
            )

    def _sync(self, fd: int, flags: int) -> None:
        """Begin or end access by the Arm; the memory is coherent, so that only Linux's bookkeeping changes."""
        row = dma_buf.IOCTLS["DMA_BUF_IOCTL_SYNC"]
        arg = row.layout(self._port.pointer_size).pack(flags=flags)
        try:
            retrying(self._port, fd, row.request(self._port.pointer_size), arg, (errno.EINTR, errno.EAGAIN))
        except OSError as error:
            raise failure("VCSM-CMA: DMA_BUF_IOCTL_SYNC", error, _CALL_ROWS) from error

    def close(self) -> None:
        """Close the node."""
        self._node.close()


class VcsmMemory:
    """Memory of the VideoCore side through /dev/vcsm of older versions of Linux (drivers.md 5.1)."""

    name = "vcsm"
    node = VCSM_NODE

    def __init__(self, port: Port, cache: Cache) -> None:
        """Open the node. Raises: DriverError with cause and help."""
        self._port = port
        self._cache = cache
        self._node = _Node(port, VCSM_NODE, "VCSM", _VCSM_ROWS)

    def alloc(self, size: int, adopt: Adopt | None = None) -> GpuMemory:
        """See `MemoryProvider.alloc`. Order: ALLOC, mmap(offset = handle), LOCK, bus address."""
        port, node = self._port, self._node
        size = _rounded(size, port.page_size)
        made = vcsm.layout("vmcs_sm_ioctl_alloc", port.pointer_size)
        arg = made.pack(size=size, num=1, cached=self._cache, name=NAME)
        locked = vcsm.layout("vmcs_sm_ioctl_lock_unlock", port.pointer_size)
        lock = locked.pack()

        def release(handle: int) -> None:
            layout = vcsm.layout("vmcs_sm_ioctl_free", port.pointer_size)
            node.ioctl("VMCS_SM_IOCTL_MEM_FREE", layout.pack(handle=handle))

        def free() -> None:
            handle = made.number(arg, "handle")
            if handle:
                release(handle)

        def unlock() -> None:
            address = locked.number(lock, "addr")
            if address:
                arg = locked.pack(handle=locked.number(lock, "handle"), addr=address)
                node.ioctl("VMCS_SM_IOCTL_MEM_UNLOCK", arg)

        with _undoing(free) as undo:  # before the call, so that an interrupt right after it leaks nothing
            node.allocate("VMCS_SM_IOCTL_MEM_ALLOC", arg, size, release)
            handle = made.number(arg, "handle")
            if handle == 0:
                raise fault("enomem-vc4", f"VCSM: allocation of {size} bytes gave no handle", errno.ENOMEM)
            mapping = node.mmap(node.fd, size, handle)
            undo.insert(0, mapping.close)
            locked.put(lock, "handle", handle)
            undo.insert(1, unlock)
            node.ioctl("VMCS_SM_IOCTL_MEM_LOCK", lock)
            asked = vcsm.layout("vmcs_sm_ioctl_map", port.pointer_size)
            where = asked.pack(pid=port.getpid(), handle=handle)
            node.ioctl("VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL", where)
            _zero(mapping.view)
            return _given(GpuMemory(size, asked.number(where, "addr"), lambda: mapping.view, undo), adopt)

    def close(self) -> None:
        """Close the node; Linux frees the remaining memory."""
        self._node.close()


class MailboxMemory:
    """Firmware memory, mapped through /dev/mem: the last resort, because it stays allocated when the process dies."""

    name = "mailbox"
    node = MEM_NODE

    def __init__(self, port: Port, mailbox: Mailbox, flags: MemoryFlag) -> None:
        """Open /dev/mem uncached. Raises: DriverError with cause and help."""
        self._port = port
        self._mailbox = mailbox
        self._flags = flags
        self._node = Node("mailbox memory", port, MEM_NODE, MEM_ROWS, sync=True)

    def alloc(self, size: int, adopt: Adopt | None = None) -> GpuMemory:
        """See `MemoryProvider.alloc`."""
        fd, mailbox = self._node.fd, self._mailbox
        page = max(4096, self._port.page_size)
        size = _rounded(size, page)
        held: list[int] = []

        def release() -> None:
            for handle in held:
                mailbox.release_memory(handle)

        with _undoing(release) as undo:
            handle = mailbox.allocate_memory(size, page, self._flags, held)
            undo.insert(0, lambda: mailbox.unlock_memory(handle))
            bus = mailbox.lock_memory(handle)
            try:
                mapping = self._port.mmap(fd, size, bus & BUS_MASK)
            except OSError as error:
                raise failure(f"mailbox memory: mmap of {MEM_NODE}", error, MEM_ROWS) from error
            undo.insert(0, mapping.close)
            _zero(mapping.view)
            return _given(GpuMemory(size, bus, lambda: mapping.view, undo), adopt)

    def close(self) -> None:
        """Close /dev/mem."""
        self._node.close()


class _RpiVcsm(Protocol):
    """The part of rpi_vcsm.VCSM.VCSM, version 3, that is used here (drivers.md 5.4)."""

    def malloc_cache(self, *, size: int, cached: int, name: str) -> tuple[int, int, int, bytearray]: ...
    def free(self, *, handle: int, usr_buf: bytearray) -> None: ...
    def get_driver(self) -> str: ...
    def close(self) -> None: ...


class RpiVcsmMemory:
    """Memory through the package rpi-vcsm (extra ``vc4``), which makes its own system calls and bypasses the port."""

    name = "rpi-vcsm"

    def __init__(self, port: Port, cache: Cache) -> None:
        """Raises: DriverError when the package is not installed or finds no device."""
        self._page = port.page_size
        try:
            made: Callable[[], _RpiVcsm] = importlib.import_module("rpi_vcsm.VCSM").VCSM
        except ImportError as error:
            raise DriverError(
                f"rpi-vcsm: not installed (extra `vc4`){HELP}choose vcsm-cma or vcsm, which need no package"
            ) from error
        try:
            self._vcsm = made()
            self.node = "/dev/" + self._vcsm.get_driver()
        except OSError as error:
            raise failure("rpi-vcsm: open", error, _OPEN_ROWS) from error
        self._cache = Cache.NONE if self.node == CMA_NODE else cache
        self._open = True

    def alloc(self, size: int, adopt: Adopt | None = None) -> GpuMemory:
        """See `MemoryProvider.alloc`."""
        size = _rounded(size, self._page)
        try:
            handle, bus, _, buffer = self._vcsm.malloc_cache(size=size, cached=int(self._cache), name=NAME.decode())
        except OSError as error:
            raise failure(f"rpi-vcsm: allocation of {size} bytes", error, _VCSM_ROWS) from error
        with _undoing(lambda: self._vcsm.free(handle=handle, usr_buf=buffer)) as undo:
            _zero(memoryview(buffer))
            return _given(GpuMemory(size, bus, lambda: memoryview(buffer), undo), adopt)

    def close(self) -> None:
        """Close the package's device."""
        if self._open:
            self._open = False
            self._vcsm.close()


PROVIDERS = ("rpi-vcsm", "vcsm-cma", "vcsm", "mailbox")
"""Sources of memory in the order of trial. The mailbox is last because it leaks when the process is killed."""


def open_memory(
    port: Port, soc: str, mailbox: Mailbox, name: str = "auto", *, first: int = 4096, adopt: Adopt | None = None
) -> tuple[MemoryProvider, GpuMemory]:
    """Open the first source of memory that can allocate `first` bytes; returns both the source and those bytes.

    soc: decides the cache flags. name: one of `PROVIDERS`, or ``auto``. rpi-vcsm makes its own system calls, so
    ``auto`` leaves it out with an emulated port. Raises: DriverError that lists every source and its reason;
    UsageError for an unknown name.
    """
    if name != "auto" and name not in PROVIDERS:
        raise UsageError(
            f"no memory source {name!r}; allowed: auto, {', '.join(PROVIDERS)}",
            help="use 'auto', which takes the first source that works",
        )
    if name == "rpi-vcsm" and port.emulated is not None:
        raise UsageError(
            "rpi-vcsm makes its own system calls and cannot reach an emulated board", help="use auto or vcsm-cma"
        )
    makers: dict[str, Callable[[], MemoryProvider]] = {
        "rpi-vcsm": lambda: RpiVcsmMemory(port, vcsm_cache(soc)),
        "vcsm-cma": lambda: VcsmCmaMemory(port),
        "vcsm": lambda: VcsmMemory(port, vcsm_cache(soc)),
        "mailbox": lambda: MailboxMemory(port, mailbox, mailbox_flags(soc)),
    }
    names = PROVIDERS if name == "auto" else (name,)
    reasons: list[DriverError] = []
    for each in names:
        if each == "rpi-vcsm" and port.emulated is not None:
            continue
        try:
            provider = makers[each]()
            try:
                return provider, provider.alloc(first, adopt)
            except BaseException:
                provider.close()
                raise
        except DriverError as error:
            reasons.append(error)
    if len(reasons) == 1:
        raise reasons[0]
    parts = [reason_of(error) for error in reasons]
    helps = dict.fromkeys(help for _, each in parts for help in each)
    text = "".join(f"\n  {reason}" for reason, _ in parts) + "".join(HELP + help for help in helps)
    raise DriverError("no source of memory for the GPU:" + text, next((e.errno for e in reasons if e.errno), None))
