"""The maps of `qpu emulate`: real maps for GPU memory, item and slice access for device registers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qpu.emu.linux.core import RegisterBlock, Span, fail_if

if TYPE_CHECKING:
    from qpu.emu.linux.board import Board

__all__ = ["RegisterMap", "make_mmap"]

_REAL = mmap.mmap


class RegisterMap:
    """A map of registers with the methods of ``mmap.mmap``. Each 32-bit word of an item or slice is one device access.

    The map has no memory: exporting a buffer (NumPy view, ``struct.unpack_from``) is a TypeError.
    """

    def __init__(self, board: Board, block: RegisterBlock, length: int) -> None:
        self._board = board
        self._block: RegisterBlock | None = block
        self._length = length
        self._at = 0

    def _live(self) -> RegisterBlock:
        if self._block is None:
            raise ValueError("mmap closed or invalid")
        return self._block

    def _load(self, start: int, stop: int) -> bytes:
        block = self._live()
        first = start // 4 * 4
        with self._board.call():
            words = [block.read32(at) for at in range(first, stop, 4)]
        return struct.pack(f"<{len(words)}I", *words)[start - first : stop - first]

    def _store(self, start: int, data: bytes) -> None:
        block = self._live()
        if start % 4 or len(data) % 4:
            raise TypeError(
                f"writing {len(data)} bytes at register offset 0x{start:x}: device registers are 32 bits wide; write "
                "whole words at multiples of 4"
            )
        with self._board.call():
            for i in range(0, len(data), 4):
                block.write32(start + i, int.from_bytes(data[i : i + 4], "little"))

    def __buffer__(self, flags: int) -> memoryview:  # called by Python 3.12 and newer
        raise TypeError(
            "the emulated register map exports no buffer, because a NumPy view or memoryview would bypass the device; "
            "read and write items or slices of the map"
        )

    def __len__(self) -> int:
        return self._length

    def _index(self, index: int) -> int:
        at = index + self._length if index < 0 else index
        if not 0 <= at < self._length:
            raise IndexError("mmap index out of range")
        return at

    def __getitem__(self, index: int | slice) -> Any:
        """A byte as a number, or bytes of a slice."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self._length)
            if step != 1:
                return bytes(self[i] for i in range(start, stop, step))
            return self._load(start, stop) if start < stop else b""
        at = self._index(index)
        return self._load(at, at + 1)[0]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        """Write registers; only whole words."""
        if not isinstance(index, slice):
            self._store(self._index(index), bytes([value]))
            return
        start, stop, step = index.indices(self._length)
        data = bytes(value)
        if step != 1 or len(data) != stop - start:
            raise IndexError("mmap slice assignment is wrong size")
        self._store(start, data)

    # the file side of a map

    def seek(self, offset: int, whence: int = 0) -> None:
        """Set the file position."""
        at = offset + {0: 0, 1: self._at, 2: self._length}[whence]
        if not 0 <= at <= self._length:
            raise ValueError("seek out of range")
        self._at = at

    def tell(self) -> int:
        """The file position."""
        return self._at

    def read(self, n: int | None = None) -> bytes:
        """Read bytes from the file position on."""
        stop = self._length if n is None or n < 0 else min(self._length, self._at + n)
        data = self._load(self._at, stop) if stop > self._at else b""
        self._at = max(self._at, stop)
        return data

    def write(self, data: bytes) -> int:
        """Write whole words at the file position."""
        raw = bytes(data)
        if self._at + len(raw) > self._length:
            raise ValueError("data out of range")
        self._store(self._at, raw)
        self._at += len(raw)
        return len(raw)

    def read_byte(self) -> int:
        """Read one byte at the file position."""
        if self._at >= self._length:
            raise ValueError("read byte out of range")
        self._at += 1
        return self._load(self._at - 1, self._at)[0]

    def size(self) -> int:
        """The length in bytes."""
        return self._length

    def flush(self, offset: int = 0, size: int | None = None) -> None:
        """Do nothing: writes are not buffered."""
        self._live()

    @property
    def closed(self) -> bool:
        """Whether the map is closed."""
        return self._block is None

    def close(self) -> None:
        """Close the map."""
        self._block = None

    def __enter__(self) -> RegisterMap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _protection(args: dict[str, Any]) -> tuple[int, int]:
    """flags and prot for the arguments of mmap.mmap. Raises: ValueError for arguments that contradict each other."""
    flags = int(args.get("flags", mmap.MAP_SHARED))
    prot = int(args.get("prot", mmap.PROT_READ | mmap.PROT_WRITE))
    access = int(args.get("access", 0))
    if access and ("flags" in args or "prot" in args):
        raise ValueError("mmap can't specify both access and flags, prot.")
    if access == mmap.ACCESS_READ:
        prot = mmap.PROT_READ
    elif access == mmap.ACCESS_COPY:
        flags = mmap.MAP_PRIVATE
    return flags, prot


_NAMES = ("fileno", "length", "flags", "prot", "access", "offset")


def make_mmap(current: Callable[[int], Board | None]) -> type[mmap.mmap]:
    """The replacement for mmap.mmap. current: gives the board if the descriptor is one of its devices, else None."""

    class EmulatedMmap(_REAL):
        """mmap.mmap, also for emulated devices."""

        _emulated_span: Span | None = None
        _emulated_board: Board | None = None

        def __new__(cls, *positional: Any, **named: Any) -> Any:
            args = dict(zip(_NAMES, positional, strict=False)) | named
            fd = args.get("fileno", -1)
            board = current(fd) if isinstance(fd, int) and len(positional) <= len(_NAMES) else None
            if board is None:
                return _REAL.__new__(cls, *positional, **named)
            length, offset = int(args.get("length", 0)), int(args.get("offset", 0))
            flags, prot = _protection(args)
            with board.call():
                fail_if(length <= 0 or offset < 0 or offset % board.profile.page_size, errno.EINVAL)
                if not flags & mmap.MAP_SHARED:
                    raise board.not_modelled(f"a private map (flags 0x{flags:x}) of {board.fds.get(fd).path}")
                found = board.fds.get(fd).mmap(length, offset)
            if isinstance(found, RegisterBlock):
                return RegisterMap(board, found, length)
            extra = {"trackfd": False} if sys.version_info >= (3, 13) else {}
            try:
                made: EmulatedMmap = _REAL.__new__(
                    cls, board.memory.fd, length, flags=flags, prot=prot, offset=found.address, **extra
                )
            except BaseException:
                with board.whole():
                    found.release()
                raise
            made._emulated_span, made._emulated_board = found, board
            if found.placed is not None and prot & mmap.PROT_WRITE:
                found.placed(ctypes.addressof(ctypes.c_char.from_buffer(made)))
            return made

        def _emulated_release(self) -> None:
            span, board = self._emulated_span, self._emulated_board
            if span is not None and board is not None:
                self._emulated_span = None
                with board.whole():
                    if not board.closed:
                        span.release()

        def close(self) -> None:
            super().close()
            self._emulated_release()

        def __exit__(self, *reason: object) -> None:
            self.close()

        def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
            # The map is being garbage-collected, and the base class unmaps it right after this call. At the end of the
            # interpreter this module may be cleared already, and the board needs no release.
            if not finalizing():
                self._emulated_release()

    EmulatedMmap.__name__ = EmulatedMmap.__qualname__ = "mmap"
    EmulatedMmap.__module__ = "mmap"
    return EmulatedMmap
