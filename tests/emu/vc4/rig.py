"""Small emulated VideoCore IV for tests: memory, programs, launches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.memory import Memory
from qpu.emu.engine.trace import Trace
from qpu.emu.vc4.reference import ReferenceExecution, Vc4ReferenceMachine
from qpu.vc4.builder import Asm, assemble
from qpu.vc4.builder import build as build_unchecked

ALIAS = 0x40000000
CODE, DATA = 0x100000, 0x400000


@dataclass(frozen=True)
class Profile:
    name: str = "pi3"
    qpus: int = 12


class Rig:
    """One chip. Arrays are carved from a data buffer of 1 MiB, programs from a code buffer."""

    engine: ClassVar[str] = "reference"

    def __init__(self, *, strict: bool = True, trace: Trace | None = None, qpus: int = 12) -> None:
        self.memory = Memory(1 << 24)
        self.code = self.memory.map(CODE, 1 << 18, "code")
        self.data = self.memory.map(DATA, 1 << 20, "data")
        self.machine: Any = Vc4ReferenceMachine(Profile(qpus=qpus), self.memory, strict=strict, trace=trace)
        if Rig.engine == "compiled" and trace is None:
            from qpu.emu.vc4.compiled import Vc4CompiledMachine

            self.machine = Vc4CompiledMachine(Profile(qpus=qpus), self.memory, strict=strict)
        self._code_at, self._data_at = CODE, DATA
        self.last: ReferenceExecution | None = None

    def array(self, values: Any, dtype: Any = None) -> tuple[int, NDArray[Any]]:
        """A copy of `values` in GPU memory: (bus address, live view)."""
        source = np.ascontiguousarray(np.asarray(values, dtype))
        at = self._data_at
        self._data_at += (source.nbytes + 63) & ~63
        assert self._data_at <= self.data.end
        view = self.memory.bytes[at : at + source.nbytes].view(source.dtype).reshape(source.shape)
        view[...] = source
        return at | ALIAS, view

    def zeros(self, shape: Any, dtype: Any = np.uint32) -> tuple[int, NDArray[Any]]:
        return self.array(np.zeros(shape, dtype))

    def program(self, source: Callable[..., None] | Iterable[int], *args: Any, check: bool = True) -> int:
        """Place a program; returns its bus address."""
        if callable(source):
            words = (assemble if check else build_unchecked)(source, *args).code
        else:
            words = tuple(source)
        at = self._code_at
        data = np.array(words, "<u8")
        self.memory.bytes[at : at + data.nbytes] = data.view(np.uint8)
        self._code_at += (data.nbytes + 63) & ~63
        return at | ALIAS

    def uniforms(self, values: Sequence[Any]) -> int:
        """A uniform stream: integers as they are, floats as their pattern."""
        words = [
            int(np.float32(v).view(np.uint32)) if isinstance(v, float | np.floating) else int(v) & 0xFFFFFFFF
            for v in values
        ]
        return self.array(words or [0], np.uint32)[0]

    def launch(self, entries: Sequence[tuple[int, int]], clocks: int | None = None) -> ReferenceExecution:
        execution = self.machine.launch(entries)
        self.last = execution
        execution.run(clocks)
        return execution

    def run(
        self, source: Callable[..., None] | Iterable[int], *uniforms: Sequence[Any], check: bool = True
    ) -> ReferenceExecution:
        """Run one program on as many QPUs as there are uniform lists."""
        code = self.program(source, check=check)
        return self.launch([(self.uniforms(u), code) for u in (uniforms or ((),))])


def store_rows(q: Asm, registers: Sequence[Any], address: Any, *, row: int = 0) -> None:
    """Write vectors to consecutive VPM rows from `row` on and store them to memory, 64 bytes each."""
    q.setup_vpm_write(y=row)
    for r in registers:
        q.mov(q.vpm, r)
    q.setup_dma_store(nrows=len(registers), ncols=16, y=row)
    q.setup_dma_store_stride(0)
    q.start_dma_store(address)
    q.wait_dma_store()


def addresses(q: Asm, d: Any, base: Any) -> None:
    """d = base + 4 * lane. Uses r3; `base` must be readable at once."""
    q.shl(q.r3, q.element_number, 2)
    q.add(d, base, q.r3)
