"""Machines that call a function before each instruction: what debugger and profile observe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.debug import uses_v3d, uses_vc4
from qpu.emu.boards import BoardProfile
from qpu.emu.engine.machine import RunStats, V3dMachine, Vc4Machine
from qpu.emu.engine.memory import Memory
from qpu.emu.v3d.dispatch import Dispatch
from qpu.emu.v3d.prepare import disassembly
from qpu.emu.v3d.reference import Code, V3dExecution, V3dReferenceMachine
from qpu.emu.v3d.services import DispatchServices
from qpu.emu.v3d.state import Group as V3dGroup
from qpu.emu.vc4.faults import disassemble
from qpu.emu.vc4.fetch import Block
from qpu.emu.vc4.prepare import Plan
from qpu.emu.vc4.reference import ReferenceExecution, Vc4ReferenceMachine
from qpu.emu.vc4.reference_execute import ReferenceThread, Step
from qpu.emu.vc4.state import Group as Vc4Group

__all__ = ["Before", "Moment", "Restart", "Stepping"]

U32: TypeAlias = NDArray[np.uint32]


class Restart(Exception):
    """Raised by an observer: the launch starts again, with the memory that it started with."""


class Moment(Protocol):
    """Some threads that are about to execute the same instruction. Rows number these threads."""

    isa: Isa
    word: int

    @property
    def index(self) -> int:
        """Number of the instruction."""
        ...

    @property
    def text(self) -> str:
        """The instruction as text."""
        ...

    @property
    def threads(self) -> list[tuple[int, int]]:
        """(QPU, hardware thread) of each row."""
        ...

    @property
    def semaphores(self) -> Sequence[int]:
        """The semaphores of VideoCore IV, which have counted the instruction already; none on V3D."""
        ...

    def supergroup(self, row: int) -> tuple[int, int]:
        """Whom a thread of V3D meets at a barrier: number and threads of its supergroup; zeros on VideoCore IV."""
        ...

    @property
    def memory(self) -> Memory:
        """The memory of the board."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Registers and flags."""
        ...

    def get(self, row: int, name: str) -> U32:
        """The 16 lanes of a register, raw. Raises: KeyError."""
        ...

    def put(self, row: int, name: str, value: U32) -> None:
        """Change a register. Raises: KeyError."""
        ...


Before: TypeAlias = Callable[[Moment], None]


class _V3dMoment:
    semaphores: Sequence[int] = ()
    names: Sequence[str] = [n for n in uses_v3d.NAMES if " " not in n] + ["a", "b", "msf", "rtop", "revf"]

    def __init__(self, services: DispatchServices, g: V3dGroup, word: int) -> None:
        self.isa = services.isa
        self._services, self._g, self.word = services, g, word
        self.memory = services.memory

    @property
    def index(self) -> int:
        return (self._g.pc - self._services.dispatch.code) // 8

    @property
    def text(self) -> str:
        return disassembly(self.isa, self.word)

    @property
    def threads(self) -> list[tuple[int, int]]:
        p = self._services.placement
        return [(p.qpu(t), p.slot(t)) for t in self._g.threads.tolist()]

    def supergroup(self, row: int) -> tuple[int, int]:
        number = self._services.placement.running[int(self._g.threads[row])].supergroup
        return number, self._services.dispatch.supergroup_batches(number)

    def _vector(self, name: str) -> Any:
        if name in ("a", "b", "msf", "rtop", "revf"):
            return getattr(self._g, name)
        return self._g.regs[uses_v3d.NAMES.index(name) if name in uses_v3d.NAMES else self._missing(name)]

    @staticmethod
    def _missing(name: str) -> int:
        raise KeyError(name)

    def get(self, row: int, name: str) -> U32:
        return np.array(np.broadcast_to(self._vector(name), (self._g.n, 16))[row], np.uint32)

    def put(self, row: int, name: str, value: U32) -> None:
        old = self._vector(name)
        new = np.array(np.broadcast_to(old, (self._g.n, 16)))
        new[row] = value
        g = self._g
        if name == "msf":
            g.set_msf(new)
        elif name in ("rtop", "revf"):
            setattr(g, name, new)
        elif name in ("a", "b"):
            setattr(g, name, new)
            setattr(g, f"{name}_hi", new)
        else:
            g.regs[uses_v3d.NAMES.index(name)] = new


class _Vc4Moment:
    isa = Isa.VC4
    names: Sequence[str] = [*uses_vc4.NAMES[:70], "z", "n", "c"]

    def __init__(self, memory: Memory, semaphores: Sequence[int], g: Vc4Group, word: int) -> None:
        self.memory, self.semaphores, self._g, self.word = memory, semaphores, g, word

    @property
    def index(self) -> int:
        return self._g.index(0)

    @property
    def text(self) -> str:
        return disassemble(self.word)

    @property
    def threads(self) -> list[tuple[int, int]]:
        return [(q, 0) for q in self._g.ids]

    def supergroup(self, row: int) -> tuple[int, int]:
        return 0, 0

    def _place(self, name: str) -> Any:
        bank = self._g.bank
        flags = {"z": bank.z, "n": bank.neg, "c": bank.c}
        if name in flags:
            return flags[name]
        if name not in self.names:
            raise KeyError(name)
        return bank.rows[uses_vc4.NAMES.index(name)]

    def get(self, row: int, name: str) -> U32:
        return np.array(self._place(name)[self._g.ids[row]], np.uint32)

    def put(self, row: int, name: str, value: U32) -> None:
        place = self._place(name)
        place[self._g.ids[row]] = value.astype(place.dtype)


