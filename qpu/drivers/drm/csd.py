"""Compute dispatches of V3D: encodes a `CsdJob` as the seven registers, and splits long dispatches.

Source: drivers.md section 2 (Linux driver and Mesa, `Basis.DRIVER`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd

from qpu.drivers.base import CsdJob
from qpu.errors import UsageError

__all__ = ["batch_count", "batches_per_supergroup", "csd_cfg", "exact_batches", "split_dispatch"]

MAX_GROUPS = 65535
MAX_ITEMS = 256
LANES = 16  # items of a batch
_KEPT = 256
_known: dict[tuple[object, ...], tuple[int, int, int, int, int, int, int]] = {}  # registers by job: launches repeat


def batches_per_supergroup(job: CsdJob) -> int:
    """Batches (QPU threads) that one full supergroup takes."""
    return -(-job.workgroups_per_supergroup * job.workgroup_size // LANES)


def batch_count(job: CsdJob) -> int:
    """Batches of the whole dispatch: as given, else from the shape. The last supergroup may be partial."""
    if job.batches is not None:
        return job.batches
    x, y, z = job.workgroups
    full, rest = divmod(x * y * z, job.workgroups_per_supergroup)
    return batches_per_supergroup(job) * full + -(-rest * job.workgroup_size // LANES)


def exact_batches(version: int, revision: int) -> bool:
    """True where CFG4 holds the number of batches, False where it holds that number minus one.

    version: 42 or 71. revision: IPREV, HUB_IDENT3 15:8. Exact from 7.1.6 on, which is every retail Pi 5.
    """
    return version >= 71 and revision >= 6


def check_job(job: CsdJob) -> None:
    """Raise UsageError for a job that the registers cannot express or the hardware cannot run."""
    _aligned("code address", job.code, 8)
    _aligned("uniforms address", job.uniforms, 4)
    for axis, count, first in zip("xyz", job.workgroups, job.first, strict=True):
        _within(f"workgroups in {axis}", count, 1, MAX_GROUPS)
        _within(f"first workgroup id in {axis}", first, 0, 0xFFFF)
        if first + count - 1 > 0xFFFF:
            raise UsageError(
                f"workgroup ids in {axis} end at {first + count - 1}; allowed: 0..65535",
                help=f"use fewer workgroups in {axis}, or a smaller first id",
            )
    _within("workgroup_size", job.workgroup_size, 1, MAX_ITEMS)
    _within("workgroups_per_supergroup", job.workgroups_per_supergroup, 1, 16)
    _within("max_supergroup_id", job.max_supergroup_id, 0, 63)
    if job.threads not in (2, 4):
        raise UsageError(f"threads = {job.threads}; allowed: 2, 4", help="choose 2 or 4 threads per QPU")
    _within("batches", batch_count(job), 1, 0xFFFF_FFFF)
    if not job.bos:
        raise UsageError(
            "the job lists no buffers", help="list every buffer that it touches, code and uniforms included"
        )


def csd_cfg(job: CsdJob, version: int, revision: int) -> tuple[int, int, int, int, int, int, int]:
    """CFG0..CFG6 of a job.

    version: 42 or 71. revision: IPREV; it decides whether CFG4 counts from zero. Raises: UsageError.
    """
    shape_of = tuple(job.workgroups), tuple(job.first), job.workgroup_size, job.workgroups_per_supergroup
    flags_of = job.max_supergroup_id, job.threads, job.single_segment, job.propagate_nans, job.batches
    key = job.code, job.uniforms, shape_of, flags_of, version, revision
    found = _known.get(key)
    if found is None or not job.bos:
        check_job(job)
        if len(_known) >= _KEPT:
            _known.clear()
        found = _known[key] = _registers(job, version, revision)
    return found


def _registers(job: CsdJob, version: int, revision: int) -> tuple[int, int, int, int, int, int, int]:
    axes = [count << 16 | first for count, first in zip(job.workgroups, job.first, strict=True)]
    shape = (
        job.workgroup_size & 0xFF  # 0 means 256
        | (job.workgroups_per_supergroup & 15) << 8  # 0 means 16
        | batches_per_supergroup(job) - 1 << 12
        | job.max_supergroup_id << 20
    )
    batches = batch_count(job)
    flags = int(job.threads == 4) | int(job.single_segment) << 1
    if version < 70:
        flags |= int(job.propagate_nans) << 2  # reserved on 7.x
    return (
        axes[0],
        axes[1],
        axes[2],
        shape,
        batches if exact_batches(version, revision) else batches - 1,
        job.code | flags,
        job.uniforms,
    )


def split_dispatch(job: CsdJob, max_batches: int) -> list[CsdJob]:
    """Split a dispatch into several of at most `max_batches` batches each, which run every workgroup exactly once.

    For programs whose workgroups are independent of one another: Linux's watchdog resets a GPU that finishes no
    batch within 500 ms (drivers.md 1.6), and other programs wait while a dispatch runs. Workgroup ids do not change.
    Every part forms its own supergroups; where possible, a part ends at the end of a supergroup. A part is never
    smaller than one workgroup, even when that has more than `max_batches` batches.
    Raises: UsageError when the job overrides its batch count, or max_batches is not positive.
    """
    if max_batches < 1:
        raise UsageError(f"max_batches = {max_batches}; allowed: 1 or more", help="use 1 to run each workgroup alone")
    check_job(job)
    if batch_count(job) <= max_batches:
        return [job]
    if job.batches is not None:
        raise UsageError("a job with an explicit batch count cannot be split", help="leave out `batches`")
    return list(_split(job, max_batches, 2))


def _split(job: CsdJob, max_batches: int, axis: int) -> Iterator[CsdJob]:
    if axis < 0 or batch_count(job) <= max_batches:
        yield job
        return
    count = job.workgroups[axis]
    step = _largest(job, max_batches, axis)
    if step == 0:  # one plane exceeds the limit: split each plane along the next axis
        for i in range(count):
            yield from _split(_part(job, axis, i, 1), max_batches, axis - 1)
        return
    for i in range(0, count, step):
        yield _part(job, axis, i, min(step, count - i))


def _largest(job: CsdJob, max_batches: int, axis: int) -> int:
    """Most planes along an axis within the limit, as a multiple of whole supergroups where possible."""
    low, high = 0, job.workgroups[axis]
    while low < high:
        middle = (low + high + 1) // 2
        if batch_count(_part(job, axis, 0, middle)) <= max_batches:
            low = middle
        else:
            high = middle - 1
    x, y, z = (n if i != axis else 1 for i, n in enumerate(job.workgroups))
    whole = job.workgroups_per_supergroup // gcd(job.workgroups_per_supergroup, x * y * z)
    return low - low % whole if low >= whole else low


def _part(job: CsdJob, axis: int, start: int, count: int) -> CsdJob:
    groups, first = list(job.workgroups), list(job.first)
    groups[axis] = count
    first[axis] += start
    return replace(job, workgroups=(groups[0], groups[1], groups[2]), first=(first[0], first[1], first[2]))


def _aligned(name: str, address: int, to: int) -> None:
    if not 0 < address <= 0xFFFF_FFFF or address % to:
        raise UsageError(
            f"{name} {address:#x}; allowed: multiples of {to} from {to:#x} to 0xffffffff",
            help="take the address of a buffer of this device, plus a multiple of that",
        )


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} = {value}; allowed: {low}..{high}", help=f"choose {name} within that range")
