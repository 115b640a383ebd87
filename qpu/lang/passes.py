"""A check of the compiler by execution: what each pass made is run by the interpreters, and has to give the same.

`QPU_LANG_VERIFY=1` does it at every launch, on copies of the arguments, before the program runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.errors import EmuFault
from qpu.lang.array_lanes import ArrayLanes
from qpu.lang.compiled import Compiled
from qpu.lang.interp import Interpreter
from qpu.lang.interp_mir import Machine
from qpu.lang.interp_v3d import V3d42Machine, V3d71Machine
from qpu.lang.interp_vc4 import Vc4Machine
from qpu.lang.kir import Region, walk
from qpu.lang.meaning import meanings
from qpu.lang.mir import Fixed, Function, copied
from qpu.lang.space import Space
from qpu.lang.verify import verify_kir
from qpu.lang.verify_mir import verify_mir
from qpu.lang.watch import watching

__all__ = ["Arrays", "PassError", "Stage", "check", "outcome", "stages"]

_MACHINES: Final[Mapping[Isa, type[Machine]]] = {
    Isa.VC4: Vc4Machine,
    Isa.V3D42: V3d42Machine,
    Isa.V3D71: V3d71Machine,
}
CAPACITY: Final = 8  # result words that may be pending, of the chip that has most room
MEMORY: Final = 1 << 16  # bytes of a Team's shared memory


class PassError(AssertionError):
    """A pass of the compiler changed what a kernel does."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a pass made; colour: places of its registers."""

    name: str
    made: Region | Function
    colour: Mapping[int, Fixed] | None


@dataclass(frozen=True, slots=True)
class Arrays:
    """The arguments of a launch. arrays: name, bytes and the last bits of the address, in the order of the parameters;
    numbers: everything else, by name.
    """

    arrays: Sequence[tuple[str, NDArray[np.uint8], int]]
    numbers: Mapping[str, int]


def stages(compile: Callable[[], Compiled], only: Collection[str] | None = None) -> tuple[Compiled, list[Stage]]:
    """One compilation, and what each of its passes made, of several attempts the last one. only: names of the passes
    that matter. Raises: CompileError.
    """
    found: dict[str, Stage] = {}

    def seen(name: str, made: Region | Function, colour: Mapping[int, Fixed] | None) -> None:
        if only is not None and name not in only:
            return
        if isinstance(made, Function):
            made = copied(made)
            verify_mir(made, CAPACITY)
        else:
            verify_kir(made)
        found.pop(name, None)
        found[name] = Stage(name, made, None if colour is None else dict(colour))

    with watching(seen):
        compiled = compile()
    return compiled, list(found.values())


def outcome(
    stage: Stage, isa: Isa, given: Arrays, workers: int, *, rows: int = 4, scratch: int = 0, lanes: Any = None
) -> list[NDArray[np.uint8]]:
    """The arrays after a stage has run. rows, scratch: that each worker needs. Raises: EmuFault, MirFault."""
    space, numbers = Space(), dict(given.numbers)
    places = []
    for name, content, phase in given.arrays:
        address = space.add(content, phase)
        numbers[f"{name}.base"] = address + numbers.get(f"{name}.base", 0)
        places.append((address, len(content)))
    lanes = lanes or ArrayLanes()
    if isinstance(stage.made, Region):
        numbers["%shared"] = 0
        memory = [space.data] * max(len(given.arrays), 1)
        run = Interpreter(stage.made, numbers, memory, workers, lanes, meanings(isa), single=isa is Isa.VC4)
        run.run()
    else:
        numbers["%shared"] = space.add(np.zeros(MEMORY, np.uint8))
        numbers["%scratch"] = space.add(np.zeros(scratch * workers, np.uint8))
        _MACHINES[isa](stage.made, numbers, workers, space, lanes, stage.colour, rows).run()
    return [space.data[at : at + size] for at, size in places]


def check(
    compiled: Compiled, made: list[Stage], given: Arrays, workers: int, types: Sequence[Any], lanes: Any = None
) -> list[str]:
    """Run every pass's result (`stages`). types: dtypes of the arrays. Returns: names of the passes.

    Results that depend on the order of atomic operations are not compared. Raises: PassError that names the first
    pass whose result differs or fails.
    """
    want: list[Any] | None = None
    free = any(_free(stage.made) for stage in made if isinstance(stage.made, Region))
    for stage in made:
        if isinstance(stage.made, Region) and any(v.op == "lock" for v in walk(stage.made)):
            continue  # there, workers run in step, whatever a mutex says
        try:
            found = outcome(
                stage, compiled.isa, given, workers, rows=compiled.rows, scratch=compiled.scratch, lanes=lanes
            )
        except (AssertionError, EmuFault, LookupError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise PassError(f"{compiled.name} for {compiled.isa.label}, after {stage.name}: {what}") from error
        bits = [_bits(a, np.dtype(t)) for a, t in zip(found, types, strict=True)]
        want = want or bits
        for (name, _, _), a, b in zip(given.arrays, want, bits, strict=True):
            if not (free or np.array_equal(a, b)):
                at = np.flatnonzero(a != b)[:5]
                what = f"{name} differs at elements {at.tolist()}: {b[at]} instead of {a[at]}"
                raise PassError(f"{compiled.name} for {compiled.isa.label}, after {stage.name}: {what}")
    return [stage.name for stage in made]


def _free(region: Region) -> bool:
    """Whether the order in which workers come to an atomic operation shows in the result."""
    ops = list(walk(region))
    used = {id(a) for v in ops for a in (*v.args, *getattr(v.attr, "yields", ()))}
    return any(v.op == "atomic" and (id(v) in used or v.type == "f") for v in ops)


def _bits(content: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Elements as patterns; all NaN are one."""
    if dtype.kind == "c":
        dtype = np.dtype(np.float32)
    values: NDArray[Any] = content[: len(content) // dtype.itemsize * dtype.itemsize].copy().view(dtype)
    if dtype.kind != "f":
        return values
    return np.where(np.isnan(values), np.array(np.nan, dtype), values).view(f"u{dtype.itemsize}")
