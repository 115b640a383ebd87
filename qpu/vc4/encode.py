"""Instruction words of VideoCore IV: encoding, decoding, and fitting two halves into one instruction.

Every 64-bit word decodes. Words of a reserved load-immediate variant become `Reserved`; reserved opcodes, pack modes
and branch conditions keep their fields, and `reserved` says what is wrong with them.
Source: VideoCore IV 3D architecture guide, "QPU instruction encoding".
"""

from __future__ import annotations

from dataclasses import replace

from qpu.core.bits import Layout
from qpu.errors import AsmError, Diagnostic
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Reserved, Semaphore
from qpu.vc4.ops import ADD_OPS
from qpu.vc4.pack import PACK_MUL
from qpu.vc4.regs import FILE_FREE_READS, MUX_A, MUX_B, NOP, SIG_SMALL_IMM, file_free_write, small_imm_value

__all__ = ["ALU", "BRANCH", "LOAD_IMM", "NOP_WORD", "combine", "decode", "encode", "reserved"]

ALU = Layout(
    "sig:4 unpack:3 pm:1 pack:4 cond_add:3 cond_mul:3 sf:1 ws:1 waddr_add:6 waddr_mul:6 "
    "op_mul:3 op_add:5 raddr_a:6 raddr_b:6 add_a:3 add_b:3 mul_a:3 mul_b:3"
)
LOAD_IMM = Layout(
    "sig:4 unpack:3 pm:1 pack:4 cond_add:3 cond_mul:3 sf:1 ws:1 waddr_add:6 waddr_mul:6 imm:32"
)  # variant in the place of `unpack`
BRANCH = Layout("sig:4 unused:4 cond:4 rel:1 reg:1 raddr_a:5 ws:1 waddr_add:6 waddr_mul:6 imm:32")

NOP_WORD = 0x100009E7009E7000

_SEMAPHORE = 4
_LOAD_FIELDS = ("pm", "pack", "cond_add", "cond_mul", "sf", "ws", "waddr_add", "waddr_mul", "imm")
_BRANCH_FIELDS = ("unused", "cond", "rel", "reg", "raddr_a", "ws", "waddr_add", "waddr_mul", "imm")


def _misfit(message: str, allowed: str) -> AsmError:
    return AsmError.of(Diagnostic("field-range", message, allowed=allowed))


def _pack(layout: Layout, values: dict[str, int]) -> int:
    try:
        return layout.pack(values)
    except ValueError as e:
        name, _, _ = str(e).partition(":")
        raise _misfit(f"{e}", f"0..{layout[name].max}") from None


def encode(instr: Instr) -> int:
    """The 64-bit word of an instruction.

    Raises AsmError (rule ``field-range``) when a field does not fit; nothing is masked.
    """
    if isinstance(instr, Alu):
        i = instr
        if not (
            (i.waddr_add | i.waddr_mul | i.raddr_a | i.raddr_b) >> 6
            or (i.unpack | i.cond_add | i.cond_mul | i.op_mul | i.add_a | i.add_b | i.mul_a | i.mul_b) >> 3
            or (i.pm | i.sf | i.ws) >> 1
            or i.op_add >> 5
            or i.pack >> 4
            or not 0 <= i.sig <= SIG_SMALL_IMM
        ):
            return (
                i.sig << 60 | i.unpack << 57 | i.pm << 56 | i.pack << 52 | i.cond_add << 49 | i.cond_mul << 46
                | i.sf << 45 | i.ws << 44 | i.waddr_add << 38 | i.waddr_mul << 32 | i.op_mul << 29 | i.op_add << 24
                | i.raddr_a << 18 | i.raddr_b << 12 | i.add_a << 9 | i.add_b << 6 | i.mul_a << 3 | i.mul_b
            )  # fmt: skip
        if not 0 <= instr.sig <= SIG_SMALL_IMM:
            raise _misfit(f"signal {instr.sig} of an ALU instruction", "0..13 (14 and 15 are other instructions)")
        return _pack(ALU, {name: getattr(instr, name) for name in Alu.__slots__})
    if isinstance(instr, LoadImm | Semaphore):
        values = {name: getattr(instr, name) for name in _LOAD_FIELDS}
        values["sig"] = 14
        values["unpack"] = _SEMAPHORE if isinstance(instr, Semaphore) else int(LoadMode(instr.mode))
        return _pack(LOAD_IMM, values)
    if isinstance(instr, Branch):
        return _pack(BRANCH, {"sig": 15, **{name: getattr(instr, name) for name in _BRANCH_FIELDS}})
    if not 0 <= instr.word < 1 << 64:
        raise _misfit(f"word {instr.word:#x}", "64 bits, unsigned")
    return instr.word


