"""Expressions of a kernel: evaluated by Python where no kernel value is involved, made into KIR where one is."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

from qpu.errors import CompileError, counted
from qpu.lang import front_builtins, surface
from qpu.lang.access import call_bound, load, packed_lane, view_attribute
from qpu.lang.front import LIMIT_DEPTH, Exits, Frame, Front, guarded
from qpu.lang.math import call_function, cast
from qpu.lang.operators import (
    binary,
    both,
    compare,
    decided,
    device_range_error,
    effect_error,
    has_value,
    is_mask,
    iterate,
    one_of,
    own,
    python_operation,
    select,
    truth,
)
from qpu.lang.source import CONDITION, Source
from qpu.lang.values import POISON, Bound, Complex, Packed, Poison, View

__all__ = ["HANDLERS", "LocalFunction"]

_MUTATORS: Final = frozenset({"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "update",
                              "setdefault", "add", "discard", "popitem"})  # fmt: skip


# -- names and constants


def _constant(f: Front, node: ast.Constant) -> Any:
    return node.value


def _name(f: Front, node: ast.Name) -> Any:
    return f.lookup(node)


def _tuple(f: Front, node: ast.Tuple) -> Any:
    return tuple(_items(f, node.elts))


def _list(f: Front, node: ast.List) -> Any:
    return own(f, _items(f, node.elts))


def _items(f: Front, nodes: list[ast.expr]) -> list[Any]:
    found: list[Any] = []
    for item in nodes:
        if isinstance(item, ast.Starred):
            found += f.evaluate(item.value)
        else:
            found.append(guarded(f, item, lambda item=item: f.evaluate(item)))  # type: ignore[misc]  # a lambda's default
    return found


def _dict(f: Front, node: ast.Dict) -> Any:
    found: dict[Any, Any] = {}
    for k, value in zip(node.keys, _items(f, node.values), strict=True):
        key = None if k is None else f.evaluate(k)
        if k is None:
            found.update(value)
        elif has_value(f, key):
            raise f.error(k, "lang-varying", f"a dictionary with the key {f.describe(key)}, which only the GPU knows")
        else:
            found[key] = value
    return own(f, found)


def _joined(f: Front, node: ast.JoinedStr) -> Any:
    found = []
    for part in node.values:
        if not isinstance(part, ast.FormattedValue):
            found.append(str(getattr(part, "value", "")))
            continue
        value = f.evaluate(part.value)
        if has_value(f, value):
            raise f.error(part.value, "lang-type", f"{f.describe(value)}, which only the GPU knows, as text")
        found.append(str(value))
    return "".join(found)


def _slice(f: Front, node: ast.Slice) -> Any:
    return slice(*(None if part is None else f.evaluate(part) for part in (node.lower, node.upper, node.step)))


# -- operators


def _binary(f: Front, node: ast.BinOp) -> Any:
    a = guarded(f, node.left, lambda: f.evaluate(node.left))
    b = guarded(f, node.right, lambda: f.evaluate(node.right))
    return binary(f, node, type(node.op), a, b)


def _unary(f: Front, node: ast.UnaryOp) -> Any:
    a = f.evaluate(node.operand)
    kind = type(node.op)
    if isinstance(a, Poison):
        return POISON
    if not f.is_value(a):
        return python_operation(f, node, kind, a)
    q = f.q
    if kind is ast.Not:
        return q.emit("bnot", truth(f, node.operand, a))
    if isinstance(a, Complex):
        if kind is ast.USub:
            return Complex(q.emit("fneg", f.convert(a.real, "f", node)), q.emit("fneg", f.convert(a.imag, "f", node)))
        raise f.error(node, "lang-type", "~ of c64")
    v = f.lift(a, node)
    if v.type == "b":
        if kind is ast.Invert:
            return q.emit("bnot", v)
        raise f.error(node, "lang-bool", "a condition (bool) in arithmetic", help="where(condition, a, b)")
    if kind is ast.UAdd:
        return v
    if kind is ast.USub:
        return q.emit("fneg", v) if v.type == "f" else q.emit("sub", q.const(v.type, 0), v)
    if v.type == "f":
        raise f.error(node, "lang-type", "~ of f32", help="bitcast(x, u32)")
    return q.emit("not", v)


def _comparison(f: Front, node: ast.Compare) -> Any:
    left = f.evaluate(node.left)
    result: Any = None
    for i, (op, right_node) in enumerate(zip(node.ops, node.comparators, strict=True)):
        right = f.evaluate(right_node)
        found = compare(f, node if len(node.ops) == 1 else right_node, type(op), left, right)
        result = found if i == 0 else both(f, node, result, found)
        if result is False:
            return False
        left = right
    return result


def _boolean(f: Front, node: ast.BoolOp) -> Any:
    conjunction = isinstance(node.op, ast.And)
    numbers = not getattr(node, CONDITION, False)
    result = f.evaluate(node.values[0])
    for i, right_node in enumerate(node.values[1:]):
        if not f.is_value(result):
            if decided(f, node.values[i], result) is not conjunction:
                return result
            result = f.evaluate(right_node)
            continue
        left = truth(f, node.values[i], result)
        if left.op == "const":
            if bool(left.attr) is not conjunction:
                return result
            result = f.evaluate(right_node)
            continue
        wanted = left if conjunction else f.q.emit("bnot", left)
        with f.masked(f.under(wanted)):
            right = f.evaluate(right_node)
        if isinstance(right, Poison):
            return POISON
        if numbers and not (is_mask(result) and is_mask(right)):
            result = one_of(f, node, conjunction, result, left, right)
            continue
        if not f.is_value(right):
            if decided(f, right_node, right) is conjunction:
                result = left
                continue
            return bool(right)
        result = f.q.emit("band" if conjunction else "bor", left, truth(f, right_node, right))
    return result


def _conditional(f: Front, node: ast.IfExp) -> Any:
    test = f.evaluate(node.test)
    if isinstance(test, Poison):
        return POISON
    if not f.is_value(test):
        return f.evaluate(node.body if decided(f, node.test, test) else node.orelse)
    condition = truth(f, node.test, test)
    if condition.op == "const":
        return f.evaluate(node.body if condition.attr else node.orelse)
    with f.masked(f.under(condition)):
        a = f.evaluate(node.body)
    with f.masked(f.under(f.q.emit("bnot", condition))):
        b = f.evaluate(node.orelse)
    return select(f, node, condition, a, b)


# -- comprehensions, attributes, subscripts


def _comprehension(f: Front, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Any:
    found: list[Any] = []
    _generate(f, node.generators, lambda: found.append(f.evaluate(node.elt)))
    return own(f, set(found) if isinstance(node, ast.SetComp) else found)


def _dict_comprehension(f: Front, node: ast.DictComp) -> Any:
    found: dict[Any, Any] = {}

    def add() -> None:
        key = f.evaluate(node.key)
        found[key] = f.evaluate(node.value)

    _generate(f, node.generators, add)
    return own(f, found)


def _generate(f: Front, generators: list[ast.comprehension], add: Callable[[], object]) -> None:
    if not generators:
        add()
        return
    first, rest = generators[0], generators[1:]
    items = f.evaluate(first.iter)
    before = dict(f.names)
    for item in iterate(f, first.iter, items):
        f.assign(first.target, item)
        wanted = True
        for test_node in first.ifs:
            test = f.evaluate(test_node)
            if f.is_value(test):
                raise f.error(test_node, "lang-bool", "a condition of the GPU decides in a comprehension", help="where")
            wanted = wanted and decided(f, test_node, test)
        if wanted:
            _generate(f, rest, add)
    targets = {n.id for g in generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
    for name in targets:  # as in Python, they are the comprehension's own
        if name in before:
            f.names[name] = before[name]
        else:
            f.names.pop(name, None)


def _attribute(f: Front, node: ast.Attribute) -> Any:
    owner = f.evaluate(node.value)
    if isinstance(owner, Poison):
        return POISON
    if getattr(owner, "__qpu_object__", False):
        return owner.attribute(f, node, node.attr)
    if isinstance(owner, View):
        return view_attribute(f, node, owner, node.attr)
    if isinstance(owner, Complex):
        if node.attr in ("real", "imag"):
            return getattr(owner, node.attr)
        if node.attr == "conjugate":
            return Bound(owner, "conjugate")
        raise f.error(node, "lang-name", f"c64 has no attribute {node.attr!r}", allowed="real, imag, conjugate()")
    if f.is_value(owner):
        raise f.error(node, "lang-name", f"{f.describe(owner)} has no attribute {node.attr!r}")
    if id(owner) in f.outer and node.attr in _MUTATORS:
        raise f.error(
            node,
            "lang-effect",
            f"the list would change for some lanes or turns only ({node.attr})",
            help="bind its items by index, make the list before the condition, or unroll(...) the loop",
        )
    if isinstance(owner, list | dict | set) and node.attr in _MUTATORS and id(owner) not in f.own:
        raise effect_error(f, node, ast.unparse(node.value))
    try:
        return getattr(owner, node.attr)
    except AttributeError as error:
        raise f.error(node, "lang-name", str(error)) from None


def _subscript(f: Front, node: ast.Subscript) -> Any:
    owner = f.evaluate(node.value)
    key = f.evaluate(node.slice)
    if isinstance(owner, Poison) or isinstance(key, Poison):
        return POISON
    if isinstance(owner, View):
        return load(f, node, owner, key)
    if isinstance(owner, Packed):
        return packed_lane(f, node, owner, key)
    if has_value(f, key):
        raise f.error(
            node,
            "lang-varying",
            f"the index of a Python {type(owner).__name__} must be known when compiling",
            help="use unroll(range(...)), or an array parameter",
        )
    if f.is_value(owner):
        raise f.error(node, "lang-type", f"{f.describe(owner)} has no items")
    try:
        return own(f, owner[key]) if isinstance(key, slice) and isinstance(owner, list) else owner[key]
    except Exception as error:
        raise f.error(node, "lang-python", f"{type(error).__name__}: {error}") from None


# -- calls


def _call(f: Front, node: ast.Call) -> Any:
    callee = f.evaluate(node.func)
    args = _items(f, node.args)
    keywords: dict[str, Any] = {}
    for k in node.keywords:
        value = guarded(f, k.value, lambda k=k: f.evaluate(k.value))  # type: ignore[misc]  # a lambda's default
        if k.arg is None:
            keywords.update(value)
        else:
            keywords[k.arg] = value
    if any(isinstance(x, Poison) for x in (*args, *keywords.values(), callee)):
        return POISON
    if f.is_value(callee) or isinstance(callee, View):
        help = f"{ast.unparse(node.func)} without parentheses" if not node.args else f"{ast.unparse(node.func)}[...]"
        raise f.error(node, "lang-type", f"{f.describe(callee)} is called as if it were a function", help=help)
    return call(f, node, callee, args, keywords)


def call(f: Front, node: ast.Call, callee: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
    """callee(*args, **keywords)."""
    if isinstance(callee, Bound):
        return call_bound(f, node, callee, args, keywords)
    if isinstance(callee, surface.ScalarType | surface.Cast):
        return cast(f, node, callee, args, keywords)
    if isinstance(callee, surface.Function):
        return call_function(f, node, callee, args, keywords)
    if callee is surface.static_assert:
        return _static_assert(f, node, args)
    known = _hashable(callee)
    if known and has_value(f, args) and front_builtins.takes(callee, args):
        work = front_builtins.CALLS[callee]
        try:
            inspect.signature(work).bind(f, node, *args, **keywords)
        except TypeError as error:
            raise f.error(node, "lang-call", f"{callee.__name__}: {error}") from None
        return work(f, node, *args, **keywords)
    replacement = surface.BUILTINS.get(callee) if known else None
    if replacement is not None and has_value(f, [*args, *keywords.values()]):
        if replacement in ("int", "float", "bool"):
            return f.convert(args[0], {"int": "i", "float": "f", "bool": "b"}[replacement], node)
        if replacement == "range":
            return surface.DeviceRange(tuple(args))
        return call_function(f, node, surface.FUNCTIONS[replacement], args, keywords)
    if getattr(callee, "__qpu_kernel__", False):
        raise f.error(
            node, "lang-syntax", f"kernel {callee.__name__} is called inside a kernel", help="call a function"
        )
    callee = getattr(callee, "__qpu_function__", callee)  # of a ufunc
    if inspect.isfunction(callee) and (has_value(f, [*args, *keywords.values()]) or _touches(f, args, keywords)):
        return inline(f, node, callee, args, keywords)
    if inspect.isfunction(callee) and callee in f.own.values():
        return inline(f, node, callee, args, keywords)
    if isinstance(callee, LocalFunction):
        return callee.call(f, node, args, keywords)
    if callee is surface.unroll:
        return surface.Unrolled(args[0])
    if callee is len and len(args) == 1 and isinstance(args[0], View):
        return args[0].shape[0]
    alone = callee is not isinstance and any(f.is_value(x) or isinstance(x, View) for x in args)
    taken = callee in _TAKES_VALUES and not alone
    if has_value(f, [*args, *keywords.values()]) and not taken and not _is_own_method(f, callee):
        raise f.error(
            node,
            "lang-type",
            f"{_named(f, callee)} cannot take values of the GPU",
            allowed="functions of qpu.lang, and Python functions, which are inlined",
            help=_instead(callee),
        )
    _refuse(f, node, callee, args)
    try:
        result = callee(*args, **keywords)
    except Exception as error:
        raise f.error(node, "lang-python", f"{type(error).__name__}: {error}") from None
    return own(f, result) if isinstance(result, list | dict | set) else result


def _named(f: Front, callee: Any) -> str:
    return getattr(callee, "__name__", None) or f.describe(callee)


def _refuse(f: Front, node: ast.Call, callee: Any, args: list[Any]) -> None:
    """What Python would do with objects that only stand for something, or could not. Raises: LangError."""
    if any(isinstance(x, surface.DeviceRange) for x in args):
        raise device_range_error(f, node)
    owner = getattr(callee, "__self__", None)
    if isinstance(owner, list) and callee.__name__ in ("sort", "index", "count", "remove") and has_value(f, owner):
        help = "mine = sorted(mine)" if callee.__name__ == "sort" else "compare its items"
        raise f.error(node, "lang-type", f"{callee.__name__} of a list that holds values of the GPU", help=help)
    views = [x for x in args if isinstance(x, View)]
    if views and _foreign(callee) and callee not in (isinstance, id, type, print) and not _is_own_method(f, callee):
        help = f"a loop: for j in range({views[0].name}.size)"
        raise f.error(node, "lang-type", f"{_named(f, callee)} of {f.describe(views[0])}", help=help)


def _foreign(callee: Any) -> bool:
    """Whether a function belongs to Python or NumPy, which know nothing of arrays of the GPU."""
    home = (getattr(callee, "__module__", None) or "").partition(".")[0]
    return home == "builtins" or (home in ("math", "numpy", "operator", "functools") and not inspect.isclass(callee))


def _instead(callee: Any) -> str | None:
    """Help for a function that cannot take values: the language's own of that name."""
    name = getattr(callee, "__name__", "")
    if name in surface.FUNCTIONS:
        return f"from qpu.lang import {name}"
    type_ = {"float32": "f32", "int32": "i32", "uint32": "u32", "float16": "f16", "uint8": "u8", "int8": "i8",
             "int16": "i16", "uint16": "u16", "float64": "f32", "int64": "i32"}.get(name)  # fmt: skip
    return type_ and f"{type_}(...)"


