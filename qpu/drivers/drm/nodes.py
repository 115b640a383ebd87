"""Search for the V3D node among the DRM nodes, by the name of the driver and never by number (drivers.md 1.1)."""

from __future__ import annotations

import errno
import re
from array import array
from dataclasses import dataclass

from qpu.drivers import board
from qpu.drivers.errors_table import close_node, errno_rows, fault, permission_detail
from qpu.drivers.port import Port, retrying
from qpu.drivers.uapi import drm
from qpu.errors import DriverError

__all__ = ["BY_PATH", "Node", "Tried", "candidates", "driver_of", "find_v3d", "looks_like_v3d"]

DRI = "/dev/dri"
_ROWS = errno_rows("enodev: ENODEV ENXIO, enotty: ENOTTY EISDIR, not-linux: ENOSYS, emfile: EMFILE")

# Names that udev makes from the bus address and the device-tree node name: the Raspberry Pi trees call the node v3d,
# mainline trees gpu (uncertain). `platform-gpu-card` and `platform-axi:gpu-card` are the display device.
BY_PATH = re.compile(r"platform-(fec00000|1002000000)\.(v3d|gpu)-(card|render)")


@dataclass(frozen=True, slots=True)
class Node:
    """An open node of the v3d driver. version: as the driver reports it, such as ``1.0.0``."""

    path: str
    fd: int
    version: str


@dataclass(frozen=True, slots=True)
class Tried:
    """A node that was rejected. driver: name of its driver, empty when unknown. errno: error of the attempt."""

    path: str
    driver: str = ""
    errno: int | None = None


def driver_of(port: Port, fd: int) -> tuple[str, str]:
    """Name and version of the driver of an open DRM node. Raises: OSError (ENOTTY: not a DRM node)."""
    row = drm.ioctl("VERSION")
    layout = row.layout(port.pointer_size)
    name, rest = array("B", bytes(64)), array("B", bytes(64))
    arg = layout.pack(
        name=name.buffer_info()[0],
        name_len=len(name),
        date=rest.buffer_info()[0],
        date_len=0,
        desc=rest.buffer_info()[0],
        desc_len=0,
    )
    retrying(port, fd, row.request(port.pointer_size), arg)
    length = min(layout.number(arg, "name_len"), len(name))
    numbers = (layout.number(arg, f"version_{part}") for part in ("major", "minor", "patchlevel"))
    return name.tobytes()[:length].decode("utf-8", "replace"), ".".join(map(str, numbers))


def candidates(port: Port) -> list[str]:
    """Paths of all DRM nodes: render nodes, then cards, by number; then by-path links to other nodes.

    Raises: OSError when there is no /dev/dri.
    """
    names = port.listdir(DRI)
    found: list[str] = []
    for prefix in ("renderD", "card"):
        numbers = [int(n[len(prefix) :]) for n in names if n.startswith(prefix) and n[len(prefix) :].isdigit()]
        found += [f"{DRI}/{prefix}{n}" for n in sorted(numbers)]
    for link in by_path(port):
        if f"{DRI}/{link[1]}" not in found:
            found.append(f"{DRI}/by-path/{link[0]}")
    return found


def by_path(port: Port) -> list[tuple[str, str]]:
    """By-path names of V3D nodes, each with the name of the node that it links to."""
    try:
        names = port.listdir(f"{DRI}/by-path")
    except OSError:
        return []
    found: list[tuple[str, str]] = []
    for name in names:
        if BY_PATH.fullmatch(name):
            try:
                found.append((name, port.readlink(f"{DRI}/by-path/{name}").rpartition("/")[2]))
            except OSError:
                continue
    return found


def looks_like_v3d(port: Port, path: str) -> bool:
    """True when sysfs or a by-path name shows that a node belongs to v3d; the node is not opened."""
    name = path.rpartition("/")[2]
    if BY_PATH.fullmatch(name) or any(target == name for _, target in by_path(port)):
        return True
    uevent = board.read(port, f"/sys/class/drm/{name}/device/uevent") or b""
    return b"DRIVER=v3d" in uevent.splitlines()


def v3d_node(port: Port) -> str | None:
    """The path of the v3d node as sysfs or a by-path name shows it; nothing is opened."""
    try:
        return next((path for path in candidates(port) if looks_like_v3d(port, path)), None)
    except OSError:
        return None


