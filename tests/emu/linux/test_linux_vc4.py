"""Tests of firmware mailbox, VCSM, VCSM-CMA, /dev/mem and V3D registers of an emulated VideoCore IV board."""

from __future__ import annotations

import errno
import struct

import pytest

from qpu.drivers.uapi import vcsm
from qpu.errors import EmuFault
from tests.emu.linux.linux_rig import Rig

ALLOCATE, LOCK, UNLOCK, RELEASE, EXECUTE, ENABLE = (0x3000C + i for i in (0, 1, 2, 3, 5, 6))


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda e: e.errno == number)


class Vcio(Rig):
    """A board with /dev/vcio open."""

    def __init__(self, board: str = "pi3", **options: object) -> None:
        super().__init__(board, **options)
        self.fd = self.port.open("/dev/vcio", read_only=True)

    def tag(self, tag: int, *values: int, room: int | None = None) -> tuple[int, list[int]]:
        """Reply length (bit 31 as it came) and the words of the value area."""
        area = 4 * max(len(values), 1) if room is None else room
        reply = self.property(self.fd, (tag, area, values))[0]
        return reply[0], reply[1:]

    def memory(self, size: int, flags: int = 4) -> tuple[int, int]:
        handle = self.tag(ALLOCATE, size, 4096, flags)[1][0]
        return handle, self.tag(LOCK, handle)[1][0] if handle else 0

    def execute(self, entries: list[tuple[int, int]], timeout_ms: int = 500) -> int:
        handle, bus = self.memory(4096)
        words = [w for entry in entries for w in entry]
        self.board.memory.view(bus & 0x3FFFFFFF, 4 * len(words))[:] = struct.pack(f"<{len(words)}I", *words)
        try:
            return self.tag(EXECUTE, len(entries), bus, 0, timeout_ms)[1][0]
        finally:
            self.tag(UNLOCK, handle)
            self.tag(RELEASE, handle)


