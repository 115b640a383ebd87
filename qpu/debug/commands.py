"""The commands of `qpu` for debugging."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from qpu.debug.debugger import Debugger
from qpu.debug.replay import replay
from qpu.debug.sanitizer import sanitize
from qpu.errors import UsageError, counted

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
            print(
                f"launch {n}: {run.recorded.isa.label}, {counted(run.stats.instructions, 'instruction', ',')}, {result}"
            )
            for text in run.stats.faults:
                print(f"  {text}")
    return good


def debug_script(path: str, arguments: Sequence[str]) -> None:
    """Run a Python script, and stop at the first instruction of each launch.

    Raises: UsageError, also when the script has ended without a launch; `Quit`.
    """
    sys.argv = [path, *arguments]
    with Debugger() as debugger:
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            if end.code or debugger.launches:
                raise
    if not debugger.launches:
        help = "launch by gpu.run, gpu.submit or a kernel's call, in the process of the script"
        raise UsageError(f"{path} has ended without a launch: there was nothing to stop at", help=help)
