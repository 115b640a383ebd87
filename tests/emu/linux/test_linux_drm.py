"""Tests of the emulated v3d driver: calls, errno for errno (drivers.md 1 to 3)."""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Iterator

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


def version(rig: Rig, path: str) -> tuple[str, str]:
    fd = rig.port.open(path)
    row = drm.IOCTLS["DRM_IOCTL_VERSION"]
    name, desc = bytearray(16), bytearray(64)
    layout = row.layout(rig.port.pointer_size)
    arg = layout.pack(name_len=16, name=pointer(name), desc_len=64, desc=pointer(desc))
    rig.port.ioctl(fd, row.request(rig.port.pointer_size), arg)
    rig.port.close(fd)
    n, d = layout.number(arg, "name_len"), layout.number(arg, "desc_len")
    return name[:n].decode(), desc[:d].decode()


@pytest.mark.parametrize(("board", "card"), [("pi5", 0), ("pi5,card=1", 1), ("pi4", 0), ("pi4,card=1", 1)])
def test_nodes_and_version(board: str, card: int) -> None:
    rig = Rig(board)
    v3d = ("v3d", "Broadcom V3D graphics")
    assert version(rig, f"/dev/dri/card{card}") == v3d
    assert version(rig, "/dev/dri/renderD128") == v3d
    assert version(rig, f"/dev/dri/card{1 - card}")[0] == "vc4"
    where = "fec00000" if board.startswith("pi4") else "1002000000"
    assert version(rig, f"/dev/dri/by-path/platform-{where}.v3d-card") == v3d
    assert version(rig, f"/dev/dri/by-path/platform-{where}.v3d-render") == v3d
    rig.port.shutdown()


def test_version_lengths_without_room(rig: Rig) -> None:
    fd = rig.open()
    name = bytearray(b"....")
    found = rig.call(fd, "DRM_IOCTL_VERSION", name_len=2, name=pointer(name))
    assert bytes(name) == b"v3.." and found.name_len == 3
    assert (found.version_major, found.version_minor, found.desc_len) == (1, 0, 21)


def test_display_card_takes_no_v3d_calls(rig: Rig) -> None:
    fd = rig.port.open("/dev/dri/card1")
    with refused(errno.EINVAL):
        rig.bo(fd)
    with refused(errno.EINVAL):
        rig.param(fd, 0)


def test_descriptors(rig: Rig) -> None:
    fd = rig.open()
    rig.port.close(fd)
    with refused(errno.EBADF):
        rig.port.close(fd)
    with refused(errno.EBADF):
        rig.bo(fd)
    with refused(errno.ENOENT):
        rig.port.open("/dev/dri/card7")
    with refused(errno.EISDIR):
        rig.port.open("/dev/dri")


def test_denied() -> None:
    rig = Rig("pi5,deny=1")
    for path in ("/dev/dri/card0", "/dev/dri/renderD128", "/dev/vcio", "/dev/mem"):
        with refused(errno.EACCES):
            rig.port.open(path)
    assert rig.port.allocated() == []


@pytest.mark.parametrize(
    ("board", "values"),
    [
        ("pi5", {1: 0x117, 3: 7 << 8, 4: 0x07443356, 5: 0x004441, 7: 1, 8: 1, 12: 1, 13: 93, 15: 0, 16: 0}),
        ("pi5,slices=3", {5: 0x003431}),
        ("pi5,rev=10", {3: 10 << 8}),
        ("pi4", {0: 0x45, 1: 0x0E1124, 2: 0x100, 3: 0xE00, 4: 0x04443356, 5: 0x001422, 6: 0x078121, 13: 87}),
    ],
)
def test_params(board: str, values: dict[int, int]) -> None:
    rig = Rig(board)
    fd = rig.open()
    for number, value in values.items():
        mask = 0xFFF if number == 1 and board.startswith("pi5") else 0xFFFFFF if number in (1, 5, 6) else 0xFFFFFFFF
        assert rig.param(fd, number) & mask == value, number
    with refused(errno.EINVAL):
        rig.param(fd, 17)
    with refused(errno.EINVAL):
        rig.call(fd, "DRM_IOCTL_V3D_GET_PARAM", param=8, pad=1)
    with refused(errno.EINVAL):
        rig.call(fd, "DRM_IOCTL_V3D_GET_PARAM", param=4, value=1)
    for number in range(7):  # the parameters that are registers
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_V3D_GET_PARAM", param=number, value=1)
    assert rig.call(fd, "DRM_IOCTL_V3D_GET_PARAM", param=7, value=99).value == 1


