"""Tests of the README: its program runs, its commands exist, and docs/install.md agrees with it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_its_programs_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The blocks run in one file, as a reader would paste them: arrays, a kernel on three boards, assembly."""
    program = tmp_path / "readme.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S)))
    runpy.run_path(str(program))
    total, *boards, rest = capsys.readouterr().out.split("\n", 4)
    a = np.arange(1, 1001, dtype=np.float64)
    b = np.sqrt(a) * 2 - a / 3
    np.testing.assert_allclose(float(total), b[b > 0].sum(), rtol=1e-5)
    assert boards == ["pi3 2000.0", "pi4 2000.0", "pi5 2000.0"]
    np.testing.assert_array_equal([float(x) for x in re.findall(r"[\d.]+", rest)], 2.0 * np.arange(16))


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
