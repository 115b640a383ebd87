"""A kernel for one instruction set: its program, the list of uniforms beside it, and what launches and reports need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakMethod

from qpu.core.isa import Isa
from qpu.core.results import RESULTS, Result
from qpu.errors import Diagnostic, Loc, counted
from qpu.lang.bounds import Access, Expr
from qpu.lang.report import Report, report, text_of
from qpu.program import Program

if TYPE_CHECKING:
    from qpu.lang.compile import KernelIR
    from qpu.lang.layout import Laid
    from qpu.lang.mir import Function

__all__ = ["TEAM", "Compiled"]

TEAM = 64
"""Workers of a Team launch where nothing says how many: the same on every board, and so are the results."""


class Compiled:
    """A kernel for one instruction set.

    program: the instructions; uniforms: what each word of the uniform list holds; threads: on a QPU (V3D); accesses,
    extent: what a launch checks and counts; march: whether workers take columns, not rows; notes: what costs; resident:
    all workers must run at once; shared: bytes of memory of the team; scratch: bytes of memory that each worker needs;
    rows: rows of the VPM that it needs; team: whether it is a Team kernel.
    """

    __slots__ = (
        "__weakref__", "_made", "_remake", "_report", "accesses", "coarsen", "extent", "isa", "march", "name", "notes",
        "program", "resident", "rows", "scratch", "shared", "team", "threads", "uniforms",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        isa: Isa,
        program: Program,
        uniforms: Sequence[tuple[str, object]],
        threads: int,
        coarsen: int,
        team: bool,
        resident: bool,
        shared: int,
        scratch: int,
        rows: int,
        accesses: Sequence[Access],
        extent: list[Expr] | None,
        march: bool,
        notes: Sequence[Diagnostic],
        made: tuple[KernelIR, Laid] | None,
        remake: Callable[[], Compiled],
    ) -> None:
        self.name, self.isa, self.program = name, isa, program
        self.uniforms = tuple(uniforms)
        self.threads, self.coarsen, self.team, self.resident = threads, coarsen, team, resident
        self.shared, self.scratch, self.rows = shared, scratch, rows
        self.accesses, self.extent, self.march, self.notes = tuple(accesses), extent, march, tuple(notes)
        self._report: Report | None = None
        self._made = made
        self._remake = remake
        results = WeakMethod(self.results)
        RESULTS[program] = lambda: () if (found := results()) is None else found()

    def remake(self) -> Compiled:
        """The same, compiled again."""
        return self._remake()

    def _passes(self) -> tuple[KernelIR, Laid]:
        if self._made is None:  # from a cache: what it was made from is made again
            self._made = self.remake()._passes()
        return self._made

    @property
    def kir(self) -> KernelIR:
        """The kernel in the representation that all instruction sets share."""
        return self._passes()[0]

    @property
    def mir(self) -> Function:
        """The operations of the instruction set, by block, before registers were given out."""
        function = self._passes()[1].function
        assert function is not None
        return function

    @property
    def report(self) -> Report:
        """Instructions of each loop, registers, bytes."""
        if self._report is None:
            self._report = report(self.isa, self._passes()[1], self.kir)
        return self._report

    def results(self) -> Sequence[Result]:
        """The registers that instructions write, with the places of what they compute."""
        return self._passes()[1].results

    @property
    def words(self) -> tuple[int, ...]:
        """The instructions as 64-bit words."""
        return self.program.code

    def loc(self, index: int) -> Loc | None:
        """The source place of an instruction."""
        return self.program.loc(index)

    def explain(self) -> str:
        """Instructions by source line, registers, bytes, and what bounds each loop."""
        return text_of(self.name, self.isa, self.program, self.report, self.notes)

    def __repr__(self) -> str:
        return f"<{self.name} for {self.isa.label}: {counted(len(self.program), 'instruction')}>"
