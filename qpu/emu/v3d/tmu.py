"""The memory accesses of V3D's TMU: decoding of configuration bytes, component addresses, loads, stores, atomics.

Both engines use `decode_request` and `component_address`; `TmuMemory` is the NumPy implementation of the accesses.
Facts: docs/hardware/v3d.md 9.1 to 9.5; device tests `test_tmu.py` of py-videocore6 and py-videocore7
(`Basis.MEASURED`), Mesa's compiler (`Basis.DRIVER`). Assumed: misaligned accesses fault; of several stores of one
request to one address the last wins (component by component, then by thread and lane); atomics of one request are
performed in order of thread and lane; a lane that does not load receives 0.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.core.scalar_lanes import ScalarLanes
from qpu.emu.engine.memory import LIMIT_MASK, PAGE, Memory

__all__ = [
    "ATOMICS", "CONFIG_RESET", "DATA_CAPACITY", "PAGE_SHIFT", "RESULT_CAPACITY", "AccessError", "Action", "Request",
    "TmuMemory", "component_address", "data_words", "decode_request", "result_words",
]  # fmt: skip

U32: TypeAlias = NDArray[np.uint32]
Mask: TypeAlias = NDArray[np.bool_]

CONFIG_RESET = 0xFFFFFFFF  # the shift register at program start: all requests are regular, 32-bit, per pixel
PAGE_SHIFT = PAGE.bit_length() - 1
# Result words of a thread that may be pending; more are assumed to be lost (a fault). The documented depth is 16
# entries for all threads of a QPU; code that works was seen to need 24 (v3d.md 9.5). The real depth is assumed.
RESULT_CAPACITY = 32
DATA_CAPACITY = 8  # data words of one request; with more, the TMU would wait for the address forever
_TYPES: tuple[tuple[int, int, bool], ...] = (  # by type field: components, bytes, sign-extended
    (1, 1, True),
    (1, 2, True),
    (2, 4, False),
    (3, 4, False),
    (4, 4, False),
    (1, 1, False),
    (1, 2, False),
    (1, 4, False),
)
_ATOMIC_DATA = dict(enumerate("add sub xchg cmpxchg umin umax smin smax and or xor".split()))
_ATOMIC_PLAIN = {8: "inc", 9: "dec", 10: "not"}
_INSIDE, _LIMIT, _WHOLE = np.uint32(PAGE - 1), np.uint32(LIMIT_MASK), np.uint32(PAGE)
_CACHE = {0: "prefetch", 1: "cache clear", 2: "flush", 3: "flush", 4: "L1 clear"}


class Action(enum.Enum):
    """The kind of a request."""

    LOAD = "load"
    STORE = "store"
    ATOMIC = "atomic"
    CACHE = "cache"  # prefetch, clear, flush: nothing is returned and nothing changes


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request.

    name: ``load``, ``store``, the atomic's name, or the cache operation. components: words per lane. size: bytes of a
    component in memory. signed: sub-word loads are sign-extended. per_pixel: dead lanes do not load (otherwise whole
    quads load). expected: data words that the operation takes. results: vectors that it returns. problem: why the
    result on hardware is unknown, or empty.
    """

    action: Action
    name: str
    components: int
    size: int
    signed: bool
    per_pixel: bool
    expected: int
    results: int
    problem: str = ""


@lru_cache(maxsize=4096)
def decode_request(byte: int, data: int) -> Request:
    """The request that configuration byte `byte` makes with `data` words in the data FIFO.

    Source: v3d.md 9.2. A request with data words is a store or atomic; a request without data words is a load, an
    atomic that needs none, or a cache operation.
    """
    per_pixel = bool(byte & 0x80)
    op, type_ = (byte >> 3) & 15, byte & 7
    components, size, signed = _TYPES[type_]
    if op == 15:
        if not data:
            return Request(Action.LOAD, "load", components, size, signed, per_pixel, 0, components)
        problem = "" if data <= components else f"{data} data words for a store of {components}"
        return Request(Action.STORE, "store", components, size, signed, per_pixel, components, 0, problem)
    table, expected = (_ATOMIC_DATA, 2 if op == 3 else 1) if data else (_ATOMIC_PLAIN, 0)
    if op in table:
        name = table[op]
        problem = ""
        if type_ != 7 and not (type_ == 2 and name == "cmpxchg"):
            problem = f"atomic {name} with type {type_} (only 7, uint32, is known; vec2 for cmpxchg)"
        elif data > expected:
            problem = f"{data} data words for atomic {name}, which takes {expected}"
        return Request(Action.ATOMIC, name, 1, 4, False, per_pixel, expected, 1, problem)
    if not data and op in _CACHE:
        return Request(Action.CACHE, _CACHE[op], components, size, signed, per_pixel, 0, 0)
    problem = f"operation {op} {'with' if data else 'without'} data words is not defined"
    return Request(Action.CACHE, f"operation {op}", components, size, signed, per_pixel, 0, 0, problem)


