"""The printer of VideoCore IV: text of instructions in the language of `qpu.vc4.vc4asm`, and program listings.

`disassemble` gives the text of one word. `note` says when that text does not assemble back to the same word: many
words differ only in bits without meaning, and one of them is canonical. Reserved encodings print as ``.int64 0x...``.
"""

from __future__ import annotations

from dataclasses import replace

from qpu.core import listing as core
from qpu.core.code import Code
from qpu.vc4 import regs
from qpu.vc4.decode import decode, reserved
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Semaphore
from qpu.vc4.ops import ADD_OPS, mul_op
from qpu.vc4.pack import PACK_A, PACK_MUL, UNPACK
from qpu.vc4.regs import MUX_A, MUX_B, NOP, SIG_SMALL_IMM, File

__all__ = ["canonical", "disassemble", "instruction_text", "listing", "note"]

_UNARY = frozenset(code for code, op in enumerate(ADD_OPS) if op is not None and op.arity == 1)
_SHIFTS = frozenset(
    code for code, op in enumerate(ADD_OPS) if op is not None and op.name in ("shr", "asr", "ror", "shl")
)
_IMM_MODES = {LoadMode.WORD: "ldi", LoadMode.PER_ELEMENT_SIGNED: "ldipes", LoadMode.PER_ELEMENT_UNSIGNED: "ldipeu"}


def disassemble(word: int) -> str:
    """Text of one instruction, without label or comment. Every 64-bit word has one."""
    return instruction_text(decode(word))


def instruction_text(instr: Instr, target: str | None = None) -> str:
    """Text of an instruction. target: printed instead of the offset of a relative branch without register."""
    if reserved(instr) is not None or _unsayable(instr):
        return f".int64 0x{encode(instr):016x}"
    if isinstance(instr, Alu):
        return _alu(instr)
    if isinstance(instr, LoadImm):
        return _load(instr)
    if isinstance(instr, Semaphore):
        return _semaphore(instr)
    assert isinstance(instr, Branch)
    return _branch(instr, target)


def note(word: int) -> str | None:
    """Why the text of `word` does not assemble back to `word`; None when it does."""
    instr = decode(word)
    why = reserved(instr)
    if why is not None:
        return why
    if _unsayable(instr):
        return "printed as a word: as text its shift count would be taken modulo 32, and differ from the other operand"
    if isinstance(instr, Alu):
        if _constant_line(instr) or _zero_line(instr):
            return "not canonical: the text may assemble to a load immediate"
        if _odd_count(instr):
            return "not canonical: the text's shift count is taken modulo 32 and gets another code"
    usual = canonical(instr)
    if usual == instr:
        return _load_note(instr, word) if isinstance(instr, LoadImm) else None
    fields = [
        f"{name} {getattr(instr, name)} (usual: {getattr(usual, name)})"
        for name in (instr._fields if isinstance(instr, Alu) else type(instr).__slots__)
        if getattr(instr, name) != getattr(usual, name)
    ]
    return f"not canonical, the text assembles to 0x{encode(usual):016x}: {', '.join(fields)}"


def _load_note(instr: LoadImm, word: int) -> str | None:
    """Text has no condition of a result that is discarded, and no pack of a result that cannot be packed."""
    from qpu.vc4.vc4asm import assemble_text

    found = assemble_text(disassemble(word)).words[0]
    return None if found == word else f"not canonical, the text assembles to 0x{found:016x}"


# -- ALU


def _uses_mux(i: Alu, mux: int) -> bool:
    """True when an operation of the instruction reads through `mux`."""
    if i.op_add and (i.add_a == mux or (i.add_b == mux and i.op_add not in _UNARY)):
        return True
    return bool(i.op_mul) and mux in (i.mul_a, i.mul_b)


def _rotation(i: Alu) -> int | None:
    """The rotation code 48..63 when the MUL half has an operand it applies to."""
    if i.sig == SIG_SMALL_IMM and i.raddr_b >= 48 and i.op_mul and (i.mul_a != MUX_B or i.mul_b != MUX_B):
        return i.raddr_b
    return None


def _file_b(i: Alu) -> str:
    addr = i.raddr_b
    if addr >= 32 and (addr == NOP or (addr in regs.FILE_FREE_READS and not _a_is_taken(i))):
        return f"rb{addr}"  # the name alone would be read through file A
    return regs.read_name(File.B, addr)


def _a_is_taken(i: Alu) -> bool:
    """True when port A reads another address that is printed, so that a name that both files have means port B."""
    return i.raddr_a not in (NOP, i.raddr_b) and (i.raddr_a < 32 or i.raddr_a not in regs.FILE_FREE_READS)


