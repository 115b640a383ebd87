"""The encoder of V3D 4.2 and 7.1: instruction words (`encode`), and the bits of one half (`half_key`).

Layouts and tables, with their sources, are in `codes.py`. This is the only module that assembles V3D words from fields.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, NoReturn

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op
from qpu.errors import AsmError, suggest
from qpu.v3d.advice import mistake, signal_and_flags
from qpu.v3d.codes import (
    ALU_42,
    ALU_71,
    BDI,
    BRANCH_CONDS,
    COND_PAIRS,
    CONDS,
    HALF_COND_ID,
    HALF_CONDS,
    IMM_BITS,
    MSFIGN,
    PUSHES,
    SIG_NUMBERS,
    UPDATES,
    WRITING_SIGS,
    sig_names,
    sub_codes,
)
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Src, SrcKind
from qpu.v3d.ops import code_of, table, variants

__all__ = ["KEYS", "HalfKey", "Keys", "encode", "explain_missing", "half_key", "same_operands"]

_WRITING: Final = int(WRITING_SIGS)
_IMM_B: Final = IMM_BITS[1]
# Enum members are slow to reach through their class.
_V3D42, _ADD = Isa.V3D42, Unit.ADD
_RF, _ACC, _IMM_KIND = SrcKind.RF, SrcKind.ACC, SrcKind.IMM
_SIG_42, _SIG_71 = SIG_NUMBERS[Isa.V3D42], SIG_NUMBERS[Isa.V3D71]
_key: Final = tuple.__new__  # twice as fast as calling the class
_N_CONDS: Final = len(HALF_CONDS)
# Position of an input modifier in the order of operands, which selects fmin or fmax, fadd or faddnf.
_RANK: Final = {"abs": 0, "": 1, "l": 2, "h": 3}
_KEPT: Final = 1 << 15  # halves whose keys are cached


class HalfKey(NamedTuple):
    """The bits that one half contributes to a word, and the ports, immediates and conditions that it uses.

    bits: opcode, destination and operands, on 4.2 without registers. swapped: 4.2: opcode and destination with the
    operands exchanged, for operations that operand order selects; else -1. cond: row (add) or column (mul) of
    `COND_PAIRS`. regs: 4.2: mask of the registers it reads. reads: 4.2: number and multiplexer shift of each register
    operand. imm: 4.2: index of its small immediate or -1; 7.1: signal bits of its small immediates, in the order of
    the operands as written. word_imm: 7.1: the same in the order of the word. slots: 7.1: signal bits of the operands
    it has. twin: 4.2: it reads one register through both ports. decoded: 4.2: it names ports itself (`Src.port_b`).
    """

    v42: bool
    bits: int
    swapped: int
    cond: int
    regs: int
    reads: tuple[tuple[int, int], ...]
    imm: int
    word_imm: int
    slots: int
    twin: bool
    decoded: bool


def _fail(kind: str, message: str, allowed: str | None = None, help: str | None = None) -> NoReturn:
    raise AsmError.of(mistake(kind, message, allowed, help))


# -- one half ---------------------------------------------------------------------------------------------------------


class Keys(dict[AluHalf, HalfKey]):
    """A cache of the keys of one unit's halves; `keys[half]` raises AsmError for a half that is not valid."""

    __slots__ = ("_dst", "_operands", "_rows", "_slots", "isa", "unit")

    def __init__(self, isa: Isa, unit: Unit) -> None:
        super().__init__()
        self.isa, self.unit = isa, unit
        # `_operand_42` or `_operand_71` of a source as the first and as the second operand
        self._operands: tuple[dict[Src | None, Any], dict[Src | None, Any]] = {}, {}
        # bits, number of sources, has a destination, writes registers only
        self._rows: dict[tuple[Op, str, str, str], tuple[int, int, bool, bool]] = {}

    def _fill(self) -> None:
        """The bits of every operation and combination of modifiers of the unit."""
        isa, unit = self.isa, self.unit
        add, v42 = unit is _ADD, isa is _V3D42
        fields = ALU_42 if v42 else ALU_71
        names = ("add_a", "add_b", "mul_a", "mul_b") if v42 else ("raddr_a", "raddr_b", "raddr_c", "raddr_d")
        first = 0 if add else 2
        number, waddr, magic = (
            fields[name] for name in (("op_add", "waddr_a", "ma") if add else ("op_mul", "waddr_m", "mm"))
        )
        a, b = fields[names[first]], fields[names[first + 1]]
        self._dst = {Dst(n, m): waddr.put(n) | magic.put(m) for n in range(64) for m in (False, True)}
        # shift of the operand's address and its immediate signal
        self._slots = a.lo, IMM_BITS[first], b.lo, IMM_BITS[first + 1]
        for op in table(isa):
            code = code_of(op, isa, unit)
            if code is None:
                continue
            fixed = waddr.put(code.waddr or 0) | magic.put(code.magic or 0)
            facts = op.arity, op.operand("d") is not None, code.magic is not None
            for (mod_a, mod_b, pack, _, _), opcode, sub_a, sub_b in sub_codes(op, isa, unit):
                bits = number.put(opcode) | a.put(sub_a or 0) | b.put(sub_b or 0) | fixed
                self._rows[op, mod_a, mod_b, pack] = (bits, *facts)

    def __missing__(self, half: AluHalf) -> HalfKey:
        if len(self) >= _KEPT:
            self.clear()
        key = self[half] = self.make(half)
        return key

    def make(self, half: AluHalf) -> HalfKey:
        """The key of a half, not cached. Raises: AsmError."""
        if not self._rows:
            self._fill()
        op, dst, a, b, pack, cond, push, update = half
        found = self._rows.get((op, a.mod if a else "", b.mod if b else "", pack))
        if found is None:
            explain_missing(self.isa, self.unit, half)
        bits, arity, has_dst, register_only = found
        if arity != (a is not None) + (b is not None) or (b and not a):
            _fail("source-count", f"{op.name} has {arity} source operand(s)")
        number = 0
        if cond or push or update:
            number = HALF_COND_ID.get((cond, push, update), -1)
            if number < 0:
                _flags(half)
            if self.unit is _ADD:
                number *= _N_CONDS
        to = 0
        if dst is None:
            if has_dst:
                _fail("no-dst", f"{op.name} needs a destination")
        elif not has_dst:
            _fail("takes-no-dst", f"{op.name} has no destination")
        elif register_only and dst.magic:
            _fail("rf", f"{op.name} writes registers only", help="write a register, then move it")
        else:
            to = self._dst.get(dst, -1)
            if to < 0:
                _fail("address", f"destination {dst.n} does not exist")
        return (self._key_42 if self.isa is _V3D42 else self._key_71)(half, bits, to, number)

    def _key_71(self, half: AluHalf, bits: int, to: int, cond: int) -> HalfKey:
        op, _, a, b, pack, *_ = half
        first, second = self._operands
        field_a, slot_a, imm_a, rank_a = first.get(a) or self._operand_71(a, 0)
        field_b, slot_b, imm_b, rank_b = second.get(b) or self._operand_71(b, 1)
        imm = word_imm = imm_a | imm_b
        if op.order is not None and _swap_needed(op, rank_a, rank_b):
            assert a is not None
            assert b is not None
            bits = self._rows[op, b.mod, a.mod, pack][0]
            field_a, _, imm_a, _ = second.get(a) or self._operand_71(a, 1)
            field_b, _, imm_b, _ = first.get(b) or self._operand_71(b, 0)
            word_imm = imm_a | imm_b
        bits |= field_a | field_b | to
        return _key(HalfKey, (False, bits, -1, cond, 0, (), imm, word_imm, slot_a | slot_b, False, False))

    def _operand_71(self, src: Src | None, which: int) -> tuple[int, int, int, int]:
        """Address field, its signal, the same if it is an immediate, and the rank in the operand order; cached."""
        if src is None:
            parts = 0, 0, 0, 0
        else:
            kind, n, mod, _ = src
            if kind is _ACC:
                _fail("rf", f"r{n} is an accumulator of V3D 4.2", help="use a register")
            if not 0 <= n < 64:
                _fail("rf", f"operand {n} does not exist", "0..63")
            imm, signal = kind is _IMM_KIND, self._slots[2 * which + 1]
            parts = n << self._slots[2 * which], signal, signal if imm else 0, imm * 256 + _RANK.get(mod, 0) * 64 + n
        self._operands[which][src] = parts
        return parts

    def _key_42(self, half: AluHalf, bits: int, to: int, cond: int) -> HalfKey:
        op, a, b = half.op, half.a, half.b
        first, second = self._operands
        muxes, regs, reads, imm, decoded = first.get(a) or self._operand_42(a, 0)
        swapped, twin = -1, False
        if b is not None:
            mux_b, regs_b, reads_b, imm_b, decoded_b = second.get(b) or self._operand_42(b, 1)
            if imm_b >= 0:
                if imm not in (-1, imm_b):
                    _fail("one-imm-42", f"small immediates {imm} and {imm_b} in one instruction")
                imm = imm_b
            muxes, regs, reads, decoded = muxes | mux_b, regs | regs_b, reads + reads_b, decoded or decoded_b
        if op.order is not None:
            assert a is not None
            assert b is not None
            swapped = self._rows[op, b.mod, a.mod, half.pack][0] | to
            if op.order == "swapped" and a[:3] == b[:3]:
                if a.kind is not _RF:
                    same_operands(op)
                twin = True  # one register through both ports still has an order
        else:
            bits |= muxes
        return _key(HalfKey, (True, bits | to, swapped, cond, regs, reads, imm, 0, 0, twin, decoded))

    def _operand_42(self, src: Src | None, which: int) -> tuple[int, int, tuple[tuple[int, int], ...], int, bool]:
        """Multiplexer field, mask of registers, `reads`, immediate or -1, and whether it names its port; cached."""
        shift = self._slots[2 * which]
        parts: tuple[int, int, tuple[tuple[int, int], ...], int, bool]
        if src is None:
            parts = 0, 0, (), -1, False
        elif src.kind is _RF:
            n = src.n
            if not 0 <= n < 64:
                _fail("rf", f"rf{n} does not exist")
            parts = 0, 1 << n, ((n, shift),), -1, src.port_b
        elif src.kind is _ACC:
            if not 0 <= src.n < 6:
                _fail("rf", f"accumulator r{src.n} does not exist", "r0..r5", "use one of the six accumulators")
            parts = src.n << shift, 0, (), -1, False
        else:
            parts = 7 << shift, 0, (), src.n, False
        self._operands[which][src] = parts
        return parts