def data_words(threads: int) -> int:
    """Data words of one request at most: the threads of a QPU have 16 entries together. Basis: DRIVER."""
    return 16 // threads


def result_words(threads: int) -> int:
    """Result words of a thread that compilers allow to be pending. Basis: DRIVER."""
    return 16 // threads


def component_address(isa: Isa, address: U32, k: int, components: int) -> U32:
    """Byte address of component k. On 4.2 vectors wrap inside their aligned 16 bytes; on 7.1 they do not.

    Source: `test_tmu.py` of py-videocore6 and py-videocore7.
    """
    if components == 1:
        return address
    step = np.uint32(4 * k)
    if isa is Isa.V3D42:
        return (address & np.uint32(0xFFFFFFF0)) + ((address + step) & np.uint32(15))
    return address + step


class AccessError(NamedTuple):
    """An access that breaks a rule. row: thread of the batch; rule: fault rule; `address` as computed."""

    rule: str
    row: int
    lane: int
    address: int
    size: int
    write: bool
    name: str


# Atomic -> function of both engines, over `LaneOps`: (lanes, memory word, two data words) -> new memory word.
ATOMICS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "add": lambda v, m, a, b: v.add(m, a),
    "sub": lambda v, m, a, b: v.sub(m, a),
    "xchg": lambda v, m, a, b: a,
    "cmpxchg": lambda v, m, a, b: v.select(v.eq(m, a), b, m),
    "umin": lambda v, m, a, b: v.select(v.ult(m, a), m, a),
    "umax": lambda v, m, a, b: v.select(v.ult(a, m), m, a),
    "smin": lambda v, m, a, b: v.select(v.slt(m, a), m, a),
    "smax": lambda v, m, a, b: v.select(v.slt(a, m), m, a),
    "and": lambda v, m, a, b: v.and_(m, a),
    "or": lambda v, m, a, b: v.or_(m, a),
    "xor": lambda v, m, a, b: v.xor(m, a),
    "inc": lambda v, m, a, b: v.add(m, v.const(1)),
    "dec": lambda v, m, a, b: v.sub(m, v.const(1)),
    "not": lambda v, m, a, b: v.not_(m),
}
_ONE = ScalarLanes()


class _Bytes:
    """Bytes as arrays of elements of 1, 2 and 4 bytes. at: aligned byte addresses."""

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        self.cells: dict[int, NDArray[Any]] = {1: raw, 2: raw.view(np.uint16), 4: raw.view(np.uint32)}

    def load(self, r: Request, at: U32) -> U32:
        """Load elements, extended to 32 bits by the type of the request."""
        cells = self.cells[r.size].take((at >> np.uint32(r.size >> 1)).astype(np.intp))
        if r.size == 4:
            return cells
        return cells.view(f"i{r.size}").astype(np.int32).view(np.uint32) if r.signed else cells.astype(np.uint32)

    def store(self, r: Request, at: U32, values: U32) -> None:
        """Store the low parts of the values. The last store to an address wins: the highest thread and lane."""
        cells = self.cells[r.size]
        cells[at >> np.uint32(r.size >> 1)] = values.astype(cells.dtype, copy=False)

    def atomic(self, r: Request, at: U32, operands: Sequence[U32]) -> list[int]:
        """Perform atomics one after the other. Returns: the old values."""
        step, words = ATOMICS[r.name], self.cells[4]
        ints = [d.tolist() for d in operands] or [[0] * at.size]
        index = (at >> np.uint32(2)).tolist()
        cells = {i: int(words[i]) for i in set(index)}
        before: list[int] = []
        for i, a, b in zip(index, ints[0], ints[-1], strict=True):
            before.append(cells[i])
            cells[i] = step(_ONE, cells[i], a, b)
        words[np.fromiter(cells.keys(), np.intp, len(cells))] = np.fromiter(cells.values(), np.uint32, len(cells))
        return before


