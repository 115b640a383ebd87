"""Tests of programs as HTML tables: every column, labels, findings in line."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

import qpu


class Rows(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    ("isa", "text", "add", "mul", "signal"),
    [
        (
            "v3d71",
            "l: fadd rf1, rf2, rf3 ; fmul rf4, rf5, rf6 ; ldunif\n",
            "fadd rf1, rf2, rf3",
            "fmul rf4, rf5, rf6",
            "ldunif",
        ),
        ("v3d42", "l: fadd r0, r1, r2 ; fmul r3, r1, r2 ; thrsw\n", "fadd r0, r1, r2", "fmul r3, r1, r2", "thrsw"),
        ("vc4", ":l\nfadd r0, r1, r2; fmul r3, r1, r2; ldtmu0\n", "fadd r0, r1, r2", "fmul r3, r1, r2", "ldtmu0"),
        ("vc4", ":l\nfadd r0, r1, r2; ldtmu0\n", "fadd r0, r1, r2", "", "ldtmu0"),
        ("vc4", ":l\nfadd r0, r1, r2; fmul r3, r1, r2\n", "fadd r0, r1, r2", "fmul r3, r1, r2", ""),
        ("vc4", ":l\nnop; thrend\n", "nop", "", "thrend"),
        ("v3d71", "l: fadd rf1, rf2, rf3 ; nop\n", "fadd rf1, rf2, rf3", "nop", ""),
    ],
)
def test_columns_and_labels(isa: str, text: str, add: str, mul: str, signal: str) -> None:
    program = qpu.assemble(text, isa=isa)
    rows = Rows(program._repr_html_()).rows
    assert rows[0] == ["address", "word", "add", "mul", "signals"]
    code = next(r for r in rows if r[1] == f"{program.code[0]:016x}")
    assert code == ["0000", f"{program.code[0]:016x}", add, mul, signal]
    assert any("l:" in r[2] for r in rows if len(r) == 5)


def test_findings_stand_behind_their_instruction() -> None:
    program = qpu.assemble("nop; nop; thrsw\nadd recip, r0, r1\nnop\n", isa="v3d42", single_segment=True)
    rows = Rows(program._repr_html_()).rows
    at = next(i for i, r in enumerate(rows) if r[0] == "0008")
    assert "error[thrsw-sfu]" in rows[at + 1][-1]


def test_vc4_findings() -> None:
    program = qpu.assemble("mov ra1, r0\nadd r0, ra1, r1\n", isa="vc4")
    assert "H1" in program._repr_html_()
    assert "<script" not in program._repr_html_()
