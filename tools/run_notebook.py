"""Runner of a notebook: executes it in a new process, in its own directory, and writes it with its outputs.

python tools/run_notebook.py examples/notebooks/3-sgemm.ipynb /tmp/3-sgemm.ipynb
QPU_DEVICE=pi5 python tools/run_notebook.py --store NOTEBOOK NOTEBOOK writes the outputs that the repository keeps.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import nbclient
import nbformat

_TEMPORARY = re.compile(r"/tmp/ipykernel_\d+/\d+\.py")  # files of cells


def main() -> int:
    """Run the notebook. Returns the exit status: 1, with the failing cell on stderr, when a cell raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--store", action="store_true", help="without times and paths of this computer, for git")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for each cell (default 300)")
    options = parser.parse_args()
    notebook = nbformat.read(options.notebook, as_version=4)
    resources = {"metadata": {"path": str(options.notebook.parent)}}
    limits = {"timeout": options.timeout, "startup_timeout": options.timeout}
    client = nbclient.NotebookClient(notebook, **limits, kernel_name="python3", resources=resources)
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        print(f"{options.notebook}: {error}", file=sys.stderr)
        return 1
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)  # times
            red = [o.text for o in cell.outputs if o.get("name") == "stderr"]
            if options.store and red:
                print(f"{options.notebook}: a cell writes to stderr, a red box: {red[0]}", file=sys.stderr)
                return 1
    text = nbformat.writes(notebook)
    if options.store:
        text = _TEMPORARY.sub("<cell>", text).replace(str(Path.cwd()), ".")
        options.output.write_text(json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    else:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
