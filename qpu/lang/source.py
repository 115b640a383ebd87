"""The source of a kernel: its syntax tree with the file's own lines and columns, and the names it reaches.

Helper functions are found the same way. A kernel without a file (a plain interactive prompt) has no source; one from
`Kernel.from_source` brings its text.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import linecache
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from qpu.errors import CompileError, Diagnostic, Loc, UsageError

__all__ = ["CONDITION", "MISSING", "Reached", "Source", "function_of"]

MISSING = object()
"""What `Source.lookup` gives for a name that is nowhere."""


class Cells(Mapping[str, Any]):
    """The names of enclosing functions that a function uses, with their values at any time."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))

    def __getitem__(self, name: str) -> Any:
        try:
            return self._cells[name].cell_contents
        except ValueError:  # not bound yet
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._cells if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except KeyError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Reached:
    """A name that a function uses and that is bound outside of it. holder: where; by: the function's source."""

    holder: Mapping[str, Any]
    name: str
    value: Any
    by: Source


CHUNK: Final = 4
"""Vectors of a chunk of `Team.items`: neighbouring items that one worker takes in one turn of a loop."""


def in_chunks(node: ast.For, kernel: str) -> bool:
    """Whether the items of `for i in k.items(n)` go to workers in chunks of several vectors: where the body neither
    asks which lane it is in, nor touches other lanes, nor has loops of its own. kernel: name of the kernel object.
    """
    call = node.iter
    if not isinstance(call, ast.Call) or len(call.args) != 1 or call.keywords or not isinstance(node.target, ast.Name):
        return False
    if ast.unparse(call.func) != f"{kernel}.items":
        return False
    loops = (ast.For, ast.While, ast.Break, ast.Continue, ast.Return, ast.ListComp, ast.GeneratorExp)
    inside = [x for statement in node.body for x in ast.walk(statement)]
    return not any(isinstance(x, loops) or (isinstance(x, ast.Name) and x.id == kernel) for x in inside)


@dataclass(frozen=True)
class Source:
    """A function's text and tree. first: line of the file at which the text begins. indent: columns taken off."""

    fn: Callable[..., Any]
    file: str
    text: str
    first: int
    indent: int
    tree: ast.FunctionDef | ast.Lambda

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> Source:
        """The source of a function. Raises: CompileError (lang-source)."""
        kept = getattr(fn, "__qpu_source__", None)
        if isinstance(kept, Source):
            return kept
        try:
            lines, first = inspect.getsourcelines(fn)
        except (OSError, TypeError):
            raise cls._missing(fn) from None
        text = "".join(lines)
        body = textwrap.dedent(text)
        indent = len(lines[0]) - len(lines[0].lstrip())
        try:
            module = ast.parse(body)
        except SyntaxError:  # a lambda inside an expression
            raise cls._missing(fn) from None
        code = fn.__code__
        _mark_conditions(module)
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
                return cls(fn, code.co_filename, body, first, indent, node)
            if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
                return cls(fn, code.co_filename, body, first, indent, node)
        raise cls._missing(fn)

    @staticmethod
    def _missing(fn: Callable[..., Any]) -> CompileError:
        finding = Diagnostic(
            "lang-source",
            f"the source of {getattr(fn, '__name__', fn)!r} cannot be read",
            allowed="functions of a file or a notebook cell",
            help="put the kernel into a file or a notebook cell, or use qpu.lang.Kernel.from_source(text)",
        )
        return CompileError(finding.render(), [finding])

    @property
    def kernel(self) -> str:
        """The name of the kernel object: the first parameter."""
        names = [*self.tree.args.posonlyargs, *self.tree.args.args]
        return names[0].arg if names else ""

    def loc(self, node: ast.AST) -> Loc:
        """The place of a node in the file."""
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        found = self._locs.get((line, column))
        if found is None:
            text = " " * self.indent + self._lines[line - 1] if line <= len(self._lines) else None
            found = self._locs[line, column] = Loc(self.file, line + self.first - 1, column + self.indent + 1, text)
        return found

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def _locs(self) -> dict[tuple[int, int], Loc]:
        return {}

    @cached_property
    def closure(self) -> Mapping[str, Any]:
        """Values of the enclosing functions' names that the function uses."""
        return Cells(self.fn)

    def lookup(self, name: str) -> Any:
        """The value of a name outside the function: of enclosing functions, the module, builtins; or MISSING."""
        if name in self.closure:
            return self.closure[name]
        globals_ = self.fn.__globals__
        if name in globals_:
            return globals_[name]
        return getattr(builtins, name, MISSING)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """The nodes of parameters and body in a fixed order; decorators are not the function's."""
        tree = self.tree
        parts = [tree.args, *tree.body] if isinstance(tree, ast.FunctionDef) else [tree]
        return [node for part in parts for node in ast.walk(part)]

    @cached_property
    def reached(self) -> list[Reached]:
        """The names outside of the function that it and its helper functions use, with their values as they are now."""
        found: list[Reached] = []
        _reach(self, found, set())
        return found

    @property
    def stale(self) -> bool:
        """Whether one of those names has another value now."""
        return any(r.holder.get(r.name, MISSING) is not r.value for r in self.reached)

    @property
    def body(self) -> list[ast.stmt]:
        """The statements; a lambda is one return."""
        if isinstance(self.tree, ast.FunctionDef):
            return self.tree.body
        result = ast.Return(self.tree.body)
        return [ast.copy_location(result, self.tree.body)]


