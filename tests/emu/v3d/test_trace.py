"""Tests of the trace record: bounds, filters, forms."""

from __future__ import annotations

import io
import json

import pytest

from qpu.emu.engine.trace import Trace


def fill(trace: Trace, n: int) -> None:
    trace.begin()
    for i in range(n):
        trace.add(qpu=i % 3, thread=0, step=i, index=i, word=i, text=f"op {i}", changes={"rf1": [i] * 16})


def test_keeps_the_last_or_the_first() -> None:
    last, first = Trace(4), Trace(4, keep="first")
    fill(last, 10)
    fill(first, 10)
    assert [e.index for e in last] == [6, 7, 8, 9]
    assert [e.index for e in first] == [0, 1, 2, 3]
    assert last.dropped == first.dropped == 6
    assert last.text.startswith("# 6 earlier")
    assert first.text.endswith("later entries dropped")


def test_filters() -> None:
    trace = Trace(qpus=[1], first=3, last=7)
    fill(trace, 12)
    assert [(e.serial, e.qpu) for e in trace] == [(4, 1), (7, 1)]
    assert len(trace) == 2
    trace.clear()
    assert not len(trace)


def test_forms() -> None:
    trace = Trace()
    fill(trace, 2)
    trace.add(qpu=0, thread=1, step=2, index=2, word=2**63, text="x", changes={"r0": range(16)})
    rows = [json.loads(line) for line in trace.json_lines.splitlines()]
    assert rows[1]["changes"] == {"rf1": ["0x00000001"]}
    assert len(rows[2]["changes"]["r0"]) == 16
    assert rows[2]["word"] == "0x8000000000000000"
    out = io.StringIO()
    trace.write(out)
    assert "op 1" in out.getvalue()
    out = io.StringIO()
    trace.write(out, form="json")
    assert out.getvalue() == trace.json_lines + "\n"


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="limit"):
        Trace(0)
    with pytest.raises(ValueError, match="keep"):
        Trace(keep="all")
    with pytest.raises(ValueError, match="form"):
        Trace().write(io.StringIO(), form="xml")
