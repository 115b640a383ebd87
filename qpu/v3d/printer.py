"""Instructions of V3D 4.2 and 7.1 as text, in the form that Mesa's disassembler prints."""

from __future__ import annotations

from typing import Final

from qpu.core.isa import Isa
from qpu.v3d.encode import encode
from qpu.v3d.instr import AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.regs import MAGIC, imm_bits

__all__ = ["ADD_WIDTH", "MUL_WIDTH", "SIG_TEXT", "branch_text", "note", "text"]

ADD_WIDTH: Final = 30
MUL_WIDTH: Final = 60

# In printing order. ucb, rot and small_imm are not printed; `ldvpm` belongs to older chips.
SIG_TEXT: Final[tuple[tuple[Sig, str], ...]] = (
    (Sig.THRSW, "thrsw"),
    (Sig.LDVARY, "ldvary"),
    (Sig.LDTMU, "ldtmu"),
    (Sig.LDTLB, "ldtlb"),
    (Sig.LDTLBU, "ldtlbu"),
    (Sig.LDUNIF, "ldunif"),
    (Sig.LDUNIFRF, "ldunifrf"),
    (Sig.LDUNIFA, "ldunifa"),
    (Sig.LDUNIFARF, "ldunifarf"),
    (Sig.WRTMUC, "wrtmuc"),
)
_WITH_DST: Final = Sig.LDVARY | Sig.LDTMU | Sig.LDTLB | Sig.LDTLBU | Sig.LDUNIFRF | Sig.LDUNIFARF


def _dst_text(isa: Isa, dst: Dst) -> str:
    if not dst.magic:
        return f"rf{dst.n}"
    return MAGIC[isa].get(dst.n) or f"waddr UNKNOWN {dst.n}"


def imm_text(index: int) -> str:
    """A small immediate: -16..15 in decimal, floats as their pattern, reserved ones by number."""
    if index < 32:
        return str(index if index < 16 else index - 32)
    return f"0x{imm_bits(index):08x}" if index < 48 else f"imm UNKNOWN {index}"


def _src_text(src: Src) -> str:
    if src.kind is SrcKind.RF:
        base = f"rf{src.n}"
    elif src.kind is SrcKind.ACC:
        base = f"r{src.n}"
    else:
        base = imm_text(src.n)
    return f"{base}.{src.mod}" if src.mod else base


def _half_text(isa: Isa, half: AluHalf) -> str:
    head = half.op.name
    for suffix in (half.cond, half.push, half.update):
        if suffix:
            head += "." + suffix
    operands: list[str] = []
    if half.dst is not None and half.op.name != "nop":
        operands.append(_dst_text(isa, half.dst) + ("." + half.pack if half.pack else ""))
    operands += [_src_text(src) for src in (half.a, half.b) if src is not None]
    return head + " " + ", ".join(operands)


def branch_text(b: Branch, target: str | None = None) -> str:
    """A branch; target: what to print for the instruction destination instead of the offset."""
    head = ("bu" if b.ub else "b") + ("." + b.cond if b.cond else "") + b.msfign
    if target is None:
        if b.bdi == "abs":
            target = f"zero_addr+0x{b.offset:08x}"
        elif b.bdi == "rel":
            target = str(b.offset - (1 << 32) if b.offset >> 31 else b.offset)
        else:
            target = "lri" if b.bdi == "lri" else f"rf{b.raddr_a}"
    out = f"{head}  {target}"
    if b.ub:
        out += ", " + {"abs": "a:unif", "rel": "r:unif", "lri": "lri", "rf": f"rf{b.raddr_a}"}[b.bdu]
    # the link bit has no form in the driver's text; this one is ours
    return out + ("; link" if b.link else "")


def text(instr: Instr) -> str:
    """The instruction as text, without label, address or comment."""
    if isinstance(instr, Branch):
        return branch_text(instr)
    isa = instr.isa
    line = _half_text(isa, instr.add).ljust(ADD_WIDTH) + "; " + _half_text(isa, instr.mul)
    sig = instr.sig
    signals: list[str] = []
    for bit, name in SIG_TEXT:
        if sig & bit:
            if bit & _WITH_DST and instr.sig_dst is not None:
                dst = instr.sig_dst
                where = f"rf{dst.n}" if not dst.magic else MAGIC[isa].get(dst.n) or f"UNKNOWN{dst.n}"
                name = f"{name}.{where}"
            signals.append(name)
    if signals:
        line = line.ljust(MUL_WIDTH) + "; " + "; ".join(signals)
    return line.rstrip()


def note(instr: Instr, word: int | None = None) -> str | None:
    """What the text does not say, or None. word: the word that was decoded, to tell whether it was canonical."""
    remarks: list[str] = []
    if isinstance(instr, Branch):
        if instr.link:
            remarks.append("sets the link register")
    else:
        if instr.sig & Sig.UCB:
            remarks.append("signal ucb")
        if instr.sig & Sig.ROT:
            amount = instr.raddr_b
            shown = "r5" if amount == 0 else imm_text(amount)
            remarks.append(f"signal rot: the mul operands are rotated by {shown}")
    if word is not None and encode(instr) != word:
        remarks.append(f"not canonical: encodes as 0x{encode(instr):016x}")
    return "; ".join(remarks) or None
