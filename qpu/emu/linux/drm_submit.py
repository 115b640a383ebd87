"""The submit ioctls of the emulated v3d driver: compute dispatches, CPU jobs, and their extensions (drivers.md 1.3)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qpu.drivers.uapi import drm
from qpu.drivers.uapi.drm import ExtensionId, Queue
from qpu.emu.linux.core import fail, fail_if, lookup
from qpu.emu.linux.drm_core import Arguments
from qpu.emu.linux.drm_objects import BufferObject, Calls, SyncObject, V3dFile
from qpu.emu.linux.gpu_jobs import Fence, Observer, Work
from qpu.emu.linux.user_memory import read_user, read_words

__all__ = ["CALLS"]

OLD_CSD_SIZE = 72  # versions of Linux around 5.4 know the structure up to out_sync
UNTOUCHED = 0xFFFFFFFF  # offset of a workgroup count whose uniform is not changed
MAX_EXTENSIONS = 64  # a longer chain is taken as a loop

# Number of buffers of each CPU extension.
_CPU_BUFFERS = {
    ExtensionId.CPU_INDIRECT_CSD: 1,
    ExtensionId.CPU_TIMESTAMP_QUERY: 1,
    ExtensionId.CPU_RESET_TIMESTAMP_QUERY: 1,
    ExtensionId.CPU_COPY_TIMESTAMP_QUERY: 2,
    ExtensionId.CPU_RESET_PERFORMANCE_QUERY: 0,
    ExtensionId.CPU_COPY_PERFORMANCE_QUERY: 1,
}


@dataclass(slots=True)
class _Extensions:
    """The contents of a list of extensions. waits, signals: sync objects of a multisync; None without one."""

    waits: list[SyncObject] | None = None
    wait_stage: int = 0
    signals: list[SyncObject] | None = None
    cpu: ExtensionId | None = None
    cpu_address: int = 0


def _structure(file: V3dFile, name: str, address: int) -> Arguments:
    layout = drm.layout(name, file.linux.pointer_size)
    return Arguments(layout, bytearray(read_user(address, layout.size)))


def _extensions(file: V3dFile, address: int, *, cpu: bool) -> _Extensions:
    found = _Extensions()
    for _ in range(MAX_EXTENSIONS):
        if not address:
            return found
        head = _structure(file, "drm_v3d_extension", address)
        try:
            kind = ExtensionId(head["id"])
        except ValueError:
            raise fail(errno.EINVAL) from None
        if kind is ExtensionId.MULTI_SYNC:
            _multisync(file, address, found)
        else:
            fail_if(not cpu or found.cpu is not None, errno.EINVAL)
            found.cpu, found.cpu_address = kind, address
        address = head["next"]
    raise fail(errno.EINVAL)


def _sems(file: V3dFile, address: int, count: int) -> list[int]:
    layout = drm.layout("drm_v3d_sem", file.linux.pointer_size)
    raw = read_user(address, layout.size * count)
    return [layout.number(raw[i * layout.size : (i + 1) * layout.size], "handle") for i in range(count)]


def _multisync(file: V3dFile, address: int, found: _Extensions) -> None:
    a = _structure(file, "drm_v3d_multi_sync", address)
    fail_if(found.waits is not None or a["pad"], errno.EINVAL)
    fail_if(not a["in_sync_count"] and not a["out_sync_count"], errno.EINVAL)
    signals = [lookup(file.syncobjs, h) for h in _sems(file, a["out_syncs"], a["out_sync_count"])]
    handles = _sems(file, a["in_syncs"], a["in_sync_count"])
    found.waits = [file.syncobjs[h] for h in handles if h in file.syncobjs]  # unknown handles are ignored
    found.signals = signals
    found.wait_stage = a["wait_stage"]


def _fences(objects: Sequence[SyncObject]) -> list[Fence]:
    fences: list[Fence] = []
    for each in objects:
        if each.fence is None:
            raise fail(errno.EINVAL)
        fences.append(each.fence)
    return fences


def _buffers(file: V3dFile, address: int, count: int) -> list[BufferObject]:
    found = [file.buffer(handle, errno.ENOENT) for handle in read_words(address, count)]
    if len({id(bo) for bo in found}) != len(found):
        raise fail(errno.EALREADY)  # a buffer is listed twice: its reservation lock is held already
    return found


@dataclass(slots=True)
class _Dispatch:
    """A compute job that was checked but not yet queued."""

    cfg: list[int]
    bos: list[BufferObject]
    waits: list[Fence]
    counted: list[Observer]
    signals: list[SyncObject]


def _csd(file: V3dFile, a: Arguments) -> _Dispatch:
    """Check a SUBMIT_CSD structure."""
    fail_if(a["pad"], errno.EINVAL)
    flags = a["flags"]
    fail_if(flags and not flags & drm.SUBMIT_EXTENSION, errno.EINVAL)
    extensions = _Extensions()
    if flags & drm.SUBMIT_EXTENSION:
        extensions = _extensions(file, a["extensions"], cpu=False)
    waits: list[Fence] = []
    signals: list[SyncObject] = []
    if extensions.waits is not None:
        if extensions.wait_stage == Queue.CSD:
            waits += _fences(extensions.waits)
        signals += extensions.signals or []
    else:
        if a["in_sync"] in file.syncobjs:
            waits += _fences([file.syncobjs[a["in_sync"]]])
        if a["out_sync"] in file.syncobjs:
            signals.append(file.syncobjs[a["out_sync"]])
    fail_if(not a["bo_handle_count"], errno.EINVAL)
    bos = _buffers(file, a["bo_handles"], a["bo_handle_count"])
    counted: list[Observer] = []
    device = file.device
    if a["perfmon_id"]:
        fail_if(device.global_perfmon is not None, errno.EAGAIN)
        fail_if(a["perfmon_id"] not in file.perfmons, errno.ENOENT)
        counted.append(file.perfmons[a["perfmon_id"]].add)
    elif device.global_perfmon is not None:
        counted.append(device.global_perfmon.add)
    return _Dispatch(list(a.numbers("cfg")), bos, waits, counted, signals)


def _queue(
    file: V3dFile,
    bos: Sequence[BufferObject],
    waits: Sequence[Fence],
    done: Fence,
    *,
    cfg: Sequence[int] | None = None,
    action: Callable[[int], None] | None = None,
    counted: Sequence[Observer] = (),
) -> None:
    """Queue a job after the jobs that use its buffers. cfg: of a GPU job. action: of a CPU job."""

    def release() -> None:
        for bo in bos:
            bo.drop()

    def count_reset() -> None:
        file.resets += 1

    work = Work(
        owner=file,
        lane="cpu" if cfg is None else "csd",
        done=done,
        submit_ns=file.linux.clock.now_ns,
        cfg=cfg,
        action=action,
        waits=[*waits, *_implicit(bos)],
        counted=counted,
        observed=lambda: any(bo.outside or bo.holders - {id(file)} for bo in bos),
        cleanup=release,
        on_reset=count_reset,
    )
    for bo in bos:
        bo.take()
        bo.fence = done
    file.device.queue.submit(work)


def _implicit(bos: Sequence[BufferObject]) -> list[Fence]:
    return [bo.fence for bo in bos if bo.fence is not None]


def _queue_csd(file: V3dFile, d: _Dispatch, after: Sequence[Fence] = ()) -> Fence:
    done = Fence()
    for each in d.signals:
        each.fence = done
    _queue(file, d.bos, [*d.waits, *after], done, cfg=d.cfg, counted=d.counted)
    return done


def _may_submit(file: V3dFile) -> None:
    fail_if(not file.render and not file.authenticated, errno.EACCES)


def submit_cl(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_SUBMIT_CL."""
    _may_submit(file)
    raise file.linux.not_modelled("DRM_IOCTL_V3D_SUBMIT_CL (graphics, nr 0x40)")


