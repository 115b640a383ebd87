"""The typed builders of V3D 4.2 and 7.1.

A program is a function whose first parameter is the builder::

    def scale(q: Asm71) -> None:
        x = q.rf[1]
        q.nop(sig=q.ldunifrf(x))
        q.fadd(x, x, 1.0).fmul(q.rf[2], x, x)  # dual issue: add half, mul half

    program = assemble(Isa.V3D71, scale)

Operations of the add ALU return the free mul half, on which one mul operation can be chained. Every operation takes
``cond``, ``push``, ``update`` and ``sig``. Errors are reported together, each at the user's line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.v3d.operands import LAYERS

if TYPE_CHECKING:
    from qpu.v3d.asm42 import Asm42
    from qpu.v3d.asm71 import Asm71

__all__ = ["Asm42", "Asm71", "assemble"]

LAYERS.add(__file__)


def __getattr__(name: str) -> object:
    # each builder is loaded when it is used
    if name == "Asm42":
        from qpu.v3d.asm42 import Asm42

        return Asm42
    if name == "Asm71":
        from qpu.v3d.asm71 import Asm71

        return Asm71
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _builder(isa: Isa) -> Asm42 | Asm71:
    if isa is Isa.V3D71:
        from qpu.v3d.asm71 import Asm71

        return Asm71()
    from qpu.v3d.asm42 import Asm42

    return Asm42()


def assemble(
    isa: Isa,
    fn: Callable[..., None],
    *args: object,
    check: bool = True,
    single_segment: bool = False,
) -> Code:
    """Run the builder function ``fn(q, *args)`` and return its program.

    check: apply the validity rules; findings of severity error raise. single_segment: the launch
    mode the program is for.
    Raises: AsmError with every diagnostic of the program; HazardError with every broken rule.
    """
    q = _builder(isa)
    fn(q, *args)
    words, labels, locs = q._finish()
    program = Code(isa, tuple(words), labels, locs)
    if check:
        from qpu.core.hazards import raise_errors
        from qpu.v3d.hazards import check as find

        raise_errors(find(isa, words, single_segment=single_segment), program)
    return program
