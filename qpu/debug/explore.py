"""The explorer: one HTML page with kernels as source, operations and instructions of the three GPUs, side by side."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, Final, Protocol

from qpu.core.isa import Isa
from qpu.errors import QpuError, counted
from qpu.program import Program, toolkit

__all__ = ["Explorable", "explore"]


class Explorable(Protocol):
    """A kernel of the language."""

    fn: Callable[..., Any]

    def compile(self, isa: str | Isa) -> Any:
        """The kernel for an instruction set: `program`, `kir`."""
        ...


_ISAS: Final = (Isa.VC4, Isa.V3D42, Isa.V3D71)
_Row = tuple[int | None, str]  # source line, text


def _source(kernel: Explorable) -> list[_Row]:
    try:
        lines, first = inspect.getsourcelines(kernel.fn)
    except (OSError, TypeError):
        return [(None, "(the source cannot be read)")]
    return [(first + n, line.rstrip("\n")) for n, line in enumerate(lines)]


def _operations(region: Any, depth: int, names: dict[int, str]) -> Iterator[_Row]:
    """The operations of a region and of those inside, one a line; values are named in this order."""
    for value in region.ops:
        name = names.setdefault(id(value), f"v{len(names)}")
        args = ", ".join(f"{a.attr:#x}" if a.op == "const" else names.get(id(a), f"<{a.op}>") for a in value.args)
        inner = getattr(value.attr, "region", None)
        line = None if value.loc is None else value.loc.line
        if value.op != "const":
            kind = f": {value.type}" if value.type else ""
            mark = "" if value.varying or inner is not None else "   one value for all lanes"
            given = value.attr if value.op == "param" else args
            yield line, f"{'  ' * depth}{name}{kind} = {value.op}({given}){mark}"
        if inner is not None:
            for n, parameter in enumerate(inner.parameters):
                names[id(parameter)] = f"{name}.{n}"
            yield from _operations(inner, depth + 1, names)
            for n, result in enumerate(value.attr.results):
                names[id(result)] = f"{name}.end{n}"


def _instructions(program: Program) -> list[_Row]:
    text = toolkit(program.isa).disassemble
    labels = {n: name for name, n in program.labels.items()}
    rows: list[_Row] = []
    for n, word in enumerate(program.code):
        if n in labels:
            rows.append((None, f"{labels[n]}:"))
        loc = program.loc(n)
        rows.append((None if loc is None else loc.line, f"{n:>4}  {' '.join(text(word).split())}"))
    return rows


def _column(title: str, rows: Sequence[_Row]) -> str:
    body = "\n".join(
        f"<li>{escape(text) or ' '}</li>" if line is None else f'<li data-line="{line}">{escape(text) or " "}</li>'
        for line, text in rows
    )
    return f"<section><h3>{escape(title)}</h3><ol>{body}</ol></section>"


def _kernel(kernel: Explorable) -> str:
    source = _source(kernel)
    columns = []
    findings: list[tuple[int | None, str]] = []
    operations: list[_Row] = []
    for isa in _ISAS:
        try:
            made = kernel.compile(isa)
        except QpuError as error:
            columns.append(_column(isa.label, [(None, line) for line in str(error).splitlines()]))
            continue
        if not operations:
            operations = list(_operations(made.kir.region, 0, {}))
            findings += [(None if d.loc is None else d.loc.line, d.message) for d in made.kir.notes]
        for f in made.program.check():
            loc = made.program.loc(f.index)
            findings.append((None if loc is None else loc.line, f"{isa.label}: {f.rule}: {f.message}"))
        columns.append(
            _column(f"{isa.label}, {counted(len(made.program), 'instruction')}", _instructions(made.program))
        )
    rows: list[_Row] = []
    for line, text in source:
        rows.append((line, text))
        rows += [(line, f"      ^ {message}") for at, message in findings if at == line and at is not None]
    rows += [(None, f"^ {message}") for at, message in findings if at is None]
    name = escape(getattr(kernel.fn, "__name__", "kernel"))
    parts = [_column("source", rows), _column("operations", operations), *columns]
    return f"<article><h2>{name}</h2><div>{''.join(parts)}</div></article>"


def explore(kernels: Sequence[Explorable], title: str = "kernels") -> str:
    """The page: for each kernel its source, the operations that all GPUs share, and the instructions of each GPU.

    Lines that belong together have one colour and light up together; findings are in place. The page loads nothing.
    """
    return _PAGE.replace("TITLE", escape(title)).replace("BODY", "\n".join(_kernel(k) for k in kernels))


_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
:root { color-scheme: light dark; font: 13px system-ui, sans-serif; --depth: 88%; }
@media (prefers-color-scheme: dark) { :root { --depth: 24%; } }
article > div { display: flex; gap: 12px; align-items: flex-start; overflow-x: auto; }
section { flex: 1 0 auto; max-height: 85vh; overflow-y: auto; }
h3 { position: sticky; top: 0; margin: 0; padding: 4px; background: Canvas; }
ol { list-style: none; margin: 0; padding: 0; font: 12px/1.5 ui-monospace, monospace; }
li { white-space: pre; padding: 0 6px; min-height: 1.5em; }
li[data-line] { background: hsl(var(--hue) 70% var(--depth)); }
li.lit { outline: 2px solid Highlight; }
</style></head><body><h1>TITLE</h1>
BODY
<script>
const rows = document.querySelectorAll("li[data-line]");
for (const row of rows) {
  row.style.setProperty("--hue", (row.dataset.line * 137.5) % 360);
  const same = () => row.closest("article").querySelectorAll(`li[data-line="${row.dataset.line}"]`);
  row.addEventListener("mouseenter", () => same().forEach((r) => r.classList.add("lit")));
  row.addEventListener("mouseleave", () => same().forEach((r) => r.classList.remove("lit")));
}
document.body.dataset.rows = rows.length;
</script></body></html>
"""
