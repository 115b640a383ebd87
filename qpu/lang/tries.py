"""Ways to a program, for every instruction set: with what is hoisted in registers or made anew, ordered for fewer and
fewer live values, until the registers suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from qpu.lang.kir import Loop, Region, Skip, Value
from qpu.lang.layout import Laid, innermost, may_be_shorter
from qpu.lang.liveness import crossing
from qpu.lang.mir import Function, OutOfRegisters, copied
from qpu.lang.sink import outside

__all__ = ["Try", "crossing_loops", "first_laid"]

Try: TypeAlias = tuple[int, bool]
"""Values that may be live for the order of operations, and whether to colour in the order of `simplified`."""


def first_laid(
    select: Callable[[bool], Function | None],
    tries: Callable[[Function], Sequence[Try]],
    lay: Callable[[Function, int, bool], Laid],
    room: int,
) -> Laid | None:
    """The first way for which registers suffice; of a medium innermost loop the shorter of the first two. None where
    there is no way.

    select: operations, coalesced; its argument tells whether to make anew what needs no register, and None that this is
    hopeless. lay: the program of a function, which it changes; may raise OutOfRegisters. room: registers that are live
    between two blocks.
    """
    for lean in (False, True):
        function = select(lean)
        if function is None or crossing(function) > room:
            continue
        rows = tries(function)
        first: Laid | None = None
        for at, (limit, briggs) in enumerate(rows):
            last = at == len(rows) - 1
            try:
                laid = lay(function if last else copied(function), limit, briggs)
            except OutOfRegisters:
                continue
            if first is not None:
                return min(first, laid, key=innermost)
            if not may_be_shorter(laid):
                return laid
            first = laid
        if first is not None:
            return first
    return None


_FREE: Final = frozenset({"const", "lane", "bitcast", "same"})


def crossing_loops(top: Region) -> int:
    """Values that are live in a loop from turn to turn, at most: it carries or uses them, or what follows uses them.
    Registers are needed for most of them, whatever the order of operations.
    """
    return _crossing(top, frozenset(), ())


def _crossing(region: Region, around: frozenset[int], yields: Sequence[Value]) -> int:
    """As `crossing_loops`. around: numbers of values that are live in all of the region; yields: those at its end."""
    most = 0
    live = set(around) | _numbers(yields)
    for v in reversed(region.ops):
        attr = v.attr
        if isinstance(attr, Loop | Skip):
            live -= _numbers(attr.results)
            cond = (attr.cond,) if isinstance(attr, Loop) else ()
            inside = live | _numbers(outside(attr.region, (*attr.yields, *cond)))
            if isinstance(attr, Loop):
                inside |= _numbers(attr.region.parameters)
                most = max(most, len(inside))
            most = max(most, _crossing(attr.region, frozenset(inside), attr.yields))
            live = inside - _numbers(attr.region.parameters)
        live.discard(v.number)
        live |= _numbers(v.args)
    return most


def _numbers(values: Iterable[Value]) -> set[int]:
    return {v.number for v in values if v.op not in _FREE and v.type != "b"}
