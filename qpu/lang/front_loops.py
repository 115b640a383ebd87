"""Loops of a kernel: run by Python when compiling, or on the GPU.

A loop on the GPU carries names from turn to turn. Each keeps one type; which, and whether it differs between lanes, is
found by evaluating turns whose operations are dropped. A condition that is the same in all lanes is tested at the end
of a turn; one that varies is `do { c = condition; body under c } while any(c)`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from qpu.lang import surface
from qpu.lang.front import Exits, Front, LangError, guarded
from qpu.lang.front_flow import (
    RESULT,
    RETURNED,
    copy,
    gone_since,
    leave_function,
    leave_loop,
    look_through,
    splice,
    targets,
    under_mask,
)
from qpu.lang.kir import Loop, Region, Skip, Value, walk
from qpu.lang.operators import iterate, own, truth
from qpu.lang.types import LETTER
from qpu.lang.values import POISON, Complex, Index, Packed, Poison, Unbound, View

__all__ = ["HANDLERS", "device_loop", "may_leave"]

UNROLL_TRIPS = 4
UNROLL_OPERATIONS = 16
ROUNDS = 6  # trials of a loop's body until types and variance of the carried names stand still
PYTHON_TURNS = 100_000  # turns of a loop that Python runs


@runtime_checkable
class DeviceItems(Protocol):
    """Items that only the GPU counts, as `k.items(n)` makes them."""

    def loop(self, f: Front, node: ast.For) -> None:
        """Evaluate the loop over them."""
        ...


def _for(f: Front, node: ast.For) -> None:
    if node.orelse:
        raise f.error(node, "lang-syntax", "`else` of a loop is not part of the kernel language")
    items = guarded(f, node.iter, lambda: f.evaluate(node.iter))
    if isinstance(items, Poison):
        _look_into(f, node, targets([node.target]))
        return
    if isinstance(items, DeviceItems):
        items.loop(f, node)
        return
    forced = isinstance(items, surface.Unrolled)
    if forced:
        items = items.items
        if isinstance(items, surface.DeviceRange):
            raise f.error(node.iter, "lang-varying", "unroll needs a range that is known when compiling")
    if isinstance(items, range) and not forced and not _short(f, node, items):
        items = surface.DeviceRange((items.start, items.stop, items.step))
    if isinstance(items, surface.DeviceRange):
        _counted(f, node, items)
        return
    _python_loop(f, node, iterate(f, node.iter, items), lambda item: f.assign(node.target, item))


def _look_into(f: Front, node: ast.For | ast.While, names: list[str]) -> None:
    """Report what is wrong in the body of a loop whose head is wrong."""
    for name in names:
        f.names[name] = POISON
    f.frame.exits.append(Exits("loop", mask=f.mask))
    try:
        look_through(f, node.body)
    finally:
        f.frame.exits.pop()
    for name in names:
        f.names[name] = POISON


def _short(f: Front, node: ast.For, items: range) -> bool:
    """Whether a loop is better unrolled: few turns of a small body, found by evaluating it once."""
    if len(items) > UNROLL_TRIPS:
        return False
    if len(items) <= 1:
        return True
    names = {n: copy(f, v) for n, v in f.names.items()}
    region = Region(f.q.region)
    findings = list(f.findings)
    with f.dropped(), f.into(region), f.masked(f.mask):
        f.frame.exits.append(Exits("loop", mask=f.mask))
        try:
            f.assign(node.target, items[0])
            f.execute(node.body)
        finally:
            f.frame.exits.pop()
    f.findings = findings
    f.names.clear()
    f.names.update(names)
    return sum(1 for _ in walk(region)) < UNROLL_OPERATIONS


def _python_loop(f: Front, node: ast.For | ast.While, turns: Iterable[Any], begin: Callable[[Any], None]) -> None:
    """A loop that Python runs: its body is evaluated once a turn."""
    exits = Exits("loop", mask=f.mask)
    f.frame.exits.append(exits)
    before = [(e.left, e.skipped) for e in f.frame.exits]
    outer = f.mask
    names = targets([*node.body, *([node.target] if isinstance(node, ast.For) else [])])

    def one(item: Any) -> None:
        begin(item)
        f.execute(node.body)

    try:
        for count, item in enumerate(turns):
            if count > PYTHON_TURNS:
                raise f.error(node, "lang-syntax", f"a loop of more than {PYTHON_TURNS} turns while compiling")
            exits.skipped = None
            gone = gone_since(f, before)  # out of this loop, or out of what is around it
            if gone is None:
                one(item)
            elif gone.op == "const":
                break
            else:
                under_mask(f, node, f.q.emit("bnot", gone), lambda item=item: one(item), names)  # type: ignore[misc]  # a lambda's default
            f.mask = outer
            if any(e.left is not None and e.left.op == "const" for e in f.frame.exits):
                break
    finally:
        f.frame.exits.pop()
    f.mask = outer
    if any(e.left is not None and e.left.op == "const" for e in f.frame.exits):
        f.mask = f.q.const("b", False)
    if RETURNED in names and RETURNED in f.names:
        _returned(f, node, f.names[RETURNED], lambda: leave_loop(f, node))


def _while(f: Front, node: ast.While) -> None:
    if node.orelse:
        raise f.error(node, "lang-syntax", "`else` of a loop is not part of the kernel language")
    names = {n: copy(f, v) for n, v in f.names.items()}
    with f.dropped(), f.into(Region(f.q.region)):
        test = guarded(f, node.test, lambda: f.evaluate(node.test))
    f.names.clear()
    f.names.update(names)
    if isinstance(test, Poison):
        _look_into(f, node, [])
        return
    carried = set(targets(node.body))
    read = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
    breaks = any(isinstance(n, ast.Break) for n in ast.walk(node)) and isinstance(node.test, ast.Constant)
    if f.is_value(test) or breaks or (carried & read and _becomes_value(f, node)):
        device_loop(f, node, targets(node.body), lambda: f.evaluate(node.test), lambda: f.execute(node.body), node.test)
        return

    def turns() -> Iterable[None]:
        while True:
            going = f.evaluate(node.test)
            if f.is_value(going):
                raise f.error(node.test, "lang-varying", "the condition becomes a value of the GPU during the loop")
            if not going:
                return
            yield None

    _python_loop(f, node, turns(), lambda _: None)


def _becomes_value(f: Front, node: ast.While) -> bool:
    """Whether the condition is a value of the GPU after a turn."""
    names = {n: copy(f, v) for n, v in f.names.items()}
    findings = list(f.findings)
    with f.dropped(), f.into(Region(f.q.region)), f.masked(f.mask):
        f.frame.exits.append(Exits("loop", mask=f.mask))
        try:
            f.execute(node.body)
            found = f.is_value(f.evaluate(node.test))
        except LangError:
            found = False
        finally:
            f.frame.exits.pop()
    f.findings = findings
    f.names.clear()
    f.names.update(names)
    return found


def _counted(f: Front, node: ast.For, items: surface.DeviceRange) -> None:
    """for name in range(...): with at least one bound a value, or too many turns to unroll."""
    start, stop, step = _bounds(f, node, items)
    by = f.convert(step, "i", node.iter)
    if by.varying:
        raise f.error(node.iter, "lang-varying", "the step of a range varies", help="the same step in all lanes")
    up = True  # a step that only the launch knows is positive
    if by.op != "const":
        f.ranges.positive(by, node.iter, f.loc(node.iter))
        step = 0
    else:
        step = by.attr - (1 << 32) if by.attr >> 31 else by.attr
        up = step > 0
    if by.op == "const" and step == 0:
        raise f.error(node.iter, "lang-python", "ValueError: range() arg 3 must not be zero")
    counter = f"%{id(node)}"
    f.names[counter] = first = f.convert(start, "i", node.iter)
    end = f.convert(stop, "i", node.iter)
    q = f.q

    def loop(stop: Value, copies: int) -> None:
        """Turns of `copies` bodies each, up to `stop`."""

        def going() -> Value:
            at = f.names[counter]
            pair = (at, stop) if up else (stop, at)
            return q.emit("lt", *pair, type_="b", attr="i")

        def turn() -> None:
            mask = f.mask
            for n in range(copies):
                at = q.emit("add", f.names[counter], q.const("i", n * step & 0xFFFFFFFF)) if n else f.names[counter]
                f.assign(node.target, at)
                with f.ranges.counter(at, first, end, step, q.region, mask):
                    f.execute(node.body)
                f.frame.exits[-1].skipped, f.mask = None, mask  # those that went on with the next body

        def advance() -> None:
            f.names[counter] = q.emit("add", f.names[counter], q.emit("mul", by, q.const("i", copies)))

        device_loop(f, node, [counter, *targets([*node.body, node.target])], going, turn, node.iter, advance)

    if f.unroll > 1 and step == 1 and _alone(node) and not (first.varying or end.varying):
        whole = q.emit("and", q.emit("sub", end, first), q.const("i", -f.unroll & 0xFFFFFFFF))
        loop(q.emit("add", first, whole), f.unroll)
    loop(end, 1)
    f.names.pop(counter, None)
    for name in targets([node.target]):
        f.names[name] = Unbound(node.lineno + f.frame.source.first - 1, "as the variable of a loop")


def _alone(node: ast.For) -> bool:
    """Whether a loop has no loop inside, and no way out of it."""
    inside = (n for statement in node.body for n in ast.walk(statement))
    return not may_leave(node) and not any(isinstance(n, ast.For | ast.While) for n in inside)


def _bounds(f: Front, node: ast.For, items: surface.DeviceRange) -> tuple[Any, Any, Any]:
    args = items.args
    for x in args:
        bad = isinstance(x, float | View | Complex | Packed | bool) or (
            isinstance(x, Value) and x.type not in ("i", "u")
        )
        if bad:
            raise f.error(node.iter, "lang-type", f"a bound of range is {f.describe(x)}", allowed="integers")
    if len(args) == 1:
        return 0, args[0], 1
    return args[0], args[1], args[2] if len(args) > 2 else 1


def device_loop(
    f: Front,
    node: ast.stmt,
    names: list[str],
    going: Callable[[], Any],
    turn: Callable[[], None],
    where: ast.expr,
    advance: Callable[[], None] | None = None,
) -> None:
    """A loop on the GPU: while going(): turn(); advance(). names: what the turns may bind.

    Carried names keep one type: found by evaluating turns whose KIR is dropped until types and variance stand still.
    A return inside the loop sets names, which are carried out of it.
    """
    if RETURNED not in names:
        _device_loop(f, node, names, going, turn, where, advance)
        return
    outermost = RETURNED not in f.names
    if outermost:
        f.names[RETURNED], f.names[RESULT] = False, 0
    _device_loop(f, node, names, going, turn, where, advance)
    if not outermost:
        _returned(f, node, f.names[RETURNED], lambda: leave_loop(f, node))
        return
    result = f.names.pop(RESULT)
    _returned(f, node, f.names.pop(RETURNED), lambda: leave_function(f, None if f.frame.kernel else result))


def _returned(f: Front, node: ast.stmt, flag: Any, leave: Callable[[], None]) -> None:
    """Behind a loop: the lanes that returned inside it leave what is around it."""
    if f.is_value(flag) and not isinstance(flag, Poison):
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
    carried = _carried(f, names)
    lists = _flatten(f, carried)
    types = _settle(f, node, lists, going, turn, advance)
    if types is None:
        for name in names:
            f.names[name] = POISON
        return
    q = f.q
    inits = [f.convert(leaf.get(f), type_, node) for leaf, (type_, _) in zip(lists, types, strict=True)]
    condition_varies = _varies(f, lists, types, going, where)
    region = Region(q.region, loop=True)
    if condition_varies:
        _any_lane(f, node, region, lists, types, inits, going, turn, where, advance)
    else:
        _all_lanes(f, node, region, lists, types, inits, going, turn, where, advance)
    for name in names:
        if name in f.names and name not in carried and not name.startswith("%") and f.names[name] is not POISON:
            f.names[name] = Unbound(node.lineno + f.frame.source.first - 1, "inside a loop")


class _Place:
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


def _carried(f: Front, names: list[str]) -> list[str]:
    """Names that the turns bind and that had a value before."""
    return [n for n in names if n in f.names and not isinstance(f.names[n], Unbound | Poison)]


def _flatten(f: Front, names: list[str]) -> list[_Place]:
    """Leaves of the carried names that can be values of the GPU."""
    found: list[_Place] = []

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
            found.append(_Place(name, path))

    for name in names:
        visit(name, f.names[name], ())
    return found


Kinds: TypeAlias = list[tuple[str, bool]]


def _settle(
    f: Front,
    node: ast.stmt,
    places: list[_Place],
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
        new, failed = _trial(f, places, kinds, going, turn, advance)
        if failed:
            return None
        changed = False
        for i, (place, (old_type, old_varying), found) in enumerate(zip(places, list(kinds), new, strict=True)):
            if found is None:
                continue
            type_, varying, line = found
            if type_ != old_type:
                if not weak[i] and not (old_type == "f" and type_ in ("i", "u")):
                    _carried_error(f, node, place, old_type, type_, line)
                    return None
                if weak[i] and (old_type, type_) in (("f", "i"), ("f", "u"), ("b", "f"), ("b", "i"), ("b", "u")):
                    if old_type == "b":
                        _carried_error(f, node, place, old_type, type_, line)
                        return None
                elif weak[i]:
                    kinds[i] = (type_, varying or old_varying)
                    changed = True
                    continue
            if varying and not old_varying:
                kinds[i] = (kinds[i][0], True)
                changed = True
        if not changed:
            return kinds
    return kinds


def _carried_error(f: Front, node: ast.stmt, place: _Place, old: str, new: str, line: int) -> None:
    name = place.name
    f.report(
        f.error(
            node,
            "lang-carried",
            f"{name!r} is {LETTER[old]} before the loop and {LETTER[new]} after its body (line {line})",
            help=f"bind it before the loop as {name} = {LETTER[new]}(...), or cast in the body",
        ).finding
    )


def _trial(
    f: Front,
    places: list[_Place],
    kinds: Kinds,
    going: Callable[[], Any],
    turn: Callable[[], None],
    advance: Callable[[], None] | None,
) -> tuple[list[tuple[str, bool, int] | None], bool]:
    """What the carried leaves are after one turn whose KIR is dropped."""
    names = {n: copy(f, v) for n, v in f.names.items()}
    region = Region(f.q.region, loop=True)
    found: list[tuple[str, bool, int] | None] = []
    before = len(f.findings)
    with f.dropped(), f.into(region), f.masked(f.mask):
        for n, v in names.items():
            f.names[n] = copy(f, v) if isinstance(v, list) else v
            if isinstance(v, list):
                own(f, f.names[n])
        for place, (type_, varying) in zip(places, kinds, strict=True):
            place.set(f, f.q.parameter(region, type_, varying))
        exits = Exits("loop", mask=f.mask, static=False)
        f.frame.exits.append(exits)
        try:
            test = going()
            if not isinstance(test, Poison) and f.is_value(test):
                condition = f.lift(test, _NODE)
                if condition.type == "b" and condition.varying:
                    f.mask = f.under(condition)
            entry = f.mask
            turn()
            f.mask = entry
            exits.skipped = None
            if advance is not None:
                advance()
            mask_varies = (f.mask is not None and f.mask.varying) or (exits.left is not None and exits.left.varying)
            for place in places:
                try:
                    value = place.get(f)
                except (IndexError, TypeError, KeyError, AttributeError):
                    value = None
                if isinstance(value, Value | Index):
                    v = f.lift(value, _NODE)
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
    f.names.clear()
    f.names.update(names)
    for v in names.values():
        if isinstance(v, list):
            own(f, v)
    return found, len(f.findings) > before or len(found) != len(places)


_NODE: Final = ast.Pass(lineno=1, col_offset=0)


def _varies(f: Front, places: list[_Place], kinds: Kinds, going: Callable[[], Any], where: ast.expr) -> bool:
    """Whether the condition differs between lanes, with the carried leaves as they are in a turn."""
    names = {n: copy(f, v) for n, v in f.names.items()}
    region = Region(f.q.region, loop=True)
    with f.dropped(), f.into(region):
        for place, (type_, varying) in zip(places, kinds, strict=True):
            place.set(f, f.q.parameter(region, type_, varying))
        test = going()
        found = f.is_value(test) and truth(f, where, test).varying
    f.names.clear()
    f.names.update(names)
    for v in names.values():
        if isinstance(v, list):
            own(f, v)
    return found


def _enter(f: Front, region: Region, places: list[_Place], kinds: Kinds) -> list[Value]:
    """Bind the carried leaves to fresh parameters of the region."""
    made = []
    for place, (type_, varying) in zip(places, kinds, strict=True):
        p = f.q.parameter(region, type_, varying)
        place.set(f, p)
        made.append(p)
    return made


def _yields(f: Front, node: ast.stmt, places: list[_Place], kinds: Kinds) -> list[Value]:
    found = []
    for place, (type_, _) in zip(places, kinds, strict=True):
        value = place.get(f)
        if isinstance(value, Poison):
            f.silent()
        if isinstance(value, Value) and value.type != type_ and not (type_ == "f" and value.type in ("i", "u")):
            line = value.loc.line if value.loc else 0
            _carried_error(f, node, place, type_, value.type, line)
            f.silent()
        found.append(f.convert(value, type_, node))
    return found


def _finish_loop(
    f: Front, region: Region, guard: Value, inits: list[Value], yields: list[Value], cond: Value, places: list[_Place],
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
    f: Front, node: ast.stmt, region: Region, places: list[_Place], kinds: Kinds, inits: list[Value],
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
                    q.emit("select", left_param, p, y) if y.type != "b" else y
                    for p, y in zip(params, yields, strict=True)
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


def may_leave(node: ast.stmt) -> bool:
    """Whether the body has a break of this loop, or a return."""

    def visit(n: ast.AST, inside: bool) -> bool:
        if isinstance(n, ast.Return) or (isinstance(n, ast.Break) and not inside):
            return True
        if isinstance(n, ast.FunctionDef | ast.Lambda):
            return False
        return any(visit(c, inside or isinstance(n, ast.For | ast.While)) for c in ast.iter_child_nodes(n))

    return any(visit(child, False) for child in getattr(node, "body", ()))


_EFFECTS: Final = frozenset({"load", "store", "atomic", "barrier", "stream", "loop", "if_any", "rot", "rotv", "bcast",
                             "shuffle", "any", "all"})  # fmt: skip


def _any_lane(
    f: Front, node: ast.stmt, region: Region, places: list[_Place], kinds: Kinds, inits: list[Value],
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
                    (_chosen(f, live, new, p), p) if new is not p else (p, p)
                    for new, p in zip(news, params, strict=True)
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


def _chosen(f: Front, mask: Value, new: Value, old: Value) -> Value:
    return f.q.emit("select", mask, new, old)


HANDLERS: Final[dict[type[ast.AST], Callable[..., None]]] = {ast.For: _for, ast.While: _while}
