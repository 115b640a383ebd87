"""The parameters of a kernel, and how a call binds its arguments to them."""

from __future__ import annotations

import numbers
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView
from qpu.errors import counted
from qpu.lang.arguments import refusal, viewed
from qpu.lang.types import DTYPES, DType

if TYPE_CHECKING:
    from qpu.lang.compile import Parameter

__all__ = ["Row", "Signature", "scalar_of"]


class Declared(Protocol):
    """A kernel, as far as its parameters go."""

    @property
    def fn(self) -> Callable[..., None]: ...
    @property
    def parameters(self) -> list[Parameter]: ...
    @property
    def team(self) -> bool: ...


class Row:
    """A parameter, with what a launch asks of it again and again."""

    __slots__ = ("base", "dtype", "kind", "misaligned", "mode", "name", "rank", "shapes", "size", "strides", "type")

    def __init__(self, row: Parameter) -> None:
        self.name, self.kind, self.mode, self.rank = row.name, row.kind, row.mode, row.rank
        self.type: DType | None = DTYPES[row.type] if row.type else None
        self.base = f"{row.name}.base"
        self.shapes = [f"{row.name}.shape{k}" for k in range(row.rank)]
        self.strides = [f"{row.name}.stride{k}" for k in range(row.rank)]
        self.dtype = np.dtype(self.type.numpy) if row.kind == "array" and self.type else None
        self.size = self.dtype.itemsize if self.dtype is not None else 0
        self.misaligned = min(self.size, 4) - 1
        """Bits of an address that are 0 where an element begins."""


class Signature:
    """The parameters of a kernel, and how a call binds them."""

    def __init__(self, k: Declared) -> None:
        self.title = k.fn.__name__
        self.parameters = k.parameters
        self.rows = [Row(p) for p in self.parameters]
        self.count = len(self.rows)
        self.team = k.team
        self.consts = [n for n, r in enumerate(self.rows) if r.kind == "const"]

    def bind(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Sequence[Any]:
        """One value a parameter."""
        if len(args) == self.count and not keywords:
            return args
        title, names = self.title, [r.name for r in self.rows]
        if len(args) > self.count:
            raise refusal("launch-type", title, f"it takes {counted(self.count, 'argument')}, {len(args)} are given",
                          allowed=", ".join(names))  # fmt: skip
        values = dict(zip(names, args, strict=False))
        for key, value in keywords.items():
            if key in values:
                raise refusal("launch-type", title, f"two values for {key!r}", help="give it once")
            if key not in names:
                raise refusal("launch-type", title, f"no parameter {key!r}", allowed=", ".join(names))
            values[key] = value
        for p in self.parameters:
            if p.name not in values:
                if not p.has_default:
                    raise refusal("launch-type", title, f"it needs {p.name!r}", allowed=", ".join(names))
                values[p.name] = p.default
        return [values[name] for name in names]

    def on_host(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> list[Any]:
        """The values for a run on the host: arrays as ndarrays, a buffer as what it holds. Raises: UsageError."""
        found = []
        for row, value in zip(self.rows, self.bind(args, keywords), strict=True):
            if row.kind == "array":
                value = _ndarray(self.title, row, value)
            elif row.kind == "scalar":
                scalar_of(self.title, row, value)
            found.append(value)
        return found


def scalar_of(title: str, row: Row, value: Any) -> int:
    """The number of a scalar argument: its value, or of a float its pattern."""
    t = row.type
    assert t is not None
    kind = type(value)
    plain = kind is int or kind is float
    if not plain and (isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real)):
        raise refusal("launch-type", title, f"{row.name} = {value!r} is a {kind.__name__}",
                      allowed=f"a number ({t})",
                      help=f"{'float' if t.value == 'f' else 'int'}({row.name})")  # fmt: skip
    if t.value == "f":
        try:
            return int.from_bytes(struct.pack("<f", value), "little")
        except (OverflowError, struct.error):  # the second one of an int
            raise refusal("launch-type", title, f"{row.name} = {value!r} is beyond f32",
                          allowed="up to 3.4e38, infinity and NaN",
                          help="math.inf is a number, too") from None  # fmt: skip
    if kind is not int and not isinstance(value, numbers.Integral):
        raise refusal("launch-type", title, f"{row.name} = {value!r} is not an integer", allowed=f"{t}",
                      help=f"int({row.name})")  # fmt: skip
    number = int(value)
    if not t.low <= number <= t.high:
        raise refusal("launch-type", title, f"{row.name} = {number} does not fit {t}", allowed=f"{t.low}..{t.high}",
                      help=f"declare {row.name} f32, or pass a number in that range")  # fmt: skip
    return number


def _ndarray(title: str, row: Row, value: Any) -> NDArray[Any]:
    """The ndarray of an argument for an array."""
    value = viewed(value, row.mode)
    if isinstance(value, Buffer | BufferView):
        value = value.array
    allowed = f"an ndarray of {row.dtype}, {row.rank} {'axis' if row.rank == 1 else 'axes'}"
    if not isinstance(value, np.ndarray):
        raise refusal("launch-type", title, f"{row.name} is a {type(value).__name__}", allowed=allowed,
                      help=f"np.array({row.name}, np.{row.dtype})")  # fmt: skip
    if value.dtype != row.dtype or value.ndim != row.rank:
        raise refusal("launch-type", title, f"{row.name} is an ndarray of {value.dtype}, rank {value.ndim}",
                      allowed=allowed, help=f"{row.name}.astype(np.{row.dtype})")  # fmt: skip
    return value
