"""The typed builders of V3D 4.2 and 7.1, as programs import them.

A program is a function whose first parameter is the builder::

    def scale(q: Asm71) -> None:
        x = q.rf[1]
        q.nop(sig=q.ldunifrf(x))
        q.fadd(x, x, 1.0).fmul(q.rf[2], x, x)  # dual issue: add half, mul half

    program = assemble(Isa.V3D71, scale)

A method of the add ALU returns the free mul half of its instruction, on which one mul operation can be chained. Every
operation takes ``cond``, ``push``, ``update`` and ``sig``. Errors are reported together, each at the user's line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from qpu.core.builder import run
from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.core.lazy import lazy
from qpu.core.locations import LAYERS

if TYPE_CHECKING:
    from qpu.v3d.generated.asm42 import Asm42
    from qpu.v3d.generated.asm71 import Asm71
    from qpu.v3d.generated.common import Asm

__all__ = ["Asm", "Asm42", "Asm71", "assemble"]

# each builder is imported on first use
__getattr__, __dir__ = lazy("qpu.v3d.generated", {"common": "Asm", "asm42": "Asm42", "asm71": "Asm71"})


def assemble(
    isa: Isa, fn: Callable[..., None], *args: object, check: bool = True, single_segment: bool = False
) -> Code:
    """Run the builder function ``fn(q, *args)`` and return its program.

    check: apply the hazard rules; findings of severity error raise HazardError. single_segment: the launch mode that
    the program is for.
    Raises: AsmError with every diagnostic of the program; HazardError with every broken rule.
    """
    q = cast(Any, __getattr__("Asm71" if isa is Isa.V3D71 else "Asm42"))()
    words, labels, places = run(q, fn, *args)._words()
    code = Code(isa, tuple(words), labels, places, uniforms=q._uniforms)
    if check:
        from qpu.core.hazards import raise_errors
        from qpu.v3d.hazards import check as find

        raise_errors(find(isa, words, single_segment=single_segment), code)
    return code


LAYERS.add(__file__)
