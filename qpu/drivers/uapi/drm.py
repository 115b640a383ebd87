"""DRM core and V3D: structures, request numbers and constants (uapi headers v3d_drm.h, drm.h; drivers.md 1.3)."""

from __future__ import annotations

import enum

from qpu.drivers.uapi.layout import Ioctl, parse_ioctls, parse_structs

__all__ = [
    "CAP_SYNCOBJ", "CAP_SYNCOBJ_TIMELINE", "IOCTLS", "STRUCTS", "ExtensionId", "Param", "Queue", "ioctl", "layout",
]  # fmt: skip

STRUCTS = parse_structs(
    """
    # DRM core
    drm_version: s32 version_major, s32 version_minor, s32 version_patchlevel, size_t name_len, ptr name,
        size_t date_len, ptr date, size_t desc_len, ptr desc
    drm_auth: u32 magic
    drm_gem_close: u32 handle, u32 pad
    drm_get_cap: u64 capability, u64 value
    drm_set_client_cap: u64 capability, u64 value
    drm_prime_handle: u32 handle, u32 flags, s32 fd
    drm_syncobj_create: u32 handle, u32 flags
    drm_syncobj_destroy: u32 handle, u32 pad
    drm_syncobj_handle: u32 handle, u32 flags, s32 fd, u32 pad
    drm_syncobj_transfer: u32 src_handle, u32 dst_handle, u64 src_point, u64 dst_point, u32 flags, u32 pad
    drm_syncobj_wait: u64 handles, s64 timeout_nsec, u32 count_handles, u32 flags, u32 first_signaled, u32 pad,
        u64 deadline_nsec
    drm_syncobj_timeline_wait: u64 handles, u64 points, s64 timeout_nsec, u32 count_handles, u32 flags,
        u32 first_signaled, u32 pad, u64 deadline_nsec
    drm_syncobj_array: u64 handles, u32 count_handles, u32 pad
    drm_syncobj_timeline_array: u64 handles, u64 points, u32 count_handles, u32 flags
    # V3D; pointers are 64 bits wide here, also in a 32-bit process
    drm_v3d_extension: u64 next, u32 id, u32 flags
    drm_v3d_sem: u32 handle, u32 flags, u64 point, u64 mbz[2]
    drm_v3d_multi_sync: drm_v3d_extension base, u64 in_syncs, u64 out_syncs, u32 in_sync_count, u32 out_sync_count,
        u32 wait_stage, u32 pad
    drm_v3d_submit_cl: u32 bcl_start, u32 bcl_end, u32 rcl_start, u32 rcl_end, u32 in_sync_bcl, u32 in_sync_rcl,
        u32 out_sync, u32 qma, u32 qms, u32 qts, u64 bo_handles, u32 bo_handle_count, u32 flags, u32 perfmon_id,
        u32 pad, u64 extensions
    drm_v3d_wait_bo: u32 handle, u32 pad, u64 timeout_ns
    drm_v3d_create_bo: u32 size, u32 flags, u32 handle, u32 offset
    drm_v3d_mmap_bo: u32 handle, u32 flags, u64 offset
    drm_v3d_get_param: u32 param, u32 pad, u64 value
    drm_v3d_get_bo_offset: u32 handle, u32 offset
    drm_v3d_submit_tfu: u32 icfg, u32 iia, u32 iis, u32 ica, u32 iua, u32 ioa, u32 ios, u32 coef[4],
        u32 bo_handles[4], u32 in_sync, u32 out_sync, u32 flags, u64 extensions, u32 v71[2]
    drm_v3d_submit_csd: u32 cfg[7], u32 coef[4], u64 bo_handles, u32 bo_handle_count, u32 in_sync, u32 out_sync,
        u32 perfmon_id, u64 extensions, u32 flags, u32 pad
    drm_v3d_indirect_csd: drm_v3d_extension base, drm_v3d_submit_csd submit, u32 indirect, u32 offset, u32 wg_size,
        u32 wg_uniform_offsets[3]
    drm_v3d_timestamp_query: drm_v3d_extension base, u64 offsets, u64 syncs, u32 count, u32 pad
    drm_v3d_reset_timestamp_query: drm_v3d_extension base, u64 syncs, u32 offset, u32 count
    drm_v3d_copy_timestamp_query: drm_v3d_extension base, u8 do_64bit, u8 do_partial, u8 availability_bit, u8 pad,
        u32 offset, u32 stride, u32 count, u64 offsets, u64 syncs
    drm_v3d_reset_performance_query: drm_v3d_extension base, u64 syncs, u32 count, u32 nperfmons, u64 kperfmon_ids
    drm_v3d_copy_performance_query: drm_v3d_extension base, u8 do_64bit, u8 do_partial, u8 availability_bit, u8 pad,
        u32 offset, u32 stride, u32 nperfmons, u32 ncounters, u32 count, u64 syncs, u64 kperfmon_ids
    drm_v3d_submit_cpu: u64 bo_handles, u32 bo_handle_count, u32 flags, u64 extensions
    drm_v3d_perfmon_create: u32 id, u32 ncounters, u8 counters[32]
    drm_v3d_perfmon_destroy: u32 id
    drm_v3d_perfmon_get_values: u32 id, u32 pad, u64 values_ptr
    drm_v3d_perfmon_get_counter: u8 counter, char name[64], char category[32], char description[256], u8 reserved[7]
    drm_v3d_perfmon_set_global: u32 flags, u32 id
    """
)