def _source(i: Alu, mux: int, rotation: int | None = None) -> str:
    if mux == MUX_B:
        return regs.small_imm_text(i.raddr_b) if i.sig == SIG_SMALL_IMM else _file_b(i)
    if mux == MUX_A:
        text = f"ra{NOP}" if i.raddr_a == NOP else regs.read_name(File.A, i.raddr_a)
        if i.unpack and not i.pm and i.raddr_a < 32:
            text += f".{UNPACK[i.unpack].name}"
    else:
        text = regs.ACCUMULATORS[mux]
        if i.unpack and i.pm and mux == 4:
            text += f".{UNPACK[i.unpack].name}"
    if rotation is not None:
        n = rotation - 48
        text += "<<r5" if not n else f">>{n}" if n <= 8 else f"<<{16 - n}"
    return text


def _unpack_shows(i: Alu) -> bool:
    """True when the unpack mode is printed with an operand."""
    return _uses_mux(i, 4) if i.pm else _uses_mux(i, MUX_A) and i.raddr_a < 32


def _idle_unpack(i: Alu) -> str:
    """The half, ``add`` or ``mul``, that carries an unpack mode which no operand uses; empty when no half can."""
    if not i.unpack or i.pm or _unpack_shows(i):
        return ""
    if i.op_add and 4 not in (i.add_a, i.add_b):
        return "add"
    return "mul" if i.op_mul and 4 not in (i.mul_a, i.mul_b) else ""


def _packed_half(i: Alu | LoadImm | Semaphore) -> str:
    """Which destination the pack mode is printed with: ``add``, ``mul`` or none."""
    if not i.pack:
        return ""
    if i.pm:
        return "mul"
    if i.ws:
        return "mul" if i.waddr_mul < 32 else ""
    return "add" if i.waddr_add < 32 else ""


def _pack_name(i: Alu | LoadImm | Semaphore) -> str:
    return PACK_MUL[i.pack].name if i.pm else PACK_A[i.pack].name


def _destination(i: Alu | LoadImm | Semaphore, half: str) -> str:
    addr = i.waddr_add if half == "add" else i.waddr_mul
    text = regs.write_name(File(i.ws if half == "add" else 1 - i.ws), addr)
    return f"{text}.{_pack_name(i)}" if _packed_half(i) == half else text


def _cond(code: int, usual: int) -> str:
    return "" if code == usual or code == 1 else f".{regs.CONDS[code].name}"


def _alu(i: Alu) -> str:
    add = bool(i.op_add) or i.waddr_add != NOP
    mul = bool(i.op_mul) or i.waddr_mul != NOP
    extra = ""
    if i.pack and not _packed_half(i):
        extra += ".pack" + (_pack_name(i) + "i" if i.pack == 10 else _pack_name(i))
    idle = f".unpack{UNPACK[i.unpack].name}" if _idle_unpack(i) else ""
    parts: list[str] = []
    sf_on_add = bool(i.sf) and (bool(i.op_add) or not mul)
    if add:
        parts.append(_add_half(i, sf_on_add, extra + (idle if _idle_unpack(i) == "add" else "")))
        extra = ""
    else:
        parts.append("nop" + (".setf" if sf_on_add else "") + (extra if not mul else ""))
    if mul:
        parts.append(_mul_half(i, bool(i.sf) and not sf_on_add, extra + (idle if _idle_unpack(i) == "mul" else "")))
    if i.raddr_a != NOP and not _uses_mux(i, MUX_A):
        parts.append(f"read {regs.read_name(File.A, i.raddr_a)}")
    if i.sig == SIG_SMALL_IMM:
        if not _uses_mux(i, MUX_B) and _rotation(i) is None:
            parts.append(f"read {regs.small_imm_text(i.raddr_b)}")
    elif i.raddr_b != NOP and not _uses_mux(i, MUX_B):
        parts.append(f"read {_file_b(i)}")
    if i.sig not in (1, SIG_SMALL_IMM):
        parts.append(regs.SIGNALS[i.sig].name)
    return ";  ".join(parts)


def _move_source(i: Alu, mux_a: int, mux_b: int) -> bool:
    return mux_a == mux_b and not (mux_a == MUX_B and i.sig == SIG_SMALL_IMM)


def _add_half(i: Alu, sf: bool, extra: str) -> str:
    tail = (".setf" if sf else "") + _cond(i.cond_add, 1) + extra
    dst = _destination(i, "add")
    op = ADD_OPS[i.op_add]
    if not i.op_add or op is None:
        return f"anop{tail} {dst}"
    if op.name == "or" and _move_source(i, i.add_a, i.add_b):
        return f"mov{tail} {dst}, {_source(i, i.add_a)}"
    name = f"a{op.name}" if op.name.startswith("v8") else op.name
    if i.op_add in _UNARY:
        return f"{name}{tail} {dst}, {_source(i, i.add_a)}"
    return f"{name}{tail} {dst}, {_source(i, i.add_a)}, {_source(i, i.add_b)}"


