"""Kernels as plain Python, whole: arrays, a Grid item by item, a Team with 16 threads a worker that meet at lane
operations and barriers.
"""

from __future__ import annotations

import ast
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.scalar_lanes import float_bits, float_of
from qpu.errors import UsageError
from qpu.lang.lane_asm import LaneAsm
from qpu.lang.lanes import Scalar, Word, convert, pick
from qpu.lang.lanes_turns import counted, turns_of
from qpu.lang.source import CHUNK, Source, in_chunks
from qpu.lang.types import DTYPES, DType

__all__ = ["run_grid", "run_team", "views"]

# -- arrays


class ArrayView:
    """An array parameter in plain Python."""

    def __init__(self, name: str, dtype: DType, mode: str, data: NDArray[Any], clamped: bool = False) -> None:
        self.name = name
        self.dtype = dtype
        self.mode = mode
        self.data = data
        self.clamped = clamped

    @property
    def shape(self) -> tuple[Scalar, ...]:
        return tuple(Scalar("i", n) for n in self.data.shape)

    @property
    def size(self) -> Scalar:
        return Scalar("i", self.data.size)

    @property
    def clamp(self) -> ArrayView:
        return ArrayView(self.name, self.dtype, self.mode, self.data, True)

    def _at(self, index: Any) -> tuple[int, ...]:
        keys = tuple(int(k) for k in (index if isinstance(index, tuple) else (index,)))
        if self.clamped:
            return tuple(min(max(k, 0), n - 1) for k, n in zip(keys, self.data.shape, strict=True))
        for k, n in zip(keys, self.data.shape, strict=True):
            if not 0 <= k < n:
                raise IndexError(f"{self.name}[{', '.join(map(str, keys))}] of shape {self.data.shape}")
        return keys

    def __getitem__(self, index: Any) -> Any:
        return self._value(self.data[self._at(index)])

    def _value(self, element: Any) -> Any:
        t = self.dtype
        if t.name == "c64":
            return complex(element)
        if t.lanes > 1:
            return Word(t, int(element))
        return Scalar(t.value, float_bits(float(element)) if t.value == "f" else int(element))

    def __setitem__(self, index: Any, value: Any) -> None:
        t = self.dtype
        at = self._at(index)
        if t.name == "c64":
            self.data[at] = value
        elif t.lanes > 1:
            self.data[at] = value.bits
        elif t.value == "f":
            self.data[at] = np.float32(float_of(convert("f32", [value]).bits)).astype(self.data.dtype)
        else:
            self.data[at] = convert(t.name, [value]).number

    def get(self, *args: Any, default: Any = 0) -> Any:
        keys = [*args[0], *args[1:]] if args and isinstance(args[0], tuple) else list(args)
        if len(keys) == self.data.ndim + 1:
            default = keys.pop()
        inside = all(0 <= int(k) < n for k, n in zip(keys, self.data.shape, strict=True))
        if inside:
            return self[tuple(keys)]
        t = self.dtype
        return (
            default
            if t.lanes > 1 or t.name == "c64" or isinstance(default, Scalar)
            else convert({"f": "f32", "i": "i32", "u": "u32"}[t.value], [default])
        )

    def _update(self, index: Any, new: Callable[[Any], Any]) -> Any:
        with _ATOMIC:
            old = self[index]
            self[index] = new(old)
            return old

    def atomic_add(self, index: Any, value: Any) -> Any:
        return self._update(index, lambda old: old + value)

    def atomic_min(self, index: Any, value: Any) -> Any:
        return self._update(index, lambda old: pick(False)(old, value))

    def atomic_max(self, index: Any, value: Any) -> Any:
        return self._update(index, lambda old: pick(True)(old, value))

    def atomic_and(self, index: Any, value: Any) -> Any:
        return self._update(index, lambda old: old & value)

    def atomic_or(self, index: Any, value: Any) -> Any:
        return self._update(index, lambda old: old | value)

    def atomic_xor(self, index: Any, value: Any) -> Any:
        return self._update(index, lambda old: old ^ value)

    def atomic_cas(self, index: Any, expected: Any, value: Any) -> Any:
        return self._update(index, lambda old: value if old == expected else old)


_ATOMIC = threading.RLock()


# -- kernels


class GridLane(LaneAsm):
    """The kernel object of one item. The first call of `index` says how many there are."""

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.extent: tuple[int, ...] | None = None
        self.item: tuple[int, ...] | None = None
        self.outputs: tuple[int, ...] = ()

    def index(self, *extent: Any) -> Any:
        wanted = tuple(int(n) for n in extent) or self.outputs
        if self.item is None:
            self.extent = wanted
            raise _Started
        found = tuple(Scalar("i", n) for n in self.item)
        return found[0] if len(found) == 1 else found


class _Started(Exception):
    """The extent of a Grid is known."""


