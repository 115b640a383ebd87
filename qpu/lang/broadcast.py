"""What a `ufunc` does with its arguments: shapes broadcast, axes merged, kernels launched."""

from __future__ import annotations

import functools
import itertools
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qpu.buffers import BufferView
from qpu.device import device_of
from qpu.errors import UsageError, counted
from qpu.lang import lanes, surface
from qpu.lang.arguments import refusal, view_of
from qpu.lang.patterns import AXES, Argument, Function
from qpu.lang.types import DTYPES

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = ["apply", "reduce", "result_of"]


def _array(title: str, name: str, value: Any, mode: str = "in") -> BufferView | None:
    """An argument as a view; None for a number. Raises: UsageError."""
    if isinstance(value, numbers.Real | np.bool_):
        return None
    found = view_of(title, _Argument(name, mode), value)
    return found if isinstance(found, BufferView) else found.view(0, found.shape)


class _Argument(NamedTuple):
    """An argument as `view_of` wants it."""

    name: str
    mode: str
    type: str = "numbers, or a number"
    rank: int = 1


def apply(u: Function, args: Sequence[Any], out: Any, where: Any) -> Any:
    """u(*args, out=out, where=where). Raises: UsageError."""
    title = u.title
    types = u.types[0]
    if len(args) != len(types):
        raise refusal("launch-type", title, f"it takes {counted(len(types), 'argument')}, {len(args)} are given",
                      allowed=", ".join(types))  # fmt: skip
    arrays = [_array(title, f"argument {n + 1}", a) for n, a in enumerate(args)]
    condition = None if where is None else _array(title, "where", where)
    if where is not None and (condition is None or condition.dtype != np.dtype(bool)):
        raise refusal("launch-type", title, "where is not an array of truth values", allowed="a buffer of bool",
                      help="gpu.array(mask), mask an ndarray of bool")  # fmt: skip
    types, result = u.types_for([_type_of(title, n, a, value) for n, (a, value) in
                                 enumerate(zip(arrays, args, strict=True))])  # fmt: skip
    present = [a for a in arrays if a is not None]
    if not present and condition is None and out is None:
        return _of_numbers(u, types, result, args)
    target = None if out is None else _array(title, "out", out, "out" if where is None else "inout")
    for n, (a, type_) in enumerate(zip(arrays, types, strict=True)):
        wanted = np.dtype(DTYPES[type_].numpy)
        if a is not None and a.dtype != wanted:
            raise refusal("launch-type", title, f"argument {n + 1} holds {a.dtype}", allowed=f"{wanted}",
                          help=f"gpu.array(x.astype(np.{wanted}))")  # fmt: skip
    shapes = [a.shape for a in (*present, *([condition] if condition else []))]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise refusal("launch-type", title, f"shapes {', '.join(map(str, shapes))} cannot be broadcast together",
                      help="axes must be equal or 1, counted from the last") from None  # fmt: skip
    kind = np.dtype(bool if result == "bool" else DTYPES[result].numpy)
    if out is None:
        gpu = device_of((*present, condition)[0].buffer)  # type: ignore[union-attr]  # one of them is there
        out = (gpu.zeros if condition else gpu.empty)(shape, kind)
        target = out.view(0, shape)
    elif target is None or target.dtype != kind or (shapes and target.shape != shape):
        found = f"a {type(out).__name__}" if target is None else f"{target.dtype} of shape {target.shape}"
        raise refusal("launch-type", title, f"out is {found}", allowed=f"{kind} of shape {shape}")
    assert target is not None
    _launch(u, types, result, args, arrays, condition, target)
    return out


def _type_of(title: str, n: int, a: BufferView | None, value: Any) -> str:
    """The language's name of an array's type; "int" or "float" for a number."""
    if a is None:
        return "int" if isinstance(value, numbers.Integral) else "float"
    for t in DTYPES.values():
        if t.lanes == 1 and np.dtype(t.numpy) == a.dtype and t.name != "c64":
            return t.name
    if a.dtype == np.dtype(bool):
        return "u8"
    raise refusal("launch-type", title, f"argument {n + 1} holds {a.dtype}", allowed="types of the language")


def result_of(u: Function, types: Sequence[str]) -> str:
    """The type of the result where no annotation gives it: that of a trial with plain numbers."""
    for number in (1, 0.5):
        try:
            found = u.__qpu_function__(*(lanes.convert(t, [number]) for t in types))
        except Exception:  # outside of its domain, or wrong: compiling says where
            continue
        if isinstance(found, lanes.Scalar):
            return {"f": "f32", "i": "i32", "u": "u32"}[found.kind]
        if isinstance(found, bool | np.bool_):
            return "bool"
        if isinstance(found, float):
            return "f32"
    return "f32" if "f32" in types or "f16" in types else "i32"


def _of_numbers(u: Function, types: Sequence[str], result: str, args: Sequence[Any]) -> Any:
    """The function of plain numbers, in the language's types."""
    found = u.__qpu_function__(*(lanes.convert(t, [a]) for t, a in zip(types, args, strict=True)))
    return bool(found) if result == "bool" else lanes.convert(result, [found]).number


def _moves(shape: Sequence[int], result: Sequence[int]) -> tuple[bool, ...]:
    """Along which axes of the result an array of that shape moves."""
    padded = (1,) * (len(result) - len(shape)) + tuple(shape)
    return tuple(n != 1 or m == 1 for n, m in zip(padded, result, strict=True))


