"""Texts of the kernels of a `ufunc`: one for each pattern of arrays and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["AXES", "REDUCE", "Argument", "Function", "elementwise"]

AXES = 3  # of a kernel; arrays that need more are several launches


class Argument(NamedTuple):
    """An argument of a pattern. moves: axes of the result along which it moves, None for a number; type: of items."""

    type: str
    moves: tuple[bool, ...] | None


class Function(Protocol):
    """A function of scalars that can be launched. identity: its neutral element, where it has one."""

    identity: float | None

    @property
    def title(self) -> str: ...
    @property
    def __qpu_function__(self) -> Any: ...
    @property
    def types(self) -> tuple[list[str], str]: ...
    def types_for(self, given: Sequence[str]) -> tuple[list[str], str]: ...
    def kernel_for(
        self, result: str, arguments: Sequence[Argument], where: tuple[bool, ...] | None, same: int | None
    ) -> Any: ...
    def reducer(self, type_: str) -> Any: ...


REDUCE = """\
from qpu.lang import In, Out, Team, {type}, unroll


def {name}_reduce(k: Team, x: In[{type}], part: Out[{type}]) -> None:
    acc = {type}(identity)
    for i in k.items(x.size):
        acc = function(acc, x.get(i, identity))
    for distance in unroll((8, 4, 2, 1)):
        acc = function(acc, k.rotate(acc, distance))
    part[k.worker] = k.broadcast(acc, 0)
"""


def elementwise(
    name: str, result: str, arguments: Sequence[Argument], where: tuple[bool, ...] | None, same: int | None
) -> str:
    """The text of a kernel that applies `function`. where: how the condition moves; same: which argument is `out`."""
    stored = "u8" if result == "bool" else result
    rank = max([len(a.moves) for a in arguments if a.moves is not None] + [1])
    axes = [f"i{n}" for n in range(rank)]
    parameters, values = [], []
    types = {stored}
    for n, a in enumerate(arguments):
        if same == n:
            values.append(f"out[{', '.join(axes)}]")
        elif a.moves is None:
            parameters.append(f"a{n}: {a.type}")
            types.add(a.type)
            values.append(f"a{n}")
        else:
            parameters.append(f"a{n}: In{_rank(a.moves)}[{a.type}]")
            types.add(a.type)
            values.append(f"a{n}[{_at(a.moves)}]")
    if where is not None:
        parameters.append(f"where_: In{_rank(where)}[u8]")
        types.add("u8")
    mode = "InOut" if same is not None or where is not None else "Out"
    parameters.append(f"out: {mode}{rank if rank > 1 else ''}[{stored}]")
    place = f"out[{', '.join(axes)}]"
    value = f"function({', '.join(values)})"
    if result == "bool":
        value = f"where({value}, 1, 0)"
    if where is not None:  # a select is cheaper than a masked store
        value = f"where(where_[{_at(where)}] != 0, {value}, {place})"
    lines = [f"    {', '.join(axes)} = k.index(*out.shape)", f"    {place} = {value}"]
    imported = sorted({*types, "Grid", "where", *(f"{m}{r}" for m in ("In", "Out", "InOut") for r in ("", 2, 3))})
    head = f"def {name}(k: Grid, {', '.join(parameters)}) -> None:"
    return f"from qpu.lang import {', '.join(imported)}\n\n\n{head}\n" + "\n".join(lines) + "\n"


def _rank(moves: Sequence[bool]) -> str:
    return str(sum(moves)) if sum(moves) > 1 else ""


def _at(moves: Sequence[bool]) -> str:
    return ", ".join(f"i{n}" for n, m in enumerate(moves) if m) or "0"
