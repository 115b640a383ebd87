"""Tables of the I/O registers, signals and conditions of VideoCore IV: one row each, with all names.

Source: docs/hardware/vc4.md 3.1 to 3.5 and 4, from the VideoCore IV 3D architecture guide. Order of the names:
vc4asm's, its aliases, py-videocore's. The evidence is the guide unless a row has another grade.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qpu.core.isa import Basis
from qpu.core.optable import Token
from qpu.errors import UsageError
from qpu.vc4.rules import RULES

__all__ = [
    "ACCUMULATORS", "BRANCH_CONDS", "CONDS", "FILE_FREE_READS", "MUX_A", "MUX_B", "NOP", "READS", "SIGNALS",
    "SIG_ALU", "SIG_BRANCH", "SIG_LOAD_IMM", "SIG_SMALL_IMM", "WRITES", "BranchCond", "Cond", "File", "Named",
    "Register", "Signal", "branch_cond", "cond", "file_free_write", "read_name", "reader", "signal", "small_imm_code",
    "small_imm_text", "small_imm_value", "write_name", "writer",
]  # fmt: skip

NOP = 39  # the address that reads nothing and discards what is written
MUX_A, MUX_B = 6, 7
SIG_ALU, SIG_SMALL_IMM, SIG_LOAD_IMM, SIG_BRANCH = 1, 13, 14, 15
ACCUMULATORS = ("r0", "r1", "r2", "r3", "r4", "r5")  # by mux value


class File(enum.IntEnum):
    """A physical register file."""

    A = 0
    B = 1

    @property
    def prefix(self) -> str:
        """``ra`` or ``rb``."""
        return ("ra", "rb")[self]


class Named:
    """A row with several names."""

    __slots__ = ()
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that text, builder and disassembler use."""
        return self.names[0]


@dataclass(frozen=True, slots=True)
class Register(Named):
    """An input or output address (32..63) of one or both register files.

    effect: the resource that an access concerns, as `qpu.vc4.effects` names it. tokens: sequences whose order the
    access belongs to. pops: a read takes an item from a stream; both ports then get the same item. unit: the shared
    unit that the access uses (``tmu sfu tlb colour mutex``), or the empty string.
    """

    addr: int
    files: frozenset[File]
    names: tuple[str, ...]
    effect: str
    doc: str
    tokens: frozenset[Token] = frozenset()
    pops: bool = False
    graphics: bool = False
    basis: Basis = Basis.MANUAL
    unit: str = ""


_SFU = RULES["H2"].windows[0].distance + 1
_A, _B, _AB = frozenset({File.A}), frozenset({File.B}), frozenset(File)


def _row(
    addr: int,
    files: frozenset[File],
    names: str,
    effect: str,
    doc: str,
    *tokens: Token,
    unit: str = "",
    pops: bool = False,
    graphics: bool = False,
    basis: Basis = Basis.MANUAL,
) -> Register:
    return Register(addr, files, tuple(names.split()), effect, doc, frozenset(tokens), pops, graphics, basis, unit)


READS: tuple[Register, ...] = (
    _row(32, _AB, "unif uniform uniform_read", "uniform", "Next word of the uniform stream.", Token.UNIFORM, pops=True),
    _row(35, _AB, "vary varying varying_read", "varying", "Next varying.", Token.VARYING, pops=True, graphics=True),
    _row(38, _A, "elem_num element_number", "elem_num", "0..15, lane by lane."),
    _row(38, _B, "qpu_num qpu_number", "qpu_num", "Number of this QPU, in every lane."),
    _row(39, _AB, "nop -", "none", "Nothing: the operand latch keeps its last value (measured, do not rely on it)."),
    _row(41, _A, "x_coord x_pixel_coord", "pixel", "X of the pixel.", graphics=True),
    _row(41, _B, "y_coord y_pixel_coord", "pixel", "Y of the pixel.", graphics=True),
    _row(42, _A, "ms_mask ms_flags", "ms_mask", "Multisample mask.", graphics=True),
    _row(42, _B, "rev_flag", "rev_flag", "Reverse flag.", graphics=True),
    _row(48, _AB, "vpm vpm_read", "vpm_read", "Next vector of the VPM read FIFO.", Token.VPM_READ, pops=True),
    _row(49, _A, "vr_busy vpm_ld_busy", "vdr_busy", "Not zero while a DMA load runs.", Token.DMA_LOAD),
    _row(49, _B, "vw_busy vpm_st_busy", "vdw_busy", "Not zero while a DMA store runs.", Token.DMA_STORE),
    _row(50, _A, "vr_wait vpm_ld_wait", "vdr_wait", "Waits for the DMA load.", Token.DMA_LOAD),
    _row(50, _B, "vw_wait vpm_st_wait", "vdw_wait", "Waits for the DMA store.", Token.DMA_STORE),
    _row(51, _AB, "mutex mutex_acq mutex_acquire", "mutex_acquire", "Waits for the mutex.", Token.MUTEX,
         unit="mutex", pops=True),
)  # fmt: skip

