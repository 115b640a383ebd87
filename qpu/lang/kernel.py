"""Kernels as objects: compiled for what they are called with, launched, explained, run as plain Python."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from qpu.core.isa import Isa
from qpu.errors import CompileError, UsageError
from qpu.lang.compile import Parameter, parameters, to_kir
from qpu.lang.compiled import Compiled, KernelRun
from qpu.lang.source import Source

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = ["Compiled", "Kernel", "KernelRun", "kernel"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Knobs that change how a kernel runs, not what it computes (but for `reassociate`)."""

    coarsen: int | None = None
    threads: int | str = "auto"
    unroll: int = 1
    stream: str = "auto"
    march: str | None = None
    reassociate: bool = False


class Kernel:
    """A function in the kernel language. Calling it launches it and waits; `submit` returns at once."""

    __qpu_kernel__ = True

    def __init__(self, fn: Callable[..., None], schedule: Schedule, source: Source | None = None) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.schedule = schedule
        self._source = source
        self._rows: list[Parameter] | None = None
        self._compiled: dict[tuple[object, ...], Compiled] = {}

    # -- what it is

    @classmethod
    def from_source(cls, text: str, name: str | None = None, **schedule: Any) -> Kernel:
        """A kernel from the text of a module that defines it (the last function, or the one called `name`)."""
        file = f"<kernel {abs(hash(text)):x}>"
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        names: dict[str, Any] = {}
        exec(compile(text, file, "exec", dont_inherit=True), names)
        found = [v for k, v in names.items() if callable(v) and getattr(v, "__code__", None) and (name in (None, k))]
        kernels = [v for v in names.values() if isinstance(v, Kernel) and (name in (None, v.fn.__name__))]
        if kernels:
            return kernels[-1]
        if not found:
            raise UsageError(f"the text defines no function {name or ''}".rstrip())
        return cls(found[-1], Schedule(**schedule))

    @property
    def source(self) -> Source:
        """The kernel's source. Raises: CompileError (lang-source)."""
        if self._source is None:
            self._source = Source.of(self.fn)
        return self._source

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters behind the Grid or Team. Raises: CompileError."""
        if self._rows is None:
            self._rows = parameters(self.source)
        return self._rows[1:]

    @property
    def team(self) -> bool:
        """Whether it is a Team kernel."""
        _ = self.parameters
        assert self._rows is not None
        return self._rows[0].type == "Team"

    def __repr__(self) -> str:
        return f"<kernel {self.fn.__name__}>"

    # -- compiling

    def compile(self, isa: str | Isa, **consts: Any) -> Compiled:
        """The kernel for an instruction set, without a device. consts: values of `Const` parameters.

        Raises: CompileError, UsageError.
        """
        which = Isa(isa)
        for row in self.parameters:
            if row.kind == "const" and row.name not in consts:
                if not row.has_default:
                    raise UsageError(f"{self.fn.__name__}: the Const parameter {row.name!r} has no value")
                consts[row.name] = row.default
        key = (which, tuple(sorted((k, repr(v)) for k, v in consts.items())))
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._make(which, consts)
        return found

    def _make(self, isa: Isa, consts: dict[str, Any]) -> Compiled:
        from qpu.lang.backend_v3d import compile_v3d
        from qpu.lang.backend_vc4 import compile_vc4
        from qpu.program import Program

        coarsen = self.schedule.coarsen or (1 if self.team else 4)
        while True:
            layout = "quad" if coarsen == 4 and isa is not Isa.VC4 else "row"
            try:
                kir = to_kir(self.source, str(isa), consts, coarsen=coarsen, layout=layout)
                laid = compile_vc4(kir) if isa is Isa.VC4 else compile_v3d(kir, isa)
            except CompileError as error:
                if coarsen == 1 or error.diagnostics[0].rule != "lang-reg":
                    raise
                coarsen //= 2
                continue
            return Compiled(isa, Program.of(laid.code), kir, laid, 2)

    # -- launching

    def __call__(self, *args: Any, **keywords: Any) -> KernelRun:
        """Launch and wait. Arrays are buffers of one device. Raises: UsageError before anything is submitted."""
        return self.submit(*args, **keywords).wait()

    def submit(self, *args: Any, **keywords: Any) -> KernelRun:
        """Launch and return at once."""
        from qpu.lang.launch import launch

        return launch(self, None, None, args, keywords)

    def on(self, gpu: Device, *, workers: int | None = None) -> Callable[..., KernelRun]:
        """The kernel on a device, with so many workers."""
        from qpu.lang.launch import launch

        return lambda *args, **keywords: launch(self, gpu, workers, args, keywords).wait()

    # -- elsewhere

    def python(self, *args: Any, workers: int = 1, isa: str = "v3d71") -> None:
        """Run the function as plain Python, lane by lane, on ndarrays. pdb and `print` work."""
        from qpu.lang import lanes

        found = lanes.views(self.parameters, args)
        if self.team:
            lanes.run_team(self.fn, found, workers, isa)
        else:
            lanes.run_grid(self.fn, found, isa)


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
def kernel(fn: Callable[..., None] | None = None, **schedule: Any) -> Kernel | Callable[[Callable[..., None]], Kernel]:
    """Make a kernel of a function whose first parameter is a Grid or Team."""
    if fn is not None:
        return Kernel(fn, Schedule())
    return lambda f: Kernel(f, Schedule(**schedule))
