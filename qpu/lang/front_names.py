"""Names of a kernel: which ones statements bind, and what binds them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any, Final

from qpu.errors import counted
from qpu.lang import surface
from qpu.lang.access import check_store, store
from qpu.lang.front import Front, guarded
from qpu.lang.kir import Value
from qpu.lang.math import cast
from qpu.lang.operators import binary, effect_error, has_value, iterate, own
from qpu.lang.values import POISON, Poison, View

__all__ = ["HANDLERS", "RESULT", "RETURNED", "assign", "targets"]

RETURNED, RESULT = "%returned", "%result"  # names of the lanes that return inside a loop on the GPU, and of what


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


def placed(f: Front, target: ast.Name, value: Any) -> Any:
    """The value, with the place of the first name that it gets: the debugger shows variables by it."""
    f.frame.targets[target.id] = target
    if isinstance(value, Value) and value.loc is not None and id(value) not in f.placed:
        value.loc = f.loc(target)
        f.placed[id(value)] = value
    return value


def placed_choice(f: Front, name: str, chosen: Any) -> None:
    """A name was assigned for some lanes only: what it is in all of them takes the place of the assignment."""
    target = f.frame.targets.get(name)
    if target is not None and isinstance(chosen, Value) and chosen.op == "select":
        placed(f, target, chosen)


def assign(f: Front, target: ast.expr, value: Any) -> None:
    """target = value."""
    if isinstance(target, ast.Name):
        f.names[target.id] = placed(f, target, value)
        return
    if isinstance(target, ast.Tuple | ast.List):
        if isinstance(value, Poison):
            for part in target.elts:
                assign(f, part, POISON)
            return
        if f.is_value(value):
            help = "one name; an item has several numbers where k.index gets several extents"
            raise f.error(target, "lang-type", f"{f.describe(value)} cannot be taken apart", help=help)
        parts = list(iterate(f, target, value))
        starred = [i for i, part in enumerate(target.elts) if isinstance(part, ast.Starred)]
        if starred:
            at, rest = starred[0], len(parts) - len(target.elts) + 1
            parts = [*parts[:at], own(f, parts[at : at + rest]), *parts[at + rest :]]
        if len(parts) != len(target.elts):
            raise f.error(target, "lang-python", f"{counted(len(parts), 'value')} for {len(target.elts)} names")
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
        if isinstance(owner, tuple | str):
            message = f"items of a {type(owner).__name__} cannot be assigned"
            raise f.error(target, "lang-type", message, help=f"a list: mine = list({ast.unparse(target.value)})")
        if id(owner) not in f.own:
            raise effect_error(f, target, ast.unparse(target.value))
        if any(f.born.get(id(owner), 0) < before and id(owner) not in carried for before, carried in f.walls):
            message = "an item of a list changes inside a loop or condition that does not know of it"
            raise f.error(target, "lang-effect", message, help="return the new value, and store it into the list there")
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
        made = guarded(f, node, lambda: binary(f, expression, type(node.op), before, value))
        f.names[node.target.id] = placed(f, node.target, made)
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


HANDLERS: Final[dict[type[ast.AST], Callable[..., None]]] = {
    ast.Assign: _assign,
    ast.AnnAssign: _annotated,
    ast.AugAssign: _augmented,
    ast.Delete: _delete,
}
