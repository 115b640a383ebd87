"""The commands of `qpu` for debugging."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from qpu.debug.debugger import Debugger
from qpu.debug.replay import replay
from qpu.debug.sanitizer import sanitize

__all__ = ["debug_script", "replay_file"]


def replay_file(path: str, board: str | None, kinds: str | None) -> bool:
    """Replay a record and print what happened; whether all results are as recorded. kinds: of the sanitizer, or None.

    Raises: UsageError for a file that is not a record; EmuFault; OSError.
    """
    good = True
    with nullcontext() if kinds is None else sanitize(kinds):
        for n, run in enumerate(replay(path, board=board)):
            result = "results not recorded" if run.differs is None else "results as recorded"
            if run.differs:
                result, good = f"results differ in {', '.join(run.differs)}", False
            print(f"launch {n}: {run.recorded.isa.label}, {run.stats.instructions:,} instructions, {result}")
            for text in run.stats.faults:
                print(f"  {text}")
    return good


def debug_script(path: str, arguments: Sequence[str]) -> None:
    """Run a Python script, and stop at the first instruction of each launch. Raises: UsageError; `Quit`."""
    sys.argv = [path, *arguments]
    with Debugger():
        runpy.run_path(path, run_name="__main__")
