"""The launch shape of VideoCore IV programs: number of QPUs and uniform streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qpu.core.arguments import Addressed, within
from qpu.errors import UsageError

__all__ = ["Programs"]

MAX_PROGRAMS = 16  # entries of the request queue (vc4.md 18)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a launch, one per QPU: ``gpu.run(program, uniforms, vc4.Programs(12))``.

    count: QPUs that run the program with the same stream of uniforms; None: one QPU for each row of uniforms or each
    of `streams`. streams: uniform streams in device memory, one per program, instead of uniforms.
    Raises: UsageError.
    """

    count: int | None = None
    streams: Sequence[Addressed] | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            object.__setattr__(self, "count", within("count", self.count, 1, MAX_PROGRAMS))
        if self.streams is not None and (not isinstance(self.streams, (tuple, list)) or not self.streams):
            raise UsageError(f"streams = {self.streams!r}", help="give a list with the stream of each program")
