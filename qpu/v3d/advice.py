"""Advice for mistakes in V3D programs, from builders, text and decoded instructions: one row for each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from qpu.errors import Diagnostic
from qpu.v3d.codes import BDI, BRANCH_CONDS, sig_names

__all__ = ["ADVICE", "FOREIGN", "Advice", "mistake", "signal_and_flags"]

_FLAGS: Final = (
    "one flag push or update per instruction; a condition together with a push of the other half only, "
    "an add update together with a mul condition; no others"
)


class Advice(NamedTuple):
    """The rule that a kind of mistake belongs to, what is allowed, and what to do. None: given with the message."""

    rule: str
    allowed: str | None
    help: str | None


# kind | rule | allowed | what to do; a line that begins with spaces continues the row above
_ROWS = f"""
address | register | 0..63 | see the list in docs/hardware/v3d.md 5
after-branch | syntax | link, once | put signals into another instruction; a branch takes none
branch-address | branch-target | | use a multiple of 8, the size of an instruction
branch-cond | branch-condition | {", ".join(c for c in BRANCH_CONDS if c)} | leave it empty for an unconditional branch
branch-form | branch-condition | | write a branch such as b.anya label
branch-kind | branch-target | {", ".join(BDI)} | see the list in docs/hardware/v3d.md 2.2
branch-offset | branch-target | | pass offset=0
branch-operands | operands | | write b label, or, to move the uniform stream as well, bu label, r:unif
branch-register | branch-target | | pass raddr_a=0
branch-to | branch-target | labels, byte offsets, rf[n] without modifier, q.lri, q.absolute(address) | use a label
byte-offset | branch-target | multiples of 8 in 32 bits | use a label
cond-pair | condition | {_FLAGS} | put one of the operations into another instruction
condition-set | condition | {_FLAGS} | put the others into another instruction
constant-name | name | letters, digits, _; not a register | choose a name that is not a register
defined-twice | name | | give one of them another name
destination-first | register | rf[n], accumulators of 4.2, q.null, q.tmua, ...
  | write the destination first: q.add(q.rf[0], a, b)
directive | directive | .set, .word | write .set or .word
dump-word | dump | a word and the text that it prints as |
empty-part | syntax | | leave out the semicolon, or write nop
expression | syntax | numbers, names, + - * / ( ); on integers << >> & || ^ ~ | write a constant expression
flag-name | condition | | write one of them after the operation: add.ifa
imm-address | small-imm | one immediate an instruction | load the other one as a uniform
imm-and-signal | signal | | put the signal into another instruction
imm-or-rotation | small-imm | one of them: both occupy read port B
  | load one of them as a uniform with ldunifrf, or use two instructions
imm-signal | small-imm | | use `combine`, which sets the signals of immediates
imm-type | imm-type | | write the number in the operand's type
instruction-address | branch-target | multiples of 8 below 2**32 | use a multiple of 8, the size of an instruction
label-name | label | other names | choose a name that is not a register
label-twice | label | | give one of them another name
line-length | syntax | | split the line
modifier-conversion | modifier | no modifier | convert in an instruction of its own
modifier-set | modifier | fewer modifiers | put one of them into another instruction
no-accumulators | register | rf0..rf63, small immediates | use a register: V3D 7.1 has no accumulators
no-destination | syntax | | write the destination first; - discards the result
no-dst | operands | rf0..rf63 or a magic destination | pass Dst(6, True) to discard the result
no-operand | syntax | | write the operand, or leave out the comma
no-operation | syntax | | write the operation first, then its operands: add rf0, rf1, rf2
not-a-source | operand | registers, small immediates | use a register
not-divisible | value | | write floats for a float result
number-operand | operand | registers, integers, floats | write a number
number-size | value | 64-bit integers, floats | use a smaller number
one-branch-register | branch-target | the same register for both | use the same register for both
one-imm-42 | small-imm | one small immediate, which all four operands may use
  | load one of them as a uniform with ldunifrf, or use two instructions
