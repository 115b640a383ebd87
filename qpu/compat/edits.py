"""Edits of Python source at the places of syntax tree nodes, which leave layout and comments as they are."""

from __future__ import annotations

import ast
from typing import Any, Protocol

__all__ = ["Edits"]


class _Visitor(Protocol):
    edits: Edits

    def visit(self, node: ast.AST) -> None: ...


class Edits:
    """Replacements in one source text. Positions are offsets of characters."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = [line.encode() for line in source.splitlines(keepends=True)]
        self._edits: list[tuple[int, int, str]] = []
        self.notes: list[tuple[int, str]] = []

    def offset(self, line: int, column: int) -> int:
        """The offset of a place as syntax trees give it: line from 1, column in bytes of UTF-8."""
        if line > len(self._lines):
            return len(self.source)
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode())

    def span(self, node: Any) -> tuple[int, int]:
        """Where a node begins and ends."""
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def source_of(self, node: ast.AST) -> str:
        """The text of a node as it was."""
        start, end = self.span(node)
        return self.source[start:end]

    def note(self, node: Any, text: str) -> None:
        """Record what could not be translated."""
        self.notes.append((node.lineno, text))

    def cut(self, start: int, end: int, text: str = "") -> None:
        """Replace a range."""
        self._edits.append((start, end, text))

    def replace(self, node: ast.AST, text: str) -> None:
        """Replace a node."""
        self.cut(*self.span(node), text)

    def insert(self, node: ast.AST, text: str) -> None:
        """Insert before a node."""
        start = self.span(node)[0]
        self.cut(start, start, text)

    def insert_after(self, node: ast.AST, text: str) -> None:
        """Insert after a node."""
        end = self.span(node)[1]
        self.cut(end, end, text)

    def function(self, call: ast.Call, text: str, chained: bool) -> None:
        """Replace the function's name of a call; chained: only the part after the last dot."""
        start, end = self.span(call.func)
        if chained and isinstance(call.func, ast.Attribute):
            start = end - len(call.func.attr)
        self.cut(start, end, text)

    def modifier(self, call: ast.Call, modifier: str) -> None:
        """Make ``x.unpack('l')`` ``x.l``; without a modifier, x."""
        assert isinstance(call.func, ast.Attribute)
        start = self.span(call.func.value)[1]
        self.cut(start, self.span(call)[1], f".{modifier}" if modifier else "")

    def rename_keyword(self, keyword: ast.keyword, name: str) -> None:
        """Give a keyword argument another name."""
        start = self.span(keyword)[0]
        self.cut(start, start + len(keyword.arg or ""), name)

    def append_argument(self, call: ast.Call, text: str) -> None:
        """Add an argument at the end of a call."""
        last = [self.span(each)[1] for each in (*call.args, *call.keywords)]
        at = max(last) if last else self.span(call)[1] - 1
        self.cut(at, at, f", {text}" if last else text)

    def drop_keyword(self, call: ast.Call, keyword: ast.keyword) -> None:
        """Remove a keyword argument and its comma."""
        start, end = self.span(keyword)
        before = [self.span(each)[1] for each in (*call.args, *call.keywords) if self.span(each)[1] <= start]
        if before:
            self.cut(max(before), end)
            return
        while end < len(self.source) and self.source[end] in ", ":
            end += 1
        self.cut(start, end)

    def replace_span(self, first: Any, last: Any, text: str, after: str) -> None:
        """Replace from the start of one node to the first `after` behind another."""
        start, end = self.span(first)[0], self.span(last)[1]
        self.cut(start, self.source.index(after, end) + len(after), text)

    def translated(self, visitor: _Visitor, node: ast.AST) -> str:
        """The text of a node after the visitor has translated it."""
        outer, self._edits = self._edits, []
        visitor.visit(node)
        inner, self._edits = self._edits, outer
        start, end = self.span(node)
        return _apply(self.source, start, end, inner)

    def result(self) -> str:
        """The whole text with all edits."""
        return _apply(self.source, 0, len(self.source), self._edits)


def _apply(source: str, start: int, end: int, edits: list[tuple[int, int, str]]) -> str:
    parts, at = [], start
    for low, high, text in sorted(edits, key=lambda each: each[:2]):
        if low < at:
            continue  # inside a range that is replaced as a whole
        parts += [source[at:low], text]
        at = high
    return "".join([*parts, source[at:end]])