IOCTLS: dict[str, Ioctl] = parse_ioctls(
    """
    DRM_IOCTL_VERSION                 RW d 0x00 drm_version
    DRM_IOCTL_GET_MAGIC               R  d 0x02 drm_auth
    DRM_IOCTL_GEM_CLOSE               W  d 0x09 drm_gem_close
    DRM_IOCTL_GET_CAP                 RW d 0x0c drm_get_cap
    DRM_IOCTL_SET_CLIENT_CAP          W  d 0x0d drm_set_client_cap
    DRM_IOCTL_AUTH_MAGIC              W  d 0x11 drm_auth
    DRM_IOCTL_PRIME_HANDLE_TO_FD      RW d 0x2d drm_prime_handle
    DRM_IOCTL_PRIME_FD_TO_HANDLE      RW d 0x2e drm_prime_handle
    DRM_IOCTL_SYNCOBJ_CREATE          RW d 0xbf drm_syncobj_create
    DRM_IOCTL_SYNCOBJ_DESTROY         RW d 0xc0 drm_syncobj_destroy
    DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD    RW d 0xc1 drm_syncobj_handle
    DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE    RW d 0xc2 drm_syncobj_handle
    DRM_IOCTL_SYNCOBJ_WAIT            RW d 0xc3 drm_syncobj_wait
    DRM_IOCTL_SYNCOBJ_RESET           RW d 0xc4 drm_syncobj_array
    DRM_IOCTL_SYNCOBJ_SIGNAL          RW d 0xc5 drm_syncobj_array
    DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT   RW d 0xca drm_syncobj_timeline_wait
    DRM_IOCTL_SYNCOBJ_QUERY           RW d 0xcb drm_syncobj_timeline_array
    DRM_IOCTL_SYNCOBJ_TRANSFER        RW d 0xcc drm_syncobj_transfer
    DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL RW d 0xcd drm_syncobj_timeline_array
    DRM_IOCTL_V3D_SUBMIT_CL           RW d 0x40 drm_v3d_submit_cl
    DRM_IOCTL_V3D_WAIT_BO             RW d 0x41 drm_v3d_wait_bo
    DRM_IOCTL_V3D_CREATE_BO           RW d 0x42 drm_v3d_create_bo
    DRM_IOCTL_V3D_MMAP_BO             RW d 0x43 drm_v3d_mmap_bo
    DRM_IOCTL_V3D_GET_PARAM           RW d 0x44 drm_v3d_get_param
    DRM_IOCTL_V3D_GET_BO_OFFSET       RW d 0x45 drm_v3d_get_bo_offset
    DRM_IOCTL_V3D_SUBMIT_TFU          W  d 0x46 drm_v3d_submit_tfu
    DRM_IOCTL_V3D_SUBMIT_CSD          W  d 0x47 drm_v3d_submit_csd
    DRM_IOCTL_V3D_PERFMON_CREATE      RW d 0x48 drm_v3d_perfmon_create
    DRM_IOCTL_V3D_PERFMON_DESTROY     RW d 0x49 drm_v3d_perfmon_destroy
    DRM_IOCTL_V3D_PERFMON_GET_VALUES  RW d 0x4a drm_v3d_perfmon_get_values
    DRM_IOCTL_V3D_SUBMIT_CPU          W  d 0x4b drm_v3d_submit_cpu
    DRM_IOCTL_V3D_PERFMON_GET_COUNTER RW d 0x4c drm_v3d_perfmon_get_counter
    DRM_IOCTL_V3D_PERFMON_SET_GLOBAL  W  d 0x4d drm_v3d_perfmon_set_global
    """,
    STRUCTS,
)

