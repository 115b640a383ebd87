"""Mistakes are found at their place, with help, on every instruction set alike; one hides no other."""

from __future__ import annotations

import linecache

import pytest

from qpu.errors import CompileError
from qpu.lang.entry import Kernel
from tests.lang.wrong import WRONG

HEAD = (
    "import math\n"
    "import numpy as np\n"
    "from types import SimpleNamespace\n"
    "from qpu.lang import *\n"
    "TABLE = [1, 2]\n"
    "OBJECT = SimpleNamespace(name=3)\n"
    "def helper(a, b=1):\n    return a + b\n"
    "def partly(a):\n    if a > 3:\n        return a\n"
    "def found(a):\n    for j in range(9):\n        if a == j:\n            return j\n"
    "@kernel\ndef other(k: Grid, y: Out[i32]) -> None:\n    y[k.index()] = 1\n\n"
)


def marked(parameters: str, body: str) -> tuple[str, list[tuple[int, int]]]:
    """The text of a module, and the places of the marks."""
    text = HEAD + f"def wrong(k: {parameters}) -> None:\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    places = []
    lines = text.split("\n")
    for n, line in enumerate(lines):
        while "§" in line:
            places.append((n + 1, line.index("§") + 1))
            line = line.replace("§", "", 1)
        lines[n] = line
    return "\n".join(lines), places


def test_there_are_enough() -> None:
    assert len(WRONG) >= 80


@pytest.mark.parametrize("row", WRONG, ids=[f"{n}-{r[0].replace(' ', '+')}" for n, r in enumerate(WRONG)])
def test_a_wrong_kernel(row: tuple[str, str, str]) -> None:
    rules, parameters, body = row
    text, places = marked(parameters, body)
    k = Kernel.from_source(text, "wrong")
    for isa in ("v3d71", "vc4"):
        with pytest.raises(CompileError) as caught:
            k.compile(isa)
        found = caught.value.diagnostics
        assert [d.rule for d in found] == rules.split(), caught.value
        at = [(d.loc.line, d.loc.column) for d in found if d.loc is not None]
        assert at == places, caught.value
        assert all(d.help or d.allowed for d in found), caught.value
        for d in found:
            assert d.loc is not None and linecache.getline(d.loc.file, d.loc.line).rstrip("\n") in str(caught.value)


def test_the_traceback_is_short() -> None:
    text, _ = marked(*WRONG[0][1:])
    k = Kernel.from_source(text, "wrong")
    with pytest.raises(CompileError) as caught:
        k.compile("v3d71")
    assert len(caught.traceback) <= 3


@pytest.mark.parametrize("where", ["qpu.lang.front_names.assign", "qpu.lang.backend_v3d.coalesce"])
def test_a_fault_of_the_compiler_says_so(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **more: object) -> None:
        raise TypeError("'Value' object is not iterable")

    k = Kernel.from_source(HEAD + "def fine(k: Grid, y: Out[i32]) -> None:\n    i = k.index()\n    y[i] = 1\n", "fine")
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(where, broken)
    with pytest.raises(CompileError, match="fault of qpu") as caught:
        k.compile("v3d71")
    (finding,) = caught.value.diagnostics
    assert finding.rule == "lang-internal" and finding.loc is not None and "not iterable" in finding.message
    assert isinstance(caught.value.__cause__, TypeError)
