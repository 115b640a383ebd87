"""The KIR interpreter: all workers, 16 lanes each, over NumPy. An oracle, and what `Kernel.interpret` runs.

lanes: the LaneOps that gives operations their meaning; `meanings`: replacements by operation name, as the rows of an
instruction set mean them (VideoCore IV truncates sums), so that the result is the board's bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.errors import EmuFault, counted
from qpu.lang.inline_asm import execute
from qpu.lang.kir import COMPARE, ROWS, Access, Loop, Region, Skip, Value
from qpu.lang.types import DTYPES

__all__ = ["Interpreter"]

LANES = 16
GARBAGE = 0xDEADBEEF  # what lanes that nobody wants read
Bits = NDArray[Any]


class Interpreter:
    """One run of a kernel. memory: one flat array of bytes an array parameter; params: launch values by name, 32-bit
    patterns or truth values; bases of arrays are given by `bases`. single: a commit of one word is lane 0's
    (VideoCore IV).
    """

    def __init__(
        self,
        region: Region,
        params: Mapping[str, int],
        memory: Sequence[NDArray[np.uint8]],
        workers: int,
        lanes: Any,
        meanings: Mapping[str, Any] | None = None,
        names: Sequence[str] = (),
        stream: Sequence[int] = (),
        single: bool = False,
    ) -> None:
        self.region = region
        self.params = params
        self.memory = memory
        self.workers = workers
        self.lanes = lanes
        self.meanings = meanings or {}
        self.names = names
        self.stream = stream
        self.position = 0
        self.shared: dict[int, NDArray[np.uint8]] = {}
        self.values: dict[int, Bits] = {}
        self.turns = 0
        self.streams = np.zeros(workers, np.int64)
        self.queues: list[list[Bits]] = [[] for _ in range(workers)]  # of each worker's TMU
        self.pending: list[Bits] = []
        self.single = single

    def run(self) -> None:
        """Execute. Raises: EmuFault for an access outside of an array."""
        with np.errstate(all="ignore"):
            self._block(self.region, np.ones(self.workers, np.bool_))

    def _get(self, value: Value) -> Bits:
        return self.values[id(value)]

    def _fill(self, type_: str, bits: int | bool) -> Bits:
        if type_ == "b":
            return np.full((self.workers, LANES), bool(bits))
        return np.full((self.workers, LANES), int(bits) & 0xFFFFFFFF, np.uint32)

    def _block(self, region: Region, live: NDArray[np.bool_]) -> None:
        for value in region.ops:
            done = self._one(value, live)
            if done is not None:
                self.values[id(value)] = done

    def _one(self, v: Value, live: NDArray[np.bool_]) -> Bits | None:
        op = v.op
        args = [] if op in ("result", "parameter") else [self.values[id(a)] for a in v.args]
        if op in self.meanings:
            return self._shape(self.meanings[op](self.lanes, *args))
        if op in COMPARE:
            key = (op, v.attr)
            sem = self.meanings.get(f"{op}.{v.attr}") or COMPARE[op][v.attr]
            assert key is not None
            return self._shape(sem(self.lanes, *args))
        sem = ROWS[op].sem
        if sem is not None:
            return self._shape(sem(self.lanes, *args))
        return getattr(self, f"_{op}")(v, args, live)  # type: ignore[no-any-return]  # one method an operation

    def _shape(self, result: Any) -> Bits:
        shape = (self.workers, LANES)
        found: Bits = result if getattr(result, "shape", None) == shape else np.broadcast_to(np.asarray(result), shape)
        return found

    # -- sources

    def _const(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._fill(v.type, v.attr)

    def _param(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._fill(v.type, self.params[v.attr])

    def _lane(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return np.tile(np.arange(LANES, dtype=np.uint32), (self.workers, 1))

    def _worker(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return np.repeat(np.arange(self.workers, dtype=np.uint32)[:, None], LANES, axis=1)

    def _workers(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._fill("i", self.workers)

    def _stream(self, v: Value, args: list[Bits], live: Any) -> Bits:
        word = self.stream[self.position]
        self.position += 1
        return self._fill(v.type, word)

    def _parameter(self, v: Value, args: list[Bits], live: Any) -> None:
        return None

    def _result(self, v: Value, args: list[Bits], live: Any) -> None:
        return None

    # -- integers that rows leave to legalisation

    def _div(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._divided(v, args)[0]

    def _mod(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._divided(v, args)[1]

    def _divided(self, v: Value, args: list[Bits]) -> tuple[Bits, Bits]:
        a, b = (x.view(np.int32).astype(np.int64) if v.type == "i" else x.astype(np.int64) for x in args)
        safe = np.where(b == 0, 1, b)
        q, r = a // safe, a % safe
        return (q & 0xFFFFFFFF).astype(np.uint32), (r & 0xFFFFFFFF).astype(np.uint32)

    def _asm(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._shape(execute(v.attr, self.lanes, args))

    # -- lanes

    def _any(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return np.repeat(args[0].any(axis=1, keepdims=True), LANES, axis=1)

    def _all(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return np.repeat(args[0].all(axis=1, keepdims=True), LANES, axis=1)

    def _rot(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return np.roll(args[0], -int(v.attr), axis=1)

    def _at(self, a: Bits, index: NDArray[Any]) -> Bits:
        return np.take_along_axis(a, (index & 15).astype(np.int64), axis=1)

    def _rotv(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._at(args[0], np.arange(LANES, dtype=np.uint32) + args[1])

    def _bcast(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._at(args[0], np.repeat(args[1][:, :1], LANES, axis=1))

    def _shuffle(self, v: Value, args: list[Bits], live: Any) -> Bits:
        return self._at(args[0], args[1])

    # -- memory

    def _where(
        self, v: Value, args: list[Bits], mask: Bits | None, live: Any
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Byte positions in the array, and the lanes that access it."""
        access: Access = v.attr
        base = args[0].view(np.int32).astype(np.int64)
        at = base + args[1].view(np.int32).astype(np.int64) + access.offset
        wanted = np.broadcast_to(live[:, None], at.shape).copy()
        if mask is not None:
            wanted &= mask
        return at, wanted

    def _bytes(self, access: Access, at: NDArray[Any], wanted: NDArray[np.bool_], v: Value) -> NDArray[np.uint8]:
        if access.array < 0:
            memory = self.shared.setdefault(0, np.zeros(1 << 16, np.uint8))
        else:
            memory = self.memory[access.array]
        size = _size(access)
        bad = wanted & ((at < 0) | (at + size > memory.size) | (at % size != 0))
        if bad.any():
            w, lane = (int(x[0]) for x in np.nonzero(bad))
            name = self.names[access.array] if 0 <= access.array < len(self.names) else f"array {access.array}"
            element = int(at[w, lane]) // size
            where = f" at {v.loc}" if v.loc is not None else ""
            raise EmuFault(
                "out-of-bounds",
                f"{v.op} of {name}[{element}], which has {counted(memory.size // size, 'element')}: "
                f"worker {w}, lane {lane}{where}",
                help="compare the index with the size, or use .get or .clamp",
            )
        return memory

    def _load(self, v: Value, args: list[Bits], live: Any) -> Bits:
        at, wanted = self._where(v, args, args[2] if len(args) > 2 else None, live)
        return self._read(v, v.attr, at, wanted)

    def _read(self, v: Value, access: Access, at: NDArray[Any], wanted: Bits) -> Bits:
        memory = self._bytes(access, at, wanted, v)
        t = DTYPES[access.dtype]
        dtype = np.float32 if t.name == "c64" else t.numpy
        elements = memory.view(dtype)
        index = np.where(wanted, at, 0) // np.dtype(dtype).itemsize
        found = elements[index]
        word = (
            found.astype(np.float32).view(np.uint32)
            if t.value == "f"
            else (found.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
        )
        return np.where(wanted, word, np.uint32(0 if access.zero else GARBAGE))

    def _store(self, v: Value, args: list[Bits], live: Any) -> None:
        at, wanted = self._where(v, args, args[3] if len(args) > 3 else None, live)
        self._write(v, v.attr, at, wanted, args[2])

    def _write(self, v: Value, access: Access, at: NDArray[Any], wanted: Bits, word: Bits) -> None:
        memory = self._bytes(access, at, wanted, v)
        t = DTYPES[access.dtype]
        dtype = np.float32 if t.name == "c64" else t.numpy
        elements = memory.view(dtype)
        new: Any
        if t.value == "f":
            new = np.ascontiguousarray(word).view(np.float32).astype(dtype)
        else:
            new = word.astype(np.dtype(dtype).str.replace("i", "u"))
            new = np.ascontiguousarray(new).view(dtype)
        elements[(at // np.dtype(dtype).itemsize)[wanted]] = new[wanted]

    # -- requests, as passes for one chip make them

    def _request(self, v: Value, args: list[Bits], live: Any) -> None:
        """The words are read at once; masked lanes get anything."""
        access = v.attr.access
        if self.single and DTYPES[access.dtype].size < 4:
            at, wanted = self._where_at(args, access, 0, args[2] if len(args) > 2 else None, live)
            self._ask(self._word(v, access, at, wanted), live)
            return
        for k in range(v.attr.words):
            at, wanted = self._where_at(args, access, 4 * k, args[2] if len(args) > 2 else None, live)
            self._ask(self._read(v, access, at, wanted), live)

    def _word(self, v: Value, access: Access, at: NDArray[Any], wanted: Bits) -> Bits:
        """The aligned word around a narrow element."""
        memory = self._bytes(access, at, wanted, v)
        words = np.concatenate([memory, np.zeros(-memory.size % 4, np.uint8)]).view(np.uint32)
        return np.where(wanted, words[np.where(wanted, at, 0) // 4], np.uint32(GARBAGE))

    def _pop(self, v: Value, args: list[Bits], live: Any) -> Bits:
        found = np.full((self.workers, LANES), GARBAGE, np.uint32)
        for w in np.flatnonzero(live):
            found[w] = self.queues[w].pop(0)
        return found

    def _ask(self, words: Bits, live: Any) -> None:
        """A result for each worker that asks; others may have left the loop."""
        for w in np.flatnonzero(live):
            self.queues[w].append(words[w])

    def _seek(self, v: Value, args: list[Bits], live: Any) -> None:
        self.streams = np.where(live, args[0][:, 0].astype(np.int64), self.streams)

    def _next(self, v: Value, args: list[Bits], live: Any) -> Bits:
        """A word for all lanes, of arrays that are parts of one memory."""
        words = self.memory[0][: self.memory[0].size // 4 * 4].view(np.uint32)
        found = words[np.clip(self.streams // 4, 0, words.size - 1)]
        self.streams = np.where(live, self.streams + 4, self.streams)
        return np.repeat(found[:, None], LANES, axis=1)

    def _data(self, v: Value, args: list[Bits], live: Any) -> None:
        self.pending.append(args[0])

    _row = _data

    def _commit(self, v: Value, args: list[Bits], live: Any) -> None:
        access = v.attr.access
        words, self.pending = self.pending, []
        mask: Bits | None = None
        if access.operation and not self.single:  # the TMU does it, and gives the old element
            at, wanted = self._where_at(args, access, 0, args[2] if len(args) > 2 else None, live)
            self._ask(self._exchange(v, access, at, wanted, words), live)
            return
        if len(args) > 2 and v.args[2].type == "b":
            mask = args[2]
        elif v.attr.words == 16 or len(args) > 2:  # a row: so many lanes from the first
            mask = np.arange(LANES) < (args[2].view(np.int32) if len(args) > 2 else LANES)
            mask = np.broadcast_to(mask, (self.workers, LANES))
        elif v.attr.words == 1 and self.single:
            mask = np.broadcast_to(np.arange(LANES) < 1, (self.workers, LANES))
        rows = v.attr.rows > 1 and not v.attr.step
        step = LANES * min(_size(access), 4) if rows else 4  # rows, or the words of each lane
        for k, word in enumerate(words):
            at, wanted = self._where_at(args, access, step * k, mask, live)
            self._write(v, access, at, wanted, word)

    def _where_at(
        self, args: list[Bits], access: Access, more: int, mask: Bits | None, live: Any
    ) -> tuple[NDArray[Any], Bits]:
        at = args[0].view(np.int32).astype(np.int64) + args[1].view(np.int32).astype(np.int64) + more
        wanted: Bits = np.broadcast_to(live[:, None], at.shape).copy()
        if mask is not None:
            wanted &= mask
        return at, wanted

    def _atomic(self, v: Value, args: list[Bits], live: Any) -> Bits:
        access: Access = v.attr
        count = 2 if access.operation == "cas" else 1
        mask = args[2 + count] if len(args) > 2 + count else None
        at, wanted = self._where(v, args, mask, live)
        if access.once:
            wanted &= np.arange(LANES) < 1
        return self._exchange(v, access, at, wanted, args[2 : 2 + count])

    def _exchange(self, v: Value, access: Access, at: NDArray[Any], wanted: Bits, words: list[Bits]) -> Bits:
        """The old elements; lane after lane."""
        memory = self._bytes(access, at, wanted, v)
        t = DTYPES[access.dtype]
        elements: NDArray[Any] = memory.view(t.numpy)
        old = np.full((self.workers, LANES), GARBAGE, np.uint32)
        operands = [np.ascontiguousarray(x).view(t.numpy) for x in words]
        for w, lane in zip(*np.nonzero(wanted), strict=True):
            i = int(at[w, lane]) // 4
            before = elements[i]
            old[w, lane] = elements[i : i + 1].view(np.uint32)[0]
            elements[i] = _ATOMIC[access.operation](before, *(x[w, lane] for x in operands))
        return old

    def _fetch(self, v: Value, args: list[Bits], live: Any) -> Bits:
        """A DMA load: so many lanes from the first, or lane 0."""
        count = args[2].view(np.int32) if len(args) > 2 else v.attr.words
        mask = np.broadcast_to(np.arange(LANES) < count, (self.workers, LANES))
        at, wanted = self._where_at(args, v.attr.access, 0, mask, live)
        return self._read(v, v.attr.access, at, wanted)

    def _lock(self, v: Value, args: list[Bits], live: Any) -> None:
        return None

    _unlock = _lock
    _semaphore = _lock

    def _barrier(self, v: Value, args: list[Bits], live: Any) -> None:
        return None

    # -- control

    def _loop(self, v: Value, args: list[Bits], live: NDArray[np.bool_]) -> None:
        attr: Loop = v.attr
        current = [a.copy() for a in args[1:]]
        running = live & args[0].any(axis=1)
        while running.any():
            self.turns += 1
            for p, x in zip(attr.region.parameters, current, strict=True):
                self.values[id(p)] = x
            self._block(attr.region, running)
            news = [self._get(y) for y in attr.yields]
            current = [np.where(running[:, None], new, old) for new, old in zip(news, current, strict=True)]
            running = running & self._get(attr.cond).any(axis=1)
        for r, x in zip(attr.results, current, strict=True):
            self.values[id(r)] = x

    def _if_any(self, v: Value, args: list[Bits], live: NDArray[np.bool_]) -> None:
        attr: Skip = v.attr
        running = live & args[0].any(axis=1)
        news: list[Bits]
        if running.any():
            self._block(attr.region, running)
            news = [self._get(y) for y in attr.yields]
        else:
            news = args[1:]
        for r, new, old in zip(attr.results, news, args[1:], strict=True):
            self.values[id(r)] = np.where(running[:, None], new, old)


_ATOMIC: dict[str, Any] = {
    "add": lambda old, x: old + x,
    "min": min,
    "max": max,
    "and": lambda old, x: old & x,
    "or": lambda old, x: old | x,
    "xor": lambda old, x: old ^ x,
    "cas": lambda old, expected, new: new if old == expected else old,
}


def _size(access: Access) -> int:
    t = DTYPES[access.dtype]
    return 4 if t.name == "c64" else t.size
