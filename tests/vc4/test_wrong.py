"""Tests of the negative corpus: small wrong programs, each with the rule and the line of its finding."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qpu.errors import AsmError, HazardError, Severity
from qpu.vc4.builder import assemble, build
from qpu.vc4.hazards import check

HERE = Path(__file__).parent


def programs(name: str) -> list[tuple[str, str]]:
    """(rule, body) of every program in a file."""
    text = (HERE / name).read_text()
    found = re.findall(r"^# rule: (\S+)\n(.*?)(?=^# rule: |\Z)", text, re.MULTILINE | re.DOTALL)
    return [(rule, body.rstrip() + "\n") for rule, body in found]


def blamed(body: str) -> int:
    """The marked line, from 1, of the function that wraps `body`."""
    (line,) = [n for n, text in enumerate(body.splitlines(), 2) if text.endswith("#!")]
    return line


def kernel(body: str) -> object:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    names: dict[str, object] = {}
    exec(compile(f"def kernel(q):\n{lines}", "wrong.py", "exec"), names)
    return names["kernel"]


BUILDER = programs("wrong_builder.txt")
HAZARDS = programs("wrong_hazards.txt")


def test_the_corpus_is_large() -> None:
    assert len(BUILDER) + len(HAZARDS) >= 200
    assert len({rule for rule, _ in HAZARDS}) >= 17


@pytest.mark.parametrize(("rule", "body"), BUILDER, ids=[f"{r}-{n}" for n, (r, _) in enumerate(BUILDER)])
def test_builder(rule: str, body: str) -> None:
    with pytest.raises(AsmError) as e:
        build(kernel(body))  # type: ignore[arg-type]
    found = [(d.rule, d.loc.line if d.loc else None, d.loc.file if d.loc else None) for d in e.value.diagnostics]
    assert found == [(rule, blamed(body), "wrong.py")]
    assert not isinstance(e.value, HazardError)
    (d,) = e.value.diagnostics
    assert d.message
    assert d.allowed and d.help, "a diagnostic says what is allowed and what to write"


@pytest.mark.parametrize(("rule", "body"), HAZARDS, ids=[f"{r}-{n}" for n, (r, _) in enumerate(HAZARDS)])
def test_hazards(rule: str, body: str) -> None:
    fn = kernel(body if "thrend" in body or rule == "H31" else f"{body}\nq.nops(3)\nq.end()")
    program = build(fn)  # type: ignore[arg-type]
    found = check(program.code)
    lines = {(f.rule, place.line) for f in found if (place := program.loc(f.index))}
    assert lines == {(rule, blamed(body))}
    if all(f.severity is not Severity.ERROR for f in found):
        assemble(fn)  # type: ignore[arg-type]
        return
    with pytest.raises(HazardError) as e:
        assemble(fn)  # type: ignore[arg-type]
    assert {(d.rule, d.loc.line if d.loc else None) for d in e.value.diagnostics} == {(rule, blamed(body))}
