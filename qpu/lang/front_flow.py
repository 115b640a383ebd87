"""Statements and branches of a kernel: names, what happens under a mask, lanes that leave.

A condition that is the same in all lanes and one that varies are treated alike: the statements under it become a region
that is skipped when no lane wants it, or, when they are few and touch no memory, plain operations whose results are
selected. Lanes that `break`, `continue` or `return` are kept as masks.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from qpu.lang import surface
from qpu.lang.access import check_store, store
from qpu.lang.front import INTERNAL, LANGUAGE, Exits, Front, LangError, guarded, internal_error
from qpu.lang.front_expr import LocalFunction
from qpu.lang.kir import Region, Skip, Value, walk
from qpu.lang.math import cast
from qpu.lang.operators import binary, effect_error, has_value, iterate, own, select, truth
from qpu.lang.values import POISON, Complex, Index, Packed, Poison, Unbound, View

__all__ = [
    "HANDLERS",
    "RESULT",
    "RETURNED",
    "assign",
    "copy",
    "execute",
    "gone_since",
    "leave_function",
    "leave_loop",
    "lists_of",
    "look_through",
    "splice",
    "targets",
    "under_mask",
]  # fmt: skip

RETURNED, RESULT = "%returned", "%result"  # names of the lanes that return inside a loop on the GPU, and of what
INLINE_LIMIT = 8  # operations of a branch that are cheaper to execute for all lanes than to skip


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


# -- names


def targets(body: Iterable[ast.AST]) -> list[str]:
    """Names that statements bind or whose items they bind, in order, nested functions excluded."""
    found: dict[str, None] = {}
    for node in body:
        names: tuple[str, ...] | None = getattr(node, "qpu_targets", None)
        if names is None:  # bodies are evaluated several times
            names = node.qpu_targets = tuple(_targets(node))  # type: ignore[attr-defined]  # kept on the node
        found.update(dict.fromkeys(names))
    return list(found)


def _targets(node: ast.AST) -> dict[str, None]:
    found: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name)
            return
        if isinstance(node, ast.Lambda | ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            for child in ast.walk(node):
                if isinstance(child, ast.NamedExpr) and isinstance(child.target, ast.Name):
                    found.setdefault(child.target.id)
            return
        if isinstance(node, ast.Return):
            found.update(dict.fromkeys((RETURNED, RESULT)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            base: ast.expr = node
            while isinstance(base, ast.Subscript):
                base = base.value
            if isinstance(base, ast.Name):
                found.setdefault(base.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # acc.append(...)
            owner: ast.expr = node.func.value
            while isinstance(owner, ast.Subscript):
                owner = owner.value
            if isinstance(owner, ast.Name) and node.func.attr in ("append", "extend", "insert", "pop"):
                found.setdefault(owner.id)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(node)
    return found


def assign(f: Front, target: ast.expr, value: Any) -> None:
    """target = value."""
    if isinstance(target, ast.Name):
        f.names[target.id] = value
        return
    if isinstance(target, ast.Tuple | ast.List):
        if isinstance(value, Poison):
            for part in target.elts:
                assign(f, part, POISON)
            return
        if f.is_value(value):
            raise f.error(target, "lang-type", f"{f.describe(value)} cannot be taken apart")
        parts = list(iterate(f, target, value))
        starred = [i for i, part in enumerate(target.elts) if isinstance(part, ast.Starred)]
        if starred:
            at, rest = starred[0], len(parts) - len(target.elts) + 1
            parts = [*parts[:at], own(f, parts[at : at + rest]), *parts[at + rest :]]
        if len(parts) != len(target.elts):
            raise f.error(target, "lang-python", f"{len(parts)} values for {len(target.elts)} names")
        for part_node, part in zip(target.elts, parts, strict=True):
            assign(f, part_node.value if isinstance(part_node, ast.Starred) else part_node, part)
        return
    if isinstance(target, ast.Subscript):
        owner = f.evaluate(target.value)
        key = f.evaluate(target.slice)
        if isinstance(owner, Poison) or isinstance(key, Poison):
            return
        if isinstance(value, Poison):
            if isinstance(owner, View):
                check_store(f, target, owner, key)
            return
        if isinstance(owner, View):
            store(f, target, owner, key, value)
            return
        if f.is_value(owner):
            raise f.error(target, "lang-type", f"items of {f.describe(owner)} cannot be assigned")
        if has_value(f, key):
            raise f.error(target, "lang-varying", "the index of a Python list must be known when compiling")
        if id(owner) not in f.own:
            raise effect_error(f, target, ast.unparse(target.value))
        try:
            owner[key] = value
        except Exception as error:
            raise f.error(target, "lang-python", f"{type(error).__name__}: {error}") from None
        return
    if isinstance(target, ast.Attribute):
        raise effect_error(f, target, ast.unparse(target.value))
    raise f.error(target, "lang-syntax", "this cannot be assigned to")


def _assign(f: Front, node: ast.Assign) -> None:
    value = guarded(f, node.value, lambda: f.evaluate(node.value))
    for target in node.targets:
        assign(f, target, value)


def _annotated(f: Front, node: ast.AnnAssign) -> None:
    if node.value is None:
        return
    value = guarded(f, node.value, lambda: f.evaluate(node.value))  # type: ignore[arg-type]  # not None here
    annotation = guarded(f, node.annotation, lambda: f.evaluate(node.annotation))
    if isinstance(annotation, surface.ScalarType) and not isinstance(value, Poison):
        value = cast(f, node, annotation, [value], {})
    assign(f, node.target, value)


def _augmented(f: Front, node: ast.AugAssign) -> None:
    if isinstance(node.target, ast.Name):
        name = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
        before = guarded(f, node, lambda: f.lookup(name))
        value = guarded(f, node.value, lambda: f.evaluate(node.value))
        if isinstance(before, list) and not has_value(f, value) and id(before) not in f.own:
            raise effect_error(f, node, node.target.id)
        expression = ast.copy_location(ast.BinOp(name, node.op, node.value), node)
        f.names[node.target.id] = guarded(f, node, lambda: binary(f, expression, type(node.op), before, value))
        return
    if isinstance(node.target, ast.Subscript):
        load = ast.copy_location(ast.Subscript(node.target.value, node.target.slice, ast.Load()), node.target)
        before = f.evaluate(load)
        value = f.evaluate(node.value)
        expression = ast.copy_location(ast.BinOp(load, node.op, node.value), node)
        assign(f, node.target, binary(f, expression, type(node.op), before, value))
        return
    raise f.error(node, "lang-syntax", "this cannot be assigned to")


def _delete(f: Front, node: ast.Delete) -> None:
    for target in node.targets:
        if not isinstance(target, ast.Name):
            raise f.error(node, "lang-syntax", "del takes names")
        f.names.pop(target.id, None)


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
    names = {n: copy(f, v) for n, v in f.names.items()}
    with f.dropped(), f.into(Region(f.q.region)), f.masked(f.mask):
        execute(f, body)
    f.names.clear()
    f.names.update(names)
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
        execute(f, node.body if test else node.orelse)
        return
    condition = truth(f, node.test, test)
    before = dict(f.names)
    under_mask(f, node, condition, lambda: execute(f, node.body), targets(node.body))
    if not node.orelse:
        return
    then = dict(f.names)
    opposite = f.q.emit("bnot", condition)
    fresh = [n for n in targets(node.orelse) if isinstance(then.get(n), Unbound) and n not in before]
    values = {n: then[n] for n in fresh}
    for name in fresh:
        f.names.pop(name)
    raw = _raw.get(id(f), {})
    first = {n: raw[n] for n in fresh if n in raw}
    under_mask(f, node, opposite, lambda: execute(f, node.orelse), targets(node.orelse))
    second = _raw.get(id(f), {})
    for name in fresh:  # bound on both sides: a name like any other
        sides = [raw[name] for raw in (first, second) if name in raw]
        if any(isinstance(x, Unbound) for x in sides):
            f.names[name] = next(x for x in sides if isinstance(x, Unbound))
        elif name in first and name in second:
            f.names[name] = guarded(f, node, lambda n=name: select(f, node, condition, first[n], second[n]))  # type: ignore[misc]  # a lambda's default
        elif name not in f.names:
            f.names[name] = values[name]


# Values that names first bound inside a branch have where it was taken, by front end; read right after `under_mask`.
_raw: dict[int, dict[str, Any]] = {}


def under_mask(f: Front, node: ast.AST, condition: Value, body: Callable[[], None], names: list[str]) -> None:
    """Run `body` for the lanes of the condition; names keep their value in the others."""
    q = f.q
    mask = f.under(condition)
    if mask.op == "const":
        if mask.attr:
            body()
        _raw[id(f)] = {}
        return
    before = {n: copy(f, v) for n, v in f.names.items()}
    exits = _exits(f)
    saved = [(e.left, e.skipped, e.result) for e in exits]
    region = Region(q.region)
    with f.into(region), f.masked(mask):
        outer = f.outer
        if mask.varying:
            f.outer = outer | {id(x) for v in f.names.values() for x in lists_of(v)}
        try:
            body()
        finally:
            f.outer = outer
        changed = [n for n in names if n in f.names and not same(f.names[n], before.get(n, _NOTHING))]
        kept = [n for n in changed if n in before and not isinstance(before[n], Unbound)]
        leaves: list[tuple[Value, Value]] = []  # in the lanes of the mask, elsewhere

        def merged(new: Any, old: Any, where: ast.AST) -> Any:
            """A placeholder tree whose leaves are numbers into `leaves`."""
            return _merge(f, where, mask, new, old, leaves)

        trees = {n: guarded(f, node, lambda n=n: merged(f.names[n], before[n], node)) for n in kept}  # type: ignore[misc]  # a lambda's default
        raw = {}
        for n in changed:
            if n not in kept and not isinstance(f.names[n], Unbound):
                raw[n] = guarded(f, node, lambda n=n: _alone(f, node, f.names[n], leaves))  # type: ignore[misc]  # a lambda's default
        exit_trees = []
        for e, (left, skipped, result) in zip(exits, saved, strict=True):
            row = []
            for new, old in ((e.left, left), (e.skipped, skipped)):
                row.append(old if new is old or new is None else _leaf(leaves, new, old or q.const("b", False)))
            tree = e.result
            if e.result is not result:
                tree = (
                    _alone(f, node, e.result, leaves)
                    if result is None
                    else guarded(f, node, lambda e=e, r=result: merged(e.result, r, node))  # type: ignore[misc]  # a lambda's default
                )
            exit_trees.append((*row, tree))
    results = _close(f, mask, region, leaves)
    for n in kept:
        f.names[n] = _fill(f, trees[n], results)
    for n in changed:
        if n not in kept:
            f.names[n] = Unbound(getattr(node, "lineno", 0) + f.frame.source.first - 1, "under a condition")
    for n, value in before.items():
        if n not in names and n in f.names and f.names[n] is not value and not isinstance(value, list | dict | set):
            f.names[n] = value
    for e, (left, skipped, tree) in zip(exits, exit_trees, strict=True):
        e.left, e.skipped = (_fill(f, x, results) for x in (left, skipped))
        e.result = _fill(f, tree, results)
    _raw[id(f)] = {n: _fill(f, t, results) for n, t in raw.items()}


def lists_of(value: Any) -> Iterable[Any]:
    """The lists, dictionaries and sets in a value."""
    if isinstance(value, list | dict | set):
        yield value
    if isinstance(value, list | tuple):
        for item in value:
            yield from lists_of(item)


_NOTHING: Final = object()


class _Leaf:
    """Stands for a value that comes out of a region; `n` numbers it."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n


