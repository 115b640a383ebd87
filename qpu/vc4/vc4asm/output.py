"""The output of one pass: words, data, labels, and branches to labels that are not yet resolved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

from qpu.errors import Loc, counted
from qpu.vc4.encode import NOP_WORD, encode
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.operands import BranchTarget, Operation
from qpu.vc4.vc4asm.text import Source
from qpu.vc4.vc4asm.values import Key

__all__ = ["Locs", "Output"]


class Locs(Sequence[Loc]):
    """The source location of every word; a sequence that makes `Loc` objects on demand."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Sequence[Source]) -> None:
        self._lines = tuple(lines)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Loc: ...
    @overload
    def __getitem__(self, index: slice) -> Locs: ...
    def __getitem__(self, index: int | slice) -> Loc | Locs:
        if isinstance(index, slice):
            return Locs(self._lines[index])
        text, file, line = self._lines[index]
        return Loc(file, line, None, text)

    def __iter__(self) -> Iterator[Loc]:
        return (Loc(file, line, None, text) for text, file, line in self._lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Locs) and self._lines == other._lines

    def __hash__(self) -> int:
        return hash(self._lines)


class Output:
    """Words in order, each with its source line and whether it is code."""

    __slots__ = ("fixups", "is_code", "joinable", "labels", "region", "tail", "tail_bits", "where", "words")

    def __init__(self) -> None:
        self.words: list[int] = []
        self.where: list[Source] = []
        self.is_code = bytearray()
        self.labels: dict[Key, int] = {}
        self.fixups: dict[int, BranchTarget] = {}
        self.joinable: dict[int, Sequence[Operation]] = {}  # instructions that ended with a semicolon
        self.tail = 0  # bits of the last data word, which is not full
        self.tail_bits = 0
        self.region: bool | None = (
            None  # None: instructions are code and data is data; True, False: all is code, all is data
        )

    @property
    def offset(self) -> int:
        """The current byte offset."""
        return len(self.words) * 8 + (self.tail_bits + 7) // 8

    def word(self, word: int, source: Source, target: BranchTarget | None = None) -> bool:
        """Append an instruction; returns whether unaligned data had to be padded first."""
        padded = self.tail_bits != 0
        if padded:
            self.flush(source)
        if target is not None:
            self.fixups[len(self.words)] = target
        self.words.append(word)
        self.where.append(source)
        self.is_code.append(self.region is not False)
        return padded

    def seal(self) -> None:
        """Let no later operation join the last instruction."""
        self.joinable.pop(len(self.words) - 1, None)

    def data(self, value: int, bits: int, source: Source) -> None:
        """Append the low `bits` bits of `value`, little-endian."""
        self.seal()
        if bits >= 8 and self.tail_bits % 8:
            self.tail_bits += -self.tail_bits % 8
            self._spill(source)
        self.tail |= (value & ((1 << bits) - 1)) << self.tail_bits
        self.tail_bits += bits
        self._spill(source)

    def _spill(self, source: Source) -> None:
        while self.tail_bits >= 64:
            self.words.append(self.tail & 0xFFFFFFFFFFFFFFFF)
            self.where.append(source)
            self.is_code.append(self.region is True)
            self.tail >>= 64
            self.tail_bits -= 64

    def flush(self, source: Source) -> None:
        """Fill the data word with zeros."""
        if self.tail_bits:
            self.tail_bits = 64
            self._spill(source)

    def align(self, to: int, base: int, source: Source) -> None:
        """Pad until the distance from `base` is a multiple of `to`: zeros inside a word, then nop words."""
        self.seal()
        self.tail_bits += -self.tail_bits % 8
        while (self.offset - base) % to and self.offset % 8:
            self.data(0, 8, source)
        if (self.offset - base) % to and (base - self.offset) % 8:
            while (self.offset - base) % to:
                self.data(0, 8, source)
        while (self.offset - base) % to:
            self.word(NOP_WORD, source)

    def label(self, key: Key) -> None:
        """Define a label here."""
        self.seal()
        self.tail_bits += -self.tail_bits % 8
        self.labels[key] = self.offset

    def cut(self, n: int) -> Cut:
        """Remove the last `n` words, so that others can be written before them; `Cut.restore` appends them."""
        if self.tail_bits:
            raise Fault("back", "unaligned data precedes .back")
        if n > len(self.words):
            raise Fault("back", f"there are only {counted(len(self.words), 'instruction')} to go back")
        return Cut(self, len(self.words) - n)

    def resolve(self) -> None:
        """Patch the branches to labels that are defined. Branches to undefined labels stay as they are."""
        for index, target in self.fixups.items():
            label = target.label
            address = self.labels.get(label.key)
            if address is None:
                continue
            branch = target.branch
            to = branch.imm + address + label.addend - (index * 8 + 32 if branch.rel else 0)
            self.words[index] = encode(replace(branch, imm=to & 0xFFFFFFFF))

    def ranges(self, code: bool) -> tuple[tuple[int, int], ...]:
        """Runs of code (or data) as (first word, past the last word)."""
        runs: list[tuple[int, int]] = []
        start = -1
        for i, flag in enumerate(self.is_code):
            if bool(flag) == code:
                start = i if start < 0 else start
            elif start >= 0:
                runs.append((start, i))
                start = -1
        if start >= 0:
            runs.append((start, len(self.is_code)))
        return tuple(runs)


class Cut:
    """Words that `Output.cut` removed."""

    __slots__ = ("_at", "_fixups", "_flags", "_labels", "_out", "_where", "_words")

    def __init__(self, out: Output, at: int) -> None:
        self._out, self._at = out, at
        self._words, self._where, self._flags = out.words[at:], out.where[at:], out.is_code[at:]
        del out.words[at:], out.where[at:], out.is_code[at:]
        self._fixups = {i: t for i, t in out.fixups.items() if i >= at}
        for i in self._fixups:
            del out.fixups[i]
        for i in range(at, at + len(self._words)):
            out.joinable.pop(i, None)
        # A label at the cut stays where it is; labels after it move with their instructions.
        self._labels = [key for key, offset in out.labels.items() if offset > at * 8]

    def restore(self, source: Source) -> None:
        """Append the words to what was written meanwhile."""
        out = self._out
        out.flush(source)
        by = len(out.words) - self._at
        out.words += self._words
        out.where += self._where
        out.is_code += self._flags
        for i, target in self._fixups.items():
            out.fixups[i + by] = target
        for key in self._labels:
            out.labels[key] += by * 8
