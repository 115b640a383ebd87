"""Translated V3D programs, kept between dispatches: when they are translated, and the metadata of their code."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.emu.engine.host_cpu import Host, host
from qpu.emu.engine.memory import Memory
from qpu.emu.engine.native import Interrupted, Library, NativeCode, NativeProgram
from qpu.emu.v3d.dispatch import Dispatch
from qpu.emu.v3d.translate import translate
from qpu.emu.v3d.translate_graph import Fetch, explore
from qpu.emu.v3d.translate_state import CHAIN_COUNTS, Node, Untranslatable
from qpu.emu.v3d.translate_tmu import library

__all__ = ["Program", "fetcher", "program_at"]

MAX_PROGRAMS = 256
_HEAD = 4  # instructions of a program that select its list of candidates


class _Kind(NamedTuple):
    isa: Isa
    single_segment: bool
    strict: bool
    registers: int
    host: Host


def fetcher(memory: Memory, code: int) -> Fetch:
    """A function that reads the word of an instruction from memory, as memory is at the time of the call."""
    words = memory.bytes.view(np.uint64)

    def fetch(index: int) -> int | None:
        address = (code + 8 * index) & 0xFFFFFFFF
        if address >= memory.size or not memory.pages[address >> 12]:
            return None
        return int(words[address >> 3])

    return fetch


@cache
def _library(isa: Isa, host: Host) -> Library:
    return Library(f"library {isa.name} {host.avx512}".encode(), lambda: library(isa, host.avx512))


class Program(NativeProgram):
    """A translated program: machine code, entry points and static counts of its chains.

    refused: why the program runs on the reference engine instead; else empty.
    """

    HOT = 300_000

    def __init__(self, kind: _Kind, fetch: Fetch) -> None:
        super().__init__()
        self.kind = kind
        self.library = _library(kind.isa, kind.host)
        self.nodes: list[Node] = [Node(0)]
        self.stats: NDArray[np.int64] = np.zeros((1, len(CHAIN_COUNTS)), np.int64)  # by counter, by field
        self.needs: dict[int, list[tuple[str, int]]] = {}
        self.rules: list[tuple[str, str]] = []
        self.lockstep = self.split = False
        self.calls = 0
        self.rounds: Any = None
        self.refused = ""
        self._refused: dict[Node, str] = {}
        try:
            self.build(fetch)
        except Untranslatable as reason:
            self.refused = str(reason)

    def build(self, fetch: Fetch) -> None:
        """Translate from all known entry nodes; existing entry numbers stay valid. Raises: Untranslatable."""
        kind = self.kind
        words, _ = explore(kind.isa, fetch, [n.at for n in self.nodes])
        self._covers(words)
        nodes = list(self.nodes)
        identity = repr((nodes, *kind, sorted(words.items()))).encode()
        seen = dict[int, int | None](words)  # the memory may change until the translation is improved

        def look(at: int) -> int | None:
            if at not in seen:
                seen[at] = fetch(at)
            return seen[at]

        def make() -> tuple[object, dict[str, Any]]:
            made = translate(
                kind.isa,
                look,
                nodes,
                single_segment=kind.single_segment,
                strict=kind.strict,
                registers=kind.registers,
                avx512=kind.host.avx512,
            )
            entries = sorted(made.entries, key=made.entries.__getitem__)
            return made.module, {
                "stats": made.stats,
                "entries": [list(n) for n in entries],
                "needs": [[n, found] for n, found in made.needs.items()],
                "rules": made.rules,
                "reached": made.reached,
                "lockstep": made.lockstep,
                "split": made.split,
            }

        meta = self._build(identity, make)
        self.stats = np.array(meta["stats"], np.int64).reshape(-1, len(CHAIN_COUNTS))
        self.nodes = [Node.of(n) for n in meta["entries"]]
        self.needs = {n: [(kind, index) for kind, index in found] for n, found in meta["needs"]}
        self.rules = [(rule, message) for rule, message in meta["rules"]]
        self.lockstep = bool(meta["lockstep"])
        self.split = bool(meta["split"])
        self.size = len(meta["reached"])
        self._covers({at: look(at) for at in meta["reached"]})

    def _bind(self, code: NativeCode) -> None:
        pointer, wide = ctypes.c_void_p, ctypes.c_int64
        types = [pointer, wide, *[pointer] * 6, wide, pointer]
        self.run = code.function(None, *types)
        self.rounds = code.function(None, *types, name="rounds")

    def _covers(self, words: Mapping[int, int | None]) -> None:
        """Record the words that the translation depends on. A program that runs out of all buffers is never reused."""
        self.known = all(word is not None for word in words.values())
        self._at = np.array(list(words), np.int64)
        self._words = np.array([word or 0 for word in words.values()], np.uint64)
        straight = bool((self._at == np.arange(len(words))).all())
        self._bytes = self._words.tobytes() if straight else b""  # the whole program, if it has no gap

    def covers(self, memory: Memory, code: int) -> bool:
        """Whether the program at an address has the same words."""
        size = len(self._bytes)
        if size and self.known and code + size <= memory.size:
            pages = memory.pages[code >> 12 : (code + size - 1 >> 12) + 1]
            return np.count_nonzero(pages) == len(pages) and memory.bytes[code : code + size].tobytes() == self._bytes
        at = (code + 8 * self._at & 0xFFFFFFFF) >> 3
        if not self.known or (at >= memory.size >> 3).any() or not memory.pages[at >> 9].all():
            return False
        return bool((memory.bytes.view(np.uint64)[at] == self._words).all())

    def number(self, node: Node, fetch: Fetch) -> int:
        """The entry number of a node that was found at run time. Raises: Untranslatable."""
        if node in self._refused:
            raise Untranslatable(self._refused[node])
        if node not in self.nodes:
            self.nodes.append(node)
            try:
                self.build(fetch)
            except Untranslatable as reason:
                self.nodes.remove(node)
                self._refused[node] = str(reason)
                raise
            except Interrupted as reason:
                self.nodes.remove(node)
                raise Untranslatable(str(reason)) from None
        return self.nodes.index(node)


_PROGRAMS: dict[tuple[_Kind, tuple[int | None, ...]], list[Program]] = {}


def program_at(memory: Memory, dispatch: Dispatch, isa: Isa, *, strict: bool) -> Program:
    """The program of a dispatch. Raises: Untranslatable."""
    kind = _Kind(isa, dispatch.single_segment, strict, 32 if dispatch.threads == 4 else 64, host())
    fetch = fetcher(memory, dispatch.code)
    alike = _PROGRAMS.setdefault((kind, tuple(fetch(i) for i in range(_HEAD))), [])
    found = next((p for p in alike if p.covers(memory, dispatch.code)), None)
    if found is None:
        if sum(map(len, _PROGRAMS.values())) >= MAX_PROGRAMS:
            _PROGRAMS.clear()
        try:
            found = Program(kind, fetch)
        except Interrupted as reason:
            raise Untranslatable(str(reason)) from None  # the next dispatch tries again
        _PROGRAMS.setdefault((kind, tuple(fetch(i) for i in range(_HEAD))), []).append(found)
    if found.refused:
        raise Untranslatable(found.refused)
    return found
