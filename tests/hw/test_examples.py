"""Tests of the examples as a user runs them, for emulated boards and a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py") if not p.stem.startswith("_"))
SMALL = {"sgemm": ("--size", "48")}  # sizes for emulated boards
QUICK = ("sgemm",)  # on emulated boards the normal run tries these here, and all in tests/test_examples.py


@pytest.mark.parametrize(
    "example", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in EXAMPLES]
)
def test_example(board: str, example: str, record_figure: Callable[..., None]) -> None:
    size = SMALL.get(example, ()) if board.startswith("pi") else ()
    command = [sys.executable, str(ROOT / "examples" / f"{example}.py"), "--device", board, "--json", *size]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    for row in rows:
        assert row["ok"] is True, row
        assert row["emulated"] is board.startswith("pi")
        shape = {key: row[key] for key in ("m", "n", "k") if key in row}
        record_figure(f"example {example}", row["seconds"], "s", **shape)