class TestMessages:
    def test_replies(self) -> None:
        rig = Vcio()
        assert rig.tag(0x10002, room=4) == (0x80000004, [0xA02082])
        assert rig.tag(0x30002, 5, room=8) == (0x80000008, [5, 400_000_000])
        assert rig.tag(0x30047, 5, 0)[1] == [5, 400_000_000]
        assert rig.tag(0x30046, 0)[0] == 0x80000004
        assert rig.tag(0x30002, 77, room=8)[1] == [77, 0]
        base, size = rig.tag(0x10006, room=8)[1]
        assert base == rig.tag(0x10005, room=8)[1][1] and base + size == 0x3F000000

    def test_reply_longer_than_the_room_is_cut(self) -> None:
        assert Vcio().tag(0x30002, 5, room=4) == (0x80000008, [5])

    def test_several_tags(self) -> None:
        rig = Vcio()
        reply = rig.property(rig.fd, (0x10002, 4, ()), (0x30002, 8, (5,)), (0x30006, 8, (0,)))
        assert [r[0] for r in reply] == [0x80000004, 0x80000008, 0x80000008]

    def test_setting_the_clock(self) -> None:
        rig = Vcio()
        assert rig.tag(0x38002, 5, 300_000_000, 0)[1][:2] == [5, 300_000_000]
        assert rig.tag(0x38002, 5, 900_000_000, 0)[1][:2] == [5, 400_000_000]
        assert rig.board.hz == 400_000_000
        assert rig.tag(0x38002, 5, 1, 0)[1][:2] == [5, 250_000_000]  # not below the lowest rate

    def test_the_last_page_of_the_heap_is_given_out(self) -> None:
        """The page after each block is kept free only while there is room."""
        rig = Vcio("pi3,gpu_mem=16M")
        assert all(rig.memory(8 << 20)[0] for _ in range(2))
        assert rig.memory(4096) == (0, 0)

    @pytest.mark.parametrize(
        ("alignment", "least"), [(0, 4096), (1, 4096), (16, 4096), (4096, 4096), (65536, 65536), (24, None)]
    )
    def test_alignment(self, alignment: int, least: int | None) -> None:
        """At least a page; an alignment that neither divides a page nor is whole pages is refused."""
        rig = Vcio()
        rig.memory(4096)
        handle = rig.tag(ALLOCATE, 4096, alignment, 4)[1][0]
        assert (handle == 0) is (least is None)
        if least is not None:
            assert (rig.tag(LOCK, handle)[1][0] & 0x3FFFFFFF) % least == 0

    @pytest.mark.parametrize(
        "words", [[8, 0], [14, 0, 0, 0], [28, 0, 0x30012, 400, 4, 1, 0], [28, 0, 0x3000C, 4, 4, 1, 0]]
    )
    def test_malformed(self, words: list[int]) -> None:
        rig = Vcio()
        message = bytearray(struct.pack(f"<{len(words)}I", *words))
        before = bytes(message)
        with refused(errno.EINVAL):
            rig.port.ioctl(rig.fd, 0xC0086400, message)
        assert message == before

    def test_truncated_buffer(self) -> None:
        rig = Vcio()
        with refused(errno.EFAULT):
            rig.port.ioctl(rig.fd, 0xC0086400, bytearray(struct.pack("<2I", 28, 0)))

    @pytest.mark.parametrize(
        ("pointer_size", "good", "bad"), [(8, 0xC0086400, 0xC0046400), (4, 0xC0046400, 0xC0086400)]
    )
    def test_request_by_word_size(self, pointer_size: int, good: int, bad: int) -> None:
        rig = Vcio("pi3", pointer_size=pointer_size)
        rig.property(rig.fd, (0x10002, 4, ()), request=good)
        for other in (bad, 0xC0086401, 0x5401):
            with refused(errno.EINVAL):
                rig.property(rig.fd, (0x10002, 4, ()), request=other)

    def test_unknown_tag_in_both_flavours(self) -> None:
        with refused(errno.EINVAL):
            Vcio().tag(0x7777, 1)
        assert Vcio("pi3,tag=clear").tag(0x7777, 1) == (4, [1])

    def test_vpu_code_is_not_modelled(self) -> None:
        with pytest.raises(EmuFault, match="EXECUTE_CODE"):
            Vcio().tag(0x30010, 0, 0, 0, 0, 0, 0, 0)

    def test_end_tag_is_the_last_word_whatever_it_holds(self) -> None:
        rig = Vcio()
        message = bytearray(struct.pack("<7I", 28, 0, 0x10002, 4, 0, 0, 0x12345678))
        rig.port.ioctl(rig.fd, 0xC0086400, message)
        assert struct.unpack("<7I", message)[4:] == (0x80000004, 0xA02082, 0)


class TestFirmwareMemory:
    @pytest.mark.parametrize(("flags", "alias"), [(0, 0), (4, 0xC), (8, 0x8), (12, 0x4), (4 | 16, 0xC)])
    def test_aliases(self, flags: int, alias: int) -> None:
        rig = Vcio()
        handle, bus = rig.memory(8192, flags)
        assert handle and bus >> 28 & 0xC == alias and bus % 4096 == 0
        assert rig.board.memory.region_at(bus & 0x3FFFFFFF) is not None

    def test_life(self) -> None:
        rig = Vcio()
        handle, bus = rig.memory(5000)
        assert rig.tag(UNLOCK, handle)[1] == [0]
        assert rig.tag(RELEASE, handle)[1] == [0]
        assert rig.tag(RELEASE, handle)[1] != [0]
        assert rig.tag(LOCK, handle)[1] == [0]
        assert rig.port.allocated() == ["fd 3: /dev/vcio"]
        assert rig.memory(2 << 30)[0] == 0
        assert rig.memory(0)[0] == 0
        del bus

    def test_survives_close(self) -> None:
        rig = Vcio()
        handle, bus = rig.memory(4096)
        rig.port.close(rig.fd)
        assert any("firmware memory handle" in line for line in rig.port.allocated())
        rig.fd = rig.port.open("/dev/vcio")
        assert rig.tag(LOCK, handle)[1] == [bus]

    def test_mapped_through_dev_mem(self) -> None:
        rig = Vcio()
        _, bus = rig.memory(8192)
        mem = rig.port.open("/dev/mem", sync=True)
        mapping = rig.port.mmap(mem, 8192, bus & 0x3FFFFFFF)
        mapping.view[:3] = b"vc4"
        assert bytes(rig.board.memory.view(bus & 0x3FFFFFFF, 3)) == b"vc4"
        with refused(errno.EPERM):
            rig.port.mmap(mem, 4096, 0x100000)  # ordinary memory
        with refused(errno.EINVAL):
            rig.port.mmap(mem, 4096, 123)

    def test_drm_boards_have_none(self) -> None:
        assert Vcio("pi5").memory(4096)[0] == 0