class _Dispatch(V3dExecution):
    before: Before

    def _fetch(self, g: V3dGroup) -> Code:
        code = super()._fetch(g)
        step, word, before = code.step, code.prepared.word, self.before

        def observed(g: V3dGroup, x: DispatchServices) -> list[V3dGroup] | None:
            before(_V3dMoment(x, g, word))
            found: list[V3dGroup] | None = step(g, x)
            return found

        code.step = observed
        return code


class _Launch(ReferenceExecution):
    before: Before

    def _block(self, g: Vc4Group, pc: int) -> Block:
        block = super()._block(g, pc)
        made = Block.__new__(Block)
        made.steps, made.totals = [self._observed(step) for step in block.steps], block.totals
        return made

    def _observed(self, step: Step) -> Step:
        execute, word, before, memory = step.execute, step.plan.word, self.before, self._memory
        counters = self._sync.counters

        def observed(t: ReferenceThread, p: Plan) -> None:
            before(_Vc4Moment(memory, counters, t.group, word))
            execute(t, p)

        made = Step.__new__(Step)
        made.plan, made.execute = step.plan, observed
        return made


class _Execution:
    """An execution that starts again when its observer raises `Restart`."""

    def __init__(self, make: Callable[[], Any], save: Callable[[], Callable[[], None]], runs: list[RunStats]) -> None:
        self._make, self._runs = make, runs
        self._restore = save()
        self._inner = make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, clocks: int | None = None) -> bool:
        """See `qpu.emu.engine.machine.Execution.run`."""
        while True:
            try:
                done = bool(self._inner.run(clocks))
                if done:
                    self._runs.append(self._inner.stats)
                return done
            except Restart:
                self._restore()
                self._inner = self._make()


class _V3d:
    """A V3D machine whose instructions are observed."""

    def __init__(
        self, profile: BoardProfile, memory: Memory, strict: bool, before: Callable[[], Before], runs: list[RunStats]
    ) -> None:
        self._machine = V3dReferenceMachine(profile, memory, strict=strict)
        self._before, self._runs = before, runs

    def dispatch(self, cfg: Sequence[int]) -> Any:
        """See `V3dReferenceMachine.dispatch`."""
        machine = self._machine

        def make() -> _Dispatch:
            made = _Dispatch(machine, Dispatch.from_cfg(cfg, exact_batches=machine.profile.exact_batches))
            made.before = self._before()
            return made

        return _Execution(make, lambda: _saved(machine.memory), self._runs)


class _Vc4:
    """A VideoCore IV machine whose instructions are observed."""

    def __init__(
        self, profile: BoardProfile, memory: Memory, strict: bool, before: Callable[[], Before], runs: list[RunStats]
    ) -> None:
        self._machine = Vc4ReferenceMachine(profile, memory, strict=strict)
        self._before, self._runs = before, runs

    @property
    def vpm(self) -> Any:
        """The VPM of the chip."""
        return self._machine.vpm

    @vpm.setter
    def vpm(self, vpm: Any) -> None:
        self._machine.vpm = vpm

    @property
    def sync(self) -> Any:
        """Mutex and semaphores of the chip."""
        return self._machine.sync

    @sync.setter
    def sync(self, sync: Any) -> None:
        self._machine.sync = sync

    def reset(self) -> None:
        """Power cycle."""
        self._machine.reset()

    def launch(self, entries: Sequence[tuple[int, int]]) -> Any:
        """See `Vc4ReferenceMachine.launch`."""
        machine, before = self._machine, self._before

        class Launch(_Launch):
            pass

        def make() -> _Launch:
            Launch.before = staticmethod(before())
            return Launch(machine, entries)

        def save() -> Callable[[], None]:
            memory, vpm, counters = _saved(machine.memory), machine.vpm.words.copy(), list(machine.sync.counters)

            def restore() -> None:
                memory()
                machine.vpm.words[:] = vpm
                machine.sync.counters[:] = counters

            return restore

        return _Execution(make, save, self._runs)


def _saved(memory: Memory) -> Callable[[], None]:
    copies = [(r.address, bytes(memory.view(r.address, r.size))) for r in memory.regions]

    def restore() -> None:
        for address, data in copies:
            memory.view(address, len(data))[:] = data

    return restore


class Stepping:
    """A `qpu.emu.engines.Watch` that calls a function before each instruction of each group of threads.

    begin: called when a launch starts, or starts again; returns that function. name: of the tool.
    """

    def __init__(self, begin: Callable[[], Before], name: str) -> None:
        self._begin, self.name = begin, name
        self.runs: list[RunStats] = []  # statistics of launches that have ended

    def machine(self, profile: BoardProfile, memory: Memory, *, strict: bool) -> V3dMachine | Vc4Machine:
        """The machine of a board, observed."""
        if profile.isa is Isa.VC4:
            chip: Vc4Machine = _Vc4(profile, memory, strict, self._begin, self.runs)
            return chip
        return _V3d(profile, memory, strict, self._begin, self.runs)
