"""Generator of the diagrams of the guide in docs/images. ``--check`` fails when one differs.

Each picture carries its own background and a dark variant, so that it is readable wherever it is shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent.parent / "docs" / "images"
TILE = (24, 32)  # rows and columns of the tile of `qpu.kernels.sgemm` on V3D
STYLE = """
  .card { fill: #fbfbfd; stroke: #d5d7df; }
  text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 14px; fill: #1f2430; }
  .small { font-size: 12px; } .dim { fill: #5c6372; } .bold { font-weight: 600; } .mid { text-anchor: middle; }
  .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; }
  .line { fill: none; stroke: #5c6372; stroke-width: 1.6; } .tip { fill: #5c6372; }
  .a { fill: #cfe3fb; stroke: #5b8fcf; } .b { fill: #fde3c3; stroke: #d39a4c; } .c { fill: #d5efd3; stroke: #65a762; }
  .d { fill: #f7d4d4; stroke: #cc6f6f; } .e { fill: #e8e9ef; stroke: #a3a8b5; } .f { fill: #e6daf7; stroke: #9474c4; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1b1e26; stroke: #3a3f4c; } text { fill: #e8eaf0; } .dim { fill: #a6adbb; }
    .line { stroke: #a6adbb; } .tip { fill: #a6adbb; }
    .a { fill: #1f3f66; stroke: #6fa3e0; } .b { fill: #5c421d; stroke: #d9a75f; } .c { fill: #234a26; stroke: #78bd77; }
    .d { fill: #5a2628; stroke: #d98080; } .e { fill: #30343f; stroke: #747b8b; } .f { fill: #3e2d5c; stroke: #a98cd6; }
  }
"""


class Picture:
    """A drawing under construction; y grows downwards."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" role="img">'
            ),
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            (
                '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
                'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" class="tip"/></marker></defs>'
            ),
            f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, kind: str = "e", text: str = "", style: str = "") -> None:
        """A filled rectangle with centred text; lines are separated by newlines."""
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="3"/>')
        lines = text.split("\n") if text else []
        for number, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 5 + 17 * (number - (len(lines) - 1) / 2), line, f"mid {style}")

    def text(self, x: float, y: float, text: str, style: str = "") -> None:
        """One line of text; (x, y) is its baseline."""
        self.parts.append(f'<text class="{style.strip()}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def arrow(self, *points: tuple[float, float], both: bool = False) -> None:
        """An arrow along points."""
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        start = ' marker-start="url(#tip)"' if both else ""
        self.parts.append(f'<path class="line" d="{path}" marker-end="url(#tip)"{start}/>')

    def line(self, *points: tuple[float, float]) -> None:
        """A line along points."""
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        self.parts.append(f'<path class="line" d="{path}"/>')

    def svg(self) -> str:
        """The document."""
        return "\n".join([*self.parts, "</svg>", ""])


def pipeline() -> str:
    """One instruction: two operations and signals; four clocks for 16 lanes."""
    p = Picture(760, 430, "A QPU instruction: add half, mul half, signals; each takes four clocks for 16 lanes")
    p.text(30, 34, "one 64-bit instruction", "bold")
    halves = (
        (30, "a", "add half", "fadd rf1, rf2, rf3", "add ALU", "sums, integers, logic"),
        (270, "b", "mul half", "fmul rf4, rf2, rf3", "mul ALU", "products, moves"),
        (510, "f", "signals", "ldunifrf.rf6", "side path", "uniforms, TMU, thread switch"),
    )
    for x, kind, name, text, unit, does in halves:
        p.box(x, 46, 220, 44, kind, text, "mono")
        p.text(x + 110, 108, name, "mid small dim")
        p.arrow((x + 110, 114), (x + 110, 136))
        p.box(x, 138, 220, 52, kind, f"{unit}\n{does}")
    p.text(30, 232, "timing: 4 lanes a clock, 4 clocks an instruction", "bold")
    quads = ("lanes 0-3", "lanes 4-7", "lanes 8-11", "lanes 12-15")
    for row, (name, kind) in enumerate((("add ALU", "a"), ("mul ALU", "b"))):
        y = 262 + 46 * row
        p.text(30, y + 25, name)
        for clock in range(8):
            p.box(106 + 78 * clock, y, 76, 38, kind if clock < 4 else "e", quads[clock % 4], "small")
    for clock in range(8):
        p.text(144 + 78 * clock, 372, f"clock {clock}", "mid small dim")
    p.line((106, 384), (106, 392), (416, 392), (416, 384))
    p.text(261, 410, "instruction n", "mid small")
    p.line((418, 384), (418, 392), (728, 392), (728, 384))
    p.text(573, 410, "instruction n + 1", "mid small")
    return p.svg()


def delay_slots() -> str:
    """Which instruction can read a result, and the delay slots after branches and switches."""
    rows = (
        ("VideoCore IV: register file", "mov ra0, ..", "d", "x", "c", "reads ra0"),
        ("VideoCore IV: special fn.", "mov recip, ..", "d", "x", "d", "x", "c", "reads r4"),
        ("VideoCore IV: uniform address", "mov unif_addr", "d", "x", "d", "x", "c", "reads unif"),
        ("V3D: register", "mov rf1, ..", "c", "reads rf1"),
        ("V3D 4.2: special fn. to r4", "mov recip, ..", "d", "x", "c", "reads r4"),
        ("V3D: special fn. to rfN", "recip rf1, ..", "b", "waits one", "c", "reads rf1"),
        ("V3D: second stream", "mov unifa, ..", "d", "x", "d", "x", "d", "x", "c", "ldunifa"),
        ("all: branch", "b loop", "a", "slot 1", "a", "slot 2", "a", "slot 3", "c", "at loop"),
        ("V3D: thread switch", "nop; thrsw", "a", "slot 1", "a", "slot 2", "c", "other thread"),
        ("program end", "thrsw, thrend", "a", "slot 1", "a", "slot 2", "e", "ended"),
    )
    p = Picture(860, 500, "Which instruction can read a result, and the delay slots after branches and switches")
    for i in range(5):
        p.text((305 if i == 0 else 312) + 118 * i, 34, "instruction n" if i == 0 else f"n + {i}", "mid small dim")
    for number, (name, first, *rest) in enumerate(rows):
        y = 46 + 40 * number
        p.text(20, y + 22, name)
        p.box(240, y, 130, 32, "e", first, "mono small")
        for i in range(0, len(rest), 2):
            kind, text = rest[i], rest[i + 1]
            p.box(374 + 59 * i, y, 112, 32, kind, "too early" if text == "x" else text, "small")
    legend = (("d", "old or undefined value"), ("b", "stalls"), ("c", "new value"), ("a", "always executed"))
    x = 20.0
    for kind, text in legend:
        p.box(x, 462, 18, 18, kind)
        p.text(x + 26, 476, text, "small")
        x += 52 + 7.2 * len(text)
    return p.svg()


def vpm_dma() -> str:
    """Ways between memory and a QPU of VideoCore IV."""
    p = Picture(820, 440, "VideoCore IV: TMU reads, and the way through the VPM and its DMA engines")
    p.box(24, 60, 130, 340, "e", "memory")
    p.box(660, 60, 136, 340, "a", "12 QPUs\n\nr0..r5\nra0..ra31\nrb0..rb31")
    p.box(300, 76, 220, 50, "f", "TMU + caches\nreads only")
    p.arrow((154, 101), (298, 101))
    p.arrow((520, 92), (658, 92))
    p.arrow((660, 114), (522, 114))
    p.text(590, 84, "ldtmu0: r4", "mid small mono")
    p.text(590, 132, "t0s: 16 addresses", "mid small mono")
    p.text(300, 168, "VPM: 64 rows of 16 words, common to all QPUs", "small")
    for row in range(10):
        kind = "b" if row in (2, 3, 4, 5) else "c" if row == 7 else "e"
        for column in range(16):
            p.box(302 + 13.6 * column, 180 + 19 * row, 13, 18, kind)
    p.text(411, 388, "a program divides the rows among the QPUs", "mid small dim")
    p.arrow((154, 226), (298, 226))
    p.text(226, 218, "DMA load", "mid small")
    p.text(226, 243, "vr_addr", "mid small mono")
    p.arrow((300, 266), (156, 266))
    p.text(226, 283, "DMA store", "mid small")
    p.text(226, 300, "vw_addr", "mid small mono")
    p.arrow((660, 226), (522, 226))
    p.text(590, 218, "write vpm", "mid small mono")
    p.text(590, 243, "a row each", "mid small dim")
    p.arrow((522, 322), (658, 322))
    p.text(590, 314, "read vpm", "mid small mono")
    p.text(590, 339, "as many as set up", "mid small dim")
    p.text(24, 36, "VideoCore IV: loads go through the TMU or the VPM, stores only through the VPM", "bold")
    return p.svg()


def supergroups() -> str:
    """Workgroups, supergroups, batches, threads: 24 items a workgroup, 2 workgroups a supergroup."""
    p = Picture(860, 420, "Workgroups are lined up in supergroups and cut into batches of 16 lanes")
    p.text(24, 34, "workgroup_size=24, workgroups_per_supergroup=2: three batches a supergroup", "bold")
    left, unit = 150, 8.2
    p.text(24, 84, "workgroups")
    p.text(24, 154, "batches")
    p.text(24, 171, "16 lanes each", "small dim")
    p.text(24, 250, "threads")
    for group in range(2):
        base = left + group * (48 * unit + 14) * 0.86
        scale = unit * 0.86
        for w in range(2):
            kind = ("a", "b")[w]
            p.box(base + 24 * w * scale, 62, 24 * scale - 2, 40, kind, f"workgroup {2 * group + w}", "small")
        for batch in range(3):
            x = base + 16 * batch * scale
            w = 16 * scale - 2
            if batch == 1:
                p.box(x, 134, w / 2, 40, "a")
                p.box(x + w / 2, 134, w / 2, 40, "b")
                p.text(x + w / 2, 159, "batch 1", "mid small")
            else:
                p.box(x, 134, w, 40, "a" if batch == 0 else "b", f"batch {batch}", "small")
            p.arrow((x + w / 2, 176), (x + w / 2, 222))
            p.box(x + 4, 224, w - 8, 46, "f", f"QPU {3 * group + batch}\nthread 0", "small")
        p.line((base, 284), (base, 292), (base + 48 * scale - 2, 292), (base + 48 * scale - 2, 284))
        p.text(base + 24 * scale, 312, f"supergroup {group}: meets at a barrier", "mid small")
    notes = (
        "A batch is 16 lanes: one run of the program on one thread. Lanes without an item neither load nor store.",
        "Batches start on idle QPUs first; a program cannot choose the QPU. A thread that ends takes the next batch.",
        "The barrier waits for all batches of the supergroup, so they must all have a thread at the same time.",
    )
    for number, note in enumerate(notes):
        p.text(24, 348 + 22 * number, note, "small dim")
    return p.svg()


def sgemm() -> str:
    """The tile of C in registers, the panel of A in the uniform stream, rows of B through the TMU."""
    rows, columns = TILE
    p = Picture(860, 500, "sgemm on V3D: a tile of C in registers, A through uniforms, B through the TMU")
    p.text(30, 34, "C += A · B", "bold")
    p.box(60, 250, 190, 200, "e")
    p.box(60, 310, 190, 44, "b")
    p.box(150, 310, 9, 44, "d")
    p.text(155, 476, "A: M × K", "mid")
    p.box(320, 50, 240, 160, "e")
    p.box(400, 50, 56, 160, "a")
    p.box(400, 122, 56, 9, "d")
    p.text(576, 134, "B: K × N")
    p.box(320, 250, 240, 200, "e")
    p.box(400, 310, 56, 44, "c")
    p.text(440, 476, "C: M × N", "mid")
    p.text(52, 337, f"{rows}", "small")
    p.parts[-1] = p.parts[-1].replace('class="small"', 'class="small" text-anchor="end"')
    p.text(428, 44, f"{columns}", "mid small")
    p.arrow((252, 332), (396, 332))
    p.arrow((428, 214), (428, 306))
    x = 590
    p.text(x, 230, "one step of k, for one tile", "bold")
    lines = (
        ("b", f"{rows} scalars of A"),
        ("", "packed panel, uniform stream:"),
        ("", "ldunif takes no ALU slot"),
        ("a", f"{columns // 16} vectors of B"),
        ("", "TMU, requested three steps ahead"),
        ("c", f"{rows * columns // 16} accumulators of 16 lanes"),
        ("", f"{rows * columns // 16} of 64 registers"),
    )
    y = 256
    for kind, text in lines:
        if kind:
            p.box(x, y - 13, 16, 16, kind)
        p.text(x + 26, y, text, "" if kind else "small dim")
        y += 24
    p.text(x, 440, "fadd acc[i-1], acc[i-1], t", "mono")
    p.text(x, 460, "fmul t, u, b[i % 2]; ldunif", "mono")
    p.text(x, 482, "both ALUs busy in every slot", "small dim")
    return p.svg()


PICTURES = {
    "pipeline": pipeline,
    "delay-slots": delay_slots,
    "vpm-dma": vpm_dma,
    "supergroups": supergroups,
    "sgemm-tiling": sgemm,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the diagrams, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(arguments)
    status = 0
    for name, draw in PICTURES.items():
        path, text = IMAGES / f"{name}.svg", draw()
        if path.exists() and path.read_text() == text:
            continue
        if options.check:
            print(f"docs/images/{name}.svg is stale; run tools/draw_docs.py", file=sys.stderr)
            status = 1
        else:
            path.write_text(text)
            print(f"wrote docs/images/{name}.svg")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