def _exits(f: Front) -> list[Exits]:
    """Of the function that is evaluated: a helper's lanes come back to its caller."""
    return f.frame.exits


def copy(f: Front, value: Any) -> Any:
    """A value as it is now: lists are copied, so that what a branch does to them shows."""
    if isinstance(value, list) and id(value) in f.own:
        return own(f, [copy(f, item) for item in value])
    return value


def same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float | bool | str) and type(a) is type(b):
        return bool(a == b)
    return False


def _leaf(leaves: list[tuple[Value, Value]], new: Value, old: Value) -> _Leaf:
    leaves.append((new, old))
    return _Leaf(len(leaves) - 1)


def _merge(f: Front, node: ast.AST, mask: Value, new: Any, old: Any, leaves: list[tuple[Value, Value]]) -> Any:
    """`new` where the mask holds, `old` elsewhere: a tree whose leaves are to be filled in."""
    if same(new, old) and not isinstance(new, list):
        return old
    if isinstance(new, Poison) or isinstance(old, Poison):
        return POISON
    if isinstance(new, Unbound) or isinstance(old, Unbound):  # the variable of a loop in the branch
        return new if isinstance(new, Unbound) else old
    if isinstance(new, list | tuple) and isinstance(old, list | tuple) and len(new) == len(old):
        parts = [_merge(f, node, mask, x, y, leaves) for x, y in zip(new, old, strict=True)]
        if isinstance(new, list):
            own(f, new)
            return _List(new, parts)
        return tuple(parts)
    if isinstance(new, Complex) and isinstance(old, Complex):
        return Complex(
            _merge(f, node, mask, new.real, old.real, leaves), _merge(f, node, mask, new.imag, old.imag, leaves)
        )
    if isinstance(new, Packed) and isinstance(old, Packed) and new.dtype is old.dtype:
        return Packed(_merge(f, node, mask, new.word, old.word, leaves), new.dtype)
    if not _scalar(f, new) or not _scalar(f, old):
        raise f.error(
            node,
            "lang-type",
            f"a name is {f.describe(new)} for some lanes and {f.describe(old)} for others",
            help="bind values of the GPU or numbers of one type",
        )
    chosen = select(f, node, mask, new, old)
    if isinstance(chosen, Poison):
        return POISON
    assert isinstance(chosen, Value) or not f.is_value(chosen)
    if not isinstance(chosen, Value):
        return chosen
    return _leaf(leaves, chosen, f.convert(old, chosen.type, node))