_MODES = {0: LoadMode.WORD, 1: LoadMode.PER_ELEMENT_SIGNED, 3: LoadMode.PER_ELEMENT_UNSIGNED}


def decode(word: int) -> Instr:
    """The instruction in a word; `encode` gives the word back. Total over 0..2**64-1, ValueError outside."""
    if not 0 <= word < 1 << 64:
        raise ValueError(f"{word:#x} is not a 64-bit word")
    w = word
    sig = w >> 60
    if sig <= SIG_SMALL_IMM:
        return Alu(
            sig, w >> 57 & 7, w >> 56 & 1, w >> 52 & 15, w >> 49 & 7, w >> 46 & 7, w >> 45 & 1, w >> 44 & 1,
            w >> 38 & 63, w >> 32 & 63, w >> 29 & 7, w >> 24 & 31, w >> 18 & 63, w >> 12 & 63,
            w >> 9 & 7, w >> 6 & 7, w >> 3 & 7, w & 7,
        )  # fmt: skip
    if sig == 15:
        return Branch(
            w >> 52 & 15, w >> 51 & 1, w >> 50 & 1, w >> 45 & 31, w >> 44 & 1, w >> 38 & 63, w >> 32 & 63,
            w & 0xFFFFFFFF, w >> 56 & 15,
        )  # fmt: skip
    variant = w >> 57 & 7
    rest = (
        w >> 56 & 1, w >> 52 & 15, w >> 49 & 7, w >> 46 & 7, w >> 45 & 1, w >> 44 & 1,
        w >> 38 & 63, w >> 32 & 63, w & 0xFFFFFFFF,
    )  # fmt: skip
    if variant == _SEMAPHORE:
        return Semaphore(*rest)
    mode = _MODES.get(variant)
    return Reserved(word) if mode is None else LoadImm(mode, *rest)


def reserved(instr: Instr) -> str | None:
    """What makes an instruction's encoding reserved, for people; None when it is a defined one."""
    if isinstance(instr, Reserved):
        return f"load immediate variant {instr.word >> 57 & 7} is reserved (0, 1, 3 and 4 are defined)"
    if isinstance(instr, Branch):
        if 12 <= instr.cond <= 14:
            return f"branch condition {instr.cond} is reserved (0..11 and 15 are defined)"
        return None
    if instr.pm and instr.pack not in PACK_MUL:
        return f"pack mode {instr.pack} with pm = 1 is reserved (0 and 3..7 are defined)"
    if isinstance(instr, Alu) and ADD_OPS[instr.op_add] is None:
        return f"ADD opcode {instr.op_add} is reserved"
    return None


# -- fitting two halves into one instruction


def _uses(half: Alu, mux: int, *, mul: bool) -> bool:
    muxes = (half.mul_a, half.mul_b) if mul else (half.add_a, half.add_b)
    used = half.op_mul if mul else half.op_add
    return bool(used) and mux in muxes


def _exchange_ports(half: Alu) -> Alu | None:
    """The same half with a file-free read moved to the other port; None when it cannot be."""
    swap = {MUX_A: MUX_B, MUX_B: MUX_A}
    if half.sig == SIG_SMALL_IMM or (half.unpack and not half.pm):
        return None
    for addr, other in ((half.raddr_a, half.raddr_b), (half.raddr_b, half.raddr_a)):
        if addr == NOP or addr not in FILE_FREE_READS or other != NOP:
            continue
        return replace(
            half,
            raddr_a=half.raddr_b,
            raddr_b=half.raddr_a,
            **{
                name: swap.get(getattr(half, name), getattr(half, name))
                for name in ("add_a", "add_b", "mul_a", "mul_b")
            },
        )
    return None


def _needs_ws(half: Alu, *, mul: bool) -> int | None:
    """The ws that a half insists on; None when its destination is the same in both files."""
    addr = half.waddr_mul if mul else half.waddr_add
    return None if addr >= 32 and file_free_write(addr) else half.ws


def _shared(name: str, a: int, b: int, unused: int, what: str, problems: list[str]) -> int:
    if a in (unused, b):
        return b
    if b == unused:
        return a
    problems.append(f"{what}: the ADD half has {name} = {a}, the MUL half {b}")
    return a


