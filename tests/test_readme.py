"""Tests of the README: its program runs, its commands exist, and docs/install.md agrees with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_first_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md block {number}", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    numbers = [float(x) for x in re.findall(r"[\d.]+", printed)]
    np.testing.assert_array_equal(numbers[:16], 2.0 * np.arange(16))


def test_commands_name_files_that_exist() -> None:
    for name in re.findall(r"uv run (examples/\S+\.py)", TEXT):
        assert (ROOT / name).is_file()
    for needed in ("uv run examples/sgemm.py", "uv run pytest", "--no-group fast"):
        assert needed in TEXT


def test_the_groups_to_leave_out_on_32_bit_arm_agree() -> None:
    for text in (TEXT, (ROOT / "docs" / "install.md").read_text()):
        assert re.findall(r"uv run ((?:--no-group \w+ )+)", text) == ["--no-group fast "]


def test_links_resolve() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "uv run examples/sgemm.py --device all" in script and "uv run pytest" in script
    assert "pip install" in script and "full mypy" in script and "full ruff check" in script
