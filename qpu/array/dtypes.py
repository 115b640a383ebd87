"""The dtypes of arrays: what they are in memory and in kernels, how they are promoted, and what is refused."""

from __future__ import annotations

import numbers
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from qpu.errors import UsageError

__all__ = [
    "BY_NAME",
    "DTYPES",
    "Kind",
    "NpDType",
    "Scalar",
    "bits_of",
    "can_cast",
    "dtype_of",
    "isdtype",
    "kind_of",
    "of_scalar",
    "promoted",
    "result_type",
    "scalar_for",
    "sum_dtype",
]

NpDType: TypeAlias = "np.dtype[Any]"


@dataclass(frozen=True, slots=True)
class Kind:
    """A dtype. name: NumPy's; storage: the kernel language's name for elements in memory; letter: of a loaded value in
    KIR ("b" for truth values, "c" for pairs of floats); group: "b", "i", "u", "f" or "c"; size: bytes.
    """

    name: str
    storage: str
    letter: str
    group: str
    size: int


DTYPES: Final = (
    Kind("bool", "u8", "b", "b", 1),
    Kind("int8", "i8", "i", "i", 1),
    Kind("int16", "i16", "i", "i", 2),
    Kind("int32", "i32", "i", "i", 4),
    Kind("uint8", "u8", "i", "u", 1),
    Kind("uint16", "u16", "i", "u", 2),
    Kind("uint32", "u32", "u", "u", 4),
    Kind("float16", "f16", "f", "f", 2),
    Kind("float32", "f32", "f", "f", 4),
    Kind("complex64", "c64", "c", "c", 8),
)
BY_NAME: Final[dict[str, NpDType]] = {k.name: np.dtype(k.name) for k in DTYPES}
_KINDS: Final[dict[NpDType, Kind]] = {BY_NAME[k.name]: k for k in DTYPES}
BOOL, I8, I16, I32, U8, U16, U32, F16, F32, C64 = BY_NAME.values()
_WIDE: Final = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}
_BUILTIN: Final = {bool: BOOL, int: I32, float: F32, complex: C64}


def kind_of(dtype: NpDType) -> Kind:
    """The row of a dtype. Raises: KeyError."""
    return _KINDS[dtype]


def dtype_of(dtype: Any, what: str = "dtype") -> NpDType:
    """A dtype of the namespace from a dtype, a name or a type. Raises: UsageError, for 64-bit ones with the cast."""
    if dtype in _BUILTIN:
        return _BUILTIN[dtype]
    try:
        found: NpDType = np.dtype(dtype)
    except TypeError as error:
        raise UsageError(f"{what} = {dtype!r}: {error}", help=f"allowed: {', '.join(BY_NAME)}") from None
    if found in _KINDS:
        return found.newbyteorder("=")
    narrow = _WIDE.get(found.name)
    if narrow is not None:
        raise UsageError(
            f"{what} {found.name}: the QPUs compute with 32 bits, and nothing is narrowed silently",
            help=f"write the cast: xp.asarray(x, dtype=xp.{narrow})",
        )
    raise UsageError(f"{what} {found}: not a type of the QPUs", help=f"allowed: {', '.join(BY_NAME)}")


# -- promotion


def promoted(a: NpDType, b: NpDType) -> NpDType:
    """The dtype of a result of both, as the standard says. Raises: UsageError where it says nothing, or 64 bits."""
    if a is b or a == b:
        return a if a != F16 else F32
    x, y = _KINDS[a], _KINDS[b]
    groups = {x.group, y.group}
    if groups == {"f"} or groups == {"f", "c"} or groups == {"c"}:
        return C64 if "c" in groups else F32
    if len(groups) == 1:
        return a if x.size > y.size else b
    if groups == {"i", "u"}:
        signed, unsigned = (x, y) if x.group == "i" else (y, x)
        if unsigned.size < signed.size:
            return BY_NAME[signed.name]
        if unsigned.size < 4:
            return BY_NAME[f"int{16 * unsigned.size}"]
        raise UsageError(
            f"{a.name} with {b.name}: the standard's result is int64, which the QPUs do not have",
            help="write the cast: xp.astype(x, xp.int32) or xp.astype(x, xp.uint32)",
        )
    raise UsageError(
        f"{a.name} with {b.name}: the standard does not promote between these kinds",
        help=f"write the cast: xp.astype(x, xp.{(a if _order(x) > _order(y) else b).name})",
    )


def _order(k: Kind) -> int:
    return "biufc".index(k.group)


