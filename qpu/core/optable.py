"""Row types of the operation, signal and address tables, which every tool of an instruction set reads.

Encoder, decoder, printer, builder, checker and emulator know an operation, a signal or a magic address by its row.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from qpu.core.isa import Basis, Isa, Unit

__all__ = ["Code", "Flags", "MagicRow", "Op", "Operand", "OperandType", "Semantics", "SignalRow", "Table", "Token"]

# A semantic function: f(v, a, b, *implicit) -> V, or -> (V, *implicit results). `v` is a LaneOps, whose vector type
# the row does not know, hence Any.
Semantics: TypeAlias = Callable[..., Any]


class OperandType(enum.StrEnum):
    """Type of an operand; it determines modifiers and conversions between floats and integers."""

    F32 = "f32"
    F16X2 = "f16x2"  # two halves
    I32 = "i32"  # signed
    U32 = "u32"
    B32 = "b32"  # raw bits: moves and logic
    I16X2 = "i16x2"
    U8X4 = "u8x4"
    NONE = "none"  # a destination whose value is undefined


class Flags(enum.StrEnum):
    """What the flags of an operation are computed from."""

    WORD = "word"  # Z, N from the 32-bit result
    HALVES = "halves"  # Z, N from each 16-bit half
    NONE = "none"


class Token(enum.StrEnum):
    """An ordered sequence: instructions with the same token must keep their order.

    A TMU has two tokens, one for the writes that make up requests (configuration included) and one for the pops of
    results, because a request and the pop of an earlier result may be exchanged.
    """

    UNIFORM = "uniform"
    UNIFA = "unifa"
    TMU_REQUEST = "tmu_request"
    TMU_RESULT = "tmu_result"
    TMU1_REQUEST = "tmu1_request"
    TMU1_RESULT = "tmu1_result"
    VPM_READ = "vpm_read"
    VPM_WRITE = "vpm_write"
    DMA_LOAD = "dma_load"
    DMA_STORE = "dma_store"
    MUTEX = "mutex"
    SEMAPHORE = "semaphore"
    BARRIER = "barrier"
    SFU = "sfu"
    TLB = "tlb"
    VARYING = "varying"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of a row: its role (``d``, ``a`` or ``b``) and its type."""

    role: str
    type: OperandType


@dataclass(frozen=True, slots=True)
class Code:
    """The encoding of an operation.

    op: value of the unit's opcode field, without modifiers. a, b: sub-opcode in the field of the unused operand
    (mux on 4.2, raddr on 7.1), or None.
    """

    op: int
    a: int | None = None
    b: int | None = None


@dataclass(frozen=True, slots=True)
class SignalRow:
    """One signal: a side effect that the signal field adds to an instruction.

    bit: its bit in a set of signals. dest: what it writes: ``named`` (a destination in the instruction), ``implicit``
    (the register that the ISA fixes), ``named implicit`` (both) or nothing. stream: the queue or stream it reads, or
    ``""``. words: words of a uniform stream it takes. writes: resources it writes beyond destinations. kind: ``"imm"``
    for signals that mark a small immediate, ``"rot"`` for rotations: both describe operands.
    """

    name: str
    bit: int
    isas: frozenset[Isa]
    dest: str
    stream: str
    words: int
    tokens: frozenset[Token]
    doc: str
    kind: str = ""
    writes: tuple[str, ...] = ()
    graphics: bool = False

    @property
    def names_destination(self) -> bool:
        """True when the instruction holds a destination of the signal."""
        return self.dest.startswith("named")

    @property
    def implicit(self) -> bool:
        """True when the signal writes the register that the ISA fixes."""
        return self.dest.endswith("implicit")


