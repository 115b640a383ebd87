"""The notebook display of a program: an HTML table of its instructions and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING

from qpu.display.markup import MONO, row
from qpu.errors import DecodeError, Severity, counted

if TYPE_CHECKING:
    from qpu.core.code import Code
    from qpu.core.hazards import Finding

__all__ = ["program_html"]

LIMIT = 2000  # rows; longer programs are cut to keep the notebook cell readable
_COLOUR = {Severity.ERROR: "#b00020", Severity.WARNING: "#9a6700", Severity.INFO: "#555"}


def _columns(text: str) -> tuple[str, str, str]:
    """Add half, mul half and signals of an instruction's text; on VideoCore IV it may have no mul half.

    A part without operands, or one that begins with ``read``, is a signal; operations of the mul half have operands.
    """
    add, *rest = (part.strip() for part in text.split(";"))
    bare = bool(rest) and rest[0] != "nop" and (" " not in rest[0] or rest[0].startswith("read "))
    mul = rest.pop(0) if rest and not bare else ""
    return add, mul, "; ".join(rest)


def program_html(program: Code, found: Iterable[Finding], disassemble: Callable[[int], str]) -> str:
    """A table with address, word, add half, mul half and signals; labels and findings are rows of their own."""
    findings: dict[int, list[str]] = {}
    for finding in found:
        text = f"{finding.severity}[{finding.rule}]: {finding.message}"
        colour = _COLOUR[finding.severity]
        findings.setdefault(finding.index, []).append(f'<span style="color:{colour}">{escape(text)}</span>')
    labels: dict[int, list[str]] = {}
    for name, index in program.labels.items():
        labels.setdefault(index, []).append(name)
    rows = [row(["address", "word", "add", "mul", "signals"], "th")]
    for index, word in enumerate(program.code[:LIMIT]):
        for name in labels.get(index, ()):
            rows.append(row(["", "", f"<b>{escape(name)}:</b>", "", ""]))
        try:
            add, mul, signals = _columns(disassemble(word))
        except DecodeError as error:
            add, mul, signals = f"({error.diagnostics[0].message})", "", ""
        cells = [f"{8 * index:04x}", f"{word:016x}", add, mul, signals]
        rows.append(row([escape(c.strip()) for c in cells]))
        for text in findings.get(index, ()):
            rows.append(f'<tr><td></td><td></td><td colspan="3" style="{MONO}">{text}</td></tr>')
    if len(program) > LIMIT:
        rows.append(row(["", "", f"… {len(program) - LIMIT} more instructions", "", ""]))
    caption = f"<caption>{escape(program.isa.label)}, {counted(len(program), 'instruction')}</caption>"
    return f"<table>{caption}{''.join(rows)}</table>"
