"""Operands of the VideoCore IV builder: immutable, shared, and carrying the bits they contribute to a word.

A contribution is an integer of more than 64 bits. The low 64 are the difference (exclusive or) to the do-nothing word,
so that contributions of one instruction are or-ed together; the bits above say what the contribution occupies:

* 64, 65, 66: read port A, read port B, r4 (two users must agree on what they read);
* 67: a rotation; 68: the MUL half is taken; 69: the instruction is whole and takes no MUL half;
* pairs that exclude each other: 70/71 write swap 0 and 1, 72/73 pm 0 and 1, 74/75 small immediate and signal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias, TypeVar, cast

from qpu.vc4 import regs
from qpu.vc4.pack import PACK_A, PACK_MUL, UNPACK, pack_a, pack_mul, unpack_mode
from qpu.vc4.regs import File

__all__ = [
    "R4",
    "R5",
    "Accumulator",
    "BadOperand",
    "Bank",
    "ColourPackName",
    "Dst",
    "Input",
    "Operand",
    "Output",
    "PackName",
    "ReadWrite",
    "Readable",
    "RegA",
    "RegB",
    "Src",
    "UnpackName",
    "Writable",
]

BASE = 0x100009E7009E7000
MASK64 = (1 << 64) - 1

USED_A, USED_B, USED_R4, ROTATES, MUL_TAKEN, WHOLE = (1 << n for n in range(64, 70))
WS0, WS1, PM0, PM1, IMM, SIGNAL = (1 << n for n in range(70, 76))

RADDR_A, RADDR_B, UNPACK_FIELD = 63 << 18, 63 << 12, 7 << 57
ALWAYS_ADD, ALWAYS_MUL = 1 << 49, 1 << 46
WS_BIT = 1 << 44

UnpackName: TypeAlias = Literal["16a", "16b", "8dr", "8a", "8b", "8c", "8d"]
PackName: TypeAlias = Literal[
    "16a", "16b", "8888", "8a", "8b", "8c", "8d", "32s", "16as", "16bs", "8888s", "8as", "8bs", "8cs", "8ds",
    "8888sf", "8asf", "8bsf", "8csf", "8dsf",
]  # fmt: skip
ColourPackName: TypeAlias = Literal["8888sf", "8asf", "8bsf", "8csf", "8dsf"]


class Operand:
    """Anything that can stand in an operand place.

    adda, addb, mula, mulb: contribution as that operand; port: contribution of merely naming it; add, mul: as the
    destination of that ALU. Attributes that make no sense for an operand are not set.
    """

    __slots__ = ("add", "adda", "addb", "mul", "mula", "mulb", "name", "port")

    name: str
    port: int
    adda: int
    addb: int
    mula: int
    mulb: int
    add: int
    mul: int

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __reduce__(self) -> str:
        raise TypeError(f"operands are not copied or pickled; name {self.name} through the builder")

    def _reads(self, mux: int, port: int) -> None:
        self.port = port
        self.adda = port | mux << 9
        self.addb = port | mux << 6
        self.mula = port | mux << 3
        self.mulb = port | mux

    def _writes(self, addr: int, file: File | None, extra: int = 0) -> None:
        """file: the only file the address works in, None when both will do."""
        delta = addr ^ regs.NOP
        add_ws, mul_ws = 0, 0
        if file is File.A:
            add_ws, mul_ws = WS0, WS1 | WS_BIT
        elif file is File.B:
            add_ws, mul_ws = WS1 | WS_BIT, WS0
        # A result that goes nowhere needs no condition; `sf` adds one when flags are wanted.
        always = addr != regs.NOP
        self.add = delta << 38 | add_ws | extra | (ALWAYS_ADD if always else 0)
        self.mul = delta << 32 | mul_ws | extra | (ALWAYS_MUL if always else 0)


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
    """Stands where a register or mode was asked for that does not exist; reported when it is used."""

    __slots__ = ("allowed", "help", "message", "rule")

    def __init__(self, rule: str, message: str, allowed: str, help: str | None = None) -> None:
        self.name = "?"
        self.rule = rule
        self.message = message
        self.allowed = allowed
        self.help = help

    def pack(self, mode: str) -> BadOperand:
        """Itself: the first mistake is the one to report."""
        return self

    def unpack(self, mode: str) -> BadOperand:
        """Itself."""
        return self


class _Packed(Writable):
    __slots__ = ()


class _Unpacked(Readable):
    __slots__ = ()


def _colour(name: str, addr: int, file: File | None, mode: str) -> Writable:
    row = pack_mul(mode)
    if row is None or not row.code:
        modes = ", ".join(r.name for r in PACK_MUL.values() if r.code)
        only = "" if pack_a(mode) is None else "; the other modes exist for ra0..ra31"
        return BadOperand("pack", f"{name} cannot be packed as {mode!r}", f"{modes} (results of the MUL ALU){only}")
    packed = _Packed()
    packed.name = f"{name}.{row.name}"
    packed._writes(addr, file, PM1 | 1 << 56 | row.code << 52)
    del packed.add  # the MUL result only
    return packed


class Accumulator(ReadWrite):
    """r0..r3."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n
        self.name = f"r{n}"
        self._reads(n, 0)
        self._writes(32 + n, None)

    def pack(self, mode: ColourPackName) -> Writable:
        """This accumulator as a packed destination of the MUL ALU: float 0..1 to bytes 0..255."""
        return _colour(self.name, 32 + self.n, None, mode)