_TAKES_VALUES: Final = (len, list, tuple, zip, enumerate, reversed, isinstance, print)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _touches(f: Front, args: list[Any], keywords: dict[str, Any]) -> bool:
    """Whether a call hands over views or the kernel object, so that it must be inlined."""
    return any(isinstance(x, View | Bound) or x is f.kernel_object for x in (*args, *keywords.values()))


def _is_own_method(f: Front, callee: Any) -> bool:
    return id(getattr(callee, "__self__", None)) in f.own


def _static_assert(f: Front, node: ast.Call, args: list[Any]) -> None:
    if f.is_value(args[0]):
        raise f.error(node, "lang-varying", "static_assert needs a condition that is known when compiling")
    if not args[0]:
        message = str(args[1]) if len(args) > 1 else ast.unparse(node.args[0])
        help = "it compares what is known when the kernel is compiled: call the kernel with other constants"
        raise f.error(node, "lang-assert", f"static_assert failed: {message}", help=help)


class LocalFunction:
    """A function that is defined inside a kernel or helper, with the names around it."""

    def __init__(self, source: Source, tree: ast.FunctionDef | ast.Lambda, names: dict[str, Any]) -> None:
        self.source = source
        self.tree = tree
        self.names = names

    def call(self, f: Front, node: ast.Call, args: list[Any], keywords: dict[str, Any]) -> Any:
        source = Source(self.source.fn, self.source.file, self.source.text, self.source.first, self.source.indent,
                        self.tree)  # fmt: skip
        return run(f, node, source, args, keywords, self.names)


