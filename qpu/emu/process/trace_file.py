"""The trace of `qpu emulate`: the options of the command line, and the file that is written at the end."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from qpu.emu.engine.trace import Trace
from qpu.errors import UsageError

__all__ = ["DEFAULT_LIMIT", "TraceFile"]

DEFAULT_LIMIT = 100_000
FORMS = ("text", "jsonl")


@dataclass(frozen=True, slots=True)
class TraceFile:
    """The options of a trace.

    path: the file, absolute. form: ``text`` or ``jsonl`` (one JSON object on each line). qpus: only these QPUs, None
    for all. first, last: only these instruction indices, both included; last None: to the end. limit: most entries;
    the last ones are kept.
    """

    path: str
    form: str
    qpus: tuple[int, ...] | None = None
    first: int = 0
    last: int | None = None
    limit: int = DEFAULT_LIMIT

    @classmethod
    def parse(
        cls,
        path: str,
        *,
        form: str | None = None,
        qpus: str | None = None,
        span: str | None = None,
        limit: str | None = None,
    ) -> TraceFile:
        """The options from the text of the command line.

        form: None: by the suffix of `path`, jsonl for ``.jsonl`` and ``.json``, else text. qpus: numbers and ranges,
        ``0,3-5``. span: instruction indices ``100-200``, ``100-``, ``-200`` or ``100``. limit: a number > 0.
        Raises: UsageError with what is allowed.
        """
        if form is None:
            form = "jsonl" if Path(path).suffix in (".jsonl", ".json") else "text"
        if form not in FORMS:
            raise UsageError(f"--trace-format {form!r}: allowed are {', '.join(FORMS)}", help="write one of these")
        chosen: set[int] | None = None
        if qpus is not None:
            chosen = set()
            for part in qpus.split(","):
                low, high = _range("--trace-qpu", part, "numbers and ranges", "0,3-5")
                if high is None or high > 63:
                    raise UsageError(f"--trace-qpu {part!r}: allowed are QPU numbers 0..63", help="write it as in 0-3")
                chosen.update(range(low, high + 1))
        first, last = (0, None) if span is None else _range("--trace-range", span, "instructions A-B, A-, -B, A", "4-9")
        kept = DEFAULT_LIMIT
        if limit is not None:
            if not limit.isdecimal() or not int(limit):
                raise UsageError(f"--trace-limit {limit!r}: allowed are numbers from 1", help="write it as in 1000")
            kept = int(limit)
        return cls(os.path.abspath(path), form, None if chosen is None else tuple(sorted(chosen)), first, last, kept)

    def start(self) -> Trace:
        """An empty trace with these filters. The file is made now, so that a bad path is found before a program runs.

        Raises: UsageError when the file cannot be written.
        """
        self._write("")
        return Trace(self.limit, qpus=self.qpus, first=self.first, last=self.last)

    def finish(self, trace: Trace) -> str:
        """Write all entries. Returns: a line with the path and the number of dropped entries."""
        body = trace.text if self.form == "text" else trace.json_lines
        self._write(body + "\n" if body else "")
        left = f", {trace.dropped} earlier ones dropped (--trace-limit {self.limit})" if trace.dropped else ""
        return f"qpu emulate: {len(trace)} trace entries in {self.path}{left}"

    def _write(self, text: str) -> None:
        try:
            Path(self.path).write_text(text, encoding="utf-8")
        except OSError as error:
            text = f"cannot write the trace {self.path}: {error.strerror}"
            raise UsageError(text, help="choose another file with --trace") from None

    # for child processes, each of which has its own file

    def dump(self) -> str:
        """The options as text, for the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str, pid: int) -> TraceFile:
        """The trace of child process `pid`: ``trace.txt`` becomes ``trace.PID.txt``."""
        fields = json.loads(text)
        path = Path(fields.pop("path"))
        qpus = fields.pop("qpus")
        own = path.with_name(f"{path.stem}.{pid}{path.suffix}")
        return cls(str(own), qpus=None if qpus is None else tuple(qpus), **fields)


def _range(option: str, text: str, allowed: str, example: str) -> tuple[int, int | None]:
    """Parse ``A-B``, ``A-``, ``-B`` or ``A``. Raises: UsageError."""
    low, dash, high = text.strip().partition("-")
    if not (low or high) or any(part and not (part.isascii() and part.isdecimal()) for part in (low, high)):
        raise UsageError(f"{option} {text!r}: allowed are {allowed}", help=f"write it as in {example}")
    first = int(low) if low else 0
    last = int(high) if high else None if dash else first
    if last is not None and last < first:
        raise UsageError(f"{option} {text!r}: the range ends before it begins", help=f"write {last}-{first}")
    return first, last
