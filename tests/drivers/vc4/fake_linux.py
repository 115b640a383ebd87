"""Scripted Raspberry Pi 0-3 as a `Port`: decodes bytes itself, keeps allocations, fails on command."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

from qpu.drivers.board import Board
from qpu.drivers.port import FileStat, Lock

PAGE = 4096
PI3 = Board("Raspberry Pi 3 Model B Rev 1.2", soc="BCM2837", generation=4, revision=0xA02082)
PI1 = Board("Raspberry Pi Model B Rev 2", soc="BCM2835", generation=4, revision=0x000E)

REQUESTS = {0xC0086400: 8, 0xC0046400: 4}
IDENT0, IDENT1 = 0x02443356, 0x10 << 16 | 2 << 12 | 4 << 8 | 3 << 4 | 1


class FakeMapping:
    """A map that behaves as a real one: a new view each time, and the unmap fails while a view is alive."""

    def __init__(self, linux: FakeLinux, memory: bytearray) -> None:
        self._kernel = linux
        self._memory: bytearray | None = memory
        self.address = 0x76000000
        linux.maps.append(self)

    @property
    def view(self) -> memoryview:
        assert self._memory is not None, "view of a closed mapping"
        return memoryview(self._memory)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.append(0)  # BufferError while views are alive
            self._memory.pop()
            self._memory = None
            self._kernel.maps.remove(self)
            self._kernel.log.append(("munmap",))


class FakeRegisters:
    """V3D: powered or not, a queue, programs that take `steps` polls each, or never end."""

    def __init__(self, linux: FakeLinux) -> None:
        self.linux = linux
        self.open = True
        linux.register_maps.append(self)

    def read32(self, offset: int) -> int:
        assert self.open
        k = self.linux
        k.done(k.step(("read32", offset)))
        if not k.powered:
            return 0xDEADBEEF
        if offset == 0x000:
            return IDENT0
        if offset == 0x004:
            return k.ident1
        if offset == 0x43C:
            if k.queued and not k.hang:
                k.polls += 1
                if k.polls >= k.steps:
                    k.completed = (k.completed + len(k.queued)) & 255
                    k.queued.clear()
                    k.polls = 0
            return k.completed << 16 | (k.requested & 255) << 8 | k.overflow << 7 | k.foreign
        return k.regs.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        assert self.open
        assert 0 <= value < 1 << 32
        k = self.linux
        n = k.step(("write32", offset, value))
        if k.powered:
            self._take(offset, value)
        k.done(n)

    def _take(self, offset: int, value: int) -> None:
        k = self.linux
        k.regs[offset] = value
        if offset == 0x43C:
            if value & 1 << 16:
                k.completed = 0
            if value & 1 << 8:
                k.requested = 0
            if value & 1:
                k.queued.clear()
        elif offset == 0x430:
            k.requested += 1
            k.queued.append((k.regs[0x434], value))
            k.started.append((k.regs[0x434], value))

    def close(self) -> None:
        if self.open:
            self.open = False
            self.linux.register_maps.remove(self)


class FakeLinux:
    """Implements Port. `fail[n] = exception` fails call n (from 0) before it acts, `after[n]` when it has acted."""

    def __init__(self, *, pointer_size: int = 8, nodes: tuple[str, ...] = ("vcio", "vcsm-cma", "mem")) -> None:
        self.pointer_size = pointer_size
        self.page_size = PAGE
        self.emulated: str | None = "fake"
        self.nodes: dict[str, int] = {f"/dev/{n}": 0 for n in nodes}  # path -> errno of opening, 0 = fine
        self.files: dict[str, bytes] = {}
        self.log: list[tuple[Any, ...]] = []
        self.fail: dict[int, BaseException] = {}
        self.after: dict[int, BaseException] = {}
        self.calls = 0
        self.fds: dict[int, Any] = {}
        self.maps: list[FakeMapping] = []
        self.register_maps: list[FakeRegisters] = []
        self.handles: dict[int, list[Any]] = {}  # firmware memory: handle -> [size, flags, locks, bus, bytes]
        self.guids: dict[int, list[Any]] = {}  # VCSM: guid -> [size, cached, locked, bytes]
        self.memory: list[tuple[int, bytearray]] = []  # bus address -> bytes, for reading control blocks
        self.powered = False
        self.requested = 0  # programs started by register since the count was cleared
        self.foreign = 0  # queued programs of other processes
        self.lock_holders: list[Lock] = []  # of other processes
        self.refuse_enable = False
        self.execute: Callable[[int, int, int, int], int] = lambda n, control, noflush, ms: 0
        self.executed: list[list[tuple[int, int]]] = []
        self.unknown_tags: dict[int, str] = {}  # id -> "einval" or "bit31" or "once"
        self.no_memory = False
        self.strict_devmem = False
        self.tags: list[int] = []
        self.time = 0.0
        self.pid = os.getpid()
        self.ident1 = IDENT1
        self.regs: dict[int, int] = {}
        self.queued: list[tuple[int, int]] = []
        self.started: list[tuple[int, int]] = []
        self.completed = self.polls = self.overflow = 0
        self.steps = 3
        self.hang = False
        self._next = 0x100

    # bookkeeping

    def step(self, entry: tuple[Any, ...]) -> int:
        n = self.calls
        self.calls += 1
        self.log.append(entry)
        if n in self.fail:
            raise self.fail[n]
        return n

    def log_index(self, n: int) -> tuple[Any, ...]:
        """The log entry of call n; closing and unmapping do not count as calls."""
        return [e for e in self.log if e[0] not in ("close", "munmap")][n]

    def done(self, n: int) -> None:
        if n in self.after:
            raise self.after[n]

    def left(self) -> list[str]:
        """What is still allocated, open, mapped or powered."""
        found = [f"fd {fd}: {what}" for fd, what in self.fds.items()]
        found += [f"map {m!r}" for m in self.maps] + [f"registers {r!r}" for r in self.register_maps]
        found += [f"firmware memory {h}" for h in self.handles] + [f"vcsm {g:#x}" for g in self.guids]
        return found + (["V3D powered"] if self.powered else [])

    def number(self, step: int = 1) -> int:
        self._next += step
        return self._next

    # Port

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        n = self.step(("open", path, read_only, sync))
        code = self.nodes.get(path, errno.ENOENT)
        if code:
            raise OSError(code, os.strerror(code), path)
        fd = self.number()
        self.fds[fd] = path
        self.done(n)
        return fd

    def close(self, fd: int) -> None:
        self.log.append(("close", self.fds[fd] if isinstance(self.fds[fd], str) else "dmabuf"))
        del self.fds[fd]

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        what = self.fds[fd]
        name = what if isinstance(what, str) else "dmabuf"
        n = self.step(("ioctl", name, request, bytes(arg)))
        if what == "/dev/vcio":
            self._property(request, arg)
        elif what == "/dev/vcsm-cma":
            self._cma(request, arg)
        elif what == "/dev/vcsm":
            self._vcsm(request, arg)
        elif not isinstance(what, str):
            assert request == 0x40086200
            assert struct.unpack("<Q", arg)[0] in (3, 7)
        else:
            raise OSError(errno.ENOTTY, "not a device")
        self.done(n)
        return 0

    def flock(self, fd: int, lock: Lock) -> None:
        n = self.step(("flock", self.fds[fd], lock.value))
        others = self.lock_holders
        if lock is not Lock.NONE and (Lock.EXCLUSIVE in others or (lock is Lock.EXCLUSIVE and others)):
            raise OSError(errno.EAGAIN, "locked")
        self.done(n)

    def mmap(self, fd: int, size: int, offset: int) -> FakeMapping:
        n = self.step(("mmap", size, offset))
        what = self.fds[fd]
        if what == "/dev/mem":
            if self.strict_devmem:
                raise OSError(errno.EPERM, "denied")
            (entry,) = (h for h in self.handles.values() if h[2] and h[3] & 0x3FFFFFFF == offset)
            data = entry[4]
        elif what == "/dev/vcsm":
            data = self.guids[offset][3]
        else:
            assert offset == 0
            data = what
        assert size == len(data)
        made = FakeMapping(self, data)
        self.done(n)
        return made

    def mmio(self, base: int, size: int) -> FakeRegisters:
        n = self.step(("mmio", base, size))
        code = self.nodes.get("/dev/mem", errno.ENOENT)
        if code:
            raise OSError(code, os.strerror(code), "/dev/mem")
        made = FakeRegisters(self)
        try:
            self.done(n)
        except BaseException:
            made.close()  # a map that the caller did not get is unmapped with its object
            raise
        return made

    def read_bytes(self, path: str) -> bytes:
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "none", path) from None

    def listdir(self, path: str) -> list[str]:
        raise FileNotFoundError(errno.ENOENT, "none", path)

    def readlink(self, path: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "none", path)

    def stat(self, path: str) -> FileStat:
        if path in self.nodes or any(f.startswith(path + "/") for f in self.files):
            return FileStat(0o20660, 0, 44, "root", "video")
        raise FileNotFoundError(errno.ENOENT, "none", path)

    def monotonic(self) -> float:
        self.time += 1e-6
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds

    def getpid(self) -> int:
        return self.pid

    # memory services

    def _fresh(self, size: int, bus: int) -> bytearray:
        data = bytearray(b"\xa5" * size)
        self.memory.append((bus, data))
        return data

    def _bus(self, top: int) -> int:
        return top | self.number(0x40) * PAGE

    def _cma(self, request: int, arg: bytearray) -> None:
        if request != 0x80404A5A:
            raise OSError(errno.EINVAL, "unknown")
        size, num, _, _ = struct.unpack_from("<4I", arg)
        assert num == 1
        assert size % PAGE == 0
        assert arg[16:48].rstrip(b"\0") == b"qpu"
        if self.no_memory or size == 0:
            raise OSError(errno.ENOMEM, "no memory")
        bus = self._bus(0xC0000000)
        fd = self.number()
        self.fds[fd] = self._fresh(size, bus)
        struct.pack_into("<iIQ", arg, 48, fd, 5, bus)

    def _vcsm(self, request: int, arg: bytearray) -> None:
        nr = request & 255
        if nr == 0x5A:
            size, _, cached = struct.unpack_from("<3I", arg)
            if self.no_memory:
                raise OSError(errno.ENOMEM, "no memory")
            guid = self.number() * PAGE
            bus = self._bus(0x40000000 if cached == 2 else 0xC0000000)
            self.guids[guid] = [size, cached, False, self._fresh(size, bus), bus]
            struct.pack_into("<I", arg, 44, guid)
            return
        at = 4 if nr == 0x6A else 0
        guid = struct.unpack_from("<I", arg, at)[0]
        if guid not in self.guids:
            raise OSError(errno.EINVAL, "no such handle")
        entry = self.guids[guid]
        if nr == 0x5C:
            entry[2] = True
            struct.pack_into("<I", arg, 4, 0x76000000)
        elif nr == 0x5E:
            if not entry[2]:
                raise OSError(errno.EINVAL, "not locked")
            assert struct.unpack_from("<I", arg, 4)[0] == 0x76000000
            entry[2] = False
        elif nr == 0x61:
            if entry[2]:
                raise OSError(errno.EBUSY, "freed while locked")
            del self.guids[guid]
        elif nr == 0x6A:
            assert struct.unpack_from("<I", arg)[0] == self.pid
            struct.pack_into("<I", arg, 8, entry[4])
        else:
            raise OSError(errno.EINVAL, "unknown")

    # firmware

    def _property(self, request: int, arg: bytearray) -> None:
        if REQUESTS.get(request) != self.pointer_size:
            raise OSError(errno.EINVAL, "unknown request")
        words = list(struct.unpack(f"<{len(arg) // 4}I", arg))
        if words[0] != len(arg) or words[1] != 0 or words[-1] != 0:
            raise OSError(errno.EINVAL, "malformed")
        at = 2
        while at < len(words) - 1:
            tag, area = words[at], words[at + 1] // 4
            self.tags.append(tag)
            manner = self.unknown_tags.get(tag)
            if manner in ("einval", "once"):
                if manner == "once":
                    del self.unknown_tags[tag]
                raise OSError(errno.EINVAL, "status 0x80000001")
            if manner is None:
                given = words[at + 3 : at + 3 + words[at + 2] // 4]
                answer = self._tag(tag, given)
                words[at + 2] = 0x80000000 | 4 * len(answer)
                words[at + 3 : at + 3 + min(area, len(answer))] = answer[:area]
            at += 3 + area
        assert at == len(words) - 1
        words[1] = 0x80000000
        struct.pack_into(f"<{len(words)}I", arg, 0, *words)

    def _tag(self, tag: int, v: list[int]) -> list[int]:
        if tag == 0x3000C:
            if self.no_memory:
                return [0]
            handle = self.number()
            self.handles[handle] = [v[0], v[2], 0, 0, None]
            return [handle]
        if tag == 0x3000D:
            entry = self.handles.get(v[0])
            if entry is None:
                return [0]
            entry[2] += 1
            entry[3] = self._bus({4: 0xC0000000, 12: 0x40000000}[entry[1]])
            entry[4] = self._fresh(entry[0], entry[3])
            return [entry[3]]
        if tag in (0x3000E, 0x3000F):
            entry = self.handles.get(v[0])
            if entry is None:
                return [1]
            if tag == 0x3000E and entry[2] == 0:
                return [1]
            if tag == 0x3000E:
                entry[2] -= 1
            else:
                if entry[2]:
                    return [1]  # released while locked
                del self.handles[v[0]]
            return [0]
        if tag == 0x30012:
            if self.refuse_enable:
                return [0x80000001]
            self.powered = bool(v[0])
            if not self.powered:
                self.queued.clear()
                self.requested = self.completed = 0
            return [0]
        if tag == 0x30011:
            assert self.powered
            self.executed.append(self.block(v[1], v[0]))
            return [self.execute(*v)]
        return {
            0x00001: [1700000000],
            0x10002: [0x00A02082],
            0x10004: [0x89ABCDEF, 0x01234567],
            0x10005: [0, 0x3B400000],
            0x10006: [0x3B400000, 0x04C00000],
            0x30002: [v[0] if v else 0, {3: 1200000000, 5: 300000000}.get(v[0] if v else 0, 0)],
            0x30004: [5, 400000000],
            0x30047: [v[0] if v else 0, 299000000],
            0x30006: [0, 48312],
            0x3000A: [0, 85000],
            0x30046: [0x50005],
            0x30003: [1, 0xFFFFFF9C],
            0x50001: list(struct.unpack("<3I", b"root=/dev/x\0")),
        }.get(tag, [*v, 0][:2])

    def block(self, bus: int, count: int) -> list[tuple[int, int]]:
        for base, data in self.memory:
            if 0 <= bus - base < len(data):
                words = struct.unpack_from(f"<{2 * count}I", data, bus - base)
                return list(zip(words[::2], words[1::2], strict=True))
        raise AssertionError(f"control block at 0x{bus:x} is in no memory")
