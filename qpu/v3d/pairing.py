"""What one instruction of V3D 4.2 or 7.1 has room for: read ports, small immediates, and the pairing of halves."""

from __future__ import annotations

from collections.abc import Sequence

from qpu.core.isa import Isa
from qpu.errors import AsmError, Diagnostic
from qpu.v3d.codes import IMM_MASK, IMM_SIGS
from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import table

__all__ = ["combine", "place_ports"]


def place_ports(sources: Sequence[Src | None], rot_index: int | None = None) -> tuple[int, int] | Diagnostic:
    """The two read ports of 4.2 for the operands add a, add b, mul a, mul b.

    rot_index: rotation amount, which takes the B port as a small immediate does. The first distinct register goes to
    port A, the second to port B. Returns: (raddr_a, raddr_b), or why it is impossible.
    """
    registers = list(dict.fromkeys(s.n for s in sources if s is not None and s.kind is SrcKind.RF))
    imms = list(dict.fromkeys(s.n for s in sources if s is not None and s.kind is SrcKind.IMM))
    if rot_index is not None:
        imms = list(dict.fromkeys([*imms, rot_index]))
    if len(imms) > 1:
        return Diagnostic(
            "small-imm",
            f"{len(imms)} different small immediates in one instruction",
            allowed="one small immediate, which all four operands may use",
            help="load one of them as a uniform, or split the instruction",
        )
    room = 1 if imms else 2
    if len(registers) > room:
        names = ", ".join(f"rf{n}" for n in registers)
        return Diagnostic(
            "read-ports",
            f"{names} need {len(registers)} read ports" + (", and the small immediate occupies one" if imms else ""),
            allowed="two different rf registers an instruction, or one and a small immediate; r0..r5 cost no port",
            help="copy one to an accumulator first, or split the instruction",
        )
    first = registers[0] if registers else 0
    return first, imms[0] if imms else registers[1] if len(registers) > 1 else 0


def combine(
    isa: Isa, add: AluHalf | None, mul: AluHalf | None, sig: Sig = Sig.NONE, sig_dst: Dst | None = None
) -> Alu | Diagnostic:
    """One instruction of two halves (None: nop), by the encoder's own rules, or why they do not fit together.

    An operation that both ALUs have (mov, add, sub, fmov) may stand in either half. Signals for small immediates are
    added; operands need no ports assigned.
    """
    nop = table(isa)["nop"]
    idle = AluHalf(nop, Dst(6, True))
    add, mul = add or idle, mul or idle
    sources = (add.a, add.b, mul.a, mul.b)
    imms = [i for i, src in enumerate(sources) if src is not None and src.kind is SrcKind.IMM]
    sig &= ~Sig(IMM_MASK)
    raddr_a = raddr_b = 0
    if isa is Isa.V3D42:
        if imms:
            sig |= Sig.IMM_B
        ports = place_ports(sources)
        if isinstance(ports, Diagnostic):
            return ports
        raddr_a, raddr_b = ports
    else:
        for i in imms:
            sig |= IMM_SIGS[i]
        if len(imms) > 1:
            return Diagnostic(
                "small-imm",
                f"{len(imms)} small immediates in one instruction",
                allowed="one operand of V3D 7.1 may be a small immediate",
                help="load one as a uniform, or split the instruction",
            )
    instr = Alu(isa, add, mul, sig, sig_dst, raddr_a, raddr_b)
    try:
        encode(instr)
    except AsmError as error:
        return error.diagnostics[0]
    return instr
