"""Statements and branches of a kernel: what happens under a mask, lanes that leave.

A condition that is the same in all lanes and one that varies are treated alike: the statements under it become a region
that is skipped when no lane wants it, or, when they are few and touch no memory, plain operations whose results are
selected. Lanes that `break`, `continue` or `return` are kept as masks.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from qpu.lang import front_names
from qpu.lang.front import INTERNAL, LANGUAGE, Front, LangError, guarded, internal_error
from qpu.lang.front_expr import LocalFunction
from qpu.lang.front_merge import tried, under_mask
from qpu.lang.front_names import RESULT, RETURNED, targets
from qpu.lang.kir import Region, Value
from qpu.lang.operators import decided, select, truth
from qpu.lang.values import POISON, Index, Poison, Unbound

__all__ = ["HANDLERS", "execute", "gone_since", "leave_function", "leave_loop", "look_through"]


def execute(f: Front, body: Sequence[ast.stmt]) -> None:
    """The statements, one after another, for the lanes that are still there.

    When a statement made lanes leave, those behind it run under the mask of the lanes that stayed.
    """
    for n, node in enumerate(body):
        if _nobody(f):
            return
        handler = f.language.statements.get(type(node))
        if handler is None:
            what = type(node).__name__.lower()
            message = f"`{what}` is not part of the kernel language"
            f.report(f.error(node, "lang-syntax", message, allowed=LANGUAGE).finding)
            continue
        if not f.quiet:
            f.q.loc = f.loc(node)
        before = [(e.left, e.skipped) for e in f.frame.exits]
        known = len(f.findings)
        failed = False
        try:
            handler(f, node)
        except LangError as error:
            f.keep(error)
            failed = True
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if f.findings:  # it may follow from those
                failed = True
                continue
            raise internal_error(f.error(node, *INTERNAL).finding, error) from error
        if failed or len(f.findings) > known:  # what follows from an error is not reported
            for name in targets([node]):
                f.names[name] = POISON
        if _nobody(f):
            return
        gone = gone_since(f, before)
        if gone is not None:
            rest = body[n + 1 :]
            if rest:
                under_mask(f, node, f.q.emit("bnot", gone), partial(execute, f, rest), targets(rest))
            return


def _nobody(f: Front) -> bool:
    """No lane is left."""
    return f.mask is not None and f.mask.op == "const" and not f.mask.attr


def gone_since(f: Front, before: list[tuple[Value | None, Value | None]]) -> Value | None:
    """Lanes that have left a loop or the function since then."""
    gone: Value | None = None
    for e, (left, skipped) in zip(f.frame.exits, before, strict=True):
        for new, old in ((e.left, left), (e.skipped, skipped)):
            if new is not None and new is not old:
                gone = new if gone is None else f.q.emit("bor", gone, new)
    return gone


def _function(f: Front, node: ast.FunctionDef) -> None:
    f.names[node.name] = LocalFunction(f.frame.source, node, f.names)


def _expression(f: Front, node: ast.Expr) -> None:
    if isinstance(node.value, ast.Constant):
        return  # a docstring
    f.evaluate(node.value)


def _assert(f: Front, node: ast.Assert) -> None:
    test = f.evaluate(node.test)
    if isinstance(test, Poison):
        return
    if f.is_value(test):
        raise f.error(
            node, "lang-bool", "an assertion about a value of the GPU", help="check on the host, or use where"
        )
    if not test:
        message = f.evaluate(node.msg) if node.msg is not None else ast.unparse(node.test)
        raise f.error(node, "lang-assert", f"assertion failed: {message}")


def look_through(f: Front, body: Sequence[ast.stmt]) -> None:
    """Report what is wrong in statements of which it is not known whether they are executed; their names are poison."""
    with tried(f), f.into(Region(f.q.region)), f.masked(f.mask):
        execute(f, body)
    for name in targets(body):
        f.names[name] = POISON


# -- branches


def _if(f: Front, node: ast.If) -> None:
    test = guarded(f, node.test, lambda: f.evaluate(node.test))
    if isinstance(test, Poison):
        for body in (node.body, node.orelse):
            look_through(f, body)
        return
    if not f.is_value(test):
        known = f.frame.decided[id(node)] = decided(f, node.test, test)
        execute(f, node.body if known else node.orelse)
        return
    condition = truth(f, node.test, test)
    before = dict(f.names)
    raw = under_mask(f, node, condition, lambda: execute(f, node.body), targets(node.body))
    if not node.orelse:
        return
    then = dict(f.names)
    opposite = f.q.emit("bnot", condition)
    fresh = [n for n in targets(node.orelse) if isinstance(then.get(n), Unbound) and n not in before]
    values = {n: then[n] for n in fresh}
    for name in fresh:
        f.names.pop(name)
    first = {n: raw[n] for n in fresh if n in raw}
    second = under_mask(f, node, opposite, lambda: execute(f, node.orelse), targets(node.orelse))
    for name in fresh:  # bound on both sides: a name like any other
        sides = [raw[name] for raw in (first, second) if name in raw]
        if any(isinstance(x, Unbound) for x in sides):
            f.names[name] = next(x for x in sides if isinstance(x, Unbound))
        elif name in first and name in second:
            f.names[name] = guarded(f, node, lambda n=name: select(f, node, condition, first[n], second[n]))  # type: ignore[misc]  # a lambda's default
        elif name not in f.names:
            f.names[name] = values[name]


# -- leaving


def _break(f: Front, node: ast.Break) -> None:
    _go(f, node, "left")


def _continue(f: Front, node: ast.Continue) -> None:
    _go(f, node, "skipped")


def _go(f: Front, node: ast.stmt, how: str) -> None:
    """Take the lanes of the mask out of the innermost loop, or out of its turn."""
    loops = [e for e in f.frame.exits if e.kind == "loop"]
    if not loops:
        raise f.error(node, "lang-syntax", "break or continue outside of a loop")
    exits = loops[-1]
    before: Value | None = getattr(exits, how)
    now = f.mask if f.mask is not None else f.q.const("b", True)
    setattr(exits, how, now if before is None else f.q.emit("bor", before, now))
    f.mask = f.q.const("b", False)


def _return(f: Front, node: ast.Return) -> None:
    where = node.value
    value = None if where is None else guarded(f, where, lambda: f.evaluate(where))
    if f.frame.kernel and value is not None:
        raise f.error(node, "lang-syntax", "a kernel returns nothing", help="store results into an Out parameter")
    if any(e.kind == "loop" and not e.static for e in f.frame.exits):
        if value is not None and not isinstance(value, Value | Index | Poison | bool | int | float):
            help = "keep its parts in names, leave the loop with break, and return after it"
            raise f.error(node, "lang-type", f"{f.describe(value)} is returned inside a loop on the GPU", help=help)
        f.names[RETURNED] = True
        if value is not None:
            f.names[RESULT] = value
        _go(f, node, "left")
        return
    leave_function(f, value)


def leave_loop(f: Front, node: ast.stmt) -> None:
    """The lanes of the mask leave the innermost loop."""
    _go(f, node, "left")


def leave_function(f: Front, value: Any) -> None:
    """The lanes of the mask leave the function, which gives them `value`."""
    exits = next(e for e in f.frame.exits if e.kind == "function")
    now = f.mask if f.mask is not None else f.q.const("b", True)
    if not f.frame.kernel:
        if exits.left is None or isinstance(value, Poison) or isinstance(exits.result, Poison):
            exits.result = POISON if isinstance(exits.result, Poison) else value
        else:
            exits.result = select(f, f.frame.source.tree, now, value, exits.result)
    entry = exits.mask
    everyone = now is entry or (entry is None and now.op == "const" and now.attr)
    gone = f.q.const("b", True) if everyone else now
    exits.left = gone if exits.left is None else f.q.emit("bor", exits.left, gone)
    f.mask = f.q.const("b", False)


def _import(f: Front, node: ast.Import | ast.ImportFrom) -> None:
    """Python itself imports."""
    found: dict[str, Any] = {}
    try:
        exec(compile(ast.Module([node], []), f.frame.source.file, "exec"), dict(f.frame.source.fn.__globals__), found)
    except ImportError as error:
        raise f.error(node, "lang-python", f"{type(error).__name__}: {error}") from None
    f.names.update(found)


def _nothing(f: Front, node: ast.stmt) -> None:
    return


HANDLERS: Final[dict[type[ast.AST], Callable[..., None]]] = {
    **front_names.HANDLERS,
    ast.FunctionDef: _function,
    ast.Expr: _expression,
    ast.Assert: _assert,
    ast.If: _if,
    ast.Break: _break,
    ast.Continue: _continue,
    ast.Return: _return,
    ast.Pass: _nothing,
    ast.Import: _import,
    ast.ImportFrom: _import,
}
