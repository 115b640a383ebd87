"""Kernels as objects: compiled for what they are called with, launched, explained, run as plain Python."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, overload

from qpu.core.isa import Isa
from qpu.errors import CompileError, UsageError, brief
from qpu.lang.schedule import Schedule
from qpu.lang.types import DTYPES

if TYPE_CHECKING:
    from qpu.debug.trace import Trace
    from qpu.device import Device
    from qpu.lang.compile import Parameter
    from qpu.lang.compiled import Compiled
    from qpu.lang.source import Source
    from qpu.lang.specialise import Special
    from qpu.lang.variants import Variant
    from qpu.launch import Run

__all__ = ["BoundKernel", "Kernel", "kernel"]


class Kernel:
    """A function in the kernel language. Calling it launches it and waits; `submit` returns at once.

    fn: the function; schedule: the knobs; variants: what runs instead on an instruction set.
    """

    __qpu_kernel__ = True

    def __init__(self, fn: Callable[..., None], schedule: Schedule | None = None) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.schedule = schedule if schedule is not None else Schedule()
        self.variants: dict[Isa, dict[str, Variant]] = {}
        self.plans: dict[Any, Any] = {}  # of `qpu.lang.launch`
        self._source: Source | None = None
        self._rows: list[Parameter] | None = None
        self._made: dict[Any, tuple[Special, Compiled]] = {}

    # -- what it is

    @staticmethod
    def from_source(text: str, name: str | None = None, **knobs: Any) -> Kernel:
        """A kernel from the text of a module that defines it: the last function, or the one called `name`.

        Raises: UsageError, CompileError (lang-syntax) for text that is not Python.
        """
        from qpu.lang.source import function_of

        schedule = Schedule.of(knobs)
        found = function_of(text, name)
        return found if isinstance(found, Kernel) and not knobs else Kernel(getattr(found, "fn", found), schedule)

    @property
    def source(self) -> Source:
        """The kernel's source. Raises: CompileError (lang-source)."""
        if self._source is None:
            from qpu.lang.source import Source

            self._source = Source.of(self.fn)
        return self._source

    def refresh(self) -> None:
        """Forget what was compiled when a name that the kernel reaches has another value now."""
        if self._source is not None and self._source.stale:
            self._source = self._rows = None
            self._made.clear()
            self.plans.clear()

    def _parameters(self) -> list[Parameter]:
        if self._rows is None:
            from qpu.lang.compile import parameters

            self._rows = parameters(self.source)
        return self._rows

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters behind the Grid or Team. Raises: CompileError."""
        return self._parameters()[1:]

    @property
    def team(self) -> bool:
        """Whether it is a Team kernel."""
        return self._parameters()[0].type == "Team"

    def __repr__(self) -> str:
        return f"<kernel {self.fn.__name__}>"

    def __reduce__(self) -> tuple[Callable[..., Kernel], tuple[Any, ...]]:
        from qpu.lang.travel import take

        variants = [v.portable() for row in self.variants.values() for v in row.values()]
        return _restored, (*take(self.source, list(self._made.values())), self.schedule, variants)

    # -- compiling

    def compile(self, isa: str | Isa, /, **specialisation: Any) -> Compiled:
        """The kernel for an instruction set, without a device.

        specialisation: values of `Const` parameters and knobs by name; `wide=False`: for arrays that do not begin at
        multiples of 16 bytes; `strided=("x",)`: arrays whose neighbours are apart, by name; `check=True`: clamp the
        accesses that a launch cannot check. Raises: CompileError, UsageError.
        """
        return self.made(self.special(isa, **specialisation))

    def special(self, isa: str | Isa, /, **specialisation: Any) -> Special:
        """What `compile` with these arguments compiles for. Raises: CompileError, UsageError."""
        from qpu.lang.specialise import Special

        try:
            which = Isa(isa)
        except ValueError:
            raise UsageError(f"isa = {isa!r}", help=f"allowed: {', '.join(Isa)}") from None
        self.refresh()
        rows = self._checked()
        consts = {r.name: specialisation.pop(r.name, r.default) for r in rows if r.kind == "const"}
        missing = [r.name for r in rows if r.kind == "const" and consts[r.name] is None and not r.has_default]
        if missing:
            name = missing[0]
            raise UsageError(f"{self.fn.__name__}: the Const parameter {name!r} has no value", help=f"pass {name}=...")
        wide, check = specialisation.pop("wide", True), specialisation.pop("check", False)
        strided = specialisation.pop("strided", ())
        schedule = Schedule.of({**self.schedule.row, **specialisation}) if specialisation else self.schedule
        arrays = [r.name for r in rows if r.kind == "array"]
        unknown = [name for name in strided if name not in arrays]
        if unknown:
            raise UsageError(f"strided = {strided!r}", help=f"names of arrays: {', '.join(arrays)}")
        apart = tuple(name in strided for name in arrays) if strided else ()
        narrow = tuple(
            DTYPES[r.type].size < 4 and bool(wide) and r.name not in strided for r in rows if r.kind == "array"
        )
        return Special(
            which, tuple(consts.items()), schedule, (bool(wide),) * len(arrays), bool(check), strided=apart,
            words=narrow if any(narrow) else (),
        )  # fmt: skip

    def with_knobs(self, schedule: Schedule) -> Kernel:
        """The same function with other knobs."""
        return Kernel(self.fn, schedule)

    @property
    def compiled(self) -> list[Compiled]:
        """What has been compiled so far."""
        return [made for _, made in self._made.values()]

    def made(self, special: Special) -> Compiled:
        """The kernel compiled for `special`; kept. Raises: CompileError."""
        key = _key(special)
        found = self._made.get(key)
        if found is None:
            try:
                found = self._made[key] = (special, self._make(special))
            except CompileError as error:  # the user's line, not the compiler's
                raise error.with_traceback(None) from error.__cause__
        return found[1]

    def _make(self, special: Special) -> Compiled:
        from qpu.lang import cache
        from qpu.lang.specialise import specialise
        from qpu.lang.tune import tuned

        source = self.source
        knobs = tuned(lambda: cache.identity(source), special.isa, special.schedule)
        if knobs != special.schedule:
            special = special.with_schedule(knobs)
        key = cache.key_of(source, special)
        found = None if key is None else cache.load(key, source, self.team, special)
        if found is None:
            found = specialise(source, self.team, special)
            if key is not None:
                cache.save(key, found, source)
        _tell(found)
        return found

    def _checked(self) -> list[Parameter]:
        """The parameters. Raises: CompileError at the caller's line."""
        try:
            return self.parameters
        except CompileError as error:
            raise error.with_traceback(None) from None

    # -- launching

    def __call__(self, /, *args: Any, **keywords: Any) -> Run:
        """Launch and wait. Arrays are buffers of one device. Raises: UsageError before anything is submitted."""
        return _launch(self, None, _AUTO, args, keywords, wait=True)

    def submit(self, /, *args: Any, **keywords: Any) -> Run:
        """Launch and return at once."""
        return _launch(self, None, _AUTO, args, keywords, wait=False)

    def on(
        self, gpu: Device | None = None, *, workers: int | None = None, variant: str | None = None, check: bool = False
    ) -> BoundKernel:
        """The kernel on a device, which is needed when no argument is an array.

        workers: how many, instead of as many as suit the device or (Team) the arrays. variant: name of a variant, or
        "compiled". check: clamp the accesses that a launch cannot check. Raises: UsageError.
        """
        return BoundKernel(self, gpu, workers, variant, check)

    def variant(
        self, isa: str | Isa, *, name: str | None = None, plan: Callable[..., Any] | None = None
    ) -> Callable[[Any], Any]:
        """Decorator: what runs on an instruction set instead of the compiled kernel.

        It is given another kernel with the same parameters, or a builder function of the assembler and with it
        plan(device, args) -> (uniforms, launch keywords), args being the arguments by parameter name. Raises:
        UsageError.
        """
        from qpu.lang.variants import register

        return register(self, isa, name, plan)

    # -- reports

    def explain(self, /, *args: Any, **keywords: Any) -> str:
        """Instructions by source line, registers, bytes, and what bounds each loop, for these arguments."""
        return self.on().explain(*args, **keywords)

    # -- elsewhere

    def python(self, /, *args: Any, workers: int = 1, isa: str = "v3d71", **keywords: Any) -> None:
        """Run the function as plain Python, lane by lane, on ndarrays, changed in place; `print` and pdb work.

        Raises: CompileError, UsageError; IndexError for an element that does not exist.
        """
        from qpu.lang import lanes_run

        found = lanes_run.views(self.parameters, self._on_host(args, keywords))
        if self.team:
            lanes_run.run_team(self.fn, found, workers, isa)
        else:
            lanes_run.run_grid(self.fn, found, isa)

    @brief
    def debug(
        self, *args: Any, commands: Iterable[str] | None = None, out: TextIO | None = None, **keywords: Any
    ) -> object:
        """Launch the kernel in the debugger (see `Device.debug`); arguments as of a call."""
        from qpu.debug.debugger import Debugger

        with Debugger(commands, out):
            return self(*args, **keywords)

    @brief
    def trace(self, *args: Any, steps: int = 2000, threads: int = 4, **keywords: Any) -> Trace:
        """Launch the kernel with every step kept (see `Device.trace`); arguments as of a call."""
        from qpu.debug.trace import Trace

        with Trace(steps, threads) as found:
            self(*args, **keywords)
        return found

    def interpret(self, /, *args: Any, workers: int | None = None, isa: str = "v3d71", **keywords: Any) -> None:
        """Run the kernel's intermediate representation on ndarrays, changed in place. workers: None as a launch.

        Raises: CompileError, UsageError, EmuFault.
        """
        from qpu.lang.interpret import interpret

        interpret(self, self._on_host(args, keywords), workers, isa)

    def _on_host(self, args: Sequence[Any], keywords: dict[str, Any]) -> list[Any]:
        from qpu.lang.signature import Signature

        self._checked()
        try:
            return Signature(self).on_host(args, keywords)
        except UsageError as error:
            raise error.with_traceback(None) from None


