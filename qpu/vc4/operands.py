"""Operands of the VideoCore IV builder: registers, inputs and outputs, small immediates, rotations, signals.

An operand has a source field (`Src`), a destination field (`Dst`) or both; `qpu.vc4.pairing` decides whether operands
fit one instruction. Operands are immutable and shared by all programs.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from types import MethodType
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from qpu.core.builder import Refused
from qpu.core.truth import NoTruth
from qpu.vc4 import regs
from qpu.vc4.instr import Dst as DstField
from qpu.vc4.instr import Port
from qpu.vc4.instr import Src as SrcField
from qpu.vc4.pack import PACK_A, PACK_MUL, UNPACK, pack_a, pack_mul, unpack_mode
from qpu.vc4.regs import File

__all__ = [
    "R4", "R5", "Accumulator", "BadOperand", "Bank", "BranchCondName", "ColourPackName", "CondName", "Dst", "Input",
    "Operand", "Output", "PackName", "PushName", "ReadWrite", "Readable", "RegA", "RegB", "Signal", "Src", "UnpackName",
    "Writable",
]  # fmt: skip

UnpackName: TypeAlias = Literal["16a", "16b", "8dr", "8a", "8b", "8c", "8d"]
PackName: TypeAlias = Literal[
    "16a", "16b", "8888", "8a", "8b", "8c", "8d", "32s", "16as", "16bs", "8888s", "8as", "8bs", "8cs", "8ds",
    "8888sf", "8asf", "8bsf", "8csf", "8dsf",
]  # fmt: skip
ColourPackName: TypeAlias = Literal["8888sf", "8asf", "8bsf", "8csf", "8dsf"]


CondName: TypeAlias = Literal["always", "never", "ifz", "ifnz", "ifn", "ifnn", "ifc", "ifcc"]
BranchCondName: TypeAlias = Literal[
    "always", "allz", "allnz", "anyz", "anynz", "alln", "allnn", "anyn", "anynn", "allc", "allcc", "anyc", "anycc"
]
PushName: TypeAlias = Literal["z"]
"""The value of `push`, which sets the flags Z, N and C of every lane together and is named after the first."""


class Operand(NoTruth):
    """An operand of a builder method. source, target: None where it cannot be read or written."""

    __slots__ = ("name", "source", "target")

    def __init__(self, name: str, source: SrcField | None = None, target: DstField | None = None) -> None:
        self.name = name
        self.source = source
        self.target = target

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __reduce__(self) -> str:
        raise TypeError(f"operands are not copied or pickled\n  help: take {self.name} from the builder")


class Readable(Operand):
    """An operand that can be read."""

    __slots__ = ()


class Writable(Operand):
    """An operand that can be written."""

    __slots__ = ()


class ReadWrite(Readable, Writable):
    """An operand that can be read and written."""

    __slots__ = ()


Src: TypeAlias = Readable | int | float
"""A source: a register, an integer -16..15, or a float 2**-8..2**7 (or 0.0)."""

Dst: TypeAlias = Writable
"""A destination."""


class BadOperand(ReadWrite):
    """A register or mode that does not exist; the instruction that uses it is refused with `why`."""

    __slots__ = ("why",)

    def __init__(self, rule: str, message: str, allowed: str, help: str | None = None) -> None:
        super().__init__("?")
        self.why = Refused(rule, message, allowed, help)

    def pack(self, mode: str) -> BadOperand:
        """This operand: the first mistake is reported."""
        return self

    def unpack(self, mode: str) -> BadOperand:
        """This operand, as in `pack`."""
        return self


@cache
def _unpacked(reg: Operand, mode: str) -> Readable:
    row = unpack_mode(mode)
    if row is None or not row.code or reg.source is None:
        modes = ", ".join(row.name for row in UNPACK if row.code)
        return BadOperand("unpack", f"{reg.name} cannot be unpacked as {mode!r}", modes, "write one of these modes")
    return Readable(f"{reg.name}.{row.name}", reg.source._replace(unpack=row.code))


@cache
def _packed(reg: Operand, mode: str) -> Writable:
    assert reg.target is not None
    in_a = reg.target.file is File.A
    row, pm = (pack_a(mode) if in_a else None), 0
    if row is None or not row.code:
        row, pm = pack_mul(mode), 1
    if row is not None and row.code:
        return Writable(f"{reg.name}.{row.name}", None, reg.target._replace(pack=row.code, pm=pm))
    rows = (*(PACK_A if in_a else ()), *PACK_MUL.values())
    help = "write one of these modes" if in_a or pack_a(mode) is None else "write to ra0..ra31, which have this mode"
    modes = ", ".join(r.name for r in rows if r.code)
    return BadOperand("pack", f"{reg.name} cannot be packed as {mode!r}", modes, help)


class Accumulator(ReadWrite):
    """r0..r3."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        super().__init__(f"r{n}", SrcField(Port.ACC, n), DstField(32 + n))
        self.n = n

    def pack(self, mode: ColourPackName) -> Writable:
        """This accumulator as a packed destination of the MUL ALU: float 0..1 to bytes 0..255."""
        return _packed(self, mode)


