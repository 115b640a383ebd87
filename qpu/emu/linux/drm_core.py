"""The emulated DRM core, common to all drivers: argument structures, dispatch by number, the ioctls of all nodes.

Source, with the errno of each failure: drivers.md 1.1 and 1.2.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

from qpu.drivers.uapi import dma_buf, drm
from qpu.drivers.uapi.layout import Ioctl, Layout
from qpu.emu.linux.core import Linux, OpenFile, fail, fail_if
from qpu.emu.linux.user_memory import write_user

__all__ = ["CORE_CALLS", "Arguments", "DisplayFile", "DrmNode", "dma_buf_ioctl", "lowest_free"]

NR_DRIVER = 0x40
NR_DRIVER_END = 0xA0
_DIR_WRITE, _DIR_READ = 1, 2
_CAPS = {drm.CAP_PRIME: 3, drm.CAP_SYNCOBJ: 1, drm.CAP_SYNCOBJ_TIMELINE: 0, 0x6: 1}
# Ioctls that render nodes do not allow (permission flags of the DRM core).
_CARD_ONLY = frozenset({"DRM_IOCTL_GET_MAGIC", "DRM_IOCTL_AUTH_MAGIC"})

Node = TypeVar("Node", bound="DrmNode")


class Arguments:
    """The structure of one ioctl, as long as Linux defines it. Short arguments are extended with zeros."""

    __slots__ = ("_scalars", "data", "layout")

    def __init__(self, layout: Layout, data: bytearray) -> None:
        self.layout = layout
        self.data = data
        self._scalars = layout.scalars

    def __getitem__(self, name: str) -> int:
        known = self._scalars.get(name)
        if known is None or known[3] > len(self.data):
            return self.layout.number(self.data, name)
        found: int = known[0](self.data, known[2])[0]
        return found

    def __setitem__(self, name: str, value: int) -> None:
        known = self._scalars.get(name)
        if known is not None and known[3] <= len(self.data):
            try:
                known[1](self.data, known[2], value)
                return
            except struct.error:
                pass  # `put` raises the error that names the mistake
        self.layout.put(self.data, name, value)

    def numbers(self, name: str) -> tuple[int, ...]:
        """The numbers of an array."""
        return self.layout.numbers(self.data, name)

    def text(self, name: str, value: str) -> None:
        """Set a char array."""
        self.layout.put(self.data, name, value.encode())


class _Call(NamedTuple):
    """A request on a node. size: bytes of its argument; room: of the structure that the method gets."""

    method: Callable[[Arguments], None]
    layout: Layout
    size: int
    copy_in: int
    copy_out: int
    room: int


class DrmNode(OpenFile):
    """An open DRM node. Subclasses register the handlers of their driver with `serve`."""

    label = "drm"
    NAME: ClassVar[str] = ""
    DESCRIPTION: ClassVar[str] = ""
    DATE: ClassVar[str] = "20180419"

    def __init__(self, linux: Linux, path: str, *, render: bool = False) -> None:
        super().__init__(linux, path)
        self.render = render
        self.authenticated = True
        self._table: dict[int, tuple[Ioctl, Callable[[Arguments], None]]] = {}
        self._known: dict[int, _Call] = {}  # by request

    def serve(self: Node, calls: Mapping[str, Callable[[Node, Arguments], None]]) -> None:
        """Register handlers of ioctls, by name."""
        for name, call in calls.items():
            row = drm.IOCTLS[name]
            self._table[row.nr] = row, partial(call, self)

    def ioctl(self, request: int, arg: bytearray) -> int:
        """Dispatch on the number only, as the DRM core does; older and newer sizes are valid (drivers.md 1.2)."""
        call = self._known.get(request)
        if call is None:
            call = self._known[request] = self._prepare(request)
        method, layout, size, copy_in, copy_out, room = call
        if len(arg) < size:
            raise fail(errno.EFAULT)
        data = arg[:copy_in]
        if copy_in < room:
            data += bytes(room - copy_in)
        try:
            method(Arguments(layout, data))
        finally:
            if copy_out:
                arg[:copy_out] = data[:copy_out]
        return 0

    def _prepare(self, request: int) -> _Call:
        """What a request does. Raises: OSError for a request that the node does not have."""
        fail_if(request >> 8 & 0xFF != ord("d"), errno.ENOTTY)
        nr = request & 0xFF
        found = self._table.get(nr)
        if found is None:
            raise self.unknown(nr, request)
        row, method = found
        fail_if(self.render and row.name in _CARD_ONLY, errno.EACCES)
        layout = row.layout(self.linux.width_of(row, request))
        size = request >> 16 & 0x3FFF
        direction = request >> 30
        copy_in = size if direction & _DIR_WRITE and "W" in row.direction else 0
        copy_out = size if direction & _DIR_READ and "R" in row.direction else 0
        return _Call(method, layout, size, copy_in, copy_out, max(layout.size, size))

    def unknown(self, nr: int, request: int) -> Exception:
        """The exception for a number without a handler."""
        if NR_DRIVER <= nr < NR_DRIVER_END:
            return fail(errno.EINVAL)  # not in the driver's table
        name = next((n for n, row in drm.IOCTLS.items() if row.nr == nr), f"DRM core ioctl 0x{nr:02x}")
        return self.linux.not_modelled(f"{name} (request 0x{request:08x}) on {self.path}")


def version(node: DrmNode, a: Arguments) -> None:
    a["version_major"], a["version_minor"], a["version_patchlevel"] = 1, 0, 0
    date = node.DATE if node.linux.profile.old_linux else "0"
    for name, text in (("name", node.NAME), ("date", date), ("desc", node.DESCRIPTION)):
        room = a[f"{name}_len"]
        if room and a[name]:
            write_user(a[name], text.encode()[:room])
        a[f"{name}_len"] = len(text)


def get_cap(node: DrmNode, a: Arguments) -> None:
    if a["capability"] not in _CAPS:
        raise node.linux.not_modelled(f"DRM capability 0x{a['capability']:x} (DRM_IOCTL_GET_CAP)")
    a["value"] = _CAPS[a["capability"]]


def get_magic(node: DrmNode, a: Arguments) -> None:
    a["magic"] = 1


def auth_magic(node: DrmNode, a: Arguments) -> None:
    raise fail(errno.EACCES)


CORE_CALLS: Mapping[str, Callable[[DrmNode, Arguments], None]] = {
    "DRM_IOCTL_VERSION": version,
    "DRM_IOCTL_GET_MAGIC": get_magic,
    "DRM_IOCTL_AUTH_MAGIC": auth_magic,
    "DRM_IOCTL_GET_CAP": get_cap,
}


class DisplayFile(DrmNode):
    """The vc4 node: display on Pi 4 and 5, display and 3D engine on Pi 0 to 3 with KMS. It cannot launch programs.

    Requests of the v3d driver fail with EINVAL on this node (drivers.md 1.1).
    """

    NAME = "vc4"
    DESCRIPTION = "Broadcom VC4 graphics"
    DATE = "20140616"

    def __init__(self, linux: Linux, path: str) -> None:
        super().__init__(linux, path)
        self.serve(CORE_CALLS)


def lowest_free(taken: Mapping[int, object]) -> int:
    """The lowest number from 1 that is not taken."""
    handle = 1
    while handle in taken:
        handle += 1
    return handle


def dma_buf_ioctl(linux: Linux, request: int, arg: bytearray) -> int:
    """Perform an ioctl of a dma-buf. Synchronising has no effect, because the memory is coherent (drivers.md 5.2)."""
    row = dma_buf.IOCTLS["DMA_BUF_IOCTL_SYNC"]
    fail_if(request >> 8 & 0xFF != ord("b"), errno.ENOTTY)
    if request & 0xFF != row.nr:
        raise linux.not_modelled(f"dma-buf ioctl 0x{request & 0xFF:02x} (request 0x{request:08x})")
    fail_if(len(arg) < 8, errno.EFAULT)
    flags = row.layout(linux.pointer_size).number(arg, "flags")
    fail_if(flags & ~(dma_buf.SYNC_RW | dma_buf.SYNC_END) or not flags & dma_buf.SYNC_RW, errno.EINVAL)
    return 0