KEYS: Final = {(isa, unit): Keys(isa, unit) for isa in (Isa.V3D42, Isa.V3D71) for unit in (Unit.ADD, Unit.MUL)}
_ADD_42, _MUL_42, _ADD_71, _MUL_71 = KEYS.values()


def _flags(half: AluHalf) -> NoReturn:
    """Raise the error about the condition, push and update of a half."""
    for value, what, allowed in (
        (half.cond, "condition", CONDS),
        (half.push, "push", PUSHES[1:]),
        (half.update, "update", UPDATES),
    ):
        if value and value not in allowed:
            help = suggest(value, allowed) or "use one of them"
            _fail("condition-set", f"unknown {what} {value!r}", ", ".join(allowed), help)
    _fail("condition-set", "one half has one of: condition, push, update")


def _dst(dst: Dst, shift: int, magic_bit: int) -> int:
    if not 0 <= dst.n < 64:
        _fail("address", f"destination {dst.n} does not exist")
    return dst.n << shift | dst.magic << magic_bit


def half_key(isa: Isa, unit: Unit, half: AluHalf) -> HalfKey:
    """The key of a half, cached. Raises: AsmError when the unit cannot execute the half beside any other."""
    return KEYS[isa, unit][half]


def explain_missing(isa: Isa, unit: Unit, half: AluHalf) -> NoReturn:
    """Raise the error about an operation that has no code with these modifiers."""
    op = half.op
    found = variants(op, isa, unit)
    if not found:
        others = sorted(u.value for u in op.units_on(isa))
        help_ = f"{op.name} is issued by the {' and '.join(others)} ALU" if others else f"{isa.label} has no {op.name}"
        _fail("operation", f"{op.name} is not an operation of the {unit.value} ALU of {isa.label}", help=help_)
    for role, index, name in (("a", 0, half.a and half.a.mod), ("b", 1, half.b and half.b.mod), ("d", 2, half.pack)):
        if name and not any(v[index] == name for v in found):
            allowed = ", ".join(f".{n}" for n in dict.fromkeys(str(v[index]) for v in found) if n)
            what = "its destination" if role == "d" else f"operand {role}"
            _fail("modifier-conversion", f"{op.name} has no modifier .{name} for {what}", allowed)
    _fail("modifier-set", f"{op.name} cannot combine these modifiers")