def _mul_half(i: Alu, sf: bool, extra: str) -> str:
    tail = (".setf" if sf else "") + _cond(i.cond_mul, 1) + extra
    dst = _destination(i, "mul")
    if not i.op_mul:
        return f"mnop{tail} {dst}"
    name = mul_op(i.op_mul).name
    rotation = _rotation(i)
    a, b = _source(i, i.mul_a, rotation), _source(i, i.mul_b, rotation)
    if name == "v8min" and _move_source(i, i.mul_a, i.mul_b):
        return f"mov{tail} {dst}, {a}"
    return f"{name}{tail} {dst}, {a}, {b}"


# -- load immediate, semaphore, branch


def immediate_text(i: LoadImm) -> str:
    """The constant of a load immediate: a list for the per-element forms, decimal when short, else hexadecimal."""
    if i.mode is LoadMode.WORD:
        value = i.imm - (1 << 32) if i.imm >> 31 else i.imm
        return str(value) if abs(value) < 10000 else f"0x{i.imm:x}"
    high = -2 if i.mode is LoadMode.PER_ELEMENT_SIGNED else 2
    lanes = ((i.imm >> 16 + n & 1) * high + (i.imm >> n & 1) for n in range(16))
    return f"[{','.join(map(str, lanes))}]"


def _targets(i: LoadImm | Semaphore) -> str:
    names: list[str] = []
    for half, cond, addr in (("add", i.cond_add, i.waddr_add), ("mul", i.cond_mul, i.waddr_mul)):
        if half == "mul" and addr == NOP and not cond:
            continue
        usual = 1 if addr != NOP or (half == "add" and i.sf) else 0
        names.append(
            _destination(i, half) + ("" if cond == usual else f".{regs.CONDS[cond].name}" if cond != 1 else "")
        )
    return ", ".join(names)


def _load(i: LoadImm) -> str:
    name = _IMM_MODES[i.mode] + (".setf" if i.sf else "")
    if i.pack and not _packed_half(i):
        name += ".pack" + (_pack_name(i) + "i" if i.pack == 10 else _pack_name(i))
    return f"{name} {_targets(i)}, {immediate_text(i)}"


def _semaphore(i: Semaphore) -> str:
    name = ("sacq" if i.acquire else "srel") + (".setf" if i.sf else "")
    dst = _destination(i, "add") + _cond(i.cond_add, 0 if i.waddr_add == NOP else 1)
    if i.waddr_mul != NOP:
        dst += f", {_destination(i, 'mul')}{_cond(i.cond_mul, 1)}"
    return f"{name} {dst}, {i.imm & 31}"


def _branch(i: Branch, target: str | None) -> str:
    name = "brr" if i.rel else "bra"
    if i.cond != 15:
        found = regs.branch_cond(i.cond)
        assert found is not None
        name += f".{found.name}"
    if i.reg and i.raddr_a & 1:
        name += ".setf"
    first = regs.write_name(File(i.ws), i.waddr_add)
    second = regs.write_name(File(1 - i.ws), i.waddr_mul)
    offset = i.imm - (1 << 32) if i.imm >> 31 else i.imm
    where = target if target is not None else str(offset) if offset <= 0 or not i.rel else f"+{offset}"
    register = f"ra{i.raddr_a}" if i.reg else "-"
    if i.waddr_mul != NOP:
        return f"{name} {first}, {second}, {register}, {where}"
    if not i.reg:
        return f"{name} {first}, {where}"
    return f"{name} {first}, {register}" + (f", {where}" if i.imm else "")


# -- canonical instructions


def canonical(instr: Instr) -> Instr:
    """The instruction that the text of `instr` assembles to; equal to `instr` when its encoding is canonical.

    Operations on constants alone are returned as they are, although the assembler folds them; `note` says so.
    """
    if isinstance(instr, Alu):
        return _canonical_alu(instr)
    if isinstance(instr, LoadImm):
        return _canonical_load(instr)
    if isinstance(instr, Semaphore):
        return _canonical_semaphore(instr)
    if isinstance(instr, Branch):
        ws = _canonical_ws(instr.ws, instr.waddr_add, instr.waddr_mul)
        return replace(instr, unused=0, raddr_a=instr.raddr_a if instr.reg else 0, ws=ws)
    return instr


def _canonical_ws(ws: int, add: int, mul: int) -> int:
    return 0 if regs.file_free_write(add) and regs.file_free_write(mul) else ws


