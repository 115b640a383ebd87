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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qpu.errors import CompileError, Diagnostic, Loc

__all__ = ["MISSING", "Source"]

MISSING = object()
"""What `Source.lookup` gives for a name that is nowhere."""


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
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and node.name == fn.__name__:
                return cls(fn, code.co_filename, body, first, indent, node)
            if isinstance(node, ast.Lambda) and fn.__name__ == "<lambda>":
                return cls(fn, code.co_filename, body, first, indent, node)
        raise cls._missing(fn)

    @classmethod
    def from_text(cls, text: str, name: str, fn: Callable[..., Any]) -> Source:
        """The source of a function that was made from `text`; lines count from the text's own first."""
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return cls(fn, f"<kernel {name}>", text, 1, 0, node)
        raise CompileError(f"the text defines no function {name}")

    @staticmethod
    def _missing(fn: Callable[..., Any]) -> CompileError:
        finding = Diagnostic(
            "lang-source",
            f"the source of {getattr(fn, '__name__', fn)!r} cannot be read",
            allowed="functions of a file or a notebook cell",
            help="put the kernel into a file or a notebook cell, or use qpu.kernel.from_source(text)",
        )
        return CompileError(finding.render(), [finding])

    def loc(self, node: ast.AST) -> Loc:
        """The place of a node in the file."""
        line = getattr(node, "lineno", 1) + self.first - 1
        text = linecache.getline(self.file, line) or None
        if text is None:
            lines = self.text.splitlines()
            at = getattr(node, "lineno", 1) - 1
            text = " " * self.indent + lines[at] if at < len(lines) else None
        return Loc(self.file, line, getattr(node, "col_offset", 0) + self.indent + 1, text)

    @cached_property
    def closure(self) -> Mapping[str, Any]:
        """Values of the enclosing functions' names that the function uses, as they are now."""
        names = self.fn.__code__.co_freevars
        cells = self.fn.__closure__ or ()
        found = {}
        for name, cell in zip(names, cells, strict=True):
            try:
                found[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
        return found

    def lookup(self, name: str) -> Any:
        """The value of a name outside the function: of enclosing functions, the module, builtins; or MISSING."""
        if name in self.closure:
            return self.closure[name]
        globals_ = self.fn.__globals__
        if name in globals_:
            return globals_[name]
        return getattr(builtins, name, MISSING)

    @cached_property
    def digest(self) -> str:
        """Hash of the tree without positions: equal for functions that differ in comments and layout only."""
        return hashlib.sha256(ast.dump(self.tree).encode()).hexdigest()

    @property
    def body(self) -> list[ast.stmt]:
        """The statements; a lambda is one return."""
        if isinstance(self.tree, ast.FunctionDef):
            return self.tree.body
        result = ast.Return(self.tree.body)
        return [ast.copy_location(result, self.tree.body)]