class TestExecute:
    def test_runs(self) -> None:
        rig = Vcio()
        assert rig.tag(ENABLE, 1)[1] == [0]
        rig.machine.length = 400_000
        start = rig.now
        assert rig.execute([(0x1000, 0x2000), (0x1010, 0x2000)]) == 0
        assert rig.machine.seen == [((0x1000, 0x2000), (0x1010, 0x2000))]
        assert rig.now - start == pytest.approx(0.001, rel=0.02)
        assert rig.tag(ENABLE, 0)[1] == [0]
        assert len(rig.port.runs) == 1

    def test_without_interrupt(self) -> None:
        rig = Vcio()
        rig.tag(ENABLE, 1)
        rig.machine.options = {"interrupts": 0}
        start = rig.now
        assert rig.execute([(0, 0)], 100) == 0x80000000
        assert rig.now - start == pytest.approx(0.1, rel=0.01)
        assert rig.execute([(0, 0)], 10_000) == 0x80000000

    def test_firmware_timeout_then_stuck(self) -> None:
        rig = Vcio()
        rig.tag(ENABLE, 1)
        rig.machine.length = float("inf")
        assert rig.execute([(0, 0)], 50) == 0x80000000
        rig.machine.length = 10
        assert rig.execute([(0, 0)], 50) == 0x80000000  # the first one still runs
        rig.tag(ENABLE, 0)
        rig.tag(ENABLE, 1)
        assert rig.execute([(0, 0)], 50) == 0

    def test_slow_but_finite(self) -> None:
        rig = Vcio()
        rig.tag(ENABLE, 1)
        rig.machine.length = 400_000_000 * 0.12
        assert rig.execute([(0, 0)], 100) == 0x80000000
        rig.machine.length = 10
        assert rig.execute([(0, 0)], 100) == 0

    def test_linux_limit(self) -> None:
        rig = Vcio()
        rig.tag(ENABLE, 1)
        rig.machine.length = float("inf")
        start = rig.now
        with refused(errno.ETIMEDOUT):
            rig.execute([(0, 0)], 10_000)
        assert rig.now - start == pytest.approx(1, rel=0.01)

    def test_refused_with_kms(self) -> None:
        rig = Vcio("pi3,kms=1")
        assert rig.tag(ENABLE, 1)[1][0] != 0
        assert rig.execute([(0, 0)]) == 0x80000000
        assert rig.machine.seen == []

    def test_not_enabled(self) -> None:
        with pytest.raises(EmuFault, match="v3d-off"):
            Vcio().execute([(0, 0)])
        rig = Vcio("pi3", strict=False)
        assert rig.execute([(0, 0)]) == 0x80000000
        assert sum(rig.board.faults.values()) == 1

    def test_control_block_elsewhere(self) -> None:
        rig = Vcio("pi3", strict=False)
        rig.tag(ENABLE, 1)
        with pytest.raises(EmuFault, match="control block"):
            rig.tag(EXECUTE, 2, 0xC0001000, 0, 100)

    def test_fault(self) -> None:
        rig = Vcio()
        rig.tag(ENABLE, 1)
        rig.machine.options = {"fault": "deadlock"}
        with pytest.raises(EmuFault, match="deadlock"):
            rig.execute([(0, 0)])
        rig.machine.options = {}
        assert rig.execute([(0, 0)]) == 0


