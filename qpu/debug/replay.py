"""Replay of recorded launches on an emulated board, whatever computer and board they were recorded on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from typing import cast

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.record import Recorded, read_records
from qpu.drivers.base import CsdJob, Job
from qpu.drivers.drm.csd import csd_cfg
from qpu.emu.boards import BoardProfile, parse_board
from qpu.emu.engine.host_limit import HostLimit, chosen_limit
from qpu.emu.engine.machine import Execution, RunStats, V3dMachine, Vc4Machine
from qpu.emu.engine.memory import Memory
from qpu.emu.engines import make_machine, observer_of_environment, watching
from qpu.errors import EmuFault, FaultPlace, Loc, UsageError, brief

__all__ = ["Replayed", "begin_recorded", "board_for", "located", "replay", "run_recorded"]

_BOARDS = {Isa.VC4: "pi3", Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
_ALIAS = 0x3FFFFFFF
_SLICE = 1 << 20  # emulated clocks between two looks at the time


@dataclass(frozen=True, slots=True)
class Replayed:
    """A launch that was run again. differs: names of buffers whose content is not the recorded one; None if that is
    unknown. memory: what the launch left."""

    recorded: Recorded
    stats: RunStats
    differs: list[str] | None
    memory: Memory


class _NoBo:
    """A buffer object that a job lists; the registers do not depend on it."""

    size, address, view = 0, 0, memoryview(b"")

    def close(self) -> None:
        """Nothing."""


def board_for(recorded: Recorded, board: str | None = None) -> BoardProfile:
    """The board on which a launch is replayed. Raises: UsageError for one with another instruction set."""
    name = board
    if name is None:
        try:
            found = parse_board(recorded.board)
            name = found.name if found.isa is recorded.isa else None
        except UsageError:
            name = None
    profile = parse_board(name or _BOARDS[recorded.isa])
    if profile.isa is not recorded.isa:
        raise UsageError(
            f"{profile.name} executes {profile.isa.label}, the launch is for {recorded.isa.label}",
            help=f"choose a board such as {_BOARDS[recorded.isa]}",
        )
    return profile


def placed(recorded: Recorded, memory: Memory, mask: int) -> None:
    """Put the recorded contents where they were."""
    for m in recorded.memory:
        address = m.address & mask
        try:
            memory.map(address, m.size, m.name)
        except ValueError as error:
            raise UsageError(f"the record cannot be replayed: {error}", help="its buffers overlap") from None
        memory.view(address, m.size)[:] = m.data
        if m.kind == "buffer":
            memory.limit(address, m.used, m.name)
            memory.expose(address)
        elif m.kind == "uniforms" and m.streams and all((a + n) % 4096 == 0 for a, n in m.streams):
            memory.place_streams(address, [(a & mask, n) for a, n in m.streams])
        else:
            memory.reserve(address, m.kind)


def begin_recorded(recorded: Recorded, *, board: str | None = None, engine: str = "auto") -> Callable[[Job], Execution]:
    """A function that begins jobs on an emulated board with the recorded memory. Raises: UsageError."""
    return _begin(recorded, board, engine)[1]


def _begin(recorded: Recorded, board: str | None, engine: str) -> tuple[Memory, Callable[[Job], Execution], int]:
    profile = board_for(recorded, board)
    memory = Memory(1 << 32 if profile.is_drm else 1 << 30)
    mask = 0xFFFFFFFF if profile.is_drm else _ALIAS
    placed(recorded, memory, mask)
    watch = watching(observer_of_environment())
    machine = (
        make_machine(profile, memory, strict=True, engine=engine)
        if watch is None
        else watch.machine(profile, memory, strict=True)
    )

    def begin(job: Job) -> Execution:
        if isinstance(job, CsdJob):
            cfg = csd_cfg(replace(job, bos=[_NoBo()]), 42 if profile.isa is Isa.V3D42 else 71, profile.rev)
            return cast("V3dMachine", machine).dispatch(cfg)
        return cast("Vc4Machine", machine).launch(job.entries)

    return memory, begin, mask


def run_recorded(recorded: Recorded, *, board: str | None = None, engine: str = "auto") -> Replayed:
    """Run one recorded launch, for QPU_EMU_HOST_LIMIT_S at most where that is set.

    Raises: EmuFault with the recorded source line; UsageError."""
    memory, begin, mask = _begin(recorded, board, engine)
    try:
        limit = HostLimit(chosen_limit(None))
        with limit:
            execution = begin(recorded.job)
            while not execution.run(_SLICE):
                limit.check(execution.clocks)
    except EmuFault as fault:
        raise fault.at(_place(recorded, fault.place), fault.other and _place(recorded, fault.other)) from None
    differs = None
    if recorded.digests:
        differs = [
            m.name
            for m in recorded.memory
            if m.address in recorded.digests
            and hashlib.sha256(memory.view(m.address & mask, m.used)).hexdigest() != recorded.digests[m.address]
        ]
    return Replayed(recorded, execution.stats, differs, memory)


def _place(recorded: Recorded, place: FaultPlace) -> FaultPlace:
    n = place.instruction
    loc = recorded.locs[n] if n is not None and 0 <= n < len(recorded.locs) else None
    return place if loc is None else replace(place, loc=Loc(loc[0], loc[1], text=loc[2]))


def located(fault: EmuFault, program: Code) -> EmuFault:
    """A fault with the source lines of a program."""

    def at(place: FaultPlace) -> FaultPlace:
        loc = None if place.instruction is None else program.loc(place.instruction)
        return place if loc is None else replace(place, loc=loc)

    return fault.at(at(fault.place), fault.other and at(fault.other))


def replay(path: str | PathLike[str], *, board: str | None = None, engine: str = "auto") -> Iterator[Replayed]:
    """Run the launches of a record, one after another. Each starts from its own recorded memory.

    board: name of an emulated board with the same instruction set; default: that of the record. engine: as of
    `qpu.open_device`. Works under `qpu.sanitize`. Raises: UsageError for a damaged file; EmuFault.
    """
    records = read_records(path)

    @brief
    def following() -> Replayed | None:
        recorded = next(records, None)
        return None if recorded is None else run_recorded(recorded, board=board, engine=engine)

    while (found := following()) is not None:
        yield found