@dataclass(frozen=True, slots=True)
class MagicRow:
    """One destination address that is not a register of the register file.

    names: the printed name, then further names that text accepts. kind: what a write does; effects, the emulator's
    dispatch and the rules about shared units derive from it. uniform_words: words that the write takes from the uniform
    stream. attribute: its name in the builder, "" where the builder has none.
    """

    n: int
    names: tuple[str, ...]
    kind: str
    tokens: frozenset[Token]
    uniform_words: int
    isas: frozenset[Isa]
    doc: str
    attribute: str

    @property
    def name(self) -> str:
        """The name as printed."""
        return self.names[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Op:
    """One operation of one or more instruction sets."""

    name: str
    operands: str  # "d:f32 a:f32 b:f32", without `d` when there is no destination
    code: Mapping[Isa, Mapping[Unit, Code]]
    sem: Semantics | None = None  # None: graphics only, or implemented by the engines
    doc: str
    source: str
    code_basis: Basis
    sem_basis: Basis
    # Flag effect
    flags: Flags = Flags.WORD
    zero: Semantics | None = None  # M; default: result == 0
    negative: Semantics | None = None  # M; default: sign bit of the result
    carry: Semantics | None = None  # M; default: clear
    saturate: Semantics | None = None  # V; the result for packs, saturated to 32 signed bits; default: the result
    # Effects beyond the operands, by resource name: "rtop", "flags_a", "r4", "tidx", "link", ...
    implicit_reads: tuple[str, ...] = ()
    implicit_writes: tuple[str, ...] = ()
    tokens: frozenset[Token] = frozenset()
    latency: int = 1  # instructions until the result can be read; an earlier read stalls
    order: str | None = None  # operand order that selects this operation: "natural" or "swapped"
    same_operands: str = ""  # operation to use for two equal operands, whose order selects nothing
    commutes: bool = False
    # What pushed flags say about the operands: flag "z", "n", "c" -> eq lt_s gt_s lt_u gt_u, and of floats that are not
    # NaN eq_f lt_f gt_f le_f (fsub: of finite ones that are not both zero)
    relation: Mapping[str, str] = field(default_factory=dict)
    # "move": operands ("a", or a small immediate) that copy a; "zero", "ones": that make all bits 0 or 1 of any a
    idioms: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    graphics: bool = False  # only meaningful in graphics shaders; encoded, not executed
    lane_op: bool = False  # V3D 7.1: moves or compares lanes in the SFU path
    counts: str = ""  # what an execution counts as in statistics: "fadd", "fmul" or nothing
    aliases: tuple[str, ...] = ()

    parsed: tuple[Operand, ...] = field(init=False)  # the operands, destination first
    arity: int = field(init=False)  # number of sources: 0, 1 or 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", MappingProxyType({i: MappingProxyType(dict(u)) for i, u in self.code.items()}))
        split = (item.partition(":") for item in self.operands.split())
        parsed = tuple(Operand(role, OperandType(type_)) for role, _, type_ in split)
        object.__setattr__(self, "parsed", parsed)
        object.__setattr__(self, "arity", sum(o.role != "d" for o in parsed))

    @property
    def units(self) -> frozenset[Unit]:
        """Every unit that can issue the operation on some instruction set."""
        return frozenset(u for units in self.code.values() for u in units)

    def units_on(self, isa: Isa) -> frozenset[Unit]:
        """Units that can issue the operation on `isa`."""
        return frozenset(self.code.get(isa, ()))

    def operand(self, role: str) -> Operand | None:
        """The operand of that role, or None."""
        return next((o for o in self.parsed if o.role == role), None)

    @property
    def pure(self) -> bool:
        """True when the result depends on the operands alone and nothing else happens."""
        return self.sem is not None and not (self.implicit_reads or self.implicit_writes or self.tokens - {Token.SFU})

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, tuple[str, ...]]]:
        raise TypeError(f"operation rows are not pickled\n  help: send the name {self.name!r}")


class Table:
    """The operations of one instruction set by name and unit. Contradictory rows raise ValueError."""

    __slots__ = ("_by_name", "isa", "ops")

    def __init__(self, isa: Isa, rows: Iterable[Op]) -> None:
        self.isa = isa
        self.ops: tuple[Op, ...] = tuple(op for op in rows if isa in op.code)
        self._by_name: dict[str, Op] = {}
        taken: dict[tuple[Unit, Code, str | None], str] = {}
        for op in self.ops:
            if not op.source or not op.doc:
                raise ValueError(f"{op.name}: a row needs `source` and `doc`")
            roles = [o.role for o in op.parsed]
            if roles not in ([], ["d"], ["d", "a"], ["d", "a", "b"], ["a"], ["a", "b"]):
                raise ValueError(f"{op.name}: operands {op.operands!r} are not d, a, b in that order")
            if op.order is not None and not op.commutes:
                raise ValueError(f"{op.name}: operands whose order selects the operation must commute")
            for name in (op.name, *op.aliases):
                if name in self._by_name:
                    raise ValueError(f"{name!r} names two operations of {isa}")
                self._by_name[name] = op
            for unit, code in op.code[isa].items():
                key = (unit, code, op.order)
                if key in taken:
                    raise ValueError(f"{op.name} and {taken[key]} share the code {code} on {isa} {unit}")
                taken[key] = op.name

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def __getitem__(self, name: str) -> Op:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Op | None:
        """The operation of that name or alias, or None."""
        return self._by_name.get(name)

    def names(self, unit: Unit | None = None) -> tuple[str, ...]:
        """Names of all operations, or of those `unit` can issue."""
        return tuple(op.name for op in self.ops if unit is None or unit in op.code[self.isa])

    def idioms(self, unit: Unit, what: str) -> list[tuple[Op, tuple[str | int, ...]]]:
        """Operations of `unit` with the operands that do `what` (``move zero ones``), fewest operands first."""
        found = [(op, op.idioms[what]) for op in self.ops if what in op.idioms and unit in op.code[self.isa]]
        return sorted(found, key=lambda item: len(item[1]))
