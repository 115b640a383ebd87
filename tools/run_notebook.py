"""Runner of a notebook: executes it in a new process, in its own directory, and writes it with its outputs.

python tools/run_notebook.py examples/notebooks/3-sgemm.ipynb /tmp/3-sgemm.ipynb
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbclient
import nbformat


def main() -> int:
    """Run the notebook. Returns the exit status: 1, with the failing cell on stderr, when a cell raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for each cell (default 300)")
    options = parser.parse_args()
    notebook = nbformat.read(options.notebook, as_version=4)
    resources = {"metadata": {"path": str(options.notebook.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=options.timeout, kernel_name="python3", resources=resources)
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        print(f"{options.notebook}: {error}", file=sys.stderr)
        return 1
    nbformat.write(notebook, options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
