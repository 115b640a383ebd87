"""C structures as data: a row names the fields; offsets and sizes follow from the pointer size of the process."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ioctl_opt import IOC, IOC_NONE, IOC_READ, IOC_WRITE

__all__ = ["FieldLayout", "Ioctl", "Layout", "Struct", "Structs", "Value", "parse_ioctls", "parse_structs"]

# Value of a field: a number, bytes for a char array, a tuple for another array, the bytes of an embedded structure.
Value: TypeAlias = "int | bytes | tuple[int, ...]"

_SCALARS = {
    "u8": ("B", 1),
    "u16": ("H", 2),
    "u32": ("I", 4),
    "u64": ("Q", 8),
    "s32": ("i", 4),
    "s64": ("q", 8),
    "char": ("s", 1),
}
_WORDS = ("ptr", "size_t")  # as wide as a pointer
_DIRECTIONS = {"-": IOC_NONE, "W": IOC_WRITE, "R": IOC_READ, "RW": IOC_READ | IOC_WRITE}


@dataclass(frozen=True, slots=True)
class FieldLayout:
    """Where a field lies. size: bytes; count: elements of an array, None for a scalar; element_size: bytes of one."""

    name: str
    offset: int
    size: int
    count: int | None
    element_size: int
    code: struct.Struct | None  # None: embedded structures and flexible arrays, handled as bytes
    text: bool = False


class Layout:
    """One structure as one process sees it. Numbers are little-endian, as on every supported system."""

    __slots__ = ("align", "fields", "name", "scalars", "size")

    def __init__(self, name: str, size: int, align: int, fields: Mapping[str, FieldLayout]) -> None:
        self.name = name
        self.size = size
        self.align = align
        self.fields = fields
        # Of each field that is one number: decoder, encoder, offset, end.
        self.scalars = {
            at.name: (at.code.unpack_from, at.code.pack_into, at.offset, at.offset + at.size)
            for at in fields.values()
            if at.code is not None and at.count is None
        }

    def __repr__(self) -> str:
        return f"<{self.name}, {self.size} bytes>"

    def field(self, name: str) -> FieldLayout:
        """The field called `name`. Raises: KeyError naming the structure and its fields."""
        try:
            return self.fields[name]
        except KeyError:
            raise KeyError(f"{self.name} has no field {name!r}; it has {', '.join(self.fields)}") from None

    def pack(self, **values: Value) -> bytearray:
        """A structure with `values` set and everything else zero. Raises: KeyError, ValueError (does not fit)."""
        data = bytearray(self.size)
        scalars = self.scalars
        for name, value in values.items():
            known = scalars.get(name)
            if known is not None and type(value) is int:
                try:
                    known[1](data, known[2], value)
                    continue
                except struct.error:
                    pass  # `put` raises the error that names the mistake
            self.put(data, name, value)
        return data

    def put(self, data: bytearray | memoryview, name: str, value: Value) -> None:
        """Set one field in place. Raises: KeyError, ValueError when the value does not fit."""
        at = self.field(name)
        if isinstance(value, (bytes, bytearray)):
            if at.code is not None and not at.text:
                raise ValueError(f"{self.name}.{name} takes numbers, not bytes")
            if len(value) > at.size:
                raise ValueError(f"{self.name}.{name} holds {at.size} bytes, got {len(value)}")
            data[at.offset : at.offset + at.size] = value + bytes(at.size - len(value))
            return
        if at.code is None or at.text:
            raise ValueError(f"{self.name}.{name} takes bytes, not {value!r}")
        numbers = (value,) if isinstance(value, int) else tuple(value)
        if isinstance(value, int) != (at.count is None):
            raise ValueError(f"{self.name}.{name} is {'a number' if at.count is None else 'an array'}, got {value!r}")
        if at.count is not None:
            if len(numbers) > at.count:
                raise ValueError(f"{self.name}.{name} has {at.count} elements, got {len(numbers)}")
            numbers += (0,) * (at.count - len(numbers))
        try:
            at.code.pack_into(data, at.offset, *numbers)
        except struct.error as error:
            raise ValueError(f"{self.name}.{name} = {value!r} does not fit: {error}") from None

    def get(self, data: bytes | bytearray | memoryview, name: str) -> Value:
        """One field. Data that ends early reads as zero there, as Linux's generic code extends it."""
        at = self.field(name)
        if at.code is not None and not at.text and at.offset + at.size <= len(data):
            found: tuple[int, ...] = at.code.unpack_from(data, at.offset)
            return found[0] if at.count is None else found
        raw = bytes(data[at.offset : at.offset + at.size])
        if len(raw) < at.size:
            raw += bytes(at.size - len(raw))
        if at.code is None or at.text:
            return raw
        numbers: tuple[int, ...] = at.code.unpack(raw)
        return numbers[0] if at.count is None else numbers

    def number(self, data: bytes | bytearray | memoryview, name: str) -> int:
        """One field that is a number."""
        known = self.scalars.get(name)
        if known is not None and known[3] <= len(data):
            found: int = known[0](data, known[2])[0]
            return found
        value = self.get(data, name)
        if not isinstance(value, int):
            raise TypeError(f"{self.name}.{name} is not a number")
        return value

    def numbers(self, data: bytes | bytearray | memoryview, name: str) -> tuple[int, ...]:
        """One field that is an array of numbers."""
        value = self.get(data, name)
        if not isinstance(value, tuple):
            raise TypeError(f"{self.name}.{name} is not an array of numbers")
        return value

    def unpack(self, data: bytes | bytearray | memoryview) -> dict[str, Value]:
        """All fields by name; short data is extended with zeros."""
        return {name: self.get(data, name) for name in self.fields}


