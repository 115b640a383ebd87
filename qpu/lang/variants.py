"""Variants: what runs on an instruction set instead of a compiled kernel, such as an assembly program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.launch import Run

if TYPE_CHECKING:
    from qpu.device import Device
    from qpu.lang.compile import Parameter
    from qpu.program import Program

__all__ = ["Variant", "register"]


class Family(Protocol):
    """A kernel that has variants."""

    variants: dict[Isa, dict[str, Variant]]

    @property
    def fn(self) -> Callable[..., None]: ...
    @property
    def parameters(self) -> list[Parameter]: ...


@dataclass(eq=False)
class Variant:
    """One variant. made: another kernel, or a builder function; plan(device, args) -> (uniforms, launch keywords)."""

    name: str
    isa: Isa
    made: Any
    plan: Callable[..., Any] | None

    @cached_property
    def program(self) -> Program:
        """The assembled builder."""
        from qpu.instruction_sets import assemble

        return assemble(self.made, isa=self.isa)

    def portable(self) -> tuple[str, str, Any, Any]:
        """Instruction set, name, kernel or builder, plan, as they are pickled: functions as their source."""
        made, plan = (_rows(x) for x in (self.made, self.plan))
        return str(self.isa), self.name, made, plan

    def launch(self, gpu: Device, args: Mapping[str, Any], wait: bool) -> Run:
        """Launch it. Raises: UsageError."""
        if self.plan is None:
            bound = self.made.on(gpu)
            run: Run = bound(**args) if wait else bound.submit(**args)
            return run
        uniforms, keywords = self.plan(gpu, args)
        start = gpu.run if wait else gpu.submit
        return Run((start(self.program, uniforms, **keywords),))


def _rows(made: Any) -> Any:
    """A function by its source; a kernel is pickled by itself."""
    if made is None or getattr(made, "__qpu_kernel__", False):
        return made
    from qpu.lang.source import Source
    from qpu.lang.travel import take

    return take(Source.of(made), [])[0]


def register(family: Family, isa: str | Isa, name: str | None, plan: Callable[..., Any] | None) -> Callable[[Any], Any]:
    """The decorator that `Kernel.variant` gives."""
    try:
        which = Isa(isa)
    except ValueError:
        raise UsageError(f"isa = {isa!r}", help=f"allowed: {', '.join(Isa)}") from None

    def decorate(made: Any) -> Any:
        title = name if name is not None else str(getattr(made, "__name__", "variant"))
        if title == "compiled":
            raise UsageError("'compiled' names the compiled kernel", help="another name for the variant")
        if getattr(made, "__qpu_kernel__", False):
            ours, theirs = ([(p.name, p.kind, p.type, p.mode, p.rank) for p in k.parameters] for k in (family, made))
            if ours != theirs:
                raise UsageError(
                    f"{title} has other parameters than {family.fn.__name__}",
                    help=f"the same: {', '.join(p[0] for p in ours)}, with the same types",
                )
            if plan is not None:
                raise UsageError(f"{title} is a kernel and needs no plan", help="leave plan= out")
        elif not callable(made):
            raise UsageError(f"a variant is {made!r}", help="a kernel, or a builder function with plan=")
        elif plan is None:
            raise UsageError(
                f"{title} is a builder function and has no plan",
                help="plan=f, f(device, args) -> (uniforms, launch keywords)",
            )
        family.variants.setdefault(which, {})[title] = Variant(title, which, made, plan)
        return made

    return decorate
