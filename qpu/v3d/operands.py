"""Operands of the typed builders of V3D 4.2 and 7.1: registers, destinations, immediates, signals, branch targets.

Each object holds the `Src` or `Dst` that it puts into an instruction. Objects are immutable and shared by all programs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar, overload

from qpu.core.isa import Isa
from qpu.core.locations import LAYERS, here, loc_of
from qpu.core.truth import NoTruth
from qpu.errors import AsmError
from qpu.v3d.advice import mistake
from qpu.v3d.codes import sig_names
from qpu.v3d.instr import Dst, Src, SrcKind
from qpu.v3d.regs import MAGIC, imm_index

__all__ = ["ABSENT", "LRI", "Absolute", "Dest", "Imm", "LinkRegister", "Reg", "RegFile", "Signal", "immediate"]

T = TypeVar("T", bound="_Modified")


class OperandError(AsmError, TypeError):
    """An operand that cannot be formed."""


def _refuse(kind: str, message: str) -> NoReturn:
    found = replace(mistake(kind, message), loc=loc_of(here()))
    raise OperandError(found.render(), [found])


class _Modifier:
    """The attribute of an operand that gives its form with the modifier of that name."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, operand: None, owner: type) -> _Modifier: ...
    @overload
    def __get__(self, operand: T, owner: type) -> T: ...
    def __get__(self, operand: T | None, owner: type) -> T | _Modifier:
        return self if operand is None else operand._with(self.name)


class _Modified(NoTruth):
    """An operand that takes modifiers: `x.h` is x with the modifier h. Modified forms are cached."""

    __slots__ = ("_forms", "mod")
    mod: str
    _forms: dict[str, _Modified]

    if TYPE_CHECKING:

        def _make(self: T, mod: str) -> T: ...

    def _with(self: T, mod: str) -> T:
        if self.mod:
            _refuse("one-modifier", f"{self!r} already has a modifier, .{mod} is a second one")
        form = self._forms.get(mod)
        if form is None:
            form = self._forms.setdefault(mod, self._make(mod))
        assert isinstance(form, type(self))
        return form

    l = _Modifier("Low half as binary16 (input), or write binary16 to the low half (output).")  # noqa: E741
    h = _Modifier("High half as binary16 (input), or write binary16 to the high half (output).")
    abs = _Modifier("Absolute value.")
    ff = _Modifier("binary32 converted to binary16, in both halves.")
    ll = _Modifier("Low half in both halves.")
    hh = _Modifier("High half in both halves.")
    swp = _Modifier("Halves swapped.")
    sat = _Modifier("Clamped to 0..1 (fmov of 7.1).")
    nsat = _Modifier("Clamped to -1..1 (fmov of 7.1).")
    max0 = _Modifier("Negative values become 0 (fmov of 7.1).")
    ul = _Modifier("Low 16 bits, zero-extended (mov of 7.1).")
    uh = _Modifier("High 16 bits, zero-extended (mov of 7.1).")
    il = _Modifier("Low 16 bits, sign-extended (mov of 7.1).")
    ih = _Modifier("High 16 bits, sign-extended (mov of 7.1).")


class Dest(_Modified):
    """A write-only destination of one chip, perhaps with an output modifier."""

    __slots__ = ("dst", "isa")

    def __init__(self, isa: Isa, n: int, magic: bool = True, mod: str = "") -> None:
        self.isa = isa
        self.dst = Dst(n, magic)
        self.mod = mod
        self._forms = {}

    def _make(self: T, mod: str) -> T:
        assert isinstance(self, Dest)
        return type(self)(self.isa, *self.dst, mod)

    def __repr__(self) -> str:
        n, magic = self.dst
        name = (MAGIC[self.isa].get(n) or f"magic {n}") if magic else f"rf{n}"
        return f"{name}.{self.mod}" if self.mod else name


class Reg(Dest):
    """A register rf0..rf63, or an accumulator r0..r5 of V3D 4.2 (magic), as source or destination."""

    __slots__ = ("src",)

    def __init__(self, isa: Isa, n: int, magic: bool = False, mod: str = "") -> None:
        super().__init__(isa, n, magic, mod)
        self.src = Src(SrcKind.ACC if magic else SrcKind.RF, n, mod)


class Imm(_Modified):
    """A small immediate by index, 0..47; `q.imm(value)` makes one, and the builder makes one of a plain number."""

    __slots__ = ("src", "value")

    def __init__(self, index: int, value: int | float, mod: str = "") -> None:
        self.src = Src(SrcKind.IMM, index, mod)
        self.value = value
        self.mod = mod
        self._forms = {}

    def _make(self: T, mod: str) -> T:
        assert isinstance(self, Imm)
        return type(self)(self.src.n, self.value, mod)

    def __repr__(self) -> str:
        return f"{self.value}.{self.mod}" if self.mod else str(self.value)


def immediate(value: int | float) -> Imm | None:
    """The small immediate of a number, or None."""
    index = imm_index(value)
    return None if index is None else Imm(index, value)


class _Absent:
    """An operand or destination that an operation does not have."""

    __slots__ = ("dst", "mod", "src")

    def __init__(self) -> None:
        self.dst = self.src = None
        self.mod = ""


ABSENT: Final = _Absent()


class Signal:
    """One or more signals of an instruction; combine them with ``|``.

    bits: `Sig` as an int. dst: destination of a signal that writes one. rot: index of the rotation amount (4.2).
    """

    __slots__ = ("bits", "dst", "rot")

    def __init__(self, bits: int, dst: Dst | None = None, rot: int | None = None) -> None:
        self.bits = bits
        self.dst = dst
        self.rot = rot

    def __or__(self, other: Signal) -> Signal:
        if self.dst is not None and other.dst is not None:
            _refuse("one-writing-signal", f"{self!r} and {other!r} both write a register")
        if self.bits & other.bits:
            _refuse("signal-twice", f"{self!r} and {other!r} hold the same signal")
        return Signal(
            self.bits | other.bits,
            self.dst if self.dst is not None else other.dst,
            self.rot if self.rot is not None else other.rot,
        )

    def __repr__(self) -> str:
        to = "" if self.dst is None else f" -> {'magic ' if self.dst.magic else 'rf'}{self.dst.n}"
        return f"<signal {sig_names(self.bits)}{to}>"


class Absolute:
    """A GPU address as a branch target."""

    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address = address


class LinkRegister:
    """The link register as a branch target."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "lri"


LRI: Final = LinkRegister()

if TYPE_CHECKING:

    class RegFile:
        """The register file: ``rf[0]`` .. ``rf[63]``."""

        def __getitem__(self, n: int) -> Reg: ...
        def __len__(self) -> int: ...

else:

    class RegFile(dict):
        """The register file: ``rf[0]`` .. ``rf[63]``; anything else is reported at the user's line."""

        __slots__ = ("_owner",)

        def __init__(self, registers, owner):
            super().__init__(registers)
            self._owner = owner

        def __missing__(self, n):
            return self._owner._bad_register(n)


LAYERS.add(__file__)
