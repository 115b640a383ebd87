"""Layout: instructions of all blocks in order, branch offsets, the frame of the program, the list of uniforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.core.results import Result
from qpu.errors import Loc
from qpu.lang.bundle import Scheduled
from qpu.lang.mir import Block, Fixed, Function
from qpu.lang.select import Uniform
from qpu.v3d.encode import encode
from qpu.v3d.instr import Branch
from qpu.v3d.pairing import combine
from qpu.v3d.regs import Sig

__all__ = ["Laid", "innermost", "lay_out_v3d", "may_be_shorter", "results_of"]


@dataclass(slots=True)
class Laid:
    """A finished program. uniforms: what each word of the uniform list holds, in the order in which it is read.

    function: the operations by block; spans: where each block is, (start, stop); threads: on a QPU; registers: used.
    scratch: bytes of memory that each worker needs; rows: rows of the VPM that it needs (VideoCore IV).
    results: the registers that instructions write, with the places of what they compute.
    """

    code: Code
    uniforms: list[Uniform] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    function: Function | None = None
    spans: dict[Block, tuple[int, int]] = field(default_factory=dict)
    threads: int = 1
    registers: int = 0
    scratch: int = 0
    rows: int = 4
    results: Sequence[Result] = ()


MEDIUM: Final = range(64, 113)
"""Operations of an innermost loop that are worth another try: of fewer there is little to gain, more take long."""
WASTE: Final = 1.15  # instructions for what half as many could do


def innermost(laid: Laid) -> int:
    """Instructions of the innermost loops."""
    depth = max((b.depth for b in laid.spans), default=0)
    return sum(stop - start for b, (start, stop) in laid.spans.items() if b.depth == depth)


def may_be_shorter(laid: Laid) -> bool:
    """Whether another order of the operations may make the innermost loop shorter."""
    depth = max((b.depth for b in laid.spans), default=0)
    operations = max((len(b.ops) for b in laid.spans if b.depth == depth), default=0)
    return depth > 0 and operations in MEDIUM and 2 * innermost(laid) > WASTE * operations


_PREFIX = {"rf": "rf", "acc": "r", "a": "ra", "b": "rb"}


def results_of(rows: Sequence[Scheduled], colour: Mapping[int, Fixed]) -> list[Result]:
    """The registers in which instructions leave what a place in the source stands for.

    Of the operations for one place those count whose result no later one of them takes, such as the load, not the
    address, and of them those with the type of the last one. What one takes earlier is the value before: an assignment
    under a condition writes the register that it reads. rows: all instructions; colour: the place of each register.
    """
    taken: dict[Loc, set[int]] = {}
    written: dict[Loc, set[int]] = {}
    at = [(i, m, m.loc) for i, row in enumerate(rows) for m in row.ops if m.loc is not None]
    conditional = {(loc, r) for _, m, loc in at if m.cond for r in m.writes()}
    for _, m, loc in at:
        own, before = m.writes(), written.setdefault(loc, set())
        if (m.push or m.update) and not own and m.b is not None and m.a != m.b:  # a comparison
            before = {r for r in before if (loc, r) not in conditional}
        taken.setdefault(loc, set()).update(r for r in m.sources() if r not in own and r in before)
        written[loc].update(own)
    kept: dict[Loc, str] = {}
    completed = set[tuple[Loc, int]]()
    found: list[Result] = []
    for i, m, loc in reversed(at):
        for r in m.writes():
            if r in taken[loc] or m.type != kept.setdefault(loc, m.type):
                continue
            if not m.cond and (loc, r) in completed:  # what a later operation leaves in some lanes only
                completed.discard((loc, r))
                continue
            if m.cond:
                completed.add((loc, r))
            found.append(Result(i, f"{_PREFIX[colour[r].kind]}{colour[r].n}", m.type, loc))
    return found[::-1]


def lay_out_v3d(
    function: Function, scheduled: dict[Block, list[Scheduled]], isa: Isa, colour: Mapping[int, Fixed]
) -> Laid:
    """The program: one switch, after which the thread may use the TMU unswitched (v3d.md 8.2), blocks, the end."""
    nop = combine(isa, None, None)
    switch = combine(isa, None, None, int(Sig.THRSW))
    rows: list[Scheduled] = []
    waits = any(m.role == "barrier" for m in function.ops())
    # the last switch is marked; the one of a barrier must not be behind it
    for instr in (switch, nop, nop) if waits else (switch, switch, nop, nop):
        rows.append(Scheduled(instr, []))
    labels: dict[Block, int] = {}
    for block in function.blocks:
        labels[block] = len(rows)
        rows += scheduled[block]
    for instr in (*((switch, switch, nop, nop) if waits else ()), switch, nop, nop):
        rows.append(Scheduled(instr, []))
    words: list[int] = []
    locs: list[Loc | None] = []
    uniforms: list[Uniform] = []
    for i, row in enumerate(rows):
        instr_ = row.instr
        if isinstance(instr_, Branch):
            assert row.target is not None
            instr_ = instr_._replace(offset=(labels[row.target] - i - 4) * 8 & 0xFFFFFFFF)
        words.append(encode(instr_))
        locs.append(next((m.loc for m in row.ops if m.loc is not None), None))
        uniforms += [m.uniform for m in row.ops if m.uniform is not None]
    names = {b.name: at for b, at in labels.items()}
    spans = {b: (at, at + len(scheduled[b])) for b, at in labels.items()}
    found = Laid(Code(isa, tuple(words), names, locs), uniforms, names, function, spans)
    found.results = results_of(rows, colour)
    return found