@dataclass(frozen=True, slots=True)
class Struct:
    """One row: the structure's name and its fields as C declarations, ``(type, name, count)``.

    Types are u8 .. u64, s32, s64, char, ptr, size_t, or another structure. count: None for a scalar, 0 for a flexible
    array at the end.
    """

    name: str
    members: tuple[tuple[str, str, int | None], ...]


class Structs(Mapping[str, Struct]):
    """A set of rows that may embed one another."""

    def __init__(self, rows: Mapping[str, Struct]) -> None:
        self._rows = dict(rows)
        self._layouts: dict[tuple[str, int], Layout] = {}

    def __getitem__(self, name: str) -> Struct:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def layout(self, name: str, pointer_size: int) -> Layout:
        """The structure as a process with pointers of `pointer_size` bytes (4 or 8) sees it.

        64-bit numbers are 8-byte aligned on both: the Arm EABI, not 32-bit x86 (drivers.md 1.2).
        """
        key = name, pointer_size
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = self._compute(self._rows[name], pointer_size)
        return found

    def _compute(self, row: Struct, pointer_size: int) -> Layout:
        if pointer_size not in (4, 8):
            raise ValueError(f"pointer size {pointer_size}; allowed: 4, 8")
        fields: dict[str, FieldLayout] = {}
        at, align = 0, 1
        for kind, name, count in row.members:
            code: struct.Struct | None = None
            if kind in self._rows:
                inner = self.layout(kind, pointer_size)
                size, need = inner.size, inner.align
            else:
                letter, size = ("Q" if pointer_size == 8 else "I", pointer_size) if kind in _WORDS else _SCALARS[kind]
                need = size
                if count != 0:
                    code = struct.Struct(f"<{'' if count is None else count}{letter}")
            at = (at + need - 1) // need * need
            align = max(align, need)
            whole = size if count is None else size * count
            fields[name] = FieldLayout(name, at, whole, count, size, code, kind == "char")
            at += whole
        return Layout(row.name, (at + align - 1) // align * align, align, fields)


@dataclass(frozen=True, slots=True, eq=False)
class Ioctl:
    """One row: name, direction as the header has it (``-``, ``R``, ``W``, ``RW``), type letter, number, argument.

    argument: name of the structure, ``ptr`` for a bare pointer, empty for none.
    """

    name: str
    direction: str
    type: int
    nr: int
    argument: str
    structs: Structs

    def layout(self, pointer_size: int) -> Layout:
        """Layout of the argument. Raises: KeyError when it is not a structure."""
        return self.structs.layout(self.argument, pointer_size)

    def request(self, pointer_size: int) -> int:
        """The request number, u32."""
        return _request(self, pointer_size)


@lru_cache(maxsize=512)
def _request(ioctl: Ioctl, pointer_size: int) -> int:
    if not ioctl.argument:
        size = 0
    elif ioctl.argument == "ptr":
        size = pointer_size
    else:
        size = ioctl.layout(pointer_size).size
    return int(IOC(_DIRECTIONS[ioctl.direction], ioctl.type, ioctl.nr, size))


def parse_structs(table: str) -> Structs:
    """Rows of the form ``name: u32 handle, u32 pad, u8 counters[32], block s[]``; ``#`` starts a comment.

    A row ends with its line unless the line ends in a comma.
    """
    rows: dict[str, Struct] = {}
    text = ""
    for line in table.splitlines():
        text += " " + line.partition("#")[0].strip()
        if not text.strip() or text.endswith(","):
            continue
        name, _, body = text.strip().partition(":")
        text = ""
        members: list[tuple[str, str, int | None]] = []
        for part in body.split(","):
            kind, field = part.split()
            count: int | None = None
            if field.endswith("]"):
                field, _, inside = field[:-1].partition("[")
                count = int(inside) if inside else 0
            if kind not in _SCALARS and kind not in _WORDS and kind not in rows:
                raise ValueError(f"{name}: unknown type {kind!r}")
            members.append((kind, field, count))
        if name in rows:
            raise ValueError(f"{name} is declared twice")
        rows[name] = Struct(name, tuple(members))
    return Structs(rows)


def parse_ioctls(table: str, structs: Structs) -> dict[str, Ioctl]:
    """Rows of the form ``NAME direction type nr argument``, one a line; the type is one character or a number."""
    rows: dict[str, Ioctl] = {}
    for line in table.splitlines():
        text = line.partition("#")[0].split()
        if not text:
            continue
        name, direction, kind, nr, *rest = text
        argument = rest[0] if rest else ""
        if argument not in ("", "ptr") and argument not in structs:
            raise ValueError(f"{name}: unknown structure {argument!r}")
        if name in rows:
            raise ValueError(f"{name} is declared twice")
        number = int(kind) if kind.isdigit() else ord(kind)
        rows[name] = Ioctl(name, direction, number, int(nr, 0), argument, structs)
    return rows
