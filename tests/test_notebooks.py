"""Tests of every notebook in a new process, on an emulated board of each generation; none has outputs in git."""

from __future__ import annotations

import base64
import os
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
}


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any, kind: str) -> list[str]:
    """The data of one MIME type in all outputs, in order."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [o.data[kind] for cell in cells for o in cell.outputs if "data" in o and kind in o.data]


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", NAMES)
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
    errors = [o.text for cell in notebook.cells for o in cell.get("outputs", ()) if o.get("name") == "stderr"]
    assert not [text for text in errors if "Warning" in text]
    pictures, displays = DISPLAYS[name]
    pngs = [base64.b64decode(p) for p in outputs(notebook, "image/png")]
    assert len(pngs) == pictures and all(p.startswith(b"\x89PNG") and len(p) > 5000 for p in pngs)
    pages = outputs(notebook, "text/html")
    assert len(pages) == displays
    assert BOARDS[board] in pages[0] and "Emulated" in pages[0]


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_kept(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, "clear the outputs before committing"
    assert notebook.metadata.kernelspec.name == "python3"


def test_all_of_them_are_here() -> None:
    assert set(NAMES) == set(DISPLAYS)
