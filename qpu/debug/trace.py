"""Traces: what the first threads of a launch did, step by step, as a page with a slider for notebooks and browsers.

`Trace.html()` is a page of its own that loads nothing; in a notebook it is the display of the trace.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.arguments import within
from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.files import opened, put
from qpu.debug.pages import frame, page
from qpu.debug.stepping import Before, Moment, Stepping
from qpu.debug.variables import Variables
from qpu.drivers.base import DeviceInfo, Job
from qpu.emu.engines import observed
from qpu.errors import UsageError, brief, counted
from qpu.program import toolkit
from qpu.runtime.jobs import OBSERVERS, JobObserver
from qpu.runtime.pool import MemoryPool

__all__ = ["Registers", "Trace", "packed", "source_lines"]

U32: TypeAlias = NDArray[np.uint32]
Thread: TypeAlias = tuple[int, int]

STEPS: Final = 2000
THREADS: Final = 4


class Registers:
    """The registers of threads as they were last seen, to tell what an instruction has changed."""

    def __init__(self) -> None:
        self._last: dict[Thread, dict[str, bytes]] = {}

    def forget(self, thread: Thread) -> None:
        """Begin again with a thread."""
        self._last.pop(thread, None)

    def changed(self, m: Moment, row: int, thread: Thread) -> dict[str, U32]:
        """The registers and flags that differ from the last call for this thread; none at its first."""
        now = {name: m.get(row, name) for name in m.names}
        before = self._last.get(thread)
        self._last[thread] = kept = {name: value.tobytes() for name, value in now.items()}
        return {} if before is None else {n: v for n, v in now.items() if kept[n] != before[n]}


def source_lines(program: Code) -> list[tuple[str, int, str]]:
    """(file, line, text) of the source of a program: for each file the lines from the first to the last one used."""
    used: dict[str, dict[int, str]] = {}
    for n in range(len(program)):
        loc = program.loc(n)
        if loc is not None:
            used.setdefault(loc.file, {})[loc.line] = loc.source
    found: list[tuple[str, int, str]] = []
    for file, lines in used.items():
        first, last = min(lines), max(lines)
        whole = last - first < 400
        for line in range(first, last + 1) if whole else sorted(lines):
            found.append((file, line, lines.get(line) or linecache.getline(file, line).rstrip("\n")))
    return found


def packed(value: U32) -> int | list[int]:
    """16 lanes for JSON: one number where they are equal."""
    lanes: list[int] = value.view(np.uint32).reshape(-1).tolist()
    return lanes[0] if len(set(lanes)) == 1 else lanes


class Trace(JobObserver):
    """The steps of a launch. A context: the launches of the block on emulated boards are traced, the last one is kept.

    steps: instructions that are kept at most for each thread. threads: how many are traced, the first ones that begin.
    """

    def __init__(self, steps: int = STEPS, threads: int = THREADS) -> None:
        self._most, self._threads = within("steps", steps, 1, 100_000), within("threads", threads, 1, 64)
        self._arguments: Mapping[str, Any] = {}
        self._observed = observed(Stepping(self._begin, "a trace"))
        self._program = Code(Isa.V3D71, ())
        self._variables = Variables(self._program)
        self._board = ""
        self._begin()

    # -- observation

    def called(self, arguments: Mapping[str, Any]) -> None:
        """See `qpu.runtime.jobs.JobObserver`."""
        self._arguments = arguments

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """A launch begins: see `qpu.runtime.jobs.JobObserver`."""
        if info.emulated is None:
            help = "open an emulated board, or record the launch (qpu.record) and replay it"
            raise UsageError(f"launches on {info.board.model} cannot be traced", help=help)
        self._program, self._board = program, info.emulated
        self._variables = Variables(program)
        if not self._variables.of_kernel:
            self._arguments = {}

    def _begin(self) -> Before:
        self._variables.begin()
        self._registers = Registers()
        self._steps: list[tuple[int, int]] = []  # thread, instruction
        self._changes: list[tuple[int, int, str, Any]] = []  # step from which it holds, thread, name, value
        self._numbers: dict[Thread, int] = {}
        self._counts: dict[Thread, int] = {}
        self._seen: dict[tuple[int, str], int] = {}
        self._cut = False
        return self._before

    def _before(self, m: Moment) -> None:
        threads = m.threads
        self._variables.before(m, threads)
        for row, thread in enumerate(threads):
            number = self._numbers.get(thread)
            if number is None:
                if len(self._numbers) >= self._threads:
                    self._cut = True
                    continue
                number = self._numbers[thread] = len(self._numbers)
            if self._counts.get(thread, 0) >= self._most:
                self._cut = True
                continue
            self._counts[thread] = self._counts.get(thread, 0) + 1
            at = len(self._steps)
            for name, value in self._registers.changed(m, row, thread).items():
                self._changes.append((at, number, name, packed(value)))
            for name, lanes in self._variables.of(thread).items():
                if self._seen.get((number, name)) != id(lanes):
                    self._seen[number, name] = id(lanes)
                    self._changes.append((at, number, f"{lanes.dtype.kind}:{name}", packed(lanes)))
            self._steps.append((number, m.index))

    def __enter__(self) -> Trace:
        self._observed.__enter__()
        OBSERVERS.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        OBSERVERS.remove(self)
        self._observed.__exit__()

    # -- results

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def data(self) -> dict[str, Any]:
        """What the page shows, for JSON. steps: (thread, instruction). changes: (step before which the value is there,
        thread, name, one number or 16); names with ``f:``, ``i:`` or ``u:`` are variables of a kernel."""
        program = self._program
        text: Callable[[int], str] = toolkit(program.isa).disassemble
        lines = source_lines(program)
        number = {(file, line): n for n, (file, line, _) in enumerate(lines)}
        locs = [program.loc(n) for n in range(len(program))]
        threads = [f"QPU {q}.{t}" for q, t in self._numbers]
        labels = {str(n): name for name, n in program.labels.items()}
        scalars = {n: v for n, v in self._arguments.items() if isinstance(v, int | float)}
        return {
            "board": self._board,
            "isa": program.isa.label,
            "code": [" ".join(text(word).split()) for word in program.code],
            "labels": labels,
            "line": [-1 if loc is None else number[loc.file, loc.line] for loc in locs],
            "source": [[line, source] for _, line, source in lines],
            "threads": threads,
            "arguments": scalars,
            "steps": self._steps,
            "changes": self._changes,
            "cut": self._cut,
        }

    def html(self) -> str:
        """A page of its own: source, instructions, variables and registers at each step, with a slider."""
        return page("Trace of a launch", "trace", self.data)

    @brief
    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to a file. Raises: UsageError when that is not possible."""
        data = self.html().encode()
        with opened(path, "wb") as file:
            put(file, data)

    def __repr__(self) -> str:
        return f"<Trace of {counted(len(self._program), 'instruction')} on {self._board}: {counted(len(self), 'step')}>"

    def _repr_html_(self) -> str:
        return frame(self.html(), 560)