def _restored(rows: Any, entries: Any, schedule: Schedule, variants: Any = ()) -> Kernel:
    """A kernel from a pickle."""
    from qpu.lang.travel import restore

    found = Kernel(restore(rows, entries), schedule)
    for isa, name, made, plan in variants:
        own, given = (restore(x, {}) if isinstance(x, list) else x for x in (made, plan))
        found.variant(isa, name=name, plan=given)(own)
    return found


class BoundKernel:
    """A kernel on a device or with knobs of launching: call it, or `submit`."""

    def __init__(
        self, kernel: Kernel, gpu: Device | None, workers: int | None, variant: str | None, check: bool
    ) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise UsageError(f"workers = {workers!r}", help="allowed: whole numbers from 1")
        self.kernel = kernel
        self.gpu = gpu
        self.how = (workers, variant, check)

    def __call__(self, /, *args: Any, **keywords: Any) -> Run:
        """Launch and wait."""
        return _launch(self.kernel, self.gpu, self.how, args, keywords, wait=True)

    def submit(self, /, *args: Any, **keywords: Any) -> Run:
        """Launch and return at once."""
        return _launch(self.kernel, self.gpu, self.how, args, keywords, wait=False)

    def explain(self, /, *args: Any, **keywords: Any) -> str:
        """As `Kernel.explain`."""
        from qpu.lang.launch import compiled_for

        try:
            return compiled_for(self.kernel, self.gpu, self.how, args, keywords).explain()
        except (CompileError, UsageError) as error:
            raise error.with_traceback(None) from None

    def __repr__(self) -> str:
        return f"<{self.kernel!r} on {self.gpu!r}>"


