"""The machine around the threads of one V3D dispatch: uniform fetches, TMU requests, reports, counters.

The reference engine runs on it; the compiled engine uses it for reports and for everything that it leaves to the host.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.machine import RunStats
from qpu.emu.engine.memory import Memory
from qpu.emu.v3d.dispatch import Dispatch, Placement
from qpu.emu.v3d.faults import fault, sentence
from qpu.emu.v3d.prepare import SFU_LATENCY, UNIFA_EARLY, Prepared, disassembly, prepare
from qpu.emu.v3d.state import TRUE, Group, PerThread, each, squeeze
from qpu.emu.v3d.tmu import (
    DATA_CAPACITY,
    RESULT_CAPACITY,
    AccessError,
    Action,
    Request,
    TmuMemory,
    data_words,
    decode_request,
    result_words,
)
from qpu.emu.v3d.uniforms import Snapshot
from qpu.errors import FaultPlace, counted

__all__ = ["DispatchServices", "describe_access"]

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]

_MAX_WARNINGS = 1000
_LANES = 16
_JOIN_DISTANCE = 16  # instructions before the stop that are searched for the one that joined the barrier


def describe_access(memory: Memory, error: AccessError) -> str:
    """The message for a bad access: the access, and the nearest buffer with its distance."""
    kind = f"{error.size}-byte {error.name} at 0x{error.address:08x}"
    if error.rule == "misaligned":
        return f"{kind} is not aligned to {error.size} bytes; the result on hardware is unknown"
    if error.rule == "uniforms-end" and (stream := memory.stream_before(error.address)) is not None:
        number = (error.address - stream[0]) // 4 + 1
        return f"uniform {number} of {stream[1]}: the program takes more than it was given"
    near = memory.nearest(error.address)
    if near is None:
        return f"{kind} is outside every buffer; no buffer exists"
    region, distance = near
    if region.private and not distance:
        return f"{kind} is in {region.name} of the launch, which only the GPU's own fetches may read"
    if distance < 0:
        where = f"{counted(-distance, 'byte')} before its start"
    else:
        where = f"{counted(distance, 'byte')} past its end"
    return (
        f"{kind} is outside every buffer; the nearest is {region.name!r} "
        f"(0x{region.address:08x}..0x{region.last:08x}), {where}"
    )


class DispatchServices:
    """The machine around the threads of one dispatch: `qpu.emu.v3d.alu.Machine`, and reports."""

    def __init__(
        self,
        board: str,
        isa: Isa,
        memory: Memory,
        dispatch: Dispatch,
        placement: Placement,
        stats: RunStats,
        *,
        strict: bool,
    ) -> None:
        self.board = board
        self.isa = isa
        self.memory = memory
        self.dispatch = dispatch
        self.placement = placement
        self.stats = stats
        self.strict = strict
        self.snapshot = Snapshot(memory, dispatch.uniforms, dispatch.code)
        self.scratch: NDArray[np.uint8] | None = None  # the page of the TMU for accesses outside every buffer
        self.group: Group | None = None  # the group that is executing
        self.prepared: Prepared | None = None  # the instruction that is executing
        self.qpu_instructions = np.zeros(placement.qpus, np.int64)
        self._warned: set[str] = set()
        self.outside: set[int] = set()  # addresses of instructions with a reported access outside every buffer
        self._data_limit = data_words(dispatch.threads)
        self._result_limit = result_words(dispatch.threads)

    @cached_property
    def tmu(self) -> TmuMemory:
        """The TMU; short programs make no request."""
        before_store, report = self.snapshot.before_store, self._access
        return TmuMemory(self.isa, self.memory, before_store=before_store, report=report, scratch=self.scratch)

    def tallies(self) -> tuple[int, int, int]:
        """Requests so far, bytes read, bytes written."""
        tmu: TmuMemory | None = self.__dict__.get("tmu")
        return (0, 0, 0) if tmu is None else (tmu.requests, tmu.read_bytes, tmu.write_bytes)

    # -- reports

    def place(self, g: Group, row: int = 0, lane: int | None = None, address: int | None = None) -> FaultPlace:
        """The place of a thread of the group."""
        thread = int(g.threads[row])
        p = self.prepared
        return FaultPlace(
            board=self.board,
            qpu=self.placement.qpu(thread),
            thread=self.placement.slot(thread),
            instruction=(g.pc - self.dispatch.code) // 8,
            lane=lane,
            address=address,
            disassembly=None if p is None else disassembly(self.isa, p.word),
        )

    def at_barrier(self, g: Group) -> FaultPlace:
        """The place of a thread that waits at a barrier: the instruction that joined it."""
        for pc in range(g.pc - 8, g.pc - 8 * _JOIN_DISTANCE, -8):
            if pc < 0 or not self._mapped(pc):
                break
            p = prepare(self.isa, self.snapshot.word(pc) | self.snapshot.word(pc + 4) << 32)
            if p.joins_barrier:
                index = (pc - self.dispatch.code) // 8
                return replace(self.place(g), instruction=index, disassembly=disassembly(self.isa, p.word))
        return self.place(g)

    def fault(self, g: Group, rule: str, *found: object, row: int = 0) -> NoReturn:
        """Raise a fault, in strict and in lenient mode. found: as for `sentence`."""
        raise fault(rule, sentence(rule, *found), self.place(g, row))

    def hazard(self, g: Group, rule: str, *found: object) -> None:
        """Report what hardware does not define: a fault in strict mode, else a warning."""
        if self.strict:
            raise fault(rule, sentence(rule, *found), self.place(g))
        self.warn(g, rule, *found)

    def warn(self, g: Group, rule: str, *found: object, row: int = 0) -> None:
        """Record a warning, once per rule and instruction."""
        index = (g.pc - self.dispatch.code) // 8
        key = f"{rule}@{index}"
        if key in self._warned or len(self._warned) >= _MAX_WARNINGS:
            return
        self._warned.add(key)
        place = self.place(g, row)
        text = f": {place.disassembly}" if place.disassembly else ""
        self.stats.faults.append(f"{rule}: {sentence(rule, *found)} ({place.render()}{text})")

    def _access(self, error: AccessError) -> None:
        g = self.group
        assert g is not None
        message = describe_access(self.memory, error)
        if self.strict:
            raise fault(error.rule, message, self.place(g, error.row, error.lane, error.address))
        if error.rule != "misaligned":
            self.outside.add(g.pc)
            message = "MMU error: " + message
        self.warn(g, error.rule, message, row=error.row)

    # -- uniform streams

    def _mapped(self, address: int) -> bool:
        return self.memory.fetched(address & ~3)

    def _fetch(self, g: Group, pointer: PerThread, name: str) -> PerThread:
        """The words at a stream pointer. Outside every buffer: a fault, or 0 (the scratch page) in lenient mode."""
        if isinstance(pointer, int):
            if not pointer & 3 and self._mapped(pointer):
                return self.snapshot.word(pointer)
            self._access(self._stream_error(pointer, 0, name))
            pointer &= ~3
            return self.snapshot.word(pointer) if self._mapped(pointer) else 0
        if not (pointer & np.uint32(3)).any() and self.memory.all_fetchable(pointer):
            return squeeze(self.snapshot.words(pointer))
        odd = pointer & np.uint32(3) != 0
        ok = self.memory.fetchable(pointer & np.uint32(0xFFFFFFFC))
        if odd.any() or not ok.all():
            row = int(np.flatnonzero(odd | ~ok)[0])
            self._access(self._stream_error(int(pointer[row]), row, name))
            pointer = pointer & np.uint32(0xFFFFFFFC)
            return squeeze(np.where(ok, self.snapshot.words(np.where(ok, pointer, np.uint32(0))), np.uint32(0)))
        return squeeze(self.snapshot.words(pointer))

    def _stream_error(self, address: int, row: int, name: str) -> AccessError:
        ended = self.memory.stream_before(address) is not None
        rule = "misaligned" if address & 3 else "uniforms-end" if ended else "out-of-bounds"
        return AccessError(rule, row, 0, address, 4, False, name)

    def uniform(self, g: Group) -> PerThread:
        """The next word of the uniform stream of each thread."""
        pointer = g.unif
        word = self._fetch(g, pointer, "uniform fetch")
        g.unif = (pointer + 4) & 0xFFFFFFFF if isinstance(pointer, int) else pointer + np.uint32(4)
        return word

    def unifa_word(self, g: Group) -> PerThread:
        """The next word of the unifa stream of each thread."""
        if g.count - g.unifa_at <= UNIFA_EARLY:
            self.hazard(g, "unifa-early")
        pointer = g.unifa
        word = self._fetch(g, pointer, "unifa fetch")
        g.unifa = (pointer + 4) & 0xFFFFFFFF if isinstance(pointer, int) else pointer + np.uint32(4)
        return word

    # -- TMU

    def coming_request(self, g: Group, p: Prepared) -> tuple[Request | None, PerThread]:
        """The request that `p` will start, and the configuration words. The request is None when the bytes differ."""
        config: PerThread = g.config
        if p.config_from_uniform:
            if isinstance(g.unif, int):
                config = self.snapshot.word(g.unif & ~3) if self._mapped(g.unif) else 0
            else:
                ok = self.memory.fetchable(g.unif & np.uint32(0xFFFFFFFC))
                config = self.snapshot.words(np.where(ok, g.unif & np.uint32(0xFFFFFFFC), np.uint32(0)))
        if isinstance(config, int):
            return decode_request(config & 0xFF, len(g.data) + p.data_writes), config
        low = squeeze(config & np.uint32(0xFF))
        if isinstance(low, int):
            return decode_request(low, len(g.data) + p.data_writes), config
        return None, config

    def request(self, g: Group, address: U32, live: Mask) -> None:
        """Start a request with the queued data. The configuration bytes of all threads are equal."""
        config = g.config
        first = config if isinstance(config, int) else int(config[0])
        byte = first & 0xFF
        g.config = (
            config >> 8 | 0xFF000000 if isinstance(config, int) else config >> np.uint32(8) | np.uint32(0xFF000000)
        )
        data, g.data = g.data, []
        if len(data) > DATA_CAPACITY:
            self.fault(g, "tmu-data-overflow", len(data), self._data_limit)
        r = decode_request(byte, len(data))
        if r.problem:
            self.hazard(g, "tmu-request", f"configuration byte 0x{byte:02x}: {r.problem}")
        if len(data) < r.expected:
            message = f"{r.name} takes {r.expected} data words, {len(data)} were written"
            if r.action is Action.ATOMIC:
                self.hazard(g, "tmu-data", message)
                data = data + [np.zeros(_LANES, np.uint32)] * (r.expected - len(data))
            else:
                self.warn(g, "tmu-data", message)
        if len(data) > self._data_limit:
            self.warn(g, "tmu-data-overflow", len(data), self._data_limit)
        shape = (g.n, _LANES)
        address = np.broadcast_to(address, shape)
        g.results += self.tmu.run(r, address, np.broadcast_to(live, shape), data)
        if len(g.results) > RESULT_CAPACITY:
            self.fault(g, "tmu-overflow", len(g.results), self._result_limit, RESULT_CAPACITY)
        if len(g.results) > self._result_limit:
            self.warn(g, "tmu-pending", len(g.results), self._result_limit)

    # -- other

    def result(self, g: Group) -> U32:
        """Pop the oldest TMU result of each thread."""
        if not g.results:
            self.fault(g, "tmu-empty")
        return g.results.pop(0)

    def lane0(self, g: Group, value: U32, on: Mask | None = None, old: PerThread = 0) -> PerThread:
        """Lane 0 as a number of each thread; `old` for threads where lane 0 is not in `on`."""
        if on is None or (first := on[..., 0]).all():
            return g.lane(value, 0)
        return squeeze(np.where(first, value[..., 0], each(old, g.n)))

    def move_unifa(self, g: Group, pointer: PerThread) -> None:
        """Continue the unifa stream at another address."""
        g.unifa = pointer
        g.unifa_at = g.count

    def sfu_result(self, g: Group, value: U32, on: Mask | None) -> None:
        """4.2: write `value` to r4 after `SFU_LATENCY` instructions."""
        g.late, g.late_on, g.late_left = value, TRUE if on is None else on, SFU_LATENCY
        g.busy = True

    def join_barrier(self, g: Group, on: Mask | None) -> None:
        """Stop threads with a lane in `on` at their next thread switch."""
        here: Mask = np.ones(g.n, np.bool_)
        if on is not None:
            here = np.asarray(np.broadcast_to(on, (g.n, _LANES)).any(axis=1))
        g.sync = here if g.sync is None else g.sync | here
        if g.results:
            self.warn(g, "barrier-tmu")

    def barrier_slot(self, g: Group) -> U32:
        """Supergroup slot of each thread."""
        running = self.placement.running
        return g.splat(squeeze(np.array([running[int(t)].supergroup_slot for t in g.threads], np.uint32)))

    def before(self, g: Group) -> Prepared | None:
        """The instruction that was executed before this one; None if it was not the same for all threads."""
        return g.previous

    def hazard_in(self, g: Group, rule: str, message: str, lanes: Mask) -> None:
        """As `hazard`, if there is a lane in `lanes`."""
        if lanes.any():
            self.hazard(g, rule, message)

    def flush(self, g: Group) -> None:
        """Account for the instructions that the group has executed since the last call."""
        fresh = g.count - g.flushed
        if fresh:
            if g.qpu_weight is None:
                qpus = self.placement.qpus
                g.qpu_weight = np.bincount(g.threads % qpus, minlength=qpus)
            self.qpu_instructions += g.qpu_weight * fresh
            g.flushed = g.count
