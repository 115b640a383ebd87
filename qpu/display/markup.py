"""Building blocks of the notebook displays in HTML and SVG: tables, bars, boxes and strips.

Colours are of medium brightness and text has the colour of the page, so that they suit light and dark pages. The
functions escape all texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["ACCENTS", "MONO", "bars", "boxes", "facts", "row", "si", "strips", "table"]

ACCENTS = ("#3b7dd8", "#d8763b", "#3ba56b", "#9a5fc7", "#b0a030")
MONO = "text-align:left;font-family:monospace;white-space:pre;padding:0 .8em 0 0;vertical-align:top"
_TEXT = 'fill="currentColor" font-family="sans-serif" font-size="12"'


def si(value: float) -> str:
    """A count with an SI prefix: 1234567 -> '1.23 M'."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            scale = 1e3 if unit == " k" else size
            return f"{value / scale:.3g}{unit}" if value / scale < 999.5 else f"{value / scale:.0f}{unit}"
    return f"{value:,.0f}"


# -- tables


def row(cells: Iterable[str], tag: str = "td") -> str:
    """A row of monospaced cells; the cells are HTML already."""
    return "<tr>" + "".join(f'<{tag} style="{MONO}">{c}</{tag}>' for c in cells) + "</tr>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table of texts."""
    head = row([escape(h) for h in headers], "th")
    body = "".join(row([escape(c) for c in cells]) for cells in rows)
    return f"<table><caption>{escape(caption)}</caption>{head}{body}</table>"


def facts(caption: str, values: Mapping[str, str]) -> str:
    """A table of names and values."""
    cell = 'style="text-align:left;padding:0 1em 0 0"'
    rows = "".join(f"<tr><th {cell}>{escape(k)}</th><td {cell}>{escape(v)}</td></tr>" for k, v in values.items())
    return f'<table><caption style="text-align:left">{escape(caption)}</caption>{rows}</table>'


# -- pictures


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" style="display:block;max-width:100%"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _label(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {_TEXT}>{escape(text)}</text>'


def bars(title: str, values: Sequence[tuple[str, float, str]], *, top: float | None = None) -> str:
    """Horizontal bars. values: label, length, text at the end. top: the length of a full bar (default: the largest)."""
    most = top or max((v for _, v, _ in values), default=0.0) or 1.0
    left, wide, step = 150, 300, 18
    parts = [_label(0, 13, title)]
    for i, (name, value, text) in enumerate(values):
        y = 22 + step * i
        length = wide * min(1.0, max(0.0, value / most))
        parts.append(_label(left - 8, y + 11, name, "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{wide}" height="13" fill="currentColor" opacity="0.08"/>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="13" fill="{ACCENTS[0]}"/>')
        parts.append(_label(left + wide + 8, y + 11, text))
    return _svg(left + wide + 130, 26 + step * len(values), title, parts)


def boxes(title: str, groups: int, each: int, name: str, shades: Sequence[float] | None = None) -> str:
    """Groups of numbered boxes, such as slices of QPUs. name: of a group. shades: 0..1 for each box, default all 1."""
    size, gap = 30, 4
    per_line = 4
    wide, tall = min(each, per_line) * size + 2 * gap, -(-each // per_line) * size + 22
    parts = []
    for g in range(groups):
        x = g * (wide + 10)
        parts.append(
            f'<rect x="{x + 0.5}" y="0.5" width="{wide}" height="{tall}" rx="5" fill="none" stroke="currentColor" '
            'opacity="0.5"/>'
        )
        parts.append(_label(x + 7, 14, f"{name} {g}"))
        for i in range(each):
            number = g * each + i
            shade = 1.0 if shades is None else shades[number] if number < len(shades) else 0.0
            bx, by = x + gap + 2 + i % per_line * size, 19 + i // per_line * size
            parts.append(
                f'<rect x="{bx}" y="{by}" width="{size - gap}" height="{size - gap}" rx="3" fill="{ACCENTS[0]}" '
                f'fill-opacity="{0.12 + 0.88 * min(1.0, max(0.0, shade)):.2f}"/>'
            )
            parts.append(
                f'<text x="{bx + (size - gap) / 2:g}" y="{by + 17}" text-anchor="middle" font-family="sans-serif" '
                f'font-size="11" fill="{"#fff" if shade > 0.45 else "currentColor"}">{number}</text>'
            )
    return _svg(groups * (wide + 10), tall + 2, title, parts)


def strips(title: str, lines: Mapping[str, Sequence[float]], *, axis: str, hues: Sequence[int] = ()) -> str:
    """One strip a line, its cells shaded 0..1 in four steps. All lines have as many cells.

    axis: what left to right means. hues: number of the colour of each line (default: all the same).
    """
    left, wide, step, steps = 80, 560, 16, 4
    parts = [_label(0, 13, title)]
    for i, (name, cells) in enumerate(lines.items()):
        y = 20 + step * i
        colour = ACCENTS[(hues[i] if i < len(hues) else 0) % len(ACCENTS)]
        parts.append(_label(left - 8, y + 11, name, "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{wide}" height="13" fill="currentColor" opacity="0.06"/>')
        shades = [0 if c <= 0 else max(1, round(steps * min(1.0, c))) for c in cells]
        width = wide / max(1, len(cells))
        for shade in sorted({x for x in shades if x}):
            path, at = "", 0
            while at < len(shades):
                run = at
                while run < len(shades) and shades[run] == shade:
                    run += 1
                if run > at:
                    path += f"M{left + at * width:.0f} {y}H{left + run * width:.0f}v13H{left + at * width:.0f}z"
                at = max(run, at + 1)
            parts.append(f'<path d="{path}" fill="{colour}" fill-opacity="{shade / steps:g}"/>')
    bottom = 20 + step * len(lines)
    parts.append(_label(left, bottom + 12, axis))
    return _svg(left + wide + 10, bottom + 18, title, parts)
