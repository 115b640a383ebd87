"""Tests of sync objects, extensions, performance monitors and CPU jobs of the emulated v3d driver."""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Iterator, Sequence

import pytest

from qpu.drivers.uapi import drm
from qpu.errors import EmuFault
from tests.emu.linux.linux_rig import Rig, pointer


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda e: e.errno == number)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig("pi5")
    yield made
    made.port.shutdown()


def create(rig: Rig, fd: int, flags: int = 0) -> int:
    return int(rig.call(fd, "DRM_IOCTL_SYNCOBJ_CREATE", flags=flags).handle)


class Extensions:
    """A chain of user structures, kept alive."""

    def __init__(self) -> None:
        self.keep: list[object] = []
        self.head = 0

    def add(self, name: str, kind: int, **values: object) -> int:
        layout = drm.layout(name, 8)
        base = drm.layout("drm_v3d_extension", 8).pack(next=self.head, id=kind)
        data = layout.pack(**values)  # type: ignore[arg-type]  # numbers and tuples
        data[: len(base)] = base
        self.keep.append(data)
        self.head = pointer(data)
        return self.head

    def sems(self, handles: Sequence[int]) -> int:
        raw = bytearray().join(drm.layout("drm_v3d_sem", 8).pack(handle=h) for h in handles) or bytearray(1)
        self.keep.append(raw)
        return pointer(raw)

    def words(self, values: Sequence[int]) -> int:
        raw = array("I", values)
        self.keep.append(raw)
        return raw.buffer_info()[0]

    def multisync(self, waits: Sequence[int], signals: Sequence[int], stage: int = 3, **more: int) -> int:
        return self.add(
            "drm_v3d_multi_sync",
            1,
            in_syncs=self.sems(waits),
            in_sync_count=len(waits),
            out_syncs=self.sems(signals),
            out_sync_count=len(signals),
            wait_stage=stage,
            **more,
        )


