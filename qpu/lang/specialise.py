"""One compilation: a kernel's source, for the types, constants and knobs of one launch, to a `Compiled`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qpu.core import collector
from qpu.core.isa import Isa
from qpu.core.recursion import deep
from qpu.errors import CompileError, Diagnostic, Loc
from qpu.lang.compile import KernelIR, to_kir
from qpu.lang.compiled import Compiled
from qpu.lang.front import internal_error
from qpu.lang.kir import walk
from qpu.lang.layout import Laid
from qpu.lang.schedule import Schedule
from qpu.lang.source import Source
from qpu.program import Program

__all__ = ["Special", "compile_ir", "specialise"]


@dataclass(frozen=True, slots=True)
class Special:
    """What a compiled kernel is made for. wide: for each array, whether it and its rows begin at multiples of 16 bytes;
    check: clamp the accesses that the launch does not check; coarsen: at most so much; strided: for each array, whether
    the elements of a row are not neighbours (empty: none); words: for each array, whether it has narrow elements and it
    and its rows begin at multiples of 4 bytes (empty: none).
    """

    isa: Isa
    consts: tuple[tuple[str, Any], ...]
    schedule: Schedule
    wide: tuple[bool, ...]
    check: bool = False
    coarsen: int = 8
    strided: tuple[bool, ...] = ()
    words: tuple[bool, ...] = ()

    def with_schedule(self, schedule: Schedule) -> Special:
        """The same with other knobs."""
        return replace(self, schedule=schedule)


THREADS = 2  # on a QPU of V3D: more registers for each
AUTO = 4  # vectors that a turn of the main loop takes where the kernel has no loop of its own


def specialise(source: Source, team: bool, special: Special) -> Compiled:
    """Compile. Raises: CompileError with every finding."""
    with collector.paused():  # a tenth of the time
        return _specialise(source, team, special)


def _specialise(source: Source, team: bool, special: Special) -> Compiled:
    def evaluated(coarsen: int, layout: str) -> KernelIR:
        return to_kir(
            source,
            str(special.isa),
            dict(special.consts),
            coarsen=coarsen,
            layout=layout,
            check=special.check,
            unroll=special.schedule.unroll,
            strided=special.strided,
            march=special.schedule.march,
            regroup=special.schedule.reassociate,
        )

    return compile_ir(evaluated, special, team, source.loc(source.tree), lambda: specialise(source, team, special))


def compile_ir(
    evaluated: Callable[[int, str], KernelIR], special: Special, team: bool, loc: Loc, remake: Callable[[], Compiled]
) -> Compiled:
    """Compile what evaluated(coarsen, layout) gives: with fewer items at once where registers run out.

    loc: the place of errors of the compiler itself. Raises: CompileError.
    """
    return deep(lambda: _compile_ir(evaluated, special, team, loc, remake))


def _compile_ir(
    evaluated: Callable[[int, str], KernelIR], special: Special, team: bool, loc: Loc, remake: Callable[[], Compiled]
) -> Compiled:
    schedule, isa = special.schedule, special.isa
    auto = schedule.coarsen is None
    coarsen = min(1 if team else schedule.coarsen or AUTO, special.coarsen)
    spill = False
    while True:
        quads = isa is not Isa.VC4 or (schedule.march == "y" and any(special.words))
        layout = "quad" if coarsen == 4 and quads else "row"
        ir = evaluated(coarsen, layout)
        if auto and coarsen > 1 and _has_loops(ir):
            coarsen = 1
            continue
        try:
            laid = _lower(ir, special, spill)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            place = Diagnostic("lang-internal", f"the compiler itself failed, for {isa.label}", loc=loc)
            raise internal_error(place, error) from error
        except CompileError as error:
            if spill or error.diagnostics[0].rule != "lang-reg":
                raise
            spill, coarsen = coarsen == 1, max(1, coarsen // 2)
            continue
        return _compiled(team, special, ir, laid, remake)


def _has_loops(ir: KernelIR) -> bool:
    """Whether the items have loops of their own: several items at once would make one loop after another."""
    axes = len(ir.extent) if ir.extent else 1
    return any(loop.depth > (1 if axes == 1 else 2) for loop in ir.loops)


def _lower(ir: KernelIR, special: Special, spill: bool) -> Laid:
    words = frozenset(n for n, aligned in enumerate(special.words) if aligned)
    if special.isa is Isa.VC4:
        from qpu.lang.backend_vc4 import compile_vc4

        return compile_vc4(ir, words=words, spill=spill, stream=special.schedule.stream)
    from qpu.lang.backend_v3d import compile_v3d

    wide = frozenset(n for n, aligned in enumerate(special.wide) if aligned or special.isa is Isa.V3D71)
    stream = special.schedule.stream
    threads = special.schedule.threads if isinstance(special.schedule.threads, int) else THREADS
    return compile_v3d(ir, special.isa, threads=threads, wide=wide, words=words, spill=spill, stream=stream)


def _compiled(team: bool, special: Special, ir: KernelIR, laid: Laid, remake: Callable[[], Compiled]) -> Compiled:
    return Compiled(
        name=ir.name,
        isa=special.isa,
        program=Program.of(laid.code),
        uniforms=laid.uniforms,
        threads=laid.threads,
        coarsen=ir.coarsen,
        team=team,
        resident=any(v.op == "barrier" for v in walk(ir.region)),
        shared=ir.shared,
        scratch=laid.scratch,
        rows=laid.rows,
        accesses=ir.accesses,
        extent=ir.extent,
        march=special.schedule.march == "y",
        notes=ir.notes,
        made=(ir, laid),
        remake=remake,
    )
