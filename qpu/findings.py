"""Source locations, findings of checks, and where emulated programs fault: what the errors of the package carry.

`qpu.errors` has these names, too, and imports this module when one of them is used.
"""

from __future__ import annotations

import enum
import linecache
from dataclasses import dataclass

__all__ = ["Diagnostic", "FaultPlace", "Loc", "Severity"]

_MESSAGE_LIMIT = 1000  # characters of a message that are shown
_LINE_LIMIT = 200  # characters of a source line that are shown


class Severity(enum.StrEnum):
    """Severity of a finding. Only findings of severity `error` make a check fail."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Loc:
    """A place in a source file: Python for builders, assembly text for the assemblers.

    line, column: counted from 1; column is None when the whole line is meant. text: the line itself; None: the line is
    read from `file` when it is rendered.
    """

    file: str
    line: int
    column: int | None = None
    text: str | None = None

    @property
    def source(self) -> str:
        """The source line without its line end; empty when it is not available."""
        if self.text is not None:
            return self.text.rstrip("\r\n")
        return linecache.getline(self.file, self.line).rstrip("\r\n")

    def __str__(self) -> str:
        if self.column is None:
            return f"{self.file}:{self.line}"
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: what was found, what is allowed, what to write instead.

    rule: stable identifier such as ``small-imm`` or ``H1``. name: the rule's name in words, where the identifier is a
    number. index: instruction index, if any. other: index of the second instruction concerned. distance: how far apart
    the two are, in instructions.
    """

    rule: str
    message: str
    severity: Severity = Severity.ERROR
    loc: Loc | None = None
    allowed: str | None = None
    help: str | None = None
    index: int | None = None
    other: int | None = None
    distance: int | None = None
    name: str = ""

    def render(self) -> str:
        """The diagnostic as text of several lines."""
        message = self.message
        if len(message) > _MESSAGE_LIMIT:
            message = message[: _MESSAGE_LIMIT // 2] + " ... " + message[-_MESSAGE_LIMIT // 2 :]
        label = f"{self.rule} {self.name}" if self.name else self.rule
        head = f"{self.severity}[{label}]: {message}"
        lines: list[str] = []
        if self.loc is None:
            where = "" if self.index is None else f"instruction {self.index}: "
            lines.append(where + head)
        else:
            lines.append(f"{self.loc}: {head}")
            source = self.loc.source
            if source.strip():
                if self.loc.column is None:
                    lines.append("    " + _window(source.strip(), 0)[0])
                else:
                    shown, at = _window(source.expandtabs(1), self.loc.column - 1)
                    lines.append("    " + shown)
                    lines.append("    " + " " * at + "^")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.help is not None:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class FaultPlace:
    """Where an emulated program was when it faulted. Fields are None where they do not apply."""

    board: str | None = None
    qpu: int | None = None
    thread: int | None = None
    instruction: int | None = None
    lane: int | None = None
    address: int | None = None
    disassembly: str | None = None
    loc: Loc | None = None

    def render(self) -> str:
        """One line of text, such as ``pi5: QPU 3, thread 1, instruction 17``."""
        parts: list[str] = []
        if self.qpu is not None:
            parts.append(f"QPU {self.qpu}")
        if self.thread is not None:
            parts.append(f"thread {self.thread}")
        if self.instruction is not None:
            parts.append(f"instruction {self.instruction}")
        if self.lane is not None:
            parts.append(f"lane {self.lane}")
        if self.address is not None:
            parts.append(f"address 0x{self.address:08x}")
        head = f"{self.board}: " if self.board else ""
        return head + ", ".join(parts)


def _window(source: str, at: int) -> tuple[str, int]:
    """The part of a long source line around position `at`, and where that position is in it."""
    if len(source) <= _LINE_LIMIT:
        return source, at
    start = max(0, min(at - _LINE_LIMIT // 2, len(source) - _LINE_LIMIT))
    head = "... " if start else ""
    tail = " ..." if start + _LINE_LIMIT < len(source) else ""
    return head + source[start : start + _LINE_LIMIT] + tail, at - start + len(head)
