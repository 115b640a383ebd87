"""Rehearsal: a launch runs on an emulated copy of the board under the sanitizer before it reaches the chip.

VideoCore IV has no memory management unit: a wild store on a Pi 0 to 3 overwrites the system. So a device on such a
board rehearses the first launch of a program with each set of argument shapes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.findings import KINDS, Findings
from qpu.debug.record import Memory, Recorded
from qpu.debug.replay import begin_recorded, located
from qpu.debug.sanitizer import Sanitizer
from qpu.debug.spans import Area, dma_spans, refuse
from qpu.drivers.base import DeviceInfo, Job, QpuJob
from qpu.emu.engines import observed
from qpu.errors import EmuFault, EmuWarning, UsageError, counted
from qpu.runtime.pool import Contents, MemoryPool

__all__ = ["LIMIT_S", "Rehearsals", "check_spans", "rehearse"]

LIMIT_S = 10.0  # host seconds of a rehearsal; what comes after them is not rehearsed
_STREAM = 256  # uniforms that are looked at without executing
_SLICE = 200_000  # emulated clocks between two looks at the time


class Rehearsals:
    """The launches of one device whose rehearsal found nothing: each program and set of argument shapes."""

    def __init__(self) -> None:
        self._known: set[tuple[int, ...]] = set()

    def first(self, program: Code, pool: MemoryPool, info: DeviceInfo, jobs: Sequence[Job]) -> None:
        """Rehearse a launch, unless one of its program with buffers of these sizes was rehearsed before.

        One with a finding, or that was interrupted, does not count. Raises: what `rehearse` raises.
        """
        used = sorted(c.used for c in pool.contents(jobs[0].bos) if c.kind == "buffer")
        key = (hash(program.code), len(jobs), *used)
        if key not in self._known:
            rehearse(pool, info, program, jobs)
            self._known.add(key)


def check_spans(pool: MemoryPool, program: Code, jobs: Sequence[Job]) -> None:
    """Judge the DMA transfers of a launch on VideoCore IV without executing it: see `qpu.debug.spans`.

    Raises: EmuFault for one that leaves the buffers; nothing was submitted then.
    """
    if program.isa is not Isa.VC4 or not dma_spans(program):
        return
    contents = pool.contents(jobs[0].bos)
    areas = [Area(c.bo.address, c.used, c.name) for c in contents if c.kind == "buffer"]
    for job in jobs:
        for uniforms in {entry[0] for entry in job.entries} if isinstance(job, QpuJob) else ():
            refuse(program, _words(contents, uniforms), areas)


def _words(contents: Sequence[Contents], address: int) -> list[int]:
    """The first words of a uniform stream; they may go on beyond its end."""
    for c in contents:
        offset = address - c.bo.address
        if 0 <= offset < c.bo.size:
            data = bytes(c.bo.view[offset : min(offset + 4 * _STREAM, c.bo.size)])
            return [int.from_bytes(data[n : n + 4], "little") for n in range(0, len(data) - 3, 4)]
    return []


def rehearse(pool: MemoryPool, info: DeviceInfo, program: Code, jobs: Sequence[Job]) -> None:
    """Run jobs on an emulated copy of the board, with copies of all buffers, under the sanitizer.

    Raises: EmuFault for the first finding: nothing was submitted then.
    """
    contents = pool.contents(jobs[0].bos)
    memory = [
        Memory(c.bo.address, c.bo.size, c.used, c.kind, c.name, tuple(c.streams), bytes(c.bo.view)) for c in contents
    ]
    board = info.emulated or ""
    recorded = Recorded(info.isa, board, jobs[0], tuple(program.code), [], memory)
    until = time.monotonic() + LIMIT_S
    try:
        with observed(Sanitizer(Findings(frozenset(KINDS))), apart=True):
            begin = begin_recorded(recorded)
            for job in jobs:
                execution = begin(job)
                while not execution.run(_SLICE):
                    if time.monotonic() > until:
                        clocks = f"only the first {counted(execution.clocks, 'clock', ',')} of a launch were rehearsed"
                        warnings.warn(EmuWarning(f"{clocks}, in {LIMIT_S:g} s"), stacklevel=2)
                        return
    except EmuFault as fault:
        message = f"{fault.message} (found by the rehearsal; nothing was submitted)"
        help = f"{fault.help}; rehearse=False or QPU_REHEARSE=0 launches it all the same"
        found = EmuFault(fault.rule, message, fault.place, fault.name, help=help, other=fault.other)
        raise located(found, program) from None
    except UsageError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(EmuWarning(f"this launch cannot be rehearsed here: {reason}"), stacklevel=2)