def _launch(
    u: Function,
    types: Sequence[str],
    result: str,
    args: Sequence[Any],
    arrays: Sequence[BufferView | None],
    condition: BufferView | None,
    out: BufferView,
) -> None:
    shape = out.shape or (1,)
    if 0 in shape:
        return
    kept = [n for n, size in enumerate(shape) if size != 1] or [len(shape) - 1]
    rows = [None if a is None else tuple(_moves(a.shape, shape)[n] for n in kept) for a in arrays]
    masks = None if condition is None else tuple(_moves(condition.shape, shape)[n] for n in kept)
    sizes = [shape[n] for n in kept]
    merged: list[list[int]] = []
    whole = [_steps(a, shape, kept) for a in (*arrays, condition, out)]
    for n in range(len(kept)):
        alike = merged and all(r is None or r[n] == r[n - 1] for r in (*rows, masks))
        alike = alike and all(s is None or s[n - 1] == s[n] * sizes[n] for s in whole)
        merged[-1].append(n) if alike else merged.append([n])
    extents = [int(np.prod([sizes[n] for n in group])) for group in merged]

    def of(row: tuple[bool, ...] | None) -> tuple[bool, ...] | None:
        return None if row is None else tuple(row[group[0]] for group in merged)

    outer = max(len(extents) - AXES, 0)
    inner = extents[outer:]
    same = next((n for n, a in enumerate(arrays) if a is not None and _is_out(a, out, of(rows[n]))), None)
    patterns = [Argument(t, None if r is None else r[outer:]) for t, r in
                zip(types, (of(row) for row in rows), strict=True)]  # fmt: skip
    mask = of(masks)
    last = [group[-1] for group in merged]
    steps = [None if s is None else [s[n] for n in last] for s in whole]
    kernel = u.kernel_for(result, patterns, None if mask is None else mask[outer:], same)
    gpu: Device = device_of(out.buffer)
    for at in itertools.product(*map(range, extents[:outer])):
        values: list[Any] = []
        for n, (a, row) in enumerate(zip(arrays, (of(r) for r in rows), strict=True)):
            if n == same:
                continue
            values.append(args[n] if a is None or row is None else _part(a, row, steps[n], extents, at, a.dtype))
        if condition is not None and mask is not None:
            values.append(_part(condition, mask, steps[-2], extents, at, np.dtype(np.uint8)))
        stored = np.dtype(np.uint8) if out.dtype == np.dtype(bool) else out.dtype
        values.append(_part(out, (True,) * len(extents), steps[-1], extents, at, stored))
        kernel.on(gpu)(*values)
    assert inner


def _is_out(a: BufferView, out: BufferView, row: tuple[bool, ...] | None) -> bool:
    """Whether an argument is where the result goes, item for item."""
    place = (a.buffer is out.buffer, a.offset == out.offset, a.dtype == out.dtype, a.strides == out.strides)
    return all(place) and row is not None and all(row)


def _steps(a: BufferView | None, shape: Sequence[int], kept: Sequence[int]) -> list[int] | None:
    """Bytes from element to element of an array along the axes that are kept; 0 where it does not move."""
    if a is None:
        return None
    more = len(shape) - len(a.shape)
    rows = [0] * more + [0 if n == 1 else s for n, s in zip(a.shape, a.strides, strict=True)]
    return [rows[n] for n in kept] if rows else [0]


def _part(
    a: BufferView, row: tuple[bool, ...], steps: Sequence[int] | None, extents: Sequence[int], at: Sequence[int],
    dtype: np.dtype[Any],
) -> BufferView:  # fmt: skip
    """What one launch sees of an array: its own axes, at indices `at` of the axes that are launches."""
    assert steps is not None
    own = [n for n, m in enumerate(row) if m]
    offset = a.offset + sum(at[n] * steps[n] for n in own if n < len(at))
    inner = [n for n in own if n >= len(at)]
    shape, strides = [extents[n] for n in inner] or [1], [steps[n] for n in inner] or [dtype.itemsize]
    return BufferView(a.buffer, offset, shape, dtype, strides)


@functools.cache
def _same(make: Any, type_: str) -> Any:
    """The ufunc that copies numbers of a type. make: the class of ufuncs."""

    def same(x: Any) -> Any:
        return x

    same.__annotations__ = dict.fromkeys(("x", "return"), getattr(surface, type_))
    return make(same)


def reduce(u: Function, array: Any) -> Any:
    """u.reduce(array). Raises: UsageError."""
    title = u.title
    if u.identity is None:
        raise UsageError(
            f"{title} has no reduce", help="@ufunc(identity=...) for associative and commutative functions"
        )
    a = _array(title, "array", array)
    if a is None:
        return array
    own = _type_of(title, 0, a, array)
    types, result = u.types_for([own, own])
    if len(types) != 2 or types != [result, result]:
        raise UsageError(f"{title} does not join two values of one type", help="f(a: f32, b: f32) -> f32")
    gpu = device_of(a.buffer)
    size = int(np.prod(a.shape, dtype=np.int64))
    kernel = u.reducer(result)
    if not a.contiguous:  # its elements one after another
        with gpu.empty(a.shape, a.dtype) as copy:
            apply(_same(type(u), result), [a], copy, None)
            return reduce(u, copy)
    wide = a.buffer.view(a.offset, (size,), a.dtype)
    with gpu.empty(64, a.dtype) as parts, gpu.empty(1, a.dtype) as last:
        kernel.on(gpu)(wide, parts)
        kernel.on(gpu)(parts, last)
        return last.numpy()[0]
