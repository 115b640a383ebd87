"""Small emulated V3D for tests: buffers, programs from the builders, dispatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from qpu.core.isa import Isa
from qpu.emu.boards import parse_board
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.trace import Trace
from qpu.emu.v3d.reference import V3dExecution, V3dReferenceMachine
from qpu.v3d.asm import assemble

ISAS = (Isa.V3D42, Isa.V3D71)
BOARD = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
PAGE = 4096
LIMIT = 400_000  # clocks


class Rig:
    """One board with its buffers and programs. Every buffer is followed by an unmapped page."""

    engine: ClassVar[str] = "reference"

    def __init__(self, isa: Isa, *, strict: bool = True, trace: Trace | None = None, board: str | None = None) -> None:
        self.isa = isa
        self.v42 = isa is Isa.V3D42
        self.memory = Memory()
        self.profile = parse_board(board or BOARD[isa])
        self.machine: Any = V3dReferenceMachine(self.profile, self.memory, strict=strict, trace=trace)
        if Rig.engine == "compiled" and trace is None:
            from qpu.emu.v3d.compiled import V3dCompiledMachine

            self.machine = V3dCompiledMachine(self.profile, self.memory, strict=strict)
        self.buffers: list[tuple[int, int]] = []  # address, size
        self._next = 0x10000

    def buffer(self, data: Any, name: str = "data") -> int:
        """Put an array (or zeros, given a size in bytes) on the board; returns its address."""
        raw = bytes(data) if isinstance(data, int) else np.ascontiguousarray(data).tobytes()
        size = -(-max(len(raw), 1) // PAGE) * PAGE
        at = self._next
        self._next += size + PAGE
        self.memory.map(at, size, name)
        self.buffers.append((at, size))
        self.memory.view(at, len(raw))[:] = raw
        return at

    def u32(self, address: int, n: int) -> np.ndarray:
        return self.memory.words[address // 4 : address // 4 + n].copy()

    def f32(self, address: int, n: int) -> np.ndarray:
        return self.u32(address, n).view(np.float32)

    def start(
        self,
        program: Callable[..., None] | Sequence[int],
        uniforms: Sequence[int | float] | int = (),
        *,
        workgroups: tuple[int, int, int] = (1, 1, 1),
        first: tuple[int, int, int] = (0, 0, 0),
        size: int = 16,
        per_supergroup: int = 1,
        batches_per_supergroup: int | None = None,
        batches: int | None = None,
        max_id: int = 0,
        threads: int = 2,
        single: bool = False,
        check: bool = True,
    ) -> V3dExecution:
        """Dispatch without running. uniforms: words, or the address of a stream."""
        if callable(program):
            program = assemble(self.isa, program, check=check, single_segment=single).code
        code = self.buffer(np.array(program, np.uint64), "code")
        if not isinstance(uniforms, int):
            words = [int(np.float32(u).view(np.uint32)) if isinstance(u, float) else u & 0xFFFFFFFF for u in uniforms]
            uniforms = self.buffer(np.array(words or [0], np.uint32), "uniforms")
        per_batch = -(-per_supergroup * size // 16)
        total = workgroups[0] * workgroups[1] * workgroups[2]
        if batches is None:
            full, rest = divmod(total, per_supergroup)
            batches = per_batch * full + -(-rest * size // 16)
        group = batches_per_supergroup or per_batch
        cfg = [workgroups[i] << 16 | first[i] for i in range(3)]
        cfg.append((size & 0xFF) | (per_supergroup & 15) << 8 | (group - 1) << 12 | max_id << 20)
        cfg.append(batches if self.profile.exact_batches else batches - 1)
        cfg.append(code | (threads == 4) | single << 1 | 4)
        cfg.append(uniforms)
        return self.machine.dispatch(cfg)

    def run(self, program: Any, uniforms: Any = (), *, limit: int = LIMIT, **options: Any) -> V3dExecution:
        """Dispatch and run to the end, which must come within `limit` clocks."""
        execution = self.start(program, uniforms, **options)
        assert execution.run(limit), "the program does not end"
        return execution


def payload(q: Any) -> Any:
    """The register with the workgroup id x and y."""
    return q.rf[0] if q.isa is Isa.V3D42 else q.rf[3]


def word(q: Any) -> Any:
    """The register that ldunif and ldunifa write."""
    return q.r5 if q.isa is Isa.V3D42 else q.rf[0]


def move(q: Any, d: Any, s: Any, **more: Any) -> None:
    """A copy on the add ALU of either version."""
    if q.isa is Isa.V3D42:
        q.or_(d, s, s, **more)
    else:
        q.mov(d, s, **more)


def store_lanes(q: Any, value: Any, base: Any, at: Any, *, stride: int = 4, lane: Any = None) -> None:
    """Store one word a lane to base + 4 * lane; `at` is scratch."""
    q.eidx(at)
    q.shl(at, at, 2)
    q.add(at, at, base)
    move(q, q.tmud, value)
    move(q, q.tmua, at)
    q.tmuwt(q.null)
