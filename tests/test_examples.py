"""Every example as a user runs it: on a board of each generation, results checked, exit status, one clear line."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
KEYS = {"example", "device", "isa", "emulated", "n", "seconds", "total_seconds", "instructions", "max_abs_error", "ok"}
ALL = [("pi3", "vc4"), ("pi4", "v3d42"), ("pi5", "v3d71")]


class Run:
    """Runs an example in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, name: str, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", [name + ".py", *arguments])
        self.monkeypatch.syspath_prepend(str(EXAMPLES))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert isinstance(end.value.code, int)
        out, err = self.capsys.readouterr()
        return end.value.code, out, err

    def rows(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        """The JSON lines of a run that must succeed."""
        status, out, err = self(name, *arguments, "--json")
        assert (status, err) == (0, ""), (out, err)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


SIZED = ("hello_world", "memset", "scopy", "saxpy", "summation", "parallel_add", "parallel_mul")


@pytest.mark.parametrize("n", [1, 16, 67, 5003])
@pytest.mark.parametrize("name", SIZED)
def test_vectors_of_any_length(run: Run, name: str, n: int) -> None:
    rows = run.rows(name, "--device", "all", "--n", str(n))
    assert [(r["device"], r["isa"]) for r in rows] == ALL
    for row in rows:
        assert set(row) >= KEYS
        assert (row["example"], row["n"], row["ok"], row["emulated"]) == (name, n, True, True)
        assert row["seconds"] > 0 and row["total_seconds"] > row["seconds"]


@pytest.mark.parametrize("device", ["pi0", "pi5,slices=1", "pi5,slices=3", "pi5,rev=10"])
@pytest.mark.parametrize("name", ["saxpy", "summation"])
def test_other_numbers_of_qpus(run: Run, name: str, device: str) -> None:
    (row,) = run.rows(name, "--device", device, "--n", "4999")
    assert row["ok"]


def test_payload(run: Run) -> None:
    rows = run.rows("payload", "--device", "all")
    assert all(set(r) >= KEYS and r["ok"] for r in rows)
    assert rows[0]["lanes"] == list(range(16)) and len(rows[0]["qpu_numbers"]) == 12
    assert rows[1]["workgroups"][:4] == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]]
    assert rows[2]["local"] == list(range(16))


def test_rotate_and_flags(run: Run) -> None:
    for row in run.rows("rotate_and_flags", "--device", "all"):
        assert set(row) >= KEYS and row["ok"]
        assert row["rotated"] == [13, 14, 15, *range(13)]
        assert row["mixed"][:6] == [13, 1, 15, 3, 1, 5]


def test_perf_counters(run: Run) -> None:
    for row in run.rows("perf_counters", "--device", "all"):
        assert set(row) >= KEYS and row["ok"]
        assert len(row["counters"]) >= 2 and all(value > 0 for value in row["counters"].values())


def test_deadbeef(run: Run) -> None:
    rows = run.rows("deadbeef", "--device", "all")
    assert [(r["device"], r["word"]) for r in rows] == [(d, "0xdeadbeef") for d, _ in ALL]
    assert all(set(r) >= KEYS and r["ok"] for r in rows)


@pytest.mark.parametrize("name", [*SIZED, "deadbeef", "payload", "rotate_and_flags"])
def test_people_read_what_was_measured(run: Run, name: str) -> None:
    status, out, err = run(name, "--device", "pi4")
    assert (status, err) == (0, "")
    assert "says nothing about a real board" in out and "ok" in out.split()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, ("--device", "pi5", "--n", n)) for name in SIZED for n in ("0", "-4", "many", "99999999999")),
        *((name, ("--device", "pi9")) for name in (*SIZED, "deadbeef")),
        ("memset", ("--device", "pi5", "--value", "0x100000000")),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run: Run, name: str, arguments: tuple[str, ...]) -> None:
    status, out, err = run(name, *arguments)
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1 and len(err) > 10
