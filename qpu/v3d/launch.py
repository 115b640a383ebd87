"""The launch shape of V3D programs: workgroups, threads and limits of a compute dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qpu.core.arguments import Addressed, whole, within
from qpu.errors import UsageError

__all__ = ["Dispatch"]

MAX_GROUPS = 65535  # per dimension (drivers.md 2)
MAX_GROUP_ITEMS = 256
MAX_GROUPS_PER_SUPERGROUP = 16
MAX_SUPERGROUP_ID = 63  # six bits of CFG3


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The shape of a compute dispatch: ``gpu.run(program, uniforms, v3d.Dispatch(workgroups=(4, 4, 1), threads=2))``.

    workgroups: one count, or three for x, y, z. workgroup_size: items, 1..256. workgroups_per_supergroup: 1..16.
    max_supergroup_id: 0..63; 63 keeps as many supergroups in flight as there is room for. Use 0 for
    a program with shared-memory slots: their numbering across supergroups is not known. threads: per QPU, 2 or 4.
    single_segment: the program ends with its first thread switch.

    max_batches: split the dispatch into jobs of at most that many batches (QPU threads of 16 items), which run one
    after another. Fewer threads at a time end sooner, so that Linux's 500 ms watchdog does not take a long
    dispatch for a hang, and other programs get their time slice. Workgroup ids stay what they were; workgroups must
    not wait for one another, and supergroups are formed anew in every job.

    batches: the number of batches that the hardware starts, instead of that of the shape: fewer leave workgroups out,
    more run with continued workgroup ids. Programs of other libraries give it; not together with max_batches.

    completion: (word, value): a u32 in device memory that is set to 0 before the launch and that the program makes
    `value` (not 0) when all its threads are done. A launch that ends without it raises GpuResetError; Linux without a
    reset counter (older than about 6.17) has no other way to detect a reset.

    Raises: UsageError for what the registers cannot express.
    """

    workgroups: int | tuple[int, int, int] = (1, 1, 1)
    workgroup_size: int = 16
    workgroups_per_supergroup: int = 1
    max_supergroup_id: int = MAX_SUPERGROUP_ID
    threads: int = 4
    single_segment: bool = False
    max_batches: int | None = None
    batches: int | None = None
    completion: tuple[Addressed, int] | None = None

    def __post_init__(self) -> None:
        given: Any = self.workgroups
        try:
            groups = tuple(given)
        except TypeError:  # not iterable: one count
            groups = (given, 1, 1)
        if len(groups) != 3:
            raise UsageError(f"workgroups = {self.workgroups!r}", help="give one count, or three for x, y, z")
        put = object.__setattr__
        triple = tuple(within(f"workgroups in {axis}", n, 1, MAX_GROUPS) for axis, n in zip("xyz", groups, strict=True))
        put(self, "workgroups", triple)
        put(self, "workgroup_size", within("workgroup_size", self.workgroup_size, 1, MAX_GROUP_ITEMS))
        per = within("workgroups_per_supergroup", self.workgroups_per_supergroup, 1, MAX_GROUPS_PER_SUPERGROUP)
        put(self, "workgroups_per_supergroup", per)
        put(self, "max_supergroup_id", within("max_supergroup_id", self.max_supergroup_id, 0, MAX_SUPERGROUP_ID))
        if whole("threads", self.threads, "2 or 4") not in (2, 4):
            raise UsageError(f"threads = {self.threads!r}; allowed: 2 or 4 threads per QPU", help="pass 2 or 4")
        put(self, "threads", int(self.threads))
        put(self, "single_segment", bool(self.single_segment))
        if self.max_batches is not None:
            put(self, "max_batches", within("max_batches", self.max_batches, 1, 0xFFFF_FFFF))
        if self.batches is not None:
            if self.max_batches is not None:
                raise UsageError("batches and max_batches are both given", help="leave one of them out")
            put(self, "batches", within("batches", self.batches, 1, 0xFFFF_FFFF))
        if self.completion is not None:
            if not isinstance(self.completion, tuple) or len(self.completion) != 2:
                raise UsageError(f"completion = {self.completion!r}", help="give device memory and a value: (word, 1)")
            word, value = self.completion
            put(self, "completion", (word, within("completion value", value, 1, 0xFFFF_FFFF)))

    @property
    def counts(self) -> tuple[int, int, int]:
        """Workgroups in x, y, z."""
        assert isinstance(self.workgroups, tuple)
        return self.workgroups
