"""Adapter of DRM v3d: Raspberry Pi 4 and 5 through /dev/dri (drivers.md section 1)."""

from __future__ import annotations

import errno
import threading
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager

from qpu.core.deferred_signals import critical
from qpu.core.isa import Isa
from qpu.drivers import board
from qpu.drivers.base import Completion, CsdJob, DeviceInfo, Fence, Job
from qpu.drivers.drm import csd
from qpu.drivers.drm.calls import Calls
from qpu.drivers.drm.identity import ISAS, Identity, identify
from qpu.drivers.drm.nodes import Node, find_v3d
from qpu.drivers.drm.objects import DrmBo, DrmFence, multisync
from qpu.drivers.drm.perfmon import Perfmons
from qpu.drivers.drm.resets import WATCHDOG_S, blame, warn_unknown
from qpu.drivers.drm.syncobjs import SyncObjects
from qpu.drivers.errors_table import HELP, close_node, errno_rows, failure, fault, meminfo
from qpu.drivers.port import Interruptions, Port, interrupting, submitted
from qpu.drivers.uapi import drm
from qpu.drivers.uapi.drm import Param
from qpu.errors import DriverError, EmuFault, UsageError, counted

__all__ = ["TRIVIAL", "DrmBo", "DrmFence", "DrmV3d", "Identity", "open_adapter"]

LONGEST_WAIT_NS = 24 * 3600 * 10**9  # of one call; a longer wait makes several
# A wait that blocked at least this long ended because the job did; a shorter one may have begun after the end.
BLOCKED_S = 1e-3
_MEMORY_ROWS = errno_rows(
    "enomem-bo: ENOMEM, enospc: ENOSPC, wrong-card: EINVAL, emfile: EMFILE ENFILE, enodev: ENODEV, enotty: ENOTTY"
)
_SUBMIT_ROWS = errno_rows(
    "eacces-submit: EACCES EPERM, einval-submit: EINVAL, enoent-submit: ENOENT, enomem-bo: ENOMEM, enodev: ENODEV"
)
_WAIT_ROWS = errno_rows("enoent-submit: EINVAL ENOENT, enodev: ENODEV")
SWEEP = 64  # unwaited launches before the adapter polls for finished ones

# The smallest program of each version, for single-segment dispatches: `nop ; nop ; thrsw`, then two `nop ; nop`.
# Source: drivers' listings in v3d.md section 15.
TRIVIAL = {
    Isa.V3D42: (0x3C203186BB800000, 0x3C003186BB800000, 0x3C003186BB800000),
    Isa.V3D71: (0x38203186BB03F000, 0x38003186BB03F000, 0x38003186BB03F000),
}