def submit_tfu(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_SUBMIT_TFU."""
    _may_submit(file)
    raise file.linux.not_modelled("DRM_IOCTL_V3D_SUBMIT_TFU (texture formatting unit, nr 0x46)")


def submit_csd(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_SUBMIT_CSD."""
    _may_submit(file)
    if file.linux.profile.old_linux:
        a.data[OLD_CSD_SIZE - 4 :] = bytes(len(a.data) - OLD_CSD_SIZE + 4)
    _queue_csd(file, _csd(file, a))


# CPU jobs


def submit_cpu(file: V3dFile, a: Arguments) -> None:
    """DRM_IOCTL_V3D_SUBMIT_CPU: indirect dispatches and timestamp queries."""
    _may_submit(file)
    fail_if(a["flags"] and not a["flags"] & drm.SUBMIT_EXTENSION, errno.EINVAL)
    found = _Extensions()
    if a["flags"] & drm.SUBMIT_EXTENSION:
        found = _extensions(file, a["extensions"], cpu=True)
    kind = found.cpu
    if kind is None or a["bo_handle_count"] != _CPU_BUFFERS[kind]:
        raise fail(errno.EINVAL)
    if kind in (ExtensionId.CPU_RESET_PERFORMANCE_QUERY, ExtensionId.CPU_COPY_PERFORMANCE_QUERY):
        raise file.linux.not_modelled(f"SUBMIT_CPU extension {kind.name} (id {int(kind)})")
    bos = _buffers(file, a["bo_handles"], a["bo_handle_count"])
    waits = _fences(found.waits) if found.waits is not None and found.wait_stage == Queue.CPU else []
    signals = found.signals or []
    if kind is ExtensionId.CPU_INDIRECT_CSD:
        _indirect(file, found.cpu_address, bos, waits, signals)
        return
    make = {
        ExtensionId.CPU_TIMESTAMP_QUERY: _timestamps,
        ExtensionId.CPU_RESET_TIMESTAMP_QUERY: _reset_timestamps,
        ExtensionId.CPU_COPY_TIMESTAMP_QUERY: _copy_timestamps,
    }[kind]
    done = Fence()
    action, queries = make(file, found.cpu_address, bos, done)
    _queue(file, bos, waits, done, action=action)
    for each in [*signals, *queries]:
        each.fence = done


def _indirect(
    file: V3dFile, address: int, bos: list[BufferObject], waits: list[Fence], signals: Sequence[SyncObject]
) -> None:
    """Queue an indirect dispatch: a CPU job reads the counts from a buffer, fills in the registers and uniforms, and
    the dispatch runs after it."""
    a = _structure(file, "drm_v3d_indirect_csd", address)
    inner = drm.layout("drm_v3d_submit_csd", file.linux.pointer_size)
    start = drm.layout("drm_v3d_indirect_csd", file.linux.pointer_size).field("submit").offset
    dispatch = _csd(file, Arguments(inner, a.data[start : start + inner.size]))
    uniforms = file.buffer(a["indirect"], errno.ENOENT)
    counts_bo, offset, size, targets = bos[0], a["offset"], a["wg_size"], a.numbers("wg_uniform_offsets")
    linux = file.linux
    exact = linux.profile.exact_batches

    def fill(_: int) -> None:
        counts = struct.unpack("<3I", linux.memory.view(counts_bo.address + offset, 12))
        cfg = dispatch.cfg
        for i, count in enumerate(counts):
            cfg[i] = count << 16 & 0xFFFFFFFF
        if not all(counts):
            return  # no workgroup: the dispatch is dropped
        batches = (size + 15) // 16 * counts[0] * counts[1] * counts[2]
        cfg[4] = (batches if exact else batches - 1) & 0xFFFFFFFF
        for count, target in zip(counts, targets, strict=True):
            if target != UNTOUCHED:
                linux.memory.view(uniforms.address + 4 * target, 4)[:] = struct.pack("<I", count)

    fail_if(offset % 4 or offset + 12 > counts_bo.size, errno.EINVAL)
    fail_if(any(t != UNTOUCHED and 4 * t + 4 > uniforms.size for t in targets), errno.EINVAL)
    done = Fence()
    implicit = _implicit(dispatch.bos)
    _queue(file, [*bos, *([uniforms] if uniforms is not bos[0] else [])], [*waits, *implicit], done, action=fill)
    end = _queue_csd(file, dispatch, after=(done,))
    for each in signals:
        each.fence = end


Query = tuple[Callable[[int], None], "list[SyncObject]"]


def _query_objects(file: V3dFile, a: Arguments) -> list[SyncObject]:
    address, count = a["syncs"], a["count"]
    return [lookup(file.syncobjs, handle, errno.ENOENT) for handle in read_words(address, count)]


def _timestamps(file: V3dFile, address: int, bos: list[BufferObject], done: Fence) -> Query:
    """The action of a timestamp query: it stores the time in nanoseconds in the first slot, 0 in the others."""
    a = _structure(file, "drm_v3d_timestamp_query", address)
    fail_if(a["pad"], errno.EINVAL)
    offsets = read_words(a["offsets"], a["count"])
    queries = _query_objects(file, a)
    bo, memory = bos[0], file.linux.memory
    fail_if(any(o + 8 > bo.size for o in offsets), errno.EINVAL)

    def store(now_ns: int) -> None:
        for i, offset in enumerate(offsets):
            memory.view(bo.address + offset, 8)[:] = struct.pack("<Q", now_ns if i == 0 else 0)

    return store, queries


def _reset_timestamps(file: V3dFile, address: int, bos: list[BufferObject], done: Fence) -> Query:
    a = _structure(file, "drm_v3d_reset_timestamp_query", address)
    queries = _query_objects(file, a)
    bo, memory, offset, size = bos[0], file.linux.memory, a["offset"], 8 * a["count"]
    fail_if(offset + size > bo.size, errno.EINVAL)

    def clear(_: int) -> None:
        memory.view(bo.address + offset, size)[:] = bytes(size)
        for each in queries:
            each.fence = None

    return clear, []


def _copy_timestamps(file: V3dFile, address: int, bos: list[BufferObject], done: Fence) -> Query:
    a = _structure(file, "drm_v3d_copy_timestamp_query", address)
    fail_if(a["pad"], errno.EINVAL)
    count = a["count"]
    offsets = read_words(a["offsets"], count)
    queries = _query_objects(file, a)
    target, source, memory = bos[0], bos[1], file.linux.memory
    wide, partial, flagged = a["do_64bit"], a["do_partial"], a["availability_bit"]
    form = "<Q" if wide else "<I"
    width = struct.calcsize(form)
    base, stride = a["offset"], a["stride"]
    end = base + (count - 1) * stride + width * (2 if flagged else 1) if count else 0
    fail_if(end > target.size or any(o + 8 > source.size for o in offsets), errno.EINVAL)

    def copy(now_ns: int) -> None:
        for i, (offset, query) in enumerate(zip(offsets, queries, strict=True)):
            known = query.fence is not None and query.fence.done
            value = struct.unpack("<Q", memory.view(source.address + offset, 8))[0]
            at = target.address + base + i * stride
            if known or partial:
                memory.view(at, width)[:] = struct.pack(form, value & (1 << 8 * width) - 1)
            if flagged:
                memory.view(at + width, width)[:] = struct.pack(form, int(known))

    return copy, []


CALLS: Calls = {
    "DRM_IOCTL_V3D_SUBMIT_CL": submit_cl,
    "DRM_IOCTL_V3D_SUBMIT_TFU": submit_tfu,
    "DRM_IOCTL_V3D_SUBMIT_CSD": submit_csd,
    "DRM_IOCTL_V3D_SUBMIT_CPU": submit_cpu,
}