def test_old_linux() -> None:
    rig = Rig("pi5,linux=old")
    fd = rig.open()
    assert rig.param(fd, 8) == 1
    for number in range(9, 17):
        with refused(errno.EINVAL):
            rig.param(fd, number)
    with refused(errno.EINVAL):
        rig.call(fd, "DRM_IOCTL_V3D_PERFMON_CREATE", ncounters=1)
    with refused(errno.EINVAL):
        rig.call(fd, "DRM_IOCTL_V3D_SUBMIT_CPU", flags=2)
    bo = rig.bo(fd)
    assert bo.offset % (128 << 10) == 0
    # This Linux knows 72 bytes only: flags and extensions after them do not exist.
    rig.submit(fd, [bo.handle], flags=0x80, perfmon_id=9)
    rig.wait(fd, bo.handle)


class TestBuffers:
    def test_sizes(self, rig: Rig) -> None:
        fd = rig.open()
        page = rig.profile.page_size
        for size, rounded in ((1, page), (page, page), (page + 1, 2 * page), (1 << 20, 1 << 20)):
            bo = rig.bo(fd, size)
            assert rig.board.memory.region_at(bo.offset).size == rounded  # type: ignore[union-attr]
            assert bo.offset and bo.offset % page == 0
        for bad in (0, 0xFFFFFFFF, 0xFFFFFFFF - page + 2):
            with refused(errno.EINVAL):
                rig.bo(fd, bad)
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_V3D_CREATE_BO", size=4096, flags=1)

    def test_handles_lowest_free(self, rig: Rig) -> None:
        fd = rig.open()
        assert [rig.bo(fd).handle for _ in range(3)] == [1, 2, 3]
        rig.call(fd, "DRM_IOCTL_GEM_CLOSE", handle=2)
        assert rig.bo(fd).handle == 2
        assert rig.bo(rig.port.open("/dev/dri/renderD128")).handle == 1
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_GEM_CLOSE", handle=9)

    def test_unknown_handles(self, rig: Rig) -> None:
        fd = rig.open()
        with refused(errno.EINVAL):
            rig.wait(fd, 5)
        for name in ("DRM_IOCTL_V3D_MMAP_BO", "DRM_IOCTL_V3D_GET_BO_OFFSET"):
            with refused(errno.ENOENT):
                rig.call(fd, name, handle=5)
        bo = rig.bo(fd)
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_V3D_MMAP_BO", handle=bo.handle, flags=1)
        with refused(errno.EINVAL):
            rig.call(fd, "DRM_IOCTL_V3D_WAIT_BO", handle=bo.handle, pad=1)
        assert rig.call(fd, "DRM_IOCTL_V3D_GET_BO_OFFSET", handle=bo.handle).offset == bo.offset

    def test_map(self, rig: Rig) -> None:
        fd, other = rig.open(), rig.open()
        bo = rig.bo(fd, 40000)
        offset = rig.call(fd, "DRM_IOCTL_V3D_MMAP_BO", handle=bo.handle).offset
        assert offset >= 1 << 32
        mapping = rig.port.mmap(fd, 40000, offset)
        assert not any(mapping.view)
        mapping.view[:4] = b"abcd"
        again = rig.port.mmap(fd, 4096, offset)
        assert bytes(again.view[:4]) == b"abcd" == bytes(rig.board.memory.view(bo.offset, 4))
        with refused(errno.EACCES):
            rig.port.mmap(other, 4096, offset)
        for size, at in ((1 << 20, offset), (4096, offset + rig.profile.page_size), (4096, 0), (4096, offset + 1)):
            with refused(errno.EINVAL):
                rig.port.mmap(fd, size, at)
        view = mapping.view[8:12]
        with pytest.raises(BufferError):
            mapping.close()
        view.release()
        del view
        mapping.close()
        mapping.close()
        again.close()

    def test_map_keeps_memory(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        offset = rig.call(fd, "DRM_IOCTL_V3D_MMAP_BO", handle=bo.handle).offset
        mapping = rig.port.mmap(fd, 4096, offset)
        rig.call(fd, "DRM_IOCTL_GEM_CLOSE", handle=bo.handle)
        rig.port.close(fd)
        mapping.view[:2] = b"ok"
        fd = rig.open()
        assert rig.bo(fd).offset != bo.offset  # not reused while mapped
        mapping.close()
        assert rig.bo(fd).offset == bo.offset
        assert not any(rig.board.memory.view(bo.offset, 4096))

    def test_memory_limits(self) -> None:
        rig = Rig("pi5,mem=64M")
        fd = rig.open()
        rig.bo(fd, 40 << 20)
        with refused(errno.ENOMEM):
            rig.bo(fd, 40 << 20)
        assert len(rig.board.memory.regions) == 1
        rig = Rig("pi5")
        fd = rig.open()
        for _ in range(3):
            rig.bo(fd, 1 << 30)
        with refused(errno.ENOSPC):
            rig.bo(fd, 1 << 30)

    def test_prime(self, rig: Rig) -> None:
        fd, other = rig.open(), rig.port.open("/dev/dri/renderD128")
        bo = rig.bo(fd)
        shared = rig.call(fd, "DRM_IOCTL_PRIME_HANDLE_TO_FD", handle=bo.handle, flags=0x80002).fd
        handle = rig.call(other, "DRM_IOCTL_PRIME_FD_TO_HANDLE", fd=shared).handle
        assert rig.call(other, "DRM_IOCTL_PRIME_FD_TO_HANDLE", fd=shared).handle == handle
        assert rig.call(other, "DRM_IOCTL_V3D_GET_BO_OFFSET", handle=handle).offset == bo.offset
        rig.port.mmap(shared, 4096, 0).view[0] = 9
        rig.port.ioctl(shared, 0x40086200, bytearray(struct.pack("<Q", 3)))
        with refused(errno.EINVAL):
            rig.port.ioctl(shared, 0x40086200, bytearray(struct.pack("<Q", 8)))
        rig.port.close(fd)
        rig.port.close(shared)
        assert rig.board.memory.view(bo.offset, 1)[0] == 9
        with refused(errno.EINVAL):
            rig.call(other, "DRM_IOCTL_PRIME_FD_TO_HANDLE", fd=other)
        with refused(errno.ENOENT):
            rig.call(other, "DRM_IOCTL_PRIME_HANDLE_TO_FD", handle=77)


class TestConvention:
    def test_short_and_long_arguments(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        handles = array("I", [bo.handle])
        arg = drm.layout("drm_v3d_submit_csd", 8).pack(
            cfg=(1 << 16, 1 << 16, 1 << 16), bo_handles=handles.buffer_info()[0], bo_handle_count=1, flags=0x80
        )
        rig.port.ioctl(fd, 0x40486447, arg[:72])  # what came before flags
        rig.wait(fd, bo.handle)
        with refused(errno.EINVAL):
            rig.port.ioctl(fd, 0x40586447, arg)
        rig.port.ioctl(fd, 0xC0186442, bytearray(struct.pack("<6I", 4096, 0, 0, 0, 0, 0)))

    def test_old_size_of_sync_wait(self, rig: Rig) -> None:
        fd = rig.open()
        handle = rig.call(fd, "DRM_IOCTL_SYNCOBJ_CREATE", flags=1).handle
        handles = array("I", [handle])
        arg = drm.layout("drm_syncobj_wait", 8).pack(handles=handles.buffer_info()[0], count_handles=1)
        rig.port.ioctl(fd, 0xC02064C3, arg[:32])

    def test_copy_back_on_failure(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        rig.machine.length = float("inf")
        rig.submit(fd, [bo.handle])
        with refused(errno.ETIME):
            rig.wait(fd, bo.handle, 5_000_000)
        assert drm.layout("drm_v3d_wait_bo", 8).number(rig.last, "timeout_ns") == 0

    def test_unknown_numbers(self, rig: Rig) -> None:
        fd = rig.open()
        with refused(errno.EINVAL):
            rig.port.ioctl(fd, 0xC010645F, bytearray(16))
        with refused(errno.ENOTTY):
            rig.port.ioctl(fd, 0x5401, bytearray(64))
        with pytest.raises(EmuFault, match=r"0xa0.*not modelled"):
            rig.port.ioctl(fd, 0xC04064A0, bytearray(64))
        with pytest.raises(EmuFault, match="SUBMIT_CL"):
            rig.call(fd, "DRM_IOCTL_V3D_SUBMIT_CL")
        with pytest.raises(EmuFault, match="SUBMIT_TFU"):
            rig.call(fd, "DRM_IOCTL_V3D_SUBMIT_TFU")

    def test_bad_pointers(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        for address in (0, 8, 1 << 63):
            with refused(errno.EFAULT):
                rig.submit(fd, [bo.handle], bo_handles=address)
        with refused(errno.EFAULT):
            rig.call(fd, "DRM_IOCTL_VERSION", name_len=4, name=8)
        with refused(errno.EFAULT):
            rig.port.ioctl(fd, 0xC0106442, bytearray(8))


class TestSubmit:
    def test_asynchronous(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        rig.machine.length = 91_000_000  # 0.1 s
        rig.machine.batches = 100
        start = rig.now
        rig.submit(fd, [bo.handle], cfg=(1, 2, 3, 4, 5, 6, 7))
        assert rig.machine.seen == []  # zero counts below are for CFG0..2 shifted
        rig.wait(fd, bo.handle)
        assert rig.machine.seen == []
        rig.submit(fd, [bo.handle], cfg=(1 << 16, 2 << 16, 3 << 16, 4, 5, 6, 7))
        assert rig.now - start < 0.001
        with refused(errno.ETIME):
            rig.wait(fd, bo.handle, 10_000_000)
        assert 0.01 < rig.now - start < 0.02
        left = rig.wait(fd, bo.handle, 10**9).timeout_ns
        assert abs(rig.now - start - 0.1) < 0.001
        assert abs(left - 910_000_000) < 1_000_000
        assert rig.machine.seen == [(1 << 16, 2 << 16, 3 << 16, 4, 5, 6, 7)]
        assert rig.port.runs[-1].clocks == 91_000_000

    def test_zero_count_on_old_linux(self) -> None:
        rig = Rig("pi4,linux=old")
        fd = rig.open()
        bo = rig.bo(fd)
        rig.submit(fd, [bo.handle], cfg=(0, 1 << 16, 1 << 16))
        rig.wait(fd, bo.handle)
        assert len(rig.machine.seen) == 1

    @pytest.mark.parametrize(
        ("values", "number"),
        [
            ({"pad": 1}, errno.EINVAL),
            ({"flags": 1}, errno.EINVAL),
            ({"flags": 4}, errno.EINVAL),
            ({"bo_handle_count": 0}, errno.EINVAL),
            ({"perfmon_id": 3}, errno.ENOENT),
            ({"in_sync": 99}, None),
            ({"out_sync": 99}, None),
        ],
    )
    def test_errors(self, rig: Rig, values: dict[str, int], number: int | None) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        if number is None:
            rig.submit(fd, [bo.handle], **values)
            rig.wait(fd, bo.handle)
            assert len(rig.machine.seen) == 1
            return
        with refused(number):
            rig.submit(fd, [bo.handle], **values)
        rig.wait(fd, bo.handle, 0)
        assert rig.machine.seen == []

    def test_buffer_list(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        with refused(errno.ENOENT):
            rig.submit(fd, [bo.handle, 55])
        with refused(errno.EALREADY):
            rig.submit(fd, [bo.handle, bo.handle])

    def test_order_and_implicit_sync(self, rig: Rig) -> None:
        fd, other = rig.open(), rig.port.open("/dev/dri/renderD128")
        a, b, c = rig.bo(fd), rig.bo(fd), rig.bo(other)
        for i, (file, bo) in enumerate(((fd, a), (other, c), (fd, b))):
            rig.submit(file, [bo.handle], cfg=(i + 1 << 16, 1 << 16, 1 << 16))
        rig.wait(fd, b.handle)
        assert [cfg[0] >> 16 for cfg in rig.machine.seen] == [1, 2, 3]
        rig.wait(other, c.handle, 0)

    def test_buffers_live_until_the_job_ends(self, rig: Rig) -> None:
        fd = rig.open()
        a, b = rig.bo(fd), rig.bo(fd)
        rig.submit(fd, [a.handle, b.handle])
        rig.call(fd, "DRM_IOCTL_GEM_CLOSE", handle=a.handle)
        assert rig.board.memory.region_at(a.offset) is not None
        rig.wait(fd, b.handle)
        assert rig.board.memory.region_at(a.offset) is None

    def test_fault_reaches_everybody_who_waits_for_the_job(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        rig.machine.options = {"fault": "out-of-bounds"}
        rig.submit(fd, [bo.handle])
        for _ in range(2):
            with pytest.raises(EmuFault, match="out-of-bounds"):
                rig.wait(fd, bo.handle)
        rig.machine.options = {}
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)

    def test_interrupted_wait_goes_on(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        hits = []

        def effect() -> None:
            if not hits:
                hits.append(1)
                rig.machine.runs[-1].clocks -= 1
                raise KeyboardInterrupt

        rig.machine.options = {"effect": effect}
        rig.submit(fd, [bo.handle])
        with pytest.raises(KeyboardInterrupt):
            rig.wait(fd, bo.handle)
        rig.wait(fd, bo.handle)
        assert len(rig.port.runs) == 1

    def test_authentication(self) -> None:
        rig = Rig("pi5,root=0")
        first, second, render = rig.open(), rig.open(), rig.port.open("/dev/dri/renderD128")
        for fd in (first, render):
            bo = rig.bo(fd)
            rig.submit(fd, [bo.handle])
        bo = rig.bo(second)
        with refused(errno.EACCES):
            rig.submit(second, [bo.handle])
        magic = rig.call(second, "DRM_IOCTL_GET_MAGIC").magic
        with refused(errno.EACCES):
            rig.call(second, "DRM_IOCTL_AUTH_MAGIC", magic=magic)
        rig.call(first, "DRM_IOCTL_AUTH_MAGIC", magic=magic)
        rig.submit(second, [bo.handle])
        with refused(errno.EACCES):
            rig.call(render, "DRM_IOCTL_GET_MAGIC")


class TestWatchdog:
    def test_stuck_job_is_cancelled(self, rig: Rig) -> None:
        fd, other = rig.open(), rig.port.open("/dev/dri/renderD128")
        bo, free = rig.bo(fd), rig.bo(other)
        rig.machine.length = float("inf")
        start = rig.now
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)  # looks finished
        assert 0.5 <= rig.now - start <= 1.01
        assert (rig.param(fd, 15), rig.param(fd, 16)) == (1, 1)
        assert (rig.param(other, 15), rig.param(other, 16)) == (1, 0)
        rig.machine.length = 10
        rig.submit(other, [free.handle])
        rig.wait(other, free.handle)
        assert rig.param(fd, 15) == 1

    def test_progress_rearms(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        rig.machine.length = 5 * 910_000_000
        rig.machine.batches = 1000
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)
        assert rig.param(fd, 15) == 0
        assert rig.machine.runs[0].done

    def test_profile(self) -> None:
        rig = Rig("pi5,watchdog=20")
        fd = rig.open()
        bo = rig.bo(fd)
        rig.machine.length = float("inf")
        start = rig.now
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)
        assert rig.now - start < 0.05

    def test_polling_gets_there(self) -> None:
        rig = Rig("pi5,watchdog=5")
        fd = rig.open()
        bo = rig.bo(fd)
        rig.machine.length = float("inf")
        rig.submit(fd, [bo.handle])
        polls = 0
        while polls < 1000:
            try:
                rig.wait(fd, bo.handle, 0)
                break
            except OSError as error:
                assert error.errno == errno.ETIME
                polls += 1
        assert 10 < polls < 200


class TestClosing:
    def test_everything_is_returned(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        rig.call(fd, "DRM_IOCTL_SYNCOBJ_CREATE")
        rig.call(fd, "DRM_IOCTL_V3D_PERFMON_CREATE", ncounters=1)
        rig.submit(fd, [bo.handle])
        held = rig.port.allocated()
        assert any("BO" in line for line in held) and any("perfmon" in line for line in held)
        rig.port.close(fd)
        assert rig.port.allocated() == []
        assert rig.machine.seen == []  # its results could not be read any more

    def test_running_job_finishes_when_it_can_be_seen(self, rig: Rig) -> None:
        fd = rig.open()
        bo = rig.bo(fd)
        offset = rig.call(fd, "DRM_IOCTL_V3D_MMAP_BO", handle=bo.handle).offset
        mapping = rig.port.mmap(fd, 4096, offset)
        rig.machine.options = {"effect": lambda: mapping.view.__setitem__(0, 5)}
        rig.submit(fd, [bo.handle])
        rig.port.close(fd)
        assert mapping.view[0] == 5

    def test_shutdown_remembers(self, rig: Rig) -> None:
        rig.bo(rig.open())
        rig.port.shutdown()
        rig.port.shutdown()
        assert any("BO handle 1" in line for line in rig.port.leaked)
        assert rig.port.allocated() == []
        with refused(errno.EBADF):
            rig.open()


def test_a_page_stays_free_behind_each_buffer() -> None:
    """A hole that fits a buffer, but not the page after it, is not used."""
    rig = Rig("pi4")
    fd = rig.open()
    hole, behind = rig.bo(fd), rig.bo(fd)
    rig.call(fd, "DRM_IOCTL_GEM_CLOSE", handle=hole.handle)
    wider = rig.bo(fd, 8192)
    assert wider.offset >= behind.offset + 8192
    same = rig.bo(fd)
    assert same.offset == hole.offset
