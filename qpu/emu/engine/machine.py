"""The interface between an emulated GPU and the emulated Linux and firmware: machines, executions, run statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Protocol

from qpu.core.isa import Isa
from qpu.errors import EmuFault

__all__ = ["Execution", "RunStats", "V3dMachine", "Vc4Machine"]


def _counter() -> Counter[str]:
    return Counter.__new__(Counter)  # empty; `Counter()` takes as long as all other fields together


@dataclass(slots=True)
class RunStats:
    """Statistics of a launch. Counts are instructions of one QPU thread each; bytes are as requested by the QPUs."""

    isa: Isa
    engine: str = "reference"
    instructions: int = 0
    add_ops: int = 0  # instructions whose add half is not a nop
    mul_ops: int = 0
    fadds: int = 0  # float additions and subtractions issued (fadd, faddnf, fsub), per instruction, not per lane
    fmuls: int = 0
    per_qpu: dict[int, int] = field(default_factory=dict)
    threads: int = 0  # QPU threads started (batches on V3D, programs on VideoCore IV)
    clocks: int = 0  # emulated time: clocks of the busiest QPU
    tmu_read_bytes: int = 0
    tmu_write_bytes: int = 0
    uniform_bytes: int = 0
    vpm_read_bytes: int = 0
    vpm_write_bytes: int = 0
    dma_read_bytes: int = 0
    dma_write_bytes: int = 0
    tmu_requests: int = 0
    sfu_ops: int = 0
    branches: int = 0
    thread_switches: int = 0
    translate_s: float = 0.0  # host seconds that the run waited for translations, compiled engine
    execute_s: float = 0.0  # host seconds
    cache_hits: int = 0
    cache_misses: int = 0
    fallbacks: Counter[str] = field(default_factory=_counter)  # reason -> instructions of the reference engine
    faults: list[str] = field(default_factory=list)  # findings of a run that is not strict, as text
    stopped: list[int] = field(default_factory=list)  # next instructions of threads stopped before their end

    @classmethod
    def total(cls, runs: Sequence[RunStats]) -> RunStats:
        """Several runs as one: counts and times are sums; `isa` and `engine` are those of the last run."""
        whole = cls(runs[-1].isa, runs[-1].engine)
        for name, column in zip(_NUMBERS, zip(*map(_numbers, runs), strict=True), strict=True):
            setattr(whole, name, sum(column))
        for run in runs:
            for q, n in run.per_qpu.items():
                whole.per_qpu[q] = whole.per_qpu.get(q, 0) + n
            whole.fallbacks.update(run.fallbacks)
            whole.faults += run.faults
            whole.stopped += run.stopped
        return whole

    @property
    def float_share(self) -> float:
        """(float additions + float multiplications) / (2 x instructions): 1.0 is the issue peak."""
        return (self.fadds + self.fmuls) / (2 * self.instructions) if self.instructions else 0.0

    @property
    def bytes_moved(self) -> int:
        """Bytes through TMU, uniforms and DMA."""
        return (
            self.tmu_read_bytes + self.tmu_write_bytes + self.uniform_bytes + self.dma_read_bytes + self.dma_write_bytes
        )

    def _repr_html_(self) -> str:
        from qpu.display.emulation import stats_html

        return stats_html(self)


_NUMBERS = tuple(each.name for each in fields(RunStats) if each.type in ("int", "float"))
_numbers = attrgetter(*_NUMBERS)


class Execution(Protocol):
    """A job on a machine. It advances only when `run` is called; its emulated time starts at 0."""

    stats: RunStats

    @property
    def clocks(self) -> int:
        """Emulated clocks since the start."""
        ...

    @property
    def done(self) -> bool: ...

    @property
    def batches_done(self) -> int:
        """Finished QPU threads. The watchdog resets the GPU when the number does not change."""
        ...

    def standing(self) -> list[int]:
        """The next instructions of the threads that have begun and not ended."""
        ...

    def run(self, clocks: int | None = None) -> bool:
        """Advance by about `clocks` emulated clocks (None: to the end); True when the job is done.

        Raises: EmuFault in strict mode. KeyboardInterrupt propagates; the execution can be resumed after it.
        """
        ...


class V3dMachine(Protocol):
    """A machine that takes compute dispatches as Linux programs them."""

    def dispatch(self, cfg: Sequence[int]) -> Execution:
        """Begin a dispatch. cfg: the seven CSD registers CFG0..CFG6 as submitted."""
        ...


class Vc4Machine(Protocol):
    """A machine that takes user programs as the firmware or the SRQ registers start them."""

    def launch(self, entries: Sequence[tuple[int, int]]) -> Vc4Execution:
        """Start programs. entries: (uniforms, code) bus addresses; program i runs on QPU i while QPUs are free."""
        ...


class Vc4Execution(Execution, Protocol):
    """A launch of user programs. `stats.threads` counts the programs that QPUs have started so far.

    open_ended: more programs may be added, so a deadlock is not raised as a fault yet; `hung` holds it.
    """

    open_ended: bool

    @property
    def hung(self) -> EmuFault | None:
        """The fault that says why the launch never ends; None unless that is known."""
        ...

    def extend(self, entries: Sequence[tuple[int, int]]) -> None:
        """Queue more programs after those of the launch; only while the launch is not done."""
        ...

    def withdraw(self) -> int:
        """Drop the programs that no QPU has started; returns their number."""
        ...

    @property
    def host_interrupts(self) -> int:
        """Writes of non-zero values to the host interrupt register so far."""
        ...
