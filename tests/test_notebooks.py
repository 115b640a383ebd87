"""Tests of every notebook: stored outputs without red boxes, and a run in a new process on emulated boards in turn."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HUNG_S

pytestmark = pytest.mark.full
nbformat = pytest.importorskip("nbformat", reason="the notebook group is not installed")
pytest.importorskip("nbclient", reason="the notebook group is not installed")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "examples" / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
BOARDS = {"pi3": "VideoCore IV", "pi4": "V3D 4.2", "pi5": "V3D 7.1"}
DISPLAYS = {  # notebook -> (pictures, rich displays) that it must show
    "1-first-program": (0, 4),
    "2-image-filter": (4, 2),
    "3-sgemm": (2, 2),
    "4-lanes": (0, 2),
    "5-inside": (0, 2),
}
ALWAYS = {"5-inside": "pi4"}  # the board that a notebook itself names
CASES = [(name, board) for at, name in enumerate(NAMES) for board in list(BOARDS)[at % 3 : at % 3 + 1]]
ALL = [(name, board) for name in NAMES for board in BOARDS if (name, board) not in CASES]


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any, kind: str) -> list[str]:
    """The data of one MIME type in all outputs, in order."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [o.data[kind] for cell in cells for o in cell.outputs if "data" in o and kind in o.data]


@pytest.mark.parametrize(("name", "board"), [*CASES, *(pytest.param(*c, marks=pytest.mark.soak) for c in ALL)])
def test_runs_from_a_clean_kernel(name: str, board: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "QPU_DEVICE": board,
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    output = Path(os.environ.get("QPU_KEEP_NOTEBOOKS", tmp_path)) / f"{name}-{board}.ipynb"  # set it to look at them
    command = [sys.executable, str(ROOT / "tools" / "run_notebook.py"), str(NOTEBOOKS / f"{name}.ipynb"), str(output)]
    # A process of its own: what the client's libraries warn of is not this suite's business.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HUNG_S)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(output, as_version=4)
    assert not red_boxes(notebook)
    pictures, displays = DISPLAYS[name]
    pngs = [base64.b64decode(p) for p in outputs(notebook, "image/png")]
    assert len(pngs) == pictures and all(p.startswith(b"\x89PNG") and len(p) > 5000 for p in pngs)
    pages = outputs(notebook, "text/html")
    assert len(pages) == displays
    assert BOARDS[ALWAYS.get(name, board)] in pages[0] and "Emulated" in pages[0]


def red_boxes(notebook: Any) -> list[str]:
    """Outputs that a notebook shows as errors."""
    found = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return [str(o) for o in found if o.get("output_type") == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_kept_without_red_boxes(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "QPU_DEVICE=pi5 python tools/run_notebook.py --store NAME NAME"
    assert not red_boxes(notebook)
    pictures, displays = DISPLAYS[name]
    assert len(outputs(notebook, "image/png")) == pictures and len(outputs(notebook, "text/html")) == displays
    assert notebook.metadata.kernelspec.name == "python3"
    text = (NOTEBOOKS / f"{name}.ipynb").read_text()
    assert "/tmp/" not in text and str(ROOT) not in text and len(text) < 500_000


def test_the_first_cell_installs_the_package() -> None:
    """In hosted services the package is missing; where it is there, the cell does nothing."""
    firsts = {next(cell.source for cell in read(name).cells if cell.cell_type == "code") for name in NAMES}
    (first,) = firsts
    assert 'find_spec("qpu") is None' in first and '"pip", "install"' in first and "QPU_WHEEL" in first
    exec(compile(first, "first cell", "exec"), {})


def test_they_need_only_what_an_index_has() -> None:
    """A hosted notebook has no clone around it: imports are of the package, its extra `notebook` and Python."""
    allowed = {"qpu", "numpy", "matplotlib", "PIL", "IPython", *sys.stdlib_module_names}
    for name in NAMES:
        code = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
        assert imported <= allowed and "sys.path" not in code, (name, imported - allowed)


def test_exercises_have_answers_that_are_checked() -> None:
    for name in ("4-lanes", "5-inside"):
        cells = read(name).cells
        exercises = [cell.source for cell in cells if cell.cell_type == "markdown" and "### Exercise" in cell.source]
        answers = [cell for cell in cells if "answer" in cell.metadata.get("tags", ())]
        assert len(exercises) >= 4 - (name == "5-inside") and len(answers) >= 3
        assert all("assert" in cell.source and cell.metadata.jupyter.source_hidden for cell in answers)


def test_all_of_them_are_here() -> None:
    assert set(NAMES) == set(DISPLAYS)