class TestVcsmCma:
    def alloc(self, rig: Rig, fd: int, size: int, cached: int = 0) -> object:
        return rig.call(fd, "VC_SM_CMA_IOCTL_MEM_ALLOC", size=size, num=1, cached=cached, name=b"test")

    def test_life(self) -> None:
        rig = Rig("pi3")
        fd = rig.port.open("/dev/vcsm-cma")
        made = self.alloc(rig, fd, 5000)
        assert made.dma_addr >> 28 == 0xC | made.dma_addr >> 28 & 3  # type: ignore[attr-defined]
        handle, bus = made.handle, made.dma_addr  # type: ignore[attr-defined]
        mapping = rig.port.mmap(handle, 5000, 0)
        mapping.view[4999] = 7
        assert rig.board.memory.view((bus & 0x3FFFFFFF) + 4999, 1)[0] == 7
        rig.port.ioctl(handle, 0x40086200, bytearray(struct.pack("<Q", 3)))
        rig.port.ioctl(handle, 0x40086200, bytearray(struct.pack("<Q", 7)))
        rig.port.close(handle)
        rig.port.close(fd)
        assert len(rig.board.memory.regions) == 1
        mapping.close()
        assert rig.port.allocated() == []

    def test_errors(self) -> None:
        rig = Rig("pi3,cma=16M")
        fd = rig.port.open("/dev/vcsm-cma")
        with refused(errno.EINVAL):
            self.alloc(rig, fd, 0)
        with refused(errno.ENOMEM):
            self.alloc(rig, fd, 17 << 20)
        self.alloc(rig, fd, 16 << 20)
        with refused(errno.ENOMEM):
            self.alloc(rig, fd, 4096)
        for request in (0x80084A5C, 0x80204A5C, 0x80084A77):
            with refused(errno.EINVAL):
                rig.port.ioctl(fd, request, bytearray(64))

    def test_import(self) -> None:
        rig = Rig("pi3")
        fd = rig.port.open("/dev/vcsm-cma")
        made = self.alloc(rig, fd, 4096)
        again = rig.call(fd, "VC_SM_CMA_IOCTL_MEM_IMPORT_DMABUF", dmabuf_fd=made.handle)  # type: ignore[attr-defined]
        assert (again.dma_addr, again.size) == (made.dma_addr, 4096)  # type: ignore[attr-defined]
        rig.port.close(made.handle)  # type: ignore[attr-defined]
        assert len(rig.board.memory.regions) == 1
        rig.port.close(again.handle)
        assert rig.board.memory.regions == []


