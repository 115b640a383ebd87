"""Operands of the typed builders: registers, accumulators, immediates, destinations, signals, labels.

Objects carry their contributions to the word, so that a builder method is a table look-up and a few ORs. They are
immutable and shared; nothing here belongs to one program.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NoReturn, TypeAlias, TypeVar

from qpu.core.isa import Isa
from qpu.errors import AsmError, Diagnostic, Loc
from qpu.v3d.instr import Sig
from qpu.v3d.ops import MODIFIERS, PACKS
from qpu.v3d.regs import MAGIC, imm_index

__all__ = ["Dest42", "Dest71", "Imm", "Label", "Reg42", "Reg71", "RegFile", "Signal"]

# Modifier numbers: position in this tuple. A table key is a * 48 + b * 3 + output modifier.
MODIFIER_IDS: Final = {name: i for i, name in enumerate(("", *MODIFIERS))}
_PACK_IDS: Final = {name: i for i, name in enumerate(PACKS)}
BAD: Final = 1 << 20  # an output modifier that no table holds
_ORDER: Final = {"abs": 0, "": 1, "l": 2, "h": 3}
OUT_OF_ORDER: Final = -1

T = TypeVar("T", bound="_Modified")

LAYERS: Final[set[str]] = {__file__}
"""Files of the builder: a location is the first frame outside them."""

Place: TypeAlias = "tuple[CodeType, int]"


def here() -> Place:
    """Code object and bytecode offset of the caller outside the builder's files."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename in LAYERS and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def line_of(code: CodeType, offset: int) -> int:
    """The source line of a bytecode offset."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


class OperandError(AsmError, TypeError):
    """An operand that cannot be formed."""


def _refuse(rule: str, message: str, allowed: str) -> NoReturn:
    code, offset = here()
    found = Diagnostic(rule, message, loc=Loc(code.co_filename, line_of(code, offset)), allowed=allowed)
    raise OperandError(found.render(), [found])


def table_key(a: str, b: str, pack: str) -> int:
    """Key of a combination of modifiers in a builder table."""
    return MODIFIER_IDS[a] * 48 + MODIFIER_IDS[b] * 3 + _PACK_IDS[pack]


class _Modified:
    """Something that takes modifiers; `x.h` is x with the modifier h. Modified forms are made once and kept."""

    __slots__ = ("_forms", "mid", "mod", "n")
    n: int
    mod: str
    mid: int
    _forms: dict[str, _Modified]

    def _make(self: T, mod: str) -> T:
        raise NotImplementedError

    def _with(self: T, mod: str) -> T:
        if self.mod:
            _refuse("modifier", f"{self!r} already has a modifier, .{mod} is a second one", "one modifier an operand")
        form = self._forms.get(mod)
        if form is None:
            form = self._forms.setdefault(mod, self._make(mod))
        assert isinstance(form, type(self))
        return form

    @property
    def l(self: T) -> T:  # noqa: E743 # the field's own name
        """Low half as binary16 (input), or write binary16 to the low half (output)."""
        return self._with("l")

    @property
    def h(self: T) -> T:
        """High half as binary16 (input), or write binary16 to the high half (output)."""
        return self._with("h")

    @property
    def abs(self: T) -> T:
        """Absolute value."""
        return self._with("abs")

    @property
    def ff(self: T) -> T:
        """binary32 converted to binary16, in both halves."""
        return self._with("ff")

    @property
    def ll(self: T) -> T:
        """Low half in both halves."""
        return self._with("ll")

    @property
    def hh(self: T) -> T:
        """High half in both halves."""
        return self._with("hh")

    @property
    def swp(self: T) -> T:
        """Halves swapped."""
        return self._with("swp")

    @property
    def sat(self: T) -> T:
        """Clamped to 0..1 (fmov of 7.1)."""
        return self._with("sat")

    @property
    def nsat(self: T) -> T:
        """Clamped to -1..1 (fmov of 7.1)."""
        return self._with("nsat")

    @property
    def max0(self: T) -> T:
        """Negative values become 0 (fmov of 7.1)."""
        return self._with("max0")

    @property
    def ul(self: T) -> T:
        """Low 16 bits, zero-extended (mov of 7.1)."""
        return self._with("ul")

    @property
    def uh(self: T) -> T:
        """High 16 bits, zero-extended (mov of 7.1)."""
        return self._with("uh")

    @property
    def il(self: T) -> T:
        """Low 16 bits, sign-extended (mov of 7.1)."""
        return self._with("il")

    @property
    def ih(self: T) -> T:
        """High 16 bits, sign-extended (mov of 7.1)."""
        return self._with("ih")


class _Dest(_Modified):
    """A destination: address n, magic or register, perhaps with an output modifier."""

    __slots__ = ("da", "dm", "ds", "magic", "pid")
    isa: ClassVar[Isa]

    def __init__(self, n: int, magic: bool, mod: str = "") -> None:
        self.n = n
        self.magic = magic
        self.mod = mod
        self.mid = MODIFIER_IDS[mod]
        self.pid = _PACK_IDS.get(mod, BAD)
        self.da = n << 32 | magic << 44  # as destination of the add ALU, the mul ALU, a signal
        self.dm = n << 38 | magic << 45
        self.ds = n << 46 | magic << 52
        self._forms = {}

    def _make(self: T, mod: str) -> T:
        assert isinstance(self, _Dest)
        return type(self)(self.n, self.magic, mod)

    def __repr__(self) -> str:
        name = (MAGIC[self.isa].get(self.n) or f"magic {self.n}") if self.magic else f"rf{self.n}"
        return f"{name}.{self.mod}" if self.mod else name


class Dest42(_Dest):
    """A write-only destination of V3D 4.2."""

    __slots__ = ("e42",)
    isa = Isa.V3D42

    def __init__(self, n: int, magic: bool, mod: str = "") -> None:
        super().__init__(n, magic, mod)
        self.e42 = self.da


class Dest71(_Dest):
    """A write-only destination of V3D 7.1."""

    __slots__ = ("e71",)
    isa = Isa.V3D71

    def __init__(self, n: int, magic: bool, mod: str = "") -> None:
        super().__init__(n, magic, mod)
        self.e71 = self.da


class Reg42(Dest42):
    """A register rf0..rf63 or accumulator r0..r5 of V3D 4.2, as source or destination."""

    __slots__ = ("mux", "order")

    def __init__(self, n: int, magic: bool, mod: str = "") -> None:
        super().__init__(n, magic, mod)
        self.mux = n if magic else -1  # -1: depends on the read port
        self.order = _ORDER.get(mod, OUT_OF_ORDER) * 8


class Reg71(Dest71):
    """A register rf0..rf63 of V3D 7.1, as source or destination."""

    __slots__ = ("order", "sa", "sb", "sc", "sd")

    def __init__(self, n: int, magic: bool, mod: str = "") -> None:
        super().__init__(n, magic, mod)
        self.sa, self.sb, self.sc, self.sd = n << 6, n, n << 18, n << 12
        self.order = _ORDER.get(mod, OUT_OF_ORDER) * 64 + n


class Imm(_Modified):
    """A small immediate by index, 0..47; `q.imm(value)` makes one, plain numbers become one by themselves."""

    __slots__ = ("rank", "value")

    def __init__(self, n: int, value: int | float, mod: str = "") -> None:
        self.n = n
        self.rank = _ORDER.get(mod, OUT_OF_ORDER)
        self.value = value
        self.mod = mod
        self.mid = MODIFIER_IDS[mod]
        self._forms = {}

    def _make(self: T, mod: str) -> T:
        assert isinstance(self, Imm)
        return type(self)(self.n, self.value, mod)

    def __repr__(self) -> str:
        return f"{self.value}.{self.mod}" if self.mod else str(self.value)


def make_imm(value: int | float) -> Imm | None:
    """The small immediate of a number, or None."""
    index = imm_index(value)
    return None if index is None else Imm(index, value)


class Signal:
    """One or more signals of an instruction; combine them with ``|``.

    bits: `Sig` as an int. dst: destination of a signal that writes one. rot: index of the rotation amount (4.2).
    """

    __slots__ = ("bits", "dst", "rot")

    def __init__(self, bits: int, dst: _Dest | None = None, rot: int | None = None) -> None:
        self.bits = bits
        self.dst = dst
        self.rot = rot

    def __or__(self, other: Signal) -> Signal:
        if self.dst is not None and other.dst is not None:
            _refuse("signal", f"{self!r} and {other!r} both write a register", "one such signal an instruction")
        if self.bits & other.bits:
            _refuse("signal", f"{self!r} and {other!r} hold the same signal", "each signal once")
        return Signal(
            self.bits | other.bits,
            self.dst if self.dst is not None else other.dst,
            self.rot if self.rot is not None else other.rot,
        )

    def __repr__(self) -> str:
        names = " ".join(str(s.name).lower() for s in Sig if s & self.bits)
        return f"<signal {names}{f' -> {self.dst!r}' if self.dst is not None else ''}>"


class Label:
    """A place in the program under construction. `name` is None until it is given one."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<label {self.name}>"


R = TypeVar("R", Reg42, Reg71)

if TYPE_CHECKING:

    class RegFile(Generic[R]):
        """The register file: ``rf[0]`` .. ``rf[63]``."""

        def __getitem__(self, n: int) -> R: ...
        def __len__(self) -> int: ...

else:

    class RegFile(dict):
        """The register file: ``rf[0]`` .. ``rf[63]``; anything else is reported at the user's line."""

        __slots__ = ("_owner",)

        def __init__(self, registers, owner):
            super().__init__(registers)
            self._owner = owner

        @classmethod
        def __class_getitem__(cls, item):
            return cls

        def __missing__(self, n):
            return self._owner._bad_register(n)
