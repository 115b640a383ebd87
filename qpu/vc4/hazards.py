"""Hazard rules of VideoCore IV."""

from __future__ import annotations

from collections.abc import Iterable

from qpu.core.hazards import Finding
from qpu.core.program import Program
from qpu.errors import Diagnostic, HazardError, Severity
from qpu.vc4.encode import decode, reserved

__all__ = ["check", "enforce"]


def check(words: Iterable[int]) -> list[Finding]:
    """All findings in program order."""
    found = []
    for index, word in enumerate(words):
        why = reserved(decode(word))
        if why is not None:
            found.append(Finding("decode", Severity.ERROR, index, why))
    return found


def enforce(program: Program) -> None:
    """Raise HazardError for the errors among the findings, at their source lines."""
    errors = [
        Diagnostic(
            f.rule, f.message, f.severity, program.loc(f.index), index=f.index, other=f.other, distance=f.distance
        )
        for f in check(program.code)
        if f.severity is Severity.ERROR
    ]
    if errors:
        raise HazardError.of(errors)