_TMU_DOC = {"s": "S (or a memory address): starts the request.", "t": "T.", "r": "R or border.", "b": "LOD bias."}

WRITES: tuple[Register, ...] = (
    *(_row(32 + n, _AB, f"r{n}", f"r{n}", f"Accumulator {n}.") for n in range(4)),
    _row(36, _AB, "tmurs tmu_noswap r4", "tmu_noswap", "Not zero: TMU0 and TMU1 are not exchanged.",
         Token.TMU_REQUEST, Token.TMU1_REQUEST),
    _row(37, _A, "r5quad r5_pix0", "r5", "Lane 0 of each quad goes to its quad of r5.", basis=Basis.MEASURED),
    _row(37, _B, "r5rep broadcast", "r5", "Lane 0 goes to every lane of r5.", basis=Basis.MEASURED),
    _row(38, _AB, "irq interrupt host_int host_interrupt", "host", "Not zero: host interrupt.", Token.HOST),
    _row(39, _AB, "- nop null", "none", "Discarded."),
    _row(40, _A, "unif_addr uniforms_address", "unif_addr", "Uniform pointer, from lane 0.", Token.UNIFORM),
    _row(
        40, _B, "unif_addr_rel", "unif_addr", "Uniform pointer, relative; the base is unknown.", Token.UNIFORM,
        basis=Basis.ASSUMED,
    ),
    _row(41, _A, "x_coord quad_x x_pixel_coord", "quad_x", "X of the quad.", Token.TLB, graphics=True),
    _row(41, _B, "y_coord quad_y y_pixel_coord", "quad_y", "Y of the quad.", Token.TLB, graphics=True),
    _row(42, _A, "ms_mask ms_flags", "ms_mask", "Multisample mask.", Token.TLB, graphics=True),
    _row(42, _B, "rev_flag", "rev_flag", "Reverse flag.", Token.TLB, graphics=True),
    _row(43, _AB, "stencil tlb_stencil tlb_stencil_setup", "tlb_stencil", "Stencil setup.",
         Token.TLB, unit="tlb", graphics=True),
    _row(44, _AB, "tlbz tlb_z", "tlb_z", "Tile buffer Z.", Token.TLB, unit="tlb", graphics=True),
    _row(45, _AB, "tlbm tlb_colour_ms tlb_color_ms", "tlb_colour", "Colour, one sample.",
         Token.TLB, unit="colour", graphics=True),
    _row(46, _AB, "tlbc tlb_colour_all tlb_color_all", "tlb_colour", "Colour, all samples.",
         Token.TLB, unit="colour", graphics=True),
    _row(47, _AB, "tlbam tlb_alpha_mask", "tlb_alpha", "Alpha mask.", Token.TLB, unit="tlb", graphics=True),
    _row(48, _AB, "vpm vpm_write", "vpm_write", "Next vector of the VPM write FIFO.", Token.VPM_WRITE),
    _row(49, _A, "vr_setup vpmvcd_rd_setup", "vr_setup", "Set-up of VPM reads and DMA loads.", Token.VPM_READ),
    _row(49, _B, "vw_setup vpmvcd_wr_setup", "vw_setup", "Set-up of VPM writes and DMA stores.", Token.VPM_WRITE),
    _row(50, _A, "vr_addr vpm_ld_addr", "vr_addr", "Memory address: starts the DMA load.", Token.DMA_LOAD),
    _row(50, _B, "vw_addr vpm_st_addr", "vw_addr", "Memory address: starts the DMA store.", Token.DMA_STORE),
    _row(51, _AB, "mutex mutex_rel mutex_release", "mutex_release", "Gives the mutex back.", Token.MUTEX),
    _row(52, _AB, "recip sfu_recip", "sfu", f"1/a in r4, {_SFU} instructions on.", Token.SFU, unit="sfu"),
    _row(53, _AB, "recipsqrt sfu_recipsqrt rsqrt sfu_rsqrt", "sfu", "1/sqrt(abs(a)), likewise.", Token.SFU, unit="sfu"),
    _row(54, _AB, "exp sfu_exp sfu_exp2", "sfu", "2**a, likewise.", Token.SFU, unit="sfu"),
    _row(55, _AB, "log sfu_log sfu_log2", "sfu", "log2(abs(a)), likewise.", Token.SFU, unit="sfu"),
    *(
        _row(
            56 + 4 * unit + i, _AB, f"t{unit}{c} tmu{unit}_{c}", f"tmu{unit}_{c}", f"TMU{unit} {_TMU_DOC[c]}",
            (Token.TMU_REQUEST, Token.TMU1_REQUEST)[unit], unit="tmu",
        )
        for unit in (0, 1)
        for i, c in enumerate("strb")
    ),
)  # fmt: skip