class _List(list[Any]):
    """A list whose items are to be filled into the list `into`, which names go on meaning."""

    def __init__(self, into: list[Any], parts: list[Any]) -> None:
        super().__init__(parts)
        self.into = into


def _scalar(f: Front, value: Any) -> bool:
    return isinstance(value, Value | Index | bool | int | float)


def _alone(f: Front, node: ast.AST, new: Any, leaves: list[tuple[Value, Value]]) -> Any:
    """A value that exists in the lanes of the branch only: zero elsewhere."""
    if isinstance(new, list | tuple):
        parts = [_alone(f, node, x, leaves) for x in new]
        return tuple(parts) if isinstance(new, tuple) else _List(new, parts)
    if isinstance(new, Complex):
        return Complex(_alone(f, node, new.real, leaves), _alone(f, node, new.imag, leaves))
    if isinstance(new, Packed):
        return Packed(_alone(f, node, new.word, leaves), new.dtype)
    if isinstance(new, Value | Index):
        v = f.lift(new, node)
        return _leaf(leaves, v, f.q.const(v.type, 0))
    return new


def _fill(f: Front, tree: Any, results: list[Value]) -> Any:
    """The tree with the values that came out of the region."""
    if isinstance(tree, _Leaf):
        return results[tree.n]
    if isinstance(tree, _List):
        tree.into[:] = [_fill(f, part, results) for part in tree]
        return own(f, tree.into)
    if isinstance(tree, tuple):
        return tuple(_fill(f, part, results) for part in tree)
    if isinstance(tree, Complex):
        return Complex(_fill(f, tree.real, results), _fill(f, tree.imag, results))
    if isinstance(tree, Packed):
        return Packed(_fill(f, tree.word, results), tree.dtype)
    return tree


