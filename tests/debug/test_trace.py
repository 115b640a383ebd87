"""Tests of traces: the steps of launches as data and as a page; in a browser see `test_browser`."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.debug.trace import Trace
from tests.debug.test_debugger import REGISTERS, count, poly
from tests.debug.test_profile import Tags, data_of


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_steps_and_values_of_a_program(board: str) -> None:
    """The sum of the loop grows by the lane at each turn."""
    with qpu.open_device(board) as gpu:
        y, program = gpu.zeros(16, np.uint32), qpu.assemble(count, isa=gpu.isa)
        found = gpu.trace(program, [y])
        assert (y.numpy() == 3 * np.arange(16)).all()
    data = found.data
    assert len(found) == len(data["steps"]) and data["threads"] == ["QPU 0.0"]
    assert [i for _, i in data["steps"]].count(program.labels["again"]) == 3 and not data["cut"]
    total = REGISTERS[board][0]
    sums = [value for _, _, name, value in data["changes"] if name == total]
    assert sums[-3:] == [[k * n for n in range(16)] for k in (1, 2, 3)]
    assert all(0 < step < len(found) for step, _, _, _ in data["changes"])


def test_variables_of_a_kernel_and_limits(tmp_path: Path) -> None:
    with qpu.open_device("pi5") as gpu:
        x, y = gpu.array(np.arange(100, dtype=np.float32)), gpu.zeros(100)
        found = poly.trace(2.0, 3, x, y, threads=2)
        short = poly.trace(2.0, 3, x, y, steps=10)
    data = found.data
    values = [value for _, thread, name, value in data["changes"] if not thread and name == "f:s"]
    sums = np.array(values, np.uint32).view(np.float32)  # three turns for the first items, then those of the rest
    twice = 2 * np.arange(100, dtype=np.float32)
    want = 3 * twice * twice + 3 * twice
    assert sums[2].tolist() == want[:16].tolist() and sums[-1, :4].tolist() == want[96:].tolist()
    assert data["arguments"] == {"a": 2.0, "n": 3} and len(data["threads"]) == 2 and data["cut"]
    assert [text for _, text in data["source"]][-1].strip() == "y[i] = s"
    assert len(short) == 40 and short.data["cut"] and "40 steps" in repr(short)
    found.save(str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.addresses and "http:" not in page and "https:" not in page
    assert data_of(page)["code"] == data["code"]
    inside = re.search(r'srcdoc="([^"]*)"', found._repr_html_())
    assert inside is not None and html.unescape(inside[1]) == page


def test_text_of_programs_cannot_leave_the_data() -> None:
    """A label or a source line with markup stays text."""

    def program(q: object) -> None:
        q.label("</script><b>")  # type: ignore[attr-defined]  # <img onerror="x">
        q.end()  # type: ignore[attr-defined]  # </script>

    with qpu.open_device("pi4") as gpu:
        page = gpu.trace(qpu.assemble(program, isa=gpu.isa)).html()
    assert page.count("</script>") == 2 and "<img" not in page and "</script>" in str(data_of(page))


def test_wrong_limits_are_refused() -> None:
    for steps, threads in ((0, 1), (1, 0), (10**6, 1), (1, 65)):
        with pytest.raises(qpu.UsageError, match=r"allowed: 1\.\."):
            Trace(steps, threads)
