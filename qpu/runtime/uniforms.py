"""Uniform streams: ownership check, packing of numbers and addresses into words, and placement in device memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.core.deferred_signals import critical
from qpu.errors import UsageError, counted
from qpu.runtime.pool import MemoryPool, Place

if TYPE_CHECKING:
    from qpu.drivers.base import Bo, Bounds

__all__ = ["Scalar", "Uniforms", "declared", "own", "pack_uniforms", "place", "stream_of", "streams_of"]

Scalar: TypeAlias = "int | float | np.generic | Place"
Uniforms: TypeAlias = "Sequence[Scalar | Sequence[Any] | NDArray[Any]] | NDArray[Any] | Place"

ROW = 64  # bytes: alignment of a stream
PAGE = 4096  # bytes: granularity of bounds on emulated boards
SLACK = 64  # bytes of zeros after each stream, so that reads past its end see no words of an earlier launch


def own(part: object, pool: MemoryPool) -> int:
    """The address of device memory of `pool`. Raises: UsageError for anything else."""
    if not isinstance(part, Place):
        raise UsageError(f"{part!r} is a {type(part).__name__}", help="pass device memory (gpu.array), or a part of it")
    if part.pool is not pool:
        raise UsageError("the buffer belongs to another device", help="allocate it on this one")
    return _address(part)


def _address(part: Place, where: str = "") -> int:
    """The address of a place. Raises: UsageError where its elements do not follow each other."""
    if not part.contiguous:
        raise UsageError(
            f"{where}the elements of {part!r} do not follow each other, and a program is given an address alone",
            help="pass its .address, and the strides as numbers",
        )
    return part.address


def declared(kinds: Sequence[tuple[str, str]] | None, uniforms: Uniforms) -> Uniforms:
    """The values of a launch, checked and converted by what the program declares (`Code.uniforms`).

    Arrays and device memory are words already: only the number of an array's words is checked.
    Raises: UsageError naming the uniform.
    """
    if kinds is None or isinstance(uniforms, Place):
        return uniforms
    rows = (list, tuple, np.ndarray)
    if isinstance(uniforms, rows) and len(uniforms) and all(isinstance(row, rows) for row in uniforms):
        return [_by_kind(kinds, row) for row in uniforms]
    return _by_kind(kinds, uniforms)


def _by_kind(kinds: Sequence[tuple[str, str]], row: Any) -> NDArray[Any] | list[Scalar]:
    given = list(row)
    if len(given) != len(kinds):
        text = ", ".join(f"{name}: {kind}" for name, kind in kinds) or "none"
        raise UsageError(
            f"{counted(len(given), 'uniform')} given, but the program declares {text}", help="pass one value each"
        )
    if isinstance(row, np.ndarray):
        return row
    return [
        _converted(f"uniform {i} ({name}: {kind})", kind, value)
        for i, ((name, kind), value) in enumerate(zip(kinds, given, strict=True))
    ]


def _converted(what: str, kind: str, value: Any) -> Any:
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if kind == "ptr":
        low, high, fits = 0, (1 << 32) - 1, integer or isinstance(value, Place)
        help = "pass a buffer, or its .address"
    elif kind == "f32":
        if integer:
            return float(value)
        low, high, fits = 0, 0, isinstance(value, (float, np.floating))
        help = "pass a number"
    else:
        low, high = (-(1 << 31), (1 << 31) - 1) if kind == "i32" else (0, (1 << 32) - 1)
        fits, help = integer, "pass an integer: int(x)"
    if not fits:
        raise UsageError(f"{what}: {value!r} is a {type(value).__name__}", help=help)
    if integer and not low <= int(value) <= high:
        raise UsageError(f"{what}: {value} is outside {low}..{high}", help="pass a value in this range")
    return value


def stream_of(pool: MemoryPool, uniforms: Uniforms) -> bytes | int:
    """A uniform stream, checked: words that must be placed, or the address of device memory.

    Raises: UsageError for rows, which are streams of several programs on VideoCore IV.
    """
    if isinstance(uniforms, (list, tuple)) and uniforms and all(isinstance(u, (list, tuple)) for u in uniforms):
        raise UsageError(
            f"uniforms = {counted(len(uniforms), 'row')}, but all threads of a V3D launch read one stream",
            help="pass one flat list; threads tell themselves apart by q.tidx, q.eidx or the payload",
        )
    return own(uniforms, pool) if isinstance(uniforms, Place) else pack_uniforms(uniforms, pool)


def streams_of(pool: MemoryPool, uniforms: Uniforms, streams: Sequence[object] | None) -> list[bytes | int]:
    """The streams of a VideoCore IV launch: `streams` in device memory, or one per row of `uniforms`, or a single one.

    Rows are the parts of a sequence of sequences or a 2-D array.
    """
    if streams is not None:
        if isinstance(uniforms, Place) or len(uniforms):
            raise UsageError("uniforms and streams are both given", help="leave one of them out")
        return [own(part, pool) for part in streams]
    kinds = (list, tuple, np.ndarray)
    if isinstance(uniforms, kinds) and len(uniforms) and isinstance(uniforms[0], kinds):
        return [pack_uniforms(row, pool) for row in uniforms]
    return [stream_of(pool, uniforms)]


def place(pool: MemoryPool, streams: Sequence[bytes | int], scratch: list[Bo]) -> list[int]:
    """GPU addresses of the streams; words are copied into scratch memory, which is added to `scratch`."""
    rows = [(row, (len(row) + SLACK + ROW - 1) // ROW * ROW) for row in streams if isinstance(row, bytes)]
    if not rows:
        return [at for at in streams if isinstance(at, int)]
    if pool.bounds is not None:
        return _guarded(pool, streams, scratch, pool.bounds)
    with critical():
        bo = pool.scratch(sum(length for _, length in rows))
        scratch.append(bo)
    view, base, at = bo.view, bo.address, 0
    addresses = []
    for row, length in rows:
        view[at : at + length] = row.ljust(length, b"\0")
        addresses.append(base + at)
        at += length
    return addresses


def _guarded(pool: MemoryPool, streams: Sequence[bytes | int], scratch: list[Bo], bounds: Bounds) -> list[int]:
    """As `place`, for emulated boards with exact bounds: a stream ends at the end of a page, and the next is free."""
    rows = [row for row in streams if isinstance(row, bytes)]
    pages = [max(1, -(-len(row) // PAGE)) for row in rows]
    with critical():
        bo = pool.scratch(PAGE * sum(n + 1 for n in pages))
        scratch.append(bo)
    addresses, at = [], 0
    view, base = bo.view, bo.address
    for row, n in zip(rows, pages, strict=True):
        start = at + PAGE * n - len(row)
        view[start : start + len(row)] = row
        addresses.append(base + start)
        at += PAGE * (n + 1)
    bounds.streams(base, [(a, len(row)) for a, row in zip(addresses, rows, strict=True)])
    return addresses


def pack_uniforms(values: Uniforms, pool: MemoryPool | None = None) -> bytes:
    """Uniform words as bytes: ints (-2**31..2**32-1), floats (as binary32), 32-bit NumPy values, buffers (addresses).

    Sequences and arrays are flattened. Raises: UsageError naming the position of a value that does not make 32-bit
    words, or of a buffer that is closed or does not belong to `pool`.
    """
    if isinstance(values, np.ndarray):
        return _array_words(values, "uniforms")
    if isinstance(values, (str, bytes, bytearray, Mapping, Set)) or not isinstance(values, Iterable):
        message = f"uniforms = {values!r}: {type(values).__name__} is not a stream of words"
        raise UsageError(message, help="pass a list, array or buffer")
    out = bytearray()
    _pack(out, values, pool)
    return bytes(out)


def _array_words(values: NDArray[Any], what: str) -> bytes:
    if values.dtype.itemsize != 4 or values.dtype.kind not in "iuf":
        cast = {"f": "float32", "i": "int32"}.get(values.dtype.kind, "uint32")
        raise UsageError(
            f"{what}: an array of {values.dtype} does not hold 32-bit words; allowed: uint32, int32, float32",
            help=f"write x.astype(np.{cast})",
        )
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def _pack(out: bytearray, values: Iterable[Any], pool: MemoryPool | None) -> None:
    for value in values:
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            number = int(value)
            if not -(1 << 31) <= number < 1 << 32:
                raise UsageError(f"{_where(out)}: {number} does not fit 32 bits", help="pass -2**31..2**32-1")
            out += (number & 0xFFFFFFFF).to_bytes(4, "little")
        elif isinstance(value, Place):
            if pool is not None and value.pool is not pool:
                raise UsageError(f"{_where(out)}: the buffer belongs to another device", help="allocate it on this one")
            out += _address(value, f"{_where(out)}: ").to_bytes(4, "little")
        elif isinstance(value, (bool, np.bool_)):
            raise UsageError(f"{_where(out)}: {value!r} is a truth value", help="pass 0 or 1")
        elif isinstance(value, (float, np.floating)):
            with np.errstate(over="ignore"):
                narrow = np.float32(value)
            if np.isinf(narrow) and not np.isinf(value):
                raise UsageError(
                    f"{_where(out)}: {value!r} is beyond float32", help="pass up to 3.4e38, NaN or infinity"
                )
            out += narrow.tobytes()
        elif isinstance(value, np.ndarray):
            out += _array_words(value, _where(out))
        elif isinstance(value, (list, tuple)):
            _pack(out, value, pool)
        else:
            message = f"{_where(out)}: {type(value).__name__} is not a uniform"
            raise UsageError(message, help="pass int, float, NumPy values or buffers")


def _where(out: bytearray) -> str:
    return f"uniform {len(out) // 4}"