def _close(f: Front, mask: Value, region: Region, leaves: list[tuple[Value, Value]]) -> list[Value]:
    """End a branch: as plain operations when it is short and touches no memory, else as a region to skip."""
    q = f.q
    operations = list(walk(region))
    plain = all(v.op not in ("load", "store", "atomic", "loop", "if_any", "stream", "barrier") for v in operations)
    if plain and len(operations) <= INLINE_LIMIT:
        splice(f, region)
        return [new for new, _ in leaves]
    if not operations and not leaves:
        return []
    attr = Skip(region, [new for new, _ in leaves])
    made = q.append("if_any", (mask, *(old for _, old in leaves)), "", attr, varying=False)
    return [q.result(made, new.type, _differs(mask, new, old)) for new, old in leaves]


def _differs(mask: Value, new: Value, old: Value) -> bool:
    return mask.varying or new.varying or old.varying


def splice(f: Front, region: Region) -> None:
    """The operations of a region into the current one; they stay shared."""
    into = f.q.region
    for value in region.ops:
        value.region = into
        into.ops.append(value)
    for key, value in region.known.items():
        into.known.setdefault(key, value)


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
    value = None if node.value is None else f.evaluate(node.value)
    if f.frame.kernel and value is not None:
        raise f.error(node, "lang-syntax", "a kernel returns nothing", help="store results into an Out parameter")
    if any(e.kind == "loop" and not e.static for e in f.frame.exits):
        if value is not None and not isinstance(value, Value | Index | bool | int | float):
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
        if exits.left is None:
            exits.result = value
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
    ast.Assign: _assign,
    ast.AnnAssign: _annotated,
    ast.AugAssign: _augmented,
    ast.Delete: _delete,
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