_AUTO = (None, None, False)


def _launch(k: Kernel, gpu: Device | None, how: Any, args: Any, keywords: Any, *, wait: bool) -> Run:
    from qpu.lang.launch import launch

    try:
        return launch(k, gpu, how, args, keywords, wait)
    except (CompileError, UsageError) as error:  # at the caller's line
        raise error.with_traceback(None) from error.__cause__


_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def _tell(compiled: Compiled) -> None:
    """Warn of what costs, each time a kernel is compiled; not of the kernels of this package."""
    for note in compiled.notes:
        if note.loc is not None and note.loc.file.startswith(_PACKAGE):
            continue
        import warnings

        from qpu.lang.surface import PerformanceNote
        from qpu.launch import caller

        warnings.warn(PerformanceNote(note.render()), stacklevel=caller())


def _key(special: Special) -> Any:
    """A key for `special`: constants that cannot be hashed by their `repr`; 1, 1.0 and True are not the same."""
    try:
        hash(special.consts)
        values: Any = tuple((n, type(v), v) for n, v in special.consts)
    except TypeError:
        values = repr(special.consts)
    return (
        special.isa,
        values,
        special.schedule,
        special.wide,
        special.check,
        special.coarsen,
        special.strided,
        special.words,
    )


@overload
def kernel(fn: Callable[..., None], /) -> Kernel: ...
@overload
def kernel(
    *,
    coarsen: int | None = None,
    threads: int | str = "auto",
    unroll: int = 1,
    stream: str = "auto",
    march: str | None = None,
    reassociate: bool = False,
) -> Callable[[Callable[..., None]], Kernel]: ...
def kernel(fn: Callable[..., None] | None = None, **knobs: Any) -> Kernel | Callable[[Callable[..., None]], Kernel]:
    """Make a kernel of a function whose first parameter is a Grid or Team. Raises: UsageError for a wrong knob."""
    if fn is not None and not callable(fn):
        raise UsageError(f"@kernel of {fn!r}", help="write @kernel or @kernel(coarsen=4, ...) above a function")
    schedule = Schedule.of(knobs)
    if fn is not None:
        return Kernel(fn, schedule)
    return lambda f: Kernel(f, schedule)