def _lambda(f: Front, node: ast.Lambda) -> Any:
    return LocalFunction(f.frame.source, node, f.names)


def inline(f: Front, node: ast.Call, fn: Callable[..., Any], args: list[Any], keywords: dict[str, Any]) -> Any:
    """Evaluate a helper function at its call."""
    try:
        source = Source.of(fn)
    except CompileError as error:
        finding = error.diagnostics[0]
        raise f.error(node, "lang-source", finding.message, allowed=finding.allowed, help=finding.help) from None
    return run(f, node, source, args, keywords, {})


def run(
    f: Front, node: ast.Call, source: Source, args: list[Any], keywords: dict[str, Any], around: dict[str, Any]
) -> Any:
    """Evaluate a function's body with its parameters bound; the value that its lanes return."""
    if len(f.frames) > LIMIT_DEPTH:
        raise f.error(node, "lang-syntax", f"functions are nested deeper than {LIMIT_DEPTH}",
                      help="a loop; a function may call itself with constants only")  # fmt: skip
    names = {**around, **_parameters(f, node, source, args, keywords)}
    exits = Exits("function", mask=f.mask)
    frame = Frame(source, names, False, [exits])
    f.frames.append(frame)
    try:
        with f.masked(f.mask):
            f.execute(source.body)
    finally:
        f.frames.pop()
    gone, result = exits.left, exits.result
    some = gone is not None and not (gone.op == "const" and gone.attr)  # not simply all lanes
    if some and result is not None and not isinstance(result, Poison) and not _ends(frame, source.body):
        name = getattr(source.tree, "name", "the function")
        message = f"{name} returns a value in some lanes, and comes to its end in others"
        raise f.error(node, "lang-name", message, help="a `return` with a value at its end")
    return result


