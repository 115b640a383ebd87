"""Sorting: bitonic networks, in the lanes of a vector first, then between vectors by launches.

Items become 32-bit integers of the same order (`order`), filled up to a power of two with the largest one. Sorting with
their numbers carries the number along and compares it where items are equal, so that equal items keep their order.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.errors import UsageError, counted
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, part, same_shape, separate
from qpu.kernels.common.retyped import ALL, name_of, retyped
from qpu.kernels.move import compact
from qpu.lang import (
    Const,
    Grid,
    In,
    InOut,
    Out,
    Team,
    bitcast,
    f32,
    i32,
    kernel,
    maximum,
    minimum,
    u8,
    u32,
    unroll,
    where,
)
from qpu.launch import Run

__all__ = ["argsort", "reference_topk", "sort", "topk", "unique"]

BLOCK: Final = 64
"""Items that one step of a launch holds in registers: four vectors."""


def order(kind: str, v: Any, signed: bool) -> Any:
    """An item as an i32 that is smaller where the item is; NaN after everything. signed: -0.0 comes before 0.0."""
    if kind == "f32":
        bits = bitcast(v, i32)
        if not signed:
            bits = where(bits == -0x80000000, 0, bits)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        return where((bits & 0x7FFFFFFF) > 0x7F800000, i32(0x7FFFFFFF), key)
    if kind == "u32":
        return bitcast(v, i32) ^ i32(-0x80000000)
    return v


def item(kind: str, key: Any) -> Any:
    """The item of an order."""
    if kind == "f32":
        return bitcast(key ^ ((key >> 31) & 0x7FFFFFFF), f32)
    if kind == "u32":
        return bitcast(key ^ i32(-0x80000000), u32)
    return key


@kernel
def to_keys(k: Grid, x: In[f32], keys: Out[i32], kind: Const[str], signed: Const[bool], down: i32) -> None:
    """down: -1 to sort from the largest, 0 from the smallest."""
    i = k.index()
    key = order(kind, x.get(i, 0), signed) ^ down
    keys[i] = key if i < x.size else 0x7FFFFFFF


@kernel
def from_keys(k: Grid, keys: In[i32], x: Out[f32], kind: Const[str], down: i32) -> None:
    i = k.index()
    x[i] = item(kind, keys[i] ^ down)


@kernel
def numbers(k: Grid, out: Out[i32]) -> None:
    i = k.index()
    out[i] = i


def exchange(a: Any, b: Any) -> Any:
    """Two vectors of keys, or of keys with numbers, so that the first has the smaller of each lane."""
    if len(a) == 1:
        return [minimum(a[0], b[0])], [maximum(a[0], b[0])]
    swap = (a[0] > b[0]) or (a[0] == b[0] and a[1] > b[1])
    return [where(swap, y, x) for x, y in zip(a, b, strict=True)], [
        where(swap, x, y) for x, y in zip(a, b, strict=True)
    ]


def halves(k: Any, v: Any, distance: int) -> Any:
    """A step inside of a vector: lanes that differ in one bit of their number are exchanged."""
    upper = (k.lane & distance) != 0
    other = [where(upper, k.rotate(x, -distance), k.rotate(x, distance)) for x in v]
    if len(v) == 1:
        return [where(upper, maximum(v[0], other[0]), minimum(v[0], other[0]))]
    turn = where(upper, -1, 0)
    mine, its = [x ^ turn for x in v], [x ^ turn for x in other]
    swap = (mine[0] > its[0]) or (mine[0] == its[0] and mine[1] > its[1])
    return [where(swap, o, x) for x, o in zip(v, other, strict=True)]


@kernel
def sort_vectors(k: Team, keys: InOut[i32], index: InOut[i32], pairs: Const[bool]) -> None:
    """Every vector sorted: upwards and downwards in turn."""
    for vector in range(k.worker, keys.size >> 4, k.workers):
        at = 16 * vector + k.lane
        v = [keys[at], index[at]] if pairs else [keys[at]]
        for size in unroll((2, 4, 8, 16)):
            turn = where((at & size) != 0, -1, 0)
            v = [x ^ turn for x in v]
            for distance in unroll([d for d in (8, 4, 2, 1) if d < size]):
                v = halves(k, v, distance)
            v = [x ^ turn for x in v]
        keys[at] = v[0]
        if pairs:
            index[at] = v[1]


@kernel
def merge_near(k: Team, keys: InOut[i32], index: InOut[i32], size: i32, count: Const[int], pairs: Const[bool]) -> None:
    """The steps of a stage inside of blocks of `count` vectors. size: items of the stage's sequences."""
    for block in range(k.worker, keys.size // (16 * count), k.workers):
        at = 16 * count * block + k.lane
        turn = where((at & size) != 0, -1, 0)
        v = [[keys[at + 16 * j] ^ turn, index[at + 16 * j] ^ turn] if pairs else [keys[at + 16 * j] ^ turn]
             for j in range(count)]  # fmt: skip
        for distance in unroll([d for d in (2, 1) if d < count]):
            for j in unroll([j for j in range(count) if not j & distance]):
                v[j], v[j + distance] = exchange(v[j], v[j + distance])
        for distance in unroll((8, 4, 2, 1)):
            v = [halves(k, x, distance) for x in v]
        for j in unroll(range(count)):
            keys[at + 16 * j] = v[j][0] ^ turn
            if pairs:
                index[at + 16 * j] = v[j][1] ^ turn


@kernel
def merge_far(
    k: Team, keys: InOut[i32], index: InOut[i32], size: i32, bits: i32, count: Const[int], pairs: Const[bool]
) -> None:
    """Steps of a stage between `count` vectors that are 2**bits items apart."""
    step = 1 << bits
    for vector in range(k.worker, keys.size // (16 * count), k.workers):
        first = 16 * vector
        at = (first >> bits) * (count * step) + (first & (step - 1)) + k.lane
        turn = where((at & size) != 0, -1, 0)
        v = [[keys[at + step * j] ^ turn, index[at + step * j] ^ turn] if pairs else [keys[at + step * j] ^ turn]
             for j in range(count)]  # fmt: skip
        for distance in unroll([d for d in (2, 1) if d < count]):
            for j in unroll([j for j in range(count) if not j & distance]):
                v[j], v[j + distance] = exchange(v[j], v[j + distance])
        for j in unroll(range(count)):
            keys[at + step * j] = v[j][0] ^ turn
            if pairs:
                index[at + step * j] = v[j][1] ^ turn


@kernel
def smaller(
    k: Grid, keys: In[i32], index: In[i32], out: Out[i32], places: Out[i32], bits: i32, pairs: Const[bool]
) -> None:
    """Of each two sequences of 2**bits items, one upwards and one downwards, the smaller half: up, then down."""
    i = k.index(out.size)
    at = i + ((i >> bits) << bits)
    step = 1 << bits
    a, b = [keys[at]], [keys[at + step]]
    if pairs:
        a, b = [*a, index[at]], [*b, index[at + step]]
    v = exchange(a, b)[0]
    out[i] = v[0]
    if pairs:
        places[i] = v[1]


def _sorted(
    jobs: Jobs, x: BufferView, pairs: bool, down: bool, signed: bool = False, first: int | None = None
) -> tuple[BufferView, BufferView]:
    """Keys in order, and the numbers of their items: all of them, or the `first` ones."""
    n = x.shape[0]
    size = max(BLOCK, 1 << (n - 1).bit_length())
    wanted = size if first is None else min(size, max(BLOCK, 1 << (first - 1).bit_length()))
    keys = jobs.scratch(size, np.int32).view(0, (size,))
    index = jobs.scratch(size if pairs else 1, np.int32).view(0, (size if pairs else 1,))
    kind = _kind(x)
    jobs.add(retyped(to_keys, "f32", x=name_of(x.dtype)), x, keys, kind, signed, -down)
    if pairs:
        jobs.add(numbers, index)

    def workers(count: int) -> int:
        return max(1, min(64, keys.size // (16 * count)))

    def merge(stage: int) -> None:
        """Sort sequences of so many items that go up and then down, upwards and downwards in turn."""
        bits = stage.bit_length() - 2  # of the largest distance
        while bits >= 6:
            count = 4 if bits >= 7 else 2
            bits -= count // 2
            jobs.add(merge_far, keys, index, stage, bits + 1, count, pairs, workers=workers(count))
        jobs.add(merge_near, keys, index, stage, 4, pairs, workers=workers(4))

    jobs.add(sort_vectors, keys, index, pairs, workers=workers(4))
    jobs.add(merge_near, keys, index, 32, 2, pairs, workers=workers(4))
    stage = BLOCK
    while stage <= wanted:
        merge(stage)
        stage *= 2
    spare: tuple[BufferView, BufferView] | None = None
    while keys.size > wanted:
        half = keys.size // 2
        if spare is None:
            spare = jobs.scratch(half, np.int32)[:], jobs.scratch(half if pairs else 1, np.int32)[:]
        out, places = spare[0][:half], spare[1][: half if pairs else 1]
        jobs.add(smaller, keys, index, out, places, wanted.bit_length() - 1, pairs)
        spare, keys, index = (keys, index), out, places
        merge(wanted)
    count = n if first is None else first
    return keys[:count], index[: count if pairs else 1]


def _kind(x: BufferView) -> str:
    name = name_of(x.dtype)
    return name if name in ("f32", "u32") else "i32"


def _operands(x: Memory, out: Memory, dtype: Any) -> tuple[BufferView, BufferView]:
    source = operand("x", x, ALL, 1)
    target = operand("out", out, source.dtype if dtype is None else dtype, 1, mode="out")
    separate("out", target, same=dtype is None, x=source)
    return source, target


def _give(jobs: Jobs, keys: BufferView, out: BufferView, kind: str, down: bool) -> None:
    jobs.add(retyped(from_keys, "f32", x=name_of(out.dtype)), keys, out, kind, -down)


@entry
def sort(x: Memory, out: Memory, descending: bool = False) -> Run:
    """The items of x in order to out, which may be x itself.

    x: one axis of f32, i32, u32 or narrower integers; out: the same. NaN comes last, and first in descending order.
    """
    source, target = _operands(x, out, None)
    same_shape(x=source, out=target)
    with Jobs(device(x=source, out=target)) as jobs:
        if source.shape[0]:
            keys, _ = _sorted(jobs, source, False, descending, signed=True)
            _give(jobs, keys, target, _kind(source), descending)
        return jobs.run()


@entry
def argsort(x: Memory, out: Memory, descending: bool = False) -> Run:
    """The numbers of the items of x in their order: x[out] is sorted. Equal items keep their order.

    x: as for `sort`; out: i32 of the same shape.
    """
    source, target = _operands(x, out, np.int32)
    same_shape(x=source, out=target)
    with Jobs(device(x=source, out=target)) as jobs:
        if source.shape[0]:
            _, index = _sorted(jobs, source, True, descending)
            jobs.add(copied, index, target)
        return jobs.run()


@entry
def topk(x: Memory, values: Memory, numbers: Memory | None = None) -> Run:
    """The k largest items of x in descending order, k the length of `values`, and their numbers (i32), if wanted.

    x: as for `sort`, at least k items; values: the same type. Of equal items the first come first.
    """
    source, target = operand("x", x, ALL, 1), operand("values", values, ALL, 1, mode="out")
    if target.dtype != source.dtype:
        raise UsageError(f"values holds {target.dtype}; allowed: {source.dtype}", help="gpu.empty(k, x.dtype)")
    k = target.shape[0]
    if k > source.shape[0]:
        raise UsageError(f"the {k} largest of {counted(source.shape[0], 'item')}", help="shorter values")
    separate("values", target, x=source)
    places = None if numbers is None else operand("numbers", numbers, np.int32, 1, mode="out")
    if places is not None:
        same_shape(values=target, numbers=places)
        separate("numbers", places, x=source, values=target)
    with Jobs(device(x=source, values=target, **({} if places is None else {"numbers": places}))) as jobs:
        if k:
            keys, index = _sorted(jobs, source, places is not None, True, first=k)
            _give(jobs, keys, target, _kind(source), True)
            if places is not None:
                jobs.add(copied, index, places)
        return jobs.run()


@entry
def unique(x: Memory, out: Memory) -> int:
    """The different items of x in order, each once, to the front of out.

    x: as for `sort`; out: the same type, as long as x. Returns: how many. NaN are one item, and so are -0.0 and 0.0.
    """
    source, target = _operands(x, out, None)
    same_shape(x=source, out=target)
    n = source.shape[0]
    if not n:
        return 0
    with Jobs(device(x=source, out=target)) as jobs:
        keys, _ = _sorted(jobs, source, False, False)
        first, found = jobs.scratch(n, np.uint8), jobs.scratch(n, np.int32)
        jobs.add(firsts, keys, first)
        count = compact(keys, first, found)
        _give(jobs, part(found, count), target[:count], _kind(source), False)
        jobs.run()
        return count


@kernel
def copied(k: Grid, x: In[i32], out: Out[i32]) -> None:
    i = k.index()
    out[i] = x[i]


@kernel
def firsts(k: Grid, keys: In[i32], out: Out[u8]) -> None:
    """1 where an item differs from the one before."""
    i = k.index()
    out[i] = i32(i == 0) | i32(keys[i] != keys.clamp[i - 1])


def reference_topk(x: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same as `topk` in NumPy."""
    at = np.argsort(-x.astype(np.float64), kind="stable")[:k]
    return x[at], at
