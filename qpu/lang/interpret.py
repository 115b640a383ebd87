"""`Kernel.interpret`: the KIR interpreter on the user's ndarrays.

Operations mean what they mean on the instruction set, one lane after another: slow, exact, and without the emulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.core.isa import Isa
from qpu.core.recursion import deep
from qpu.core.scalar_lanes import float_bits
from qpu.lang.array_lanes import ArrayLanes
from qpu.lang.bounds import room_of_workers
from qpu.lang.compile import to_kir
from qpu.lang.compiled import TEAM
from qpu.lang.interp import Interpreter
from qpu.lang.legalise import legalise
from qpu.lang.legalise_vc4 import legalise_vc4
from qpu.lang.meaning import meanings

if TYPE_CHECKING:
    from qpu.lang.compile import KernelIR, Parameter
    from qpu.lang.source import Source

__all__ = ["interpret"]

FEW = 4  # workers of a Grid


def interpret(k: Any, args: Sequence[Any], workers: int | None, isa: str) -> None:
    """Run a kernel's KIR on ndarrays, which are changed in place. Raises: CompileError, UsageError, EmuFault."""
    source: Source = k.source
    rows: list[Parameter] = k.parameters
    params: dict[str, int] = {"%shared": 0}
    memory: list[Any] = []
    names: list[str] = []
    consts: dict[str, Any] = {}
    apart: list[tuple[Any, Any]] = []  # arrays whose elements are not neighbours, and copies of them
    for row, value in zip(rows, args, strict=True):
        if row.kind == "const":
            consts[row.name] = value
        elif row.kind == "scalar":
            params[row.name] = float_bits(float(value)) if row.type == "f32" else int(value) & 0xFFFFFFFF
        else:
            array = value
            if not array.flags.c_contiguous:
                whole = np.ascontiguousarray(array)
                apart.append((array, whole))
                array = whole
            params[f"{row.name}.base"] = 0
            for axis, (n, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
                params[f"{row.name}.shape{axis}"], params[f"{row.name}.stride{axis}"] = n, stride
            memory.append(array.reshape(-1).view(np.uint8))
            names.append(row.name)
    which = Isa(isa)
    ir = deep(lambda: to_kir(source, str(which), consts, coarsen=1))
    count = workers or _as_launched(ir, params)
    if not count:
        return
    region, vc4 = ir.region, which is Isa.VC4
    if vc4:  # sums, conversions and stores as that chip does them
        region = legalise_vc4(legalise(region, str(which)), names, inputs=ir.inputs, atomics=False)
    Interpreter(region, params, memory, count, ArrayLanes(), meanings(which), names=names, single=vc4).run()
    for array, whole in apart:
        if array.flags.writeable:
            array[...] = whole


def _as_launched(ir: KernelIR, params: dict[str, int]) -> int:
    """As many workers as a launch has; results of a Grid do not depend on them."""
    if not ir.team:
        return FEW
    size = room_of_workers(ir.accesses)
    return TEAM if size is None else params[size]
