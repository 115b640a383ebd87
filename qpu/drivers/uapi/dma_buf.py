"""Buffers shared by file descriptor: the cache maintenance call (uapi header dma-buf.h)."""

from __future__ import annotations

from qpu.drivers.uapi.layout import Ioctl, parse_ioctls, parse_structs

__all__ = ["IOCTLS", "STRUCTS", "SYNC_END", "SYNC_READ", "SYNC_RW", "SYNC_START", "SYNC_WRITE", "layout"]

STRUCTS = parse_structs("dma_buf_sync: u64 flags")
IOCTLS: dict[str, Ioctl] = parse_ioctls("DMA_BUF_IOCTL_SYNC W b 0 dma_buf_sync", STRUCTS)

SYNC_READ = 1
SYNC_WRITE = 2
SYNC_RW = 3
SYNC_START = 0
SYNC_END = 4


layout = STRUCTS.layout
"""Layout of the structure called `name` for a process with pointers of `pointer_size` bytes."""
