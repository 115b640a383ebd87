"""Loops of a kernel: run by Python when compiling, or on the GPU (`qpu.lang.device_loops`)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any, Final, Protocol, runtime_checkable

from qpu.lang import surface
from qpu.lang.carried import carried, flatten, may_leave
from qpu.lang.device_loops import device_loop, returned
from qpu.lang.front import Exits, Front, LangError, guarded
from qpu.lang.front_flow import gone_since, leave_loop, look_through
from qpu.lang.front_merge import tried, under_mask
from qpu.lang.front_names import RETURNED, targets
from qpu.lang.kir import Region, Value, walk
from qpu.lang.operators import iterate, repeated, truth
from qpu.lang.values import POISON, Complex, Index, Packed, Poison, Unbound, View

__all__ = ["HANDLERS"]

UNROLL_TRIPS = 4
UNROLL_OPERATIONS = 16


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

    def turn(item: Any) -> None:
        f.assign(node.target, item)
        f.execute(node.body)

    _python_loop(f, node, iterate(f, node.iter, items), turn)


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
    region = Region(f.q.region)
    findings = list(f.findings)
    with tried(f), f.into(region), f.masked(f.mask):
        f.frame.exits.append(Exits("loop", mask=f.mask))
        try:
            f.assign(node.target, items[0])
            f.execute(node.body)
        finally:
            f.frame.exits.pop()
    f.findings = findings
    return sum(1 for _ in walk(region)) < UNROLL_OPERATIONS


def _python_loop(f: Front, node: ast.For | ast.While, turns: Iterable[Any], one: Callable[[Any], None]) -> None:
    """A loop that Python runs: one(item) evaluates its body, once a turn."""
    exits = Exits("loop", mask=f.mask)
    f.frame.exits.append(exits)
    before = [(e.left, e.skipped) for e in f.frame.exits]
    outer = f.mask
    names = targets([*node.body, node.target if isinstance(node, ast.For) else node.test])
    try:
        for item in turns:
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
        returned(f, node, f.names[RETURNED], lambda: leave_loop(f, node))


def _while(f: Front, node: ast.While) -> None:
    if node.orelse:
        raise f.error(node, "lang-syntax", "`else` of a loop is not part of the kernel language")
    with tried(f), f.into(Region(f.q.region)):
        test = guarded(f, node.test, lambda: f.evaluate(node.test))
    if isinstance(test, Poison):
        _look_into(f, node, [])
        return
    bound = set(targets([*node.body, node.test]))
    read = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
    breaks = any(isinstance(n, ast.Break) for n in ast.walk(node)) and isinstance(node.test, ast.Constant)
    changes = sorted(bound & read)
    if f.is_value(test) or breaks or (changes and (_becomes_value(f, node) or _of_values(f, node, changes))):
        _on_gpu(f, node)
        return

    if isinstance(node.test, ast.Constant) and node.test.value and not may_leave(node):
        raise f.error(node.test, "lang-syntax", "a loop that never ends", help="a condition, break, or return")
    varies = False
    before = [e.left for e in f.frame.exits]

    def known() -> Iterable[bool]:
        """A turn for each time that the condition is true and known when compiling."""
        nonlocal varies
        while True:
            if _binds(node) and any(e.left is not left for e, left in zip_longest(f.frame.exits, before)):
                varies = True  # lanes that left keep what the last test bound
                return
            with tried(f), f.into(Region(f.q.region)):
                test = f.evaluate(node.test)
                if isinstance(test, Poison):
                    f.silent()
                if varies := f.is_value(test):
                    condition = truth(f, node.test, test)
                    varies = condition.op != "const" or bool(condition.attr)
            if varies:
                return
            going = f.evaluate(node.test)
            if f.is_value(going) or not going:
                return
            yield False

    def turns() -> Iterable[bool]:
        """Those, and then one for all that follow where the condition has become a value of the GPU."""
        yield from repeated(f, node.test, known())
        if varies:
            yield True

    _python_loop(f, node, turns(), lambda rest: _on_gpu(f, node) if rest else f.execute(node.body))


def _on_gpu(f: Front, node: ast.While) -> None:
    node = _tested_inside(node)
    device_loop(f, node, targets(node.body), lambda: f.evaluate(node.test), lambda: f.execute(node.body), node.test)


def _binds(node: ast.While) -> bool:
    """Whether the condition binds names (`:=`)."""
    return any(isinstance(n, ast.NamedExpr) for n in ast.walk(node.test))


def _tested_inside(node: ast.While) -> ast.While:
    """A loop whose condition binds names as one that tests in its body: lanes keep what the last test bound."""
    if not _binds(node):
        return node
    found: ast.While | None = getattr(node, "qpu_tested", None)
    if found is None:  # bodies are evaluated several times
        leave = ast.If(ast.UnaryOp(ast.Not(), node.test), [ast.Break()], [])
        found = ast.While(ast.Constant(True), [leave, *node.body], [])
        for part in (leave, leave.test, leave.body[0], found.test, found):
            ast.copy_location(part, node.test)
        node.qpu_tested = found  # type: ignore[attr-defined]  # kept on the node
    return found


def _becomes_value(f: Front, node: ast.While) -> bool:
    """Whether the condition is a value of the GPU after a turn, or after the next, as some lanes have left."""
    findings = list(f.findings)
    with tried(f), f.into(Region(f.q.region)), f.masked(f.mask):
        exits = Exits("loop", mask=f.mask)
        f.frame.exits.append(exits)
        try:
            f.execute(node.body)
            found = f.is_value(f.evaluate(node.test)) or (exits.left is not None and exits.left.op != "const")
        except LangError:
            found = False
        finally:
            f.frame.exits.pop()
    f.findings = findings
    return found


def _of_values(f: Front, node: ast.While, names: list[str]) -> bool:
    """Whether the condition is known before the first turn only because the values in it are: what turns change in it
    are values alone, no numbers, and it is a value where those are any.
    """
    places = flatten(f, carried(f, names))
    if not all(isinstance(place.get(f), Value | Index) for place in places):
        return False
    findings = list(f.findings)
    with tried(f), f.into(region := Region(f.q.region, loop=True)):
        try:
            for place in places:
                value = f.lift(place.get(f), node)
                place.set(f, f.q.parameter(region, value.type, value.varying))
            found = f.is_value(f.evaluate(node.test))
        except LangError:
            found = False
    f.findings = findings
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


HANDLERS: Final[dict[type[ast.AST], Callable[..., None]]] = {ast.For: _for, ast.While: _while}