def _join(add: Alu, mul: Alu) -> tuple[Alu, list[str]]:
    problems: list[str] = []
    raddr_a = _shared("raddr_a", add.raddr_a, mul.raddr_a, NOP, "register file A has one read port", problems)
    imm = SIG_SMALL_IMM in (add.sig, mul.sig)
    raddr_b = add.raddr_b
    sig = _shared("sig", add.sig, mul.sig, 1, "there is one signal field", problems)
    if imm:
        users = [h for h in (add, mul) if h.sig == SIG_SMALL_IMM]
        others = [h for h in (add, mul) if h.sig != SIG_SMALL_IMM]
        raddr_b = users[0].raddr_b
        if any(h.raddr_b != NOP for h in others):
            problems.append("a small immediate takes the read port of register file B, which the other half uses")
        if len(users) == 2 and add.raddr_b != mul.raddr_b:
            # A rotation by n is the constant n - 16 as well, so it can serve an ADD half that wants just that.
            if mul.raddr_b >= 48 and small_imm_value(add.raddr_b) == small_imm_value(mul.raddr_b):
                raddr_b = mul.raddr_b
            else:
                problems.append(
                    f"there is one small immediate: the ADD half has code {add.raddr_b}, the MUL half {mul.raddr_b}"
                )
    else:
        raddr_b = _shared("raddr_b", add.raddr_b, mul.raddr_b, NOP, "register file B has one read port", problems)
    ws_add, ws_mul = _needs_ws(add, mul=False), _needs_ws(mul, mul=True)
    if ws_add is not None and ws_mul is not None and ws_add != ws_mul:
        problems.append("both halves write the same register file; one instruction writes each file once")
    ws = ws_add if ws_add is not None else ws_mul if ws_mul is not None else add.ws
    pm, unpack, pack = _join_packs(add, mul, problems)
    joined = replace(
        add, sig=sig, unpack=unpack, pm=pm, pack=pack, cond_mul=mul.cond_mul, sf=add.sf | mul.sf, ws=ws,
        waddr_mul=mul.waddr_mul, op_mul=mul.op_mul, raddr_a=raddr_a, raddr_b=raddr_b, mul_a=mul.mul_a, mul_b=mul.mul_b,
    )  # fmt: skip
    if mul.sf and not add.sf and add.op_add:
        problems.append("flags come from the ADD operation; the MUL half cannot set them beside it")
    return joined, problems


def _join_packs(add: Alu, mul: Alu, problems: list[str]) -> tuple[int, int, int]:
    """pm, unpack and pack for both halves. An unpack must not reach an operand that wants the plain value."""
    users = [h for h in (add, mul) if h.unpack or h.pack]
    if len({h.pm for h in users}) > 1:
        problems.append("one half packs or unpacks with pm = 0, the other with pm = 1")
    pm = users[0].pm if users else 0
    unpack = _shared("unpack", add.unpack, mul.unpack, 0, "there is one unpack field", problems)
    if unpack:
        touched = 4 if pm else MUX_A
        plain = [(h, m) for h, m in ((add, False), (mul, True)) if h.unpack == 0]
        if any(_uses(h, touched, mul=m) and (pm or h.raddr_a < 32) for h, m in plain):
            problems.append(f"the unpack of {'r4' if pm else 'file A'} would apply to the other half's operand too")
    pack = _shared("pack", add.pack, mul.pack, 0, "there is one pack field", problems)
    if add.pack and add.pack == mul.pack:
        problems.append("both halves pack; an instruction packs one result")
    return pm, unpack, pack


def combine(add_half: Alu, mul_half: Alu) -> Alu | Diagnostic:
    """One instruction that does the ADD half of `add_half` and the MUL half of `mul_half`, by the encoder's own rules.

    Each argument is an instruction whose other half is empty. Reads that both files offer (uniform, VPM, mutex) are
    moved to the free port, and the write swap is chosen, as needed. When they do not fit, a diagnostic (rule
    ``combine``) says what they compete for, as `qpu.v3d.pairing.combine` does.
    """
    if add_half.op_mul or add_half.waddr_mul != NOP:
        return Diagnostic("combine", "the ADD half already has a MUL operation")
    if mul_half.op_add or mul_half.waddr_add != NOP:
        return Diagnostic("combine", "the MUL half already has an ADD operation")
    first: list[str] = []
    for add in (add_half, _exchange_ports(add_half)):
        for mul in (mul_half, _exchange_ports(mul_half)):
            if add is None or mul is None:
                continue
            joined, problems = _join(add, mul)
            if not problems:
                return joined
            first = first or problems
    return Diagnostic("combine", "; ".join(first), help="write two instructions")