class R4(Readable):
    """r4: results of SFU, TMU and tile buffer; read-only."""

    __slots__ = ()

    def __init__(self) -> None:
        self.name = "r4"
        self._reads(4, USED_R4)

    def unpack(self, mode: UnpackName) -> Readable:
        """r4 with an unpack mode: a half or a byte as a float."""
        row = unpack_mode(mode)
        if row is None or not row.code:
            return _bad_unpack("r4", mode)
        out = _Unpacked()
        out.name = f"r4.{row.name}"
        out._reads(4, USED_R4 | PM1 | 1 << 56 | row.code << 57)
        return out


class R5(Readable):
    """r5: written through `r5rep` and `r5quad`; also the rotation amount ``rotate=q.r5``."""

    __slots__ = ()

    def __init__(self) -> None:
        self.name = "r5"
        self._reads(5, 0)


def _bad_unpack(name: str, mode: str) -> BadOperand:
    modes = ", ".join(row.name for row in UNPACK if row.code)
    return BadOperand("unpack", f"{name} cannot be unpacked as {mode!r}", modes)


class RegA(ReadWrite):
    """A register of file A, ra0..ra31: the only ones that can be unpacked and packed in every mode."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n
        self.name = f"ra{n}"
        self._reads(regs.MUX_A, (n ^ regs.NOP) << 18 | USED_A)
        self._writes(n, File.A)

    def unpack(self, mode: UnpackName) -> Readable:
        """The register with an unpack mode: 16a, 16b (half or int16), 8a..8d (byte), 8dr (byte d everywhere)."""
        row = unpack_mode(mode)
        if row is None or not row.code:
            return _bad_unpack(self.name, mode)
        out = _Unpacked()
        out.name = f"{self.name}.{row.name}"
        out._reads(regs.MUX_A, self.port | PM0 | row.code << 57)
        return out

    def pack(self, mode: PackName) -> Writable:
        """The register as a packed destination; see `qpu.vc4.pack`. Bytes a mode does not write keep their content."""
        row = pack_a(mode)
        if row is None or not row.code:
            if pack_mul(mode) is not None and mode:
                return _colour(self.name, self.n, File.A, mode)
            rows = [r.name for r in (*PACK_A, *PACK_MUL.values()) if r.code]
            return BadOperand("pack", f"{self.name} cannot be packed as {mode!r}", ", ".join(rows))
        packed = _Packed()
        packed.name = f"{self.name}.{row.name}"
        packed._writes(self.n, File.A, PM0 | row.code << 52)
        return packed


class RegB(ReadWrite):
    """A register of file B, rb0..rb31."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n
        self.name = f"rb{n}"
        self._reads(regs.MUX_B, (n ^ regs.NOP) << 12 | USED_B)
        self._writes(n, File.B)

    def pack(self, mode: ColourPackName) -> Writable:
        """The register as a packed destination of the MUL ALU: float 0..1 to bytes 0..255."""
        return _colour(self.name, self.n, File.B, mode)


