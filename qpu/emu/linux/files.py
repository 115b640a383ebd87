"""The files of an emulated board that board detection reads: device tree, /proc/cpuinfo, /sys/class/drm, /dev."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qpu.core.isa import Isa
from qpu.drivers.port import FileStat
from qpu.emu.boards import BoardProfile

__all__ = ["OWNED", "FileTree", "Node", "board_files"]

# Paths that belong to the board: below them, only files of the emulated tree exist.
OWNED = tuple(
    "/proc/device-tree /proc/cpuinfo /sys/firmware/devicetree /sys/class/drm /sys/bus/platform/drivers/v3d "
    "/sys/bus/platform/drivers/vc4-drm /sys/devices/platform/emulated /dev/dri /dev/vcio /dev/vcsm /dev/vcsm-cma "
    "/dev/vchiq /dev/mem /dev/gpiomem /dev/dma_heap".split()
)

_MAX_LINKS = 40
_GROUPS = {"root": 0, "kmem": 15, "video": 44, "render": 106, "gpio": 993}


@dataclass(slots=True)
class Node:
    """A file, directory, symbolic link or device. device: key of `Linux.openers`, such as ``v3d-card``."""

    mode: int
    group: str = "root"
    data: bytes = b""
    target: str = ""
    device: str = ""
    rdev: tuple[int, int] = (0, 0)
    names: set[str] = field(default_factory=set)  # of a directory

    @property
    def kind(self) -> int:
        """The type bits of the mode."""
        return stat.S_IFMT(self.mode)

    def as_stat(self) -> FileStat:
        """The result of `Port.stat`."""
        return FileStat(self.mode, 0, _GROUPS[self.group], "root", self.group)


class FileTree:
    """A tree of nodes by path. Methods raise OSError with the errno of Linux."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {"/": Node(stat.S_IFDIR | 0o755)}

    def _add(self, path: str, node: Node) -> None:
        parent, name = posixpath.split(path)
        if parent not in self._nodes:
            self._add(parent, Node(stat.S_IFDIR | 0o755))
        self._nodes[parent].names.add(name)
        self._nodes[path] = node

    def file(self, path: str, data: bytes | str) -> None:
        """Add a readable file."""
        raw = data.encode() if isinstance(data, str) else data
        self._add(path, Node(stat.S_IFREG | 0o444, data=raw))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, Node(stat.S_IFLNK | 0o777, target=target))

    def directory(self, path: str) -> None:
        """Add an empty directory."""
        self._add(path, Node(stat.S_IFDIR | 0o755))

    def device(self, path: str, device: str, mode: int, group: str, rdev: tuple[int, int]) -> None:
        """Add a character device."""
        self._add(path, Node(stat.S_IFCHR | mode, group, device=device, rdev=rdev))

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return iter(self._nodes.items())

    def resolve(self, path: str, *, follow: bool = True, shown: Any = None) -> tuple[str, Node]:
        """The real path and its node. shown: the path for errors. Raises: OSError ENOENT, ENOTDIR, ELOOP."""
        shown = path if shown is None else shown
        todo = [p for p in path.split("/") if p not in ("", ".")]
        at = "/"
        links = 0
        while todo:
            name = todo.pop(0)
            here = self._nodes[at]
            if here.kind != stat.S_IFDIR:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), shown)
            if name == "..":
                at = posixpath.dirname(at)
                continue
            below = posixpath.join(at, name)
            node = self._nodes.get(below)
            if node is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), shown)
            if node.kind == stat.S_IFLNK and (todo or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), shown)
                parts = [p for p in node.target.split("/") if p not in ("", ".")]
                todo = parts + todo
                if node.target.startswith("/"):
                    at = "/"
                continue
            at = below
        return at, self._nodes[at]

    def read(self, path: str) -> bytes:
        """The contents of a file."""
        _, node = self.resolve(path)
        if node.kind == stat.S_IFDIR:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if node.kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return node.data

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        _, node = self.resolve(path)
        if node.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return sorted(node.names)

    def readlink(self, path: str) -> str:
        """The target of a link, not resolved."""
        _, node = self.resolve(path, follow=False)
        if node.kind != stat.S_IFLNK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return node.target


def board_files(profile: BoardProfile) -> FileTree:
    """The file tree of a board. Source of names, owners and modes: drivers.md 1.1, 6.1, 7."""
    tree = FileTree()
    _device_tree(tree, profile)
    _cpuinfo(tree, profile)
    if profile.is_drm or profile.kms:
        _drm(tree, profile)
    else:
        tree.directory("/sys/class/drm")
    tree.device("/dev/mem", "mem", 0o640, "kmem", (1, 1))
    tree.device("/dev/gpiomem", "gpiomem", 0o660, "gpio", (240, 0))
    tree.device("/dev/vcio", "vcio", 0o660, "video", (100, 0))
    if profile.vcsm in ("both", "cma"):
        tree.device("/dev/vcsm-cma", "vcsm-cma", 0o660, "video", (10, 61))
    if profile.vcsm in ("both", "plain"):
        tree.device("/dev/vcsm", "vcsm", 0o660, "video", (244, 0))
    return tree


def _u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _u64(*values: int) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


