"""What a kernel becomes: a compiled kernel, a launch that runs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qpu.core.isa import Isa
from qpu.lang.compile import KernelIR
from qpu.lang.layout import Laid

if TYPE_CHECKING:
    from qpu.launch import Launch

__all__ = ["TEAM", "Compiled", "KernelRun"]

TEAM = 64
"""Workers of a Team launch where nothing says how many: the same on every board, and so are the results."""


@dataclass(slots=True)
class Compiled:
    """A kernel for one instruction set. program: the instructions; kir: what they were made from; laid: the list of
    uniforms beside them; threads: on a QPU (V3D).
    """

    isa: Isa
    program: Any
    kir: KernelIR
    laid: Laid
    threads: int

    def explain(self) -> str:
        """Instructions by source line."""
        lines: dict[int, int] = {}
        for i in range(len(self.program)):
            loc = self.program.loc(i)
            if loc is not None:
                lines[loc.line] = lines.get(loc.line, 0) + 1
        source = self.kir
        rows = [
            f"{source.name} on {self.isa.label}: {len(self.program)} instructions, {len(self.laid.uniforms)} uniforms"
        ]
        rows += [f"  line {line:5}: {count:4} instructions" for line, count in sorted(lines.items())]
        return "\n".join(rows)


class KernelRun:
    """A launched kernel: `wait`, or await it."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.launches = tuple(launches)

    def wait(self, timeout_s: float | None = None) -> KernelRun:
        """Wait for the end; again is fine. Raises: what the launches raise."""
        for launch in self.launches:
            launch.wait(timeout_s)
        return self

    @property
    def stats(self) -> Any:
        """Statistics of the launch on an emulated board; None on a real one, or where nothing was launched."""
        return self.launches[-1].stats if self.launches else None

    def __await__(self) -> Generator[Any, None, KernelRun]:
        for launch in self.launches:
            yield from launch.__await__()
        return self