class TestVcsm:
    def test_life(self) -> None:
        rig = Rig("pi1")
        fd = rig.port.open("/dev/vcsm")
        made = rig.call(fd, "VMCS_SM_IOCTL_MEM_ALLOC", size=6000, num=1, cached=0, name=b"x")
        assert made.handle % 4096 == 0
        mapping = rig.port.mmap(fd, 8192, made.handle)
        lock = rig.call(fd, "VMCS_SM_IOCTL_MEM_LOCK", handle=made.handle)
        assert lock.addr == mapping.address & 0xFFFFFFFF
        where = rig.call(fd, "VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL", pid=rig.port.getpid(), handle=made.handle, size=3)
        assert where.addr >> 28 & 0xC == 0xC and where.size == 3
        mapping.view[0] = 1
        assert rig.board.memory.view(where.addr & 0x3FFFFFFF, 1)[0] == 1
        clean = bytearray(8 + 24)
        clean[0] = 1
        struct.pack_into("<HH", clean, 8, 3, 1)
        rig.port.ioctl(fd, vcsm.ioctl("VMCS_SM_IOCTL_MEM_CLEAN_INVALID2").request(8), clean)
        mapping.close()
        rig.call(fd, "VMCS_SM_IOCTL_MEM_UNLOCK", handle=made.handle)
        rig.call(fd, "VMCS_SM_IOCTL_MEM_FREE", handle=made.handle)
        with refused(errno.EINVAL):
            rig.call(fd, "VMCS_SM_IOCTL_MEM_FREE", handle=made.handle)
        assert rig.call(fd, "VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL", handle=made.handle).addr == 0
        rig.port.close(fd)
        assert rig.port.allocated() == []

    def test_errors(self) -> None:
        rig = Rig("pi1")
        fd = rig.port.open("/dev/vcsm")
        with refused(errno.ENOMEM):
            rig.call(fd, "VMCS_SM_IOCTL_MEM_ALLOC", size=1 << 30, num=1)
        with refused(errno.EINVAL):
            rig.call(fd, "VMCS_SM_IOCTL_MEM_LOCK", handle=4096)
        with refused(errno.EINVAL):
            rig.port.ioctl(fd, 0x80044999, bytearray(4))
        with pytest.raises(EmuFault, match="VMCS_SM_IOCTL_MEM_RESIZE"):
            rig.call(fd, "VMCS_SM_IOCTL_MEM_RESIZE")

    @pytest.mark.parametrize(("cached", "alias"), [(0, 0xC), (1, 0xC), (2, 0x4), (3, 0x4)])
    def test_alias(self, cached: int, alias: int) -> None:
        rig = Rig("pi1")
        fd = rig.port.open("/dev/vcsm")
        made = rig.call(fd, "VMCS_SM_IOCTL_MEM_ALLOC", size=4096, num=1, cached=cached)
        where = rig.call(fd, "VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL", pid=rig.port.getpid(), handle=made.handle)
        assert where.addr >> 28 & 0xC == alias

    def test_released_on_close(self) -> None:
        rig = Rig("pi1")
        fd = rig.port.open("/dev/vcsm")
        rig.call(fd, "VMCS_SM_IOCTL_MEM_ALLOC", size=4096, num=1)
        rig.port.close(fd)
        assert rig.port.allocated() == []

    @pytest.mark.parametrize(
        ("board", "cma", "plain"),
        [("pi3", True, True), ("pi3,linux=old", False, True), ("pi3,vcsm=none", False, False), ("pi5", False, False)],
    )
    def test_nodes(self, board: str, cma: bool, plain: bool) -> None:
        rig = Rig(board)
        for path, there in (("/dev/vcsm-cma", cma), ("/dev/vcsm", plain)):
            if there:
                rig.port.open(path)
            else:
                with refused(errno.ENOENT):
                    rig.port.open(path)


