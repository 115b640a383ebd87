"""The audit hook of `qpu emulate`: raises EmuFault when a call bypasses the replacements with a path of the board.

Python reports most operations that take a path, and every start of another program, to audit hooks. If an operation
with a path of the board is reported, no replacement has caught it: the host would use its own files, or find none.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qpu.emu.linux.files import OWNED
from qpu.errors import EmuFault

__all__ = ["Guard"]

# Event -> positions of the arguments that are paths.
_PATHS = {
    "open": (0,),
    **dict.fromkeys(
        "os.listdir os.scandir os.chdir os.chmod os.chown os.chflags os.getxattr os.listxattr os.setxattr "
        "os.removexattr os.mkdir os.remove os.rmdir os.truncate os.utime".split(),
        (0,),
    ),
    **dict.fromkeys(("os.link", "os.rename"), (0, 1)),
    "os.symlink": (1,),
}
_MENTIONED = re.compile(r"(?<![\w/.-])(?:" + "|".join(re.escape(p) for p in OWNED) + r")(?![\w-])")
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*(?:\.exe)?")
_SWITCHES_USER = ("sudo", "doas", "pkexec", "su")
_NO_SITE = frozenset("IES")  # options with which Python ignores its environment or does not load `site`


class Guard:
    """The audit hook.

    owned: gives the path on the board, or None. trusted: true while a replacement calls the system's functions.
    variable: the environment variable that puts child processes on the board.
    """

    def __init__(
        self, owned: Callable[[Any], str | None], trusted: Callable[[], object], board: str, variable: str
    ) -> None:
        self._owned = owned
        self._trusted = trusted
        self._board = board
        self._variable = variable
        self._starts: dict[str, Callable[..., None]] = {
            "subprocess.Popen": self._popen,
            "os.exec": lambda path, args, env: self._started(path, args, env),
            "os.posix_spawn": lambda path, args, env: self._started(path, args, env),
            "os.spawn": lambda mode, path, args, env: self._started(path, args, env),
            "os.system": lambda command: self._started(None, command, None),
        }

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook. Raises: EmuFault."""
        which = _PATHS.get(event)
        if which is not None:
            for n in which:
                path = args[n]
                if isinstance(path, (str, bytes, os.PathLike)) and not self._trusted():
                    full = self._owned(path)
                    if full is not None:
                        name = event if "." in event else f"a call of {event}() that the emulation cannot catch"
                        raise self._fault(f"{name} on {full}")
            return
        start = self._starts.get(event)
        if start is not None:
            start(*args)

    def _fault(self, what: str, help: str = "use the functions of os and io for it") -> EmuFault:
        return EmuFault("not-modelled", f"{what} is not modelled by the emulated {self._board}", help=help)

    # child processes

    def _popen(self, executable: Any, args: Any, cwd: Any, env: Mapping[Any, Any] | None) -> None:
        if cwd is not None and self._owned(cwd) is not None:
            raise self._fault(f"a child process in {self._owned(cwd)}", "start it in another directory")
        self._started(executable, args, env)

    def _started(self, executable: Any, args: Any, env: Mapping[Any, Any] | None) -> None:
        words = _words(args)
        if not words:
            return
        program = os.fsdecode(executable) if executable is not None else words[0]
        name = os.path.basename(words[0] if executable is None else program)
        if name in _SWITCHES_USER:
            advice = "run the command without it: only processes of this user are on the board"
            raise self._fault(f"starting {' '.join(words)!r} as another user", advice)
        if name == "vcgencmd" and shutil.which(program):
            advice = "use /dev/vcio: vcgencmd would use the firmware of this machine"
            raise self._fault(f"the command {' '.join(words)!r}", advice)
        python = [n for n, word in enumerate(words) if _is_python(word)]
        if python or _is_python(program) or _python_script(program):
            self._python(words, words[python[0] + 1 :] if python else words[1:], env)
            return
        for word in words:
            found = _MENTIONED.search(word)
            if found is not None:
                advice = "access it from Python: only child processes that are Python are on the board"
                raise self._fault(f"{found[0]} in a child process that is not Python ({' '.join(words)!r})", advice)

    def _python(self, words: list[str], options: Iterable[str], env: Mapping[Any, Any] | None) -> None:
        if env is not None and self._variable not in {os.fsdecode(k) for k in env}:
            raise self._fault(
                f"a Python child without {self._variable} in its environment ({' '.join(words)!r})",
                "pass the environment of this process to it",
            )
        for option in options:
            if not option.startswith("-") or option in ("-c", "-m", "-"):
                break
            if not option.startswith("--") and _NO_SITE & set(option[1:].partition("X")[0].partition("W")[0]):
                advice = f"start it without {option}, which keeps it off the board"
                raise self._fault(f"a Python child with {option} ({' '.join(words)!r})", advice)


def _words(args: Any) -> list[str]:
    """The words of a command. Text for a shell is split at spaces and quotes, which is only approximate."""
    if isinstance(args, (str, bytes, os.PathLike)):
        args = [args]
    texts = [os.fsdecode(a) for a in args if isinstance(a, (str, bytes, os.PathLike))]
    if len(texts) == 1 or (len(texts) > 2 and texts[1] == "-c" and os.path.basename(texts[0]) in _SHELLS):
        texts = [w for w in re.split(r"[\s'\"|&;()<>]+", " ".join(texts)) if w]
    return texts


_SHELLS = ("sh", "bash", "dash", "zsh")


def _is_python(word: str) -> bool:
    return word == sys.executable or _PYTHON.fullmatch(os.path.basename(word)) is not None


def _python_script(program: str) -> bool:
    """Whether a program is a file that begins with a ``#!`` line that names Python."""
    found = shutil.which(program)
    if found is None:
        return False
    try:
        with Path(found).open("rb") as file:
            return re.match(rb"#!.*python", file.read(128)) is not None
    except OSError:
        return False
