"""VCSM and VCSM-CMA: structures, request numbers, constants (headers vmcs_sm_ioctl.h, vc_sm_cma_ioctl.h; drivers.md 5).

The drivers look at the command number only, so the size bits of a request may differ between callers.
"""

from __future__ import annotations

import enum

from qpu.drivers.uapi.layout import Ioctl, parse_ioctls, parse_structs

__all__ = ["IOCTLS", "RESOURCE_NAME", "STRUCTS", "Cache", "CacheOp", "ioctl", "layout"]

STRUCTS = parse_structs(
    """
    vmcs_sm_ioctl_alloc: u32 size, u32 num, u32 cached, char name[32], u32 handle
    vmcs_sm_ioctl_alloc_share: u32 handle, u32 size
    vmcs_sm_ioctl_free: u32 handle
    vmcs_sm_ioctl_lock_unlock: u32 handle, u32 addr
    vmcs_sm_ioctl_lock_cache: u32 handle, u32 cached
    vmcs_sm_ioctl_resize: u32 handle, u32 new_size, u32 old_size
    vmcs_sm_ioctl_map: u32 pid, u32 handle, u32 addr, u32 size
    vmcs_sm_ioctl_walk: u32 pid
    vmcs_sm_ioctl_chk: u32 handle, u32 addr, u32 size, u32 cache
    vmcs_sm_ioctl_size: u32 handle, u32 size
    vmcs_sm_ioctl_cache: u32 handle, u32 addr, u32 size
    vmcs_sm_ioctl_clean_invalid: u32 s[32]
    vmcs_sm_ioctl_clean_invalid_block: u16 invalidate_mode, u16 block_count, ptr start_address, u32 block_size,
        u32 inter_block_stride
    vmcs_sm_ioctl_clean_invalid2: u8 op_count, u8 zero[3], vmcs_sm_ioctl_clean_invalid_block s[]
    vmcs_sm_ioctl_import_dmabuf: s32 dmabuf_fd, u32 cached, char name[32], u32 handle
    vc_sm_cma_ioctl_alloc: u32 size, u32 num, u32 cached, u32 pad, char name[32], s32 handle, u32 vc_handle,
        u64 dma_addr
    vc_sm_cma_ioctl_import_dmabuf: s32 dmabuf_fd, u32 cached, char name[32], s32 handle, u32 vc_handle, u32 size,
        u32 pad, u64 dma_addr
    vc_sm_cma_ioctl_clean_invalid_block: u32 invalidate_mode, u32 block_count, ptr start_address, u32 block_size,
        u32 inter_block_stride
    vc_sm_cma_ioctl_clean_invalid2: u32 op_count, u32 pad, vc_sm_cma_ioctl_clean_invalid_block s[]
    """
)

IOCTLS: dict[str, Ioctl] = parse_ioctls(
    """
    VMCS_SM_IOCTL_MEM_ALLOC            R I 0x5a vmcs_sm_ioctl_alloc
    VMCS_SM_IOCTL_MEM_ALLOC_SHARE      R I 0x5b vmcs_sm_ioctl_alloc_share
    VMCS_SM_IOCTL_MEM_LOCK             R I 0x5c vmcs_sm_ioctl_lock_unlock
    VMCS_SM_IOCTL_MEM_LOCK_CACHE       R I 0x5d vmcs_sm_ioctl_lock_cache
    VMCS_SM_IOCTL_MEM_UNLOCK           R I 0x5e vmcs_sm_ioctl_lock_unlock
    VMCS_SM_IOCTL_MEM_RESIZE           R I 0x5f vmcs_sm_ioctl_resize
    VMCS_SM_IOCTL_MEM_FREE             R I 0x61 vmcs_sm_ioctl_free
    VMCS_SM_IOCTL_MEM_FLUSH            R I 0x62 vmcs_sm_ioctl_cache
    VMCS_SM_IOCTL_MEM_INVALID          R I 0x63 vmcs_sm_ioctl_cache
    VMCS_SM_IOCTL_SIZE_USR_HDL         R I 0x64 vmcs_sm_ioctl_size
    VMCS_SM_IOCTL_CHK_USR_HDL          R I 0x65 vmcs_sm_ioctl_chk
    VMCS_SM_IOCTL_MAP_USR_HDL          R I 0x66 vmcs_sm_ioctl_map
    VMCS_SM_IOCTL_MAP_USR_ADDRESS      R I 0x67 vmcs_sm_ioctl_map
    VMCS_SM_IOCTL_MAP_VC_HDL_FR_ADDR   R I 0x68 vmcs_sm_ioctl_map
    VMCS_SM_IOCTL_MAP_VC_HDL_FR_HDL    R I 0x69 vmcs_sm_ioctl_map
    VMCS_SM_IOCTL_MAP_VC_ADDR_FR_HDL   R I 0x6a vmcs_sm_ioctl_map
    VMCS_SM_IOCTL_VC_WALK_ALLOC        - I 0x6b
    VMCS_SM_IOCTL_HOST_WALK_MAP        - I 0x6c
    VMCS_SM_IOCTL_HOST_WALK_PID_ALLOC  R I 0x6d vmcs_sm_ioctl_walk
    VMCS_SM_IOCTL_HOST_WALK_PID_MAP    R I 0x6e vmcs_sm_ioctl_walk
    VMCS_SM_IOCTL_MEM_CLEAN_INVALID    R I 0x6f vmcs_sm_ioctl_clean_invalid
    VMCS_SM_IOCTL_MEM_CLEAN_INVALID2   R I 0x70 vmcs_sm_ioctl_clean_invalid2
    VMCS_SM_IOCTL_MEM_IMPORT_DMABUF    R I 0x71 vmcs_sm_ioctl_import_dmabuf
    VC_SM_CMA_IOCTL_MEM_ALLOC          R J 0x5a vc_sm_cma_ioctl_alloc
    VC_SM_CMA_IOCTL_MEM_IMPORT_DMABUF  R J 0x5b vc_sm_cma_ioctl_import_dmabuf
    VC_SM_CMA_IOCTL_MEM_CLEAN_INVALID2 R J 0x5c vc_sm_cma_ioctl_clean_invalid2
    """,
    STRUCTS,
)

RESOURCE_NAME = 32  # bytes of a name, the terminating NUL included


class Cache(enum.IntEnum):
    """VMCS_SM_CACHE_*, VC_SM_CMA_CACHE_*: where an allocation may be cached."""

    NONE = 0
    HOST = 1
    VC = 2
    BOTH = 3


class CacheOp(enum.IntEnum):
    """VC_SM_CACHE_OP_*: what CLEAN_INVALID2 does to a block."""

    NOP = 0
    INV = 1
    CLEAN = 2
    FLUSH = 3


layout = STRUCTS.layout
"""Layout of the structure called `name` for a process with pointers of `pointer_size` bytes."""


def ioctl(name: str) -> Ioctl:
    """The ioctl row of the header's `name`."""
    return IOCTLS[name]