def _device_tree(tree: FileTree, profile: BoardProfile) -> None:
    base = "/sys/firmware/devicetree/base"
    tree.link("/proc/device-tree", base)
    tree.file(f"{base}/model", profile.model + "\0")
    tree.file(f"{base}/compatible", f"{profile.compatible}\0brcm,{profile.soc.lower()}\0")
    tree.file(f"{base}/serial-number", "10000000deadbeef\0")
    tree.file(f"{base}/system/linux,revision", _u32(profile.revision))
    tree.file(f"{base}/system/linux,serial", _u64(0x10000000DEADBEEF))
    if profile.isa is Isa.VC4:
        tree.file(f"{base}/soc/ranges", _u32(0x7E000000, profile.peripheral_base, 0x01000000))
        alias = 0x40000000 if profile.soc == "BCM2835" else 0xC0000000
        tree.file(f"{base}/axi/vc_mem/reg", _u32(profile.gpu_mem_base, profile.gpu_mem, alias))
        tree.file(f"{base}/soc/v3d@7ec00000/compatible", "brcm,bcm2835-v3d\0")
        tree.file(f"{base}/soc/v3d@7ec00000/status", "okay\0" if profile.kms else "disabled\0")
        tree.file(f"{base}/soc/v3d@7ec00000/reg", _u32(0x7EC00000, 0x1000))
    elif profile.isa is Isa.V3D42:
        # Two-cell parent addresses: the base is the third word (drivers.md 6.1).
        tree.file(f"{base}/soc/ranges", _u32(0x7E000000, 0, profile.peripheral_base, 0x01800000))
        reg = _u64(0xFEC00000, 0x4000, 0xFEC04000, 0x4000)
        _v3d_node(tree, base, "/v3dbus/v3d@7ec04000", "brcm,2711-v3d\0", reg, "hub\0core0\0")
    else:
        reg = _u64(0x1002000000, 0x4000, 0x1002008000, 0x6000, 0x1002030800, 0x700)
        _v3d_node(tree, base, "/axi/v3d@2000000", "brcm,2712-v3d\0", reg, "hub\0core0\0sms\0")


def _v3d_node(tree: FileTree, base: str, node: str, compatible: str, reg: bytes, names: str) -> None:
    tree.file(f"{base}/__symbols__/v3d", node + "\0")
    tree.file(f"{base}{node}/compatible", compatible)
    tree.file(f"{base}{node}/reg", reg)
    tree.file(f"{base}{node}/reg-names", names)
    tree.file(f"{base}{node}/status", "okay\0")


# Number of cores, "CPU part" of Arm. Detection reads only the lines Revision and Model.
_CPUS = {"BCM2835": (1, 0xB76), "BCM2836": (4, 0xC07), "BCM2837": (4, 0xD03)}
_CPUS |= {"BCM2711": (4, 0xD08), "BCM2712": (4, 0xD0B)}


def _cpuinfo(tree: FileTree, profile: BoardProfile) -> None:
    cores, part = _CPUS[profile.soc]
    text = "".join(f"processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: 0x{part:03x}\n\n" for n in range(cores))
    revision = f"{profile.revision:04x}" if profile.revision < 0x800000 else f"{profile.revision:06x}"
    text += f"Hardware\t: BCM2835\nRevision\t: {revision}\nSerial\t\t: 10000000deadbeef\nModel\t\t: {profile.model}\n"
    tree.file("/proc/cpuinfo", text)


@dataclass(frozen=True, slots=True)
class _Card:
    driver: str
    device: str  # below /sys/devices/platform/emulated
    compatible: str
    by_path: str
    render: bool


def _cards(profile: BoardProfile) -> list[_Card]:
    """The display and GPU cards in order of their numbers."""
    if profile.isa is Isa.VC4:
        return [_Card("vc4", "soc:gpu", "brcm,bcm2835-vc4", "platform-soc:gpu", True)]
    if profile.isa is Isa.V3D42:
        v3d = _Card("v3d", "fec00000.v3d", "brcm,2711-v3d", "platform-fec00000.v3d", True)
        vc4 = _Card("vc4", "gpu", "brcm,bcm2711-vc5", "platform-gpu", False)
    else:
        v3d = _Card("v3d", "1002000000.v3d", "brcm,2712-v3d", "platform-1002000000.v3d", True)
        vc4 = _Card("vc4", "axi:gpu", "brcm,bcm2712-vc6", "platform-axi:gpu", False)
    return [v3d, vc4] if profile.card == 0 else [vc4, v3d]


def _drm(tree: FileTree, profile: BoardProfile) -> None:
    renders = 128
    for number, card in enumerate(_cards(profile)):
        home = f"/sys/devices/platform/emulated/{card.device}"
        module = "v3d" if card.driver == "v3d" else "vc4-drm"
        tree.file(f"{home}/uevent", f"DRIVER={module}\nOF_COMPATIBLE_0={card.compatible}\nOF_COMPATIBLE_N=1\n")
        tree.link(f"{home}/driver", f"/sys/bus/platform/drivers/{module}")
        tree.directory(f"/sys/bus/platform/drivers/{module}")
        if card.driver == "v3d" and not profile.old_linux:
            tree.file(f"{home}/gpu_stats", "queue\ttimestamp\tjobs\truntime\n")
        nodes = [(f"card{number}", number, "video", "card")]
        if card.render:
            # Minor numbers follow the order of probing; only cards with a render node have one.
            nodes.append((f"renderD{renders}", renders, "render", "render"))
            renders += 1
        for name, minor, group, suffix in nodes:
            entry = f"{home}/drm/{name}"
            tree.file(f"{entry}/dev", f"226:{minor}\n")
            tree.file(f"{entry}/uevent", f"MAJOR=226\nMINOR={minor}\nDEVNAME=dri/{name}\nDEVTYPE=drm_minor\n")
            tree.link(f"{entry}/device", home)
            tree.link(f"/sys/class/drm/{name}", entry)
            tree.device(f"/dev/dri/{name}", f"{card.driver}-{suffix}", 0o660, group, (226, minor))
            tree.link(f"/dev/dri/by-path/{card.by_path}-{suffix}", f"../{name}")