class TestRegisters:
    BASE = 0x3FC00000

    def powered(self, board: str = "pi3") -> Vcio:
        rig = Vcio(board)
        rig.tag(ENABLE, 1)
        self.regs = rig.port.mmio(rig.profile.v3d_base, 0x1000)
        return rig

    def test_identity(self) -> None:
        rig = Vcio()
        regs = rig.port.mmio(self.BASE, 0x1000)
        assert regs.read32(0) == 0xDEADBEEF
        rig.tag(ENABLE, 1)
        assert regs.read32(0) == 0x02443356
        assert regs.read32(4) & 0xFFF0 == 0x2430
        with pytest.raises(ValueError, match="multiples of 4"):
            regs.read32(2)
        with pytest.raises(EmuFault, match="0xabc"):
            regs.read32(0xABC)
        with pytest.raises(ValueError, match="0xffffffff"):
            regs.write32(0x434, 1 << 32)

    def test_launch(self) -> None:
        rig = self.powered()
        regs = self.regs
        rig.machine.length = 4_000_000
        regs.write32(0x43C, 1 << 7 | 1 << 8 | 1 << 16)
        for i in range(3):
            regs.write32(0x434, 0xC0001000 + i)
            regs.write32(0x430, 0xC0002000)
        polls = 0
        while (status := regs.read32(0x43C)) >> 16 & 255 != 3:
            polls += 1
            assert polls < 100
        assert polls > 1
        assert status >> 8 & 255 == 3 and not status >> 7 & 1
        assert rig.machine.seen == [tuple((0xC0001000 + i, 0xC0002000) for i in range(3))]
        assert regs.read32(0x43C) >> 16 & 255 == 3
        regs.write32(0x43C, 1 << 16)
        assert regs.read32(0x43C) >> 8 == 3
        regs.write32(0x43C, 1 << 8)
        assert regs.read32(0x43C) >> 8 == 0
        regs.write32(0x430, 0xC0002000)
        while regs.read32(0x43C) >> 16 & 255 != 1:
            pass
        assert len(rig.port.runs) == 2

    def test_uniforms_off(self) -> None:
        rig = self.powered()
        self.regs.write32(0x438, 0)
        self.regs.write32(0x434, 0x1000)
        self.regs.write32(0x430, 0x2000)
        self.regs.read32(0x43C)
        assert rig.machine.seen == [((0, 0x2000),)]

    def test_overflow(self) -> None:
        self.powered()
        for _ in range(40):
            self.regs.write32(0x430, 0x2000)
        assert self.regs.read32(0x43C) >> 7 & 1

    def test_endless_program_and_sleep(self) -> None:
        rig = self.powered()
        rig.machine.length = float("inf")
        self.regs.write32(0x430, 0x2000)
        start = rig.port.monotonic()
        polls = 0
        while rig.port.monotonic() - start < 1:
            assert self.regs.read32(0x43C) >> 16 & 255 == 0
            polls += 1
        assert polls < 200
        rig.tag(ENABLE, 0)
        rig.tag(ENABLE, 1)
        rig.machine.length = 4
        self.regs.write32(0x43C, 1 << 16)
        self.regs.write32(0x430, 0x2000)
        assert self.regs.read32(0x43C) >> 16 & 255 == 1

    def test_counters(self) -> None:
        rig = self.powered()
        regs = self.regs
        for slot, source in enumerate((16, 13, 0)):
            regs.write32(0x684 + 8 * slot, source)
        regs.write32(0x670, 0xFFFF)
        rig.machine.length = 4000
        regs.write32(0x430, 0x2000)
        while not regs.read32(0x43C) >> 16 & 255:
            pass
        assert regs.read32(0x680) == 0  # not enabled
        regs.write32(0x674, 7)
        assert regs.read32(0x674) == 0  # needs bit 31 besides
        regs.write32(0x674, 0x80000007)
        regs.write32(0x430, 0x2000)
        while regs.read32(0x43C) >> 16 & 255 != 2:
            pass
        assert [regs.read32(0x680 + 8 * i) for i in range(3)] == [4000, 4000 * 11, 0]
        regs.write32(0x674, 0)
        regs.write32(0x430, 0x2000)
        while regs.read32(0x43C) >> 16 & 255 != 3:
            pass
        assert regs.read32(0x680) == 4000
        with pytest.raises(EmuFault, match="counter source 30"):
            regs.write32(0x684, 30)

    def test_access(self) -> None:
        with refused(errno.EACCES):
            Rig("pi5").port.mmio(0x1002008000, 0x1000)
        with refused(errno.EPERM):
            Rig("pi3").port.mmio(0x1000, 0x1000)
        with pytest.raises(EmuFault, match="kms-owns-v3d"):
            Rig("pi3,kms=1").port.mmio(self.BASE, 0x1000).write32(0x430, 0)

    @pytest.mark.parametrize(
        ("board", "ident0", "cycles"), [("pi5,devmem=1", 0x07443356, 0), ("pi4,devmem=1", 0x04443356, 32)]
    )
    def test_v3d_registers(self, board: str, ident0: int, cycles: int) -> None:
        rig = Rig(board)
        regs = rig.port.mmio(rig.profile.v3d_base, 0x1000)
        assert regs.read32(0) == ident0
        regs.write32(0x660, cycles)
        regs.write32(0x650, 1)
        fd = rig.open()
        bo = rig.bo(fd)
        rig.submit(fd, [bo.handle])
        rig.wait(fd, bo.handle)
        assert regs.read32(0x680) == 1000
        regs.write32(0x654, 1)
        assert regs.read32(0x680) == 0
        assert regs.read32(0x660) & 0xFF == cycles
