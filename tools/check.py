"""Runner of all checks: format, lint, types, generated files, tests, guide, examples. ``--fast`` omits slow ones.

It needs the packages of the group full: ``uv run --group full tools/check.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAST = (
    ("format", ("ruff", "format", "--check", ".")),
    ("lint", ("ruff", "check", ".")),
    ("types", ("mypy",)),
    ("generated V3D builders", (sys.executable, "tools/gen_asm.py", "--check")),
    ("generated VC4 builder", (sys.executable, "tools/gen_asm_vc4.py", "--check")),
    ("generated pages", (sys.executable, "tools/gen_docs.py", "--check")),
    ("diagrams", (sys.executable, "tools/draw_docs.py", "--check")),
    ("layers and citations", (sys.executable, "-m", "pytest", "-q", "tests/test_layers.py", "tests/test_citations.py")),
)
SLOW = (
    ("tests", (sys.executable, "-m", "pytest", "-q")),
    ("guide", (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", "docs/_build/html")),
    ("sgemm", (sys.executable, "examples/sgemm.py", "--device", "all")),
)


def main() -> int:
    """Run all checks in order, also after a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="only what takes seconds")
    options = parser.parse_args()
    failed = []
    for name, command in FAST if options.fast else FAST + SLOW:
        print(f"== {name}: {' '.join(str(c) for c in command)}", flush=True)
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    print("all checks passed" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
