"""Ioctls of an open v3d node: packs arguments, repeats interrupted calls, refuses a closed or a forked node."""

from __future__ import annotations

from qpu.drivers.base import check_usable
from qpu.drivers.drm.identity import get_param
from qpu.drivers.drm.nodes import Node
from qpu.drivers.port import Port, retrying
from qpu.drivers.uapi import drm
from qpu.drivers.uapi.drm import Param
from qpu.drivers.uapi.layout import Layout

__all__ = ["Calls"]


class Calls:
    """Calls on an open node, by the name of the ioctl.

    closing: the device is being closed; calls are refused. closed: the descriptor is gone.
    """

    def __init__(self, port: Port, node: Node) -> None:
        self._port = port
        self._node = node
        self._pid = port.getpid()
        self._rows = {
            name: (r.request(port.pointer_size), r.layout(port.pointer_size)) for name, r in drm.IOCTLS.items()
        }
        self.closing = False
        self.closed = False

    @property
    def node(self) -> str:
        """Path of the node."""
        return self._node.path

    @property
    def alive(self) -> bool:
        """True while this process can close handles: the node is open, and this process has opened it."""
        return not self.closed and self._port.getpid() == self._pid

    def usable(self) -> int:
        """The descriptor. Raises: UsageError when the device is closed or was inherited through fork."""
        mine = self._port.getpid() == self._pid
        if self.closing or not mine:
            check_usable(self.closing, mine)  # raises
        return self._node.fd

    def what(self, name: str) -> str:
        """Node and call, for messages."""
        return f"{self._node.path}: {name.removeprefix('DRM_IOCTL_')}"

    def layout(self, name: str) -> Layout:
        """The structure of an ioctl's argument."""
        return self._rows[name][1]

    def pack(self, name: str, **values: int | bytes | tuple[int, ...]) -> bytearray:
        """The argument of an ioctl."""
        return self._rows[name][1].pack(**values)

    def number(self, name: str, arg: bytearray, field: str) -> int:
        """A field of an argument."""
        return self._rows[name][1].number(arg, field)

    def send(self, name: str, arg: bytearray) -> bytearray:
        """One ioctl, repeated while signals interrupt it; returns the argument. Raises: OSError."""
        retrying(self._port, self.usable(), self._rows[name][0], arg)
        return arg

    def once(self, name: str, arg: bytearray) -> None:
        """One ioctl, not repeated. Raises: OSError, InterruptedError among them."""
        self._port.ioctl(self.usable(), self._rows[name][0], arg)

    def request(self, name: str, **values: int | bytes | tuple[int, ...]) -> bytearray:
        """Pack an argument and send it; returns the argument. Raises: OSError."""
        return self.send(name, self.pack(name, **values))

    def get_param(self, param: Param) -> int | None:
        """A GET_PARAM value; None when this Linux does not know the parameter. Raises: DriverError."""
        return get_param(self._port, self.usable(), self._node.path, param)