COMMAND_BASE = 0x40
SUBMIT_CL_FLUSH_CACHE = 1
SUBMIT_EXTENSION = 2
MAX_PERFMON_COUNTERS = 32  # of one perfmon
PERFCNT_NUM = 87  # counters that Linux before about 6.11 accepts, also on Pi 5
PERFMON_CLEAR_GLOBAL = 1
CAP_PRIME = 5
CAP_SYNCOBJ = 0x13
CAP_SYNCOBJ_TIMELINE = 0x14
SYNCOBJ_CREATE_SIGNALED = 1
SYNCOBJ_WAIT_ALL = 1
SYNCOBJ_WAIT_FOR_SUBMIT = 2
SYNCOBJ_WAIT_AVAILABLE = 4


class ExtensionId(enum.IntEnum):
    """DRM_V3D_EXT_ID_*: kinds of user extensions."""

    MULTI_SYNC = 1
    CPU_INDIRECT_CSD = 2
    CPU_TIMESTAMP_QUERY = 3
    CPU_RESET_TIMESTAMP_QUERY = 4
    CPU_COPY_TIMESTAMP_QUERY = 5
    CPU_RESET_PERFORMANCE_QUERY = 6
    CPU_COPY_PERFORMANCE_QUERY = 7


class Queue(enum.IntEnum):
    """V3D_*: Linux's queues."""

    BIN = 0
    RENDER = 1
    TFU = 2
    CSD = 3
    CACHE_CLEAN = 4
    CPU = 5


class Param(enum.IntEnum):
    """DRM_V3D_PARAM_*: parameters of GET_PARAM. Older versions of Linux reject the later ones with EINVAL."""

    V3D_UIFCFG = 0
    V3D_HUB_IDENT1 = 1
    V3D_HUB_IDENT2 = 2
    V3D_HUB_IDENT3 = 3
    V3D_CORE0_IDENT0 = 4
    V3D_CORE0_IDENT1 = 5
    V3D_CORE0_IDENT2 = 6
    SUPPORTS_TFU = 7
    SUPPORTS_CSD = 8
    SUPPORTS_CACHE_FLUSH = 9
    SUPPORTS_PERFMON = 10
    SUPPORTS_MULTISYNC_EXT = 11
    SUPPORTS_CPU_QUEUE = 12
    MAX_PERF_COUNTERS = 13
    SUPPORTS_SUPER_PAGES = 14
    GLOBAL_RESET_COUNTER = 15
    CONTEXT_RESET_COUNTER = 16


layout = STRUCTS.layout
"""Layout of the structure called `name` for a process with pointers of `pointer_size` bytes."""


def ioctl(name: str) -> Ioctl:
    """The ioctl row of the header's `name`, with or without ``DRM_IOCTL_``."""
    return IOCTLS[name if name in IOCTLS else f"DRM_IOCTL_{name}"]
