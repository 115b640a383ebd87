"""The collection of errors and warnings of one pass, with source locations and macro calls."""

from __future__ import annotations

from qpu.errors import Diagnostic, Loc, Severity
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.text import Source

__all__ = ["ERROR_LIMIT", "Report", "TooManyErrors"]

ERROR_LIMIT = 20
"""Errors reported by one pass."""


class TooManyErrors(Exception):
    """Ends a pass that has reported `ERROR_LIMIT` errors."""


class Report:
    """Errors and warnings in the order in which they are found.

    calls: ``in macro m called at file:line`` for each macro and file that is being read, innermost last.
    """

    def __init__(self) -> None:
        self.errors: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.calls: list[str] = []

    def _diagnostic(self, fault: Fault, severity: Severity, source: Source) -> Diagnostic:
        text, file, line = source
        message = fault.message
        if self.calls:
            shown = self.calls[:-4:-1]
            rest = len(self.calls) - len(shown)
            message += "; " + ", ".join(shown) + (f" and {rest} more" if rest else "")
        loc = Loc(file, line, fault.pos + 1 if line else None, text)
        return Diagnostic(fault.rule, message, severity, loc, fault.allowed, fault.help)

    def error(self, fault: Fault, source: Source) -> None:
        """Record an error; raises TooManyErrors at the limit."""
        self.errors.append(self._diagnostic(fault, Severity.ERROR, source))
        if len(self.errors) >= ERROR_LIMIT:
            raise TooManyErrors

    def warn(self, fault: Fault, source: Source) -> None:
        """Record a warning."""
        self.warnings.append(self._diagnostic(fault, Severity.WARNING, source))
