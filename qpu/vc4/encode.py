"""The encoder of VideoCore IV, from instructions to 64-bit words; no other module assembles words from fields.

Layouts are those of docs/hardware/vc4.md 2; `qpu.vc4.decode` is the inverse.
"""

from __future__ import annotations

from qpu.core.bits import Layout
from qpu.errors import AsmError, Diagnostic
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode, Semaphore
from qpu.vc4.regs import SIG_SMALL_IMM

__all__ = ["ALU", "BRANCH", "LOAD_IMM", "NOP_WORD", "encode"]

ALU = Layout(
    "sig:4 unpack:3 pm:1 pack:4 cond_add:3 cond_mul:3 sf:1 ws:1 waddr_add:6 waddr_mul:6 "
    "op_mul:3 op_add:5 raddr_a:6 raddr_b:6 add_a:3 add_b:3 mul_a:3 mul_b:3"
)
LOAD_IMM = Layout(
    "sig:4 unpack:3 pm:1 pack:4 cond_add:3 cond_mul:3 sf:1 ws:1 waddr_add:6 waddr_mul:6 imm:32"
)  # `unpack` holds the variant
BRANCH = Layout("sig:4 unused:4 cond:4 rel:1 reg:1 raddr_a:5 ws:1 waddr_add:6 waddr_mul:6 imm:32")

NOP_WORD = 0x100009E7009E7000

_SEMAPHORE = 4
_LOAD_FIELDS = ("pm", "pack", "cond_add", "cond_mul", "sf", "ws", "waddr_add", "waddr_mul", "imm")
_BRANCH_FIELDS = ("unused", "cond", "rel", "reg", "raddr_a", "ws", "waddr_add", "waddr_mul", "imm")


def _misfit(message: str, allowed: str) -> AsmError:
    return AsmError.of(Diagnostic("field-range", message, allowed=allowed, help="use a value in that range"))


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
        (
            sig, unpack, pm, pack, cond_add, cond_mul, sf, ws, waddr_add, waddr_mul, op_mul, op_add, raddr_a, raddr_b,
            add_a, add_b, mul_a, mul_b,
        ) = instr  # fmt: skip
        if not (
            (waddr_add | waddr_mul | raddr_a | raddr_b) >> 6
            or (unpack | cond_add | cond_mul | op_mul | add_a | add_b | mul_a | mul_b) >> 3
            or (pm | sf | ws) >> 1
            or op_add >> 5
            or pack >> 4
            or not 0 <= sig <= SIG_SMALL_IMM
        ):
            return (
                sig << 60 | unpack << 57 | pm << 56 | pack << 52 | cond_add << 49 | cond_mul << 46 | sf << 45
                | ws << 44 | waddr_add << 38 | waddr_mul << 32 | op_mul << 29 | op_add << 24 | raddr_a << 18
                | raddr_b << 12 | add_a << 9 | add_b << 6 | mul_a << 3 | mul_b
            )  # fmt: skip
        if not 0 <= instr.sig <= SIG_SMALL_IMM:
            raise _misfit(f"signal {instr.sig} of an ALU instruction", "0..13 (14 and 15 are other instructions)")
        return _pack(ALU, {name: getattr(instr, name) for name in Alu._fields})
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