_READ = {(f, r.addr): r for r in READS for f in r.files}
_WRITE = {(f, r.addr): r for r in WRITES for f in r.files}

FILE_FREE_READS = frozenset(r.addr for r in READS if r.files == _AB)
"""Read addresses that both files have: either port can read them."""

_FILE_FREE_WRITES = frozenset(r.addr for r in WRITES if r.files == _AB)


def file_free_write(addr: int) -> bool:
    """True when both files have the write address `addr`."""
    return addr in _FILE_FREE_WRITES


def reader(file: File, addr: int) -> Register | None:
    """The input register read at `addr` (32..63); None for physical registers and unassigned addresses."""
    return _READ.get((file, addr))


def writer(file: File, addr: int) -> Register | None:
    """The output register written at `addr` (32..63); None for physical registers."""
    return _WRITE.get((file, addr))


def read_name(file: File, addr: int) -> str:
    """The printed name of read address `addr`; an unassigned address prints as ``ra33`` or ``rb33``."""
    row = _READ.get((file, addr))
    return f"{file.prefix}{addr}" if row is None else row.name


def write_name(file: File, addr: int) -> str:
    """The printed name of write address `addr`."""
    row = _WRITE.get((file, addr))
    return f"{file.prefix}{addr}" if row is None else row.name


@dataclass(frozen=True, slots=True)
class Signal(Named):
    """A value of the signal field. loads_r4: the source of a load into r4, or the empty string."""

    code: int
    names: tuple[str, ...]
    doc: str
    loads_r4: str = ""
    ends: bool = False
    tokens: frozenset[Token] = frozenset()
    graphics: bool = False
    switches: bool = False
    colour: bool = False


_TLB = frozenset({Token.TLB})

SIGNALS: tuple[Signal, ...] = (
    Signal(0, ("bkpt", "break", "breakpoint"), "Software breakpoint: the QPU stops."),
    Signal(1, ("none",), "No signal."),
    Signal(2, ("thrsw", "tswitch"), "Thread switch, after two more instructions.", switches=True),
    Signal(3, ("thrend", "tend"), "Program end, after two more instructions.", ends=True),
    Signal(4, ("sbwait", "waitscb"), "Waits for the scoreboard.", tokens=_TLB, graphics=True),
    Signal(5, ("sbdone", "unlscb"), "Unlocks the scoreboard.", tokens=_TLB, graphics=True),
    Signal(6, ("lthrsw", "lswitch"), "Last thread switch.", graphics=True, switches=True),
    Signal(7, ("loadcv", "ldcvtlb"), "Coverage to r4.", "tlb", tokens=_TLB, graphics=True),
    Signal(8, ("loadc", "ldcotlb"), "Colour to r4.", "tlb", tokens=_TLB, graphics=True, colour=True),
    Signal(9, ("ldcend", "ldcoend"), "Colour to r4, program end.", "tlb", True, _TLB, True, colour=True),
    Signal(10, ("ldtmu0",), "Oldest result of TMU0 to r4.", "tmu0", tokens=frozenset({Token.TMU_RESULT})),
    Signal(11, ("ldtmu1",), "Oldest result of TMU1 to r4.", "tmu1", tokens=frozenset({Token.TMU1_RESULT})),
    Signal(12, ("loadam", "ldaltlb"), "Alpha mask to r4.", "tlb", tokens=_TLB, graphics=True),
    Signal(13, ("small_imm",), "raddr_b is a small immediate or a rotation."),
    Signal(14, ("load_imm",), "Load immediate or semaphore."),
    Signal(15, ("branch",), "Branch."),
)

