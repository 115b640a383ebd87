"""Barriers that some workers may not reach: those under conditions, or in loops, that depend on the worker."""

from __future__ import annotations

from qpu.lang.kir import Loop, Region, Skip, Value, walk

__all__ = ["apart"]

_OWN = frozenset({"worker", "atomic"})
"""Operations whose result each worker has for itself."""


def apart(top: Region) -> list[Value]:
    """The barriers of a kernel under what may differ between workers.

    What a worker finds follows from its number, from what it loads at a place that follows from it, and from turns of
    loops that do. All workers load the same from one place.
    """
    if all(v.op != "barrier" for v in walk(top)):
        return []
    own: set[int] = set()
    size = -1
    while size != len(own):  # values that loops carry: until nothing is added
        size = len(own)
        _spread(top, own)
    return _found(top, own, False)


def _spread(region: Region, own: set[int]) -> None:
    for value in region.ops:
        attr = value.attr
        if value.op in _OWN or any(a.number in own for a in value.args):
            own.add(value.number)
        if isinstance(attr, Loop | Skip):
            _spread(attr.region, own)
            differs = _differs(value, own)
            olds = value.args[1:]
            for k, (old, new, result) in enumerate(zip(olds, attr.yields, attr.results, strict=False)):
                if differs or old.number in own or new.number in own:
                    own.add(result.number)
                    if isinstance(attr, Loop):
                        own.add(attr.region.parameters[k].number)


def _differs(value: Value, own: set[int]) -> bool:
    """Whether workers may take different turns, or skip what others do not."""
    conditions = (value.args[0], value.attr.cond) if isinstance(value.attr, Loop) else (value.args[0],)
    return any(c.number in own for c in conditions)


def _found(region: Region, own: set[int], under: bool) -> list[Value]:
    found: list[Value] = []
    for value in region.ops:
        if value.op == "barrier" and under:
            found.append(value)
        elif isinstance(value.attr, Loop | Skip):
            found += _found(value.attr.region, own, under or _differs(value, own))
    return found
