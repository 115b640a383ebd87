"""Source locations, diagnostics and the exception classes of the package, which every layer raises."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from qpu.findings import Diagnostic, FaultPlace, Loc, Severity

__all__ = [
    "AsmError", "CompileError", "DecodeError", "Diagnostic", "DriverError", "EmuFault", "EmuWarning", "FaultPlace",
    "GpuResetError", "GpuTimeoutError", "HazardError", "Loc", "NoDeviceError", "OverrunError", "QpuError", "Severity",
    "UnknownNameError", "UsageError", "block", "brief", "counted", "keywords", "suggest",
]  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")

_FINDINGS = ("Diagnostic", "FaultPlace", "Loc", "Severity")
_RENDER_LIMIT = 50  # diagnostics that the message of an error shows


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What `qpu.findings` has, which costs time to import and is not needed where nothing goes wrong."""
        if name not in _FINDINGS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from qpu import findings

        found: object = getattr(findings, name)
        globals()[name] = found
        return found


class QpuError(Exception):
    """Base class of all errors that this package raises.

    diagnostics: the findings that the error reports, sorted by source location; empty for other errors. help: what to
    do; it becomes the last line of the message, after ``help:``.
    """

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic] = (), *, help: str | None = None) -> None:
        super().__init__(message if help is None else f"{message}\n  help: {help}")
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)


class UsageError(QpuError, ValueError):
    """An invalid argument or call, refused before anything is changed: a bad name, shape, size or option."""


class AsmError(QpuError):
    """A program that cannot be encoded."""

    @classmethod
    def of(cls, diagnostics: Diagnostic | Iterable[Diagnostic]) -> AsmError:
        """The error for one or many diagnostics. Its message shows the first 50, in order of source location."""
        from qpu.findings import Diagnostic

        found = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        ordered = tuple(sorted(found, key=_place))
        lines = [d.render() for d in ordered[:_RENDER_LIMIT]]
        if len(ordered) > _RENDER_LIMIT:
            lines.append(f"... and {len(ordered) - _RENDER_LIMIT} more")
        return cls("\n".join(lines), ordered)


class UnknownNameError(AsmError, AttributeError):
    """A name that a builder does not have: an operation, register or signal of another chip, or a typing mistake."""

    @classmethod
    def among(
        cls,
        name: str,
        known: Iterable[str],
        what: str,
        loc: Loc | None,
        others: Iterable[Diagnostic] = (),
        meant: str | None = None,
    ) -> UnknownNameError:
        """The error for a `name` that `what` does not have. It suggests similar names out of `known`.

        others: diagnostics found before, which the error reports as well. meant: help that is known for the name.
        """
        advice = meant or suggest(name, known, "{}", 3) or "list the names with dir()"
        from qpu.findings import Diagnostic

        found = sorted([*others, Diagnostic("name", f"{what} has no {name!r}", loc=loc, help=advice)], key=_place)
        return cls("\n".join(d.render() for d in found), found)


class DecodeError(AsmError):
    """A word that is not an instruction. `word` is the 64-bit word, `field` the first field that is undefined."""

    def __init__(self, word: int, field: str, message: str) -> None:
        help = "check that the word is code, and which instruction set it is for"
        from qpu.findings import Diagnostic

        super().__init__(f"0x{word:016x}: {message}", (Diagnostic("decode", message, help=help),), help=help)
        self.word = word
        self.field = field

    def __reduce__(self) -> tuple[type[DecodeError], tuple[int, str, str]]:
        return DecodeError, (self.word, self.field, self.diagnostics[0].message)


class HazardError(AsmError):
    """A program that encodes but breaks a rule of the hardware."""


class CompileError(QpuError):
    """A kernel that cannot be compiled; the diagnostics name each wrong expression."""


class DriverError(QpuError, OSError):
    """Linux or the firmware refused a request, or failed. errno: the error number of Linux, or None."""

    def __init__(self, message: str, errno: int | None = None, *, help: str | None = None) -> None:
        QpuError.__init__(self, message, help=help)
        self.errno = errno

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NoDeviceError(DriverError):
    """No usable GPU. The message lists every adapter that was tried and why it cannot be used."""


class GpuResetError(DriverError):
    """The GPU was reset while the job ran; its results are incomplete."""


class OverrunError(DriverError):
    """A launch has written next to a buffer: the canary pages around it have changed. Its results are not reliable."""


class GpuTimeoutError(DriverError, TimeoutError):
    """A job did not finish in time. It may still be running: its buffers must not be reused."""