class TestSyncObjects:
    def test_life(self, rig: Rig) -> None:
        fd = rig.open()
        a, b = create(rig, fd), create(rig, fd, 1)
        assert (a, b) == (1, 2)
        rig.sync_wait(fd, [b], 0)
        with refused(errno.EINVAL):
            rig.sync_wait(fd, [a], 0)
        rig.sync_array(fd, "DRM_IOCTL_SYNCOBJ_SIGNAL", [a])
        rig.sync_wait(fd, [a, b], 0, 1)
        rig.sync_array(fd, "DRM_IOCTL_SYNCOBJ_RESET", [b])
        with refused(errno.EINVAL):
            rig.sync_wait(fd, [b], 0)
        rig.call(fd, "DRM_IOCTL_SYNCOBJ_DESTROY", handle=a)
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_SYNCOBJ_DESTROY", handle=a)
        with refused(errno.ENOENT):
            rig.sync_wait(fd, [a], 0)
        with refused(errno.EINVAL):
            create(rig, fd, 2)

    def test_wait_errors(self, rig: Rig) -> None:
        fd = rig.open()
        a = create(rig, fd, 1)
        with refused(errno.EINVAL):
            rig.sync_wait(fd, [a], 0, 64)
        rig.sync_wait(fd, [], 0)  # 0 on newer versions of Linux
        old = Rig("pi5,linux=old")
        with refused(errno.EINVAL):
            old.sync_wait(old.open(), [], 0)
        for name in ("TIMELINE_WAIT", "QUERY", "TRANSFER", "TIMELINE_SIGNAL"):
            with refused(errno.EOPNOTSUPP):
                rig.call(fd, f"DRM_IOCTL_SYNCOBJ_{name}")
        assert rig.call(fd, "DRM_IOCTL_GET_CAP", capability=0x13).value == 1
        assert rig.call(fd, "DRM_IOCTL_GET_CAP", capability=0x14).value == 0

    def test_out_sync_and_absolute_timeout(self, rig: Rig) -> None:
        fd = rig.open()
        bo, s = rig.bo(fd), create(rig, fd)
        rig.machine.length, rig.machine.batches = 91_000_000, 100
        rig.submit(fd, [bo.handle], out_sync=s)
        start = rig.now
        with refused(errno.ETIME):
            rig.sync_wait(fd, [s], int((start + 0.01) * 1e9))
        assert rig.now == pytest.approx(start + 0.01, abs=1e-4)
        rig.sync_wait(fd, [s], int((start + 1) * 1e9))
        assert rig.now == pytest.approx(start + 0.1, abs=1e-3)

    def test_first_signalled(self, rig: Rig) -> None:
        fd = rig.open()
        bo, late, early = rig.bo(fd), create(rig, fd), create(rig, fd, 1)
        rig.submit(fd, [bo.handle], out_sync=late)
        assert rig.sync_wait(fd, [late, early], 0).first_signaled == 1
        assert rig.machine.seen == []
        rig.sync_wait(fd, [late], int((rig.now + 1) * 1e9))
        assert rig.sync_wait(fd, [early, late], 0).first_signaled == 0

    def test_the_first_of_several_when_the_gpu_is_ahead(self, rig: Rig) -> None:
        """A wait for any of them ends at the emulated time of the first."""
        fd = rig.open()
        bo, one, two = rig.bo(fd), create(rig, fd), create(rig, fd)
        rig.machine.length, rig.machine.batches = 91_000_000, 100
        start = rig.now
        for s in (one, two):
            rig.submit(fd, [bo.handle], out_sync=s)
        while any(step() for step in rig.board.steppers):
            pass
        assert rig.sync_wait(fd, [two, one], int((start + 1) * 1e9)).first_signaled == 1
        assert rig.now == pytest.approx(start + 0.1, abs=1e-3)
        rig.sync_wait(fd, [two, one], int((start + 1) * 1e9), drm.SYNCOBJ_WAIT_ALL)
        assert rig.now == pytest.approx(start + 0.2, abs=1e-3)

    def test_in_sync_holds_a_job_back(self, rig: Rig) -> None:
        fd, other = rig.open(), rig.port.open("/dev/dri/renderD128")
        bo, s = rig.bo(fd), create(rig, fd)
        with refused(errno.EINVAL):
            rig.submit(fd, [bo.handle], in_sync=s)  # no fence in it
        shared = rig.call(fd, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", handle=s).fd
        theirs = rig.call(other, "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE", fd=shared).handle
        far = rig.bo(other)
        rig.submit(other, [far.handle], cfg=(2 << 16, 1 << 16, 1 << 16), out_sync=theirs)
        rig.submit(fd, [bo.handle], in_sync=s)
        rig.wait(fd, bo.handle)
        assert [cfg[0] >> 16 for cfg in rig.machine.seen] == [2, 1]

    def test_sync_file(self, rig: Rig) -> None:
        fd = rig.open()
        a, b = create(rig, fd), create(rig, fd)
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", handle=a, flags=1)
        rig.sync_array(fd, "DRM_IOCTL_SYNCOBJ_SIGNAL", [a])
        file = rig.call(fd, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD", handle=a, flags=1).fd
        rig.call(fd, "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE", handle=b, flags=1, fd=file)
        rig.sync_wait(fd, [b], 0)
        rig.port.close(file)

    def test_for_submit_times_out(self, rig: Rig) -> None:
        fd = rig.open()
        s = create(rig, fd)
        with refused(errno.ETIME):
            rig.sync_wait(fd, [s], int((rig.now + 0.05) * 1e9), 2)


class TestMultisync:
    def test_waits_and_signals(self, rig: Rig) -> None:
        fd = rig.open()
        bo, ready, out = rig.bo(fd), create(rig, fd, 1), [create(rig, fd), create(rig, fd)]
        chain = Extensions()
        chain.multisync([ready, 77], out)  # the unknown one is ignored
        rig.submit(fd, [bo.handle], flags=2, extensions=chain.head)
        rig.sync_wait(fd, out, int((rig.now + 1) * 1e9), 1)
        assert len(rig.machine.seen) == 1

    def test_stage_of_another_queue_is_dropped(self, rig: Rig) -> None:
        fd = rig.open()
        bo, empty = rig.bo(fd), create(rig, fd)
        chain = Extensions()
        chain.multisync([empty], [], stage=2)
        rig.submit(fd, [bo.handle], flags=2, extensions=chain.head)
        chain = Extensions()
        chain.multisync([empty], [])
        with refused(errno.EINVAL):
            rig.submit(fd, [bo.handle], flags=2, extensions=chain.head)

    def test_errors(self, rig: Rig) -> None:
        fd = rig.open()
        bo, s = rig.bo(fd), create(rig, fd, 1)
        for build in (
            lambda c: c.multisync([], []),
            lambda c: c.multisync([s], [], pad=1),
            lambda c: c.multisync([s], [99]),
            lambda c: (c.multisync([s], []), c.multisync([s], [])),
            lambda c: c.add("drm_v3d_extension", 8),
            lambda c: c.add("drm_v3d_indirect_csd", 2),
        ):
            chain = Extensions()
            build(chain)
            with refused(errno.EINVAL):
                rig.submit(fd, [bo.handle], flags=2, extensions=chain.head)
        with refused(errno.EFAULT):
            rig.submit(fd, [bo.handle], flags=2, extensions=8)
        chain = Extensions()
        chain.add("drm_v3d_multi_sync", 1, in_syncs=8, in_sync_count=1)
        with refused(errno.EFAULT):
            rig.submit(fd, [bo.handle], flags=2, extensions=chain.head)
        assert rig.machine.seen == []


class TestCpuJobs:
    def cpu(self, rig: Rig, fd: int, chain: Extensions, handles: Sequence[int]) -> None:
        keep = array("I", handles)
        rig.call(
            fd,
            "DRM_IOCTL_V3D_SUBMIT_CPU",
            bo_handles=keep.buffer_info()[0] if handles else 0,
            bo_handle_count=len(handles),
            flags=2,
            extensions=chain.head,
        )

    @pytest.mark.parametrize(("board", "batches"), [("pi5", 2 * 3 * 4 * 2), ("pi4", 2 * 3 * 4 * 2 - 1)])
    def test_indirect(self, board: str, batches: int) -> None:
        rig = Rig(board)
        fd = rig.open()
        counts, uniforms, out = rig.bo(fd), rig.bo(fd), rig.bo(fd)
        rig.board.memory.view(counts.offset + 16, 12)[:] = struct.pack("<3I", 2, 3, 4)
        chain = Extensions()
        inner = drm.layout("drm_v3d_submit_csd", 8).pack(
            cfg=(0, 0, 0, 77), bo_handles=chain.words([out.handle]), bo_handle_count=1
        )
        layout = drm.layout("drm_v3d_indirect_csd", 8)
        chain.add(
            "drm_v3d_indirect_csd",
            2,
            indirect=uniforms.handle,
            offset=16,
            wg_size=20,
            wg_uniform_offsets=(5, 0xFFFFFFFF, 7),
        )
        data = chain.keep[-1]
        assert isinstance(data, bytearray)
        at = layout.field("submit").offset
        data[at : at + len(inner)] = inner
        self.cpu(rig, fd, chain, [counts.handle])
        rig.wait(fd, out.handle)
        assert rig.machine.seen == [(2 << 16, 3 << 16, 4 << 16, 77, batches, 0, 0)]
        words = struct.unpack("<8I", rig.board.memory.view(uniforms.offset, 32))
        assert words == (0, 0, 0, 0, 0, 2, 0, 4)

    @pytest.mark.parametrize(
        ("offset", "target", "fine"),
        [(4084, 1023, True), (4088, 5, False), (4092, 5, False), (18, 5, False), (16, 1024, False)],
    )
    def test_indirect_stays_inside_its_buffers(self, offset: int, target: int, fine: bool) -> None:
        rig = Rig("pi4")
        fd = rig.open()
        counts, uniforms, out = rig.bo(fd), rig.bo(fd), rig.bo(fd)
        chain = Extensions()
        inner = drm.layout("drm_v3d_submit_csd", 8).pack(bo_handles=chain.words([out.handle]), bo_handle_count=1)
        offsets = (target, 0xFFFFFFFF, 0xFFFFFFFF)
        more = {"indirect": uniforms.handle, "offset": offset, "wg_size": 16, "wg_uniform_offsets": offsets}
        chain.add("drm_v3d_indirect_csd", 2, **more)
        data = chain.keep[-1]
        assert isinstance(data, bytearray)
        at = drm.layout("drm_v3d_indirect_csd", 8).field("submit").offset
        data[at : at + len(inner)] = inner
        if fine:
            self.cpu(rig, fd, chain, [counts.handle])
        else:
            with refused(errno.EINVAL):
                self.cpu(rig, fd, chain, [counts.handle])

    def test_timestamps(self, rig: Rig) -> None:
        fd = rig.open()
        bo, target = rig.bo(fd), rig.bo(fd)
        queries = [create(rig, fd), create(rig, fd)]
        chain = Extensions()
        chain.add("drm_v3d_timestamp_query", 3, offsets=chain.words([8, 24]), syncs=chain.words(queries), count=2)
        self.cpu(rig, fd, chain, [bo.handle])
        rig.sync_wait(fd, queries, int((rig.now + 1) * 1e9), 1)
        first, second = struct.unpack("<Q8xQ", rig.board.memory.view(bo.offset + 8, 24))
        assert 0 < first <= rig.board.clock.now_ns and second == 0
        chain = Extensions()
        chain.add(
            "drm_v3d_copy_timestamp_query",
            5,
            do_64bit=1,
            availability_bit=1,
            offset=0,
            stride=16,
            count=2,
            offsets=chain.words([8, 24]),
            syncs=chain.words(queries),
        )
        self.cpu(rig, fd, chain, [target.handle, bo.handle])
        rig.wait(fd, target.handle)
        assert struct.unpack("<4Q", rig.board.memory.view(target.offset, 32)) == (first, 1, 0, 1)
        chain = Extensions()
        chain.add("drm_v3d_reset_timestamp_query", 4, syncs=chain.words(queries), offset=8, count=1)
        with refused(errno.EFAULT):  # fewer words than the count are accepted, no words are not
            chain2 = Extensions()
            chain2.add("drm_v3d_reset_timestamp_query", 4, syncs=0, offset=8, count=1)
            self.cpu(rig, fd, chain2, [bo.handle])
        self.cpu(rig, fd, chain, [bo.handle])
        rig.wait(fd, bo.handle)
        assert struct.unpack("<Q", rig.board.memory.view(bo.offset + 8, 8)) == (0,)

    def test_cpu_jobs_come_after_what_they_wait_for(self, rig: Rig) -> None:
        fd = rig.open()
        bo, stamp, s, query = rig.bo(fd), rig.bo(fd), create(rig, fd), create(rig, fd)
        rig.machine.length, rig.machine.batches = 91_000_000, 100
        start = rig.board.clock.now_ns
        rig.submit(fd, [bo.handle], out_sync=s)
        chain = Extensions()
        chain.add("drm_v3d_timestamp_query", 3, offsets=chain.words([0]), syncs=chain.words([query]), count=1)
        chain.multisync([s], [], stage=5)
        self.cpu(rig, fd, chain, [stamp.handle])
        rig.wait(fd, stamp.handle)
        (time_ns,) = struct.unpack("<Q", rig.board.memory.view(stamp.offset, 8))
        assert time_ns - start == pytest.approx(10**8, rel=0.01)

    def test_a_cpu_job_does_not_wait_for_the_dispatches_before(self, rig: Rig) -> None:
        """The GPU is busy for 100 ms, then comes a dispatch of the same file; the job of the CPU needs neither."""
        fd = rig.open()
        bo, stamp, query = rig.bo(fd), rig.bo(fd), create(rig, fd)
        rig.machine.length, rig.machine.batches = 91_000_000, 100
        start = rig.board.clock.now_ns
        rig.submit(fd, [bo.handle])
        while any(step() for step in rig.board.steppers):
            pass
        rig.submit(fd, [bo.handle])
        chain = Extensions()
        chain.add("drm_v3d_timestamp_query", 3, offsets=chain.words([0]), syncs=chain.words([query]), count=1)
        self.cpu(rig, fd, chain, [stamp.handle])
        rig.wait(fd, stamp.handle, 10**7)
        (time_ns,) = struct.unpack("<Q", rig.board.memory.view(stamp.offset, 8))
        assert time_ns - start < 10**7

    def test_errors(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        with refused(errno.EINVAL):
            self.cpu(rig, fd, Extensions(), [bo.handle])
        chain = Extensions()
        chain.add("drm_v3d_timestamp_query", 3)
        with refused(errno.EINVAL):
            self.cpu(rig, fd, chain, [])
        chain = Extensions()
        chain.add("drm_v3d_reset_performance_query", 6)
        with pytest.raises(EmuFault, match="CPU_RESET_PERFORMANCE_QUERY"):
            self.cpu(rig, fd, chain, [])


class TestPerfmon:
    def create(self, rig: Rig, fd: int, counters: Sequence[int]) -> int:
        made = rig.call(fd, "DRM_IOCTL_V3D_PERFMON_CREATE", ncounters=len(counters), counters=tuple(counters))
        return int(made.id)

    def values(self, rig: Rig, fd: int, handle: int, count: int) -> tuple[int, ...]:
        out = bytearray(8 * count)
        rig.call(fd, "DRM_IOCTL_V3D_PERFMON_GET_VALUES", id=handle, values_ptr=pointer(out))
        return struct.unpack(f"<{count}Q", out)

    @pytest.mark.parametrize(("board", "cycles", "busy"), [("pi5", 0, 83), ("pi4", 32, 16)])
    def test_counts_accumulate(self, board: str, cycles: int, busy: int) -> None:
        rig = Rig(board)
        fd = rig.open()
        bo, monitor = rig.bo(fd), self.create(rig, fd, [cycles, busy])
        rig.machine.length, rig.machine.batches = 4000, 3
        for _ in range(2):
            rig.submit(fd, [bo.handle], perfmon_id=monitor)
            rig.wait(fd, bo.handle)
        assert self.values(rig, fd, monitor, 2) == (8000, 2 * 4000 * 3)
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)
        assert self.values(rig, fd, monitor, 2)[0] == 8000

    def test_errors(self, rig: Rig) -> None:
        fd = rig.open()
        for bad in ([], [93], [0] * 32 + [0]):
            with refused(errno.EINVAL):
                rig.call(fd, "DRM_IOCTL_V3D_PERFMON_CREATE", ncounters=len(bad), counters=tuple(bad[:32]))
        assert self.create(rig, fd, [92]) == 1
        for name in ("PERFMON_DESTROY", "PERFMON_GET_VALUES", "PERFMON_SET_GLOBAL"):
            with refused(errno.EINVAL):
                rig.call(fd, f"DRM_IOCTL_V3D_{name}", id=9)
        with refused(errno.EFAULT):
            rig.call(fd, "DRM_IOCTL_V3D_PERFMON_GET_VALUES", id=1, values_ptr=8)

    def test_global(self, rig: Rig) -> None:
        fd = rig.open()
        bo, a, b = rig.bo(fd), self.create(rig, fd, [0]), self.create(rig, fd, [0])
        rig.call(fd, "DRM_IOCTL_V3D_PERFMON_SET_GLOBAL", id=a)
        with refused(errno.EBUSY):
            rig.call(fd, "DRM_IOCTL_V3D_PERFMON_SET_GLOBAL", id=b)
        with refused(errno.EAGAIN):
            rig.submit(fd, [bo.handle], perfmon_id=b)
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)
        rig.call(fd, "DRM_IOCTL_V3D_PERFMON_SET_GLOBAL", id=a, flags=1)
        assert self.values(rig, fd, a, 1) == (1000,)

    @pytest.mark.parametrize(
        ("board", "counter", "name"), [("pi5", 0, b"cycle-count"), ("pi4", 86, b"compute-active-cycles")]
    )
    def test_names(self, board: str, counter: int, name: bytes) -> None:
        rig = Rig(board)
        fd = rig.open()
        found = rig.call(fd, "DRM_IOCTL_V3D_PERFMON_GET_COUNTER", counter=counter)
        assert found.name.rstrip(b"\0") == name
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_V3D_PERFMON_GET_COUNTER", counter=100)
