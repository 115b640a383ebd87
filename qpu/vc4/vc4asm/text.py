"""Source text as lines and blocks, with the block structure of the directives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

__all__ = ["DIRECTIVE", "LABELS", "Block", "Lines", "Source", "strip_comment"]

Source: TypeAlias = tuple[str, str, int]
"""A source line: text, file, line number from 1."""

_LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines() splits at more characters than editors do
LABELS = re.compile(r"\s*(?:(::?)\s*(\w+)|(\w+):(?!:)|(:)(?=\s*(?:$|;)))")
"""A label definition at the start of a line: ``:name``, ``::name``, ``name:`` or a lone ``:``."""
DIRECTIVE = re.compile(r"\s*\.\s*([A-Za-z_]\w*)")

# directive -> kind of the block that it opens or closes
_OPENS = {"if": "if", "ifset": "if", "rep": "rep", "foreach": "foreach", "func": "func", "local": "local",
          "back": "back", "macro": "macro"}  # fmt: skip
_CLOSES = {"endif": "if", "endr": "rep", "endrep": "rep", "endfor": "foreach", "endf": "func", "endfunc": "func",
           "endloc": "local", "endb": "back", "endm": "macro"}  # fmt: skip
_BRANCHES = frozenset({"elseif", "elif", "else"})


def strip_comment(text: str) -> str:
    """The line without its comment; a ``#`` inside double quotes does not start one."""
    at = text.find("#")
    if at < 0:
        return text
    if '"' not in text[:at]:
        return text[:at]
    quoted = False
    for i, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == "#" and not quoted:
            return text[:i]
    return text


def _directive(text: str) -> str:
    """The name of the directive of a line, which may follow labels; empty when there is none."""
    if "." not in text:
        return ""
    text = strip_comment(text)
    match = DIRECTIVE.match(text)
    if match is None and ":" in text:
        start = 0
        label = LABELS.match(text)
        while label is not None:
            start = label.end()
            label = LABELS.match(text, start)
        match = DIRECTIVE.match(text, start)
    return match.group(1) if match else ""


class _Structure(NamedTuple):
    """The blocks of a file. ends: line that opens a block -> line that closes it.

    branches: line of an .if -> its .elseif, .else and .endif. nested: line of a .macro -> a .macro inside it.
    """

    ends: dict[int, int]
    branches: dict[int, list[int]]
    nested: dict[int, int]


class Lines:
    """The lines of one file."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    @classmethod
    def of(cls, text: str, file: str) -> Lines:
        """The lines of a text, which end with LF, CR LF or CR; a byte order mark is ignored."""
        return cls([(line, file, i) for i, line in enumerate(_LINE_END.split(text.removeprefix("\ufeff")), 1)])

    @property
    def whole(self) -> Block:
        """All lines."""
        return Block(self, 0, len(self.sources))

    @cached_property
    def structure(self) -> _Structure:
        """Blocks of the file, found in one pass. Blocks of different kinds are matched independently."""
        open_: dict[str, list[int]] = {kind: [] for kind in _OPENS.values()}
        ends: dict[int, int] = {}
        branches: dict[int, list[int]] = {}
        nested: dict[int, int] = {}
        ifs, macros = open_["if"], open_["macro"]
        for i, (text, _, _) in enumerate(self.sources):
            name = _directive(text)
            if not name:
                continue
            kind = _OPENS.get(name)
            if kind is not None:
                if kind == "macro":
                    for start in macros:
                        nested.setdefault(start, i)
                elif kind == "if":
                    branches[i] = []
                open_[kind].append(i)
            elif name in _BRANCHES:
                if ifs:
                    branches[ifs[-1]].append(i)
            elif name in _CLOSES and open_[_CLOSES[name]]:
                kind = _CLOSES[name]
                start = open_[kind].pop()
                ends[start] = i
                if kind == "if":
                    branches[start].append(i)
                elif kind == "macro":
                    ends.update(dict.fromkeys(macros, i))
                    macros.clear()
        return _Structure(ends, branches, nested)


class Block(NamedTuple):
    """The lines from `start` up to, not including, `stop`."""

    lines: Lines
    start: int
    stop: int

    def inner(self, opener: int) -> Block | None:
        """The block that line `opener` opens; None when it is not closed within this one."""
        end = self.lines.structure.ends.get(opener)
        return None if end is None or end >= self.stop else Block(self.lines, opener + 1, end)