def same_operands(op: Op) -> NoReturn:
    """Raise the error about an operation whose two operands are the same."""
    why = "has no encoding: the order of the operands selects the operation"
    _fail("operand-order", f"{op.name} of two identical operands {why}", help=f"use {op.same_operands}")


def _swap_needed(op: Op, key_a: int, key_b: int) -> bool:
    """Whether the operands must be exchanged, so that their order selects the operation."""
    if key_a == key_b and op.order == "swapped":
        same_operands(op)
    return (key_a > key_b) != (op.order == "swapped")


# -- words ------------------------------------------------------------------------------------------------------------


def encode(instr: Instr, keys: tuple[HalfKey, HalfKey] | None = None) -> int:
    """The 64-bit word of an instruction. Operand order is adapted where it selects the operation.

    keys: those of the halves, for callers that have them.
    Raises: AsmError when the instruction has no encoding; nothing is masked to fit.
    """
    if type(instr) is Branch:
        return _encode_branch(instr)
    assert type(instr) is Alu
    isa, add, mul, signals, sig_dst, raddr_a, raddr_b = instr
    sig = int(signals)
    v42 = isa is _V3D42
    add_key, mul_key = keys or ((_ADD_42[add], _MUL_42[mul]) if v42 else (_ADD_71[add], _MUL_71[mul]))
    if v42:
        number = _SIG_42.get(sig)
    else:
        if sig or add_key.imm or mul_key.imm:
            sig = _immediates_71(sig, add_key, mul_key)
        number = _SIG_71.get(sig)
    if number is None:
        _fail("signal-table", f"{isa.label} has no signal for {sig_names(sig)}")
    if sig & _WRITING:
        if sig_dst is None:
            _fail("signal-needs-one", f"signal {sig_names(sig)} needs a destination")
        if add_key.cond or mul_key.cond:
            raise AsmError.of(signal_and_flags(sig))
        word = number << 53 | _dst(sig_dst, 46, 52)
    else:
        if sig_dst is not None:
            _fail("signal-takes-none", f"signal {sig_names(sig) or '(none)'} takes no destination")
        field = COND_PAIRS[add_key.cond + mul_key.cond]
        if field < 0:
            _fail("cond-pair", "these conditions, pushes and updates cannot be combined")
        word = number << 53 | field << 46
    if v42:
        return word | _operands_42(instr, add_key, mul_key, bool(sig & _IMM_B))
    word |= add_key.bits | mul_key.bits
    if add.a is None:
        word |= _raddr(raddr_a) << 6
    if mul.a is None:
        word |= _raddr(raddr_b) << 18
    return word


