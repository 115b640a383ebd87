"""Statements that some lanes execute, and what names mean after them.

A name that the statements bind is selected: the new value in the lanes of the mask, the old one elsewhere, leaf by leaf
for lists and tuples.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from qpu.errors import CompileError
from qpu.lang.front import Front, guarded
from qpu.lang.front_names import placed_choice, targets
from qpu.lang.kir import Region, Skip, Value, walk
from qpu.lang.operators import own, select
from qpu.lang.source import Source
from qpu.lang.values import POISON, Complex, Index, Packed, Poison, Unbound

__all__ = ["copy", "lists_of", "same", "splice", "tried", "under_mask", "walled", "with_lists"]

INLINE_LIMIT = 8  # operations of a branch that are cheaper to execute for all lanes than to skip


def under_mask(f: Front, node: ast.AST, condition: Value, body: Callable[[], None], names: list[str]) -> dict[str, Any]:
    """Run `body` for the lanes of the condition; names keep their value in the others.

    Returns: what the names that were first bound in there have in the lanes that took it; they are unbound afterwards.
    """
    q = f.q
    mask = f.under(condition)
    if mask.op == "const":
        if mask.attr:
            body()
        return {}
    names = with_lists(f, node, names)
    held = dict(f.names)
    before = {n: copy(f, v) for n, v in f.names.items()}
    exits = f.frame.exits  # of this function: a helper's lanes come back to its caller
    saved = [(e.left, e.skipped, e.result) for e in exits]
    region = Region(q.region)
    with f.into(region), f.masked(mask):
        outer = f.outer
        if mask.varying:
            f.outer = outer | {id(x) for v in f.names.values() for x in lists_of(v)}
        try:
            with walled(f, names):
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
        for n in kept:
            if isinstance(tree := trees[n], _Leaf):
                placed_choice(f, n, leaves[tree.n][0])
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
    for n, value in held.items():
        if n not in names and n in f.names and f.names[n] is not value and not isinstance(value, list | dict | set):
            f.names[n] = value
    for e, (left, skipped, tree) in zip(exits, exit_trees, strict=True):
        e.left, e.skipped = (_fill(f, x, results) for x in (left, skipped))
        e.result = _fill(f, tree, results)
    return {n: _fill(f, t, results) for n, t in raw.items()}


@contextmanager
def walled(f: Front, names: list[str]) -> Iterator[None]:
    """What lists were made before may change inside only if one of the names holds them."""
    f.walls.append((len(f.born), {id(x) for n in names if n in f.names for x in lists_of(f.names[n])}))
    try:
        yield
    finally:
        f.walls.pop()


def with_lists(f: Front, node: ast.AST, names: list[str]) -> list[str]:
    """The names that statements bind, and further ones of lists whose items change: the same lists, and those that
    functions change which are called there.
    """
    lists = {n: {id(x) for x in lists_of(v)} for n, v in f.names.items() if isinstance(v, list | tuple)}
    lists = {n: ids for n, ids in lists.items() if ids}
    if not lists:
        return names
    wanted = {n for n in _changed_by_calls(f, node) if n in lists}
    ids = {i for n in (*names, *wanted) for i in lists.get(n, ())}
    return [*names, *(n for n, mine in lists.items() if n not in names and (n in wanted or mine & ids))]


def _changed_by_calls(f: Front, node: ast.AST) -> Iterable[str]:
    source = f.frame.source
    for call in ast.walk(node):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        name = call.func.id
        callee = f.names.get(name, source.closure.get(name, source.fn.__globals__.get(name)))
        tree = getattr(callee, "tree", None)
        local = isinstance(tree, ast.FunctionDef)
        if not local and inspect.isfunction(callee):
            try:
                tree = Source.of(callee).tree
            except CompileError:
                continue
        if not isinstance(tree, ast.FunctionDef):
            continue
        handed = {a.id for c in ast.walk(tree) if isinstance(c, ast.Call) for a in c.args if isinstance(a, ast.Name)}
        changed = {*targets(tree.body), *handed}
        if local:  # names around it
            yield from changed
        params = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args)]
        given = [*zip(params, call.args, strict=False), *((k.arg, k.value) for k in call.keywords)]
        yield from (a.id for p, a in given if p in changed and isinstance(a, ast.Name))


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


def copy(f: Front, value: Any, made: dict[int, Any] | None = None) -> Any:
    """A value as it is now: lists are copied, so that what a branch does to them shows. made: copies by the id of what
    they are of: the same list stays the same one.
    """
    made = {} if made is None else made
    if isinstance(value, list) and id(value) in f.own:
        if id(value) not in made:
            made[id(value)] = own(f, [copy(f, item, made) for item in value])
        return made[id(value)]
    if type(value) is tuple:
        parts = tuple(copy(f, item, made) for item in value)
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
    return value


@contextmanager
def tried(f: Front) -> Iterator[None]:
    """Statements that are only tried: the operations go nowhere, lists change in copies, and names mean afterwards what
    they meant before. An error leaves the names as they are.
    """
    names, made = dict(f.names), {}  # type: dict[str, Any], dict[int, Any]
    for n, v in names.items():
        f.names[n] = copy(f, v, made)
    with f.dropped():
        yield
    f.names.clear()
    f.names.update(names)


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