class R4(Readable):
    """r4: results of SFU, TMU and tile buffer; read-only."""

    __slots__ = ()

    def unpack(self, mode: UnpackName) -> Readable:
        """r4 with an unpack mode: a half or a byte as a float."""
        return _unpacked(self, mode)


class R5(Readable):
    """r5: written through `r5rep` and `r5quad`; also the rotation amount ``rotate=q.r5``."""

    __slots__ = ()


class RegA(ReadWrite):
    """A register of file A, ra0..ra31. Only these can be unpacked and packed in every mode."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        super().__init__(f"ra{n}", SrcField(Port.A, n), DstField(n, File.A))
        self.n = n

    def unpack(self, mode: UnpackName) -> Readable:
        """The register with an unpack mode: 16a, 16b (half or int16), 8a..8d (byte), 8dr (byte d everywhere)."""
        return _unpacked(self, mode)

    def pack(self, mode: PackName) -> Writable:
        """The register as a packed destination; see `qpu.vc4.pack`. Bytes a mode does not write keep their content."""
        return _packed(self, mode)


class RegB(ReadWrite):
    """A register of file B, rb0..rb31."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        super().__init__(f"rb{n}", SrcField(Port.B, n), DstField(n, File.B))
        self.n = n

    def pack(self, mode: ColourPackName) -> Writable:
        """The register as a packed destination of the MUL ALU: float 0..1 to bytes 0..255."""
        return _packed(self, mode)


class Input(Readable):
    """A readable input address: element_number, uniform, ..."""

    __slots__ = ()


class Output(Writable):
    """A writable output address: tmu0_s, sfu_recip, ..."""

    __slots__ = ()


class InOut(ReadWrite):
    """A name that means an input when read and an output when written: vpm, mutex, ..."""

    __slots__ = ()


class Signal:
    """A signal of an instruction: ``sig=q.ldtmu0``."""

    __slots__ = ("code", "name")

    def __init__(self, name: str, code: int) -> None:
        self.name = name
        self.code = code

    def __repr__(self) -> str:
        return f"<signal {self.name}>"


_T = TypeVar("_T", bound=ReadWrite)


class Bank(dict[int, _T]):
    """The registers of one file: ``bank[n]``, n = 0..31; iterating gives the registers."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str, registers: Iterable[_T]) -> None:
        super().__init__(enumerate(registers))
        self._prefix = prefix

    def __missing__(self, key: object) -> _T:
        name = self._prefix
        allowed = f"{name}[0]..{name}[31]"
        bad = BadOperand("register", f"register {name}[{key!r}] does not exist", allowed, f"write q.{name}[0]")
        return cast(_T, bad)

    def __iter__(self) -> Iterator[_T]:  # type: ignore[override]  # a bank is a sequence of registers to its users
        return iter(self.values())


def _io_names() -> dict[str, Readable | Writable]:
    sources: dict[str, SrcField] = {}
    targets: dict[str, DstField] = {}
    for row in regs.READS:
        if row.addr != regs.NOP:
            port = Port.ANY if len(row.files) == 2 else (Port.A, Port.B)[next(iter(row.files))]
            sources.update((name, SrcField(port, row.addr)) for name in row.names)
    for row in regs.WRITES:
        if row.addr >= 36:
            target = DstField(row.addr, None if len(row.files) == 2 else next(iter(row.files)))
            targets.update((name, target) for name in row.names if name.isidentifier() and name not in ("nop", "r4"))
    found: dict[str, Readable | Writable] = {}
    for name in (*sources, *(n for n in targets if n not in sources)):
        kind = Output if name not in sources else InOut if name in targets else Input
        found[name] = kind(name, sources.get(name), targets.get(name))
    return found


IO: Final = _io_names()
"""Input and output addresses by all of their names."""

ACCUMULATORS: Final = tuple(Accumulator(n) for n in range(4))
REG_R4: Final = R4("r4", SrcField(Port.ACC, 4))
REG_R5: Final = R5("r5", SrcField(Port.ACC, 5))
BANK_A: Final = Bank("ra", (RegA(n) for n in range(32)))
BANK_B: Final = Bank("rb", (RegB(n) for n in range(32)))
SMALL_IMMS: Final = tuple(
    Readable(f"small immediate {regs.small_imm_text(code)}", SrcField(Port.IMM, code)) for code in range(48)
)
SIGNALS: Final = {
    s.name: Signal(s.name, s.code) for s in regs.SIGNALS if s.code < regs.SIG_SMALL_IMM and s.code != regs.SIG_ALU
}
"""The signals that an instruction can ask for, by name."""


# -- conversion of arguments to instruction fields


def shown(value: object) -> str:
    """The name of a value in messages."""
    if isinstance(value, MethodType):
        return f"the method q.{value.__name__}"
    return value.name if isinstance(value, Operand) else repr(value)


def integer(value: object) -> int | None:
    """The integer that a value is; None for floats, booleans and everything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # TypeError is the answer for non-integers
    except TypeError:
        return None


