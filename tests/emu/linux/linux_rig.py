"""Common part of the tests of the emulated Linux: raw ioctls through an `EmuPort`, and machines made for a test."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from qpu.drivers.uapi import drm, mailbox, vcsm
from qpu.drivers.uapi.layout import Layout
from qpu.emu.boards import parse_board
from qpu.emu.engine.machine import RunStats
from qpu.emu.linux.board import Board
from qpu.emu.port import EmuPort
from qpu.errors import EmuFault


class StubRun:
    """A job of `length` clocks in `batches` threads; `effect` happens at its end."""

    def __init__(
        self,
        board: Board,
        length: float,
        batches: int,
        *,
        interrupts: int = 1,
        fault: str | None = None,
        effect: Callable[[], None] | None = None,
    ) -> None:
        self.stats = RunStats(board.profile.isa, engine="stub", threads=batches)
        self.length = length
        self.batches = batches
        self.clocks = 0
        self.slices: list[int | None] = []
        self.open_ended = False
        self.hung: EmuFault | None = None
        self._interrupts = interrupts
        self._fault = fault
        self._effect = effect

    @property
    def done(self) -> bool:
        return self.clocks >= self.length

    def standing(self) -> list[int]:
        return []

    @property
    def batches_done(self) -> int:
        return self.batches if self.done else int(self.batches * self.clocks / self.length)

    @property
    def host_interrupts(self) -> int:
        return self._interrupts if self.done else 0

    def extend(self, entries: Sequence[tuple[int, int]]) -> None:
        self.batches += len(entries)
        self.stats.threads += len(entries)

    def withdraw(self) -> int:
        return 0

    def run(self, clocks: int | None = None) -> bool:
        self.slices.append(clocks)
        if self.done:
            return True
        if self._fault is not None:
            raise EmuFault(self._fault, "as the test wants")
        if clocks is None:
            assert self.length != float("inf")
            clocks = int(self.length)
        self.clocks = int(min(self.length, self.clocks + clocks))
        self.stats.clocks = self.clocks
        self.stats.instructions = self.clocks // 4 * self.batches
        if self.done and self._effect is not None:
            self._effect()
        return self.done


class StubMachine:
    """Takes jobs of both families; `plan` makes the runs, `seen` has what was asked for."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.seen: list[Any] = []
        self.runs: list[StubRun] = []
        self.length: float = 1000
        self.batches = 1
        self.options: dict[str, Any] = {}

    def _make(self, what: object) -> StubRun:
        self.seen.append(what)
        run = StubRun(self.board, self.length, self.batches, **self.options)
        self.runs.append(run)
        return run

    def dispatch(self, cfg: Sequence[int]) -> StubRun:
        return self._make(tuple(cfg))

    def launch(self, entries: Sequence[tuple[int, int]]) -> StubRun:
        self.batches = len(entries)
        return self._make(tuple(entries))


class Rig:
    """An emulated board with a stub machine."""

    def __init__(self, board: str = "pi5", **options: Any) -> None:
        made: list[StubMachine] = []

        def make(board: Board) -> Any:
            made.append(StubMachine(board))
            return made[-1]

        self.port = EmuPort(board, machine=make, **options)
        self.profile = parse_board(board)
        self.board = self.port.board
        self.machine: StubMachine = self.board.machine  # type: ignore[assignment]  # the stub

    @property
    def now(self) -> float:
        """Emulated seconds."""
        return self.board.clock.now_ns / 1e9

    def open(self, path: str | None = None) -> int:
        return self.port.open(path if path is not None else f"/dev/dri/card{self.profile.card}")

    def call(self, fd: int, name: str, /, **values: Any) -> Any:
        """An ioctl by name; returns all fields of the argument afterwards."""
        row = next(t[name] for t in (drm.IOCTLS, vcsm.IOCTLS) if name in t)
        layout: Layout = row.layout(self.port.pointer_size)
        arg = layout.pack(**values)
        try:
            self.port.ioctl(fd, row.request(self.port.pointer_size), arg)
        finally:
            self.last = arg
        return _Fields(layout.unpack(arg))

    # DRM

    def bo(self, fd: int, size: int = 4096) -> Any:
        return self.call(fd, "DRM_IOCTL_V3D_CREATE_BO", size=size)

    def submit(
        self, fd: int, handles: Sequence[int], cfg: Sequence[int] = (1 << 16, 1 << 16, 1 << 16), **more: Any
    ) -> None:
        self.keep = array("I", handles)
        values = {"bo_handles": self.keep.buffer_info()[0], "bo_handle_count": len(handles)} | more
        self.call(fd, "DRM_IOCTL_V3D_SUBMIT_CSD", cfg=tuple(cfg), **values)

    def wait(self, fd: int, handle: int, timeout_ns: int = 10**10) -> Any:
        return self.call(fd, "DRM_IOCTL_V3D_WAIT_BO", handle=handle, timeout_ns=timeout_ns)

    def param(self, fd: int, number: int) -> int:
        return int(self.call(fd, "DRM_IOCTL_V3D_GET_PARAM", param=number).value)

    def sync_wait(self, fd: int, handles: Sequence[int], timeout_ns: int, flags: int = 0) -> Any:
        keep = array("I", handles)
        return self.call(
            fd,
            "DRM_IOCTL_SYNCOBJ_WAIT",
            handles=keep.buffer_info()[0],
            count_handles=len(handles),
            timeout_nsec=timeout_ns,
            flags=flags,
        )

    def sync_array(self, fd: int, name: str, handles: Sequence[int]) -> None:
        keep = array("I", handles)
        self.call(fd, name, handles=keep.buffer_info()[0], count_handles=len(handles))

    # mailbox

    def property(self, fd: int, *tags: tuple[int, int, Sequence[int]], request: int | None = None) -> list[list[int]]:
        """Send tags (id, value bytes, words); returns the words of each value area, the third word first."""
        words = [0, 0]
        places = []
        for tag, room, values in tags:
            places.append((len(words) + 2, (room + 3) // 4))
            words += [tag, room, 4 * len(values), *values, *([0] * ((room + 3) // 4 - len(values)))]
        words.append(0)
        words[0] = 4 * len(words)
        message = bytearray(struct.pack(f"<{len(words)}I", *words))
        number = mailbox.PROPERTY.request(self.port.pointer_size) if request is None else request
        self.port.ioctl(fd, number, message)
        reply = struct.unpack(f"<{len(words)}I", message)
        assert reply[1] == 0x80000000
        return [list(reply[at : at + 1 + n]) for at, n in places]


class _Fields:
    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def pointer(buffer: Any) -> int:
    """Address of a buffer object."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
