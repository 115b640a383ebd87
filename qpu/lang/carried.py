"""What a loop on the GPU carries: the leaves of its names, with the type and variance that they keep.

Found by evaluating turns whose operations are dropped.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from qpu.lang.front import Exits, Front, LangError
from qpu.lang.front_merge import tried
from qpu.lang.kir import Builder, Region, Value
from qpu.lang.operators import truth
from qpu.lang.types import LETTER
from qpu.lang.values import Complex, Index, Packed, Poison, Unbound

__all__ = ["Kinds", "Place", "carried", "carried_error", "counter", "flatten", "known", "may_leave", "varies"]

ROUNDS = 6  # trials of a loop's body until types and variance of the carried names stand still


class Place:
    """A carried leaf: a name, or an item of a list it holds."""

    __slots__ = ("name", "path")

    def __init__(self, name: str, path: tuple[int, ...]) -> None:
        self.name = name
        self.path = path

    def get(self, f: Front) -> Any:
        value = f.names[self.name]
        for i in self.path:
            value = (
                (value.real, value.imag)[i]
                if isinstance(value, Complex)
                else value.word
                if isinstance(value, Packed)
                else value[i]
            )
        return value

    def set(self, f: Front, new: Any) -> None:
        if not self.path:
            f.names[self.name] = new
            return
        f.names[self.name] = self._with(f, f.names[self.name], self.path, new)

    def _with(self, f: Front, tree: Any, path: tuple[int, ...], new: Any) -> Any:
        if not path:
            return new
        i, rest = path[0], path[1:]
        if isinstance(tree, Complex):
            parts = [tree.real, tree.imag]
            parts[i] = self._with(f, parts[i], rest, new)
            return Complex(*parts)
        if isinstance(tree, Packed):
            return Packed(new, tree.dtype)
        if isinstance(tree, tuple):
            items = list(tree)
            items[i] = self._with(f, items[i], rest, new)
            return tuple(items)
        tree[i] = self._with(f, tree[i], rest, new)
        return tree


def carried(f: Front, names: list[str]) -> list[str]:
    """Names that the turns bind and that had a value before."""
    return [n for n in names if n in f.names and not isinstance(f.names[n], Unbound | Poison)]


def flatten(f: Front, names: list[str]) -> list[Place]:
    """Leaves of the carried names that can be values of the GPU."""
    found: list[Place] = []

    def visit(name: str, value: Any, path: tuple[int, ...]) -> None:
        if isinstance(value, list | tuple):
            for i, item in enumerate(value):
                visit(name, item, (*path, i))
        elif isinstance(value, Complex):
            visit(name, value.real, (*path, 0))
            visit(name, value.imag, (*path, 1))
        elif isinstance(value, Packed):
            visit(name, value.word, (*path, 0))
        elif isinstance(value, Value | Index | bool | int | float):
            found.append(Place(name, path))

    for name in names:
        visit(name, f.names[name], ())
    return found


Kinds: TypeAlias = list[tuple[str, bool]]


def counter(
    f: Front, node: ast.stmt, places: list[Place], counter: str, going: Callable[[], Any], where: ast.expr
) -> Kinds | None:
    """Type and variance where a loop carries its counter alone, which no turn has to tell; None elsewhere."""
    if len(places) != 1 or places[0].name != counter:
        return None
    value = f.names[counter]
    if not isinstance(value, Value):
        return None
    kinds = [(value.type, value.varying)]
    alone = not may_leave(node) and (f.mask is None or not f.mask.varying)
    return kinds if value.varying or (alone and not varies(f, places, kinds, going, where)) else None


def known(
    f: Front,
    node: ast.stmt,
    places: list[Place],
    going: Callable[[], Any],
    turn: Callable[[], None],
    advance: Callable[[], None] | None,
) -> Kinds | None:
    """As `_settle`, once for each loop and what names are before it: loops in loops are evaluated again and again."""
    exits = [(e.left and e.left.varying, e.skipped and e.skipped.varying) for e in f.frame.exits]
    state: list[object] = [id(node), f.mask and f.mask.varying, *exits]
    held: list[object] = [node]
    for name, value in f.names.items():
        state.append(name)
        _describe(value, state, held)
    key = tuple(state)
    found = f.settled.get(key)
    if found is None:
        kinds = _settle(f, node, places, going, turn, advance)
        if kinds is None:
            return None
        found = f.settled[key] = kinds, held
    return found[0]


def _describe(value: Any, into: list[object], held: list[object]) -> None:
    """What of a value decides the types of what is made of it. held: objects that are told apart by their ids."""
    if isinstance(value, Value):
        into += (value.type, value.varying, value.constant)
    elif isinstance(value, Index):
        into.append(value.plus)
    elif isinstance(value, list | tuple):
        into.append(len(value))
        for item in value:
            _describe(item, into, held)
    elif isinstance(value, bool | int | float | str):
        into += (type(value), value)
    elif isinstance(value, Complex | Packed):
        _describe((value.real, value.imag) if isinstance(value, Complex) else (value.word,), into, held)
    else:
        into.append(id(value))
        held.append(value)


def _settle(
    f: Front,
    node: ast.stmt,
    places: list[Place],
    going: Callable[[], Any],
    turn: Callable[[], None],
    advance: Callable[[], None] | None,
) -> Kinds | None:
    """Type and variance of each carried leaf; None after an error."""
    kinds: Kinds = []
    weak: list[bool] = []
    for place in places:
        value = place.get(f)
        if isinstance(value, Value):
            kinds.append((value.type, value.varying))
        elif isinstance(value, Index):
            kinds.append(("i", True))
        else:
            kinds.append(("b" if isinstance(value, bool) else "f" if isinstance(value, float) else "i", False))
        weak.append(not isinstance(value, Value | Index))
    for _ in range(ROUNDS):
        trial = _trial(f, places, kinds, going, turn, advance)
        if trial.failed:
            return None
        changed = retyped = False
        for i, (place, (old_type, old_varying), found) in enumerate(
            zip(places, list(kinds), trial.leaves, strict=True)
        ):
            if found is None:
                continue
            type_, varying, line = found
            if type_ != old_type:
                if not weak[i] and not (old_type == "f" and type_ in ("i", "u")):
                    carried_error(f, node, place, old_type, type_, line)
                    return None
                if weak[i] and (old_type, type_) in (("f", "i"), ("f", "u"), ("b", "f"), ("b", "i"), ("b", "u")):
                    if old_type == "b":
                        carried_error(f, node, place, old_type, type_, line)
                        return None
                elif weak[i]:
                    kinds[i] = (type_, varying or old_varying)
                    changed = retyped = True
                    continue
            if varying and not old_varying:
                kinds[i] = (kinds[i][0], True)
                changed = True
        if not changed or (not retyped and _spread(trial, kinds)):
            return kinds
    return kinds


def _spread(trial: _Trial, kinds: Kinds) -> bool:
    """Let what varies vary in all that a turn makes of it, where a turn has no control flow that could depend on it.
    Returns whether that tells all kinds.
    """
    ops = trial.region.ops
    if not trial.straight or any(v.op in _OWN_VARIANCE for v in ops):
        return False
    while True:
        for p, (_, varying) in zip(trial.region.parameters, kinds, strict=True):
            p.varying = varying
        for v in ops:
            v.varying = Builder.varies(v.op, v.args)
        if trial.test is None or trial.test.varying:
            return False
        changed = False
        for i, value in enumerate(trial.values):
            if value is not None and value.varying and not kinds[i][1]:
                kinds[i] = (kinds[i][0], True)
                changed = True
        if not changed:
            return True


_OWN_VARIANCE: Final = frozenset({"loop", "if_any", "atomic", "barrier"})


def carried_error(f: Front, node: ast.stmt, place: Place, old: str, new: str, line: int) -> None:
    name = place.name
    f.report(
        f.error(
            node,
            "lang-carried",
            f"{name!r} is {LETTER[old]} before the loop and {LETTER[new]} after its body (line {line})",
            help=f"bind it before the loop as {name} = {LETTER[new]}(...), or cast in the body",
        ).finding
    )


@dataclass(slots=True)
class _Trial:
    """One turn whose KIR is dropped. leaves: type, variance and line of each carried leaf after it, None for numbers;
    values: the same as values; test: the condition before it; straight: all lanes run it, and none leaves.
    """

    region: Region
    leaves: list[tuple[str, bool, int] | None] = field(default_factory=list)
    values: list[Value | None] = field(default_factory=list)
    test: Value | None = None
    straight: bool = False
    failed: bool = False


def _trial(
    f: Front,
    places: list[Place],
    kinds: Kinds,
    going: Callable[[], Any],
    turn: Callable[[], None],
    advance: Callable[[], None] | None,
) -> _Trial:
    """What the carried leaves are after one turn."""
    region = Region(f.q.region, loop=True)
    trial = _Trial(region)
    found = trial.leaves
    before = len(f.findings)
    with tried(f), f.into(region), f.masked(f.mask):
        for place, (type_, varying) in zip(places, kinds, strict=True):
            place.set(f, f.q.parameter(region, type_, varying))
        exits = Exits("loop", mask=f.mask, static=False)
        f.frame.exits.append(exits)
        try:
            test = going()
            if not isinstance(test, Poison) and f.is_value(test):
                condition = trial.test = f.lift(test, _NODE)
                if condition.type == "b" and condition.varying:
                    f.mask = f.under(condition)
            entry = f.mask
            turn()
            f.mask = entry
            exits.skipped = None
            if advance is not None:
                advance()
            mask_varies = (f.mask is not None and f.mask.varying) or (exits.left is not None and exits.left.varying)
            trial.straight = not mask_varies and exits.left is None
            for place in places:
                try:
                    value = place.get(f)
                except (IndexError, TypeError, KeyError, AttributeError):
                    value = None
                trial.values.append(v := f.lift(value, _NODE) if isinstance(value, Value | Index) else None)
                if v is not None:
                    condition_mask = not isinstance(test, Poison) and f.is_value(test) and f.lift(test, _NODE).varying
                    same = v.op == "parameter" and v.region is region
                    varies = v.varying or ((mask_varies or condition_mask) and not same)
                    line = v.loc.line if v.loc else 0
                    found.append((v.type, varies and not (same and not v.varying), line))
                elif isinstance(value, bool):
                    found.append(("b", False, 0))
                elif isinstance(value, int | float):
                    found.append(None)
                else:
                    found.append(None)
        except LangError as error:
            f.keep(error)
        finally:
            f.frame.exits.pop()
    trial.failed = len(f.findings) > before or len(found) != len(places)
    return trial


_NODE: Final = ast.Pass(lineno=1, col_offset=0)


def varies(f: Front, places: list[Place], kinds: Kinds, going: Callable[[], Any], where: ast.expr) -> bool:
    """Whether the condition differs between lanes, with the carried leaves as they are in a turn."""
    region = Region(f.q.region, loop=True)
    with tried(f), f.into(region):
        for place, (type_, varying) in zip(places, kinds, strict=True):
            place.set(f, f.q.parameter(region, type_, varying))
        test = going()
        return f.is_value(test) and truth(f, where, test).varying


def may_leave(node: ast.stmt) -> bool:
    """Whether the body has a break of this loop, or a return."""

    def visit(n: ast.AST, inside: bool) -> bool:
        if isinstance(n, ast.Return) or (isinstance(n, ast.Break) and not inside):
            return True
        if isinstance(n, ast.FunctionDef | ast.Lambda):
            return False
        return any(visit(c, inside or isinstance(n, ast.For | ast.While)) for c in ast.iter_child_nodes(n))

    return any(visit(child, False) for child in getattr(node, "body", ()))