def _reach(source: Source, found: list[Reached], seen: set[int]) -> None:
    seen.add(id(source.fn))
    names: set[str] = set()
    nodes = source.nodes
    local = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    local.update(a.arg for a in ast.walk(source.tree.args) if isinstance(a, ast.arg))
    for node in nodes:
        if isinstance(node, ast.Name) and node.id not in names and node.id not in local:
            names.add(node.id)
            holder = source.closure if node.id in source.closure else source.fn.__globals__
            if node.id in holder:
                _found(Reached(holder, node.id, holder[node.id], source), found, seen)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # module.name
            owner = source.lookup(node.value.id)
            if isinstance(owner, types.ModuleType) and node.attr in vars(owner):
                _found(Reached(vars(owner), node.attr, vars(owner)[node.attr], source), found, seen)


def _found(reached: Reached, found: list[Reached], seen: set[int]) -> None:
    value = reached.value
    found.append(reached)
    if not inspect.isfunction(value):
        value = getattr(value, "__qpu_function__", None)  # of a ufunc
    if inspect.isfunction(value) and id(value) not in seen:
        try:
            inner = Source.of(value)
        except CompileError:
            return  # reported where it is called
        _reach(inner, found, seen)


def function_of(text: str, name: str | None = None, names: Mapping[str, Any] | None = None) -> Any:
    """What the text of a module defines: its last function or kernel, or the one called `name`. names: that the text
    uses.

    Raises: UsageError where there is none; CompileError (lang-syntax) for text that is not Python.
    """
    file = f"<kernel {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    try:
        code = compile(text, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        loc = Loc(file, error.lineno or 1, error.offset, error.text)
        finding = Diagnostic("lang-syntax", str(error.msg), loc=loc, help="the text of a module, as in a file")
        raise CompileError(finding.render(), [finding]) from None
    found: dict[str, Any] = {"__name__": file, **(names or {})}
    exec(code, found)
    tree = ast.parse(text)
    defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and name in (None, n.name)]
    if not defined:
        raise UsageError(f"the text defines no function {name or ''}".rstrip(), help="def name(k: Grid, ...) -> None:")
    return found[defined[-1]]


CONDITION: Final = "qpu_condition"
"""Attribute of an `and` or `or` of which only the truth matters; others give one of their operands."""


def _mark_conditions(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            _mark(node.test)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            _mark(node.operand)
        elif isinstance(node, ast.comprehension):
            for test in node.ifs:
                _mark(test)


def _mark(test: ast.expr) -> None:
    if isinstance(test, ast.BoolOp):
        setattr(test, CONDITION, True)
        for part in test.values:
            _mark(part)
