"""Every notebook from a clean kernel, on an emulated board of each generation; none keeps outputs in git."""

from __future__ import annotations

import base64
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebook group is not installed")
nbclient = pytest.importorskip("nbclient", reason="the notebook group is not installed")

NOTEBOOKS = Path(__file__).parent.parent / "examples" / "notebooks"
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
def test_runs_from_a_clean_kernel(name: str, board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read(name)
    for variable, value in {
        "QPU_DEVICE": board,
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's libraries; the notebook is a process of its own
        client = nbclient.NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
        )
        client.execute()
    if "QPU_KEEP_NOTEBOOKS" in os.environ:  # to look at them
        nbformat.write(notebook, Path(os.environ["QPU_KEEP_NOTEBOOKS"]) / f"{name}-{board}.ipynb")
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