def node_without_file(port: Port) -> str | None:
    """The name of a v3d node that sysfs has and /dev/dri has not: nothing makes device files on this system."""
    try:
        names = port.listdir("/sys/class/drm")
    except OSError:
        return None
    for name in sorted(names, reverse=True):  # render nodes first
        if re.fullmatch(r"(renderD|card)\d+", name) and looks_like_v3d(port, f"{DRI}/{name}"):
            return None if board.exists(port, f"{DRI}/{name}") else name
    return None


def find_v3d(port: Port, path: str | None = None, container: str | None = None) -> Node:
    """Open the v3d node: the one at `path`, else the first whose driver has the name v3d.

    Raises: DriverError with the reason and its help, which tells missing permission from a node of another driver.
    """
    if path is not None:
        node = _try(port, path)
        if isinstance(node, Node):
            return node
        raise _explicit(port, node)
    try:
        paths = candidates(port)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise fault("eacces-open", DRI, error.errno, permission_detail(port, DRI)) from error
        raise _absent(port, container, error.errno) from error
    if not paths:
        raise _absent(port, container, None)
    tried: list[Tried] = []
    for candidate in paths:
        node = _try(port, candidate)
        if isinstance(node, Node):
            return node
        tried.append(node)
    raise _none(port, tried)


def _try(port: Port, path: str) -> Node | Tried:
    try:
        fd = port.open(path)
    except OSError as error:
        return Tried(path, errno=error.errno)
    keep = False
    try:
        name, version = driver_of(port, fd)
        keep = name == "v3d"
        return Node(path, fd, version) if keep else Tried(path, name)
    except OSError as error:
        return Tried(path, errno=error.errno)
    finally:
        if not keep:
            close_node(port, fd, path)


def _absent(port: Port, container: str | None, number: int | None) -> DriverError:
    """The error of a system without any node of DRM."""
    missing = None if container else node_without_file(port)
    if missing is not None:
        return fault("no-node-file", DRI, number, f"sysfs has {missing}")
    detail = "" if number is not None else "the directory is empty"
    return fault("no-dri-container" if container else "no-dri", DRI, number, detail)


def _explicit(port: Port, node: Tried) -> DriverError:
    right = v3d_node(port)
    known = f"the v3d node is {right}" if right not in (None, node.path) else ""
    if node.errno is None:
        return fault("wrong-card", node.path, None, "; ".join(filter(None, (f"its driver is {node.driver}", known))))
    if node.errno in (errno.EACCES, errno.EPERM):
        return fault("eacces-open", node.path, node.errno, permission_detail(port, node.path))
    if node.errno == errno.ENOENT:
        if not board.exists(port, DRI) and board.detect(port).generation in (6, 7):
            return _absent(port, None, node.errno)
        return fault("no-node", node.path, node.errno, "; ".join(filter(None, (_present(port), known))))
    return fault(_ROWS.get(node.errno, "unexpected"), node.path, node.errno)


def _present(port: Port) -> str:
    try:
        names = ", ".join(sorted(path.rpartition("/")[2] for path in candidates(port)))
    except OSError:
        return ""
    return f"in {DRI} are: {names}" if names else ""


def _none(port: Port, tried: list[Tried]) -> DriverError:
    denied = [t for t in tried if t.errno in (errno.EACCES, errno.EPERM)]
    likely = [t for t in denied if looks_like_v3d(port, t.path)]
    if likely or denied:
        first = (likely or denied)[0]
        detail = "; ".join(filter(None, ("this is the v3d node" if likely else "", *_seen(tried))))
        facts = permission_detail(port, first.path)
        return fault("eacces-open", first.path, first.errno, "; ".join(filter(None, (facts, detail))))
    broken = [t for t in tried if t.errno is not None]
    if broken and len(broken) == len(tried):
        return fault(_ROWS.get(broken[0].errno or 0, "unexpected"), broken[0].path, broken[0].errno)
    return fault("no-v3d", DRI, None, "; ".join(_seen(tried)))


def _seen(tried: list[Tried]) -> list[str]:
    names = [f"{t.path.rpartition('/')[2]} is {t.driver}" for t in tried if t.driver]
    return [f"found {', '.join(names)}"] if names else []