def _ends(frame: Frame, body: Sequence[ast.stmt]) -> bool:
    """Whether statements always end with a return, as far as their text tells."""
    last = body[-1] if body else None
    if isinstance(last, ast.If):
        known = frame.decided.get(id(last))
        sides = (last.body, last.orelse) if known is None else (last.body if known else last.orelse,)
        return all(_ends(frame, side) for side in sides)
    return isinstance(last, ast.Return)


def _parameters(f: Front, node: ast.Call, source: Source, args: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    spec = source.tree.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
    only = [a.arg for a in spec.kwonlyargs]
    title = getattr(source.tree, "name", "lambda")
    bound: dict[str, Any] = dict(zip(names, args, strict=False))
    if len(args) > len(names):
        if spec.vararg is None:
            raise f.error(node, "lang-call", f"{title} takes {counted(len(names), 'argument')}, {len(args)} are given")
        bound[spec.vararg.arg] = tuple(args[len(names) :])
    elif spec.vararg is not None:
        bound[spec.vararg.arg] = ()
    extra: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in bound:
            raise f.error(node, "lang-call", f"{title} got two values for {name!r}")
        if name in names or name in only:
            bound[name] = value
        else:
            extra[name] = value
    if spec.kwarg is not None:
        bound[spec.kwarg.arg] = extra
    elif extra:
        raise f.error(node, "lang-call", f"{title} has no parameter {next(iter(extra))!r}")
    signature = inspect.signature(source.fn) if isinstance(source.tree, ast.FunctionDef) else None
    for name, default in zip(reversed(names), reversed(spec.defaults), strict=False):
        if name not in bound:
            value = signature.parameters[name].default if signature and name in signature.parameters else None
            bound[name] = f.evaluate(default) if value in (None, inspect.Parameter.empty) else value
    for name, default_node in zip(only, spec.kw_defaults, strict=True):
        if name not in bound and default_node is not None:
            bound[name] = f.evaluate(default_node)
    missing = [n for n in (*names, *only) if n not in bound]
    if missing:
        raise f.error(node, "lang-call", f"{title} needs {', '.join(missing)}")
    return bound


def _walrus(f: Front, node: ast.NamedExpr) -> Any:
    value = f.evaluate(node.value)
    f.assign(node.target, value)
    return value


HANDLERS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Tuple: _tuple,
    ast.List: _list,
    ast.Dict: _dict,
    ast.JoinedStr: _joined,
    ast.Slice: _slice,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.Compare: _comparison,
    ast.BoolOp: _boolean,
    ast.IfExp: _conditional,
    ast.ListComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.SetComp: _comprehension,
    ast.DictComp: _dict_comprehension,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Call: _call,
    ast.Lambda: _lambda,
    ast.NamedExpr: _walrus,
}
