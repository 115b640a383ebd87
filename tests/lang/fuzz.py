"""Generated kernels through every stage: plain Python, the KIR interpreter, and a board."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.device import Device
from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.lang import Kernel, PerformanceNote, passes
from qpu.lang.compiled import Compiled
from qpu.lang.interp import Interpreter
from qpu.lang.launch import compiled_for
from qpu.lang.meaning import meanings
from tests.lang.generate import WORKERS, Arguments, arguments, kernel_of_any_kind
from tests.lang.rig import launch_values

__all__ = ["Case", "Placed", "case_of"]

COARSEN = (1, 1, 1, 1, 1, 1, 1, 2, 2, 4)
FEW = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 4)  # of small ones
LENGTHS = (0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 129)


@dataclass(frozen=True, slots=True)
class Case:
    """One generated kernel with arguments. plain: what it writes as plain Python, as far as that was asked for."""

    seed: int
    text: str
    kernel: Kernel
    arguments: Arguments
    plain: dict[bool, list[NDArray[Any]]] = field(default_factory=dict)

    def fresh(self) -> dict[str, Any]:
        """The arguments, arrays copied."""
        return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in self.arguments.values.items()}

    def outputs(self, values: dict[str, Any]) -> list[NDArray[Any]]:
        """What the kernel wrote, as bits."""
        return [bits(values[name]) for name in self.arguments.outputs]

    def python(self, isa: Isa = Isa.V3D71) -> list[NDArray[Any]]:
        """As plain Python, once: only the items of a Team come to lanes as the chip has them."""
        key = isa is Isa.VC4 and self.arguments.kind == "team"
        if key not in self.plain:
            values = self.fresh()
            with np.errstate(all="ignore"):
                self.kernel.python(*values.values(), workers=WORKERS, isa=str(isa))
            self.plain[key] = self.outputs(values)
        return self.plain[key]

    def interpreted(self, compiled: Compiled, *, ieee: bool = False) -> list[NDArray[Any]]:
        """By the KIR interpreter. ieee: as V3D computes, whatever the instruction set."""
        values = self.fresh()
        params, memory, names = launch_values(compiled.kir, values)
        means = meanings(Isa.V3D71 if ieee else compiled.isa)
        workers = max(WORKERS, compiled.coarsen)  # each takes one vector of the rest
        Interpreter(compiled.kir.region, params, memory, workers, NumpyLanes(), means, names=names).run()
        return self.outputs(values)

    def checked(self, compiled: Compiled, made: list[passes.Stage]) -> None:
        """Execute what passes of the compilation made. Raises: PassError."""
        values = self.fresh()
        params, memory, names = launch_values(compiled.kir, values)
        arrays = passes.Arrays([(n, m, 0) for n, m in zip(names, memory, strict=True)], params)
        types = [values[n].dtype for n in names]
        passes.check(compiled, made, arrays, max(WORKERS, compiled.coarsen), types, NumpyLanes())

    def on(self, gpu: Device) -> Placed:
        """The arguments on a board, to be launched there once."""
        held = {k: gpu.array(v) if isinstance(v, np.ndarray) else v for k, v in self.fresh().items()}
        return Placed(self, gpu, held)

    def launched(self, gpu: Device) -> list[NDArray[Any]]:
        """On a board, whose program breaks no rule."""
        placed = self.on(gpu)
        assert placed.compiled().program.check() == []
        return placed.launched()


@dataclass(frozen=True, slots=True)
class Placed:
    """A case on a board."""

    case: Case
    gpu: Device
    held: dict[str, Any]

    def compiled(self) -> Compiled:
        """The program of the launch; compiled once a kernel, instruction set and places of arrays."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PerformanceNote)
            return compiled_for(self.case.kernel, self.gpu, (None, None, False), list(self.held.values()), {})

    def launched(self) -> list[NDArray[Any]]:
        """What a launch writes."""
        self.case.kernel.on(self.gpu)(*self.held.values())
        return [bits(self.held[name].numpy()) for name in self.case.arguments.outputs]


def bits(a: NDArray[Any]) -> NDArray[Any]:
    """An array's patterns; all NaN are one."""
    if a.dtype.kind != "f":
        return a
    kind = np.dtype(f"u{a.dtype.itemsize}")
    return np.where(np.isnan(a), np.array(np.nan, a.dtype).view(kind), np.ascontiguousarray(a).view(kind))


def case_of(seed: int, *, small: int | bool = False, loads: bool = False, every: bool = False) -> Case:
    """The case of a seed. small: a kernel of few statements (a number: about so many, True: three at most); loads: that
    reads further arrays even so; every: whose results need each row of selection once in three seeds.
    """
    text, kind = kernel_of_any_kind(seed, small=small, loads=loads, every=every)
    r = random.Random(seed * 7 + 1)
    kernel = Kernel.from_source(text, "generated", coarsen=r.choice(FEW if small else COARSEN))
    return Case(seed, text, kernel, arguments(kind, r.choice(LENGTHS), seed, loads=loads or not small))
