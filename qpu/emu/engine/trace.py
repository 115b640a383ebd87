"""The trace: an opt-in, bounded record of executed instructions with the registers that they changed."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from qpu.errors import UsageError, counted

__all__ = ["Trace", "TraceEntry"]

Lanes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One instruction of one QPU thread.

    serial: number of the entry in its launch, from 0, with entries that were filtered out. launch: from 0. qpu, thread:
    where it ran. step: instructions that the thread executed before. index: instruction number from the start of the
    code.
    word: the instruction. text: its disassembly. changes: register name -> 16 raw 32-bit patterns after the
    instruction (one pattern when all lanes hold it); only what differs from before.
    """

    serial: int
    launch: int
    qpu: int
    thread: int
    step: int
    index: int
    word: int
    text: str
    changes: Mapping[str, Lanes] = field(default_factory=dict)

    def render(self) -> str:
        """The entry as text: a head line, then one indented line for each changed register."""
        lines = [f"{self.serial:>8}  qpu {self.qpu:>2}.{self.thread}  {self.index:>6}: {self.text}"]
        for name, lanes in self.changes.items():
            shown = " ".join(f"{x:08x}" for x in lanes)
            lines.append(f"{'':10}{name} = {shown}")
        return "\n".join(lines)

    def json(self) -> str:
        """The entry as one JSON object on one line; the word and all patterns are hexadecimal strings."""
        return json.dumps(
            {
                "serial": self.serial,
                "launch": self.launch,
                "qpu": self.qpu,
                "thread": self.thread,
                "step": self.step,
                "index": self.index,
                "word": f"0x{self.word:016x}",
                "text": self.text,
                "changes": {name: [f"0x{x:08x}" for x in lanes] for name, lanes in self.changes.items()},
            },
            separators=(",", ":"),
        )


class Trace:
    """The entries of one or many launches.

    limit: most entries. keep: ``"last"`` drops the oldest entries when full, ``"first"`` ignores the later ones.
    qpus: only these QPUs (None: all). threads: only these hardware threads of a QPU. first, last: only instruction
    indices first..last, both included. registers: include register changes (costs most of the time of a trace).
    """

    def __init__(
        self,
        limit: int = 100_000,
        *,
        keep: str = "last",
        qpus: Collection[int] | None = None,
        threads: Collection[int] | None = None,
        first: int = 0,
        last: int | None = None,
        registers: bool = True,
    ) -> None:
        if limit < 1:
            raise UsageError(f"limit: {limit} is not a positive number of entries", help="pass a number from 1")
        if keep not in ("first", "last"):
            raise UsageError(f"keep: {keep!r} is neither 'first' nor 'last'", help="pass one of these")
        self.limit = limit
        self.keep = keep
        self.qpus = None if qpus is None else frozenset(qpus)
        self.threads = None if threads is None else frozenset(threads)
        self.first = first
        self.last = last
        self.registers = registers
        self.launches = 0
        self.dropped = 0
        self._serial = 0
        self._entries: deque[TraceEntry] = deque()

    def begin(self) -> int:
        """Start a launch and return its number; entries of the launch are numbered from 0."""
        self._serial = 0
        self.launches += 1
        return self.launches - 1

    def wants(self, qpu: int, thread: int, index: int) -> bool:
        """Whether an instruction passes the filters; machines call this before they collect register changes."""
        return (
            (self.qpus is None or qpu in self.qpus)
            and (self.threads is None or thread in self.threads)
            and index >= self.first
            and (self.last is None or index <= self.last)
        )

    def add(
        self,
        *,
        qpu: int,
        thread: int,
        step: int,
        index: int,
        word: int,
        text: str,
        changes: Mapping[str, Iterable[int]] | None = None,
    ) -> None:
        """Record one executed instruction; the filters are applied here too."""
        serial = self._serial
        self._serial += 1
        if not self.wants(qpu, thread, index):
            return
        if len(self._entries) >= self.limit:
            self.dropped += 1
            if self.keep == "first":
                return
            self._entries.popleft()
        short: dict[str, Lanes] = {}
        for name, values in (changes or {}).items():
            lanes = tuple(int(x) for x in values)
            short[name] = lanes[:1] if len(set(lanes)) == 1 else lanes
        launch = max(self.launches - 1, 0)
        self._entries.append(TraceEntry(serial, launch, qpu, thread, step, index, word, text, short))

    def clear(self) -> None:
        """Drop all entries; filters and the launch number are unchanged."""
        self._entries.clear()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[TraceEntry]:
        return iter(self._entries)

    @property
    def text(self) -> str:
        """All entries as text, with the number of dropped ones."""
        lines = [e.render() for e in self._entries]
        if self.dropped:
            note = f"# {counted(self.dropped, 'later entry' if self.keep == 'first' else 'earlier entry')} dropped"
            lines.insert(len(lines) if self.keep == "first" else 0, note)
        return "\n".join(lines)

    @property
    def json_lines(self) -> str:
        """All entries, one JSON object on each line."""
        return "\n".join(e.json() for e in self._entries)

    def __repr__(self) -> str:
        counts = f"{counted(len(self), 'instruction')}, {counted(self.launches, 'launch')}"
        return f"<Trace of {counts}, {self.dropped} dropped>"

    def _repr_html_(self) -> str:
        from qpu.display.emulation import trace_html

        return trace_html(self)

    def write(self, file: IO[str], *, form: str = "text") -> None:
        """Write all entries to an open text file. form: ``"text"`` or ``"json"``."""
        if form not in ("text", "json"):
            raise UsageError(f"form: {form!r} is neither 'text' nor 'json'", help="pass one of these")
        body = self.text if form == "text" else self.json_lines
        if body:
            file.write(body + "\n")