def destination(dst: object) -> DstField:
    """The destination field of an operand. Raises: Refused."""
    if isinstance(dst, BadOperand):
        raise dst.why
    if not isinstance(dst, Operand):
        raise Refused(
            "operand",
            f"{shown(dst)} is not a destination",
            "a register such as q.r0, q.ra[1], q.rb[2], q.null",
            "take a register from the builder, such as q.r0",
        )
    if dst.target is None:
        helps = {"r5": "write q.r5rep or q.r5quad", "r4": "write r0..r3; SFU, TMU and tile buffer write r4"}
        help = helps.get(dst.name, "write a register, or an output such as q.tmu0_s")
        raise Refused("operand", f"{dst.name} cannot be written", "r0..r3, ra, rb and outputs", help)
    return dst.target


_IMM_ALLOWED: Final = "-16..15 as integers; 0.0 and 2**-8..2**7 as floats"


def readable(src: object) -> Operand:
    """The operand that can be read: a register or input as it is, a number as its small immediate. Raises: Refused."""
    if isinstance(src, BadOperand):
        raise src.why
    if not isinstance(src, Operand):
        return small_imm(src)
    if src.source is None:
        help = "read a register or an input; results of SFU and TMU arrive in q.r4"
        raise Refused("operand", f"{src.name} cannot be read", "registers, inputs and small immediates", help)
    return src


def float_pattern(value: float) -> int | None:
    """The binary32 pattern of `value`, rounded to nearest; None when a finite value overflows."""
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return None


def small_imm(value: Any) -> Operand:
    """The small immediate of a number. Raises: Refused."""
    code: int | None = None
    number = integer(value)
    if number is not None:
        if -(1 << 31) <= number < 1 << 32:
            code = regs.small_imm_code(number & 0xFFFFFFFF)
    elif not isinstance(value, bool | str) and hasattr(value, "__float__"):
        value = float(value)
        pattern = float_pattern(value)
        if pattern is not None and struct.unpack("<f", pattern.to_bytes(4, "little"))[0] == value:
            code = regs.small_imm_code(pattern)
    else:
        allowed = f"a register, or {_IMM_ALLOWED}"
        raise Refused("operand", f"{shown(value)} is not an operand", allowed, "take a register from the builder")
    if code is None:
        message = f"{value!r} is not a small immediate of VideoCore IV"
        raise Refused("small-imm", message, _IMM_ALLOWED, f"load it: q.ldi(q.r0, {value!r})")
    return SMALL_IMMS[code]


def rotation(rotate: object) -> int:
    """Code 48..63 of a rotation amount; 0 for none. Raises: Refused."""
    if rotate is REG_R5:
        return 48
    n = integer(rotate)
    if n is None or not -15 <= n <= 15:
        message = f"{shown(rotate)} is not a rotation amount"
        raise Refused("rotation", message, "-15..15 lanes, or q.r5", "pass rotate=n to move lane i to lane i + n")
    return 48 + n % 16 if n else 0


def constant(value: Any) -> tuple[int, int]:
    """Load-immediate mode and its 32 bits: an integer, a float, or 16 small integers. Raises: Refused."""
    number = integer(value)
    if number is not None:
        if not -(1 << 31) <= number < 1 << 32:
            raise Refused("ldi", f"{number} does not fit 32 bits", "-2**31..2**32-1", "load the halves and join them")
        return 0, number & 0xFFFFFFFF
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return _per_element(list(value))
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        allowed = "an integer, a float, or 16 small integers"
        raise Refused("ldi", f"{shown(value)} is not a constant", allowed, "move a register with q.mov")
    pattern = float_pattern(float(value))
    if pattern is None:
        help = "use a smaller number, or load 0x7f800000 for infinity"
        raise Refused("ldi", f"{value!r} is too large for a 32-bit float", "magnitudes up to 3.4028234e38", help)
    return 0, pattern


def _per_element(values: list[Any]) -> tuple[int, int]:
    numbers = [integer(v) for v in values]
    found = [n for n in numbers if n is not None and -2 <= n <= 3]
    signed = all(n <= 1 for n in found)
    allowed, help = "16 integers, all in -2..1 or all in 0..3", "compute other lanes from q.element_number"
    if len(values) != 16 or len(found) != 16:
        raise Refused("ldi", f"{values!r} is not a per-element constant", allowed, help)
    if not signed and any(n < 0 for n in found):
        raise Refused("ldi", f"{values!r} mixes negative lanes with 2 or 3", allowed, help)
    imm = sum((n & 1) << i | (n >> 1 & 1) << (16 + i) for i, n in enumerate(found))
    return (1 if signed else 3), imm
