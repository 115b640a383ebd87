"""Loops on the GPU: names that turns carry, conditions that are the same in all lanes or differ, lanes that leave.

A carried name keeps one type; which, and whether it differs between lanes, is found by evaluating turns whose
operations are dropped. A condition that is the same in all lanes is tested at the end of a turn; one that varies is
`do { c = condition; body under c } while any(c)`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final

from qpu.lang.carried import Kinds, Place, carried, carried_error, counter, flatten, known, may_leave, varies
from qpu.lang.front import Exits, Front
from qpu.lang.front_flow import leave_function, leave_loop
from qpu.lang.front_merge import copy, lists_of, splice, under_mask, walled, with_lists
from qpu.lang.front_names import RESULT, RETURNED, placed_choice
from qpu.lang.kir import Loop, Region, Skip, Value, walk
from qpu.lang.operators import truth
from qpu.lang.values import POISON, Poison, Unbound

__all__ = ["device_loop", "returned"]


def device_loop(
    f: Front,
    node: ast.stmt,
    names: list[str],
    going: Callable[[], Any],
    turn: Callable[[], None],
    where: ast.expr,
    advance: Callable[[], None] | None = None,
) -> None:
    """A loop on the GPU: while going(): turn(); advance(). names: what the turns may bind; the first of them is what
    `advance` changes, by what is the same in all lanes.

    Carried names keep one type: found by evaluating turns whose KIR is dropped until types and variance stand still.
    A return inside the loop sets names, which are carried out of it.
    """
    _part(f, node)
    names = with_lists(f, node, names)
    if RETURNED not in names:
        _device_loop(f, node, names, going, _of_this_turn(f, names, turn), where, advance)
        return
    outermost = RETURNED not in f.names
    if outermost:
        f.names[RETURNED], f.names[RESULT] = False, 0
    _device_loop(f, node, names, going, _of_this_turn(f, names, turn), where, advance)
    if not outermost:
        returned(f, node, f.names[RETURNED], lambda: leave_loop(f, node))
        return
    result = f.names.pop(RESULT)
    returned(f, node, f.names.pop(RETURNED), lambda: leave_function(f, None if f.frame.kernel else result))


def _part(f: Front, node: ast.stmt) -> None:
    """Give a name that the loop binds anew a list of its own where another name means the same list: a turn carries the
    items of the one, and the other one keeps what it has.
    """
    for name in {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}:
        value = f.names.get(name)
        if isinstance(value, list) and sum(v is value for frame in f.frames for v in frame.names.values()) > 1:
            f.names[name] = copy(f, value)


def _of_this_turn(f: Front, names: list[str], turn: Callable[[], None]) -> Callable[[], None]:
    """A turn in which lists that were there before keep their lengths: what a turn appends is gone with it."""

    def guarded_turn() -> None:
        outer = f.outer
        f.outer = outer | {id(x) for v in f.names.values() for x in lists_of(v)}
        try:
            with walled(f, names):
                turn()
        finally:
            f.outer = outer

    return guarded_turn


def returned(f: Front, node: ast.stmt, flag: Any, leave: Callable[[], None]) -> None:
    """Behind a loop: the lanes that returned inside it leave what is around it. flag: True where all of them did."""
    if flag is True:
        leave()
    elif f.is_value(flag) and not isinstance(flag, Poison):
        under_mask(f, node, flag, leave, [])


def _device_loop(
    f: Front,
    node: ast.stmt,
    names: list[str],
    going: Callable[[], Any],
    turn: Callable[[], None],
    where: ast.expr,
    advance: Callable[[], None] | None,
) -> None:
    kept = carried(f, names)
    lists = flatten(f, kept)
    types = None if advance is None else counter(f, node, lists, names[0], going, where)
    types = types or known(f, node, lists, going, turn, advance)
    if types is None:
        for name in names:
            f.names[name] = POISON
        return
    q = f.q
    inits = [f.convert(leaf.get(f), type_, node) for leaf, (type_, _) in zip(lists, types, strict=True)]
    condition_varies = varies(f, lists, types, going, where)
    region = Region(q.region, loop=True)
    if condition_varies:
        _any_lane(f, node, region, lists, types, inits, going, turn, where, advance)
    else:
        _all_lanes(f, node, region, lists, types, inits, going, turn, where, advance)
    for name in names:
        if name in f.names and name not in kept and not name.startswith("%") and f.names[name] is not POISON:
            f.names[name] = Unbound(node.lineno + f.frame.source.first - 1, "inside a loop")


def _enter(f: Front, region: Region, places: list[Place], kinds: Kinds) -> list[Value]:
    """Bind the carried leaves to fresh parameters of the region."""
    made = []
    for place, (type_, varying) in zip(places, kinds, strict=True):
        p = f.q.parameter(region, type_, varying)
        place.set(f, p)
        made.append(p)
    return made


def _yields(f: Front, node: ast.stmt, places: list[Place], kinds: Kinds) -> list[Value]:
    found = []
    for place, (type_, varying) in zip(places, kinds, strict=True):
        value = place.get(f)
        if isinstance(value, Poison):
            f.silent()
        if not may_leave(node):  # lanes that left are a mask that varies, even where all leave together
            assert varying or not isinstance(value, Value) or not value.varying, (place.name, value)
        if isinstance(value, Value) and value.type != type_ and not (type_ == "f" and value.type in ("i", "u")):
            line = value.loc.line if value.loc else 0
            carried_error(f, node, place, type_, value.type, line)
            f.silent()
        found.append(f.convert(value, type_, node))
    return found


def _finish_loop(
    f: Front, region: Region, guard: Value, inits: list[Value], yields: list[Value], cond: Value, places: list[Place],
    kinds: Kinds
) -> list[Value]:  # fmt: skip
    q = f.q
    attr = Loop(region, yields, cond)
    made = q.append("loop", (guard, *inits), "", attr, varying=False)
    results = [q.result(made, type_, varying) for type_, varying in kinds]
    for place, r in zip(places, results, strict=True):
        place.set(f, r)
    return results


def _all_lanes(
    f: Front, node: ast.stmt, region: Region, places: list[Place], kinds: Kinds, inits: list[Value],
    going: Callable[[], Any], turn: Callable[[], None], where: ast.expr, advance: Callable[[], None] | None
) -> None:  # fmt: skip
    """The condition is the same in all lanes: test, then turns with the test at their end."""
    q = f.q
    for place, value in zip(places, inits, strict=True):
        place.set(f, value)
    first = going()
    guard = truth(f, where, first) if f.is_value(first) else q.const("b", bool(first))
    if guard.op == "const" and not guard.attr:
        return
    if f.mask is not None:  # nobody runs the loop for lanes that are not there
        guard = q.emit("band", guard, q.emit("any", f.mask))
    mask = f.mask
    with f.into(region), f.masked(mask):
        _enter(f, region, places, kinds)
        params = [place.get(f) for place in places]
        exits = Exits("loop", mask=mask, static=False)
        f.frame.exits.append(exits)
        outer_exits = [(e, e.left, e.skipped, e.result) for e in f.frame.exits[:-1]]
        left_param: Value | None = None
        if may_leave(node):
            left_param = q.parameter(region, "b", True)
            exits.left = left_param
            f.mask = f.under(q.emit("bnot", left_param))
        try:
            inside = f.mask
            turn()
            f.mask = inside
            exits.skipped = None
            if advance is not None:
                advance()
            test = going()
            cond = truth(f, where, test) if f.is_value(test) else q.const("b", bool(test))
            yields = _yields(f, node, places, kinds)
            if left_param is not None:
                left = exits.left or left_param
                gone = q.emit("bnot", left)
                yields = [
                    _chosen(f, left_param, p, y, place) if y.type != "b" else y
                    for p, y, place in zip(params, yields, places, strict=True)
                ]
                yields.append(left)
                alive = gone if mask is None else q.emit("band", mask, gone)
                cond = q.emit("band", cond, q.emit("any", alive))
        finally:
            f.frame.exits.pop()
    _outer(f, node, outer_exits)
    places_all, kinds_all, inits_all = list(places), list(kinds), list(inits)
    if left_param is not None:
        inits_all.append(q.const("b", False))
        attr = Loop(region, yields, cond)
        made = q.append("loop", (guard, *inits_all), "", attr, varying=False)
        for place, (type_, varying) in zip(places_all, kinds_all, strict=True):
            place.set(f, q.result(made, type_, varying))
        q.result(made, "b", True)
        return
    _finish_loop(f, region, guard, inits_all, yields, cond, places_all, kinds_all)


def _outer(f: Front, node: ast.stmt, before: list[tuple[Exits, Value | None, Value | None, Any]]) -> None:
    """Lanes that leave an outer loop or the function from inside a loop on the GPU."""
    for exits, left, skipped, result in before:
        if exits.left is not left or exits.skipped is not skipped or exits.result is not result:
            exits.left, exits.skipped, exits.result = left, skipped, result
            f.report(
                f.error(
                    node,
                    "lang-syntax",
                    "return from inside a loop on the GPU",
                    help="leave the loop with break, keep what to return in a name, and return after the loop",
                ).finding
            )


_EFFECTS: Final = frozenset({"load", "store", "atomic", "barrier", "stream", "loop", "if_any", "rot", "rotv", "bcast",
                             "shuffle", "any", "all"})  # fmt: skip


def _any_lane(
    f: Front, node: ast.stmt, region: Region, places: list[Place], kinds: Kinds, inits: list[Value],
    going: Callable[[], Any], turn: Callable[[], None], where: ast.expr, advance: Callable[[], None] | None
) -> None:  # fmt: skip
    """The condition varies: do { c = condition; body under c } while any(c).

    The last turn runs with an empty mask, so a body that touches memory or other lanes is skipped in it.
    """
    q = f.q
    mask = f.mask
    with f.into(region), f.masked(mask):
        params = _enter(f, region, places, kinds)
        exits = Exits("loop", mask=mask, static=False)
        f.frame.exits.append(exits)
        outer_exits = [(e, e.left, e.skipped, e.result) for e in f.frame.exits[:-1]]
        left_param: Value | None = None
        if may_leave(node):
            left_param = q.parameter(region, "b", True)
        try:
            test = going()
            condition = truth(f, where, test) if f.is_value(test) else q.const("b", bool(test))
            if left_param is not None:
                condition = q.emit("band", condition, q.emit("bnot", left_param))
            live = f.under(condition)
            inner = Region(region)
            exits.left = left_param
            with f.into(inner), f.masked(live):
                turn()
                f.mask = live
                exits.skipped = None
                if advance is not None:
                    advance()
                news = _yields(f, node, places, kinds)
                leaves = [
                    (_chosen(f, live, new, p, place), p) if new is not p else (p, p)
                    for new, p, place in zip(news, params, places, strict=True)
                ]
                if left_param is not None:
                    leaves.append((exits.left or left_param, left_param))
            if any(v.op in _EFFECTS for v in walk(inner)):
                attr = Skip(inner, [new for new, _ in leaves])
                skip = q.append("if_any", (live, *(old for _, old in leaves)), "", attr, varying=False)
                yields = [q.result(skip, new.type, True) for new, _ in leaves]
            else:
                splice(f, inner)
                yields = [new for new, _ in leaves]
        finally:
            f.frame.exits.pop()
    _outer(f, node, outer_exits)
    guard = q.const("b", True) if mask is None else q.emit("any", mask)
    loop = Loop(region, yields, live)
    all_inits = [*inits, *([q.const("b", False)] if left_param is not None else [])]
    made = q.append("loop", (guard, *all_inits), "", loop, varying=False)
    for place, (type_, _) in zip(places, kinds, strict=True):
        place.set(f, q.result(made, type_, True))
    if left_param is not None:
        q.result(made, "b", True)


def _chosen(f: Front, mask: Value, a: Value, b: Value, place: Place) -> Value:
    """a in the lanes of the mask, else b: what the place holds after a turn."""
    chosen = f.q.emit("select", mask, a, b)
    if not place.path:
        placed_choice(f, place.name, chosen)
    return chosen
