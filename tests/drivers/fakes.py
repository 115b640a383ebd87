"""Scripted DRM driver as a `Port`: keeps handles as Linux does, records calls, fails on demand."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

from qpu.drivers.port import FileStat
from qpu.drivers.uapi import drm
from qpu.drivers.uapi.drm import Param

PARAMS_71: dict[Param, int] = {
    Param.V3D_UIFCFG: 0x45,
    Param.V3D_HUB_IDENT1: 0x000E1117,
    Param.V3D_HUB_IDENT2: 0x100,
    Param.V3D_HUB_IDENT3: 7 << 8,
    Param.V3D_CORE0_IDENT0: 0x07443356,
    Param.V3D_CORE0_IDENT1: 0x004441,
    Param.V3D_CORE0_IDENT2: 0,
    Param.SUPPORTS_TFU: 1,
    Param.SUPPORTS_CSD: 1,
    Param.SUPPORTS_CACHE_FLUSH: 1,
    Param.SUPPORTS_PERFMON: 1,
    Param.SUPPORTS_MULTISYNC_EXT: 1,
    Param.SUPPORTS_CPU_QUEUE: 1,
    Param.MAX_PERF_COUNTERS: 93,
    Param.SUPPORTS_SUPER_PAGES: 0,
    Param.GLOBAL_RESET_COUNTER: 0,
    Param.CONTEXT_RESET_COUNTER: 0,
}
PARAMS_42 = PARAMS_71 | {
    Param.V3D_HUB_IDENT1: 0x000E1124,
    Param.V3D_HUB_IDENT3: 0xE00,
    Param.V3D_CORE0_IDENT0: 0x04443356,
    Param.V3D_CORE0_IDENT1: 0x81001422,
    Param.V3D_CORE0_IDENT2: 0x40078121,
    Param.MAX_PERF_COUNTERS: 87,
}
OLD = {p: v for p, v in PARAMS_42.items() if p <= Param.SUPPORTS_CSD}


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeMapping:
    def __init__(self, port: FakePort, data: bytearray) -> None:
        self.port, self.data = port, data
        self.closed = False

    @property
    def view(self) -> memoryview:
        return memoryview(self.data)

    @property
    def address(self) -> int:
        return 0x1000

    def close(self) -> None:
        if not self.closed:
            self.data.append(0)  # BufferError while viewed, as mmap
            self.data.pop()
            self.closed = True
            self.port.maps -= 1


class FakePort:
    """nodes: path -> driver name, or an errno that opening it gives. files, links, dirs: the rest of the tree.

    before(n, what): called before call number n (from 1) of open, ioctl, mmap and close; may raise OSError.
    """

    def __init__(
        self,
        nodes: dict[str, str | int] | None = None,
        params: dict[Param, int] | None = None,
        files: dict[str, bytes] | None = None,
        links: dict[str, str] | None = None,
    ) -> None:
        self.nodes = {"/dev/dri/card0": "vc4", "/dev/dri/renderD128": "v3d"} if nodes is None else nodes
        self.params = dict(PARAMS_71 if params is None else params)
        self.files = {} if files is None else files
        self.links = {} if links is None else links
        self.stats: dict[str, FileStat] = {}
        self.before: Callable[[int, str], None] = lambda n, what: None
        self.calls: list[str] = []
        self.fds: dict[int, str] = {}
        self.bos: dict[int, bytearray] = {}
        self.maps = 0
        self.syncobjs: set[int] = set()
        self.perfmons: dict[int, list[int]] = {}
        self.exported = 0
        self.jobs: list[dict[str, Any]] = []
        self.hang = False  # jobs do not end
        self.clock = 100.0
        self.pid = 7
        self.serial = 0

    emulated = None
    pointer_size = 8
    page_size = 4096

    def call(self, what: str) -> None:
        self.calls.append(what)
        self.before(len(self.calls), what)

    def leaks(self) -> dict[str, int]:
        found = {"fds": len(self.fds), "bos": len(self.bos), "maps": self.maps, "syncobjs": len(self.syncobjs)}
        found["perfmons"] = len(self.perfmons)
        return {name: n for name, n in found.items() if n}

    # files

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        self.call(f"open {path}")
        path = self._resolve(path)
        node = self.nodes.get(path, errno.ENOENT)
        if isinstance(node, int):
            raise os_error(node)
        self.serial += 1
        self.fds[self.serial] = path
        return self.serial

    def _resolve(self, path: str) -> str:
        target = self.links.get(path)
        return path if target is None else "/dev/dri/" + target.rpartition("/")[2]

    def close(self, fd: int) -> None:
        self.calls.append("close")
        if self.fds.pop(fd) == "sync_file":
            self.exported -= 1
        elif not [p for p in self.fds.values() if p != "sync_file"]:
            self.bos.clear()
            self.syncobjs.clear()
            self.perfmons.clear()
        self.before(len(self.calls), "close")

    def read_bytes(self, path: str) -> bytes:
        if path not in self.files:
            raise os_error(errno.ENOENT)
        return self.files[path]

    def listdir(self, path: str) -> list[str]:
        every = [*self.nodes, *self.files, *self.links]
        names = {p[len(path) + 1 :].split("/")[0] for p in every if p.startswith(path + "/")}
        if not names:
            raise os_error(errno.ENOENT)
        return sorted(names)

    def readlink(self, path: str) -> str:
        if path not in self.links:
            raise os_error(errno.EINVAL)
        return self.links[path]

    def stat(self, path: str) -> FileStat:
        if path in self.stats:
            return self.stats[path]
        if (
            path in self.nodes
            or path in self.files
            or any(p.startswith(path + "/") for p in (*self.files, *self.nodes))
        ):
            return FileStat(0o020660, 0, 44, "root", "render")
        raise os_error(errno.ENOENT)

    def monotonic(self) -> float:
        self.clock += 1e-6
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def getpid(self) -> int:
        return self.pid

    def mmio(self, base: int, size: int) -> Any:
        raise os_error(errno.EACCES)

    # Linux

    def mmap(self, fd: int, size: int, offset: int) -> FakeMapping:
        self.call("mmap")
        data = self.bos.get(offset >> 32)
        if data is None or size > len(data):
            raise os_error(errno.EINVAL)
        self.maps += 1
        return FakeMapping(self, data)

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        nr = request & 0xFF
        (row,) = (r for r in drm.IOCTLS.values() if r.nr == nr)
        name = row.name.removeprefix("DRM_IOCTL_").removeprefix("V3D_")
        self.call(name)
        if fd not in self.fds:
            raise os_error(errno.EBADF)
        driver = self.nodes.get(self.fds[fd], "")
        if driver == "null":
            raise os_error(errno.ENOTTY)
        layout = row.layout(self.pointer_size)
        handler = getattr(self, "do_" + name.lower(), None)
        if handler is None:
            raise AssertionError(f"the fake knows no {row.name}")
        values = layout.unpack(arg)
        for field, value in (handler(values, driver) or {}).items():
            layout.put(arg, field, value)
        return 0

    def do_version(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        name = driver.encode()
        ctypes.memmove(v["name"], name, min(len(name), v["name_len"]))
        return {"name_len": len(name), "version_major": 1}

    def do_get_param(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        if driver != "v3d" or v["param"] not in self.params or v["pad"] or v["value"]:
            raise os_error(errno.EINVAL)
        return {"value": self.params[Param(v["param"])]}

    def do_create_bo(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        if not v["size"] or v["flags"]:
            raise os_error(errno.EINVAL)
        handle = next(h for h in range(1, 10**6) if h not in self.bos)
        self.bos[handle] = bytearray(v["size"])
        return {"handle": handle, "offset": 0x10000 * handle}

    def do_mmap_bo(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        if v["handle"] not in self.bos:
            raise os_error(errno.ENOENT)
        return {"offset": v["handle"] << 32}

    def do_gem_close(self, v: dict[str, Any], driver: str) -> None:
        if self.bos.pop(v["handle"], None) is None:
            raise os_error(errno.EINVAL)

    def do_syncobj_create(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        handle = next(h for h in range(1, 10**6) if h not in self.syncobjs)
        self.syncobjs.add(handle)
        return {"handle": handle}

    def do_syncobj_destroy(self, v: dict[str, Any], driver: str) -> None:
        self.syncobjs.remove(v["handle"])

    def do_syncobj_handle_to_fd(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        assert v["handle"] in self.syncobjs
        self.serial += 1
        self.fds[self.serial] = "sync_file"
        self.exported += 1
        return {"fd": self.serial}

    def do_syncobj_fd_to_handle(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        assert self.fds[v["fd"]] == "sync_file"
        return self.do_syncobj_create(v, driver)

    def do_submit_csd(self, v: dict[str, Any], driver: str) -> None:
        count = v["bo_handle_count"]
        handles = list((ctypes.c_uint32 * count).from_address(v["bo_handles"]))
        if v["pad"] or not count or v["flags"] not in (0, 2):
            raise os_error(errno.EINVAL)
        if len(set(handles)) != count:
            raise os_error(errno.EALREADY)
        if any(h not in self.bos for h in handles):
            raise os_error(errno.ENOENT)
        waits = [v["in_sync"]] if v["in_sync"] else []
        if v["flags"] == 2:
            layout = drm.layout("drm_v3d_multi_sync", 8)
            multi = layout.unpack(ctypes.string_at(v["extensions"], layout.size))
            base = drm.layout("drm_v3d_extension", 8).unpack(multi["base"])  # type: ignore[arg-type]
            assert base == {"next": 0, "id": 1, "flags": 0}
            assert multi["wait_stage"] == 3
            sem = drm.layout("drm_v3d_sem", 8)
            raw = ctypes.string_at(multi["in_syncs"], 32 * multi["in_sync_count"])  # type: ignore[arg-type, operator]
            waits = [sem.number(raw[i : i + 32], "handle") for i in range(0, len(raw), 32)]
            assert multi["out_sync_count"] == 1
            v["out_sync"] = sem.number(ctypes.string_at(multi["out_syncs"], 32), "handle")  # type: ignore[arg-type]
        assert all(w in self.syncobjs for w in waits)
        job = {"cfg": v["cfg"], "handles": handles, "waits": waits, "done": False}
        self.jobs.append(job | {"out": v["out_sync"], "perfmon": v["perfmon_id"]})

    def finish(self, handles: Callable[[dict[str, Any]], bool]) -> None:
        if [j for j in self.jobs if handles(j) and not j["done"]]:
            if self.hang:
                raise os_error(errno.ETIME)
            last = max(i for i, j in enumerate(self.jobs) if handles(j))
            for job in self.jobs[: last + 1]:
                job["done"] = True

    def do_wait_bo(self, v: dict[str, Any], driver: str) -> None:
        if v["pad"] or v["handle"] not in self.bos:
            raise os_error(errno.EINVAL)
        self.finish(lambda j: v["handle"] in j["handles"])

    def do_syncobj_wait(self, v: dict[str, Any], driver: str) -> None:
        assert v["count_handles"] == 1
        handle = ctypes.c_uint32.from_address(v["handles"]).value
        if handle not in self.syncobjs:
            raise os_error(errno.ENOENT)
        self.finish(lambda j: j["out"] == handle)

    def do_perfmon_create(self, v: dict[str, Any], driver: str) -> dict[str, int]:
        self.perfmons[1] = list(v["counters"][: v["ncounters"]])
        return {"id": 1}

    def do_perfmon_destroy(self, v: dict[str, Any], driver: str) -> None:
        del self.perfmons[v["id"]]

    def do_perfmon_get_values(self, v: dict[str, Any], driver: str) -> None:
        ids = self.perfmons[v["id"]]
        (ctypes.c_uint64 * len(ids)).from_address(v["values_ptr"])[:] = [1000 + i for i in ids]

    def do_perfmon_get_counter(self, v: dict[str, Any], driver: str) -> dict[str, bytes]:
        return {"name": f"counter-{v['counter']}".encode()}
