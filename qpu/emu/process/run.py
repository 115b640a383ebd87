"""Running scripts and modules under `qpu emulate` as Python itself would, and putting child processes on a board."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import errno
import importlib.machinery
import io
import os
import pkgutil
import runpy
import signal
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from qpu.emu.engines import strict_by_default
from qpu.emu.process import emulate
from qpu.emu.process.emulate import BOARD_VARIABLE, Emulation
from qpu.emu.process.trace_file import TraceFile
from qpu.errors import UsageError

__all__ = ["install_child", "run_emulated"]

STRICT_VARIABLE = "QPU_EMULATE_STRICT"
TRACE_VARIABLE = "QPU_EMULATE_TRACE"
CHILD_SITE = str(Path(__file__).parent / "child_site")


def _strict(flag: bool) -> bool:
    return strict_by_default(False) or flag


def _environment(board: str, strict: bool, trace: TraceFile | None) -> None:
    """Children that are Python run on an emulated board too."""
    os.environ[BOARD_VARIABLE] = board
    os.environ[STRICT_VARIABLE] = "1" if strict else "0"
    os.environ.pop(TRACE_VARIABLE, None)
    if trace is not None:
        os.environ[TRACE_VARIABLE] = trace.dump()
    known = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    os.environ["PYTHONPATH"] = os.pathsep.join([CHILD_SITE, *(p for p in known if p != CHILD_SITE)])


def install_child() -> None:
    """Called at the start of a child process whose environment asks for it."""
    text = os.environ.get(TRACE_VARIABLE)
    trace = TraceFile.load(text, os.getpid()) if text else None
    emulation = Emulation(os.environ[BOARD_VARIABLE], strict=os.environ.get(STRICT_VARIABLE) == "1", trace=trace)
    emulation.install()
    atexit.register(_end, weakref.ref(emulation))


def _end(target: Callable[[], Emulation | None]) -> None:
    """At the end of the process, after the program's own handlers."""
    emulation = target()
    if emulation is None or not emulation.installed:
        return
    emulation.retire()
    lines = [emulation.summary()]
    with contextlib.suppress(UsageError):  # the disk is full: nothing better can be done here
        lines.append(emulation.finish_trace())
    for line in lines:
        if line:
            print(line, file=sys.stderr)


_interrupted = False


def _die_if_interrupted() -> None:
    """A program ended by Ctrl-C ends by the signal, as Python does it."""
    if _interrupted:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def run_emulated(argv: Sequence[str], board: str = "pi5", strict: bool = False, trace: TraceFile | None = None) -> int:
    """Run ``SCRIPT ARGS`` or ``-m MODULE ARGS`` as Python would, on the emulated `board`; returns the exit status.

    A script named ``-`` is standard input.

    trace: record executed instructions, written when the process ends.

    The emulation stays in place until the process ends, so that handlers at exit run on it too.
    Raises: UsageError for a bad board name or an empty command.
    """
    if not argv or list(argv) == ["-m"]:
        raise UsageError("name a script, or -m and a module")
    hard = _strict(strict)
    outer = emulate.current()
    if outer is not None:
        outer.uninstall()  # this process was started by an emulated one
    emulation = Emulation(board, strict=hard, trace=trace)
    _environment(board, hard, trace)
    atexit.register(_die_if_interrupted)
    emulation.install()
    keep = emulation  # until the process ends
    atexit.register(_end, lambda: keep)
    return _run(list(argv))


def _run(argv: list[str]) -> int:
    main = types.ModuleType("__main__")
    names = vars(main)
    names["__builtins__"] = builtins
    sys.modules["__main__"] = main
    path = sys.path[:]
    try:
        if argv[0] == "-m":
            sys.argv = ["-m", *argv[2:]]
            _first_path(str(Path.cwd()))
            _run_module(argv[1], True)
            return 0
        script = argv[0]
        sys.argv = list(argv)
        if script == "-":
            _first_path("")
            exec(compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True), names)
            return 0
        if os.path.isdir(script) or _is_archive(script):
            _first_path(script)
            _run_module("__main__", False)
            return 0
        try:
            code = _compile(script)
        except OSError as error:
            sys.path[:] = path
            text = f"can't open file {os.path.abspath(script)!r}: [Errno {error.errno}] {error.strerror}"
            print(f"qpu emulate: {text}", file=sys.stderr)
            return 2
        _first_path(os.path.dirname(os.path.realpath(script)))
        full = os.path.abspath(script)
        names["__file__"] = full
        names["__cached__"] = None
        names["__loader__"] = importlib.machinery.SourceFileLoader("__main__", full)
        exec(code, names)
    except SystemExit as stop:
        return _exit_status(stop)
    except BaseException as error:
        return _uncaught(error)
    return 0


def _run_module(name: str, alter_argv: bool) -> None:
    """What ``python -m`` does."""
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]  # private, but the same since 3.2


def _first_path(directory: str) -> None:
    if not sys.flags.safe_path:
        sys.path[:1] = [directory]


def _is_archive(script: str) -> bool:
    import zipfile

    return os.path.isfile(script) and not script.endswith((".py", ".pyc")) and zipfile.is_zipfile(script)


def _compile(script: str) -> types.CodeType:
    with io.open_code(os.path.abspath(script)) as file:
        if script.endswith(".pyc"):
            code: types.CodeType | None = pkgutil.read_code(file)
            if code is not None:
                return code
            raise OSError(errno.ENOEXEC, "no code for this Python")
        source = file.read()
    return compile(source, os.path.abspath(script), "exec", dont_inherit=True)


def _exit_status(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code
    print(stop.code, file=sys.stderr)
    return 1


def _uncaught(error: BaseException) -> int:
    """Show an exception as Python would, without the frames of this module and of runpy's outside."""
    global _interrupted
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit as stop:
        return _exit_status(stop)
    if isinstance(error, KeyboardInterrupt):
        _interrupted = True
        return 130
    return 1
