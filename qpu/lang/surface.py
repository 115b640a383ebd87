"""The names that a kernel is written with: types, parameters, Grid and Team, functions.

Inside a kernel the front end gives them their meaning. Called from ordinary Python they compute with numbers, so that
helper functions can be tried alone; in `Kernel.python` they compute lane by lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeAlias, TypeVar

__all__ = [
    "Const",
    "Grid",
    "In",
    "In2",
    "In3",
    "InOut",
    "InOut2",
    "InOut3",
    "Out",
    "Out2",
    "Out3",
    "PerformanceNote",
    "Team",
    "c64",
    "f16",
    "f32",
    "fast",
    "i8",
    "i8x4",
    "i16",
    "i16x2",
    "i32",
    "static_assert",
    "u8",
    "u8x4",
    "u16",
    "u32",
    "unroll",
    "where",
]

T = TypeVar("T")


class PerformanceNote(UserWarning):
    """A kernel that is right, and slower than it need be: what costs, where, and what to write instead."""


# -- types


class ScalarType:
    """A type of values or of storage. Called with a value it converts; `sat` converts and limits to the range."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name

    def __call__(self, *values: Any) -> Any:
        from qpu.lang.lanes import convert

        return convert(self.name, values)

    @property
    def sat(self) -> Cast:
        """The conversion that limits to the range of the type instead of wrapping."""
        return Cast(self.name)


