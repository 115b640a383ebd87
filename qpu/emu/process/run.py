"""The runner of `qpu emulate`: runs scripts and modules as Python does, and puts child processes on a board."""

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
from importlib import import_module
from pathlib import Path

from qpu.emu.engines import strict_by_default
from qpu.emu.process import emulate
from qpu.emu.process.emulate import BOARD_VARIABLE, Emulation
from qpu.emu.process.trace_file import TraceFile
from qpu.errors import UsageError

__all__ = ["install_child", "run_emulated"]

STRICT_VARIABLE = "QPU_EMULATE_STRICT"
TRACE_VARIABLE = "QPU_EMULATE_TRACE"
COMPAT_VARIABLE = "QPU_EMULATE_COMPAT"
CHILD_SITE = str(Path(__file__).parent / "child_site")


def _strict(flag: bool) -> bool:
    return strict_by_default(False) or flag


def _environment(board: str, strict: bool, trace: TraceFile | None) -> None:
    """Set the environment that puts Python child processes on an emulated board too."""
    os.environ[BOARD_VARIABLE] = board
    os.environ[STRICT_VARIABLE] = "1" if strict else "0"
    os.environ.pop(TRACE_VARIABLE, None)
    if trace is not None:
        os.environ[TRACE_VARIABLE] = trace.dump()
    known = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    os.environ["PYTHONPATH"] = os.pathsep.join([CHILD_SITE, *(p for p in known if p != CHILD_SITE)])


def install_child() -> None:
    """Install the emulation in a child process; called at its start when the environment says so."""
    if os.environ.get(COMPAT_VARIABLE):
        import_module("qpu.compat.shims").install()
    text = os.environ.get(TRACE_VARIABLE)
    trace = TraceFile.load(text, os.getpid()) if text else None
    emulation = Emulation(os.environ[BOARD_VARIABLE], strict=os.environ.get(STRICT_VARIABLE) == "1", trace=trace)
    emulation.install()
    atexit.register(_end, weakref.ref(emulation))


def _end(target: Callable[[], Emulation | None]) -> None:
    """Report faults and write the trace at the end of the process, after the exit handlers of the program."""
    emulation = target()
    if emulation is None or not emulation.installed:
        return
    emulation.retire()
    lines = [emulation.summary()]
    with contextlib.suppress(UsageError):  # the disk is full, for example: the process ends anyway
        lines.append(emulation.finish_trace())
    for line in lines:
        if line:
            print(line, file=sys.stderr)


_interrupted = False


def _die_if_interrupted() -> None:
    """End the process by the signal SIGINT if Ctrl-C ended the program, as Python does it."""
    if _interrupted:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def run_emulated(
    argv: Sequence[str],
    board: str = "pi5",
    strict: bool = False,
    trace: TraceFile | None = None,
    compat: bool = False,
) -> int:
    """Run ``SCRIPT ARGS`` or ``-m MODULE ARGS`` on the emulated `board`, as Python does. Returns: the exit status.

    A script named ``-`` is standard input. trace: record executed instructions; written when the process ends.
    compat: with the shims of `qpu.compat.shims`, also in child processes.
    The emulation is installed until the process ends, so that exit handlers run on it too.
    Raises: UsageError for a bad board name or an empty command.
    """
    if not argv or list(argv) == ["-m"]:
        raise UsageError("qpu emulate needs a program", help="name a script, or -m and a module")
    hard = _strict(strict)
    outer = emulate.current()
    if outer is not None:
        outer.uninstall()  # this process is the child of an emulated one
    emulation = Emulation(board, strict=hard, trace=trace)
    _environment(board, hard, trace)
    if compat:
        import_module("qpu.compat.shims").install()
    atexit.register(_die_if_interrupted)
    emulation.install()
    keep = emulation  # alive until the process ends
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
    """Run a module as ``python -m`` does."""
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
    """Show an exception as Python does, but without the frames of this module. Returns: the exit status."""
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