def _immediates_71(sig: int, add_key: HalfKey, mul_key: HalfKey) -> int:
    """The signals with those of immediates in the order of the word."""
    for key in (add_key, mul_key):
        wrong = sig & key.slots ^ key.imm
        if wrong:
            name = "abcd"[IMM_BITS.index(wrong & -wrong)]
            _fail("imm-signal", f"the small immediate and signal small_imm_{name} disagree")
    return sig ^ add_key.imm ^ add_key.word_imm


def _raddr(n: int) -> int:
    if not 0 <= n < 64:
        _fail("read-address", f"read address {n} does not exist")
    return n


def _operands_42(instr: Alu, add_key: HalfKey, mul_key: HalfKey, imm: bool) -> int:
    """Opcodes, destinations, operand multiplexers and read ports."""
    _, add, mul, _, _, port_a, port_b = instr
    _, bits, swapped, _, _, reads, add_imm, _, _, _, add_decoded = add_key
    _, mul_bits, _, _, _, mul_reads, mul_imm, _, _, _, mul_decoded = mul_key
    if not 0 <= port_a < 64 or not 0 <= port_b < 64:
        _fail("read-address", f"read addresses {port_a}, {port_b} do not exist")
    if add_imm >= 0 and not (imm and add_imm == port_b):
        _immediate(add_imm, port_b, imm)
    if mul_imm >= 0 and not (imm and mul_imm == port_b):
        _immediate(mul_imm, port_b, imm)
    word = bits | mul_bits | port_a << 6 | port_b
    if swapped >= 0:
        mux_a, mux_b = _mux(add.a, port_a, port_b, imm), _mux(add.b, port_a, port_b, imm)
        assert add.a is not None
        assert add.b is not None
        if _swap_needed(add.op, _RANK[add.a.mod] * 8 + mux_a, _RANK[add.b.mod] * 8 + mux_b):
            mux_a, mux_b = mux_b, mux_a
            word ^= bits ^ swapped
        word |= mux_a << 12 | mux_b << 15
        reads = ()
    if add_decoded or mul_decoded:
        if swapped < 0:
            word |= _mux(add.a, port_a, port_b, imm) << 12 | _mux(add.b, port_a, port_b, imm) << 15
        return word | _mux(mul.a, port_a, port_b, imm) << 18 | _mux(mul.b, port_a, port_b, imm) << 21
    for n, shift in reads + mul_reads:
        if n == port_a:
            word |= 6 << shift
        elif n == port_b and not imm:
            word |= 7 << shift
        else:
            _no_port(n, port_a, port_b, imm)
    return word


