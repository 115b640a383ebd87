"""Tests of rich displays: well-formed, escaped, and with the right data."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import pytest

import qpu
from qpu.core.isa import Isa
from qpu.display.markup import bars, boxes, facts, si, strips, table
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.trace import Trace
from qpu.launch import Run

BOARDS = ("pi3", "pi4", "pi5")


def parsed(html: str) -> ElementTree.Element:
    """The display as a tree; HTML that is not well-formed XML too is a mistake here."""
    return ElementTree.fromstring(f"<div>{html}</div>")


def words(html: str) -> str:
    return " ".join("".join(parsed(html).itertext()).split())


def count(html: str, tag: str) -> int:
    return sum(e.tag.rpartition("}")[2] == tag for e in parsed(html).iter())


def adding(isa: Isa) -> qpu.Program:
    if isa is Isa.VC4:
        return qpu.assemble(lambda q: (q.fadd(q.r0, q.r1, q.r2), q.end()), isa=isa)
    return qpu.assemble(lambda q: (q.fadd(q.rf[4], q.rf[5], q.rf[6]), q.end()), isa=isa)


@pytest.mark.parametrize("board", BOARDS)
def test_device(board: str) -> None:
    with qpu.open_device(board) as gpu:
        html = gpu._repr_html_()
        assert count(html, "rect") == gpu.info.slices + gpu.qpus
        assert gpu.info.board.model in words(html) and "Emulated" in words(html)
        assert f"{gpu.qpus} = {gpu.info.slices} slices" in words(html)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_statistics_of_a_launch(board: str, engine: str) -> None:
    with qpu.open_device(board, engine=engine) as gpu:
        gpu.run(adding(gpu.isa))
        stats = gpu.stats
        assert stats is not None
        text = words(stats._repr_html_())
        assert f"instructions{stats.instructions:,}" in text.replace(" ", "")
        assert "not a time of any board" in text and "of the float peak" in text
        assert f"{stats.add_ops / stats.instructions:.1%}" in text


def test_launches() -> None:
    with qpu.open_device("pi5") as gpu:
        launch = gpu.run(adding(gpu.isa))
        text = words(launch._repr_html_())
        assert text.startswith("<Launch of <Program v3d71") and "done>" in text and "of the float peak" in text
        several = words(Run((launch, launch))._repr_html_())
        assert launch.stats is not None
        assert several.startswith(
            "2 launches"
        ) and f"instructions {2 * launch.stats.instructions:,}" in several.replace("instructions", "instructions ")


def test_statistics_with_everything_and_with_nothing() -> None:
    parsed(RunStats(Isa.VC4)._repr_html_())
    stats = RunStats(
        Isa.V3D71,
        instructions=1000,
        add_ops=500,
        per_qpu={0: 10, 5: 990},
        tmu_read_bytes=3 << 20,
        fallbacks=Counter({"a<b": 3}),
        faults=["<script>"],
    )
    html = stats._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "a<b: 3" in words(html)
    assert "3 MiB" in words(html) and "50.0%" in words(html) and "990" in words(html)


def test_trace() -> None:
    trace = Trace()
    trace.begin()
    assert "0 traced" in words(trace._repr_html_())
    for i in range(300):
        trace.add(
            qpu=i % 3,
            thread=0,
            step=i // 3,
            index=i,
            word=i,
            text="nop <&>",
            changes={"rf1": range(16), "rf2": [7] * 16},
        )
    html = trace._repr_html_()
    text = words(html)
    assert count(html, "tr") == 1 + 200 + 1 and "100 more" in text
    assert "nop <&>" in text and "rf2 = 00000007 in all lanes" in text
    assert "rf1 = 00000000 00000001 00000002 00000003 …" in text
    assert all(f"qpu {q}.0" in text for q in range(3))
    assert repr(trace) == "<Trace of 300 instructions, 1 launch, 0 dropped>"


def test_long_traces_stay_small() -> None:
    trace = Trace(limit=20_000)
    trace.begin()
    for i in range(25_000):
        trace.add(qpu=i % 16, thread=i % 4, step=i, index=0, word=0, text="nop")
    html = trace._repr_html_()
    assert "5,000 earlier ones were dropped" in words(html)
    assert len(html) < 200_000


@pytest.mark.parametrize("board", BOARDS)
def test_program(board: str) -> None:
    with qpu.open_device(board) as gpu:
        assert "fadd" in words(adding(gpu.isa)._repr_html_())


def test_pieces_are_well_formed_and_escaped() -> None:
    for html in (
        bars("a<b", [("x&y", 3.0, "<3>"), ("none", 0.0, "0")]),
        bars("none", []),
        boxes("q", 2, 6, "sl<ice", [0.0, 1.0, 2.0, -1.0]),
        strips("s", {"<t>": [0.0, 1.0, 0.5]}, axis="a>b"),
        table(["<h>"], [["<c>"]], "<t>"),
        facts("<f>", {"<k>": "<v>"}),
    ):
        parsed(html)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9,999"), (12345, "12.3 k"), (999_999, "1000 k"), (1_234_567, "1.23 M"), (2.5e9, "2.5 G")],
)
def test_counts_for_people(value: float, text: str) -> None:
    assert si(value) == text