def run_grid(fn: Callable[..., Any], args: Sequence[Any], isa: str = "v3d71") -> None:
    """Call a Grid kernel once an item, in order. args: as the parameters want them (`ArrayView`, `Scalar`)."""
    k = GridLane(isa)
    k.outputs = next((a.data.shape for a in args if isinstance(a, ArrayView) and a.mode != "in"), ())
    try:
        fn(k, *args)
    except _Started:
        assert k.extent is not None
    else:
        raise UsageError("a Grid kernel has no k.index()", help="begin the body with i = k.index(n)")
    for item in itertools.product(*map(range, k.extent)):
        k.item = item
        fn(k, *args)


class _Meeting:
    """Where the 16 lanes of a worker exchange values. Lanes that a condition keeps from a statement do not come: once
    every lane waits somewhere, those in the first turn, at the first place in the text, are the ones that meet.
    """

    def __init__(self, lanes: int) -> None:
        self.lock = threading.Condition()
        self.waiting: dict[int, tuple[_Place, Any]] = {}
        self.found: dict[int, list[Any]] = {}
        self.alive = set(range(lanes))
        self.lanes = lanes
        self.broken = False

    def exchange(self, lane: int, value: Any) -> list[Any]:
        """The values of the lanes that are here, None of the others."""
        with self.lock:
            self.waiting[lane] = (_place(), value)
            self._meet()
            while lane not in self.found:
                if self.broken:
                    raise threading.BrokenBarrierError
                self.lock.wait()
            return self.found.pop(lane)

    def away(self, lane: int, back: bool = False) -> None:
        """The lane ends, or waits for other workers; back: it does no longer."""
        with self.lock:
            (self.alive.add if back else self.alive.discard)(lane)
            self._meet()

    def abort(self) -> None:
        """Let every lane fail."""
        with self.lock:
            self.broken = True
            self.lock.notify_all()

    def _meet(self) -> None:
        if not self.waiting or self.alive - set(self.waiting):
            return
        first = min(place for place, _ in self.waiting.values())
        here = {lane: value for lane, (place, value) in self.waiting.items() if place == first}
        values = [here.get(lane) for lane in range(self.lanes)]
        for lane in here:
            del self.waiting[lane]
            self.found[lane] = values
        self.lock.notify_all()


_Place: TypeAlias = tuple[tuple[int, ...], ...]


def _place(turns: bool = True) -> _Place:
    """Where in the kernel, and in the functions that it calls, the current statement is: loops with their turns, lines
    and instructions.
    """
    frame: FrameType | None = sys._getframe(1)
    found = []
    while frame is not None:
        if frame.f_code.co_filename == __file__:
            if frame.f_code.co_name == "lane_of":
                break
        else:
            loops = turns_of(frame) if turns else ()
            found.append((*(x for loop in loops for x in loop), frame.f_lineno, frame.f_lasti))
        frame = frame.f_back
    return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The loops whose items come in chunks: lines of a kernel's code."""

    code: CodeType
    lines: frozenset[int]

    @classmethod
    def of(cls, fn: Callable[..., Any], code: CodeType) -> _Chunks:
        source = Source.of(fn)
        loops = [x for x in ast.walk(source.tree) if isinstance(x, ast.For) and in_chunks(x, source.kernel)]
        return cls(code, frozenset(x.iter.lineno + source.first - 1 for x in loops))