def _immediate(n: int, port_b: int, imm: bool) -> NoReturn:
    if not imm:
        _fail("imm-signal", "a small immediate needs the small_imm signal")
    _fail("imm-address", f"small immediate {n}, but the B port holds {port_b}")


def _mux(src: Src | None, port_a: int, port_b: int, imm: bool) -> int:
    if src is None:
        return 0
    kind, n, _, through_b = src
    if kind is _ACC:
        return n
    if kind is _IMM_KIND:
        return 7
    if n == port_a and not (through_b and n == port_b and not imm):
        return 6
    if n != port_b or imm:
        _no_port(n, port_a, port_b, imm)
    return 7


def _no_port(n: int, port_a: int, port_b: int, imm: bool) -> NoReturn:
    held = "an immediate" if imm else f"rf{port_b}"
    _fail("port-address", f"rf{n} is on neither read port (rf{port_a}, {held})")


def _encode_branch(b: Branch) -> int:
    cond = BRANCH_CONDS.get(b.cond)
    if cond is None:
        _fail("branch-cond", f"unknown branch condition {b.cond!r}")
    if b.msfign not in MSFIGN:
        _fail("branch-cond", f"unknown msfign {b.msfign!r}", "p, q or nothing", "leave it empty")
    if b.bdi not in BDI or (b.bdu not in BDI if b.ub else b.bdu != ""):
        _fail("branch-kind", f"unknown branch destination {b.bdi!r}, {b.bdu!r}")
    word = 2 << 56 | cond << 32 | b.link << 23 | MSFIGN.index(b.msfign) << 21 | BDI.index(b.bdi) << 12
    if b.ub:
        word |= 1 << 14 | BDI.index(b.bdu) << 15
    if b.bdi in ("abs", "rel"):
        if not 0 <= b.offset < 1 << 32 or b.offset & 7:
            _fail("branch-address", f"branch target {b.offset:#x} is not a multiple of 8 in 32 bits")
        word |= (b.offset >> 3 & 0x1FFFFF) << 35 | b.offset >> 24 << 24
    elif b.offset:
        _fail("branch-offset", f"a branch to {b.bdi} has no offset")
    if b.bdi == "rf" or b.bdu == "rf":
        word |= _raddr(b.raddr_a) << 6
    elif b.raddr_a:
        _fail("branch-register", "only destinations in the register file take a register")
    return word
