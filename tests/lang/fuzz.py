"""Generated kernels through every stage: plain Python, the KIR interpreter, and a board."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
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

__all__ = ["Case", "case_of"]

COARSEN = (1, 1, 1, 1, 1, 1, 1, 2, 2, 4)
LENGTHS = (0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 129)


@dataclass(frozen=True, slots=True)
class Case:
    """One generated kernel with arguments. arrays: by name; outputs: those that it writes."""

    seed: int
    text: str
    kernel: Kernel
    arguments: Arguments

    def fresh(self) -> dict[str, Any]:
        """The arguments, arrays copied."""
        return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in self.arguments.values.items()}

    def outputs(self, values: dict[str, Any]) -> list[NDArray[Any]]:
        """What the kernel wrote, as bits."""
        return [bits(values[name]) for name in self.arguments.outputs]

    def python(self, isa: Isa = Isa.V3D71) -> list[NDArray[Any]]:
        """As plain Python."""
        values = self.fresh()
        with np.errstate(all="ignore"):
            self.kernel.python(*values.values(), workers=WORKERS, isa=str(isa))
        return self.outputs(values)

    def interpreted(self, isa: Isa, *, ieee: bool = False) -> list[NDArray[Any]]:
        """By the KIR interpreter. ieee: as V3D computes, whatever the instruction set."""
        values = self.fresh()
        ir = self.kernel.compile(isa).kir
        params, memory, names = launch_values(ir, values)
        means = meanings(Isa.V3D71 if ieee else isa)
        workers = max(WORKERS, ir.coarsen)  # each takes one vector of the rest
        Interpreter(ir.region, params, memory, workers, NumpyLanes(), means, names=names).run()
        return self.outputs(values)

    def checked(
        self, isa: Isa, found: tuple[Compiled, list[passes.Stage]] | None = None, *, brief: bool = False
    ) -> list[str]:
        """Execute what each pass of the first compilation, or `found`, made; brief: the first one and the last two.
        Returns: names of the passes.
        """
        compiled, made = found or passes.stages(lambda: self.kernel.compile(isa))
        passed = [stage.name for stage in made]
        found = compiled, [made[0], *made[-2:]] if brief else made
        values = self.fresh()
        params, memory, names = launch_values(compiled.kir, values)
        arrays = passes.Arrays([(n, m, 0) for n, m in zip(names, memory, strict=True)], params)
        types = [values[n].dtype for n in names]
        passes.check(*found, arrays, max(WORKERS, compiled.coarsen), types, NumpyLanes())
        return passed

    def launched(self, gpu: Device) -> list[NDArray[Any]]:
        """On a board, whose program breaks no rule."""
        values = self.fresh()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PerformanceNote)
            held = {k: gpu.array(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
            made = compiled_for(self.kernel, gpu, (None, None, False), list(held.values()), {})
            assert made.program.check() == []
            self.kernel.on(gpu)(*held.values())
        return [bits(held[name].numpy()) for name in self.arguments.outputs]


def bits(a: NDArray[Any]) -> NDArray[Any]:
    """An array's patterns; all NaN are one."""
    if a.dtype.kind != "f":
        return a
    kind = np.dtype(f"u{a.dtype.itemsize}")
    return np.where(np.isnan(a), np.array(np.nan, a.dtype).view(kind), np.ascontiguousarray(a).view(kind))


def case_of(seed: int, *, small: bool = False) -> Case:
    """The case of a seed. small: a kernel of few statements."""
    text, kind = kernel_of_any_kind(seed, small=small)
    r = random.Random(seed * 7 + 1)
    kernel = Kernel.from_source(text, "generated", coarsen=r.choice(COARSEN))
    return Case(seed, text, kernel, arguments(kind, r.choice(LENGTHS), seed, small=small))