one-imm-71 | small-imm | one operand of an instruction on V3D 7.1
  | load one of them as a uniform with ldunifrf, or use two instructions
one-modifier | modifier | one modifier an operand | apply the second one in another instruction
one-pack | modifier | one: .l, .h | keep one of them
one-writing-signal | signal | one such signal an instruction | put one of them into another instruction
operand-count | operands | | separate operands by commas
operand-order | operand-order | two different operands |
operand-syntax | syntax | | write a register, a number, a name from .set or an expression of them
operation | operation | |
other-chip | register | registers of this builder | take it from the builder that is passed in: q.rf[n]
port-address | read-ports | rf registers that a port reads | use `combine`, which assigns the ports
read-address | register | 0..63 | pass a number of 6 bits
read-ports | read-ports | two different rf registers an instruction, or one and a small immediate; r0..r5 cost no port
  | copy a register to an accumulator first, or use two instructions
result-size | value | -2**63 .. 2**64 - 1 | use smaller numbers
rf | register | rf0..rf63 | use one of the 64 registers
rf-index | register | rf[0] .. rf[63] | use one of the 64 registers
rot-amount | rotate | 1..15, -16..-1, r5 | pass rot=amount
rot-signal | signal | the add operation rot, which rotates by a register or immediate | use the add operation rot
rotation | rotate | rot.1 .. rot.15, rot.-16 .. rot.-1, rot.r5 | put other amounts into r5
set-value | syntax | .set name, value | .set count, 12
shift-count | value | 0..127 | use a count of 0..127
signal-and-flags | condition-field | conditions, pushes and updates beside signals that write no register
  | put the signal or the condition into another instruction
signal-first | syntax | | write the operations first, then the signals
signal-needs-one | signal-destination | | pass sig_dst=Dst(n)
signal-place | signal-destination | rf[n] or a magic destination, without modifier
  | write the register in the call: q.ldtmu(q.rf[0])
signal-set | signal | | spread them over several instructions
signal-table | signal | the combinations of the signal table | spread the signals over several instructions
signal-takes-none | signal-destination | a destination for ldtmu, ldunifrf, ldunifarf, ldvary, ldtlb, ldtlbu
  | leave the destination out
signal-twice | signal | each signal once | leave one of them out
signal-value | signal | a signal, or several joined by ||
  | signals are names of the builder: q.thrsw, q.ldunif, q.ldunifrf(q.rf[0]), q.ldtmu(q.rf[0])
signals-of-halves | signal | each signal once, one destination | give the signal to one of the halves
small-imm | small-imm | -16..15 as integers; 2**-8..2**7 as floats | load it as a uniform, e.g. with ldunifrf
source-count | operands | | pass one Src for each
takes-no-dst | operands | dst=None | leave the destination out
text-destination | register | rf0..rf63, - and the magic destinations | see the list in docs/hardware/v3d.md 5
third-operation | syntax | two operations, then signals | put it into the next line
too-deep | syntax | | name parts of it with .set
undefined | name | |
undefined-label | undefined-label | |
uniform-kind | branch-target | 'abs', 'rel', 'lri', rf[n] | write q.b(target, unif='rel'), for example
uniform-target | branch-target | a:unif, r:unif, lri, rf0..rf63
  | write a:unif if the next uniform is an address, else r:unif