def _constant_line(i: Alu) -> bool:
    """True for lines that the assembler turns into a load immediate: one operation on one constant and nothing else."""
    if i.sf or i.raddr_a != NOP:
        return False
    if i.op_add and not i.op_mul and i.waddr_mul == NOP:
        a, b = i.add_a, i.add_a if i.op_add in _UNARY else i.add_b
    elif i.op_mul and not i.op_add and i.waddr_add == NOP:
        a, b = i.mul_a, i.mul_b
    else:
        return False
    return i.sig == SIG_SMALL_IMM and a == b == MUX_B


def _zero_line(i: Alu) -> bool:
    """xor, sub or v8subs of equal sources with nothing beside them: a load immediate of 0."""
    if i.sig != 1:
        return False
    if i.op_add in (13, 22, 31) and not i.op_mul and i.waddr_mul == NOP:
        a, b = i.add_a, i.add_b
    elif i.op_mul == 7 and not i.op_add and i.waddr_add == NOP:
        a, b = i.mul_a, i.mul_b
    else:
        return False
    named = (i.raddr_a if a == MUX_A else NOP, i.raddr_b if a == MUX_B else NOP)
    return a == b and (i.raddr_a, i.raddr_b) == named and max(named) <= NOP and 32 not in named and 35 not in named


def _odd_count(i: Alu) -> bool:
    """True for a shift by a float constant."""
    return i.sig == SIG_SMALL_IMM and 32 <= i.raddr_b < 48 and i.op_add in _SHIFTS and i.add_b == MUX_B


def _unsayable(i: Instr) -> bool:
    """True for a shift by a float constant that is another operand, too: it has no text."""
    if not isinstance(i, Alu) or not _odd_count(i):
        return False
    return i.add_a == MUX_B or (bool(i.op_mul) and MUX_B in (i.mul_a, i.mul_b))


def _canonical_alu(i: Alu) -> Alu:
    changes: dict[str, int] = {}
    if not i.op_add:
        changes.update(add_a=0, add_b=0)
        if i.waddr_add == NOP:
            changes["cond_add"] = i.sf
    else:
        if i.op_add in _UNARY:
            changes["add_b"] = i.add_a
        if i.waddr_add == NOP and not i.sf:
            changes["cond_add"] = 0
    equal = (
        i.op_add in (13, 22) and i.add_a == i.add_b
    )  # sub and xor of equal operands: the assembler may move them to the MUL ALU
    if i.op_add in (12, 13) and i.add_a == i.add_b == MUX_B and i.sig == SIG_SMALL_IMM and not i.raddr_b:
        changes["op_add"] = i.op_add ^ 1  # the constant 0 is its own negative, so the assembler exchanges add and sub
        equal = not equal
    if not i.op_mul:
        changes.update(mul_a=0, mul_b=0)
        if i.waddr_mul == NOP:
            changes["cond_mul"] = int(equal)
    elif i.waddr_mul == NOP and not (i.sf and not i.op_add):
        changes["cond_mul"] = 0
    changes["ws"] = _canonical_ws(i.ws, i.waddr_add, i.waddr_mul)
    if i.unpack and not _unpack_shows(i) and not _idle_unpack(i):
        changes["unpack"] = 0
    pack = i.pack
    if pack and i.pm and not i.op_mul and i.waddr_mul == NOP:
        pack = changes["pack"] = 0
    if i.pm and not pack and not (i.unpack and _unpack_shows(i)):
        changes["pm"] = 0
    if i.sig == SIG_SMALL_IMM and i.raddr_b >= 48 and _rotation(i) is None:
        changes["raddr_b"] = i.raddr_b - 32
    return i._replace(**changes)


def _canonical_load(i: LoadImm) -> LoadImm:
    cond_add = 0 if i.waddr_add == NOP and i.cond_add == 1 and not i.sf else i.cond_add
    ws = _canonical_ws(i.ws, i.waddr_add, i.waddr_mul)
    return replace(i, ws=ws, pm=i.pm if i.pack else 0, cond_add=cond_add)


def _canonical_semaphore(i: Semaphore) -> Semaphore:
    changes = {"imm": i.imm & 31, "ws": _canonical_ws(i.ws, i.waddr_add, i.waddr_mul)}
    if i.waddr_add == NOP:
        changes["cond_add"] = 0
    if i.waddr_mul == NOP:
        changes["cond_mul"] = 0
    return replace(i, **changes)


# -- listings


def listing(program: Code) -> str:
    """One instruction a line; labels on lines of their own, branches to them by name. The text assembles again."""
    instrs = [decode(word) for word in program.code]
    reached = {at: i.target(at) for at, i in enumerate(instrs) if isinstance(i, Branch)}
    targets = {at: to for at, to in reached.items() if to is not None}
    return core.listing(
        program, targets, lambda at, name: instruction_text(instrs[at], None if name is None else f":{name}"), ":{}"
    )