class TeamLane(LaneAsm):
    """The kernel object of one lane of one worker."""

    def __init__(self, isa: str, worker: int, workers: int, lane: int, meeting: _Meeting, everyone: threading.Barrier,
                 shared: dict[_Place, NDArray[Any]], chunks: _Chunks) -> None:  # fmt: skip
        self.isa = isa
        self._chunks = chunks
        self._worker, self._workers, self._lane = worker, workers, lane
        self._meeting = meeting
        self._everyone = everyone
        self._shared = shared

    @property
    def lane(self) -> Scalar:
        return Scalar("i", self._lane)

    @property
    def worker(self) -> Scalar:
        return Scalar("i", self._worker)

    @property
    def workers(self) -> Scalar:
        return Scalar("i", self._workers)

    def items(self, n: Any, run: bool = False, per_lane: int = 1) -> Iterator[Scalar]:
        frame = sys._getframe(1)
        if frame.f_code is self._chunks.code and frame.f_lineno in self._chunks.lines:
            return self._in_chunks(int(n))
        return self._blocks(int(n), run, per_lane)

    def _in_chunks(self, count: int) -> Iterator[Scalar]:
        """Neighbouring items: a few a lane, on VideoCore IV a few vectors."""
        size = 16 * CHUNK
        for first in range(self._worker * size, count, self._workers * size):
            for u in range(CHUNK):
                i = first + (16 * u + self._lane if self.isa == "vc4" else CHUNK * self._lane + u)
                if i < count:
                    yield Scalar("i", i)

    def _blocks(self, count: int, run: bool, per_lane: int) -> Iterator[Scalar]:
        block = 16 * per_lane
        blocks = -(-count // block)
        if run:
            each = -(-blocks // self._workers)
            chosen: Sequence[int] = range(self._worker * each, min((self._worker + 1) * each, blocks))
        else:
            chosen = range(self._worker, blocks, self._workers)
        for number in chosen:
            i = block * number + per_lane * self._lane
            if i < count:
                yield Scalar("i", i)

    def tiles(self, m: Any, n: Any, rows: int, cols: int) -> Iterator[tuple[Scalar, Scalar]]:
        down, across = -(-int(m) // rows), -(-int(n) // cols)
        for number in range(self._worker, down * across, self._workers):
            yield Scalar("i", number // across * rows), Scalar("i", number % across * cols)

    def _all(self, value: Any) -> list[Any]:
        return self._meeting.exchange(self._lane, value)

    def _tree(self, value: Any, identity: Mapping[str, int], join: Callable[[Any, Any], Any]) -> Any:
        """Joined 8, 4, 2, 1 lanes apart; lanes that are not here bring the identity."""
        value = value if isinstance(value, Scalar) else convert("f32" if isinstance(value, float) else "i32", [value])
        absent = Scalar(value.kind, identity[value.kind])
        values = [absent if x is None else x for x in self._all(value)]
        for distance in (8, 4, 2, 1):
            values = [join(values[i], values[(i + distance) % 16]) for i in range(16)]
        return values[self._lane]

    def sum(self, value: Any) -> Any:
        return self._tree(value, _ZERO, lambda a, b: a + b)

    def min(self, value: Any) -> Any:
        return self._tree(value, _LARGEST, pick(False))

    def max(self, value: Any) -> Any:
        return self._tree(value, _SMALLEST, pick(True))

    def any(self, value: Any) -> bool:
        return any(x for x in self._all(bool(value)) if x is not None)

    def all(self, value: Any) -> bool:
        return all(x for x in self._all(bool(value)) if x is not None)

    def scan(self, value: Any) -> Any:
        value = value if isinstance(value, Scalar) else convert("f32" if isinstance(value, float) else "i32", [value])
        zero = Scalar(value.kind, 0)
        values = [zero if x is None else x for x in self._all(value)]
        for distance in (1, 2, 4, 8):
            values = [values[i] + (values[i - distance] if i >= distance else zero) for i in range(16)]
        return values[self._lane]

    def last(self, value: Any) -> Any:
        return self._from(value, 15)

    def rotate(self, value: Any, n: Any) -> Any:
        return self._from(value, self._lane + int(n))

    def broadcast(self, value: Any, lane: Any) -> Any:
        return self._from(value, int(lane))

    def shuffle(self, value: Any, index: Any) -> Any:
        return self._from(value, int(index))

    def _from(self, value: Any, lane: int) -> Any:
        """What another lane brings; of one that is not here any value: the lane's own."""
        found = self._all(value)[lane % 16]
        return value if found is None else found

    def barrier(self) -> None:
        self._meeting.away(self._lane)
        self._everyone.wait()
        self._meeting.away(self._lane, back=True)
        self._everyone.wait()

    def shared(self, type_: Any, n: int) -> ArrayView:
        t = DTYPES[type_.name]
        with _ATOMIC:
            data = self._shared.setdefault(_place(turns=False), np.zeros(n, t.numpy))
        return ArrayView("shared memory", t, "inout", data)

    def store_tile(self, c: ArrayView, i0: Any, j0: Any, acc: Any) -> None:
        for i, row in enumerate(acc):
            for j, v in enumerate(row if isinstance(row, list | tuple) else [row]):
                r, column = int(i0) + i, int(j0) + 16 * j + self._lane
                if r < c.data.shape[0] and column < c.data.shape[1]:
                    c[r, column] = v


_ZERO = {"f": 0, "i": 0, "u": 0}
_LARGEST = {"f": 0x7F800000, "i": 0x7FFFFFFF, "u": 0xFFFFFFFF}
_SMALLEST = {"f": 0xFF800000, "i": 0x80000000, "u": 0}


def run_team(fn: Callable[..., Any], args: Sequence[Any], workers: int, isa: str = "v3d71") -> None:
    """Run a Team kernel: 16 threads a worker, all workers at once."""
    everyone = threading.Barrier(16 * workers)
    run = counted(fn)
    chunks = _Chunks.of(fn, run.__code__)
    shared: dict[_Place, NDArray[Any]] = {}
    failures: list[BaseException] = []
    meetings = [_Meeting(16) for _ in range(workers)]

    def lane_of(worker: int, lane: int) -> None:
        k = TeamLane(isa, worker, workers, lane, meetings[worker], everyone, shared, chunks)
        try:
            run(k, *args)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            failures.append(error)
            everyone.abort()
            for meeting in meetings:
                meeting.abort()
        finally:
            meetings[worker].away(lane)

    threads = [
        threading.Thread(target=lane_of, args=(worker, lane), daemon=True)
        for worker in range(workers)
        for lane in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def views(parameters: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Arguments as a kernel in plain Python takes them. parameters: of `qpu.lang.compile.parameters`, without k."""
    found: list[Any] = []
    for row, value in zip(parameters, args, strict=True):
        if row.kind == "array":
            found.append(ArrayView(row.name, DTYPES[row.type], row.mode, value))
        elif row.kind == "scalar":
            found.append(convert(row.type, [value]))
        else:
            found.append(value)
    return found