unknown-operation | operation | | see the list in docs/hardware/v3d.md 6
unknown-signal | signal | | see the list in docs/hardware/v3d.md 3
untried | untried | forms that the driver uses | try it on the board, or convert in an instruction of its own
word | word | integers 0 .. 2**64 - 1 | write the word in hexadecimal: .word 0x38003186bb03f000
write-only | register | rf0..rf63, small immediates | copy it to a register when it is written
zero-divisor | value | | use a divisor that is not 0
"""


_CELL_END: Final = re.compile(r" \|(?= |$)")


def _row(line: str) -> tuple[str, Advice]:
    kind, rule, allowed, help = (cell.strip().replace("||", "|") or None for cell in _CELL_END.split(line))
    assert kind is not None and rule is not None
    return kind, Advice(rule, allowed, help)


ADVICE: Final[Mapping[str, Advice]] = dict(map(_row, _ROWS.strip().replace("\n  ", " ").splitlines()))
"""Advice by kind of mistake; several kinds may belong to one rule."""


def mistake(kind: str, message: str, allowed: str | None = None, help: str | None = None) -> Diagnostic:
    """The diagnostic for a kind of mistake in `ADVICE`; `allowed` and `help` replace those of the row."""
    row = ADVICE[kind]
    return Diagnostic(row.rule, message, allowed=allowed or row.allowed, help=help or row.help)


def signal_and_flags(sig: int) -> Diagnostic:
    """The diagnostic for conditions or flags beside a signal that writes a register: both occupy one field."""
    names = f"signal {sig_names(sig)} writes a register"
    return mistake("signal-and-flags", f"{names}, so the instruction cannot have conditions or flags")


_HERE: Final = "on V3D"
_MEMORY: Final = (
    f"{_HERE} threads read and write memory through the TMU: q.tmud, q.tmua, q.ldtmu; DMA belongs to Pi 0-3"
)
_ACCUMULATORS: Final = "V3D 7.1 has no accumulators: use q.rf[0..63]"
_FILES: Final = f"{_HERE} there is one register file: q.rf[0..63]"

FOREIGN: Final[Mapping[str, str]] = {
    **dict.fromkeys(("ra", "rb"), _FILES),
    **{f"r{n}": _ACCUMULATORS for n in range(6)},
    **dict.fromkeys(("elem_num", "element_number"), "the lane number is an operation: q.eidx(q.rf[1])"),
    **dict.fromkeys(("qpu_num", "qpu_number"), f"{_HERE} q.tidx(q.rf[1]) gives the thread; bits of it name the QPU"),
    **dict.fromkeys(("uniform", "unif", "ldi"), "load the next uniform by a signal: q.nop(sig=q.ldunifrf(q.rf[1]))"),
    **dict.fromkeys(("mul24",), "multiply with q.umul24 or q.smul24"),
    **dict.fromkeys(("fdiv", "div"), "divide by a reciprocal: q.recip(q.rf[1], x), then q.fmul"),
    **dict.fromkeys(("exit", "halt", "stop", "thrend"), "end the program with q.end()"),
    **dict.fromkeys(("mutex", "mutex_acquire", "mutex_release", "sema_up", "sema_down"),
                    f"{_HERE} threads of a workgroup meet at q.barrierid(q.syncb) with a thread switch"),
    **dict.fromkeys(("setup_vpm_read", "setup_vpm_write", "setup_dma_load", "setup_dma_store", "start_dma_load",
                     "start_dma_store", "wait_dma_load", "wait_dma_store"), _MEMORY),
    **dict.fromkeys(("tmu0_s", "tmu1_s", "t0s", "t1s"), "write the address to q.tmua; q.ldtmu pops the result"),
    **dict.fromkeys(("sfu_exp2", "exp2"), "the operation is q.exp (2 to the power of x)"),
    **dict.fromkeys(("sfu_log2", "log2"), "the operation is q.log (to base 2)"),
    **dict.fromkeys(("rotate", "broadcast"), "rotate with q.rot(q.rf[1], x, n)"),
    **dict.fromkeys(("nops",), "write q.nop() as often as needed"),
    "jmp": "branch with q.b(label)",
    **{f"j{flag}{state}{every}": "branch with q.b(label, cond=...): push a flag by push='pushz', then 'anya', "
                                 "'alla', 'anyna' or 'allna'"
       for flag in "znc" for state in "sc" for every in ("", "_any")},
}  # fmt: skip
"""Names that the builders do not have, of VideoCore IV's builder and of other libraries, with what is written here."""
