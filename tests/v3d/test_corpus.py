"""Tests of small wrong programs: each finding's rule, line and, for text, column."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qpu.core.isa import Isa
from qpu.errors import AsmError, Diagnostic, HazardError, Severity
from qpu.v3d.asm import assemble
from qpu.v3d.hazards import RULES, check
from qpu.v3d.instruction_set import V3dToolkit
from qpu.v3d.parser import assemble_text

CORPUS = Path(__file__).parent / "corpus"


class Case:
    """A program and its place in its file."""

    def __init__(self, head: str, first: int, lines: list[str]) -> None:
        name, *options = head.split()
        self.isa = Isa(name)
        self.single = "single" in options
        self.first = first
        self.lines = lines

    def __repr__(self) -> str:
        return f"{self.first}"


def cases(name: str) -> list[Case]:
    found: list[Case] = []
    for number, line in enumerate((CORPUS / name).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("=== "):
            found.append(Case(line[4:], number, []))
        elif found:
            found[-1].lines.append(line)
    return found


def places(diagnostics: tuple[Diagnostic, ...]) -> list[tuple[str, int, int | None]]:
    assert all(d.loc is not None for d in diagnostics)
    return sorted((d.rule, d.loc.line, d.loc.column) for d in diagnostics if d.loc is not None)


@pytest.mark.parametrize("case", cases("text.txt"), ids=repr)
def test_text(case: Case) -> None:
    expected = []
    for number, line in enumerate(case.lines, 1):
        if "#!" in line:
            rule, column = line.partition("#!")[2].split()
            expected.append((rule, number, int(column)))
    assert expected
    with pytest.raises(AsmError) as e:
        assemble_text(case.isa, "\n".join(case.lines), filename="case.s")
    assert places(e.value.diagnostics) == sorted(expected), str(e.value)
    shown = str(e.value)
    for d in e.value.diagnostics:
        assert d.help, d
        assert d.loc is not None
        assert f"case.s:{d.loc.line}:{d.loc.column}: error[{d.rule}]" in shown
        assert d.loc.source in shown.expandtabs(1)


@pytest.mark.parametrize("case", cases("builder.txt"), ids=repr)
def test_builder(case: Case, tmp_path: Path) -> None:
    expected = []
    for number, line in enumerate(case.lines, 2):
        if "#!" in line:
            rule, *shift = line.partition("#!")[2].split()
            expected.append((rule, number + int(shift[0] if shift else 0), None))
    assert expected
    file = str(tmp_path / "case.py")
    source = "def program(q):\n" + "".join(f"    {line}\n" for line in case.lines)
    Path(file).write_text(source, encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(source, file, "exec"), names)  # the location is the file's
    program = names["program"]
    assert callable(program)
    if expected[0][0] == "attribute":  # a builder method that returns nothing
        with pytest.raises(AttributeError):
            assemble(case.isa, program, check=False)
        return
    with pytest.raises(AsmError) as e:
        assemble(case.isa, program, check=False)
    assert places(e.value.diagnostics) == sorted(expected, key=str), str(e.value)
    assert all(d.help for d in e.value.diagnostics)
    assert all(d.loc is not None and d.loc.file == file for d in e.value.diagnostics)
    assert "error[" in str(e.value)


MARK = re.compile(r"#([!?])([^#]*)")


@pytest.mark.parametrize("case", cases("hazards.txt"), ids=repr)
def test_hazards(case: Case) -> None:
    expected = []
    lines = []
    index = 0
    for line in case.lines:
        code = line.partition("#")[0].strip()
        for kind, rules in MARK.findall(line):
            severity = Severity.ERROR if kind == "!" else Severity.WARNING
            expected += [(index, rule, severity) for rule in rules.split()]
        if code == "end":
            continue
        lines.append(line)
        if code and not code.endswith(":"):
            index += 1
    source = "\n".join(lines)
    program = assemble_text(case.isa, source)
    findings = check(case.isa, program.code, single_segment=case.single)
    assert sorted((f.index, f.rule, f.severity) for f in findings) == sorted(expected), findings
    assert all(f.rule in RULES for f in findings)
    errors = [e for e in expected if e[2] is Severity.ERROR]
    tool = V3dToolkit(case.isa)
    if not errors:
        tool.assemble(source, check=True, single_segment=case.single)
        return
    with pytest.raises(HazardError) as raised:
        tool.assemble(source, check=True, single_segment=case.single)
    assert sorted(d.rule for d in raised.value.diagnostics) == sorted(rule for _, rule, _ in errors)
    at = {d.loc.line for d in raised.value.diagnostics if d.loc is not None}
    assert at == {program.loc(min(i, len(program) - 1)).line for i, _, _ in errors}  # type: ignore[union-attr]


def test_every_rule_has_a_case() -> None:
    lines = [line for case in cases("hazards.txt") for line in case.lines]
    named = {rule for line in lines for _, rules in MARK.findall(line) for rule in rules.split()}
    assert set(RULES) == named


def test_size() -> None:
    assert sum(len(cases(name)) for name in ("text.txt", "builder.txt", "hazards.txt")) >= 200
