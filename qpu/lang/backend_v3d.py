"""The passes for V3D in order: from KIR to a program."""

from __future__ import annotations

from collections.abc import Mapping

from qpu.core.isa import Isa
from qpu.errors import CompileError
from qpu.lang.ahead import load_ahead
from qpu.lang.bundle import bundle
from qpu.lang.coalesce import coalesce
from qpu.lang.colour import colour_v3d
from qpu.lang.compile import KernelIR, remove_dead
from qpu.lang.induction import carry_addresses
from qpu.lang.kir import Region
from qpu.lang.layout import Laid, lay_out_v3d
from qpu.lang.legalise import legalise
from qpu.lang.memory import plan_memory
from qpu.lang.mir import Function, OutOfRegisters
from qpu.lang.order import order
from qpu.lang.select_v3d import select_v3d
from qpu.lang.sink import sink
from qpu.lang.spill import ScratchV3d, Spiller, out_of_registers
from qpu.lang.streams import read_streams
from qpu.lang.target_v3d import V3dTarget
from qpu.lang.tries import crossing_loops, first_laid
from qpu.lang.watch import passed
from qpu.lang.words import known_spans, share_words

__all__ = ["compile_v3d"]

SPILLING = (True, False)
"""Ways to start spilling from, the first that ends counts: whether values are computed again where they are used."""
SPARE = 2  # registers for addresses of spilled values


def compile_v3d(
    ir: KernelIR,
    isa: Isa,
    *,
    threads: int = 2,
    wide: frozenset[int] | None = None,
    words: frozenset[int] = frozenset(),
    spill: bool = False,
    stream: str = "auto",
) -> Laid:
    """A program for one V3D. threads: on a QPU; wide: arrays whose accesses may be four words at once; words: narrow
    arrays that may be accessed as words; spill: keep values in memory where registers run out; stream: "none" reads no
    streams.

    Raises: CompileError (lang-reg) where more values are live than registers exist.
    """
    capacity = 16 // threads
    registers = 64 // (threads // 2)
    arrays = frozenset(range(sum(p.kind == "array" for p in ir.parameters)))
    passed("front", ir.region)
    wordy = share_words(ir.region, str(isa), ir.parameters, words)
    passed("share_words", wordy)
    carried = carry_addresses(wordy, str(isa))
    passed("carry_addresses", carried)
    legal = legalise(carried, str(isa), known_spans(ir.parameters, words))
    passed("legalise", legal)
    if stream != "none":
        legal = read_streams(legal, str(isa), ir.read_only)
        passed("read_streams", legal)

    def planned(groups: frozenset[int]) -> Region:
        found = plan_memory(legal, str(isa), capacity, groups, ir.inputs, ir.read_only)
        remove_dead(found)
        passed("plan_memory", found)
        return found

    plan = planned(arrays if wide is None else wide)
    region = load_ahead(plan, str(isa), capacity, grid=not ir.team, inputs=ir.read_only)
    remove_dead(region)
    passed("load_ahead", region)
    slots = V3dTarget(isa, {}).slots
    tries = [(registers - 8, False), (registers - 24, False), (10, False), (10, True)]

    def selected(lean: bool) -> Function | None:
        if not lean and crossing_loops(region) >= registers:
            return None
        return _selected(sink(region, str(isa), 1 << 30) if lean else region, isa, lean=lean)

    def laid(function: Function, limit: int, briggs: bool) -> Laid:
        order(function, slots, capacity, limit)
        passed("order", function)
        return _finish(function, isa, capacity, registers, briggs=briggs)

    found = first_laid(selected, lambda _: tries, laid, registers - 1)
    if found is not None:
        return found
    refusal: CompileError | None = None
    for sunk in SPILLING if spill else ():
        region = planned(frozenset())
        function = _selected(sink(region, str(isa), 12) if sunk else region, isa, lean=True)
        refusal = refusal or out_of_registers(function, registers - 1)
        try:
            return _spilled(function, isa, capacity, registers)
        except OutOfRegisters:
            continue
    raise refusal or out_of_registers(_selected(region, isa, lean=True), registers - 1)


def _selected(region: Region, isa: Isa, *, lean: bool) -> Function:
    function = select_v3d(region, isa, lean=lean)
    passed("select", function)
    coalesce(function, early=True)
    passed("coalesce", function)
    return function


def _spilled(function: Function, isa: Isa, capacity: int, registers: int) -> Laid:
    chip = ScratchV3d(isa)
    spiller = Spiller(function, chip)
    spiller.reduce(registers - 6)
    spiller.colour(lambda cost: colour_v3d(function, isa, registers - SPARE, briggs=True, cost=cost))
    count = spiller.finish()
    scratch = 16 * chip.stride(count) if count else 0
    return _finish(function, isa, capacity, registers, briggs=True, scratch=scratch, cost=spiller.costs())


def _finish(
    function: Function,
    isa: Isa,
    capacity: int,
    registers: int,
    *,
    briggs: bool,
    scratch: int = 0,
    cost: Mapping[int, float] | None = None,
) -> Laid:
    colour = colour_v3d(function, isa, registers, briggs=briggs, cost=cost)
    passed("colour", function, colour)
    laid = lay_out_v3d(function, bundle(function, V3dTarget(isa, colour), capacity), isa, colour)
    laid.threads, laid.registers, laid.scratch = 16 // capacity, len(set(colour.values())), scratch
    return laid