class Cast:
    """A saturating conversion, as `u8.sat`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, value: Any) -> Any:
        from qpu.lang.lanes import saturate

        return saturate(self.name, value)


if TYPE_CHECKING:

    class _Number:
        """Arithmetic of values, for type checkers."""

        def __init__(self, *values: object) -> None: ...
        def __add__(self: T, other: object) -> T: ...
        def __radd__(self: T, other: object) -> T: ...
        def __sub__(self: T, other: object) -> T: ...
        def __rsub__(self: T, other: object) -> T: ...
        def __mul__(self: T, other: object) -> T: ...
        def __rmul__(self: T, other: object) -> T: ...
        def __truediv__(self, other: object) -> f32: ...
        def __rtruediv__(self, other: object) -> f32: ...
        def __floordiv__(self: T, other: object) -> T: ...
        def __mod__(self: T, other: object) -> T: ...
        def __divmod__(self: T, other: object) -> tuple[T, T]: ...
        def __pow__(self: T, other: int) -> T: ...
        def __neg__(self: T) -> T: ...
        def __pos__(self: T) -> T: ...
        def __abs__(self: T) -> T: ...
        def __lt__(self, other: object) -> bool: ...
        def __le__(self, other: object) -> bool: ...
        def __gt__(self, other: object) -> bool: ...
        def __ge__(self, other: object) -> bool: ...
        def __eq__(self, other: object) -> bool: ...
        def __ne__(self, other: object) -> bool: ...
        def __rfloordiv__(self: T, other: object) -> T: ...
        def __rmod__(self: T, other: object) -> T: ...
        def __float__(self) -> float: ...
        @staticmethod
        def sat(value: object) -> Any: ...

    class _Integer(_Number):
        def __and__(self: T, other: object) -> T: ...
        def __rand__(self: T, other: object) -> T: ...
        def __or__(self: T, other: object) -> T: ...
        def __ror__(self: T, other: object) -> T: ...
        def __xor__(self: T, other: object) -> T: ...
        def __rxor__(self: T, other: object) -> T: ...
        def __lshift__(self: T, other: object) -> T: ...
        def __rshift__(self: T, other: object) -> T: ...
        def __rlshift__(self: T, other: object) -> T: ...
        def __rrshift__(self: T, other: object) -> T: ...
        def __invert__(self: T) -> T: ...
        def __index__(self) -> int: ...

    class f32(_Number): ...

    class i32(_Integer): ...

    class u32(_Integer): ...

    class f16(f32): ...

    class i8(i32): ...

    class u8(i32): ...

    class i16(i32): ...

    class u16(i32): ...

    class c64(_Number):
        real: f32
        imag: f32

        def conjugate(self) -> c64: ...

    class _Word(u32):
        def __getitem__(self, lane: int) -> i32: ...

    class i8x4(_Word): ...

    class u8x4(_Word): ...

    class i16x2(_Word): ...

else:
    f32, i32, u32 = ScalarType("f32"), ScalarType("i32"), ScalarType("u32")
    f16, c64 = ScalarType("f16"), ScalarType("c64")
    i8, u8, i16, u16 = (ScalarType(n) for n in ("i8", "u8", "i16", "u16"))
    i8x4, u8x4, i16x2 = (ScalarType(n) for n in ("i8x4", "u8x4", "i16x2"))


# -- parameters


class ArrayType:
    """What `In[f32]` and the like stand for at run time."""

    __slots__ = ("dtype", "mode", "rank")

    def __init__(self, mode: str, dtype: str, rank: int) -> None:
        self.mode, self.dtype, self.rank = mode, dtype, rank

    def __repr__(self) -> str:
        name = {"in": "In", "out": "Out", "inout": "InOut"}[self.mode]
        return f"{name}{self.rank if self.rank > 1 else ''}[{self.dtype}]"


class _Array(Generic[T]):
    """Base of array parameters: what reading offers."""

    size: i32
    shape: tuple[i32, ...]
    mode = "in"
    rank = 1

    if not TYPE_CHECKING:

        def __class_getitem__(cls, item):
            if isinstance(item, TypeVar):  # a class of this module
                return super().__class_getitem__(item)
            return ArrayType(cls.mode, getattr(item, "name", str(item)), cls.rank)

    if TYPE_CHECKING:
        clamp: _Array[T]

        def __getitem__(self, index: Any) -> T: ...
        def get(self, *index_and_default: Any) -> T: ...


class _Writable(_Array[T]):
    """What writing offers beyond reading."""

    if TYPE_CHECKING:

        def __setitem__(self, index: Any, value: Any) -> None: ...
        def atomic_add(self, index: Any, value: Any) -> T: ...
        def atomic_min(self, index: Any, value: Any) -> T: ...
        def atomic_max(self, index: Any, value: Any) -> T: ...
        def atomic_and(self, index: Any, value: Any) -> T: ...
        def atomic_or(self, index: Any, value: Any) -> T: ...
        def atomic_xor(self, index: Any, value: Any) -> T: ...
        def atomic_cas(self, index: Any, expected: Any, value: Any) -> T: ...


class In(_Array[T]):
    """A one-dimensional array that the kernel reads."""


class Out(_Writable[T]):
    """A one-dimensional array that the kernel writes."""

    mode = "out"


class InOut(_Writable[T]):
    """A one-dimensional array that the kernel reads and writes."""

    mode = "inout"


class In2(In[T]):
    """A two-dimensional array that the kernel reads."""

    rank = 2


class Out2(Out[T]):
    """A two-dimensional array that the kernel writes."""

    rank = 2


class InOut2(InOut[T]):
    """A two-dimensional array that the kernel reads and writes."""

    rank = 2


class In3(In[T]):
    """A three-dimensional array that the kernel reads."""

    rank = 3


class Out3(Out[T]):
    """A three-dimensional array that the kernel writes."""

    rank = 3


class InOut3(InOut[T]):
    """A three-dimensional array that the kernel reads and writes."""

    rank = 3


if TYPE_CHECKING:
    Const: TypeAlias = Annotated[T, "known when compiling"]
else:

    class Const(Generic[T]):
        """A parameter whose value is known when compiling: each value makes a program of its own."""


class Grid:
    """First parameter of a kernel whose items are independent of each other."""

    if TYPE_CHECKING:
        isa: str
        vc4: Any
        v3d: Any

        def index(self, *extent: Any) -> Any: ...
        def asm(self, fn: Callable[..., None], *values: Any, out: Any = ()) -> Any: ...


class Team:
    """First parameter of a kernel whose workers have a number, 16 lanes each, and can work together."""

    if TYPE_CHECKING:
        isa: str
        lane: i32
        worker: i32
        workers: i32
        vc4: Any
        v3d: Any

        def items(self, n: Any, run: bool = False, per_lane: int = 1) -> Iterator[i32]: ...
        def tiles(self, m: Any, n: Any, rows: int, cols: int) -> Iterator[tuple[i32, i32]]: ...
        def sum(self, value: T) -> T: ...
        def min(self, value: T) -> T: ...
        def max(self, value: T) -> T: ...
        def any(self, value: Any) -> bool: ...
        def all(self, value: Any) -> bool: ...
        def scan(self, value: T) -> T: ...
        def last(self, value: T) -> T: ...
        def rotate(self, value: T, n: Any) -> T: ...
        def broadcast(self, value: T, lane: Any) -> T: ...
        def shuffle(self, value: T, index: Any) -> T: ...
        def barrier(self) -> None: ...
        def shared(self, type_: Any, n: int) -> Any: ...
        def store_tile(self, c: Any, i0: Any, j0: Any, acc: Any) -> None: ...
        def asm(self, fn: Callable[..., None], *values: Any, out: Any = ()) -> Any: ...


# -- staging


class Unrolled:
    """Items of a loop that Python runs."""

    __slots__ = ("items",)

    def __init__(self, items: Any) -> None:
        self.items = items


class DeviceRange:
    """A range with a bound that only the GPU knows."""

    __slots__ = ("args",)

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args


def unroll(items: T) -> T:
    """In `for x in unroll(range(n))`: the body is repeated, once an item, when compiling."""
    return items


def static_assert(condition: bool, message: str = "") -> None:
    """Refuse to compile unless the condition holds."""
    if not condition:
        raise AssertionError(message)


# -- functions


class Function:
    """A function of the language. number: what it computes on Python numbers."""

    def __init__(self, name: str, arity: int, doc: str, number: Callable[..., Any], *, fast: bool = False) -> None:
        self.name = name
        self.arity = arity
        self.number = number
        self.fast = fast
        self.__doc__ = doc

    @property
    def __name__(self) -> str:
        return ("fast." if self.fast else "") + self.name

    def __repr__(self) -> str:
        return f"<function {self.__name__} of qpu.lang>"

    def __reduce__(self) -> str:
        return self.__name__

    def __call__(self, *args: Any) -> Any:
        from qpu.lang.lanes import apply

        return apply(self.name, self.number, args)


def _sign(x: float) -> float:
    return (x > 0) - (x < 0)


_ROWS: Final[tuple[tuple[str, int, str, Callable[..., Any]], ...]] = (
    ("where", 3, "a where the condition holds, else b.", lambda c, a, b: a if c else b),
    ("minimum", 2, "The smaller.", min),
    ("maximum", 2, "The larger.", max),
    ("clamp", 3, "x limited to low..high.", lambda x, low, high: min(max(x, low), high)),
    ("sign", 1, "-1, 0 or 1.", _sign),
    ("fma", 3, "a * b + c; the product is rounded, too.", lambda a, b, c: a * b + c),
    ("sqrt", 1, "The square root.", math.sqrt),
    ("rsqrt", 1, "1 / sqrt(x).", lambda x: 1 / math.sqrt(x)),
    ("recip", 1, "1 / x.", lambda x: 1 / x),
    ("hypot", 2, "sqrt(x*x + y*y).", math.hypot),
    ("exp", 1, "e**x.", math.exp),
    ("exp2", 1, "2**x.", lambda x: 2.0**x),
    ("expm1", 1, "e**x - 1.", math.expm1),
    ("log", 1, "The natural logarithm.", math.log),
    ("log2", 1, "The logarithm to base 2.", math.log2),
    ("log10", 1, "The logarithm to base 10.", math.log10),
    ("log1p", 1, "log(1 + x).", math.log1p),
    ("pow", 2, "x**y for x > 0.", math.pow),
    ("sin", 1, "The sine.", math.sin),
    ("cos", 1, "The cosine.", math.cos),
    ("tan", 1, "The tangent.", math.tan),
    ("asin", 1, "The inverse sine.", math.asin),
    ("acos", 1, "The inverse cosine.", math.acos),
    ("atan", 1, "The inverse tangent.", math.atan),
    ("atan2", 2, "The angle of the point (x, y), y first.", math.atan2),
    ("sinh", 1, "The hyperbolic sine.", math.sinh),
    ("cosh", 1, "The hyperbolic cosine.", math.cosh),
    ("tanh", 1, "The hyperbolic tangent.", math.tanh),
    ("erf", 1, "The error function.", math.erf),
    ("floor", 1, "The largest integral value not above x.", math.floor),
    ("ceil", 1, "The smallest integral value not below x.", math.ceil),
    ("trunc", 1, "Toward zero.", math.trunc),
    ("rint", 1, "To the nearest integral value, ties to even.", round),
    ("fmod", 2, "x - y * trunc(x / y).", math.fmod),
    ("copysign", 2, "The magnitude of x with the sign of y.", math.copysign),
    ("isnan", 1, "Whether x is NaN.", math.isnan),
    ("isinf", 1, "Whether x is infinite.", math.isinf),
    ("isfinite", 1, "Whether x is neither.", math.isfinite),
    ("clz", 1, "Leading zero bits of 32.", lambda x: 32 - (x & 0xFFFFFFFF).bit_length()),
    ("ror", 2, "x rotated right by n bits.", lambda x, n: ((x & 0xFFFFFFFF) >> n % 32 | x << (-n % 32)) & 0xFFFFFFFF),
    ("mul24", 2, "The product of two signed 24-bit numbers.", lambda a, b: a * b),
    ("popcount", 1, "How many bits are set.", lambda x: (x & 0xFFFFFFFF).bit_count()),
)

FUNCTIONS: Final[dict[str, Function]] = {name: Function(name, arity, doc, number) for name, arity, doc, number in _ROWS}
"""The functions by name."""

FUNCTIONS["abs"] = Function("abs", 1, "The absolute value.", abs)
FUNCTIONS["bitcast"] = Function("bitcast", 2, "The bits of x as another type.", lambda x, type_: type_(x))

where = FUNCTIONS["where"]


class fast:
    """The GPU's own special functions, without refinement: a few bits less, and far cheaper."""

    recip = Function("recip", 1, "1 / x by the unit alone.", lambda x: 1 / x, fast=True)
    rsqrt = Function("rsqrt", 1, "1 / sqrt(x) by the unit alone.", lambda x: 1 / math.sqrt(x), fast=True)
    exp2 = Function("exp2", 1, "2**x by the unit alone.", lambda x: 2.0**x, fast=True)
    log2 = Function("log2", 1, "log2(x) by the unit alone.", math.log2, fast=True)
    sin = Function("sin", 1, "sin(pi * x), abs(x) <= 0.5, by the unit alone; VideoCore IV has none.",
                   lambda x: math.sin(math.pi * x), fast=True)  # fmt: skip


BUILTINS: Final[dict[Any, str]] = {
    abs: "abs",
    min: "minimum",
    max: "maximum",
    int: "int",
    float: "float",
    bool: "bool",
    range: "range",
    pow: "pow",
    round: "rint",
    math.sqrt: "sqrt",
    math.exp: "exp",
    math.log: "log",
    math.log2: "log2",
    math.log10: "log10",
    math.sin: "sin",
    math.cos: "cos",
    math.tan: "tan",
    math.floor: "floor",
    math.ceil: "ceil",
    math.trunc: "trunc",
}
"""Python's own functions that mean the same on values of the GPU."""


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
