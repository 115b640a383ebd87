"""Kernels in pickles: their source with the names that it reaches, and what is compiled already."""

from __future__ import annotations
import __future__

import ast
import importlib
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qpu.errors import CompileError, UsageError
from qpu.lang import cache
from qpu.lang.source import Source

if TYPE_CHECKING:
    from qpu.lang.compiled import Compiled
    from qpu.lang.specialise import Special

__all__ = ["restore", "take"]

_FLAGS = __future__.annotations.compiler_flag


class _Packer:
    """Functions of a kernel as rows: text, place, and names with what they mean."""

    def __init__(self, root: Source) -> None:
        self.rows: list[dict[str, Any]] = []
        self.numbers: dict[int, int] = {}
        self.function(root)

    def function(self, source: Source) -> int:
        """The number of a function."""
        known = self.numbers.get(id(source.fn))
        if known is not None:
            return known
        number = self.numbers[id(source.fn)] = len(self.rows)
        tree = source.tree
        if not isinstance(tree, ast.FunctionDef):
            raise UsageError("a kernel that calls a lambda of a module cannot be pickled", help="write it as a def")
        lines = source.text.splitlines(True)[tree.lineno - 1 : tree.end_lineno]
        names: dict[str, Any] = {}
        row = {"name": tree.name, "text": "".join(lines), "file": source.file, "indent": source.indent,
               "first": source.first + tree.lineno - 1, "names": names}  # fmt: skip
        self.rows.append(row)
        for r in source.reached:
            if r.by.fn is source.fn and (r.holder is source.closure or r.holder is source.fn.__globals__):
                names[r.name] = self.value(r.value)
        return number

    def value(self, value: Any) -> tuple[str, Any]:
        """How the other side finds a value."""
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if isinstance(value, types.FunctionType) and not value.__module__.startswith("qpu."):
            try:
                return "function", self.function(Source.of(value))
            except CompileError:
                pass  # no source: by reference, where pickle can
        return "value", value


def take(source: Source, compiled: list[tuple[Special, Compiled]]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Rows of a kernel's functions, its own first, and entries of what is compiled."""
    entries: dict[str, bytes] = {}
    for special, made in compiled:
        key = cache.key_of(source, special)
        if key is not None:
            entries[key] = cache.pack(made, source)
    return _Packer(source).rows, entries


def restore(rows: list[dict[str, Any]], entries: dict[str, bytes]) -> Callable[..., None]:
    """The function of a kernel that `take` took apart."""
    made: list[Any] = []
    for row in rows:
        names: dict[str, Any] = {"__name__": row["name"]}
        code = compile("\n" * (row["first"] - 1) + row["text"], row["file"], "exec", flags=_FLAGS, dont_inherit=True)
        made.append((row, names, code))
    functions: list[Any] = [None] * len(rows)
    for n in reversed(range(len(made))):  # what is called before what calls it, for default values
        row, names, code = made[n]
        for name, (kind, value) in row["names"].items():
            if kind != "function":
                names[name] = importlib.import_module(value) if kind == "module" else value
        exec(code, names)
        functions[n] = names[row["name"]]
        tree = ast.parse(row["text"]).body[0]
        assert isinstance(tree, ast.FunctionDef)
        functions[n].__qpu_source__ = Source(functions[n], row["file"], row["text"], row["first"], row["indent"], tree)
    for row, names, _ in made:
        for name, (kind, value) in row["names"].items():
            if kind == "function":
                names[name] = functions[value]
    cache.remember(entries)
    first: Callable[..., None] = functions[0]
    return first