class TmuMemory:
    """Loads, stores and atomics of whole batches of threads on a `Memory`.

    before_store: called with the page numbers that are about to be written (any shape). report: called with each access
    that is outside all regions or misaligned; if it returns (lenient mode), the lane uses the scratch page or the
    aligned address instead. Addresses, data and the mask of live lanes have shape (n, 16).
    """

    def __init__(
        self,
        isa: Isa,
        memory: Memory,
        *,
        before_store: Callable[[NDArray[np.integer]], None],
        report: Callable[[AccessError], None],
        scratch: NDArray[np.uint8] | None = None,
    ) -> None:
        self.isa = isa
        self.memory = memory
        self._before_store = before_store
        self._report = report
        self._all = _Bytes(memory.bytes)
        self.scratch = np.zeros(PAGE, np.uint8) if scratch is None else scratch
        self._scratch = _Bytes(self.scratch)
        self.read_bytes = 0
        self.write_bytes = 0
        self.requests = 0

    def run(self, request: Request, address: U32, live: Mask, data: Sequence[U32]) -> list[U32]:
        """Perform one request of n threads; returns its result vectors, each (n, 16)."""
        self.requests += len(address)
        if request.action is Action.CACHE:
            return []
        if request.action is Action.LOAD:
            return self._load(request, address, live)
        if request.action is Action.STORE:
            for k, value in enumerate(data[: request.components]):
                at = component_address(self.isa, address, k, request.components)
                self._store(request, at, live, value)
            return []
        return [self._atomic(request, address, live, data)]

    # -- checks

    def _check(self, request: Request, at: U32, live: Mask, write: bool) -> tuple[U32, Mask | None]:
        """Addresses that are safe to use, and the lanes, live or not, that are outside every region (None: no lane)."""
        size = request.size
        if size > 1:
            low = np.uint32(size - 1)
            odd = at & low != 0
            if odd.any():
                if (odd & live).any():
                    self._bad_access("misaligned", odd & live, at, request, write)
                at = at & ~low
        # Aligned accesses never straddle a page, so one page number decides.
        pages = at >> np.uint32(PAGE_SHIFT)
        limit = self.memory.size >> PAGE_SHIFT
        if limit <= 0xFFFFF:  # a window smaller than the address space
            outside = pages >= np.uint32(limit)
            inside = np.where(outside, np.uint32(0), pages).astype(np.intp)
            ids = np.where(outside, np.uint32(0), self.memory.pages.take(inside))
        else:
            ids = self.memory.pages.take(pages.astype(np.intp))
        if (ids & _WHOLE).all():  # pages that programs may access as a whole
            return at, None
        missing: Mask = np.greater((at & _INSIDE) + np.uint32(size), ids & _LIMIT)
        if not missing.any():
            return at, None
        if (missing & live).any():
            self._bad_access("out-of-bounds", missing & live, at, request, write)
        return np.where(missing, np.uint32(0), at), missing

    def _bad_access(self, rule: str, bad: Mask, at: U32, request: Request, write: bool) -> None:
        row, lane = (int(x) for x in np.argwhere(bad)[0])
        self._report(AccessError(rule, row, lane, int(at[row, lane]), request.size, write, request.name))

    # -- accesses

    def _load(self, request: Request, address: U32, live: Mask) -> list[U32]:
        results: list[U32] = []
        wanted = live
        if not request.per_pixel and not live.all():
            quads = live.reshape(len(live), 4, 4).any(axis=2)
            wanted = np.repeat(quads, 4, axis=1)
        every = bool(wanted.all())
        for k in range(request.components):
            asked = component_address(self.isa, address, k, request.components)
            # Lanes that only complete a quad may have any address; outside every region they load 0.
            at, missing = self._check(request, asked if every else np.where(wanted, asked, np.uint32(0)), live, False)
            value = self._all.load(request, at)
            unused = missing if every else ~wanted if missing is None else missing | ~wanted
            if unused is not None:
                value = np.where(unused, np.uint32(0), value)
            if missing is not None:
                lost = missing & live
                value[lost] = self._scratch.load(request, _scratch_place(request, asked[lost]))
            results.append(value)
        self.read_bytes += int(np.count_nonzero(wanted)) * request.size * request.components
        return results

    def _store(self, request: Request, at: U32, live: Mask, value: U32) -> None:
        asked, every = at, bool(live.all())
        at, missing = self._check(request, at if every else np.where(live, at, np.uint32(0)), live, True)
        rows = np.broadcast_to(value, at.shape)
        if every and missing is None:
            places, values = at.ravel(), rows.ravel()
        else:
            keep = live if missing is None else live & ~missing
            places, values = at[keep], rows[keep]
            if missing is not None:
                lost = missing & live
                self._scratch.store(request, _scratch_place(request, asked[lost]), rows[lost])
        self.write_bytes += int(np.count_nonzero(live)) * request.size
        if not places.size:
            return
        self._before_store(places >> np.uint32(PAGE_SHIFT))
        self._all.store(request, places, values)

    def _atomic(self, request: Request, address: U32, live: Mask, data: Sequence[U32]) -> U32:
        """Perform atomics in order of thread, then lane. Returns: the old values."""
        at, missing = self._check(request, np.where(live, address, np.uint32(0)), live, True)
        old = np.zeros(at.shape, np.uint32)
        keep = live if missing is None else live & ~missing
        operands = [np.broadcast_to(d, at.shape) for d in data[: request.expected]]
        places = at[keep]
        if places.size:
            self._before_store(places >> np.uint32(PAGE_SHIFT))
            old[keep] = self._all.atomic(request, places, [d[keep] for d in operands])
        if missing is not None:
            lost = missing & live
            places = _scratch_place(request, address[lost])
            old[lost] = self._scratch.atomic(request, places, [d[lost] for d in operands])
        n = int(np.count_nonzero(live))
        self.read_bytes += 4 * n
        self.write_bytes += 4 * n
        return old


def _scratch_place(request: Request, address: U32) -> U32:
    """The address in the scratch page of a lenient access outside every region."""
    return address & np.uint32(PAGE - 1 & -request.size)