def result_type(*items: Any) -> NpDType:
    """The dtype of a result of all: of arrays, dtypes and Python numbers. Raises: UsageError."""
    dtypes = [getattr(x, "dtype", x) for x in items if not isinstance(x, numbers.Number)]
    weak = [x for x in items if isinstance(x, numbers.Number)]
    if not dtypes:
        raise UsageError("no array and no dtype", help="pass at least one")
    found = dtype_of(dtypes[0])
    for d in dtypes[1:]:
        found = promoted(found, dtype_of(d))
    for x in weak:
        found = of_scalar(x, found)
    return found


_STEPS: Final = {
    "b": ("bool",),
    "i": ("int8", "int16", "int32"),
    "u": ("uint8", "uint16", "uint32"),
    "f": ("float16", "float32"),
    "c": ("complex64",),
}


def can_cast(a: Any, to: Any) -> bool:
    """Whether values of `a` (an array or dtype) are promoted to `to`, as the standard's type promotion says."""
    source, target = dtype_of(getattr(a, "dtype", a)), dtype_of(to)
    if source == target:
        return True
    try:
        return promoted(source, target) == target
    except UsageError:
        return False


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, one of the standard's names of kinds, or a tuple of both.

    Raises: UsageError for an unknown kind.
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    found = np.dtype(dtype)
    if isinstance(kind, str):
        groups = {
            "bool": "b",
            "signed integer": "i",
            "unsigned integer": "u",
            "integral": "iu",
            "real floating": "f",
            "complex floating": "c",
            "numeric": "iufc",
        }.get(kind)
        if groups is None:
            allowed = "bool, signed integer, unsigned integer, integral, real floating, complex floating, numeric"
            raise UsageError(f"kind {kind!r}", help=f"allowed: {allowed}, or dtypes")
        return found.kind in groups
    return bool(found == np.dtype(kind))


def sum_dtype(dtype: NpDType, asked: Any) -> NpDType:
    """The dtype of sums of elements: 32 bits of the same kind, unless another one is asked for."""
    if asked is not None:
        return dtype_of(asked)
    return I32 if dtype.kind in "bi" else U32 if dtype.kind == "u" else F32 if dtype.kind == "f" else dtype


# -- Python numbers


@dataclass(frozen=True, slots=True)
class Scalar:
    """A Python number in an expression, in the dtype of the array beside it. bits: of its 32-bit words."""

    value: Any
    dtype: NpDType
    bits: tuple[int, ...]


def of_scalar(x: Any, dtype: NpDType) -> NpDType:
    """The dtype of an array of `dtype` with a Python number. Raises: UsageError where the standard has none."""
    group = _KINDS[dtype].group
    if isinstance(x, bool):
        wanted, ok = "bool", group == "b"
    elif isinstance(x, numbers.Integral):
        wanted, ok = "int", group in "iufc"
    elif isinstance(x, numbers.Real):
        wanted, ok = "float", group in "fc"
    else:
        wanted, ok = "complex", group in "fc"
        if group == "f":
            return C64
    if not ok:
        raise UsageError(
            f"the Python {wanted} {x!r} with an array of {dtype.name}",
            help=f"write the cast: xp.astype(array, xp.{_BUILTIN[type(x)].name})" if type(x) in _BUILTIN else "a cast",
        )
    return dtype


def scalar_for(x: Any, dtype: NpDType) -> Scalar:
    """A Python number as an operand of that dtype. Raises: UsageError where it does not fit."""
    return Scalar(x, dtype, bits_of(x, dtype))


def bits_of(x: Any, dtype: NpDType) -> tuple[int, ...]:
    """The 32-bit words of a number in a dtype. Raises: UsageError where it does not fit."""
    kind = _KINDS[dtype]
    if kind.letter == "f":
        return (_float_bits(x),)
    if kind.letter == "c":
        return _float_bits(x.real), _float_bits(x.imag)
    if kind.letter == "b":
        return (int(bool(x)),)
    low, high = (0, 2 ** (8 * kind.size) - 1) if kind.group == "u" else _signed(kind.size)
    number = int(x)
    if not low <= number <= high:
        raise UsageError(f"{number} does not fit {dtype.name}", help=f"allowed: {low}..{high}, or cast the array first")
    return (number & 0xFFFFFFFF,)


def _signed(size: int) -> tuple[int, int]:
    return -(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1


def _float_bits(x: Any) -> int:
    try:
        return int.from_bytes(struct.pack("<f", x), "little")
    except OverflowError:  # beyond float32: infinity, as a cast of NumPy gives
        return 0x7F800000 if x > 0 else 0xFF800000
