"""The passes for VideoCore IV in order: from KIR to a program."""

from __future__ import annotations

from collections.abc import Mapping

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.errors import CompileError, Loc
from qpu.lang.ahead import load_ahead
from qpu.lang.bundle import Scheduled, bundle
from qpu.lang.coalesce import coalesce
from qpu.lang.colour_vc4 import colour_vc4, repair
from qpu.lang.compile import KernelIR, remove_dead
from qpu.lang.induction import carry_addresses
from qpu.lang.kir import Region
from qpu.lang.layout import Laid, results_of
from qpu.lang.legalise import legalise
from qpu.lang.legalise_vc4 import legalise_vc4
from qpu.lang.mir import Block, Fixed, Function, OutOfRegisters
from qpu.lang.order import order
from qpu.lang.select import Uniform
from qpu.lang.select_vc4 import select_vc4
from qpu.lang.select_vpm import ROWS
from qpu.lang.sink import sink
from qpu.lang.spill import Spiller, VpmVc4, out_of_registers
from qpu.lang.streams import read_streams
from qpu.lang.target_vc4 import Vc4Target
from qpu.lang.tries import Try, crossing_loops, first_laid
from qpu.lang.watch import passed
from qpu.lang.words import known_spans, share_words
from qpu.vc4.builder import build
from qpu.vc4.decode import decode
from qpu.vc4.encode import encode
from qpu.vc4.instr import Branch

__all__ = ["compile_vc4"]

SPILLING = ((True, True), (False, False), (True, False))
"""Ways to start spilling from, the first that ends counts: whether values are computed again where they are used, and
whether operations are ordered for few live values.
"""
ROTATING = 24  # values at a time where some rotate: these want accumulators, and fewer of them need fewer copies
ROOM = 62  # registers of both files, without those that the end of a program must not have
CAPACITY = 4  # requests that may be pending (vc4.md 13.1)


def compile_vc4(
    ir: KernelIR, *, words: frozenset[int] = frozenset(), spill: bool = False, stream: str = "auto"
) -> Laid:
    """A program for VideoCore IV. words: narrow arrays that may be accessed as words; spill: keep values in the VPM
    where registers run out; stream: "none" reads no streams.

    Raises: CompileError (lang-reg).
    """
    names = [p.name for p in ir.parameters if p.kind == "array"]
    passed("front", ir.region)
    wordy = share_words(ir.region, "vc4", ir.parameters, words)
    passed("share_words", wordy)
    carried = carry_addresses(wordy, "vc4")
    passed("carry_addresses", carried)
    plain = legalise(carried, "vc4", known_spans(ir.parameters, words))
    passed("legalise", plain)
    if stream != "none":
        plain = read_streams(plain, "vc4", ir.read_only)
        passed("read_streams", plain)
    legal = legalise_vc4(plain, names, ir.notes, inputs=ir.inputs)
    remove_dead(legal)
    passed("legalise_vc4", legal)
    plain = legal
    legal = load_ahead(legal, "vc4", CAPACITY, grid=not ir.team, inputs=ir.read_only)
    remove_dead(legal)
    passed("load_ahead", legal)

    def selected(lean: bool) -> Function | None:
        if not lean and crossing_loops(legal) > ROOM:
            return None
        return _selected(sink(legal, "vc4", 12) if lean else legal, lean=lean)

    def laid(function: Function, limit: int, briggs: bool) -> Laid:
        order(function, Vc4Target({}).slots, CAPACITY, limit, rotation=Vc4Target.rotation)
        passed("order", function)
        return _finish(function, briggs=briggs)

    found = first_laid(selected, _tries, laid, ROOM)
    if found is not None:
        return found
    refusal: CompileError | None = None
    for sunk, ordered in SPILLING if spill else ():
        function = _selected(sink(plain, "vc4", 12) if sunk else plain, lean=True)
        if ordered:
            order(function, Vc4Target({}).slots, CAPACITY, 8)
        refusal = refusal or out_of_registers(function, ROOM)
        try:
            return _spilled(function)
        except OutOfRegisters:
            continue
    raise refusal or out_of_registers(_selected(plain, lean=True), ROOM)


def _selected(region: Region, *, lean: bool) -> Function:
    function = select_vc4(region, lean=lean)
    passed("select", function)
    coalesce(function)
    passed("coalesce", function)
    return function


def _tries(function: Function) -> list[Try]:
    rotates = any(m.rot is not None for m in function.ops())
    most = [(ROTATING, False)] if rotates else [(58, False), (44, False), (24, False)]
    return [*most, (8, False), (8, True)]


def _spilled(function: Function) -> Laid:
    for block in function.blocks:
        block.ops = VpmVc4.gather(block.ops)
    chip = VpmVc4()
    spiller = Spiller(function, chip)
    spiller.reduce(58)
    spiller.colour(lambda cost: colour_vc4(function, briggs=True, cost=cost, count=30))
    rows, scratch = chip.used(spiller.finish())
    laid = _finish(function, briggs=True, rows=rows, cost=spiller.costs())
    laid.scratch = scratch
    return laid


def _finish(function: Function, *, briggs: bool, rows: int = ROWS, cost: Mapping[int, float] | None = None) -> Laid:
    colour = colour_vc4(function, briggs=briggs, cost=cost)
    repair(function, colour)
    passed("colour", function, colour)
    laid = _lay_out(function, bundle(function, Vc4Target(colour), CAPACITY), colour)
    laid.registers, laid.rows = len(set(colour.values())), rows
    return laid


def _lay_out(function: Function, scheduled: dict[Block, list[Scheduled]], colour: Mapping[int, Fixed]) -> Laid:
    rows: list[Scheduled] = []
    labels: dict[Block, int] = {}
    for block in function.blocks:
        labels[block] = len(rows)
        rows += scheduled[block]
    rows += [Scheduled(decode(word), []) for word in build(lambda q: q.end()).code]
    words: list[int] = []
    locs: list[Loc | None] = []
    uniforms: list[Uniform] = []
    for i, row in enumerate(rows):
        instr = row.instr
        if isinstance(instr, Branch):
            assert row.target is not None
            instr = Branch(cond=instr.cond, rel=1, imm=(labels[row.target] - i - 4) * 8 & 0xFFFFFFFF)
        words.append(encode(instr))
        locs.append(next((m.loc for m in row.ops if m.loc is not None), None))
        uniforms += [m.uniform for m in row.ops if m.uniform is not None]
    names = {b.name: at for b, at in labels.items()}
    spans = {b: (at, at + len(scheduled[b])) for b, at in labels.items()}
    found = Laid(Code(Isa.VC4, tuple(words), names, locs), uniforms, names, function, spans)
    found.results = results_of(rows, colour)
    return found
