"""The commands of `qpu` for debugging."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from qpu.debug.debugger import Debugger, Quit
from qpu.debug.files import opened
from qpu.debug.replay import replay
from qpu.debug.sanitizer import sanitize
from qpu.errors import UsageError, counted
from qpu.scripts import users_code

__all__ = ["debug_script", "replay_file"]


def replay_file(path: str, board: str | None, kinds: str | None) -> bool:
    """Replay a record and print what happened; whether all results are as recorded. kinds: of the sanitizer, or None.

    Raises: UsageError for a file that is not a record; EmuFault.
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


def debug_script(words: Sequence[str]) -> None:
    """Run a Python script, `words` are its path and arguments, and stop at the first instruction of each launch.

    Raises: UsageError, also when the script has ended without a launch; `Quit`; SystemExit after showing an error.
    """
    if not words:
        raise UsageError("no script to debug", help="write qpu debug SCRIPT [ARG...], such as qpu debug program.py")
    path = words[0]
    with opened(path, "rb"):  # says why not
        pass
    sys.argv = list(words)
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    with Debugger() as debugger:
        try:
            with users_code(Quit, SyntaxError):
                runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            if end.code or debugger.launches:
                raise
    if not debugger.launches:
        help = "launch by gpu.run, gpu.submit or a kernel's call, in the process of the script"
        raise UsageError(f"{path} has ended without a launch: there was nothing to stop at", help=help)