signal: Final[Callable[[str], Signal | None]] = {name: s for s in SIGNALS for name in s.names}.get
"""The signal of that name or alias, or None."""


@dataclass(frozen=True, slots=True)
class Cond(Named):
    """A write condition, tested lane by lane on the flags as they were. flag: ``z``, ``n``, ``c`` or empty."""

    code: int
    names: tuple[str, ...]
    flag: str
    when: bool  # the value of the flag that makes the condition true; without a flag, the result

    @property
    def inverse(self) -> int:
        """Code of the opposite condition."""
        return self.code ^ 1


CONDS: tuple[Cond, ...] = (
    Cond(0, ("never",), "", False),
    Cond(1, ("always",), "", True),
    Cond(2, ("ifz", "ifzs", "z", "zs"), "z", True),
    Cond(3, ("ifnz", "ifzc", "nz", "zc"), "z", False),
    Cond(4, ("ifn", "ifns", "n", "ns"), "n", True),
    Cond(5, ("ifnn", "ifnc", "nn", "nc"), "n", False),
    Cond(6, ("ifc", "ifcs", "c", "cs"), "c", True),
    Cond(7, ("ifcc", "cc"), "c", False),
)

cond: Final[Callable[[str], Cond | None]] = {name: c for c in CONDS for name in c.names}.get
"""The write condition of that name or alias, or None."""


@dataclass(frozen=True, slots=True)
class BranchCond(Named):
    """A branch condition: `flag` equals `when` in all lanes, or in any."""

    code: int
    names: tuple[str, ...]
    flag: str
    when: bool
    every: bool


BRANCH_CONDS: tuple[BranchCond, ...] = (
    BranchCond(0, ("allz", "zs", "jzs"), "z", True, True),
    BranchCond(1, ("allnz", "zc", "jzc"), "z", False, True),
    BranchCond(2, ("anyz", "zs_any", "jzs_any"), "z", True, False),
    BranchCond(3, ("anynz", "zc_any", "jzc_any"), "z", False, False),
    BranchCond(4, ("alln", "jns"), "n", True, True),
    BranchCond(5, ("allnn", "jnc"), "n", False, True),
    BranchCond(6, ("anyn", "jns_any"), "n", True, False),
    BranchCond(7, ("anynn", "jnc_any"), "n", False, False),
    BranchCond(8, ("allc", "allcs", "jcs"), "c", True, True),
    BranchCond(9, ("allcc", "allnc", "jcc"), "c", False, True),
    BranchCond(10, ("anyc", "anycs", "jcs_any"), "c", True, False),
    BranchCond(11, ("anycc", "anync", "jcc_any"), "c", False, False),
    BranchCond(15, ("always", "jmp"), "", True, True),
)
"""All defined branch conditions; codes 12..14 are reserved."""

_BRANCH_CONDS: Final[dict[str | int, BranchCond]] = {
    **{c.code: c for c in BRANCH_CONDS},
    **{name: c for c in BRANCH_CONDS for name in c.names},
}
branch_cond: Final[Callable[[str | int], BranchCond | None]] = _BRANCH_CONDS.get
"""The branch condition of that name, alias or code; None when there is none (codes 12..14 are reserved)."""


def small_imm_value(code: int) -> int:
    """The 32-bit pattern that small-immediate code 0..63 puts in every lane.

    Codes 48..63 rotate the MUL output and are the constants -16..-1 at the same time (measured with py-videocore's
    rotate test). Raises: UsageError outside 0..63.
    """
    if not 0 <= code <= 63:
        raise UsageError(f"small-immediate code {code} does not exist", help="pass 0..63")
    if code < 16:
        return code
    if code < 32:
        return (code - 32) & 0xFFFFFFFF
    if code < 40:
        return (127 + code - 32) << 23
    if code < 48:
        return (127 + code - 48) << 23
    return (code - 64) & 0xFFFFFFFF


small_imm_code: Final[Callable[[int], int | None]] = {small_imm_value(code): code for code in range(48)}.get
"""The code 0..47 whose value is that 32-bit pattern, or None."""


def small_imm_text(code: int) -> str:
    """A small immediate as the disassembler prints it: ``5``, ``-16``, ``2.0``, ``1./256``."""
    if 32 <= code < 40:
        return f"{1 << (code - 32)}.0"
    if 40 <= code < 48:
        return f"1./{1 << (48 - code)}"
    value = small_imm_value(code)
    return str(value - (1 << 32) if value >> 31 else value)