class DrmV3d:
    """An open v3d node. Thread-safe; belongs to the process that opened it."""

    def __init__(self, port: Port, node: Node, identity: Identity, where: board.Board) -> None:
        self.port = port
        self._node = node
        self._calls = Calls(port, node)
        self._lock = threading.RLock()
        self.identity = identity
        self._bos: dict[int, DrmBo] = {}
        self._deferred: list[DrmBo] = []
        self._pending: list[DrmFence] = []
        self._syncobjs = SyncObjects(self._calls)
        self._number = 0
        self._perfmons = Perfmons(self._calls, ISAS[identity.version], identity.params, self._wait_counted)
        self._checking = False
        counters = (Param.CONTEXT_RESET_COUNTER, Param.GLOBAL_RESET_COUNTER)
        self._reset_param = next((p for p in counters if p in identity.params), None)
        self._resets = self._reset_counter()  # as last read
        self._idle_s = port.monotonic()  # when jobs were last retired
        self._warned = False
        where = board.with_gpu(where, identity.version)
        self.info = DeviceInfo(
            board=where,
            isa=ISAS[identity.version],
            slices=identity.slices,
            qpus_per_slice=identity.qpus_per_slice,
            tmus_per_slice=identity.tmus_per_slice,
            clock_hz=where.clock_hz,
            adapter="drm_v3d",
            node=node.path,
            driver=f"v3d {node.version}",
            revision=identity.label,
            emulated=port.emulated,
        )

    # calls

    def what(self, name: str) -> str:
        """Node and call, for messages."""
        return self._calls.what(name)

    def get_param(self, param: Param) -> int | None:
        """A GET_PARAM value; None when this Linux does not know the parameter. Raises: DriverError."""
        return self._calls.get_param(param)

    def _reset_counter(self) -> int | None:
        """GPU resets caused by this open file, or by any where Linux counts only those; None on older versions."""
        param = self._reset_param
        return None if param is None else self.get_param(param)

    # buffers

    def alloc(self, size: int) -> DrmBo:
        """A zero-filled, page-aligned buffer of at least `size` bytes, mapped.

        Raises: UsageError for a size the GPU cannot address, DriverError (ENOMEM, ENOSPC, ...) with cause and help.
        """
        page = self.port.page_size
        if not 0 < size <= 0x1_0000_0000 - 2 * page:
            raise UsageError(
                f"a buffer of {size} bytes; allowed: 1..{0x1_0000_0000 - 2 * page}",
                help="split larger data into several buffers",
            )
        size = -(-size // page) * page
        try:
            with critical():
                return self._alloc(size)
        except DriverError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC) or not self._sweep():
                raise
        with critical():
            return self._alloc(size)  # the poll has freed memory of finished launches

    def _alloc(self, size: int) -> DrmBo:
        create = "DRM_IOCTL_V3D_CREATE_BO"
        try:
            arg = self._calls.request(create, size=size)
        except OSError as error:
            raise self._memory_fault(create, size, error) from error
        handle = self._calls.number(create, arg, "handle")
        name = "DRM_IOCTL_V3D_MMAP_BO"
        try:
            offset = self._calls.number(name, self._calls.request(name, handle=handle), "offset")
            name = "mmap"
            mapping = self.port.mmap(self._calls.usable(), size, offset)
        except BaseException as error:
            self._gem_close(handle)
            if isinstance(error, OSError) and not isinstance(error, DriverError):
                raise self._memory_fault(name, size, error) from error
            raise
        bo = DrmBo(self._calls, self._forget, handle, size, self._calls.number(create, arg, "offset"), mapping)
        with self._lock:
            self._bos[handle] = bo
        return bo

    def _memory_fault(self, name: str, size: int, error: OSError) -> DriverError:
        detail = f"{counted(size, 'byte')} asked for"
        if error.errno == errno.ENOMEM:
            available = meminfo(self.port).get("MemAvailable")
            detail += "" if available is None else f", {counted(available, 'byte')} available"
        return failure(self.what(name), error, _MEMORY_ROWS, detail)

    def _gem_close(self, handle: int) -> None:
        """Close a handle; Linux keeps the memory for jobs that still use it."""
        try:
            self._calls.request("DRM_IOCTL_GEM_CLOSE", handle=handle)
        except OSError:
            pass  # closed already, or with the file; a caller could do nothing about it

    def _forget(self, bo: DrmBo) -> None:
        """Close the handle of a buffer that has been unmapped, at once or after its last job."""
        if not self._calls.alive:
            return  # closing the file has closed the handle, or the handle is the parent's
        with self._lock:
            if bo.busy:
                self._deferred.append(bo)  # a job may still write to the buffer
                return
            self._bos.pop(bo.handle, None)
        self._gem_close(bo.handle)

    # jobs

    def submit(
        self, job: Job, timeout_s: float = 10.0, *, background: bool = False, after: Sequence[Fence] = ()
    ) -> DrmFence:
        """Queue a dispatch and return at once, with or without `background`.

        timeout_s: bounds the wait for fences in `after` that Linux cannot wait for. after: jobs that must end
        first; earlier jobs of this device do so anyway.
        Raises: UsageError before any call for a job that cannot run, DriverError.
        """
        self._calls.usable()
        if not isinstance(job, CsdJob):
            raise UsageError(f"{type(job).__name__} is not a dispatch of V3D", help="submit a CsdJob")
        cfg = csd.csd_cfg(job, self.identity.version, self.identity.revision)
        bos = self._own(job.bos)
        if job.completion is not None and job.completion.bo not in bos:
            raise UsageError(
                "the completion word lies in a buffer that the job does not list", help="add the buffer to bos"
            )
        with self._lock:
            if len(self._pending) >= SWEEP:
                self._sweep()
            imported: list[int] = []
            try:
                many = bool(self.identity.params.get(Param.SUPPORTS_MULTISYNC_EXT))
                for earlier in after:
                    imported += self._import(earlier, timeout_s, many or not imported)
                with critical():
                    return self._start(cfg, bos, imported, job.completion)
            finally:
                for handle in imported:
                    self._syncobjs.destroy(handle)

    def _start(
        self, cfg: tuple[int, ...], bos: Sequence[DrmBo], waits: Sequence[int], completion: Completion | None
    ) -> DrmFence:
        """Queue the dispatch and record it."""
        syncobj = self._syncobjs.take()
        try:
            self._queue(cfg, bos, waits, syncobj)
        except BaseException:
            self._syncobjs.give(syncobj)
            raise
        self._number += 1
        now = self.port.monotonic()
        fence = DrmFence(
            self, self._number, tuple(bos), syncobj, now, self._perfmons.active, completion, submitted(self.port)
        )
        for bo in bos:
            bo.busy += 1
            bo.last = fence.number
        self._pending.append(fence)
        return fence

    def _own(self, listed: Sequence[object]) -> list[DrmBo]:
        """The buffers once each: Linux refuses a handle listed twice (EALREADY)."""
        found: dict[int, DrmBo] = {}
        for bo in listed:
            if not isinstance(bo, DrmBo) or bo.calls is not self._calls:
                raise UsageError("the job lists a buffer of another device", help="allocate it on this device")
            if bo.closed:
                raise UsageError("the job lists a closed buffer", help="keep buffers open until the job has ended")
            found[bo.handle] = bo
        return list(found.values())

    def _queue(self, cfg: tuple[int, ...], bos: Sequence[DrmBo], waits: Sequence[int], syncobj: int) -> None:
        name = "DRM_IOCTL_V3D_SUBMIT_CSD"
        handles = array("I", [bo.handle for bo in bos])
        keep: list[array[int]] = []  # arrays that Linux reads through pointers during the call
        values: dict[str, int] = {"in_sync": waits[0] if waits else 0, "out_sync": syncobj}
        if len(waits) > 1:
            values = {
                "flags": drm.SUBMIT_EXTENSION,
                "extensions": multisync(self.port.pointer_size, waits, syncobj, keep),
            }
        arg = self._calls.pack(
            name,
            cfg=cfg,
            bo_handles=handles.buffer_info()[0],
            bo_handle_count=len(handles),
            perfmon_id=self._perfmons.active,
            **values,
        )
        try:
            self._calls.send(name, arg)
        except OSError as error:
            rows = _SUBMIT_ROWS | ({errno.EAGAIN: "eagain-perfmon"} if self._perfmons.active else {})
            detail = f"{counted(len(bos), 'buffer')}, cfg {' '.join(f'{word:#x}' for word in cfg)}"
            raise failure(self.what(name), error, rows, detail) from error
        finally:
            keep.clear()

    def _import(self, fence: Fence, timeout_s: float, room: bool) -> list[int]:
        """The sync object of another device's job, imported; waits for the job here where that is not possible."""
        if isinstance(fence, DrmFence) and (fence.driver is self or fence.done):
            return []  # jobs of one file run in order
        if not isinstance(fence, DrmFence) or not self._shares(fence.driver.port) or not fence.syncobj or not room:
            fence.wait(timeout_s)
            return []
        fd = fence.driver.export(fence)
        try:
            return [self._syncobjs.adopt(fd)]
        finally:
            close_node(self.port, fd, self._node.path)

    def _shares(self, other: Port) -> bool:
        """True when a descriptor of the other port is valid for this one: the same port, or both the real machine."""
        return other is self.port or (self.port.emulated is None and other.emulated is None)

    def export(self, fence: DrmFence) -> int:
        """A file descriptor of the fence's sync object; the caller closes it. Raises: DriverError."""
        return self._syncobjs.export(fence.syncobj)

    # waiting

    def wait(self, fence: DrmFence, timeout_s: float | None) -> None:
        """Wait for a job; see `DrmFence.wait`."""
        if not fence.done and not self._await(fence, timeout_s):
            resets = self._reset_counter()
            known = "this Linux counts no resets" if resets is None else f"{counted(resets, 'reset')} so far"
            raise fault(
                "etime",
                f"{self.what('WAIT_BO')}, {timeout_s:g} s",
                errno.ETIME,
                f"{known}; the job keeps {counted(len(fence.bos), 'buffer')} until it ends",
            )
        if fence.error is not None:
            raise fence.error

    def poll(self, fence: DrmFence, timeout_s: float = 0.0) -> bool:
        """True when the job has ended; waits for up to timeout_s."""
        return fence.done or self._await(fence, timeout_s)

    def _await(self, fence: DrmFence, timeout_s: float | None) -> bool:
        """Wait for a job; True when it has ended. The remaining time that Linux returns is not used.

        Where Linux counts resets, jobs are awaited one by one in their order, so that each reset can be attributed
        to its job.
        """
        deadline = None if timeout_s is None else self.port.monotonic() + max(0.0, timeout_s)
        if self._reset_param is None:
            return self._await_one(fence, deadline)
        with self._lock:
            queue = [f for f in self._pending if f.number <= fence.number]
        if len(queue) == 1:
            return self._await_one(queue[0], deadline)
        return all(self._await_one(f, deadline) for f in queue)

    def _await_one(self, fence: DrmFence, deadline: float | None) -> bool:
        first = True
        interruptions: Interruptions | None = None
        while not fence.done:
            begun = self.port.monotonic()
            left_ns = LONGEST_WAIT_NS
            if deadline is not None:
                left = deadline - begun
                if left <= 0 and not first:
                    return False
                left_ns = max(0, int(left * 1e9))
            first = False
            wait_ns = min(left_ns, LONGEST_WAIT_NS)
            try:
                self._wait_once(fence, wait_ns)
            except EmuFault as stopped:
                self._claim(fence, stopped)
                raise
            except OSError as error:
                if isinstance(error, DriverError):
                    raise
                interruptions = interruptions or Interruptions(self.port)
                if error.errno in (errno.EINTR, errno.EAGAIN) and interruptions.again():
                    continue  # a signal, or a time-out that Linux rounded down
                if error.errno == errno.ETIME:
                    fence.running_s = begun
                    if wait_ns == LONGEST_WAIT_NS:
                        continue
                    return False
                raise failure(self.what("WAIT_BO"), error, _WAIT_ROWS) from error
            now = self.port.monotonic()
            fresh = now - begun >= BLOCKED_S or now - fence.running_s < WATCHDOG_S / 2
            self._retire(fence, seen=fresh and bool(fence.syncobj))
        return True

    def _claim(self, fence: DrmFence, stopped: EmuFault) -> None:
        """Record the fault of an emulated board that ended the wait for a job, if the fault is that job's own."""
        try:
            self._wait_once(fence, 0)
        except EmuFault as own:
            if own is stopped:
                fence.error = stopped
                self._retire(fence, seen=True)
        except OSError:
            pass

    def _ended(self, fence: DrmFence) -> bool:
        """True when the job has ended; does not wait."""
        try:
            self._wait_once(fence, 0)
        except EmuFault:
            return True
        except OSError:
            return False
        return True

    def _wait_once(self, fence: DrmFence, wait_ns: int) -> None:
        """One waiting call: on a buffer that no later job lists, else on the job's own sync object."""
        anchor = next((bo for bo in fence.bos if bo.last == fence.number), fence.bos[0] if not fence.syncobj else None)
        if anchor is not None:
            name = "DRM_IOCTL_V3D_WAIT_BO"
            arg = self._calls.pack(name, handle=anchor.handle, timeout_ns=wait_ns)
        else:
            name = "DRM_IOCTL_SYNCOBJ_WAIT"
            handles = array("I", [fence.syncobj])
            arg = self._calls.pack(
                name,
                handles=handles.buffer_info()[0],
                timeout_nsec=int(self.port.monotonic() * 1e9) + wait_ns,
                count_handles=1,
                flags=drm.SYNCOBJ_WAIT_ALL,
            )
        self._calls.once(name, arg)

    def _retire(self, last: DrmFence, *, seen: bool) -> None:
        """Record that a job and all earlier ones have ended: attribute resets, close handles that waited for them.

        seen: the job ended just now, so that jobs queued after it cannot have been reset yet.
        """
        with self._lock:
            if last.done:
                return  # another thread has retired the job
            before, self._resets = self._resets, self._reset_counter()
            count = sum(f.number <= last.number for f in self._pending)
            if self._resets != before and not seen:
                while count < len(self._pending) and self._ended(self._pending[count]):
                    count += 1
            ended, self._pending = self._pending[:count], self._pending[count:]
            cut = blame(ended, before, self._resets)
            for fence in ended:
                self._syncobjs.give(fence.syncobj)
                fence.syncobj = 0
                for bo in fence.bos:
                    bo.busy -= 1
            self._release_deferred()
            state = self._state() if cut and not self._checking else ""
            for fence, detail in cut:
                fence.error = fence.error or fault("reset", self._node.path, None, detail + state)
            for fence in ended:
                fence.done = True
            self._warn_possible_reset(ended)

    def _warn_possible_reset(self, ended: Sequence[DrmFence]) -> None:
        """Where Linux counts no resets, warn about jobs long enough for the watchdog to have killed them."""
        now = self.port.monotonic()
        if self._resets is None and not self._warned and not self._checking:
            longest = max((now - max(f.submitted_s, self._idle_s) for f in ended if f.completion is None), default=0)
            self._idle_s = now
            if longest >= WATCHDOG_S:
                self._warned = True
                warn_unknown(self._node.path, longest)
        self._idle_s = now

    def _state(self) -> str:
        """State of the GPU after a reset, found by running a trivial job unless others are queued."""
        if self._pending:
            return f"; {len(self._pending)} later launches are queued and will show whether the GPU still works"
        return "; it runs a trivial job again" if self.check_alive() else "; it does not run a trivial job: reboot"

    def _release_deferred(self) -> None:
        if not self._deferred:
            return
        free = [bo for bo in self._deferred if not bo.busy]
        self._deferred = [bo for bo in self._deferred if bo.busy]
        for bo in free:
            self._bos.pop(bo.handle, None)
            self._gem_close(bo.handle)

    def _sweep(self) -> bool:
        """Poll for unwaited launches that have ended; True when at least one had."""
        with self._lock:
            waiting = list(self._pending)
        return bool(waiting) and self.poll(waiting[0])

    def check_alive(self, timeout_s: float = 2.0) -> bool:
        """Run the smallest program; True when it ends within timeout_s."""
        with self._lock:
            if self._checking:
                return False
            self._checking = True
            perfmon, self._perfmons.active = self._perfmons.active, 0
        bo: DrmBo | None = None
        try:
            bo = self.alloc(self.port.page_size)
            code = b"".join(word.to_bytes(8, "little") for word in TRIVIAL[self.info.isa])
            bo.view[: len(code)] = code
            fence = self.submit(CsdJob(code=bo.address, uniforms=bo.address, bos=(bo,), single_segment=True))
            return self._await(fence, timeout_s) and fence.error is None
        except DriverError:
            return False
        finally:
            self._checking, self._perfmons.active = False, perfmon
            if bo is not None:
                bo.close()

    # counters

    def counter_names(self) -> tuple[str, ...]:
        """Names of the performance counters by id: those that Linux reports (6.11 and newer), else the known ones."""
        return self._perfmons.names()

    def counters(self, names: Sequence[str]) -> AbstractContextManager[dict[str, int]]:
        """Count events of the jobs submitted inside the block; see `qpu.drivers.drm.perfmon.Perfmons.counting`."""
        return self._perfmons.counting(names)

    def _wait_counted(self, perfmon: int) -> None:
        """Wait for the jobs that a performance monitor counts."""
        with self._lock:
            own = [f for f in self._pending if f.perfmon == perfmon]
        if own:
            self.wait(own[-1], None)

    # end

    def leaving(self) -> AbstractContextManager[None]:
        """See `qpu.drivers.base.Driver.leaving`."""
        return interrupting(self.port)

    def close(self) -> None:
        """Close the node, which frees everything that was allocated through it; idempotent.

        Buffers whose views are alive keep their memory until the last view is deleted.
        """
        self._calls.closing = True  # other threads make no further call
        with self._lock:
            if self._calls.closed:
                return
            self._calls.closed = True
            bos = list(self._bos.values())
            self._bos.clear()
            self._deferred.clear()
            self._syncobjs.forget()
            pending, self._pending = self._pending, []
        for fence in pending:
            fence.error = DriverError(
                f"{self._node.path}: the device was closed before the job had ended"
                f"{HELP}wait for every launch before you close the device"
            )
            fence.done = True
        try:
            for bo in bos:
                try:
                    bo.unmap()
                except BufferError:
                    pass  # deleting the last view unmaps it
        finally:
            close_node(self.port, self._node.fd, self._node.path)


def open_adapter(port: Port, where: board.Board | None = None, path: str | None = None) -> DrmV3d:
    """Open the v3d node at `path`, or find it among the nodes of /dev/dri.

    where: the board as detected, None to detect it. Raises: DriverError with the reason and its help.
    """
    where = board.detect(port) if where is None else where
    node = find_v3d(port, path, where.container)
    try:
        return DrmV3d(port, node, identify(port, node.fd, node.path), where)
    except BaseException:
        close_node(port, node.fd, node.path)
        raise