class EmuFault(QpuError):
    """An emulated program did what hardware forbids, or something whose result is not known.

    rule: stable identifier such as ``out-of-bounds``, ``tmu-empty``, ``H1``. name: the rule's name in words, where the
    identifier is a number. place: board, QPU, thread, instruction, lane and address, as far as they apply. help: what
    to do. other: the second place, of findings about two accesses.
    """

    def __init__(
        self,
        rule: str,
        message: str,
        place: FaultPlace | None = None,
        name: str = "",
        help: str = "",
        other: FaultPlace | None = None,
    ) -> None:
        self.rule = rule
        self.name = name
        self.message = message
        if place is None:
            from qpu.findings import FaultPlace

            place = FaultPlace()
        self.place = place
        self.help = help
        self.other = other
        lines = [f"{rule}: {name}: {message}" if name else f"{rule}: {message}"]
        for word, at in (("at", self.place), ("other", other)):
            if at is None:
                continue
            where = at.render()
            if where:
                lines.append(f"  {word} {where}")
            if at.disassembly:
                lines.append(f"  instruction: {at.disassembly}")
            if at.loc is not None:
                lines.append(f"  source: {at.loc}: {at.loc.source.strip()}")
        if help:
            lines.append(f"  help: {help}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[EmuFault], tuple[str, str, FaultPlace, str, str, FaultPlace | None]]:
        return EmuFault, (self.rule, self.message, self.place, self.name, self.help, self.other)

    def at(self, place: FaultPlace, other: FaultPlace | None = None) -> EmuFault:
        """The same fault at another place. other: replaces the second place, if it has one."""
        fault = EmuFault(self.rule, self.message, place, self.name, help=self.help, other=other or self.other)
        return fault.with_traceback(self.__traceback__)


class EmuWarning(UserWarning):
    """An emulated program did what a real board tolerates, with a result that is not documented.

    Issued when a launch finishes, once for each rule and instruction; also in `RunStats.faults`. On boards that are not
    strict (``strict=False``, ``QPU_EMU_STRICT=0``), what is an `EmuFault` otherwise is a warning too.
    """


def brief(function: Callable[P, R]) -> Callable[P, R]:
    """A public function whose errors of this package show the caller's frames, not those inside the package.

    ``QPU_TRACEBACK=full`` keeps them, for reports about the package itself.
    """

    @functools.wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except QpuError as error:
            if os.environ.get("QPU_TRACEBACK") == "full":
                raise
            error.__cause__, error.__suppress_context__ = None, True
            raise error.with_traceback(None)  # noqa: B904  # the same error, without the frames below this one

    return entry


class _Block(ContextDecorator, Generic[R]):
    """A context whose errors of this package at its beginning are `brief`."""

    def __init__(self, make: Callable[[], AbstractContextManager[R]]) -> None:
        self._make = make
        self._open: list[AbstractContextManager[R]] = []

    @brief
    def __enter__(self) -> R:
        made = self._make()
        found = made.__enter__()
        self._open.append(made)
        return found

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.pop().__exit__(*error)


def block(function: Callable[P, Iterator[R]]) -> Callable[P, AbstractContextManager[R]]:
    """`contextlib.contextmanager` for a public function that is `brief`."""
    made = contextmanager(function)

    @functools.wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[R]:
        return _Block(functools.partial(made, *args, **kwargs))

    return entry


def keywords(meant: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a `brief` public function that explains the keywords of other libraries: `meant` says what is ours.

    Raises: UsageError in place of TypeError for such a keyword.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def entry(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                name = next((name for name in kwargs if name in meant), None)
                if name is None:
                    raise
                found = UsageError(f"{function.__name__}() takes no argument {name!r}", help=meant[name])
                raise found from (error if os.environ.get("QPU_TRACEBACK") == "full" else None)

        return brief(entry)

    return decorate


def counted(n: int, noun: str, form: str = "") -> str:
    """A number with its noun, as messages write it: "1 axis", "2 axes". noun: of one. form: a format of the number."""
    if n == 1:
        return f"1 {noun}"
    for ending, several in (("ex", "ices"), ("is", "es"), ("ry", "ries"), ("ch", "ches"), ("", "s")):
        if noun.endswith(ending):
            return f"{n:{form}} {noun.removesuffix(ending)}{several}"
    raise AssertionError(noun)


def suggest(name: object, known: Iterable[str], form: str = "{!r}", most: int = 1) -> str | None:
    """``did you mean ...?`` with the known names that are most similar, each as `form` says; None when none is."""
    import difflib

    close = difflib.get_close_matches(str(name), list(known), most)
    return f"did you mean {', '.join(map(form.format, close))}?" if close else None


def _place(d: Diagnostic) -> tuple[str, int, int, int]:
    loc = d.loc
    if loc is None:
        return ("", d.index if d.index is not None else -1, 0, 0)
    return (loc.file, loc.line, loc.column or 0, d.index if d.index is not None else -1)
