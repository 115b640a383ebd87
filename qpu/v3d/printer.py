"""The printer of V3D instructions: text in the form of Mesa's disassembler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.pairing import combine, idle
from qpu.v3d.regs import MAGIC, SIGNAL_ROWS, imm_bits

__all__ = ["ADD_WIDTH", "MUL_WIDTH", "branch_text", "note", "text"]

ADD_WIDTH: Final = 30
MUL_WIDTH: Final = 60

# The driver's text does not show ucb, rot and small_imm.
_SIGNALS: Final = tuple(
    (row.bit, row.name, row.names_destination) for row in SIGNAL_ROWS if not row.kind and row.bit != Sig.UCB
)
_PRINTED: Final = sum(bit for bit, _, _ in _SIGNALS)
_RF, _ACC = SrcKind.RF, SrcKind.ACC


class _Names(dict[Dst, str]):
    """Texts of destinations, made when one is first printed. magic: names of the magic addresses."""

    __slots__ = ("_magic",)

    def __init__(self, magic: Mapping[int, str]) -> None:
        super().__init__()
        self._magic = magic

    def __missing__(self, dst: Dst) -> str:
        n, magic = dst
        self[dst] = found = (self._magic.get(n) or f"waddr UNKNOWN {n}") if magic else f"rf{n}"
        return found


_DSTS: Final = {isa: _Names(names) for isa, names in MAGIC.items()}


def imm_text(index: int) -> str:
    """A small immediate: -16..15 in decimal, floats as their pattern, reserved ones by number."""
    if index < 32:
        return str(index if index < 16 else index - 32)
    return f"0x{imm_bits(index):08x}" if index < 48 else f"imm UNKNOWN {index}"


@cache
def _src_text(src: Src) -> str:
    if src.kind is _RF:
        base = f"rf{src.n}"
    elif src.kind is _ACC:
        base = f"r{src.n}"
    else:
        base = imm_text(src.n)
    return f"{base}.{src.mod}" if src.mod else base


def _half_text(names: _Names, half: AluHalf) -> str:
    op, dst, a, b, pack, cond, push, update = half
    head = name = op.name
    if cond or push or update:
        head += "".join("." + suffix for suffix in (cond, push, update) if suffix)
    if dst is not None and b is not None and not pack:  # most halves
        assert a is not None
        return f"{head} {names[dst]}, {_src_text(a)}, {_src_text(b)}"
    if name == "nop":
        return head + " "
    shown = "" if dst is None else names[dst] + ("." + pack if pack else "")
    if a is not None:
        shown = f"{shown}, {_src_text(a)}" if shown else _src_text(a)
        if b is not None:
            shown = f"{shown}, {_src_text(b)}"
    return f"{head} {shown}"


def branch_text(b: Branch, target: str | None = None) -> str:
    """A branch; target: what to print for the instruction destination instead of the offset."""
    head = ("bu" if b.ub else "b") + ("." + b.cond if b.cond else "") + b.msfign
    if target is None:
        if b.bdi == "abs":
            target = f"zero_addr+0x{b.offset:08x}"
        elif b.bdi == "rel":
            target = str(b.distance)
        else:
            target = "lri" if b.bdi == "lri" else f"rf{b.raddr_a}"
    out = f"{head}  {target}"
    if b.ub:
        out += ", " + {"abs": "a:unif", "rel": "r:unif", "lri": "lri", "rf": f"rf{b.raddr_a}"}[b.bdu]
    # extension: the driver's text does not show the link bit
    return out + ("; link" if b.link else "")


def text(instr: Instr) -> str:
    """The instruction as text, without label, address or comment."""
    if isinstance(instr, Branch):
        return branch_text(instr)
    isa, add, mul, signals, dst, _, _ = instr
    names = _DSTS[isa]
    line = f"{_half_text(names, add):<{ADD_WIDTH}}; {_half_text(names, mul)}"
    sig = int(signals) & _PRINTED if signals else 0
    if sig:
        line = line.ljust(MUL_WIDTH)
        magic = MAGIC[isa]
        for bit, name, with_dst in _SIGNALS:
            if sig & bit:
                line += "; " + name
                if with_dst and dst is not None:
                    line += "." + (f"rf{dst.n}" if not dst.magic else magic.get(dst.n) or f"UNKNOWN{dst.n}")
        return line
    return line.rstrip()


def note(instr: Instr, word: int | None = None) -> str | None:
    """What the text leaves out, or None. word: the decoded word, to see whether the text assembles to it."""
    notes: list[str] = []
    if isinstance(instr, Branch):
        if instr.link:
            notes.append("sets the link register")
    else:
        if instr.sig & Sig.UCB:
            notes.append("signal ucb")
        if instr.sig & Sig.ROT:
            amount = instr.raddr_b
            shown = "r5" if amount == 0 else imm_text(amount)
            notes.append(f"signal rot: the mul operands are rotated by {shown}")
    if word is not None:
        usual = _usual(instr)
        if usual != word:
            notes.append(f"not canonical: the text assembles to 0x{usual:016x}")
    return "; ".join(notes) or None


def _usual(instr: Instr) -> int:
    """The word that the text of `instr` assembles to: unused fields are zero, read ports are assigned as usual."""
    if isinstance(instr, Branch):
        return encode(instr)
    nop = idle()
    add, mul = (h._replace(dst=nop.dst) if h.op is nop.op else h for h in (instr.add, instr.mul))
    found = combine(instr.isa, add, mul, int(instr.sig) & _PRINTED, instr.sig_dst)
    assert isinstance(found, Alu), found
    return encode(found)