class Input(Readable):
    """A readable input address: element_number, uniform, ..."""

    __slots__ = ()


class Output(Writable):
    """A writable output address: tmu0_s, sfu_recip, ..."""

    __slots__ = ()


class InOut(ReadWrite):
    """A name that means an input when read and an output when written: vpm, mutex, ..."""

    __slots__ = ()


class SmallImm(Readable):
    """A small immediate; the builder makes them from Python numbers."""

    __slots__ = ("code",)

    def __init__(self, code: int, *, rotates: bool = False) -> None:
        self.code = code
        self.name = f"small immediate {regs.small_imm_text(code)}"
        if rotates:
            self.name = f"rotation by {'r5' if code == 48 else code - 48}"
        flags = USED_B | IMM | (regs.SIG_SMALL_IMM ^ regs.SIG_ALU) << 60 | (ROTATES if rotates else 0)
        self._reads(regs.MUX_B, (code ^ regs.NOP) << 12 | flags)


_T = TypeVar("_T", bound=ReadWrite)


class Bank(dict[int, _T]):
    """The registers of one file: ``bank[n]``, n = 0..31; iterating gives the registers."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str, registers: Iterable[_T]) -> None:
        super().__init__(enumerate(registers))
        self._prefix = prefix

    def __missing__(self, key: object) -> _T:
        bad = BadOperand(
            "register", f"there is no register {self._prefix}[{key!r}]", f"{self._prefix}[0]..{self._prefix}[31]"
        )
        return cast(_T, bad)

    def __iter__(self) -> Iterator[_T]:  # type: ignore[override]  # a bank is a sequence of registers to its users
        return iter(self.values())


def _io(name: str, read: regs.Register | None, write: regs.Register | None) -> Readable | Writable:
    out: Readable | Writable
    if read is not None and write is not None:
        out = InOut()
    elif read is not None:
        out = Input()
    else:
        out = Output()
    out.name = name
    if read is not None:
        if File.A in read.files:
            out._reads(regs.MUX_A, (read.addr ^ regs.NOP) << 18 | USED_A)
        else:
            out._reads(regs.MUX_B, (read.addr ^ regs.NOP) << 12 | USED_B)
    if write is not None:
        out._writes(write.addr, None if len(write.files) == 2 else next(iter(write.files)))
    return out


def _io_names() -> dict[str, tuple[regs.Register | None, regs.Register | None]]:
    found: dict[str, tuple[regs.Register | None, regs.Register | None]] = {}
    for row in regs.READS:
        if row.addr != regs.NOP:
            found.update((name, (row, None)) for name in row.names)
    for row in regs.WRITES:
        if row.addr >= 36:
            for name in row.names:
                if name.isidentifier() and name not in ("nop", "r4"):
                    found[name] = (found.get(name, (None, None))[0], row)
    return found


IO: dict[str, Readable | Writable] = {name: _io(name, *rows) for name, rows in _io_names().items()}
"""Input and output addresses by every name they go by."""

ACCUMULATORS = tuple(Accumulator(n) for n in range(4))
REG_R4, REG_R5 = R4(), R5()
BANK_A = Bank("ra", (RegA(n) for n in range(32)))
BANK_B = Bank("rb", (RegB(n) for n in range(32)))
SMALL_IMMS = tuple(SmallImm(code) for code in range(48))
ROTATIONS = tuple(SmallImm(48 + n, rotates=True) for n in range(16))
SIGNALS = {
    name: (s.code ^ regs.SIG_ALU) << 60 | SIGNAL
    for s in regs.SIGNALS
    if s.code < regs.SIG_SMALL_IMM and s.code != regs.SIG_ALU
    for name in s.names
}
"""Contribution of each signal."""
